"""Stretches of charging: runs of hours in which a side charged, joined where a silent side reports in a later one."""

from dataclasses import dataclass
from enum import IntEnum

import numpy as np

from analytics_svc.charging import NO_READING, Flags, Hours, Numbers, Places, Runs, SideHours, Spans, Times, accumulated
from shared.timestamps import US_PER_HOUR, US_PER_MINUTE

LEVEL_US = 2 * US_PER_MINUTE
"""Two sides whose last readings lie so close together are level: each clock may be off by a minute."""

MORE_THAN_AN_HOUR = 1.5
"""How many times the most of another hour a first reading must have to stand for more than an hour."""

MOST_OF_AN_HOUR = 0.8
"""Share of the most that a stretch draws in an hour; an hour of so much is one of charging."""

HALF_REPORTED = 0.5
"""A ratio below it is no worn charger's, but one of a vehicle that fell silent."""

PRECONDITIONING_KWH = 1.0
"""What a car may have drawn for itself within the hours before: half an hour of heating."""

UNCERTAIN_KWH = 1.0
"""What a car may have drawn for itself within the minutes before it reports that it charges."""


class Aside(IntEnum):
    """Why charging is not compared."""

    NOTHING_TAKEN = 0
    """The meters drew it, and the vehicle took nothing meanwhile."""
    NOTHING_DRAWN = 1
    """The vehicle took it, and the meters drew nothing meanwhile."""
    UNDER_WAY = 2
    """A side has yet to report its part."""
    SILENT = 3
    """A side fell silent and has not come back."""
    BEYOND = 4
    """It cannot be told from what was charged before the span."""


@dataclass(frozen=True, slots=True)
class CompareLimits:
    standby_kw: float
    low_efficiency_below: float
    implausible_above: float


class Sums:
    """Sums over the charging hours of a table, from one to another."""

    def __init__(self, table: Numbers, charging: Flags) -> None:
        self._upto = accumulated(np.where(charging, table, 0.0))

    def within(self, span: Places, first: Places, last: Places) -> Numbers:
        within: Numbers = self._upto[last, span] - self._upto[first - 1, span]
        return within


