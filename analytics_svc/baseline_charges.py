"""What vehicles charged on the 28 days before a window. Pure, for many vehicles at a time.

Charges are compared as wholes: runs of hours in which a side charged, with what both sides reported in them. So it does
not matter where in an hour readings lie, nor how often they come. Where it cannot be told whether both sides reported a
charge whole, it is left out: there are others. `docs/verdicts.md` explains it.

Sums of days make those of the 28, so that days need not be looked at again: `of_hours` finds what a time has, and
`add_joined` adds the charges that go on over midnight.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from analytics_svc.charging import STANDBY_TAKEN_H, Flags
from analytics_svc.questions import Window
from analytics_svc.stretches import HALF_REPORTED, CompareLimits
from shared.timestamps import TIMESTAMP_MIN_US, US_PER_DAY

BASELINE_DAYS = 28
"""Four weeks: as many of each weekday."""

DAY_H = 24

Sums = NDArray[np.float64]
"""`[4, vehicles]` in kWh: what was delivered and drawn, and what of either flowed back."""


class BaselineHours(NamedTuple):
    """Hours of vehicles, from a midnight in UTC on; `[hours, vehicles]`."""

    flowed: NDArray[np.float64]
    """`[4, hours, vehicles]`, as Sums; whatever flowed back is not taken off."""
    known: Flags
    """Meters fed the vehicle, and no mapping began or ended within the hour or at its ends."""


class Edge(NamedTuple):
    """A charge at the beginning or the end of a time: a part, perhaps."""

    places: NDArray[np.intp]
    """Of the vehicles that have one."""
    sums: Sums
    """Theirs."""
    whole: Flags
    """Theirs: whether it counts if it does not go on beyond."""
    goes_on: Flags
    """Theirs: whether it counts if it does and the other part counts as well."""


class Charges(NamedTuple):
    """What some hours of vehicles have."""

    sums: Sums
    """Of the charges that lie within."""
    quiet_first: Flags
    """Whether it is known of the first hour that nobody charged; of the last one likewise."""
    quiet_last: Flags
    head: Edge
    tail: Edge


def side_by_side(parts: Sequence[Charges]) -> Charges:
    """Those of slices of vehicles, one after another."""
    firsts = np.cumsum([0, *(part.sums.shape[1] for part in parts)])

    def edges(its: Sequence[Edge]) -> Edge:
        return Edge(
            np.concatenate([edge.places + first for edge, first in zip(its, firsts, strict=False)]),
            np.concatenate([edge.sums for edge in its], axis=1),
            np.concatenate([edge.whole for edge in its]),
            np.concatenate([edge.goes_on for edge in its]),
        )

    return Charges(
        np.concatenate([part.sums for part in parts], axis=1),
        np.concatenate([part.quiet_first for part in parts]),
        np.concatenate([part.quiet_last for part in parts]),
        edges([part.head for part in parts]),
        edges([part.tail for part in parts]),
    )


def baseline_window(window: Window) -> Window:
    """The 28 whole days in UTC before the one in which a window starts: the same for all that start on a day."""
    end_us = window.start_us // US_PER_DAY * US_PER_DAY
    return Window(max(end_us - BASELINE_DAYS * US_PER_DAY, TIMESTAMP_MIN_US), end_us)


def of_hours(hours: BaselineHours, limits: CompareLimits) -> Charges:
    """What hours have; they are changed."""
    dc, ac, *_ = flowed = hours.flowed
    takes, draws = dc > limits.standby_kw * STANDBY_TAKEN_H, ac > limits.standby_kw
    takes &= hours.known
    draws &= hours.known
    flowed[::2] *= takes
    flowed[1::2] *= draws
    charging, alone = takes | draws, takes ^ draws
    count, vehicles = charging.shape
    begins, ends = charging.copy(), charging.copy()
    begins[1:] &= ~charging[:-1]
    ends[:-1] &= ~charging[1:]
    vehicle, first = np.ascontiguousarray(begins.T).nonzero()
    last = np.ascontiguousarray(ends.T).nonzero()[1]
    upto = np.zeros((5, count + 1, vehicles))
    np.cumsum(flowed, axis=1, out=upto[:4, 1:])
    np.cumsum(alone, axis=0, out=upto[4, 1:])
    sums = upto[:4, last + 1, vehicle] - upto[:4, first, vehicle]

    def both(since: NDArray[np.intp], until: NDArray[np.intp]) -> Flags:
        """Whether both sides charged in all hours from one to before another."""
        all_of: Flags = (until <= since) | (upto[4, np.maximum(until, since), vehicle] == upto[4, since, vehicle])
        return all_of

    at_start, at_end = first == 0, last == count - 1
    before = hours.known[np.maximum(first, 1) - 1, vehicle] | at_start
    after = hours.known[np.minimum(last + 2, count) - 1, vehicle] | at_end
    short = -(-first // DAY_H) * DAY_H + DAY_H > last + 1
    counts = before & after & short
    whole = counts & both(first + 1, last)
    inner = whole & ~at_start & ~at_end & _plausible(sums, limits)
    own = np.zeros((4, vehicles))
    for side in range(4):
        own[side] = np.bincount(vehicle[inner], weights=sums[side, inner], minlength=vehicles)
    head = at_start & short
    tail = at_end & short
    return Charges(
        own,
        hours.known[0] & ~charging[0],
        hours.known[-1] & ~charging[-1],
        Edge(vehicle[head], sums[:, head], whole[head], (counts & both(first, last))[head]),
        Edge(vehicle[tail], sums[:, tail], whole[tail], (counts & both(first + 1, last + 1))[tail]),
    )


def add_joined(sums: Sums, day: Charges, following: Charges, limits: CompareLimits) -> None:
    """Adds the charges that go on from a day into the next one, or end with its midnight."""
    tail, head = day.tail, following.head
    vehicles = sums.shape[1]
    counts, goes_on = np.zeros((2, vehicles), np.bool_)
    parts = np.zeros((4, vehicles))
    counts[tail.places], goes_on[tail.places] = tail.whole, tail.goes_on
    counts &= following.quiet_first
    parts[:, tail.places] = tail.sums
    its = head.places
    counts[its] = np.where(day.quiet_last[its], head.whole, goes_on[its] & head.goes_on)
    parts[:, its] += head.sums
    counts &= _plausible(parts, limits)
    sums[:, counts] += parts[:, counts]


def sums_of(hours: BaselineHours, limits: CompareLimits) -> Sums:
    """What all of the 28 days have; the hours are changed."""
    return of_hours(hours, limits).sums if len(hours.known) else np.zeros((4, hours.known.shape[1]))


def _plausible(sums: Sums, limits: CompareLimits) -> Flags:
    """Whether sums are those of one charge that both sides reported whole."""
    dc, ac, *_ = sums
    plausible: Flags = (ac > 0) & (dc >= HALF_REPORTED * ac) & (dc <= limits.implausible_above * ac)
    return plausible
