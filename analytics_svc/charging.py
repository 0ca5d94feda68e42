"""Finds the hours in which vehicles charged, and the runs of them. Pure, for many spans at a time.

All tables are hour by hour, `[1 + hours, spans]`: a column is a span of time in which the same meters fed a vehicle,
row 0 is the hour before it, and the rows after it are the hours `(h, h + 1 h]` of a window, as far as the span has a
part of them. A span that begins later than the window has empty hours at first.
"""

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from shared.timestamps import US_PER_HOUR, US_PER_MINUTE

Numbers = NDArray[np.float64]
Counts = NDArray[np.int64]
Times = NDArray[np.int64]
Places = NDArray[np.intp]
Flags = NDArray[np.bool_]

NO_READING = -(1 << 61)
"""In the place of a timestamp, before all that there may be."""

STANDBY_TAKEN_H = 0.25
"""Hours of standby's power that a vehicle must take within an hour to be charging: a quarter of an hour of it."""

MANY_SPANS = 64
"""Spans of which a step for each hour is quicker than a step for each span."""

OUTAGE_H = 72.0
"""Hours that a reading's energy is taken to stand for at most: what is longer says little about power."""

SILENT_H = 1.5
"""A reading that stands for more hours than this came after silence: devices report once an hour or more often."""

_LEVEL_US = 5 * US_PER_MINUTE


class SideHours(NamedTuple):
    """What one side reported: the vehicle, or the meters that fed it together."""

    kwh: Numbers
    """What flowed in; whatever flowed back is not taken off."""
    kwh_returned: Numbers
    readings: Counts
    last_us: Times
    """The last reading up to each hour's end, of several meters the earliest of theirs; NO_READING in none since the
    hour before the span."""


class Spans(NamedTuple):
    """Spans of vehicles within one window."""

    window_start_us: int
    """The hours are counted from the one in which the window starts."""
    starts_us: Times
    """`[spans]`"""
    ends_us: Times
    """`[1 + hours, spans]`: where each hour's part of the span ends; that of row 0 is its start."""
    vehicle: SideHours
    meters: SideHours


class Hours(NamedTuple):
    """What is known of each hour of some spans."""

    draws: Flags
    """The meters drew more than standby."""
    takes: Flags
    """The vehicle charged."""
    charging: Flags
    """One of the two, within the span."""
    nothing_taken: Flags
    """The meters drew more than standby, and the vehicle says that it took nothing."""
    stands_for_h: Numbers
    """For how many hours what the meters drew stands."""
    after_silence: Flags
    """Whether those are more than `SILENT_H`."""


@dataclass(frozen=True, slots=True)
class Runs:
    """Hours in a row in which a side charged, by span and then by time; `[runs]`."""

    span: Places
    first: Places
    last: Places

    def __len__(self) -> int:
        return len(self.span)


def accumulated(table: NDArray[Any], add: np.ufunc = np.add) -> NDArray[Any]:
    """The sums, or others, of each hour and those before it: of many spans hour by hour, as they lie in memory."""
    if table.shape[1] < MANY_SPANS:
        return add.accumulate(table, axis=0)
    found = np.empty_like(table)
    found[0] = table[0]
    for hour in range(1, len(table)):
        add(found[hour - 1], table[hour], out=found[hour])
    return found


def before(last_us: Times) -> Times:
    """The last reading up to each hour's beginning."""
    shifted = np.empty_like(last_us)
    shifted[0] = NO_READING
    shifted[1:] = last_us[:-1]
    return shifted


def hours_of(spans: Spans, standby_kw: float) -> Hours:
    """Tells charging from standby by the mean power over the time that readings stand for."""
    vehicle, meters = spans.vehicle, spans.meters
    before_us = before(meters.last_us)
    stands_for_h = np.minimum((meters.last_us - before_us) / US_PER_HOUR, OUTAGE_H)
    stands_for_h[before_us == NO_READING] = 1.0
    draws = meters.kwh > standby_kw * stands_for_h
    takes = vehicle.kwh > standby_kw * STANDBY_TAKEN_H
    after_silence = stands_for_h > SILENT_H
    if np.count_nonzero(after_silence):
        beside = takes.copy()
        beside[:-1] |= takes[1:]
        beside[1:] |= takes[:-1]
        draws |= after_silence & beside & (meters.kwh > standby_kw)
    charging = draws | takes
    charging[0] = False
    nothing_taken = draws & ~takes
    if np.count_nonzero(nothing_taken):
        quiet = ~takes & (vehicle.readings > 0)
        nothing_taken &= quiet
        quiet |= (spans.ends_us <= spans.starts_us) & quiet[0]  # in the empty hours before a span as in the one before
        begins_us = np.concatenate([spans.ends_us[:1] - US_PER_HOUR, spans.ends_us[:-1]])
        of_the_hour = before_us >= begins_us - _LEVEL_US
        of_the_hour[1:] |= quiet[:-1]
        nothing_taken &= of_the_hour
    return Hours(draws, takes, charging, nothing_taken, stands_for_h, after_silence)


def runs_of(hours: Hours) -> Runs:
    """The runs; hours in which nothing was taken are runs of their own."""
    charging = hours.charging
    goes_on = charging[:-1] & charging[1:] & (hours.nothing_taken[:-1] == hours.nothing_taken[1:])
    begins, ends = charging.copy(), charging.copy()
    begins[1:] &= ~goes_on
    ends[:-1] &= ~goes_on
    hours_of_span = len(charging)
    span, first = np.divmod(np.ascontiguousarray(begins.T).ravel().nonzero()[0], hours_of_span)
    return Runs(span, first, np.ascontiguousarray(ends.T).ravel().nonzero()[0] % hours_of_span)
