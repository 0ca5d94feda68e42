"""What was reported of what happened: devices with their cadences, clocks, habits and outages."""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import NamedTuple

import numpy as np

from analytics_svc.charging import Numbers, Times
from benchmarks.verdicts.year import YEAR_START_US, YEAR_US, Curve
from shared.timestamps import US_PER_HOUR, US_PER_MINUTE, US_PER_SECOND

CADENCES_S = (1, 10, 60, 300, 900, 1_800, 3_600)

CLOCK_OFF_MAX_US = 60 * US_PER_SECOND
CLOCKS_OFF = 0.7
"""Share of the clocks that are off."""

OUTAGES = 4
"""Of a device in a year, on average."""

OUTAGE_MEAN_H, OUTAGE_MAX_H = 12.0, 72.0

LATE, LATE_MEAN_US = 0.01, 5 * US_PER_MINUTE
"""Share of the readings that come late, alone, and by how much."""

REPEATED = 0.01
"""Share of the readings that come once more."""

_BACK_H = (2, 12, 120, 1_000, 24 * 366)
"""How far back the reading before some others is looked for: seldom farther than the first of these."""


NOT_BY_ITSELF = 0


class Habit(StrEnum):
    """When a device reports; the values are what listings print."""

    ALWAYS = "always"
    CHARGING = "charging"
    """Only while energy flows, and once some seconds after it has stopped."""
    AFTERWARDS = "afterwards"
    """Once after each whole charge."""


class Outage(NamedTuple):
    since_us: int
    until_us: int
    kept: bool
    """Readings are delivered late; else what flowed meanwhile comes in one piece."""
    back_us: int
    """When they are; or when what came in one piece does, NOT_BY_ITSELF where it is in the next reading."""


@dataclass(frozen=True, slots=True)
class Readings:
    """As they came: `[readings]`, repeated ones among them."""

    ts_us: Times
    kwh: Numbers


@dataclass(frozen=True, slots=True)
class Device:
    flow: Curve
    flows: Times
    """`[charges, 2]`: from when until when it feeds or charges."""
    habit: Habit
    cadence_us: int
    phase_us: int
    """By its own clock, from a whole cadence."""
    clock_ahead_us: int
    closes_us: int
    """How long after the end of a charge it reports that."""
    registers: bool
    """Sends a register: energy that has not come yet is in the next reading that has."""
    outages: Sequence[Outage]

    def readings(self, since_us: int, until_us: int, dice: np.random.Generator) -> Readings:
        """What had arrived at `until_us` of the readings with timestamps `since_us < ts_us <= until_us`."""
        asked_us = until_us
        measured_us = self._measured_us(since_us - self.clock_ahead_us, until_us - self.clock_ahead_us, asked_us)
        late = dice.random(len(measured_us)) < LATE
        arrived = measured_us + np.where(late, dice.exponential(LATE_MEAN_US, len(measured_us)), 0) <= asked_us
        for outage in self.outages:
            if outage.kept and outage.since_us < asked_us < outage.back_us:
                arrived &= (measured_us <= outage.since_us) | (measured_us > outage.until_us)
        if self.registers:
            measured_us, arrived = measured_us[arrived], arrived[arrived]
        before_us = self._last_before_us(since_us - self.clock_ahead_us, asked_us)
        kwh = np.diff(self.flow.upto(np.append(before_us, measured_us)))
        ts_us, kwh = measured_us[arrived] + self.clock_ahead_us, kwh[arrived]
        again = np.flatnonzero(dice.random(len(ts_us)) < REPEATED)
        return Readings(np.append(ts_us, ts_us[again]), np.append(kwh, kwh[again]))

    def _measured_us(self, after_us: int, until_us: int, asked_us: int) -> Times:
        """When it measures what it sends, within `after_us < t <= until_us` by the true time, ascending."""
        match self.habit:
            case Habit.ALWAYS:
                found = self._ticks_us(after_us, until_us)
            case Habit.CHARGING:
                found = np.concatenate([self._closing_us(after_us, until_us), *self._while_flowing(after_us, until_us)])
            case Habit.AFTERWARDS:
                found = self._closing_us(after_us, until_us)
        for outage in self.outages:
            if outage.until_us <= after_us or outage.since_us >= until_us:
                continue
            if outage.kept and not (self.registers and asked_us < outage.back_us):
                continue
            found = found[(found <= outage.since_us) | (found > outage.until_us)]
            if not outage.kept and after_us < outage.back_us <= until_us:
                found = np.append(found, outage.back_us)
        found.sort()
        return found[np.diff(found, prepend=after_us) > 0]

    def _ticks_us(self, after_us: int, until_us: int) -> Times:
        shift_us = self.phase_us - self.clock_ahead_us
        first, last = ((us - shift_us) // self.cadence_us for us in (after_us, until_us))
        return np.arange(first + 1, last + 1, dtype=np.int64) * self.cadence_us + shift_us

    def _while_flowing(self, after_us: int, until_us: int) -> list[Times]:
        starts_us, ends_us = self.flows[:, 0], self.flows[:, 1]
        its = slice(int(np.searchsorted(ends_us, after_us)), int(np.searchsorted(starts_us, until_us)))
        return [
            self._ticks_us(max(after_us, start_us), min(until_us, end_us))
            for start_us, end_us in self.flows[its].tolist()
        ]

    def _closing_us(self, after_us: int, until_us: int) -> Times:
        closed_us = self.flows[:, 1] + self.closes_us
        return closed_us[(closed_us > after_us) & (closed_us <= until_us)]

    def _last_before_us(self, us: int, asked_us: int) -> int:
        """When it measured last, up to an instant."""
        for back_h in _BACK_H:
            found = self._measured_us(us - back_h * US_PER_HOUR, us, asked_us)
            if len(found):
                return int(found[-1])
        return YEAR_START_US


def a_device(flow: Curve, flows: Times, habit: Habit, dice: np.random.Generator) -> Device:
    cadence_us = int(dice.choice(CADENCES_S)) * US_PER_SECOND
    phases_us = [0, int(dice.integers(US_PER_SECOND, 60 * US_PER_SECOND)), int(dice.integers(cadence_us))]
    ahead_us = dice.integers(-CLOCK_OFF_MAX_US, CLOCK_OFF_MAX_US + 1)
    closes_max_us = 15 * US_PER_MINUTE if habit is Habit.AFTERWARDS else US_PER_MINUTE
    return Device(
        flow,
        flows,
        habit,
        cadence_us,
        phase_us=int(dice.choice(phases_us)),
        clock_ahead_us=int(ahead_us) if dice.random() < CLOCKS_OFF else 0,
        closes_us=int(dice.integers(US_PER_SECOND, closes_max_us)),
        registers=bool(dice.random() < 0.5),
        outages=_outages(dice),
    )


def _outages(dice: np.random.Generator) -> list[Outage]:
    """Of a year, in their order, none within another."""
    outages: list[Outage] = []
    for since_us in np.sort(YEAR_START_US + dice.integers(YEAR_US, size=dice.poisson(OUTAGES))).tolist():
        until_us = since_us + round(min(dice.exponential(OUTAGE_MEAN_H), OUTAGE_MAX_H) * US_PER_HOUR)
        kept = bool(dice.random() < 0.5)
        delay_us = int(dice.integers(US_PER_SECOND, US_PER_HOUR))
        back_us = until_us + delay_us if kept or dice.random() < 0.5 else NOT_BY_ITSELF
        if not outages or since_us > outages[-1].until_us:
            outages.append(Outage(since_us, until_us, kept, back_us))
    return outages
