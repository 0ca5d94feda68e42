"""Charging sessions in plain Python, reading by reading and pair by pair: slow, obvious, and without a database."""

import functools
import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from shared.timestamps import US_PER_HOUR, US_PER_SECOND
from tests.model import Device, Model

STANDBY_KW = 0.2
SILENCE_US = 3 * US_PER_HOUR // 2
OUTAGE_US = 72 * US_PER_HOUR


@dataclass(frozen=True)
class Session:
    begin_us: int
    end_us: int
    charged_until_us: int
    begins_before: bool
    open: bool
    highest_kw: float | None


@dataclass(frozen=True)
class Part:
    """A device, and when what it sends belongs to the sessions."""

    device: Device
    since_us: int
    until_us: int

    @property
    def is_vehicle(self) -> bool:
        return self.device[0] == "vehicle"


@dataclass(frozen=True)
class Reading:
    part: Part
    ts_us: int
    kwh: float
    earlier: tuple[int, float] | None
    """Of the device's readings the second one before it, the one before it and the one after it, if they count."""
    before: tuple[int, float] | None
    after: tuple[int, float] | None

    @property
    def gap_us(self) -> int | None:
        return None if self.before is None else self.ts_us - self.before[0]

    @property
    def intervals(self) -> list[tuple[int, float]]:
        """How long the readings beside it stand for, and their energy."""
        found = []
        if self.before is not None and self.earlier is not None:
            found.append((self.before[0] - self.earlier[0], self.before[1]))
        if self.after is not None:
            found.append((self.after[0] - self.ts_us, self.after[1]))
        return found

    def is_sure(self, pause_us: int) -> bool:
        """Whether it stands for all of its gap."""
        if self.gap_us is None:
            return False
        usual = all(2 * self.gap_us <= 3 * interval_us for interval_us, _ in self.intervals)
        return self.gap_us <= pause_us or (self.gap_us <= SILENCE_US and usual)

    def charges_for(self, us: int) -> bool:
        """Whether it is more than standby for so long; a vehicle has standby of a quarter of an hour at most."""
        hours = us / US_PER_SECOND / 3600
        return self.kwh > STANDBY_KW * (min(hours, 0.25) if self.part.is_vehicle else hours)


@dataclass(frozen=True)
class Stretch:
    begin_us: int
    end_us: int
    charged_until_us: int
    longest_us: int
    powers: tuple[float, ...]

    def joins(self, other: "Stretch", pause_us: int) -> bool:
        pause = max(self.begin_us, other.begin_us) - min(self.end_us, other.end_us)
        return pause <= max(pause_us, self.longest_us, other.longest_us)

    def with_(self, other: "Stretch") -> "Stretch":
        return Stretch(
            min(self.begin_us, other.begin_us),
            max(self.end_us, other.end_us),
            max(self.charged_until_us, other.charged_until_us),
            max(self.longest_us, other.longest_us),
            self.powers + other.powers,
        )


def vehicle_sessions(model: Model, vehicle_id: str, start_us: int, end_us: int, pause_us: int) -> list[Session]:
    """Of a vehicle and the meters that fed it, while they did; since readings are kept."""
    looked_us = max(start_us - max(pause_us, SILENCE_US), model.kept_since_us)
    parts = [Part(("vehicle", vehicle_id), looked_us, end_us)]
    for span in model.mappings:
        part = span.within(looked_us, end_us) if span.vehicle_id == vehicle_id else None
        if part is not None:
            parts.append(Part(("meter", span.meter_id), part.from_us, part.until_us or end_us))
    return _sessions(model, parts, start_us, end_us, pause_us)


def meter_sessions(model: Model, meter_id: str, start_us: int, end_us: int, pause_us: int) -> list[Session]:
    """Of a meter while it was mapped to nobody; since readings are kept."""
    looked_us = max(start_us - max(pause_us, SILENCE_US), model.kept_since_us)
    mapped = [part for span in model.mappings if span.meter_id == meter_id if (part := span.within(looked_us, end_us))]
    edges = [looked_us]
    for part in sorted(mapped, key=lambda each: each.from_us):
        edges += [part.from_us, part.until_us or end_us]
    edges.append(end_us)
    found = []
    for since_us, until_us in zip(edges[::2], edges[1::2], strict=True):
        if until_us > max(since_us, start_us):
            found += _sessions(model, [Part(("meter", meter_id), since_us, until_us)], start_us, end_us, pause_us)
    return found


def _sessions(model: Model, parts: Sequence[Part], start_us: int, end_us: int, pause_us: int) -> list[Session]:
    readings = list(_looked_at(model, parts, end_us))
    stretches: list[tuple[Device, Stretch]] = []
    for part in parts:
        of_part = [each for each in readings if each[0].part == part]
        for _, block in itertools.groupby(of_part, key=lambda each: each[1]):
            told = _told_of(part, [reading for reading, _ in block], start_us, pause_us)
            stretches += [(part.device, each) for each in told]
    pieces = [stretch for _, stretch in stretches]
    for reading, _ in readings:
        if not reading.is_sure(pause_us):
            others = [stretch for device, stretch in stretches if device != reading.part.device]
            pieces += _late(reading, others, start_us, pause_us)
    groups = [[piece] for piece in pieces]
    for one, other in itertools.combinations(pieces, 2):
        if one.joins(other, pause_us):
            first, second = (next(group for group in groups if any(x is each for x in group)) for each in (one, other))
            if first is not second:
                groups = [group for group in groups if group is not first and group is not second]
                groups.append(first + second)
    pieces = [functools.reduce(Stretch.with_, group) for group in groups]
    return [
        Session(
            max(each.begin_us, start_us),
            each.end_us,
            each.charged_until_us,
            each.begin_us < start_us,
            end_us - each.end_us <= max(pause_us, each.longest_us),
            max(each.powers, default=None),
        )
        for each in sorted(pieces, key=lambda each: each.begin_us)
        if each.end_us > start_us
    ]


