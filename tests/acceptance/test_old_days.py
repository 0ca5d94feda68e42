"""Days grow old: sealed ones answer as open ones did, and hours answer where readings are gone."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from energyfleet.v1 import analytics_service_pb2 as wire
from energyfleet.v1 import ingestion_service_pb2 as ingestion_wire
from energyfleet.v1.telemetry_pb2 import MeterReading, Telemetry

from shared.timestamps import US_PER_DAY, US_PER_HOUR, US_PER_MINUTE, proto_from_us, us_from_proto
from tests.ageing import Ageing
from tests.builders import a_meter_reading, a_vehicle_reading, us

if TYPE_CHECKING:  # in the stubs' types only
    from energyfleet.v1.analytics_service_pb2_grpc import AnalyticsServiceAsyncStub
    from energyfleet.v1.ingestion_service_pb2_grpc import IngestionServiceAsyncStub

FIRST_US = us("2026-02-05T00:00:00Z")
DAYS = 4
QUARTER_US = 15 * US_PER_MINUTE


def window(start_us: int, end_us: int) -> wire.TimeWindow:
    return wire.TimeWindow(start=proto_from_us(start_us), end=proto_from_us(end_us))


async def map_(ingest: IngestionServiceAsyncStub, vehicle_id: str, meter_id: str, from_us: int) -> None:
    await ingest.MapVehicle(
        ingestion_wire.MapVehicleRequest(
            vehicle_id=vehicle_id, meter_id=meter_id, effective_from=proto_from_us(from_us)
        )
    )


async def send(ingest: IngestionServiceAsyncStub, readings: list[Telemetry]) -> None:
    answer = await ingest.IngestTelemetry(ingestion_wire.IngestTelemetryRequest(readings=readings))
    assert answer.summary.stored == len(readings)


def coarse_days() -> list[Telemetry]:
    """A meter that shows whole kWh, on the first day tenths, and a car that charges too little each evening; the first
    reading of each day of the car is doubted."""
    readings = []
    register = 4_000.25
    for quarter in range(DAYS * 96):
        ts_us = FIRST_US + (quarter + 1) * QUARTER_US
        charging = quarter % 96 in range(72, 80)
        register = register + (quarter % 2 if charging else 0) if quarter % 96 else float(int(register) + 1)
        shown = MeterReading(meter_id="meter", timestamp=proto_from_us(ts_us), register_kwh=register)
        readings.append(Telemetry(meter=shown))
        kwh = 900.0 if quarter % 96 == 3 else 0.40625 * charging
        readings.append(a_vehicle_reading("car", ts_us, kwh, soc=quarter % 100, battery_temp=quarter % 32))
        readings.append(a_meter_reading("alone", ts_us + 7, 0.5 * charging))
    return readings


def questions() -> list[tuple[str, Any]]:
    windows = [
        window(FIRST_US + since_us, FIRST_US + until_us)
        for since_us, until_us in (
            (0, DAYS * US_PER_DAY),
            (17 * US_PER_HOUR + 1, 43 * US_PER_HOUR - 7),
            (US_PER_DAY - 1, US_PER_DAY),
            (US_PER_DAY + 19 * US_PER_HOUR - 30 * US_PER_MINUTE, 3 * US_PER_DAY + 20 * US_PER_HOUR + 71),
            (42 * US_PER_HOUR + 1, 43 * US_PER_HOUR),
        )
    ]
    asked: list[tuple[str, Any]] = []
    for each in windows:
        asked.append(("GetVehiclePerformance", wire.GetVehiclePerformanceRequest(vehicle_id="car", window=each)))
        for alignment in (wire.WINDOW_ALIGNMENT_EXACT, wire.WINDOW_ALIGNMENT_HOUR):
            asked += [
                (rpc, request(window=each, alignment=alignment))
                for rpc, request in (
                    ("ListVehiclePerformance", wire.ListVehiclePerformanceRequest),
                    ("ListMeterPerformance", wire.ListMeterPerformanceRequest),
                )
            ]
        for granularity in (wire.SERIES_GRANULARITY_HOUR, wire.SERIES_GRANULARITY_DAY):
            for zone in ("UTC", "Asia/Kolkata"):
                series = wire.GetPerformanceSeriesRequest(
                    vehicle_id="car", window=each, granularity=granularity, time_zone=zone
                )
                asked.append(("GetPerformanceSeries", series))
        asked.append(("ListChargingSessions", wire.ListChargingSessionsRequest(window=each, vehicle_id="car")))
        for meter_id in ("meter", "alone"):
            asked.append(("ListChargingSessions", wire.ListChargingSessionsRequest(window=each, meter_id=meter_id)))
    return asked


async def answers(ask: AnalyticsServiceAsyncStub) -> list[Any]:
    found = []
    for rpc, request in questions():
        answer = await getattr(ask, rpc)(request)
        answer.ClearField("as_of")
        found.append((rpc, request, answer))
    return found


async def test_sealed_days_answer_as_open_ones(
    ingest: IngestionServiceAsyncStub, ask: AnalyticsServiceAsyncStub, ageing: Ageing
) -> None:
    await map_(ingest, "car", "meter", FIRST_US - US_PER_DAY)
    await send(ingest, coarse_days())
    before = await answers(ask)
    whole = before[0][2]
    assert whole.evidence.vehicle_quality.doubted_readings == DAYS
    assert whole.evidence.meter_quality.register_baselines == 1
    assert any(
        finding.kind == wire.FINDING_KIND_TOO_COARSE
        for rpc, _, answer in before
        if rpc == "GetVehiclePerformance"
        for finding in answer.findings
    )
    assert any(len(answer.sessions) > 1 for rpc, _, answer in before if rpc == "ListChargingSessions")
    for steps in (7, 40, None):
        await ageing.seal(steps)
        for then, now in zip(before, await answers(ask), strict=True):
            assert now == then


async def test_what_was_too_coarse_to_accuse_is_so_when_no_register_shows_it_any_more(
    ingest: IngestionServiceAsyncStub, ask: AnalyticsServiceAsyncStub, ageing: Ageing
) -> None:
    """Ten whole kWh drawn and 8.4 delivered: of 9 or 11 kWh it may be 93 % or 76 %."""
    await map_(ingest, "car", "meter", FIRST_US - US_PER_DAY)
    shown = [4_000.0, *(4_000.0 + each for each in (2, 4, 7, 10)), 4_010.0]
    for place, register in enumerate(shown):
        ts_us = FIRST_US + (place + 6) * US_PER_HOUR
        meter = MeterReading(meter_id="meter", timestamp=proto_from_us(ts_us), register_kwh=register)
        taken = 2.1 if register not in shown[:place] and place else 0.0
        await send(ingest, [Telemetry(meter=meter), a_vehicle_reading("car", ts_us, taken)])

    async def verdicts() -> list[Any]:
        of_day = window(FIRST_US, FIRST_US + US_PER_DAY)
        one = await ask.GetVehiclePerformance(wire.GetVehiclePerformanceRequest(vehicle_id="car", window=of_day))
        vehicles = await ask.ListVehiclePerformance(wire.ListVehiclePerformanceRequest(window=of_day))
        meters = await ask.ListMeterPerformance(wire.ListMeterPerformanceRequest(window=of_day))
        answers = (one, vehicles.vehicles[0], meters.meters[0])
        return [(each.verdict, wire.FINDING_KIND_TOO_COARSE in [it.kind for it in each.findings]) for each in answers]

    assert await verdicts() == [(wire.VERDICT_INSUFFICIENT_DATA, True)] * 3
    ageing.drop_before(FIRST_US + US_PER_DAY, readings=True)
    assert await verdicts() == [(wire.VERDICT_INSUFFICIENT_DATA, True)] * 3


async def test_before_the_retention_floor_hours_answer_and_say_so(
    ingest: IngestionServiceAsyncStub, ask: AnalyticsServiceAsyncStub, ageing: Ageing
) -> None:
    floor_us = FIRST_US + US_PER_DAY
    moved_us = FIRST_US + 10 * US_PER_HOUR + 30 * US_PER_MINUTE
    await map_(ingest, "car", "first", FIRST_US)
    await map_(ingest, "car", "second", moved_us)
    readings = []
    for quarter in range(1, 2 * 96 + 1):
        ts_us = FIRST_US + quarter * QUARTER_US
        readings.append(a_vehicle_reading("car", ts_us, 0.875))
        readings += [a_meter_reading(meter_id, ts_us, 1.0) for meter_id in ("first", "second")]
    await send(ingest, readings)
    await ageing.seal()
    ageing.drop_before(floor_us, readings=True)
    start_us, end_us = FIRST_US + 8 * US_PER_HOUR + 7, FIRST_US + 32 * US_PER_HOUR + 20 * US_PER_MINUTE
    asked = window(start_us, end_us)
    aligned_us = FIRST_US + 8 * US_PER_HOUR

    one = await ask.GetVehiclePerformance(wire.GetVehiclePerformanceRequest(vehicle_id="car", window=asked))
    exact = wire.WINDOW_ALIGNMENT_EXACT
    listed = await ask.ListVehiclePerformance(wire.ListVehiclePerformanceRequest(window=asked, alignment=exact))
    meters = await ask.ListMeterPerformance(wire.ListMeterPerformanceRequest(window=asked, alignment=exact))
    series = await ask.GetPerformanceSeries(
        wire.GetPerformanceSeriesRequest(vehicle_id="car", window=asked, time_zone="Asia/Kolkata")
    )
    sessions = await ask.ListChargingSessions(wire.ListChargingSessionsRequest(vehicle_id="car", window=asked))
    for answer in (one, listed, meters, series, sessions):
        assert answer.window == window(aligned_us, end_us)
        assert answer.window_aligned
        assert us_from_proto(answer.readings_since) == floor_us
    quarters = 24 * 4 + 1
    assert (one.vehicle_readings, one.meter_readings) == (quarters, quarters)
    assert not one.evidence.HasField("first_vehicle_reading")
    # At half past ten: the nearest hour that begins after it.
    assert [us_from_proto(each.window.end) for each in one.evidence.mappings] == [FIRST_US + 11 * US_PER_HOUR, end_us]
    assert [each.meter_readings for each in one.evidence.mappings] == [12, quarters - 12]
    [row] = listed.vehicles
    assert (row.vehicle_readings, row.comparison.efficiency_ratio) == (quarters, 0.875)
    assert {each.meter_id: each.meter_readings for each in meters.meters} == {"first": 12, "second": quarters - 12}
    assert sum(each.vehicle_readings for each in series.buckets) == quarters
    assert all(us_from_proto(each.window.start) % US_PER_HOUR == 0 for each in series.buckets)
    [session] = sessions.sessions
    assert session.window == window(floor_us, end_us - 5 * US_PER_MINUTE)
    outside = (floor_us - aligned_us) // QUARTER_US * 0.875
    assert sessions.kwh_delivered_dc_outside == pytest.approx(outside)

    later = window(floor_us, end_us)
    exactly = await ask.GetVehiclePerformance(wire.GetVehiclePerformanceRequest(vehicle_id="car", window=later))
    assert not exactly.window_aligned
    assert not exactly.HasField("readings_since")
    long_ago = window(FIRST_US + 1, FIRST_US + 2 * US_PER_HOUR - 1)
    wholly = await ask.ListChargingSessions(wire.ListChargingSessionsRequest(vehicle_id="car", window=long_ago))
    assert wholly.window == window(FIRST_US, FIRST_US + 2 * US_PER_HOUR)
    assert (len(wholly.sessions), wholly.kwh_delivered_dc_outside) == (0, 7.0)
