"""What devices in the field send, with numbers to check by hand: each test is a kind of trouble."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import grpc
import psycopg
import pytest
from energyfleet.v1 import analytics_service_pb2 as analytics_wire
from energyfleet.v1 import ingestion_service_pb2 as wire
from energyfleet.v1.ingestion_service_pb2_grpc import IngestionServiceStub
from energyfleet.v1.telemetry_pb2 import MeterReading, Telemetry
from google.protobuf.empty_pb2 import Empty
from google.protobuf.timestamp_pb2 import Timestamp

import ingestion_svc.__main__
from shared.config import IngestionSettings
from shared.db.embedded import EmbeddedServer
from shared.timestamps import US_PER_HOUR, proto_from_us
from tests.builders import NOW_US, a_meter_reading, a_vehicle_reading, clock, us
from tests.verified import differences

if TYPE_CHECKING:  # in the stubs' types only
    from energyfleet.v1.analytics_service_pb2_grpc import AnalyticsServiceAsyncStub
    from energyfleet.v1.ingestion_service_pb2_grpc import IngestionServiceAsyncStub

QUARTER_US = US_PER_HOUR // 4
EVENING_US = NOW_US // US_PER_HOUR * US_PER_HOUR - 6 * US_PER_HOUR
"""18:00 on the day before."""


async def send(ingest: IngestionServiceAsyncStub, *readings: Telemetry) -> wire.IngestionSummary:
    return (await ingest.IngestTelemetry(wire.IngestTelemetryRequest(readings=readings))).summary


async def map_pair(ingest: IngestionServiceAsyncStub) -> None:
    start = proto_from_us(NOW_US - 48 * US_PER_HOUR)
    await ingest.MapVehicle(
        wire.MapVehicleRequest(vehicle_id="vehicle-001", meter_id="meter-001", effective_from=start)
    )


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


def register(ts_us: int, kwh: float, meter_id: str = "meter-001") -> Telemetry:
    return Telemetry(meter=MeterReading(meter_id=meter_id, timestamp=proto_from_us(ts_us), register_kwh=kwh))


async def performance(ask: AnalyticsServiceAsyncStub) -> analytics_wire.GetVehiclePerformanceResponse:
    return await ask.GetVehiclePerformance(analytics_wire.GetVehiclePerformanceRequest(vehicle_id="vehicle-001"))


async def test_of_registers_the_differences_count_whatever_the_order(
    ingest: IngestionServiceAsyncStub, ask: AnalyticsServiceAsyncStub, database_url: str
) -> None:
    await map_pair(ingest)
    shown = [
        register(EVENING_US + at * QUARTER_US, kwh) for at, kwh in enumerate((4021.700, 4021.810, 4021.931, 4022.0))
    ]
    for reading in (shown[0], shown[3], shown[1], shown[2], shown[1]):
        await send(ingest, reading)

    answer = await performance(ask)
    assert answer.kwh_consumed_ac == pytest.approx(0.3)
    assert answer.meter_readings == 4
    assert answer.evidence.meter_quality == analytics_wire.QualityCounts(register_baselines=1)
    assert (await send(ingest, shown[2])).duplicate == 1
    assert (await send(ingest, register(EVENING_US + 2 * QUARTER_US, 4021.9))).conflicting == 1
    status = await ask.GetMeterStatus(analytics_wire.GetMeterStatusRequest(meter_id="meter-001"))
    assert status.reading.register_kwh == 4022.0
    assert await differences(database_url) == []


async def test_a_register_that_falls_was_reset_and_one_that_jumps_begins_anew(
    ingest: IngestionServiceAsyncStub, ask: AnalyticsServiceAsyncStub
) -> None:
    await map_pair(ingest)
    shown = (4021.7, 4023.55, 0.4, 2.25, 999_999.0, 2.25, 4.1)
    await send(ingest, *(register(EVENING_US + at * QUARTER_US, kwh) for at, kwh in enumerate(shown)))

    answer = await performance(ask)
    # 1.85 of the first meter, 0.4 and 1.85 of the second one, nothing of the glitch, 2.25 after it, and 1.85
    assert answer.kwh_consumed_ac == pytest.approx(1.85 + 0.4 + 1.85 + 2.25 + 1.85)
    assert answer.evidence.meter_quality == analytics_wire.QualityCounts(
        register_baselines=1, register_resets=2, register_jumps=1
    )


async def test_watt_hours_sent_as_kilowatt_hours_are_doubted_and_do_not_count(
    ingest: IngestionServiceAsyncStub, ask: AnalyticsServiceAsyncStub
) -> None:
    await map_pair(ingest)
    sent = [
        a_meter_reading(ts_us=EVENING_US + at * QUARTER_US, kwh_consumed_ac=kwh)
        for at, kwh in enumerate((0, 905, 905, 1160))
    ]
    charged = [a_vehicle_reading(ts_us=EVENING_US + at * QUARTER_US, kwh_delivered_dc=0.8) for at in range(4)]
    summary = await send(ingest, *sent, *charged)
    assert (summary.stored, summary.doubted) == (8, 3)

    answer = await performance(ask)
    assert answer.kwh_consumed_ac == 0.0
    assert answer.evidence.meter_quality.doubted_readings == 3
    assert answer.verdict == analytics_wire.VERDICT_IMPLAUSIBLE
    assert answer.verdict_reason.startswith("3.200 kWh were delivered while 0.000 kWh were drawn: ")
    assert not answer.HasField("efficiency_ratio")
    assert (await send(ingest, *sent)).duplicate == 4


@pytest.mark.parametrize(
    ("order", "in_order"),
    [
        (analytics_wire.PERFORMANCE_ORDER_RATIO, ["healthy", "unmapped", "vehicle-001"]),
        (analytics_wire.PERFORMANCE_ORDER_KWH_LOST, ["healthy", "vehicle-001", "unmapped"]),
    ],
)
async def test_what_came_while_the_meter_was_frozen_is_implausible_and_heads_no_list(
    order: analytics_wire.PerformanceOrder.ValueType,
    in_order: list[str],
    ingest: IngestionServiceAsyncStub,
    ask: AnalyticsServiceAsyncStub,
) -> None:
    await map_pair(ingest)
    quarters = [EVENING_US + number * QUARTER_US for number in range(1, 13)]
    await send(
        ingest,
        *(a_meter_reading(ts_us=ts_us, kwh_consumed_ac=0.0) for ts_us in quarters),
        *(a_vehicle_reading(ts_us=ts_us, kwh_delivered_dc=1.665) for ts_us in quarters),
        *(a_vehicle_reading("unmapped", ts_us=ts_us, kwh_delivered_dc=1.665) for ts_us in quarters),
    )
    start = proto_from_us(NOW_US - 48 * US_PER_HOUR)
    await ingest.MapVehicle(wire.MapVehicleRequest(vehicle_id="healthy", meter_id="meter-2", effective_from=start))
    await send(
        ingest,
        *(a_meter_reading("meter-2", ts_us=ts_us, kwh_consumed_ac=1.85) for ts_us in quarters),
        *(a_vehicle_reading("healthy", ts_us=ts_us, kwh_delivered_dc=1.665) for ts_us in quarters),
    )

    answer = await performance(ask)
    assert answer.kwh_delivered_dc == pytest.approx(19.98)
    assert (answer.kwh_consumed_ac, answer.coverage) == (0.0, 1.0)
    assert answer.verdict == analytics_wire.VERDICT_IMPLAUSIBLE
    assert answer.verdict_reason == (
        "19.980 kWh were delivered while 0.000 kWh were drawn: the meter is stuck, its readings do not count,"
        " or the mapping is wrong."
    )
    assert (answer.alert, answer.HasField("efficiency_ratio")) == ("", False)
    listed = await ask.ListVehiclePerformance(analytics_wire.ListVehiclePerformanceRequest(order=order))
    rows = {row.vehicle_id: row for row in listed.vehicles}
    assert list(rows) == in_order
    row = rows["vehicle-001"]
    assert (row.verdict, row.verdict_reason) == (answer.verdict, answer.verdict_reason)
    assert listed.totals.efficiency_ratio == pytest.approx(0.90), "of the healthy one alone"
    assert listed.totals.kwh_lost == pytest.approx(12 * 0.185)


async def test_the_first_reading_of_a_register_is_no_sign_of_a_frozen_meter(
    ingest: IngestionServiceAsyncStub, ask: AnalyticsServiceAsyncStub
) -> None:
    await map_pair(ingest)
    minutes = [EVENING_US + number * US_PER_HOUR // 60 for number in range(1, 16)]
    await send(ingest, register(minutes[-1], 4021.7))
    await send(ingest, *(a_vehicle_reading(ts_us=ts_us, kwh_delivered_dc=0.111) for ts_us in minutes))
    answer = await performance(ask)
    assert (answer.kwh_consumed_ac, answer.coverage) == (0.0, 1.0)
    assert answer.verdict == analytics_wire.VERDICT_INSUFFICIENT_DATA
    assert answer.verdict_reason == "0.000 kWh were drawn; 0.5 kWh are needed for a verdict."
    await send(ingest, register(minutes[-1] + QUARTER_US, 4021.7))
    assert (await performance(ask)).verdict == analytics_wire.VERDICT_IMPLAUSIBLE


async def test_a_piece_of_energy_for_an_outage_of_three_days_is_plausible(
    ingest: IngestionServiceAsyncStub, ask: AnalyticsServiceAsyncStub
) -> None:
    await map_pair(ingest)
    before_us = EVENING_US - 72 * US_PER_HOUR
    late = a_meter_reading(ts_us=EVENING_US - QUARTER_US, kwh_consumed_ac=0.0)
    await send(ingest, a_meter_reading(ts_us=before_us, kwh_consumed_ac=0.01))
    assert (await send(ingest, a_meter_reading(ts_us=EVENING_US, kwh_consumed_ac=1_861.85))).doubted == 0
    assert (await performance(ask)).kwh_consumed_ac == 1_861.85
    await send(ingest, late)
    answer = await performance(ask)
    assert answer.kwh_consumed_ac == 0.0, "within a quarter of an hour it is not"
    assert answer.evidence.meter_quality.doubted_readings == 1


async def test_a_glitch_is_doubted_at_once_and_can_be_corrected(
    ingest: IngestionServiceAsyncStub, ask: AnalyticsServiceAsyncStub
) -> None:
    await map_pair(ingest)
    glitch_us = EVENING_US + 2 * QUARTER_US
    await send(
        ingest,
        *(
            a_meter_reading(ts_us=EVENING_US + at * QUARTER_US, kwh_consumed_ac=320.05 if at == 2 else 1.85)
            for at in range(5)
        ),
        *(a_vehicle_reading(ts_us=EVENING_US + at * QUARTER_US, kwh_delivered_dc=1.665) for at in range(5)),
    )
    answer = await performance(ask)
    assert answer.kwh_consumed_ac == pytest.approx(4 * 1.85)
    assert answer.evidence.meter_quality.doubted_readings == 1
    await ingest.CorrectReading(
        wire.CorrectReadingRequest(
            meter_id="meter-001", timestamp=proto_from_us(glitch_us), kwh=1.85, author="Ada", note="a glitch"
        )
    )
    answer = await performance(ask)
    assert answer.efficiency_ratio == pytest.approx(0.90)
    assert answer.verdict == analytics_wire.VERDICT_OK
    assert answer.evidence.meter_quality == analytics_wire.QualityCounts(corrected_readings=1)


async def test_registers_of_a_session_sent_as_energies_are_doubted_as_such(
    ingest: IngestionServiceAsyncStub, ask: AnalyticsServiceAsyncStub, database_url: str
) -> None:
    await map_pair(ingest)
    minutes = [(EVENING_US + minute * 60_000_000, minute) for minute in range(1, 61)]
    doubted = 0
    for ts_us, minute in minutes:
        pair = (
            a_meter_reading(ts_us=ts_us, kwh_consumed_ac=0.137 * minute),
            a_vehicle_reading(ts_us=ts_us, kwh_delivered_dc=0.123 * minute),
        )
        doubted += (await send(ingest, *pair)).doubted
    assert doubted == 2 * 53, "from the eighth on, and with it the seven before"

    answer = await performance(ask)
    assert (answer.kwh_consumed_ac, answer.kwh_delivered_dc) == (0.0, 0.0)
    assert answer.verdict == analytics_wire.VERDICT_INSUFFICIENT_DATA
    expected = analytics_wire.QualityCounts(doubted_readings=60, session_registers=60)
    assert (answer.evidence.meter_quality, answer.evidence.vehicle_quality) == (expected, expected)

    # The next session's energies are intervals' again, and one of the session's that is corrected counts.
    after = [EVENING_US + minute * 60_000_000 for minute in range(61, 121)]
    await send(
        ingest,
        *(a_meter_reading(ts_us=ts_us, kwh_consumed_ac=0.137) for ts_us in after),
        *(a_vehicle_reading(ts_us=ts_us, kwh_delivered_dc=0.123) for ts_us in after),
    )
    await ingest.CorrectReading(
        wire.CorrectReadingRequest(
            meter_id="meter-001", timestamp=proto_from_us(minutes[-1][0]), kwh=8.22, author="Ada", note="the session"
        )
    )
    answer = await performance(ask)
    assert answer.kwh_consumed_ac == pytest.approx(60 * 0.137 + 8.22)
    assert answer.kwh_delivered_dc == pytest.approx(60 * 0.123)
    assert answer.evidence.meter_quality == analytics_wire.QualityCounts(
        doubted_readings=59, session_registers=59, corrected_readings=1
    )
    assert await differences(database_url) == []


@pytest.mark.parametrize(
    "powers_kw",
    [
        [0.4, 7.4, 7.4, 7.41, 7.42, 7.44, 7.45, 7.46, 7.47, 7.48],  # a full first quarter comes after a part of one
        [1.4, 2.3, 3.2, 4.1, 5.0, 5.9, 6.8, 7.7, 8.6, 9.5],  # follows the sun from 6 A on, over two hours
        [0.5, 1.4, 2.3, 3.2, 4.1, 5.0, 5.9, 6.8, 7.7, 8.6],  # the same after a part of an interval
        [40, 60, 75, 88, 98, 106, 112, 117, 121, 124],  # the battery warms up
        [0.01, 0.02, 0.03, 0.04, 0.05, 0.06, 0.07, 0.08, 0.09, 0.1],  # standby that rises
        [7.4] * 10,
    ],
)
async def test_power_that_rises_is_not_doubted(powers_kw: list[float], ingest: IngestionServiceAsyncStub) -> None:
    readings = [
        a_meter_reading(ts_us=EVENING_US + at * QUARTER_US, kwh_consumed_ac=kw / 4) for at, kw in enumerate(powers_kw)
    ]
    assert (await send(ingest, *readings)).doubted == 0
