"""The analytics service as its callers see it: a real channel to a real server on a free port."""

from collections.abc import AsyncIterator, Iterable, Iterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, cast

import grpc
import psycopg
import pytest
import pytest_asyncio
from energyfleet.v1 import analytics_service_pb2 as wire
from energyfleet.v1.analytics_service_pb2_grpc import AnalyticsServiceStub
from google.protobuf.duration_pb2 import Duration
from google.rpc import error_details_pb2, status_pb2
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from analytics_svc.__main__ import NAME, serving
from shared.config import AnalyticsSettings
from shared.db.embedded import EmbeddedServer
from shared.serve import Service
from shared.status import STATUS_DETAILS_KEY
from shared.timestamps import US_PER_DAY, US_PER_HOUR, datetime_from_us, proto_from_us, system_clock, us_from_proto
from tests.integration.test_analytics_queries import MIDNIGHT_US, MINUTE_US, Rows

if TYPE_CHECKING:
    from energyfleet.v1.analytics_service_pb2_grpc import AnalyticsServiceAsyncStub

NOW_US = MIDNIGHT_US
"""What the service's clock says."""

RPCS = (
    "GetVehiclePerformance",
    "ListVehiclePerformance",
    "GetPerformanceSeries",
    "ListChargingSessions",
    "GetVehicleStatus",
    "GetMeterStatus",
    "BatchGetStatus",
)

STALE_AFTER = Duration(seconds=600)


@pytest.fixture
def rows(database_url: str) -> Iterator[Rows]:
    with psycopg.connect(database_url, autocommit=True) as connection:
        yield Rows(connection)


@asynccontextmanager
async def running(postgres: EmbeddedServer, database: str) -> AsyncIterator[tuple[Service, grpc.aio.Channel]]:
    settings = AnalyticsSettings(
        database_url=postgres.url(database, role="energyfleet_analytics"),
        analytics_address="127.0.0.1:0",
        health_interval_s=0.02,
        pool_size=3,
        stale_after_s=STALE_AFTER.seconds,
    )
    async with serving(settings, lambda: NOW_US) as (service, address), grpc.aio.insecure_channel(address) as channel:
        yield service, channel


@pytest_asyncio.fixture
async def channel(postgres: EmbeddedServer, database: str) -> AsyncIterator[grpc.aio.Channel]:
    async with running(postgres, database) as (_, channel):
        yield channel


@pytest.fixture
def stub(channel: grpc.aio.Channel) -> "AnalyticsServiceAsyncStub":
    return AnalyticsServiceStub(channel)


async def error_of(call: grpc.aio.UnaryUnaryCall[Any, Any]) -> grpc.aio.AioRpcError:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    return caught.value


def details_of(error: grpc.aio.AioRpcError) -> status_pb2.Status | None:
    for key, value in cast(Iterable[tuple[str, str | bytes]], error.trailing_metadata() or ()):
        if key == STATUS_DETAILS_KEY:
            assert isinstance(value, bytes)
            return status_pb2.Status.FromString(value)
    return None


def a_night_at(rows: Rows, ratio: float) -> None:
    """`car` charged from `meter` in the last ten hours, a reading a minute: 0.125 kWh drawn each."""
    car, meter = rows.vehicle("car"), rows.meter("meter")
    rows.mapping(car, meter, NOW_US - US_PER_DAY)
    minutes = [NOW_US - i * MINUTE_US for i in range(600)]
    rows.consumed(meter, *((ts_us, 0.125) for ts_us in minutes))
    rows.delivered(car, *((ts_us, 0.125 * ratio, 25.0) for ts_us in minutes))


async def test_a_worn_charger_is_an_alert_over_the_last_24_hours(rows: Rows, stub: "AnalyticsServiceAsyncStub") -> None:
    a_night_at(rows, 0.75)
    answer = await stub.GetVehiclePerformance(wire.GetVehiclePerformanceRequest(vehicle_id="car"))
    assert answer.window == wire.TimeWindow(start=proto_from_us(NOW_US - US_PER_DAY), end=proto_from_us(NOW_US))
    assert (answer.kwh_delivered_dc, answer.kwh_consumed_ac) == (56.25, 75.0)
    assert (answer.efficiency_ratio, answer.kwh_lost) == (0.75, 18.75)
    assert (answer.vehicle_readings, answer.meter_readings) == (600, 600)
    assert (answer.average_battery_temp, answer.coverage) == (25.0, 1.0)
    assert answer.verdict == wire.VERDICT_LOW_EFFICIENCY
    assert "75.0 %" in answer.verdict_reason
    assert "18.750 kWh" in answer.alert


