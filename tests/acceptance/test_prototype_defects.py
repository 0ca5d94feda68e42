"""What the REST prototype got wrong, each pinned down."""

from __future__ import annotations

from typing import TYPE_CHECKING

import psycopg
import pytest
from energyfleet.v1 import analytics_service_pb2 as analytics_wire
from energyfleet.v1 import ingestion_service_pb2 as wire
from energyfleet.v1.telemetry_pb2 import Telemetry

from shared.timestamps import US_PER_DAY, US_PER_HOUR, US_PER_SECOND, proto_from_us
from tests.builders import NOW_US, a_meter_reading, a_vehicle_reading

if TYPE_CHECKING:  # in the stubs' types only
    from energyfleet.v1.analytics_service_pb2_grpc import AnalyticsServiceAsyncStub
    from energyfleet.v1.ingestion_service_pb2_grpc import IngestionServiceAsyncStub

pytestmark = pytest.mark.one_server

DAY_START_US = NOW_US - US_PER_DAY


def a_day_of_charging(power_ac_kw: float, ratio: float, vehicle_every_s: int, meter_every_s: int) -> list[Telemetry]:
    """24 hours up to now at constant power, each side at its own cadence."""

    def ends(every_s: int) -> range:
        return range(DAY_START_US + every_s * US_PER_SECOND, NOW_US + 1, every_s * US_PER_SECOND)

    meter_kwh = power_ac_kw * meter_every_s / 3600
    vehicle_kwh = power_ac_kw * ratio * vehicle_every_s / 3600
    return [a_meter_reading(ts_us=ts, kwh_consumed_ac=meter_kwh) for ts in ends(meter_every_s)] + [
        a_vehicle_reading(ts_us=ts, kwh_delivered_dc=vehicle_kwh) for ts in ends(vehicle_every_s)
    ]


async def send(ingest: IngestionServiceAsyncStub, readings: list[Telemetry]) -> wire.IngestionSummary:
    call = ingest.StreamTelemetry(None)
    for start in range(0, len(readings), 1_000):
        await call.write(wire.StreamTelemetryRequest(readings=readings[start : start + 1_000]))
    await call.done_writing()
    return (await call).summary


async def map_them(ingest: IngestionServiceAsyncStub, meter_id: str = "meter-001", from_us: int = DAY_START_US) -> None:
    await ingest.MapVehicle(
        wire.MapVehicleRequest(vehicle_id="vehicle-001", meter_id=meter_id, effective_from=proto_from_us(from_us))
    )


async def last_day(ask: AnalyticsServiceAsyncStub) -> analytics_wire.GetVehiclePerformanceResponse:
    return await undated(ask, analytics_wire.GetVehiclePerformanceRequest(vehicle_id="vehicle-001"))


async def undated(
    ask: AnalyticsServiceAsyncStub, request: analytics_wire.GetVehiclePerformanceRequest
) -> analytics_wire.GetVehiclePerformanceResponse:
    """The answer without the instant at which it was given."""
    answer = await ask.GetVehiclePerformance(request)
    answer.ClearField("as_of")
    return answer


@pytest.mark.parametrize(
    ("vehicle_every_s", "meter_every_s"), [(10, 60), (60, 10), (300, 60), (60, 900)], ids=lambda every: f"{every}s"
)
async def test_sides_that_report_at_different_cadences_give_the_true_ratio_and_totals(
    ingest: IngestionServiceAsyncStub, ask: AnalyticsServiceAsyncStub, vehicle_every_s: int, meter_every_s: int
) -> None:
    await map_them(ingest)
    await send(ingest, a_day_of_charging(7.4, 0.9, vehicle_every_s, meter_every_s))

    answer = await last_day(ask)

    assert answer.efficiency_ratio == pytest.approx(0.9, rel=1e-9)
    assert answer.kwh_consumed_ac == pytest.approx(7.4 * 24, rel=1e-9)
    assert answer.kwh_delivered_dc == pytest.approx(7.4 * 24 * 0.9, rel=1e-9)
    assert answer.verdict == analytics_wire.VERDICT_OK


