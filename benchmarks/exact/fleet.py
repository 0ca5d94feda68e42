"""What is sent: a seeded fleet whose readings come repeated, late, out of order, contradicted and wrong.

A plan gives the same waves in every process. A wave is what all streams send at the same time; the next one begins when
all of it is acknowledged. Which of two readings with one key comes first is a race within a wave: there they are equal,
and a reading that contradicts another one is sent in a later wave. What becomes of a wave does not depend on the race.
"""

import random
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple, Self

from shared.timestamps import US_PER_DAY, US_PER_HOUR

WAVE_MAX_READINGS = 50_000
"""New readings of a wave: a second or so at full speed, and what both sides of the comparison hold of what is sent."""

REMEMBERED = 0.02
"""Share of what was sent that is remembered, to be repeated or contradicted later."""

MESSAGE_SIZES, MESSAGE_WEIGHTS = (1, 10, 100, 1_000), (8, 4, 2, 1)
"""Single readings and bursts: half of all messages have one reading, nearly all readings come in large messages."""

TIMES_LATE_MAX = 3
"""Waves after its own in which a late reading may come."""

Values = tuple[float | None, ...]
"""(kWh, volts) or (kWh, percent, degrees Celsius); None is not sent."""


class Reading(NamedTuple):
    """Device `2 * pair` is a pair's meter, the next one its vehicle. `extra_ns` is what no timestamp may have."""

    device: int
    ts_us: int
    values: Values
    extra_ns: int = 0


class Mapping(NamedTuple):
    """A meter feeds a vehicle, both by the number of their pair, from an instant on; sent during its wave."""

    vehicle: int
    meter: int
    from_us: int
    wave: int

    @property
    def pair(self) -> int:
        """The same for two mappings that are to be sent one after the other."""
        return min(self.vehicle, self.meter)


Message = list[Reading]


