"""Random charges within 28 days: what is normal for a vehicle is what a plain-Python model says, alone and in lists."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import pytest
from energyfleet.v1 import analytics_service_pb2 as wire
from energyfleet.v1 import ingestion_service_pb2 as ingestion_wire
from energyfleet.v1.telemetry_pb2 import Telemetry
from hypothesis import HealthCheck, Phase, event, given, settings
from hypothesis import strategies as st

from shared.timestamps import US_PER_DAY, US_PER_HOUR
from tests.acceptance.test_fleet_against_model import check_order, map_or_be_refused, present, window_of
from tests.baseline_model import baseline_ratio
from tests.builders import NOW_US, a_meter_reading, a_vehicle_reading
from tests.model import Model

if TYPE_CHECKING:  # in the stubs' types only
    from energyfleet.v1.analytics_service_pb2_grpc import AnalyticsServiceAsyncStub
    from energyfleet.v1.ingestion_service_pb2_grpc import IngestionServiceAsyncStub

VEHICLES = METERS = range(2)
TODAY_US = NOW_US // US_PER_DAY * US_PER_DAY
PARTS = 1_024
"""Of a kWh: sums of them have no rounding."""
STEP_US = US_PER_HOUR // 4

_examples = itertools.count()

# Some charges meet at the edges of the 28 days before today, yesterday and the day before, some lie anywhere in them.
days_back = st.one_of(st.integers(1, 4), st.integers(25, 32), st.integers(1, 32))
hours = st.one_of(st.sampled_from([0, 1, 22, 23]), st.integers(0, 23))
numbers = st.sampled_from(VEHICLES)


@dataclass(frozen=True)
class Charge:
    """Both sides report every `every` quarters of an hour, one of them some seconds late; the vehicle so much less. A
    side may keep its last hours to itself, or give some of it back."""

    vehicle: int
    meter: int
    day: int
    nights: int
    """As many in a row, up to the last one."""
    hour: int
    hours: int
    ratio: float
    meter_every: int
    vehicle_every: int
    late_s: int
    silent_vehicle_h: int
    silent_meter_h: int
    returned: float

    @property
    def starts_us(self) -> list[int]:
        days = range(self.day, max(self.day - self.nights, 0), -1)
        return [TODAY_US - day * US_PER_DAY + self.hour * US_PER_HOUR for day in days]


charges = st.builds(
    Charge,
    numbers,
    numbers,
    days_back,
    st.sampled_from([1, 1, 5, 30]),
    hours,
    st.one_of(st.integers(1, 5), st.sampled_from([24, 26, 50])),
    st.sampled_from([0.4, 0.7, 0.87, 0.9, 0.9, 0.9, 1.05]),
    st.sampled_from([1, 2, 4]),
    st.sampled_from([1, 2, 4]),
    st.sampled_from([0, 0, 7]),
    st.sampled_from([0, 0, 0, 1, 2]),
    st.sampled_from([0, 0, 0, 1, 2]),
    st.sampled_from([0.0, 0.0, 0.25, 2.0]),
)
habits = st.builds(
    Charge,
    numbers,
    numbers,
    st.just(30),
    st.just(30),
    hours,
    st.integers(1, 4),
    st.sampled_from([0.7, 0.87, 0.9]),
    st.sampled_from([1, 2, 4]),
    st.sampled_from([1, 2, 4]),
    st.sampled_from([0, 7]),
    st.just(0),
    st.just(0),
    st.just(0.0),
).map(lambda habit: replace(habit, meter=habit.vehicle))
# From long before, or beginning and ending within the days, on the hours or within them.
maps = st.tuples(
    numbers,
    numbers,
    st.sampled_from([40] * 30 + [*range(1, 30)]),
    st.integers(0, 24 * 4),
    st.booleans(),
    st.integers(0, 1),
)
windows = st.tuples(st.sampled_from([0, 1, 1, 2, 3]), st.integers(0, 95), st.sampled_from([1, 24, 96, 192]))


@dataclass(frozen=True)
class Happened:
    maps: list[tuple[int, int, int, int, bool, int]]
    charges: list[Charge]
    habits: list[Charge]
    late: list[Charge]
    later_maps: list[tuple[int, int, int, int, bool, int]]
    windows: list[tuple[int, int, int]]


always = [(number, number, 40, 0, False, 0) for number in VEHICLES]
happenings = st.builds(
    Happened,
    st.one_of(st.just(always), st.lists(maps, max_size=3).map(lambda some: always + some), st.lists(maps, max_size=3)),
    st.lists(charges, max_size=6),
    st.lists(habits, min_size=1, max_size=2),
    st.lists(charges, max_size=2),
    st.lists(maps, max_size=1),
    st.lists(windows, min_size=1, max_size=2),
)


@pytest.mark.timeout(600)
@settings(
    phases=[Phase.generate], max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(happened=happenings)
async def test_what_is_normal_for_a_vehicle_is_what_the_model_says_also_after_the_past_has_changed(
    happened: Happened, ingest: IngestionServiceAsyncStub, ask: AnalyticsServiceAsyncStub
) -> None:
    model, prefix = Model(), f"b{next(_examples)}-"
    await register(happened.maps, ingest, model, prefix)
    await send([*happened.charges, *happened.habits], ingest, model, prefix)
    await check(happened, ask, model, prefix)
    await send(happened.late, ingest, model, prefix)
    await check(happened, ask, model, prefix)
    await register(happened.later_maps, ingest, model, prefix)
    await check(happened, ask, model, prefix)


async def register(
    mappings: list[tuple[int, int, int, int, bool, int]], ingest: IngestionServiceAsyncStub, model: Model, prefix: str
) -> None:
    for vehicle, meter, day, quarter, join, beside_us in mappings:
        vehicle_id, meter_id = f"{prefix}v{vehicle}", f"{prefix}m{meter}"
        from_us = TODAY_US - day * US_PER_DAY + quarter * STEP_US + beside_us
        await map_or_be_refused(ingest, model, vehicle_id, meter_id, from_us, join=join)


async def send(charged: list[Charge], ingest: IngestionServiceAsyncStub, model: Model, prefix: str) -> None:
    for charge in charged:
        telemetry = [reading for start_us in charge.starts_us for reading in readings_of(charge, start_us, prefix)]
        if telemetry:
            await ingest.IngestTelemetry(ingestion_wire.IngestTelemetryRequest(readings=telemetry))
            model.send(telemetry)


def readings_of(charge: Charge, start_us: int, prefix: str) -> list[Telemetry]:
    found = []
    for of_vehicle, every, silent_h in (
        (True, charge.vehicle_every, charge.silent_vehicle_h),
        (False, charge.meter_every, charge.silent_meter_h),
    ):
        kwh = every / 4 * 8 * (round(charge.ratio * PARTS) / PARTS if of_vehicle else 1)
        for quarter in range(every, 4 * (charge.hours - silent_h) + 1, every):
            ts_us = start_us + quarter * STEP_US + (charge.late_s * 1_000_000 if of_vehicle else 0)
            if ts_us > NOW_US:
                continue
            if of_vehicle:
                found.append(a_vehicle_reading(f"{prefix}v{charge.vehicle}", ts_us, kwh))
            else:
                found.append(a_meter_reading(f"{prefix}m{charge.meter}", ts_us, kwh))
        if charge.returned:
            ts_us = start_us + US_PER_HOUR // 3
            if of_vehicle:
                found.append(a_vehicle_reading(f"{prefix}v{charge.vehicle}", ts_us, -charge.returned))
            else:
                found.append(a_meter_reading(f"{prefix}m{charge.meter}", ts_us, -charge.returned))
    return found


async def check(happened: Happened, ask: AnalyticsServiceAsyncStub, model: Model, prefix: str) -> None:
    known = [vehicle_id for number in VEHICLES if model.knows(vehicle_id := f"{prefix}v{number}")]
    for back, quarter, quarters in happened.windows:
        start_us = TODAY_US - back * US_PER_DAY + quarter * STEP_US
        window = window_of(start_us, start_us + quarters * STEP_US)
        expected = {vehicle_id: baseline_ratio(model, vehicle_id, start_us) for vehicle_id in known}
        # Before the lists, which may find out what they should have, too.
        singles = {
            vehicle_id: await ask.GetVehiclePerformance(
                wire.GetVehiclePerformanceRequest(vehicle_id=vehicle_id, window=window)
            )
            for vehicle_id in known
        }
        everybody, named = [
            await ask.ListVehiclePerformance(
                wire.ListVehiclePerformanceRequest(
                    window=window,
                    vehicle_ids=vehicle_ids,
                    alignment=wire.WINDOW_ALIGNMENT_EXACT,
                    order=wire.PERFORMANCE_ORDER_DROP,
                    page_size=1_000,
                )
            )
            for vehicle_ids in ([], known)
        ]
        check_order(list(everybody.vehicles), by="ratio_change")
        for answer in (everybody, named):
            rows = {row.vehicle_id: row for row in answer.vehicles if row.vehicle_id.startswith(prefix)}
            assert set(rows) == set(known)
            for vehicle_id, row in rows.items():
                one = singles[vehicle_id]
                event(f"{one.HasField('baseline_ratio')}, {one.HasField('ratio_change')}")
                check_one(one, expected[vehicle_id])
                check_one(row, expected[vehicle_id])
                assert row.verdict_reason == one.verdict_reason


def check_one(answer: wire.GetVehiclePerformanceResponse | wire.VehiclePerformance, expected: float | None) -> None:
    told = present(answer, "baseline_ratio")
    assert (told is None) == (expected is None), (told, expected)
    change = present(answer, "ratio_change")
    if told is None or expected is None:
        assert change is None
        return
    assert math.isclose(told, expected, rel_tol=1e-9)
    assert (change is None) == (not answer.HasField("comparison"))
    if change is None:
        return
    assert math.isclose(change, answer.comparison.efficiency_ratio - expected, rel_tol=1e-9, abs_tol=1e-9)
    dropped = [each for each in answer.findings if each.kind == wire.FINDING_KIND_RATIO_DROPPED]
    assert bool(dropped) <= (change <= -0.03 + 1e-9)
    for finding in dropped:
        assert (finding.baseline_ratio, finding.ratio_change) == (told, change)
        assert finding.text in answer.verdict_reason
