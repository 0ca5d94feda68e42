"""Finds charging sessions: stretches of charging in which no pause is long. Pure.

Each device tells of charging by its readings: by stretches of them, and by readings after silence. Where in the silence
their energy belongs nobody knows, unless another device tells.
"""

from bisect import bisect_left
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from analytics_svc.charging import OUTAGE_H, SILENT_H, STANDBY_TAKEN_H
from analytics_svc.questions import Window
from shared.timestamps import US_PER_HOUR, US_PER_MINUTE

OUTAGE_US = round(OUTAGE_H * US_PER_HOUR)
SILENCE_US = round(SILENT_H * US_PER_HOUR)

PAUSE_US = 15 * US_PER_MINUTE
"""How long a pause may be unless configured otherwise: a quarter-hour metering interval."""

METER_OWED_H = 1.0
"""Hours of standby that a meter must draw within an hour, or owe after silence, to have charged."""

Time = tuple[int, int]
"""From when, exclusive, until when."""

Device = tuple[str, int]
"""Its kind and its key."""


@dataclass(frozen=True, slots=True)
class SessionRules:
    pause_us: int
    standby_kw: float

    def least_kwh(self, *, takes: bool) -> float:
        """Energy of a vehicle, which takes, or of a meter that is more than standby's of an hour."""
        return self.standby_kw * (STANDBY_TAKEN_H if takes else METER_OWED_H)

    def counted_h(self, *, takes: bool) -> float:
        """Of the hours that a reading stands for, those of standby that it must exceed: a vehicle has hardly any."""
        return STANDBY_TAKEN_H if takes else OUTAGE_H

    def looked_from(self, window: Window) -> int:
        """From when on readings are looked at: a session may have begun before its window."""
        return window.start_us - max(self.pause_us, SILENCE_US)


class Charge(NamedTuple):
    """A stretch of charging that a device tells of: its readings stand for it without a long pause."""

    device: Device
    begin_us: int
    end_us: int
    longest_us: int
    """The longest interval between its readings."""
    highest_kw: float | None
    """Of a vehicle, the highest mean power of an interval within the window."""


class SilenceEnded(NamedTuple):
    """A reading after silence, and the device's readings beside it: timestamp and kWh, None where there is none."""

    device: Device
    takes: bool
    """It is a vehicle's."""
    since_us: int
    """From when on it may stand for something: the beginning of a mapping."""
    ts_us: int
    kwh: float
    before_us: int | None
    earlier_us: int | None
    before_kwh: float | None
    next_us: int | None
    next_kwh: float | None

    @property
    def silent_us(self) -> Time:
        """The time that it stands for some of."""
        last_us = self.ts_us - OUTAGE_US
        return max(self.since_us, last_us, last_us if self.before_us is None else self.before_us), self.ts_us

    @property
    def interval_us(self) -> int:
        """The shorter one of the intervals of the readings beside it; 0 where none is known."""
        return min((interval_us for interval_us, _ in self._beside), default=0)

    @property
    def stands_for_us(self) -> int:
        """For how long it stands where nobody else tells: as long as its energy takes at the power of the readings
        beside it, but an interval of theirs at least. Where they tell nothing: all of the silence, or an hour if
        nothing was sent before."""
        power_kw = max((kwh / (interval_us / US_PER_HOUR) for interval_us, kwh in self._beside), default=0.0)
        if self.before_us is None:
            known_us = self.interval_us or US_PER_HOUR
            silent_us = OUTAGE_US
        else:
            known_us = self.interval_us if power_kw > 0 else OUTAGE_US
            silent_us = min(self.ts_us - self.before_us, OUTAGE_US)
        needed_us = min(self.kwh / power_kw, OUTAGE_H) * US_PER_HOUR if power_kw > 0 else 0
        return max(min(silent_us, max(known_us, round(needed_us))), 1)

    @property
    def _beside(self) -> list[tuple[int, float]]:
        """The intervals and energies of the readings beside it."""
        return [
            (ts_us - since_us, kwh)
            for since_us, ts_us, kwh in (
                (self.earlier_us, self.before_us, self.before_kwh),
                (self.ts_us, self.next_us, self.next_kwh),
            )
            if since_us is not None and ts_us is not None and kwh is not None
        ]


class SessionSpan(NamedTuple):
    """A session as far as a window has it."""

    begin_us: int
    end_us: int
    charged_until_us: int
    """Until when a device charged that tells by itself when; before the end where another one reported late."""
    begins_before: bool
    open: bool
    highest_kw: float | None


class _Piece(NamedTuple):
    begin_us: int
    end_us: int
    charged_until_us: int
    longest_us: int
    highest_kw: float | None


def busy_times(hours_us: Iterable[int], since_us: int, until_us: int) -> list[Time]:
    """The hours that begin at some times, with the one before and the one after each, as far as they lie within a time;
    joined where they meet."""
    found: list[Time] = []
    for hour_us in sorted(set(hours_us)):
        begin_us, end_us = max(hour_us - US_PER_HOUR, since_us), min(hour_us + 2 * US_PER_HOUR, until_us)
        if begin_us >= end_us:
            continue
        if found and begin_us <= found[-1][1]:
            found[-1] = found[-1][0], end_us
        else:
            found.append((begin_us, end_us))
    return found