@dataclass(frozen=True)
class Plan:
    """Everything that a run depends on: the seed, the number of distinct readings, a midnight, and what they give."""

    seed: int
    readings: int
    midnight_us: int
    pairs: int
    hours_before: int
    """The readings begin so many hours before the midnight ..."""
    hours_after: int
    """... and end so many hours after it."""
    exchanges: int
    """ExchangeTelemetry streams, open from the first wave to the last."""
    calls: int
    """StreamTelemetry calls of each wave."""
    late: float
    """Share of the readings that come in a later wave than their neighbours."""
    conflicting: float
    rejected: float
    absent: float
    """Share of optional values that are not sent."""

    @classmethod
    def of(cls, seed: int, readings: int, now_us: int) -> Self:
        """The plan of a seed, around the last midnight that lies at least twelve hours back."""
        dice = random.Random(seed)
        return cls(
            seed=seed,
            readings=readings,
            midnight_us=(now_us - US_PER_DAY // 2) // US_PER_DAY * US_PER_DAY,
            pairs=dice.randint(300, 700),
            hours_before=dice.randint(2, 9),
            hours_after=dice.randint(2, 9),
            exchanges=dice.randint(8, 14),
            calls=dice.randint(6, 10),
            late=dice.uniform(0.05, 0.2),
            conflicting=dice.uniform(0.005, 0.02),
            rejected=dice.uniform(0.005, 0.02),
            absent=dice.uniform(0.05, 0.3),
        )

    @property
    def start_us(self) -> int:
        """All timestamps are later."""
        return self.midnight_us - self.hours_before * US_PER_HOUR

    @property
    def end_us(self) -> int:
        """No timestamp that is to be stored is later."""
        return self.midnight_us + self.hours_after * US_PER_HOUR

    @property
    def streams(self) -> int:
        """Streams and calls that send at the same time, a connection each."""
        return self.exchanges + self.calls

    @property
    def waves(self) -> int:
        """How many there are."""
        return max(TIMES_LATE_MAX + 1, -(-self.readings // WAVE_MAX_READINGS))

    def mappings(self) -> list[Mapping]:
        """Each vehicle's own meter from before the first reading; every third pair changes places with the next one."""
        dice = random.Random(f"{self.seed} mappings")
        found = [Mapping(pair, pair, self.start_us - US_PER_HOUR, 0) for pair in range(self.pairs)]
        for one in range(0, self.pairs - 1, 3):
            moved_us, wave = dice.randrange(self.start_us, self.end_us), dice.randrange(1, self.waves)
            found += [Mapping(one, one + 1, moved_us, wave), Mapping(one + 1, one, moved_us, wave)]
        return found

    def messages(self) -> Iterator[list[list[Message]]]:
        """Wave by wave, for each stream its messages in their order; `readings` distinct ones that are right in all."""
        dice = random.Random(f"{self.seed} readings")
        held: list[list[Reading]] = [[] for _ in range(self.waves)]
        remembered: list[Reading] = []
        for wave in range(self.waves):
            fresh = held[wave]
            last = wave == self.waves - 1
            for reading in self._slice(wave, dice):
                if not last and dice.random() < self.late:
                    held[min(wave + dice.randint(1, TIMES_LATE_MAX), self.waves - 1)].append(reading)
                else:
                    fresh.append(reading)
            lots = self._lots(fresh, dice)
            for reading in self._beside(len(fresh), remembered, dice):
                lot = dice.choice(lots)
                lot.insert(dice.randint(0, len(lot)), reading)
            yield [list(_cut(lot, dice)) for lot in lots]
            remembered += [reading for reading in fresh if dice.random() < REMEMBERED]
            held[wave] = []

    def _slice(self, wave: int, dice: random.Random) -> Iterator[Reading]:
        """The readings of a part of the time: all devices in turn, one reading of each between two ticks."""
        devices = 2 * self.pairs
        ticks = -(-self.readings // devices)
        tick_us = (self.end_us - self.start_us) // ticks
        for number in range(self.readings * wave // self.waves, self.readings * (wave + 1) // self.waves):
            device, begin_us = number % devices, self.start_us + number // devices * tick_us
            yield Reading(device, _instant(begin_us, tick_us, dice), self._values(device, dice))

    def _values(self, device: int, dice: random.Random) -> Values:
        kwh = dice.choice((0.0, -0.1)) if dice.random() < 0.04 else dice.uniform(0.05, 0.2)
        if device % 2 == 0:
            return kwh, self._unless_absent(dice.uniform(210, 250), dice)
        soc, temp = dice.uniform(0, 100), dice.uniform(-30, 60)
        return 0.9 * kwh, self._unless_absent(soc, dice), self._unless_absent(temp, dice)

    def _unless_absent(self, value: float, dice: random.Random) -> float | None:
        return None if dice.random() < self.absent else value

    def _lots(self, fresh: list[Reading], dice: random.Random) -> list[list[Reading]]:
        """Deals readings out to the streams, and some of them to several: device by device, reading by reading, or in
        any order."""
        way = dice.choice(("by device", "by reading", "shuffled"))
        repeated = dice.choice((0.0, 0.1, 0.4))
        lots: list[list[Reading]] = [[] for _ in range(self.streams)]
        for reading in fresh:
            lots[reading.device % self.streams if way == "by device" else dice.randrange(self.streams)].append(reading)
            while dice.random() < repeated:
                dice.choice(lots).append(reading)
        if way == "shuffled":
            for lot in lots:
                dice.shuffle(lot)
        return lots

    def _beside(self, fresh: int, remembered: list[Reading], dice: random.Random) -> Iterator[Reading]:
        """What comes besides new readings: of former waves again, and with other values, and what is wrong."""
        if remembered:
            for _ in range(round(fresh * self.conflicting)):
                yield dice.choice(remembered)
                yield _contradicting(dice.choice(remembered), dice)
        for _ in range(round(fresh * self.rejected)):
            device = dice.randrange(2 * self.pairs)
            right = Reading(device, dice.randint(self.start_us + 1, self.end_us), self._values(device, dice))
            yield dice.choice((_from_the_future, _out_of_range, _malformed))(right)


def _instant(begin_us: int, tick_us: int, dice: random.Random) -> int:
    """An instant within `(begin, begin + tick]`; where an hour begins there, often at its edge or a microsecond off."""
    hour_us = -(-begin_us // US_PER_HOUR) * US_PER_HOUR
    if dice.random() < 0.5:
        edge_us = hour_us + dice.choice((-1, 0, 1))
        if begin_us < edge_us <= begin_us + tick_us:
            return edge_us
    return begin_us + dice.randint(1, tick_us)


def _contradicting(reading: Reading, dice: random.Random) -> Reading:
    """The same key with another energy, or with an optional value more or less."""
    kwh, optional, *rest = reading.values
    assert kwh is not None
    if dice.random() < 0.5:
        return reading._replace(values=(kwh + 0.5, optional, *rest))
    return reading._replace(values=(kwh, 1.0 if optional is None else None, *rest))


def _from_the_future(reading: Reading) -> Reading:
    return reading._replace(ts_us=reading.ts_us + 365 * US_PER_DAY)


def _out_of_range(reading: Reading) -> Reading:
    return reading._replace(values=(-1_001.0, *reading.values[1:]))


def _malformed(reading: Reading) -> Reading:
    return reading._replace(extra_ns=1_000_000_000)


def _cut(lot: list[Reading], dice: random.Random) -> Iterator[Message]:
    at = 0
    while at < len(lot):
        [size] = dice.choices(MESSAGE_SIZES, MESSAGE_WEIGHTS)
        yield lot[at : at + size]
        at += size