class Stretches:
    """The work on all runs and stretches at once. `dc` and `ac` are the sums of stretches, `*_less` and `*_more` by how
    much they may be less or more."""

    def __init__(self, spans: Spans, hours: Hours, runs: Runs, limits: CompareLimits) -> None:
        self.spans, self.hours, self.limits = spans, hours, limits
        self.vehicle, self.meters = spans.vehicle, spans.meters
        self.charging = hours.charging
        self.dc_sums = Sums(self.vehicle.kwh, self.charging)
        self.ac_sums = Sums(self.meters.kwh, self.charging)
        self._join(runs)

    def out_of_range(self) -> Flags:
        """Whose ratio may accuse somebody."""
        low = self.dc < self.limits.low_efficiency_below * self.ac
        return low | (self.dc > self.limits.implausible_above * self.ac)

    def _join(self, runs: Runs) -> None:
        """Makes stretches of runs. A run of the meters alone before a vehicle's report may be something else, such as
        preconditioning: `unclaimed`."""
        span, first, last = runs.span, runs.first, runs.last
        dc, ac = self.dc_sums.within(span, first, last), self.ac_sums.within(span, first, last)
        draws = ac > 0
        if np.count_nonzero(self.charging & ~self.hours.draws):
            draws = _any_within(self.hours.draws, span, first, last)
            ac[~draws] = 0.0  # no more than standby
        takes = dc > 0
        nothing = self.hours.nothing_taken[first, span]
        same = span[1:] == span[:-1]
        joined, unclaimed = np.zeros((2, len(runs)), np.bool_)
        claimed = ac
        if np.count_nonzero(same):
            # A late report comes at once: a vehicle that reports for hours what no meter drew has another clock.
            at_once = draws | (self.vehicle.kwh[first, span] >= dc / 2)
            both, limit = takes & draws, self.limits.implausible_above
            few_dc, few_ac = both & (dc < HALF_REPORTED * ac), both & (dc > limit * ac)
            by_vehicle = self._owed(runs, self.vehicle, self.meters, draws & ~nothing, takes & at_once, few_dc)
            by_meters = self._owed(runs, self.meters, self.vehicle, takes, draws, few_ac)
            adjoining = same & nothing[:-1] & (first[1:] == last[:-1] + 1) & ~nothing[1:]
            joined[1:] = by_vehicle | by_meters | adjoining
            unclaimed[:-1] = (by_vehicle | adjoining) & ~takes[:-1] & draws[1:]
            # Of an hour in which the vehicle said that it took nothing, what may have come after it said so.
            lag_us = self.meters.last_us[last, span] - self.vehicle.last_us[last, span]
            since_h = np.clip(lag_us / US_PER_HOUR, 0, 1)[:-1]
            late = np.minimum(self.meters.kwh[last, span][:-1], 1.3 * self.meters.kwh[first, span][1:] * since_h)
            claimed = np.where(unclaimed, 0.0, ac)
            claimed[:-1] += np.where(unclaimed[:-1] & adjoining, np.minimum(ac[:-1], late), 0.0)

        self.span, self.first, self.last = span, first, last
        self.dc, self.ac, self.nothing_taken = dc, claimed, nothing
        if np.count_nonzero(joined):
            begins = (~joined).nonzero()[0]
            ends = np.append(begins[1:], len(runs)) - 1
            self.span, self.first, self.last = span[begins], first[begins], last[ends]
            self.dc, self.ac = np.add.reduceat(dc, begins), np.add.reduceat(claimed, begins)
            self.nothing_taken = nothing[begins] & (begins == ends)
        self.dc[self.nothing_taken] = 0.0  # less than charging, or what rounding leaves of nothing
        count = len(self.span)
        self.ac_less, self.ac_more, self.dc_less, self.dc_more, self.unclaimed_ac = np.zeros((5, count))
        self.open_end, self.silent_end, self.estimated_end, self.open_beginning = np.zeros((4, count), np.bool_)
        self.off_dc, self.off_ac = np.zeros((2, count))
        self.first_known = self.first.copy()
        if np.count_nonzero(unclaimed):  # of the next run, to which it is joined
            unclaimed_ac = np.add.reduceat(ac - claimed, begins)
            needed = (unclaimed_ac > 0) & ((self.ac <= 0) | (self.dc > self.limits.implausible_above * self.ac))
            self.ac += np.where(needed, unclaimed_ac, 0.0)
            self.unclaimed_ac = np.where(needed, 0.0, unclaimed_ac)
            doubted = np.minimum(np.add.reduceat(np.where(unclaimed, claimed, 0.0), begins), UNCERTAIN_KWH)
            spare = np.clip(self.ac - self.dc / self.limits.implausible_above, 0.0, PRECONDITIONING_KWH)
            self.ac_less += np.where(needed, np.minimum(unclaimed_ac, spare), 0.0) + doubted
        self.both = (self.dc > 0) & (self.ac > 0)
        self.cut_first, self.cut_last = self.first, self.last
        self.aside: dict[Aside, tuple[Numbers, Numbers]] = {}

    def _owed(
        self, runs: Runs, side: SideHours, other: SideHours, charges: Flags, reports: Flags, little: Flags
    ) -> Flags:
        """At the end of each run but the last: whether a side has yet to report a part of what the other one charged,
        as it has reported `little`, or nothing for an hour, and says nothing until it reports energy in the next run or
        in a later one."""
        span, first, last = runs.span, runs.first, runs.last
        table = self.hours.draws if other is self.meters else self.hours.takes
        charged_last = np.where(table[last, span], last, np.maximum(last - 1, first))
        quiet_us = np.maximum(other.last_us[charged_last - 1, span], self.spans.ends_us[charged_last - 1, span])
        owes = charges & ((quiet_us >= side.last_us[last, span]) | little)
        silent = (span[1:] == span[:-1]) & (side.last_us[first[1:] - 1, span[1:]] == side.last_us[last[:-1], span[:-1]])
        waits = owes[:-1] & silent
        found: Flags = waits & reports[1:]
        if waits.any():
            waits &= side.last_us[last[1:], span[1:]] == side.last_us[last[:-1], span[:-1]]
            while (more := waits[:-1] & found[1:] & ~found[:-1]).any():
                found[:-1] |= more
        return found

    def fresh(self, side: SideHours) -> Flags:
        """Whether a side had sent nothing for an hour before the span, nor in it before the stretch."""
        fresh: Flags = side.last_us[self.first - 1, self.span] == NO_READING
        return fresh

    def crosses(self, side: SideHours) -> Flags:
        """Whether a side's first reading of a stretch stands for time from before the span, too."""
        crosses: Flags = side.last_us[self.first - 1, self.span] <= self.spans.starts_us[self.span]
        return crosses

    def may_owe_energy(self) -> Flags:
        """Whether meters that were silent before a stretch were so by a fault: they report at standby elsewhere in the
        span, or far more in the first hour than was charged. Others report only while they feed."""
        idle, hour = self.reports_idle(self.meters), self.first
        reported = self.vehicle.readings[hour, self.span] > 0
        charged = np.where(reported, self.vehicle.kwh[hour, self.span], self.dc)
        far_more = charged < HALF_REPORTED * self.meters.kwh[hour, self.span]
        may_owe: Flags = far_more | idle
        return may_owe

    def reports_idle(self, side: SideHours) -> Flags:
        """Whether a side reports in hours of the span in which nothing was charged, and little flowed."""
        idle: Flags = ~self.charging[1:] & (side.readings[1:] > 0) & (side.kwh[1:] <= self.limits.standby_kw)
        reports: Flags = np.any(idle, axis=0)[self.span]
        return reports

    def first_report(self, at: int) -> int:
        """The hour of a stretch in which the vehicle reports first; its first hour if it does in none."""
        readings = self.vehicle.readings[self.first[at] : self.last[at] + 1, self.span[at]]
        return int(self.first[at]) + int((readings > 0).argmax())

    def at_end(self) -> Flags:
        at_end: Flags = self.spans.ends_us[self.last, self.span] >= self.spans.ends_us[-1, self.span]
        return at_end

    def idle(self) -> Flags:
        idle = ~self.charging
        idle[0] = False
        return idle

    def hour_number(self, span: Places, us: Times) -> Places:
        """The row of the hour that a timestamp lies in; 0 before the span."""
        number = (us - 1) // US_PER_HOUR - self.spans.window_start_us // US_PER_HOUR + 1
        return np.where(us <= self.spans.starts_us[span], 0, np.minimum(number, len(self.spans.ends_us) - 1))

    def set_aside(self, reason: Aside, which: Flags) -> None:
        """Sets whole stretches aside."""
        at = which.nonzero()[0]
        if not len(at):
            return
        self.add_aside(reason, at, self.dc[at], self.ac[at])
        self.dc[at] = self.ac[at] = 0.0

    def take_off(self, reason: Aside, dc: Numbers, ac: Numbers) -> None:
        """Takes estimates off all stretches."""
        self.dc -= dc
        self.ac -= ac
        self.off_dc += dc
        self.off_ac += ac
        self.add_aside(reason, np.arange(len(dc)), dc, ac)

    def add_aside(self, reason: Aside, at: Places, dc: Numbers, ac: Numbers) -> None:
        sums = self.aside.setdefault(reason, (np.zeros(len(self.span)), np.zeros(len(self.span))))
        sums[0][at] += dc
        sums[1][at] += ac


def _any_within(flags: Flags, span: Places, first: Places, last: Places) -> Flags:
    """Whether any is set from one hour to another."""
    upto = accumulated(flags.astype(np.int16))
    return upto[last, span] > upto[first - 1, span]
