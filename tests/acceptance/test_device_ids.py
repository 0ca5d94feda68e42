"""Every id comes through every door as it is."""

from __future__ import annotations

import csv
import io
import json
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import grpc
import pytest
from energyfleet.v1 import analytics_service_pb2 as analytics_wire
from energyfleet.v1 import ingestion_service_pb2 as wire
from energyfleet.v1.ingestion_service_pb2_grpc import IngestionServiceStub

import ingestion_svc.__main__
from fleetcli.__main__ import main
from shared.config import IngestionSettings
from shared.exporter import own_registry
from shared.timestamps import US_PER_HOUR, US_PER_SECOND, iso_from_us, proto_from_us
from tests.acceptance.test_cli_up import an_environment, energyfleet, up
from tests.acceptance.test_exchange import request, until_acknowledged
from tests.builders import NOW_US, UNUSUAL_IDS, a_meter_reading, a_vehicle_reading, clock
from tests.verified import differences

if TYPE_CHECKING:  # in the stubs' types only
    from energyfleet.v1.analytics_service_pb2_grpc import AnalyticsServiceAsyncStub
    from energyfleet.v1.ingestion_service_pb2_grpc import IngestionServiceAsyncStub
    from energyfleet.v1.telemetry_pb2 import Telemetry

    from shared.db.embedded import EmbeddedServer

IN_ORDER = sorted(UNUSUAL_IDS)
FROM_US = NOW_US - US_PER_HOUR


def readings(ts_us: int = NOW_US, kwh: float = 1.0) -> list[Telemetry]:
    """Of a meter and a vehicle with each id: so much drawn, and 0.875 of it delivered."""
    return [a_meter_reading(each, ts_us, kwh) for each in UNUSUAL_IDS] + [
        a_vehicle_reading(each, ts_us, 0.875 * kwh) for each in UNUSUAL_IDS
    ]


@pytest.fixture
async def fleet(ingest: IngestionServiceAsyncStub) -> None:
    """The meter with each id feeds the vehicle with the same."""
    await ingest.IngestTelemetry(wire.IngestTelemetryRequest(readings=readings()))
    for each in UNUSUAL_IDS:
        await ingest.MapVehicle(a_mapping(each, each))


def a_mapping(vehicle_id: str, meter_id: str, from_us: int = FROM_US) -> wire.MapVehicleRequest:
    return wire.MapVehicleRequest(vehicle_id=vehicle_id, meter_id=meter_id, effective_from=proto_from_us(from_us))


async def message_of(call: grpc.aio.UnaryUnaryCall[Any, Any]) -> str | None:
    """What a call that fails is told."""
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await call
    return raised.value.details()


async def test_readings_come_in_by_each_rpc(ingest: IngestionServiceAsyncStub, database_url: str) -> None:
    unary = await ingest.IngestTelemetry(wire.IngestTelemetryRequest(readings=readings()))
    assert unary.summary.stored == 2 * len(UNUSUAL_IDS)
    stream = ingest.StreamTelemetry(None)
    await stream.write(wire.StreamTelemetryRequest(readings=readings()))
    await stream.done_writing()
    assert (await stream).summary.duplicate == 2 * len(UNUSUAL_IDS)
    for each in UNUSUAL_IDS:
        exchange: Any = ingest.ExchangeTelemetry(None)
        opening = wire.ExchangeOpening(meter_id=each, vehicle_id=each)
        await exchange.write(wire.ExchangeTelemetryRequest(opening=opening))
        opened = (await exchange.read()).opened
        assert opened.newest_meter_timestamp == opened.newest_vehicle_timestamp == proto_from_us(NOW_US)
        await exchange.write(request(1, a_meter_reading(each, kwh_consumed_ac=9.0)))
        [answer] = await until_acknowledged(exchange, 1)
        assert [conflict.device_id for conflict in answer.summary.conflicts] == [each]
        await exchange.done_writing()
    assert await differences(database_url) == []