def find_sessions(
    window: Window, charges: Sequence[Charge], readings: Sequence[SilenceEnded], rules: SessionRules
) -> list[SessionSpan]:
    """The sessions of a vehicle, or of a meter alone, by time."""
    pieces = [
        _Piece(each.begin_us, each.end_us, each.end_us, each.longest_us, each.highest_kw)
        for each in charges
        if each.begin_us < each.end_us
    ]
    by_device: dict[Device, list[Charge]] = defaultdict(list)
    for charge in sorted(charges, key=lambda each: each.begin_us):
        by_device[charge.device].append(charge)
    for reading in readings:
        others = [its for device, its in by_device.items() if device != reading.device]
        pieces.extend(_pieces_of(reading, window, others, rules))
    return [
        SessionSpan(
            max(each.begin_us, window.start_us),
            each.end_us,
            each.charged_until_us,
            each.begin_us < window.start_us,
            window.end_us - each.end_us <= max(rules.pause_us, each.longest_us),
            each.highest_kw,
        )
        for each in _joined(pieces, rules.pause_us)
        if each.end_us > window.start_us
    ]


def _pieces_of(
    reading: SilenceEnded, window: Window, others: Sequence[Sequence[Charge]], rules: SessionRules
) -> Iterator[_Piece]:
    """What a reading after silence adds: it belongs to what another device charged in the silence; else it stands
    alone, if it is more than standby."""
    silent_from_us, ts_us = reading.silent_us
    stands_for_us = reading.stands_for_us
    if reading.kwh > rules.least_kwh(takes=reading.takes):
        told = _told_by(reading, others, rules.pause_us)
        if told is not None:
            if told.end_us < ts_us:
                yield _Piece(told.end_us, ts_us, told.end_us, told.longest_us, None)
            return
        if any(_begins_within(charges, ts_us, ts_us + rules.pause_us) for charges in others):
            stands_for_us = min(stands_for_us, reading.interval_us or rules.pause_us)
    begin_us = max(ts_us - stands_for_us, silent_from_us)
    hours = stands_for_us / US_PER_HOUR
    charged = reading.kwh > rules.standby_kw * min(hours, rules.counted_h(takes=reading.takes))
    if charged and begin_us < ts_us:
        power_kw = None
        if reading.takes and ts_us > window.start_us:
            power_kw = reading.kwh / (reading.stands_for_us / US_PER_HOUR)
        yield _Piece(begin_us, ts_us, ts_us, min(reading.interval_us, SILENCE_US), power_kw)


def _told_by(reading: SilenceEnded, others: Sequence[Sequence[Charge]], pause_us: int) -> Charge | None:
    """The charging of another device that a reading after silence belongs to: that in which it came, or soon after
    which. Else, unless another one begins soon, the longest part of the silence, if it is longer than a pause or all of
    a charge. Of equal ones the last."""
    silent_from_us, ts_us = reading.silent_us
    found: tuple[tuple[bool, int, int], Charge] | None = None
    for charges in others:
        at = bisect_left(charges, ts_us, key=_begins)
        while at > 0 and charges[at - 1].end_us > silent_from_us:
            at -= 1
            charge = charges[at]
            common_us = min(charge.end_us, ts_us) - max(charge.begin_us, silent_from_us)
            soon = ts_us <= charge.end_us + pause_us
            if soon or common_us >= min(pause_us, charge.end_us - charge.begin_us):
                place = (soon, 0 if soon else common_us, charge.end_us)
                if found is None or place > found[0]:
                    found = place, charge
    if found is None:
        return None
    (soon, *_), charge = found
    begins = any(_begins_within(charges, ts_us, ts_us + pause_us) for charges in others)
    return charge if soon or not begins else None


def _begins(charge: Charge) -> int:
    return charge.begin_us


def _begins_within(charges: Sequence[Charge], first_us: int, last_us: int) -> bool:
    """Whether one of a device's charges begins in a time, both ends included."""
    at = bisect_left(charges, first_us, key=_begins)
    return at < len(charges) and charges[at].begin_us <= last_us


def _joined(pieces: Iterable[_Piece], pause_us: int) -> list[_Piece]:
    """Pieces with no long pause between any two of them as one: none longer than the longest interval of either."""
    found: list[tuple[_Piece, int]] = []
    """Each with the time up to which a pause after it is not long."""
    for each in sorted(pieces, key=lambda each: each[:4]):
        piece, reach_us = each, each.end_us + max(pause_us, each.longest_us)
        while found:
            last, last_reach_us = found[-1]
            if each.begin_us > max(last_reach_us, last.end_us + max(pause_us, each.longest_us)):
                break
            powers = [its.highest_kw for its in (last, piece) if its.highest_kw is not None]
            piece = _Piece(
                last.begin_us,
                max(last.end_us, piece.end_us),
                max(last.charged_until_us, piece.charged_until_us),
                max(last.longest_us, piece.longest_us),
                max(powers, default=None),
            )
            reach_us = max(reach_us, last_reach_us)
            found.pop()
        found.append((piece, reach_us))
    return [piece for piece, _ in found]
