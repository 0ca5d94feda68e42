"""What is compared of a span with one charge that both sides report from end to end, as many spans have.

`comparison` finds the same of any spans, whatever was reported in them; of one span it is several times the work.
"""

from typing import NamedTuple

import numpy as np

from analytics_svc.charging import NO_READING, SILENT_H, STANDBY_TAKEN_H, Spans
from analytics_svc.stretches import CompareLimits
from shared.timestamps import US_PER_HOUR


class PlainCharge(NamedTuple):
    """A charge that is compared as it is: none of it is estimated, cut or set aside, and it accuses nobody."""

    first: int
    """The row of its first hour."""
    last: int
    dc: float
    """In kWh, as what follows."""
    ac: float
    ac_squared_kw: float
    """By its mean power, which is weighted by energy."""
    idle: float
    """What the meters drew beside it."""


def plain_charge(spans: Spans, limits: CompareLimits) -> PlainCharge | None:
    """The charge of a span, to the last bit as `comparison` finds it, where it is the only one and a plain one: in each
    hour both sides charge or none does, no reading came after silence, nothing flowed back, and where the charge or the
    span begins or ends no side is ahead. None otherwise, and of several spans."""
    vehicle, meters = spans.vehicle, spans.meters
    if len(spans.starts_us) != 1:
        return None
    if np.count_nonzero(vehicle.kwh_returned) or np.count_nonzero(meters.kwh_returned):
        return None
    taken, drawn = (side.kwh.ravel().tolist() for side in (vehicle, meters))
    vehicle_us, meters_us = (side.last_us.ravel().tolist() for side in (vehicle, meters))
    standby_kw, standby_taken_kwh = limits.standby_kw, limits.standby_kw * STANDBY_TAKEN_H
    first = last = 0
    dc = ac = ac_kwh_kw = 0.0
    before_us = NO_READING
    for hour, (its_dc, its_ac, last_us) in enumerate(zip(taken, drawn, meters_us, strict=True)):
        stands_for_h = 1.0 if before_us == NO_READING else (last_us - before_us) / US_PER_HOUR
        before_us = last_us
        takes, draws = its_dc > standby_taken_kwh, its_ac > standby_kw * stands_for_h
        if hour == 0:
            if (takes or draws) and vehicle_us[0] != last_us:
                return None
        elif stands_for_h > SILENT_H or takes != draws or (takes and 0 < last < hour - 1):
            return None
        elif takes:
            first, last = first or hour, hour
            dc += its_dc
            ac += its_ac
            ac_kwh_kw += its_ac * its_ac / max(stands_for_h, 1.0)
    ahead = vehicle_us[last] != meters_us[last]
    if not first or (ahead and (vehicle_us[-1] == vehicle_us[last] or meters_us[-1] == meters_us[last])):
        return None
    if not limits.low_efficiency_below * ac <= dc <= limits.implausible_above * ac:
        return None
    idle = meters.kwh[1:].copy()
    idle[first - 1 : last] = 0.0
    return PlainCharge(first, last, dc, ac, ac * (ac_kwh_kw / ac), np.add.reduce(idle).item())
