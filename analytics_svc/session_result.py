"""Charging sessions with what vehicle and meters reported in them, and how each is judged. Pure."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from analytics_svc.questions import Window
from analytics_svc.sessions import SessionSpan
from analytics_svc.span_tables import VehicleHours, evidence_of, feedings_of, totals_of
from analytics_svc.stretches import CompareLimits
from analytics_svc.totals import Evidence, Feeding, FleetTotals
from shared.timestamps import US_PER_HOUR

SESSION_ROWS = 25
"""Rows of a list of vehicles that take as much memory as a session: up to 10 KiB."""


class MeterSums(NamedTuple):
    """What a meter reported; energy in kWh."""

    kwh: float = 0.0
    kwh_returned: float = 0.0
    readings: int = 0


@dataclass(frozen=True, slots=True)
class VehicleDetails:
    """What of a session only its readings know."""

    soc_at_start: float | None
    soc_at_end: float | None
    vehicle_quality: Mapping[str, int]
    meter_quality: Mapping[str, int]
    similar_ids: Sequence[str]


@dataclass(frozen=True, slots=True)
class ChargingSession:
    """A session of a vehicle, with its hours; or of a meter alone, with its sums and without an id."""

    vehicle_id: str
    span: SessionSpan
    meter_ids: Mapping[int, str]
    """Of all meters that fed it, by key."""
    hours: VehicleHours | None = None
    details: VehicleDetails | None = None
    sums: MeterSums | None = None
    baseline_sums: NDArray[np.float64] | None = None
    """What the vehicle charged on the 28 days before."""

    @property
    def window(self) -> Window:
        return Window(self.span.begin_us, self.span.end_us)

    @property
    def feedings(self) -> list[Feeding]:
        """What each meter drew in it, by start and then by meter."""
        if self.hours is not None:
            return feedings_of(self.hours.mappings, self.meter_ids)
        assert self.sums is not None
        sums = self.sums
        [meter_id] = self.meter_ids.values()
        kwh, returned = (sums.kwh, sums.kwh_returned) if sums.readings else (None, None)
        return [Feeding(meter_id, self.span.begin_us, self.span.end_us, kwh, sums.readings, returned)]

    @property
    def mean_power_kw(self) -> float | None:
        """Of the vehicle, while it charged."""
        lasted_us = self.span.charged_until_us - self.span.begin_us
        if self.hours is None or lasted_us <= 0:
            return None
        own = [span.vehicle.sums for span in self.hours.spans]
        if not any(each.readings for each in own):
            return None
        return sum(each.kwh + each.kwh_returned for each in own) / (lasted_us / US_PER_HOUR)

    def totals(self, limits: CompareLimits) -> tuple[FleetTotals, Evidence]:
        """Those of a vehicle's session, as a question about the vehicle in its window has them."""
        assert self.hours is not None
        assert self.details is not None
        totals, stretches = totals_of(self.window, [self.vehicle_id], [self.hours], limits)
        return totals, evidence_of(
            self.hours,
            stretches,
            vehicle_quality=self.details.vehicle_quality,
            meter_quality=self.details.meter_quality,
            similar_vehicle_ids=self.details.similar_ids,
            baseline_sums=self.baseline_sums,
        )


@dataclass(frozen=True, slots=True)
class SessionResult:
    """The sessions of a window by time, of which pages are parts, and what lies in none of them."""

    window: Window
    sessions: Sequence[ChargingSession]
    kwh_delivered_dc_outside: float | None
    kwh_consumed_ac_outside: float | None
    as_of_us: int

    @property
    def rows(self) -> int:
        return len(self.sessions) * SESSION_ROWS

    @property
    def positions(self) -> Sequence[int]:
        return range(len(self.sessions))