async def test_low_power_at_one_minute_readings_is_not_rounded_away(
    ingest: IngestionServiceAsyncStub, ask: AnalyticsServiceAsyncStub
) -> None:
    await map_them(ingest)
    await send(ingest, a_day_of_charging(2.3, 0.9, 60, 60))

    assert (await last_day(ask)).efficiency_ratio == pytest.approx(0.9, rel=1e-9)


async def test_a_late_reading_leaves_the_status_alone(
    ingest: IngestionServiceAsyncStub, ask: AnalyticsServiceAsyncStub
) -> None:
    newer = a_vehicle_reading(ts_us=NOW_US - 60 * US_PER_SECOND, soc=80)
    await send(ingest, [newer])
    summary = await send(ingest, [a_vehicle_reading(ts_us=NOW_US - US_PER_HOUR, soc=20)])

    status = await ask.GetVehicleStatus(analytics_wire.GetVehicleStatusRequest(vehicle_id="vehicle-001"))

    assert summary.stored == 1
    assert status.reading == newer.vehicle
    assert status.age.seconds == 60


@pytest.mark.parametrize("column", ["kwh_consumed_ac", "hour_kwh"])
async def test_a_failed_write_leaves_neither_history_nor_status(
    ingest: IngestionServiceAsyncStub, database_url: str, column: str
) -> None:
    with psycopg.connect(database_url) as connection:
        connection.execute(f"ALTER TABLE meter_current_status ADD CONSTRAINT never CHECK ({column} < 5)")
    summary = await send(ingest, [a_meter_reading("good"), a_meter_reading("bad", kwh_consumed_ac=6)])

    with psycopg.connect(database_url) as connection:
        for name in ("meter_telemetry_history", "meter_current_status", "meter_energy_hourly"):
            rows = connection.execute(f"SELECT meter_id FROM {name} JOIN meters USING (meter_key)").fetchall()
            assert rows == [("good",)]
    assert (summary.stored, summary.rejected) == (1, 1)
    assert summary.rejections[0].reason == wire.REJECTION_REASON_REFUSED_BY_DATABASE
    assert summary.rejections[0].index == 1


async def test_a_resend_counts_once(ingest: IngestionServiceAsyncStub, ask: AnalyticsServiceAsyncStub) -> None:
    readings = a_day_of_charging(7.4, 0.9, 60, 60)
    await map_them(ingest)
    first = await send(ingest, readings)
    before = await last_day(ask)
    again = await send(ingest, readings)

    assert (first.stored, first.duplicate) == (len(readings), 0)
    assert (again.stored, again.duplicate) == (0, len(readings))
    assert await last_day(ask) == before


async def test_mapping_a_vehicle_to_another_meter_leaves_the_past_alone(
    ingest: IngestionServiceAsyncStub, ask: AnalyticsServiceAsyncStub
) -> None:
    noon_us = NOW_US - US_PER_DAY // 2
    morning = analytics_wire.GetVehiclePerformanceRequest(
        vehicle_id="vehicle-001",
        window=analytics_wire.TimeWindow(start=proto_from_us(DAY_START_US), end=proto_from_us(noon_us)),
    )
    await map_them(ingest, "meter-001")
    await send(ingest, a_day_of_charging(7.4, 0.9, 60, 60))
    before = await undated(ask, morning)
    await map_them(ingest, "meter-002", from_us=noon_us)

    assert await undated(ask, morning) == before
    assert before.efficiency_ratio == pytest.approx(0.9, rel=1e-9)
    assert (await last_day(ask)).kwh_consumed_ac == pytest.approx(7.4 * 12, rel=1e-9)


async def test_no_alternating_current_data_is_not_zero_percent(
    ingest: IngestionServiceAsyncStub, ask: AnalyticsServiceAsyncStub
) -> None:
    await map_them(ingest)
    await send(ingest, [a_vehicle_reading()])

    answer = await last_day(ask)

    assert not answer.HasField("efficiency_ratio")
    assert not answer.HasField("kwh_consumed_ac")
    assert answer.verdict == analytics_wire.VERDICT_INSUFFICIENT_DATA
    assert not answer.alert
