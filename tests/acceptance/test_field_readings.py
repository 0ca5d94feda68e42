"""What devices in the field send, and what is taken, refused and corrected of it: each test is a kind of trouble."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import grpc
import psycopg
import pytest
from energyfleet.v1 import analytics_service_pb2 as analytics_wire
from energyfleet.v1 import ingestion_service_pb2 as wire
from energyfleet.v1.ingestion_service_pb2_grpc import IngestionServiceStub
from energyfleet.v1.telemetry_pb2 import Telemetry
from google.protobuf.empty_pb2 import Empty
from google.protobuf.timestamp_pb2 import Timestamp

import ingestion_svc.__main__
from shared.config import IngestionSettings
from shared.db.embedded import EmbeddedServer
from shared.timestamps import US_PER_HOUR, proto_from_us
from tests.acceptance.field_cases import EVENING_US, QUARTER_US, map_pair, send
from tests.builders import NOW_US, a_meter_reading, a_vehicle_reading, clock, us
from tests.verified import differences

if TYPE_CHECKING:  # in the stubs' types only
    from energyfleet.v1.analytics_service_pb2_grpc import AnalyticsServiceAsyncStub
    from energyfleet.v1.ingestion_service_pb2_grpc import IngestionServiceAsyncStub

pytestmark = pytest.mark.one_server


@pytest.mark.parametrize(
    ("soc", "battery_temp", "path"),
    [
        (100.4, 25.0, "vehicle.soc"),
        (105.0, 25.0, "vehicle.soc"),
        (255.0, 25.0, "vehicle.soc"),
        (-0.2, 25.0, "vehicle.soc"),
        (50.0, -127.0, "vehicle.battery_temp"),
        (50.0, 215.0, "vehicle.battery_temp"),
    ],
)
async def test_a_sensors_sentinel_costs_its_own_value_and_no_energy(
    soc: float, battery_temp: float, path: str, ingest: IngestionServiceAsyncStub, ask: AnalyticsServiceAsyncStub
) -> None:
    await map_pair(ingest)
    quarters = [EVENING_US + number * QUARTER_US for number in range(1, 9)]
    summary = await send(
        ingest,
        *(a_meter_reading(ts_us=ts_us, kwh_consumed_ac=1.85) for ts_us in quarters),
        *(a_vehicle_reading(ts_us=ts_us, kwh_delivered_dc=1.665) for ts_us in quarters[:6]),
        *(
            a_vehicle_reading(ts_us=ts_us, kwh_delivered_dc=1.665, soc=soc, battery_temp=battery_temp)
            for ts_us in quarters[6:]
        ),
    )

    assert (summary.stored, summary.rejected, summary.omitted_values) == (16, 0, 2)
    assert [(each.index, each.device_id, each.field) for each in summary.omissions] == [
        (14, "vehicle-001", path),
        (15, "vehicle-001", path),
    ]
    answer = await ask.GetVehiclePerformance(analytics_wire.GetVehiclePerformanceRequest(vehicle_id="vehicle-001"))
    assert answer.kwh_delivered_dc == pytest.approx(8 * 1.665)
    assert answer.efficiency_ratio == pytest.approx(0.90)
    assert answer.verdict == analytics_wire.VERDICT_OK
    assert answer.average_battery_temp == pytest.approx(25.0)
    newest = await ask.GetVehicleStatus(analytics_wire.GetVehicleStatusRequest(vehicle_id="vehicle-001"))
    assert newest.reading.HasField(path.partition(".")[2]) is False  # type: ignore[arg-type]  # one of its fields


async def test_a_reading_that_lost_a_value_is_a_duplicate_when_it_comes_again(
    ingest: IngestionServiceAsyncStub,
) -> None:
    for stored, duplicate in ((1, 0), (0, 1)):
        summary = await send(ingest, a_meter_reading(voltage=6553.5))
        assert (summary.stored, summary.duplicate, summary.omitted_values) == (stored, duplicate, 1)
    assert (await send(ingest, a_meter_reading(voltage=None))).duplicate == 1
    assert (await send(ingest, a_meter_reading(voltage=230))).conflicting == 1


async def test_the_omissions_of_an_exchange_name_their_requests(ingest: IngestionServiceAsyncStub) -> None:
    requests = [
        wire.ExchangeTelemetryRequest(
            sequence=sequence,
            readings=[a_meter_reading(ts_us=NOW_US - sequence), a_vehicle_reading(ts_us=NOW_US - sequence, soc=255)],
        )
        for sequence in (3, 7)
    ]
    answers = [answer async for answer in ingest.ExchangeTelemetry(iter(requests))]
    omissions = [each for answer in answers for each in answer.summary.omissions]
    assert [(each.sequence, each.index, each.field) for each in omissions] == [
        (3, 1, "vehicle.soc"),
        (7, 1, "vehicle.soc"),
    ]
    assert sum(answer.summary.omitted_values for answer in answers) == 2


async def test_nanoseconds_are_cut_off_and_two_in_a_microsecond_are_one_reading(
    ingest: IngestionServiceAsyncStub, ask: AnalyticsServiceAsyncStub
) -> None:
    def at(nanos: int, kwh: float = 1.5) -> Telemetry:
        return a_meter_reading(timestamp=Timestamp(seconds=EVENING_US // 1_000_000, nanos=nanos), kwh_consumed_ac=kwh)

    summary = await send(ingest, at(71_986_716), at(71_986_000), at(71_986_999, kwh=2.0), at(71_987_000))
    assert (summary.stored, summary.duplicate, summary.conflicting, summary.rejected) == (2, 1, 1, 0)
    status = await ask.GetMeterStatus(analytics_wire.GetMeterStatusRequest(meter_id="meter-001"))
    assert status.reading.timestamp.nanos == 71_987_000


async def test_a_window_in_nanoseconds_holds_what_lies_within_it(
    ingest: IngestionServiceAsyncStub, ask: AnalyticsServiceAsyncStub
) -> None:
    await map_pair(ingest)
    await send(ingest, *(a_meter_reading(ts_us=EVENING_US + us, kwh_consumed_ac=2.0**us) for us in range(4)))
    seconds = EVENING_US // 1_000_000
    window = analytics_wire.TimeWindow(
        start=Timestamp(seconds=seconds, nanos=999), end=Timestamp(seconds=seconds, nanos=2_001)
    )
    answer = await ask.GetVehiclePerformance(
        analytics_wire.GetVehiclePerformanceRequest(vehicle_id="vehicle-001", window=window)
    )
    assert answer.kwh_consumed_ac == 2.0 + 4.0


async def test_a_reading_ahead_of_the_clock_is_told_when_it_will_be_stored_and_is_stored_then(
    postgres: EmbeddedServer, database: str
) -> None:
    now_us = NOW_US
    settings = IngestionSettings(
        database_url=postgres.url(database, role="energyfleet_ingestion"), ingestion_address="127.0.0.1:0"
    )
    ahead = [a_meter_reading(ts_us=NOW_US + minutes * 60_000_000) for minutes in (0, 8, 24 * 60, 48 * 60)]
    async with (
        ingestion_svc.__main__.serving(settings, lambda: now_us) as (_, address),
        grpc.aio.insecure_channel(address) as channel,
    ):
        ingest = IngestionServiceStub(channel)
        summary = await send(ingest, *ahead)
        assert (summary.stored, summary.rejected, summary.not_yet) == (1, 3, 2)
        assert [wire.RejectionReason.Name(each.reason) for each in summary.rejections] == [
            "REJECTION_REASON_NOT_YET",
            "REJECTION_REASON_NOT_YET",
            "REJECTION_REASON_IN_FUTURE",
        ]
        due_us = us(summary.rejections[0].description.split(" from ")[1].split(" ")[0])
        now_us = due_us - 1
        assert (await send(ingest, *ahead)).not_yet == 2
        now_us = due_us
        summary = await send(ingest, *ahead)
        assert (summary.stored, summary.duplicate, summary.not_yet) == (1, 1, 1)


async def test_a_device_all_of_whose_readings_are_refused_can_be_seen(
    postgres: EmbeddedServer, database: str, ask: AnalyticsServiceAsyncStub
) -> None:
    settings = IngestionSettings(
        database_url=postgres.url(database, role="energyfleet_ingestion"), ingestion_address="127.0.0.1:0"
    )
    async with (
        ingestion_svc.__main__.serving(settings, clock) as (_, address),
        grpc.aio.insecure_channel(address) as channel,
    ):
        ingest = IngestionServiceStub(channel)
        ahead = [a_meter_reading("ahead", ts_us=NOW_US + hours * US_PER_HOUR) for hours in (1, 2, 30)]
        await send(ingest, *ahead, a_vehicle_reading("hot", battery_temp=215))

    status = await ask.GetMeterStatus(analytics_wire.GetMeterStatusRequest(meter_id="ahead"))
    assert status.freshness == analytics_wire.FRESHNESS_NO_READING
    assert not status.HasField("reading")
    assert sorted((each.field, wire.RejectionReason.Name(each.reason), each.count) for each in status.rejections) == [
        ("meter.timestamp", "REJECTION_REASON_IN_FUTURE", 1),
        ("meter.timestamp", "REJECTION_REASON_NOT_YET", 2),
    ]
    assert {each.last_at.ToMicroseconds() for each in status.rejections} == {NOW_US}
    assert all(each.last_description for each in status.rejections)
    hot = await ask.GetVehicleStatus(analytics_wire.GetVehicleStatusRequest(vehicle_id="hot"))
    assert [(each.field, each.count) for each in hot.omissions] == [("vehicle.battery_temp", 1)]
    assert not hot.rejections
    both = await ask.BatchGetStatus(
        analytics_wire.BatchGetStatusRequest(vehicle_ids=["hot", "ahead"], meter_ids=["ahead"])
    )
    assert list(both.meters[0].rejections) == list(status.rejections)
    assert list(both.vehicles[0].omissions) == list(hot.omissions)
    assert both.vehicles[1].freshness == analytics_wire.FRESHNESS_NEVER_HEARD_OF


async def test_a_glitch_is_corrected_and_answers_about_the_past_follow(
    ingest: IngestionServiceAsyncStub, ask: AnalyticsServiceAsyncStub, database_url: str
) -> None:
    await map_pair(ingest)
    quarters = [EVENING_US - 10 * US_PER_HOUR + number * QUARTER_US for number in range(1, 41)]
    glitch_us = quarters[20]
    readings = [
        *(a_meter_reading(ts_us=ts_us, kwh_consumed_ac=120.05 if ts_us == glitch_us else 1.85) for ts_us in quarters),
        *(a_vehicle_reading(ts_us=ts_us, kwh_delivered_dc=1.665) for ts_us in quarters),
    ]
    assert (await send(ingest, *readings)).stored == 80

    async def drawn(expected_kwh: float, verdict: analytics_wire.Verdict.ValueType) -> None:
        one = await ask.GetVehiclePerformance(analytics_wire.GetVehiclePerformanceRequest(vehicle_id="vehicle-001"))
        fleet = await ask.ListVehiclePerformance(analytics_wire.ListVehiclePerformanceRequest())
        series = await ask.GetPerformanceSeries(analytics_wire.GetPerformanceSeriesRequest(vehicle_id="vehicle-001"))
        for each in (one, fleet.vehicles[0]):
            assert each.kwh_consumed_ac == pytest.approx(expected_kwh)
            assert each.verdict == verdict
            assert each.meter_readings == 40
        assert sum(bucket.kwh_consumed_ac for bucket in series.buckets) == pytest.approx(expected_kwh)
        assert await differences(database_url) == []

    def correction(**energy: Any) -> wire.CorrectReadingRequest:
        return wire.CorrectReadingRequest(
            meter_id="meter-001", timestamp=proto_from_us(glitch_us), author="Ada", note="a glitch, ticket 12", **energy
        )

    await drawn(39 * 1.85 + 120.05, analytics_wire.VERDICT_LOW_EFFICIENCY)
    replaced = await ingest.CorrectReading(correction(kwh=1.85))
    await drawn(40 * 1.85, analytics_wire.VERDICT_OK)
    assert (await ingest.CorrectReading(correction(kwh=1.85))).correction == replaced.correction
    assert (await send(ingest, *readings)).duplicate == 80
    assert (await send(ingest, a_meter_reading(ts_us=glitch_us, kwh_consumed_ac=1.85))).conflicting == 1
    await ingest.CorrectReading(correction(voided=Empty()))
    await drawn(39 * 1.85, analytics_wire.VERDICT_OK)
    await ingest.CorrectReading(correction(as_sent=Empty()))
    await drawn(39 * 1.85 + 120.05, analytics_wire.VERDICT_LOW_EFFICIENCY)

    listed = await ingest.ListCorrections(wire.ListCorrectionsRequest(meter_id="meter-001", page_size=2))
    rest = await ingest.ListCorrections(
        wire.ListCorrectionsRequest(meter_id="meter-001", page_token=listed.next_page_token)
    )
    told = [*listed.corrections, *rest.corrections]
    assert [(each.sent_kwh, each.kwh_before, each.kwh, each.voided) for each in told] == [
        (120.05, 0.0, 120.05, False),
        (120.05, 1.85, 0.0, True),
        (120.05, 120.05, 1.85, False),
    ]
    assert {(each.meter_id, each.author, each.note) for each in told} == {("meter-001", "Ada", "a glitch, ticket 12")}
    assert not (await ingest.ListCorrections(wire.ListCorrectionsRequest(vehicle_id="meter-001"))).corrections


async def test_a_correction_that_says_what_counts_already_leaves_the_rollups_alone(
    ingest: IngestionServiceAsyncStub, database_url: str
) -> None:
    def marks() -> list[tuple[Any, ...]]:
        with psycopg.connect(database_url) as connection:
            return connection.execute("SELECT mark FROM meter_hour_changes ORDER BY mark").fetchall()

    async def corrected(**energy: Any) -> wire.CorrectReadingResponse:
        return await ingest.CorrectReading(
            wire.CorrectReadingRequest(
                meter_id="meter-001", timestamp=proto_from_us(NOW_US), author="Ada", note="a test", **energy
            )
        )

    await send(ingest, a_meter_reading(ts_us=NOW_US))
    before = marks()
    assert not (await corrected(as_sent=Empty())).HasField("correction")
    assert marks() == before
    one = await corrected(kwh=2.0)
    before = marks()
    assert await corrected(kwh=2.0) == one
    assert marks() == before


async def test_only_a_stored_reading_is_corrected(ingest: IngestionServiceAsyncStub) -> None:
    await send(ingest, a_meter_reading())
    devices: list[dict[str, Any]] = [{"meter_id": "meter-002"}, {"vehicle_id": "meter-001"}, {"meter_id": "meter-001"}]
    for device in devices:
        request = wire.CorrectReadingRequest(
            **device, timestamp=proto_from_us(NOW_US - 1), voided=Empty(), author="Ada", note="a test"
        )
        with pytest.raises(grpc.aio.AioRpcError) as raised:
            await ingest.CorrectReading(request)
        assert raised.value.code() == grpc.StatusCode.NOT_FOUND
        assert "has no stored reading of 2026-02-10T00:29:59.999999Z" in str(raised.value.details())


async def test_corrections_and_readings_of_the_same_hour_do_not_lose_each_other(
    ingest: IngestionServiceAsyncStub, ask: AnalyticsServiceAsyncStub, database_url: str
) -> None:
    await map_pair(ingest)
    await send(ingest, *(a_meter_reading(ts_us=EVENING_US + us, kwh_consumed_ac=1.0) for us in range(1, 41)))

    async def correct(us: int) -> None:
        await ingest.CorrectReading(
            wire.CorrectReadingRequest(
                meter_id="meter-001", timestamp=proto_from_us(EVENING_US + us), kwh=2.0, author="Ada", note="a test"
            )
        )

    async def more(us: int) -> None:
        await send(ingest, a_meter_reading(ts_us=EVENING_US + us, kwh_consumed_ac=1.0))

    await asyncio.gather(*(each for us in range(1, 41) for each in (correct(us), more(1_000 + us))))
    answer = await ask.GetVehiclePerformance(analytics_wire.GetVehiclePerformanceRequest(vehicle_id="vehicle-001"))
    assert (answer.kwh_consumed_ac, answer.meter_readings) == (120.0, 80)
    assert await differences(database_url) == []
