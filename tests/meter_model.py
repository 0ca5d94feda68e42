"""The vehicles that a meter fed, in plain Python: what must come out of whatever was sent."""

import itertools
import math
from dataclasses import dataclass

from tests.charging_model import FedSpan, Judged, judge_vehicle
from tests.model import Model, Span, returned


@dataclass
class MeterPerformance:
    """Of a window `start_us < t <= end_us`; sums are None where nothing was reported."""

    vehicle_ids: list[str]
    mappings: int
    shared_with: list[str]
    ac: float | None
    """What it drew while it fed."""
    returned_ac: float | None
    unmapped: float | None
    """What it drew while it fed nobody."""
    dc: float | None
    """What the vehicles took meanwhile."""
    returned_dc: float | None
    meter_readings: int
    unmapped_readings: int
    vehicle_readings: int
    judged: Judged

    @property
    def verdict(self) -> str:
        verdict = self.judged.performance.verdict
        return "VERDICT_INSUFFICIENT_DATA" if verdict == "VERDICT_NO_METER" else verdict

    @property
    def ratio(self) -> float | None:
        if self.shared_with or self.dc is None or self.ac is None or self.returned_ac is None:
            return None
        return self.dc / self.ac if self.ac > 1e-9 * self.returned_ac else None

    @property
    def lost(self) -> float | None:
        return None if self.shared_with or self.dc is None or self.ac is None else self.ac - self.dc

    @property
    def idle(self) -> float | None:
        return None if self.ac is None else self.judged.idle


def known_meter(model: Model, meter_id: str) -> bool:
    """Whether the meter was ever heard of."""
    mapped = any(mapping.meter_id == meter_id for mapping in model.mappings)
    return mapped or bool(model.history.get(("meter", meter_id)))


def meter_performance(model: Model, meter_id: str, start_us: int, end_us: int) -> MeterPerformance:
    within = model.mapped_within(start_us, end_us)
    its = [mapping for mapping in within if mapping.meter_id == meter_id]
    drawn = {ts: kwh for ts, kwh in model.energies(("meter", meter_id)).items() if start_us < ts <= end_us}
    ac = [kwh for ts, kwh in drawn.items() if any(mapping.holds(ts) for mapping in its)]
    unmapped = [kwh for ts, kwh in drawn.items() if not any(mapping.holds(ts) for mapping in its)]
    dc: list[float] = []
    spans: list[FedSpan] = []
    shared_with: set[str] = set()
    for mapping in its:
        until_us = mapping.until_us or end_us
        taken = model.energies(("vehicle", mapping.vehicle_id))
        dc += [kwh for ts, kwh in taken.items() if mapping.from_us < ts <= until_us]
        beside = [other for other in within if other.vehicle_id == mapping.vehicle_id]
        for since_us, to_us in itertools.pairwise(_edges(mapping, beside, end_us)):
            feeding = [each for each in beside if each.from_us <= since_us and to_us <= (each.until_us or end_us)]
            drew = [model.energies_of_span(("meter", each.meter_id), since_us) for each in feeding]
            took = model.energies_of_span(("vehicle", mapping.vehicle_id), since_us)
            spans.append(FedSpan(since_us, to_us, took, drew))
            shared_with |= {each.meter_id for each in feeding} - {meter_id}
    return MeterPerformance(
        vehicle_ids=sorted({mapping.vehicle_id for mapping in its}),
        mappings=len(its),
        shared_with=sorted(shared_with),
        ac=math.fsum(ac) if ac else None,
        returned_ac=returned(ac) if ac else None,
        unmapped=math.fsum(unmapped) if unmapped else None,
        dc=math.fsum(dc) if dc else None,
        returned_dc=returned(dc) if dc else None,
        meter_readings=len(ac),
        unmapped_readings=len(unmapped),
        vehicle_readings=len(dc),
        judged=judge_vehicle((start_us, end_us), spans, mappings=len(its), dc=dc, ac=ac),
    )


def _edges(mapping: Span, beside: list[Span], end_us: int) -> list[int]:
    """The times within a mapping at which other meters begin or cease to feed the vehicle, and its ends."""
    first_us, last_us = mapping.from_us, mapping.until_us or end_us
    times = {each.from_us for each in beside} | {each.until_us or end_us for each in beside}
    return sorted(time_us for time_us in times if first_us <= time_us <= last_us)
