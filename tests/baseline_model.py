"""What is normal for a vehicle, in plain Python, hour by hour. Slow, obvious, and without a database.

28 whole days in UTC end with the one before that in which the window starts. A charge is a run of hours in which a side
charged; it counts where it lies within them and between hours of the same kind, and where both sides charged in each of
its hours but the first and the last.
"""

from collections.abc import Callable
from typing import NamedTuple

from shared.timestamps import US_PER_DAY, US_PER_HOUR
from tests.charging_model import THRESHOLDS
from tests.model import Model

DAYS = 28

BASELINE_MIN_KWH = 20.0
"""Drawn; of less nothing is said."""


class Hour(NamedTuple):
    """What counts of an hour: what flowed in, and what of it flowed back, in kWh; 0 of a side that did not charge."""

    dc: float
    ac: float
    returned_dc: float
    returned_ac: float
    known: bool
    """Meters are mapped, and no mapping begins or ends in it or at its ends."""

    @property
    def charges(self) -> bool:
        return self.known and (self.dc > 0 or self.ac > 0)


NOTHING = 0.0, 0.0


def baseline_ratio(
    model: Model, vehicle_id: str, window_start_us: int, least_kwh: float = BASELINE_MIN_KWH
) -> float | None:
    """What is normal for the vehicle; None where too little was drawn to say."""
    counted = [charge for charge in charges(model, vehicle_id, window_start_us) if counts(charge)]
    dc, ac, returned_dc, returned_ac = (
        sum(hour[side] for charge in counted for hour in charge[1:-1]) for side in range(4)
    )
    if ac < least_kwh or ac <= 0:
        return None
    share = THRESHOLDS.returned_max_share
    much = returned_dc > share * dc or returned_ac > share * ac
    return dc / ac if much else (dc - returned_dc) / (ac - returned_ac)


def counts(charge: list[Hour]) -> bool:
    """Of a charge with the hour before it and the one after it."""
    before, *its, after = charge
    dc, ac = sum(hour.dc for hour in its), sum(hour.ac for hour in its)
    both = all(hour.dc > 0 and hour.ac > 0 for hour in its[1:-1])
    plausible = ac > 0 and 0.5 <= dc / ac <= THRESHOLDS.implausible_above
    return before.known and after.known and both and plausible


def charges(model: Model, vehicle_id: str, window_start_us: int) -> list[list[Hour]]:
    """The charges that lie within the days, each with the hour before it and the one after it. One that lasts through a
    whole day is none."""
    end_us = window_start_us // US_PER_DAY * US_PER_DAY
    hour_at = hours_of(model, vehicle_id)
    starts_us = range(end_us - DAYS * US_PER_DAY, end_us, US_PER_HOUR)
    hours = [hour_at(start_us) for start_us in starts_us]
    found = []
    first = None
    for at, hour in enumerate(hours):
        if hour.charges and first is None:
            first = at
        if not hour.charges and first is not None:
            through_a_day = any(first <= day * 24 and day * 24 + 24 <= at for day in range(DAYS))
            if first > 0 and not through_a_day:
                found.append(hours[first - 1 : at + 1])
            first = None
    return found


def hours_of(model: Model, vehicle_id: str) -> Callable[[int], Hour]:
    """Any hour of a vehicle, by its start."""
    mappings = [span for span in model.mappings if span.vehicle_id == vehicle_id]
    delivered = model.hourly(("vehicle", vehicle_id))
    drawn = {span.meter_id: model.hourly(("meter", span.meter_id)) for span in mappings}

    def hour(start_us: int) -> Hour:
        end_us = start_us + US_PER_HOUR
        fed_by = [
            span.meter_id
            for span in mappings
            if span.from_us <= start_us and (span.until_us is None or span.until_us >= end_us)
        ]
        edges_us = [us for span in mappings for us in (span.from_us, span.until_us) if us is not None]
        known = bool(fed_by) and not any(start_us <= us <= end_us for us in edges_us)
        dc, returned_dc = flowed(delivered, start_us)
        of_meters = [flowed(drawn[meter_id], start_us) for meter_id in fed_by]
        ac, returned_ac = sum(its[0] for its in of_meters), sum(its[1] for its in of_meters)
        if dc <= THRESHOLDS.standby_kw / 4:
            dc = returned_dc = 0.0
        if ac <= THRESHOLDS.standby_kw:
            ac = returned_ac = 0.0
        return Hour(dc, ac, returned_dc, returned_ac, known)

    return hour


def flowed(hourly: dict[int, tuple[float, float, int, int]], start_us: int) -> tuple[float, float]:
    """What flowed in within an hour, and what flowed back."""
    if start_us not in hourly:
        return NOTHING
    kwh, returned, *_ = hourly[start_us]
    return kwh + returned, returned