@pytest.mark.usefixtures("fleet")
async def test_mappings_are_listed_contradicted_and_taken_back(ingest: IngestionServiceAsyncStub) -> None:
    listed, token = [], ""
    while True:
        page = await ingest.ListMappings(wire.ListMappingsRequest(page_size=1, page_token=token))
        listed += [(each.vehicle_id, each.meter_id) for each in page.mappings]
        token = page.next_page_token
        if not token:
            break
    assert listed == [(each, each) for each in IN_ORDER]
    for each in UNUSUAL_IDS:
        for question in (wire.ListMappingsRequest(vehicle_id=each), wire.ListMappingsRequest(meter_id=each)):
            [found] = (await ingest.ListMappings(question)).mappings
            assert (found.vehicle_id, found.meter_id) == (each, each)
        told = await message_of(ingest.MapVehicle(a_mapping(each, "m-1", FROM_US - 1)))
        assert told is not None
        assert told.startswith(f"{each} is fed by m-1 from ")
        assert f"registered: {each} is fed by {each} from {iso_from_us(FROM_US)} on" in told
        [removed] = (await ingest.UnmapVehicle(wire.UnmapVehicleRequest(vehicle_id=each))).removed
        assert (removed.vehicle_id, removed.meter_id) == (each, each)


@pytest.mark.usefixtures("fleet")
async def test_every_question_of_analytics_is_answered(ask: AnalyticsServiceAsyncStub) -> None:
    for each in UNUSUAL_IDS:
        answer = await ask.GetVehiclePerformance(analytics_wire.GetVehiclePerformanceRequest(vehicle_id=each))
        assert (answer.vehicle_id, answer.efficiency_ratio) == (each, 0.875)
        assert [feeding.meter_id for feeding in answer.evidence.mappings] == [each]
        series = await ask.GetPerformanceSeries(analytics_wire.GetPerformanceSeriesRequest(vehicle_id=each))
        assert (series.vehicle_id, series.buckets[-1].kwh_delivered_dc) == (each, 0.875)
        vehicle = await ask.GetVehicleStatus(analytics_wire.GetVehicleStatusRequest(vehicle_id=each))
        meter = await ask.GetMeterStatus(analytics_wire.GetMeterStatusRequest(meter_id=each))
        assert {vehicle.vehicle_id, vehicle.reading.vehicle_id, meter.meter_id, meter.reading.meter_id} == {each}
        unknown = f"{each[:60]} too"
        told = await message_of(
            ask.GetVehiclePerformance(analytics_wire.GetVehiclePerformanceRequest(vehicle_id=unknown))
        )
        assert told == f"vehicle {unknown} is unknown: it has sent no reading and is in no mapping"
    batch = await ask.BatchGetStatus(
        analytics_wire.BatchGetStatusRequest(vehicle_ids=UNUSUAL_IDS, meter_ids=UNUSUAL_IDS[::-1])
    )
    assert [each.reading.vehicle_id for each in batch.vehicles] == [*UNUSUAL_IDS]
    assert [each.reading.meter_id for each in batch.meters] == [*UNUSUAL_IDS[::-1]]


@pytest.mark.usefixtures("fleet")
@pytest.mark.parametrize("named", [False, True], ids=["the whole fleet", "by id"])
async def test_the_list_has_each_id_once_and_in_order(named: bool, ask: AnalyticsServiceAsyncStub) -> None:
    unknown = [f"{each[:60]} too" for each in UNUSUAL_IDS]
    question = analytics_wire.ListVehiclePerformanceRequest(
        page_size=5, vehicle_ids=[*UNUSUAL_IDS, *unknown] if named else []
    )
    listed: list[str] = []
    while True:
        page = await ask.ListVehiclePerformance(question)
        listed += [each.vehicle_id for each in page.vehicles]
        assert list(page.unknown_vehicle_ids) == (sorted(unknown) if named else [])
        if not page.next_page_token:
            break
        question.page_token = page.next_page_token
    assert listed == IN_ORDER


