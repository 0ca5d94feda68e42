"""Finds, filters and orders the devices that somebody should look at. Pure."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, Self

import numpy as np

from analytics_svc.charging import Counts, Flags, Places, Times
from analytics_svc.freshness import ClockEvidence, Freshness
from analytics_svc.questions import DeviceOrder, DeviceQuestion, DeviceState
from shared.db.device_kind import METER, VEHICLE, DeviceKind
from shared.timestamps import EPOCH_2000_US, US_PER_MINUTE

ABSENT = -(1 << 63)
"""In the place of a time, an age or a count that a device does not have."""

CLOCK_AHEAD_MAX_US = US_PER_MINUTE
"""By how much a clock may be ahead: as verdicts allow for, see `stretches.LEVEL_US`."""

FRESHNESS_OF = {
    DeviceState.ONLINE: Freshness.ONLINE,
    DeviceState.STALE: Freshness.STALE,
    DeviceState.NO_READING: Freshness.NO_READING,
}
"""Of the states of which each device has one."""


@dataclass(frozen=True, slots=True)
class Devices:
    """What is known of devices: a column of each, with a value for each device."""

    ids: Sequence[str]
    vehicle: Flags
    """Which are vehicles; the others are meters."""
    newest_us: Times
    """ABSENT where no reading was stored."""
    newest_age_us: Counts
    """At its arrival; ABSENT where only rejected readings came."""
    late_readings: Counts
    """ABSENT where there is no clock evidence."""
    future_readings: Counts
    conflicting_readings: Counts
    rejected_readings: Counts
    rejected_by_time: Counts
    """Those of them whose timestamps were the reason."""
    omitted_values: Counts
    doubted_readings: Counts
    last_refused_us: Times
    """ABSENT where nothing was refused."""

    def __len__(self) -> int:
        return len(self.ids)

    @classmethod
    def of(cls, kind: DeviceKind, row: Any) -> Self:
        """From the row of DEVICES."""
        ids = row.ids.split("\n") if row.ids else []
        columns = {each.name: _unpacked(getattr(row, each.name)) for each in fields(cls)[2:]}
        for name in ("newest_us", "last_refused_us"):
            its = columns[name]
            columns[name] = np.where(its == ABSENT, ABSENT, its + EPOCH_2000_US)
        return cls(ids, np.full(len(ids), kind is VEHICLE), **columns)

    @classmethod
    def joined(cls, parts: Sequence["Devices"]) -> "Devices":
        columns = (np.concatenate([getattr(part, each.name) for part in parts]) for each in fields(cls)[1:])
        return cls([device_id for part in parts for device_id in part.ids], *columns)

    def at(self, places: Places) -> "Devices":
        columns = (getattr(self, each.name)[places] for each in fields(self)[1:])
        return Devices([self.ids[place] for place in places.tolist()], *columns)

    def clock_evidence(self, place: int) -> ClockEvidence | None:
        late = self.late_readings.item(place)
        if late == ABSENT:
            return None
        return ClockEvidence(
            or_none(self.newest_age_us.item(place)),
            late,
            self.future_readings.item(place),
            self.conflicting_readings.item(place),
        )

    def states(self, now_us: int, stale_after_us: int) -> dict[DeviceState, Flags]:
        """Which are in each state."""
        none = self.newest_us == ABSENT
        stale = ~none & (now_us - np.where(none, 0, self.newest_us) > stale_after_us)
        age_us = np.where(self.newest_age_us == ABSENT, 0, self.newest_age_us)
        wrong = (age_us < -CLOCK_AHEAD_MAX_US) | (age_us > stale_after_us)
        wrong |= (self.future_readings > 0) | (self.conflicting_readings > 0) | (self.rejected_by_time > 0)
        return {
            DeviceState.ONLINE: ~none & ~stale,
            DeviceState.STALE: stale,
            DeviceState.NO_READING: none,
            DeviceState.CLOCK_OFF: wrong,
            DeviceState.REFUSED: (self.rejected_readings > 0) | (self.omitted_values > 0),
            DeviceState.DOUBTED: self.doubted_readings > 0,
        }

    def ordered(self, order: DeviceOrder) -> Places:
        """Their places in an order; of equal ones vehicles come first and then lower ids, as they stand here."""
        match order:
            case DeviceOrder.FRESHNESS:
                ranks = [self.newest_us]
            case DeviceOrder.CLOCK:
                seen = self.newest_age_us != ABSENT
                only_rejected = ~seen & ((self.late_readings != ABSENT) | (self.rejected_by_time > 0))
                away_us = np.where(seen, np.abs(np.where(seen, self.newest_age_us, 0)), -1)
                ranks = [~only_rejected, -away_us, -self.rejected_by_time]
            case DeviceOrder.REFUSED:
                ranks = [-(self.rejected_readings + self.omitted_values), -np.maximum(self.last_refused_us, 0)]
            case DeviceOrder.DOUBTED:
                ranks = [-self.doubted_readings]
        found: Places = np.lexsort(ranks[::-1])
        return found


@dataclass(frozen=True, slots=True)
class DeviceResult:
    """The answer to a DeviceQuestion, of which pages are parts."""

    found: Devices
    """Those that have one of the question's states, in its order."""
    states: Mapping[DeviceState, Flags]
    """Of those."""
    counts: Mapping[DeviceState, tuple[int, int]]
    """Vehicles and meters in each state, whatever states were asked for."""
    now_us: int
    as_of_us: int

    @property
    def rows(self) -> int:
        return len(self.found)

    @property
    def positions(self) -> Sequence[int]:
        return range(len(self.found))


def device_result(
    question: DeviceQuestion, devices: Devices, now_us: int, stale_after_us: int, as_of_us: int
) -> DeviceResult:
    """Of all devices of the kinds asked about, vehicles before meters and each by their ids."""
    states = devices.states(now_us, stale_after_us)
    counts = {
        state: (int((which & devices.vehicle).sum()), int((which & ~devices.vehicle).sum()))
        for state, which in states.items()
    }
    places = devices.ordered(question.order)
    if question.states:
        places = places[np.any([states[state] for state in question.states], axis=0)[places]]
    of_those = {state: which[places] for state, which in states.items()}
    return DeviceResult(devices.at(places), of_those, counts, now_us, as_of_us)


def kinds_of(question: DeviceQuestion) -> Sequence[DeviceKind]:
    """The kinds asked about, in the order in which they are listed."""
    return [kind for kind in (VEHICLE, METER) if question.kind in (None, kind)]


def or_none(value: int) -> int | None:
    return None if value == ABSENT else value


def _unpacked(packed: bytes | None) -> Counts:
    return np.frombuffer(packed or b"", dtype=">i8").astype(np.int64)