async def test_every_answer_says_up_to_when_it_is_complete(rows: Rows, stub: "AnalyticsServiceAsyncStub") -> None:
    rows.mapping(rows.vehicle("car"), rows.meter("meter"), NOW_US)
    asked_us = system_clock()
    for answer in (
        await stub.GetVehiclePerformance(wire.GetVehiclePerformanceRequest(vehicle_id="car")),
        await stub.GetVehicleStatus(wire.GetVehicleStatusRequest(vehicle_id="car")),
        await stub.GetMeterStatus(wire.GetMeterStatusRequest(meter_id="meter")),
    ):
        assert asked_us <= us_from_proto(answer.as_of) <= system_clock()


async def test_a_healthy_charger_is_ok_in_a_window_of_ones_own(rows: Rows, stub: "AnalyticsServiceAsyncStub") -> None:
    a_night_at(rows, 0.875)
    window = wire.TimeWindow(start=proto_from_us(NOW_US - 5 * US_PER_HOUR), end=proto_from_us(NOW_US - US_PER_HOUR))
    answer = await stub.GetVehiclePerformance(wire.GetVehiclePerformanceRequest(vehicle_id="car", window=window))
    assert answer.window == window
    assert (answer.meter_readings, answer.kwh_consumed_ac) == (240, 30.0)
    assert (answer.verdict, answer.alert) == (wire.VERDICT_OK, "")


async def test_of_many_mappings_the_last_hundred_are_told_and_all_are_counted(
    rows: Rows, stub: "AnalyticsServiceAsyncStub"
) -> None:
    car, meter = rows.vehicle("car"), rows.meter("meter")
    starts = [NOW_US - i * MINUTE_US for i in range(120, 0, -1)]
    for start_us in starts:
        rows.mapping(car, meter, start_us, start_us + MINUTE_US)
    rows.consumed(meter, *((start_us + MINUTE_US, 0.5) for start_us in starts))
    answer = await stub.GetVehiclePerformance(wire.GetVehiclePerformanceRequest(vehicle_id="car"))
    assert (answer.meter_readings, answer.evidence.mapping_count) == (120, 120)
    assert [each.window.start for each in answer.evidence.mappings] == [proto_from_us(us) for us in starts[-100:]]
    assert {(each.kwh_consumed_ac, each.meter_readings) for each in answer.evidence.mappings} == {(0.5, 1)}


async def test_a_known_vehicle_without_a_meter_is_an_answer(rows: Rows, stub: "AnalyticsServiceAsyncStub") -> None:
    rows.delivered(rows.vehicle("car"), (NOW_US, 1.0))
    answer = await stub.GetVehiclePerformance(wire.GetVehiclePerformanceRequest(vehicle_id="car"))
    assert answer.verdict == wire.VERDICT_NO_METER
    assert answer.kwh_delivered_dc == 1.0
    for absent in ("kwh_consumed_ac", "efficiency_ratio", "kwh_lost", "average_battery_temp"):
        assert not answer.HasField(absent), absent


async def test_the_status_is_the_newest_reading_with_its_age(rows: Rows, stub: "AnalyticsServiceAsyncStub") -> None:
    taken, ahead = datetime_from_us(NOW_US - 1_500_000), datetime_from_us(NOW_US + 1_500_000)
    rows.connection.execute(
        "INSERT INTO vehicle_current_status (vehicle_key, ts, hour_start, kwh_delivered_dc, soc, battery_temp)"
        " VALUES (%s, %s, %s, 0.5, 0, 21.5)",
        (rows.vehicle("car"), taken, taken),
    )
    rows.connection.execute(
        "INSERT INTO meter_current_status (meter_key, ts, hour_start, kwh_consumed_ac) VALUES (%s, %s, %s, 0)",
        (rows.meter("meter"), ahead, ahead),
    )

    vehicle = await stub.GetVehicleStatus(wire.GetVehicleStatusRequest(vehicle_id="car"))
    assert (vehicle.vehicle_id, vehicle.reading.vehicle_id) == ("car", "car")
    assert vehicle.reading.HasField("soc")
    assert (vehicle.reading.soc, vehicle.reading.kwh_delivered_dc, vehicle.reading.battery_temp) == (0.0, 0.5, 21.5)
    assert vehicle.reading.timestamp == proto_from_us(NOW_US - 1_500_000)
    assert (vehicle.age.seconds, vehicle.age.nanos) == (1, 500_000_000)

    meter = await stub.GetMeterStatus(wire.GetMeterStatusRequest(meter_id="meter"))
    assert (meter.meter_id, meter.reading.meter_id, meter.reading.kwh_consumed_ac) == ("meter", "meter", 0.0)
    assert meter.reading.HasField("kwh_consumed_ac")
    assert not meter.reading.HasField("voltage")
    assert (meter.age.seconds, meter.age.nanos) == (-1, -500_000_000)
    assert (vehicle.freshness, meter.freshness) == (wire.FRESHNESS_ONLINE, wire.FRESHNESS_ONLINE)
    assert (vehicle.stale_after, meter.stale_after) == (STALE_AFTER, STALE_AFTER)