async def test_clock_evidence_is_kept_by_id_and_no_metric_is(
    postgres: EmbeddedServer, database: str, ask: AnalyticsServiceAsyncStub
) -> None:
    settings = IngestionSettings(
        database_url=postgres.url(database, role="energyfleet_ingestion"), ingestion_address="127.0.0.1:0"
    )
    registry = own_registry()
    async with (
        ingestion_svc.__main__.serving(settings, clock, registry) as (_, address),
        grpc.aio.insecure_channel(address) as channel,
    ):
        stub = IngestionServiceStub(channel)
        for seconds_ahead in (0, 600):
            sent = readings(NOW_US + seconds_ahead * US_PER_SECOND)
            await stub.IngestTelemetry(wire.IngestTelemetryRequest(readings=sent))
        labels = {label for metric in registry.collect() for each in metric.samples for label in each.labels.values()}
    assert labels.isdisjoint(UNUSUAL_IDS)
    batch = await ask.BatchGetStatus(
        analytics_wire.BatchGetStatusRequest(vehicle_ids=UNUSUAL_IDS, meter_ids=UNUSUAL_IDS)
    )
    devices: list[Any] = [*batch.vehicles, *batch.meters]
    assert [each.clock.future_readings for each in devices] == [1] * 2 * len(UNUSUAL_IDS)


async def test_ids_that_differ_only_in_case_are_devices_of_their_own_and_hint_at_each_other(
    ingest: IngestionServiceAsyncStub, ask: AnalyticsServiceAsyncStub
) -> None:
    known = ["EV-1", "Ev-1", "ev-1"]
    sent = [a_vehicle_reading(each, kwh_delivered_dc=1.0 + at) for at, each in enumerate(known)]
    await ingest.IngestTelemetry(wire.IngestTelemetryRequest(readings=sent))
    await ingest.MapVehicle(a_mapping("ev-1", "M-1"))
    await ingest.MapVehicle(a_mapping("Ev-1", "m-1"))
    for at, each in enumerate(known):
        others = [other for other in known if other != each]
        answer = await ask.GetVehiclePerformance(analytics_wire.GetVehiclePerformanceRequest(vehicle_id=each))
        assert (answer.kwh_delivered_dc, list(answer.evidence.similar_vehicle_ids)) == (1.0 + at, others)
        status = await ask.GetVehicleStatus(analytics_wire.GetVehicleStatusRequest(vehicle_id=each))
        assert status.similar_ids == others
    meter = await ask.GetMeterStatus(analytics_wire.GetMeterStatusRequest(meter_id="m-1"))
    assert meter.similar_ids == ["M-1"]

    batch = await ask.BatchGetStatus(
        analytics_wire.BatchGetStatusRequest(vehicle_ids=["eV-1", "M-1", "EV-1"], meter_ids=["m-1", "EV-1"])
    )
    assert [list(each.similar_ids) for each in batch.vehicles] == [known, [], known[1:]]
    assert [list(each.similar_ids) for each in batch.meters] == [["M-1"], []]

    unknown = "vehicle eV-1 is unknown: it has sent no reading and is in no mapping; EV-1, Ev-1, ev-1 are known"
    for call in (
        ask.GetVehiclePerformance(analytics_wire.GetVehiclePerformanceRequest(vehicle_id="eV-1")),
        ask.GetPerformanceSeries(analytics_wire.GetPerformanceSeriesRequest(vehicle_id="eV-1")),
        ask.GetVehicleStatus(analytics_wire.GetVehicleStatusRequest(vehicle_id="eV-1")),
    ):
        assert await message_of(call) == unknown
    await ingest.MapVehicle(a_mapping("car-1", "n-1"))
    told = await message_of(ask.GetMeterStatus(analytics_wire.GetMeterStatusRequest(meter_id="N-1")))
    assert told == "meter N-1 is unknown: it has sent no reading and is in no mapping; n-1 is known"


