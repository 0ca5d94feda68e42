"""Energy that flows back: stored as it was sent, netted in the totals, told apart everywhere."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from energyfleet.v1 import analytics_service_pb2 as wire
from energyfleet.v1 import ingestion_service_pb2 as ingestion_wire

from shared.timestamps import US_PER_DAY, US_PER_HOUR, proto_from_us
from tests.builders import NOW_US, a_meter_reading, a_vehicle_reading
from tests.verified import differences

if TYPE_CHECKING:  # in the stubs' types only
    from energyfleet.v1.analytics_service_pb2_grpc import AnalyticsServiceAsyncStub
    from energyfleet.v1.ingestion_service_pb2_grpc import IngestionServiceAsyncStub

MIDNIGHT_US = NOW_US // US_PER_DAY * US_PER_DAY
DAY = wire.TimeWindow(start=proto_from_us(MIDNIGHT_US - US_PER_DAY), end=proto_from_us(MIDNIGHT_US))
QUARTER_US = US_PER_HOUR // 4


def quarters(from_hour: int, kwh: list[float]) -> list[tuple[int, float]]:
    """Timestamps and energies of quarter hours from an hour of the day before midnight."""
    start_us = MIDNIGHT_US - US_PER_DAY + from_hour * US_PER_HOUR
    return [(start_us + (place + 1) * QUARTER_US, each) for place, each in enumerate(kwh)]


async def send(ingest: IngestionServiceAsyncStub, meter: list[tuple[int, float]], car: list[tuple[int, float]]) -> None:
    """Of a pair that is mapped all day."""
    await ingest.MapVehicle(
        ingestion_wire.MapVehicleRequest(vehicle_id="car", meter_id="meter", effective_from=DAY.start)
    )
    readings = [a_meter_reading("meter", ts_us, kwh) for ts_us, kwh in meter]
    readings += [a_vehicle_reading("car", ts_us, kwh) for ts_us, kwh in car]
    answer = await ingest.IngestTelemetry(ingestion_wire.IngestTelemetryRequest(readings=readings))
    assert answer.summary.stored == len(readings)


async def ask_one(ask: AnalyticsServiceAsyncStub) -> wire.GetVehiclePerformanceResponse:
    return await ask.GetVehiclePerformance(wire.GetVehiclePerformanceRequest(vehicle_id="car", window=DAY))


def energies(answer: Any) -> tuple[float, ...]:
    """Delivered, drawn, returned out of the battery and into the grid."""
    return answer.kwh_delivered_dc, answer.kwh_consumed_ac, answer.kwh_returned_dc, answer.kwh_returned_ac


async def test_a_v2g_car_is_judged_by_how_it_charges_and_what_it_returned_is_told_apart(
    ingest: IngestionServiceAsyncStub, ask: AnalyticsServiceAsyncStub, database_url: str
) -> None:
    """Eight times 2.5 kWh drawn and 2.3 delivered, then eight times 2.0 taken out of the battery and 1.8 given."""
    await send(
        ingest, quarters(12, [2.5] * 8) + quarters(18, [-1.8] * 8), quarters(12, [2.3] * 8) + quarters(18, [-2.0] * 8)
    )
    one = await ask_one(ask)
    assert energies(one) == pytest.approx((18.4 - 16.0, 20.0 - 14.4, 16.0, 14.4))
    assert (one.verdict, one.alert) == (wire.VERDICT_OK, "")
    assert "18.400 kWh were delivered of 20.000 kWh drawn, 92.0 %" in one.verdict_reason
    assert one.efficiency_ratio == pytest.approx(2.4 / 5.6)
    assert one.kwh_lost == pytest.approx(1.6 + 1.6)
    [feeding] = one.evidence.mappings
    assert (feeding.kwh_consumed_ac, feeding.kwh_returned_ac) == pytest.approx((5.6, 14.4))
    assert one.thresholds.returned_max_share == 0.01

    for ids in ([], ["car"]):  # out of memory, and added up by the database
        listed = await ask.ListVehiclePerformance(wire.ListVehiclePerformanceRequest(window=DAY, vehicle_ids=ids))
        [row] = listed.vehicles
        for each in (row, listed.totals, listed.totals.by_verdict[0]):
            assert energies(each) == pytest.approx(energies(one))
        assert (row.verdict, row.verdict_reason) == (one.verdict, one.verdict_reason)

    series = await ask.GetPerformanceSeries(
        wire.GetPerformanceSeriesRequest(vehicle_id="car", window=DAY, granularity=wire.SERIES_GRANULARITY_HOUR)
    )
    told = {hour: each for hour, each in enumerate(series.buckets) if not each.empty}
    assert list(told) == [12, 13, 18, 19]
    assert energies(told[12]) == pytest.approx((9.2, 10.0, 0.0, 0.0))
    assert energies(told[18]) == pytest.approx((-8.0, -7.2, 8.0, 7.2))
    assert told[12].HasField("kwh_returned_ac")
    assert not told[18].HasField("efficiency_ratio")
    assert not series.buckets[0].HasField("kwh_returned_dc")
    assert await differences(database_url) == []


async def test_a_counter_that_steps_back_nets_by_itself(
    ingest: IngestionServiceAsyncStub, ask: AnalyticsServiceAsyncStub
) -> None:
    """0.275 kWh, not 0.294: more than a hundredth, so that the verdict still goes by what flowed in."""
    await send(ingest, quarters(18, [0.1] * 4), quarters(18, [0.120, 0.024, -0.019, 0.150]))
    answer = await ask_one(ask)
    assert energies(answer) == pytest.approx((0.275, 0.4, 0.019, 0.0))
    assert answer.efficiency_ratio == pytest.approx(0.6875)


async def test_a_small_step_back_changes_the_ratio_that_is_judged(
    ingest: IngestionServiceAsyncStub, ask: AnalyticsServiceAsyncStub
) -> None:
    await send(ingest, quarters(18, [2.0] * 4), quarters(18, [1.8, 1.8, -0.05, 1.85]))
    answer = await ask_one(ask)
    assert energies(answer) == pytest.approx((5.4, 8.0, 0.05, 0.0))
    assert answer.verdict_reason.startswith("5.400 kWh were delivered of 8.000 kWh drawn, 67.5 %")


async def test_the_worst_charger_comes_before_a_healthy_car_that_gives_back(
    ingest: IngestionServiceAsyncStub, ask: AnalyticsServiceAsyncStub
) -> None:
    await send(ingest, quarters(12, [2.5, -2.0]), quarters(12, [2.3, -2.2]))
    await ingest.MapVehicle(
        ingestion_wire.MapVehicleRequest(vehicle_id="worn", meter_id="other", effective_from=DAY.start)
    )
    [(ts_us, _)] = quarters(12, [0.0])
    readings = [a_meter_reading("other", ts_us, 2.0), a_vehicle_reading("worn", ts_us, 1.4)]
    await ingest.IngestTelemetry(ingestion_wire.IngestTelemetryRequest(readings=readings))
    listed = await ask.ListVehiclePerformance(wire.ListVehiclePerformanceRequest(window=DAY))
    assert [each.vehicle_id for each in listed.vehicles] == ["worn", "car"]
    assert listed.vehicles[1].efficiency_ratio < listed.vehicles[0].efficiency_ratio