async def test_a_device_known_from_a_mapping_alone_has_no_reading(
    rows: Rows, stub: "AnalyticsServiceAsyncStub"
) -> None:
    rows.mapping(rows.vehicle("car"), rows.meter("meter"), NOW_US)
    vehicle = await stub.GetVehicleStatus(wire.GetVehicleStatusRequest(vehicle_id="car"))
    no_reading: dict[str, Any] = {"freshness": wire.FRESHNESS_NO_READING, "stale_after": STALE_AFTER}
    assert vehicle == wire.GetVehicleStatusResponse(vehicle_id="car", as_of=vehicle.as_of, **no_reading)
    meter = await stub.GetMeterStatus(wire.GetMeterStatusRequest(meter_id="meter"))
    assert meter == wire.GetMeterStatusResponse(meter_id="meter", as_of=meter.as_of, **no_reading)


async def test_a_device_never_heard_of_is_not_found(stub: "AnalyticsServiceAsyncStub") -> None:
    for call in (
        stub.GetVehiclePerformance(wire.GetVehiclePerformanceRequest(vehicle_id="ghost")),
        stub.GetPerformanceSeries(wire.GetPerformanceSeriesRequest(vehicle_id="ghost")),
        stub.GetVehicleStatus(wire.GetVehicleStatusRequest(vehicle_id="ghost")),
        stub.GetMeterStatus(wire.GetMeterStatusRequest(meter_id="ghost")),
    ):
        error = await error_of(call)
        assert error.code() == grpc.StatusCode.NOT_FOUND
        assert "ghost is unknown" in str(error.details())


async def test_a_bad_request_is_told_all_of_its_violations(stub: "AnalyticsServiceAsyncStub") -> None:
    window = wire.TimeWindow(start=proto_from_us(NOW_US), end=proto_from_us(NOW_US))
    calls: list[tuple[grpc.aio.UnaryUnaryCall[Any, Any], list[str]]] = [
        (stub.GetVehiclePerformance(wire.GetVehiclePerformanceRequest(window=window)), ["vehicle_id", "window"]),
        (
            stub.ListVehiclePerformance(wire.ListVehiclePerformanceRequest(window=window, page_size=-1)),
            ["window", "page_size"],
        ),
        (stub.GetPerformanceSeries(wire.GetPerformanceSeriesRequest(time_zone="?")), ["vehicle_id", "time_zone"]),
        (stub.GetVehicleStatus(wire.GetVehicleStatusRequest(vehicle_id="a ")), ["vehicle_id"]),
        (stub.GetMeterStatus(wire.GetMeterStatusRequest()), ["meter_id"]),
        (
            stub.BatchGetStatus(wire.BatchGetStatusRequest(vehicle_ids=["car", "a "], meter_ids=[""])),
            ["vehicle_ids[1]", "meter_ids[0]"],
        ),
    ]
    for call, fields in calls:
        error = await error_of(call)
        assert error.code() == grpc.StatusCode.INVALID_ARGUMENT
        status = details_of(error)
        assert status is not None
        assert (status.code, status.message) == (3, error.details())
        bad_request = error_details_pb2.BadRequest()
        assert status.details[0].Unpack(bad_request)
        assert [violation.field for violation in bad_request.field_violations] == fields
        assert all(violation.description for violation in bad_request.field_violations)