def run(capsys: pytest.CaptureFixture[str], *arguments: str, code: int = 0) -> Any:
    """What a command printed that ended with an exit code."""
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    printed = capsys.readouterr()
    assert ended.value.code == code, printed.err
    return printed


def test_every_id_can_be_given_to_the_commands_and_is_printed(
    tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    directory = tmp_path_factory.mktemp("up")
    file = directory / "readings.csv"
    with file.open("w", newline="") as written:
        table = csv.writer(written)
        table.writerow(("meterId", "vehicleId", "timestamp", "kwhConsumedAc", "kwhDeliveredDc"))
        table.writerows((each, "", "2026-02-09T10:00:00Z", 1.0, "") for each in UNUSUAL_IDS)
        table.writerows(("", each, "2026-02-09T10:00:00Z", "", 0.875) for each in UNUSUAL_IDS)

    with up(directory) as running:
        environment = an_environment(
            directory, INGESTION_ADDRESS=running.address("ingestion"), ANALYTICS_ADDRESS=running.address("analytics")
        )
        pairs = [f"--map={each}={each}" for each in UNUSUAL_IDS if "=" not in each]
        replayed = energyfleet("replay", str(file), "--ending", "now", *pairs, environment=environment)
        assert replayed.returncode == 0, replayed.stderr
        assert f"{2 * len(UNUSUAL_IDS)} stored" in replayed.stdout
        for variable in ("ENERGYFLEET_INGESTION_ADDRESS", "ENERGYFLEET_ANALYTICS_ADDRESS"):
            monkeypatch.setenv(variable, environment[variable])
        hour_ago = f"{datetime.now(UTC) - timedelta(hours=1):%Y-%m-%dT%H:%M:%SZ}"

        def said(*arguments: str) -> str:
            return str(run(capsys, *arguments).out)

        for each in UNUSUAL_IDS:
            if "=" in each:
                assert said("map", "--from", hour_ago, "--", each, each).startswith(f"{each} is fed by {each} from ")
            answer = json.loads(said("performance", "--json", "--", each))
            assert (answer["vehicleId"], answer["efficiencyRatio"]) == (each, 0.875)
            printed = said("status", "--", each).splitlines()
            assert {f"vehicle {each}", f"meter {each}"} <= {line.rstrip() for line in printed}
        rows = csv.DictReader(io.StringIO(said("fleet", "--csv", *(f"--vehicle={each}" for each in UNUSUAL_IDS))))
        assert [row["vehicle_id"] for row in rows] == IN_ORDER
        for each in UNUSUAL_IDS:
            assert f"no longer: {each} is fed by {each} from " in said("unmap", "--", each)


def test_commands_warn_where_only_case_tells_ids_apart(
    tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    directory = tmp_path_factory.mktemp("up")

    def told(*arguments: str, code: int = 0) -> str:
        return str(run(capsys, *arguments, code=code).err)

    with up(directory) as running:
        for service in ("ingestion", "analytics"):
            monkeypatch.setenv(f"ENERGYFLEET_{service.upper()}_ADDRESS", running.address(service))
        vehicle = "A vehicle EV-1 is known: only case tells it from ev-1.\n"
        assert told("map", "EV-1", "M-1") == ""
        assert told("map", "ev-1", "m-1") == f"{vehicle}A meter M-1 is known: only case tells it from m-1.\n"
        assert told("performance", "ev-1", "--json") == vehicle
        assert told("status", "ev-1") == vehicle
        assert told("status", "eV-1", code=1).splitlines() == [
            "A vehicle EV-1 is known: only case tells it from eV-1.",
            "A vehicle ev-1 is known: only case tells it from eV-1.",
            "eV-1 is unknown, neither a vehicle nor a meter",
        ]
        monkeypatch.setenv("ENERGYFLEET_ANALYTICS_ADDRESS", "127.0.0.1:1")
        assert told("map", "Ev-1", "m-2") == ""