def _looked_at(model: Model, parts: Sequence[Part], end_us: int) -> Iterator[tuple[Reading, tuple[int, int]]]:
    """The readings with energy in hours in which any of the devices took more than standby, or beside such an hour; and
    from when until when such hours follow each other."""
    near: set[int] = set()
    for part in parts:
        hours: dict[int, float] = {}
        for ts_us, values in model.counted(part.device).items():
            hour = (ts_us - 1) // US_PER_HOUR
            hours[hour] = hours.get(hour, 0.0) + max(values[0] or 0.0, 0.0)
        least = STANDBY_KW * (0.25 if part.is_vehicle else 1.0)
        for hour, kwh in hours.items():
            if kwh > least and model.kept_since_us <= hour * US_PER_HOUR < end_us:
                near |= {hour - 1, hour, hour + 1}
    for part in parts:
        sent = [
            (ts_us, values[0] or 0.0)
            for ts_us, values in sorted(model.counted(part.device).items())
            if ts_us >= model.kept_since_us
        ]
        for at, (ts_us, kwh) in enumerate(sent):
            first = last = (ts_us - 1) // US_PER_HOUR
            if not (part.since_us < ts_us <= part.until_us) or first not in near or kwh <= 0:
                continue
            while first - 1 in near:
                first -= 1
            while last + 1 in near:
                last += 1
            since_us = max(first * US_PER_HOUR, part.since_us)
            until_us = min((last + 1) * US_PER_HOUR, part.until_us)
            earlier = [each for each in sent[:at] if each[0] > since_us - OUTAGE_US]
            after = sent[at + 1] if at + 1 < len(sent) and sent[at + 1][0] <= until_us else None
            yield (
                Reading(
                    part, ts_us, kwh, earlier[-2] if len(earlier) > 1 else None, earlier[-1] if earlier else None, after
                ),
                (since_us, until_us),
            )


def _told_of(part: Part, readings: Sequence[Reading], start_us: int, pause_us: int) -> list[Stretch]:
    """What a device tells of by readings that surely stand for the time since the one before."""
    found: list[Stretch] = []
    for each in readings:
        gap_us = each.gap_us
        if gap_us is None or not each.is_sure(pause_us) or not each.charges_for(gap_us):
            continue
        powers: tuple[float, ...] = ()
        if part.is_vehicle and each.ts_us > start_us:
            powers = (each.kwh / max(gap_us / US_PER_SECOND / 3600, 1 / 3600),)
        stretch = Stretch(max(each.ts_us - gap_us, part.since_us), each.ts_us, each.ts_us, gap_us, powers)
        if found and each.ts_us - gap_us - found[-1].end_us <= pause_us:
            found[-1] = found[-1].with_(stretch)
        else:
            found.append(stretch)
    return found


def _late(reading: Reading, others: Sequence[Stretch], start_us: int, pause_us: int) -> list[Stretch]:
    """What a reading after silence adds."""
    ts_us, silent_us = reading.ts_us, reading.ts_us - OUTAGE_US
    if reading.before is not None:
        silent_us = max(silent_us, reading.before[0])
    silent_us = max(silent_us, reading.part.since_us)
    resumed = False
    if reading.charges_for(US_PER_HOUR) and reading.kwh > STANDBY_KW * (0.25 if reading.part.is_vehicle else 1.0):
        meeting = [each for each in others if each.begin_us < ts_us and each.end_us > silent_us]
        soon = [each for each in meeting if ts_us <= each.end_us + pause_us]
        common = {each: min(each.end_us, ts_us) - max(each.begin_us, silent_us) for each in meeting}
        owed = [each for each in meeting if common[each] >= min(pause_us, each.end_us - each.begin_us)]
        resumed = any(ts_us <= each.begin_us <= ts_us + pause_us for each in others)
        told = None
        if soon:
            told = max(soon, key=lambda each: each.end_us)
        elif owed and not resumed:
            told = max(owed, key=lambda each: (common[each], each.end_us))
        if told is not None:
            return [replace(told, begin_us=told.end_us, end_us=ts_us, powers=())] if told.end_us < ts_us else []
    intervals = reading.intervals
    shortest_us = min((us for us, _ in intervals), default=0)
    power_kw = max((kwh / (us / US_PER_HOUR) for us, kwh in intervals), default=0.0)
    needed_us = round(min(reading.kwh / power_kw, 72.0) * US_PER_HOUR) if power_kw > 0 else 0
    if reading.before is None:
        us = min(max(shortest_us or US_PER_HOUR, needed_us), OUTAGE_US)
    elif power_kw > 0:
        us = min(max(shortest_us, needed_us), ts_us - reading.before[0], OUTAGE_US)
    else:
        us = min(ts_us - reading.before[0], OUTAGE_US)
    us = max(us, 1)
    powers = (reading.kwh / (us / US_PER_HOUR),) if reading.part.is_vehicle and ts_us > start_us else ()
    if resumed:
        us = min(us, shortest_us or pause_us)
    begin_us = max(ts_us - us, silent_us)
    if not reading.charges_for(us) or begin_us >= ts_us:
        return []
    return [Stretch(begin_us, ts_us, ts_us, min(shortest_us, SILENCE_US), powers)]