async def test_a_batch_answers_for_each_device_what_is_answered_for_it_alone_in_the_order_of_the_request(
    rows: Rows, stub: "AnalyticsServiceAsyncStub"
) -> None:
    ages_us = {"ahead": -1, "online": 600_000_000, "stale": 600_000_001}
    for device_id, age_us in ages_us.items():
        taken = datetime_from_us(NOW_US - age_us)
        vehicle, meter = rows.vehicle(device_id), rows.meter(device_id)
        rows.connection.execute(
            "INSERT INTO vehicle_current_status (vehicle_key, ts, hour_start, kwh_delivered_dc, soc)"
            " VALUES (%s, %s, %s, 0.5, 0)",
            (vehicle, taken, taken),
        )
        rows.connection.execute(
            "INSERT INTO meter_current_status (meter_key, ts, hour_start, kwh_consumed_ac, voltage)"
            " VALUES (%s, %s, %s, 0, 230)",
            (meter, taken, taken),
        )
        rows.connection.execute("INSERT INTO meter_clock_evidence VALUES (%s, %s, 7, 1, 2, 3)", (meter, taken))
    rows.mapping(rows.vehicle("mapped"), rows.meter("mapped"), NOW_US)

    ids = ["stale", "ghost", "online", "stale", "mapped", "ahead"]
    answer = await stub.BatchGetStatus(wire.BatchGetStatusRequest(vehicle_ids=ids, meter_ids=ids[::-1]))

    assert answer.stale_after == STALE_AFTER
    assert [each.vehicle_id for each in answer.vehicles] == ids
    assert [each.meter_id for each in answer.meters] == ids[::-1]
    assert [wire.Freshness.Name(each.freshness).removeprefix("FRESHNESS_") for each in answer.vehicles] == [
        "STALE",
        "NEVER_HEARD_OF",
        "ONLINE",
        "STALE",
        "NO_READING",
        "ONLINE",
    ]
    assert [each.freshness for each in answer.meters] == [each.freshness for each in answer.vehicles][::-1]
    assert answer.meters[1] == wire.MeterStatus(meter_id="mapped", freshness=wire.FRESHNESS_NO_READING)
    assert answer.meters[4] == wire.MeterStatus(meter_id="ghost", freshness=wire.FRESHNESS_NEVER_HEARD_OF)
    for told in answer.vehicles:
        if told.vehicle_id != "ghost":
            vehicle_alone = await stub.GetVehicleStatus(wire.GetVehicleStatusRequest(vehicle_id=told.vehicle_id))
            assert told == told_alone(vehicle_alone, wire.VehicleStatus())
    for told_meter in answer.meters:
        if told_meter.meter_id != "ghost":
            meter_alone = await stub.GetMeterStatus(wire.GetMeterStatusRequest(meter_id=told_meter.meter_id))
            assert told_meter == told_alone(meter_alone, wire.MeterStatus())


def told_alone(answer: Any, among_others: Any) -> Any:
    """The answer about one device as it stands among others: without what is told once for all."""
    common = {field.name for field in among_others.DESCRIPTOR.fields}
    fields = {field.name: value for field, value in answer.ListFields() if field.name in common}
    return type(among_others)(**fields)


async def test_a_batch_of_1000_devices_is_answered_and_one_of_none_is_empty(
    rows: Rows, stub: "AnalyticsServiceAsyncStub"
) -> None:
    rows.vehicle("v-7")
    asked = wire.BatchGetStatusRequest(
        vehicle_ids=[f"v-{n}" for n in range(500)], meter_ids=[f"m-{n}" for n in range(500)]
    )
    answer = await stub.BatchGetStatus(asked)
    assert [each.vehicle_id for each in answer.vehicles] == list(asked.vehicle_ids)
    assert [each.meter_id for each in answer.meters] == list(asked.meter_ids)
    unheard_of = [each for each in answer.vehicles if each.freshness == wire.FRESHNESS_NEVER_HEARD_OF]
    assert len(unheard_of) == 499
    nobody = await stub.BatchGetStatus(wire.BatchGetStatusRequest())
    assert nobody == wire.BatchGetStatusResponse(stale_after=STALE_AFTER, as_of=nobody.as_of)


async def test_a_batch_of_nothing_but_the_longest_wrong_ids_is_refused_in_a_status_that_arrives(
    stub: "AnalyticsServiceAsyncStub",
) -> None:
    wrong = ["\N{GRINNING FACE}" * 65] * 1_000
    error = await error_of(stub.BatchGetStatus(wire.BatchGetStatusRequest(vehicle_ids=wrong, meter_ids=wrong)))
    assert error.code() == grpc.StatusCode.INVALID_ARGUMENT
    status = details_of(error)
    assert status is not None
    headers = len(error.details() or "") + len(status.SerializeToString()) * 4 / 3
    assert headers < 8_000
    assert "995 more are not ids" in (error.details() or "")


@pytest.mark.parametrize("rpc", RPCS)
async def test_bytes_that_are_no_message_are_an_invalid_argument(channel: grpc.aio.Channel, rpc: str) -> None:
    send: grpc.aio.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary(f"/{NAME}/{rpc}", bytes, bytes)
    error = await error_of(send(b"\xff\xff\xff"))
    assert error.code() == grpc.StatusCode.INVALID_ARGUMENT
    assert details_of(error) is None


async def test_a_defect_stays_inside(rows: Rows, stub: "AnalyticsServiceAsyncStub") -> None:
    rows.connection.execute("REVOKE SELECT ON vehicles FROM energyfleet_analytics")
    error = await error_of(stub.GetVehicleStatus(wire.GetVehicleStatusRequest(vehicle_id="car")))
    assert (error.code(), error.details()) == (grpc.StatusCode.INTERNAL, "internal error")


async def test_reflection_lists_the_service(channel: grpc.aio.Channel) -> None:
    reflection = reflection_pb2_grpc.ServerReflectionStub(channel)
    asked = reflection.ServerReflectionInfo(iter([reflection_pb2.ServerReflectionRequest(list_services="")]))
    async for answer in asked:
        assert NAME in {service.name for service in answer.list_services_response.service}
        break
    asked.cancel()
