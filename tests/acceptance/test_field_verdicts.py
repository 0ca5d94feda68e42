"""What counts of what devices in the field send, with verdicts and numbers to check by hand."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from energyfleet.v1 import analytics_service_pb2 as analytics_wire
from energyfleet.v1 import ingestion_service_pb2 as wire
from energyfleet.v1.telemetry_pb2 import MeterReading, Telemetry

from shared.timestamps import US_PER_HOUR, proto_from_us
from tests.acceptance.field_cases import EVENING_US, QUARTER_US, map_pair, send
from tests.builders import NOW_US, a_meter_reading, a_vehicle_reading
from tests.verified import differences

if TYPE_CHECKING:  # in the stubs' types only
    from energyfleet.v1.analytics_service_pb2_grpc import AnalyticsServiceAsyncStub
    from energyfleet.v1.ingestion_service_pb2_grpc import IngestionServiceAsyncStub

pytestmark = pytest.mark.one_server


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
    assert answer.verdict_reason.startswith("3.200 kWh were delivered while the meters drew nothing: ")
    assert not answer.HasField("efficiency_ratio")
    assert (await send(ingest, *sent)).duplicate == 4


@pytest.mark.parametrize("order", [analytics_wire.PERFORMANCE_ORDER_RATIO, analytics_wire.PERFORMANCE_ORDER_KWH_LOST])
async def test_what_came_while_the_meter_was_frozen_is_implausible_and_heads_no_list(
    order: analytics_wire.PerformanceOrder.ValueType, ingest: IngestionServiceAsyncStub, ask: AnalyticsServiceAsyncStub
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
    assert (answer.kwh_consumed_ac, answer.coverage) == (0.0, 0.0)
    assert answer.verdict == analytics_wire.VERDICT_IMPLAUSIBLE
    assert answer.verdict_reason == (
        "19.980 kWh were delivered while the meters drew nothing: a meter is stuck, its readings do not count,"
        " or a clock or a mapping is wrong."
    )
    assert (answer.alert, answer.HasField("efficiency_ratio")) == ("", False)
    listed = await ask.ListVehiclePerformance(analytics_wire.ListVehiclePerformanceRequest(order=order))
    rows = {row.vehicle_id: row for row in listed.vehicles}
    assert list(rows) == ["healthy", "unmapped", "vehicle-001"]
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
    assert (answer.kwh_consumed_ac, answer.coverage) == (0.0, 0.0)
    assert answer.verdict == analytics_wire.VERDICT_INSUFFICIENT_DATA
    assert answer.verdict_reason.startswith("Readings stand for time from before the window")
    [finding] = answer.findings
    assert finding.kind == analytics_wire.FINDING_KIND_NOT_ATTRIBUTABLE
    assert finding.kwh == pytest.approx(15 * 0.111)
    await send(ingest, register(minutes[-1] + QUARTER_US, 4021.7))
    assert (await performance(ask)).verdict == analytics_wire.VERDICT_INSUFFICIENT_DATA, "all came before the first one"
    later = [EVENING_US + number * QUARTER_US for number in range(3, 13)]
    await send(ingest, *(register(ts_us, 4021.7) for ts_us in later))
    await send(ingest, *(a_vehicle_reading(ts_us=ts_us, kwh_delivered_dc=1.665) for ts_us in later))
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
