"""What an answer could know: what had arrived when it was asked, by span and hour as the database would pack it."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Self

import numpy as np
from numpy.typing import NDArray

from analytics_svc.questions import Window
from analytics_svc.span_tables import DEVICE_WORDS, DeviceHours, MappedPart, VehicleHours, VehicleSpan
from benchmarks.verdicts.devices import Device, Habit, Readings, a_device
from benchmarks.verdicts.year import HEALTHY_RATIOS, WORN_RATIOS, Mapping, Year
from shared.timestamps import US_PER_DAY, US_PER_HOUR

SLEEPING = {Habit.ALWAYS: 0.4, Habit.CHARGING: 0.5, Habit.AFTERWARDS: 0.1}
"""What share of the vehicles has which habit."""

ONLY_FEEDING = 0.5
"""Share of the meters without standby that report only while they feed."""


@dataclass(frozen=True, slots=True)
class Pair:
    """A vehicle and the meters that fed it."""

    seed: tuple[int, ...]
    worn: bool
    year: Year
    vehicle: Device
    meters: Sequence[Device]

    @classmethod
    def of(cls, seed: int, worn: bool, number: int) -> Self:
        """The pair of a seed and a number."""
        of_pair = (seed, int(worn), number)
        dice = np.random.default_rng(of_pair)
        year = Year.of(dice.uniform(*(WORN_RATIOS if worn else HEALTHY_RATIOS)), dice)
        habit = Habit(dice.choice(list(SLEEPING), p=list(SLEEPING.values())))
        charged = np.array([(charge.start_us, charge.end_us) for charge in year.charges])
        vehicle = a_device(year.delivered, charged, habit, dice)
        meters = []
        for meter in (0, 1):
            fed = [charge for charge in year.charges if charge.place == meter]
            pieces = [(piece.since_us, piece.until_us) for charge in fed for piece in charge.drawn_before]
            pieces += [(charge.start_us, charge.end_us) for charge in fed]
            flows = np.array(sorted(pieces), np.int64).reshape(-1, 2)
            sleeps = year.standby_kw == 0 and dice.random() < ONLY_FEEDING
            meters.append(a_device(year.drawn(meter), flows, Habit.CHARGING if sleeps else Habit.ALWAYS, dice))
        return cls(of_pair, worn, year, vehicle, meters)

    def reported(self, window: Window) -> "Reported":
        """What is there to be asked about a window when it ends, and of the hour before it and its mappings."""
        dice = np.random.default_rng([*self.seed, window.end_us])
        within = [
            Mapping(each.meter, max(each.since_us, window.start_us), min(each.until_us, window.end_us))
            for each in self.year.mappings
            if each.since_us < window.end_us and each.until_us > window.start_us
        ]
        since_us = window.start_us - US_PER_HOUR
        return Reported(
            window,
            within,
            self.vehicle.readings(since_us, window.end_us, dice),
            {meter: self.meters[meter].readings(since_us, window.end_us, dice) for meter in {m for m, _, _ in within}},
        )


@dataclass(frozen=True, slots=True)
class Reported:
    window: Window
    mappings: Sequence[Mapping]
    """As far as the window has them."""
    vehicle: Readings
    meters: dict[int, Readings]
    """By number, those that were mapped."""

    def hours(self) -> VehicleHours:
        """As `analytics_svc.span_tables` makes it of the database's rows."""
        window = self.window
        vehicle = once(self.vehicle)
        meters = {number: once(readings) for number, readings in self.meters.items()}
        edges = {window.start_us, window.end_us, *(us for _, *ends in self.mappings for us in ends)}
        spans: list[VehicleSpan] = []
        mapped: dict[MappedPart, list[DeviceHours]] = defaultdict(list)
        for since_us, until_us in pairwise(sorted(edges)):
            own = _hours(vehicle, since_us, until_us, window)
            fed = []
            for meter, mapped_since_us, mapped_until_us in self.mappings:
                if mapped_since_us <= since_us and mapped_until_us >= until_us:
                    fed.append(_hours(meters[meter], since_us, until_us, window))
                    mapped[MappedPart(meter, mapped_since_us, mapped_until_us)].append(fed[-1])
            spans.append(VehicleSpan(since_us, until_us, own, fed))
        return VehicleHours(spans, mapped)


def last_day(asked_us: int) -> Window:
    """The last 24 hours."""
    return Window(asked_us - US_PER_DAY, asked_us)


def once(readings: Readings) -> Readings:
    """By time, without those that came again: as they are stored."""
    ts_us, first = np.unique(readings.ts_us, return_index=True)
    return Readings(ts_us, readings.kwh[first])


def _hours(readings: Readings, since_us: int, until_us: int, window: Window) -> DeviceHours:
    """The hours of a span, and the one before it."""
    its = slice(*np.searchsorted(readings.ts_us, [since_us - US_PER_HOUR, until_us], side="right").tolist())
    ts_us, kwh = readings.ts_us[its], readings.kwh[its]
    hours = (ts_us - 1) // US_PER_HOUR - window.start_us // US_PER_HOUR + 1
    numbers, first = np.unique(np.where(ts_us > since_us, hours, 0), return_index=True)
    ends = np.append(first[1:], len(ts_us))[: len(first)]
    return device_hours(numbers, ts_us[ends - 1], ends - first, np.add.reduceat(kwh, first) if len(first) else kwh)


def device_hours(
    numbers: NDArray[np.int64], last_us: NDArray[np.int64], readings: NDArray[np.int64], kwh: NDArray[np.float64]
) -> DeviceHours:
    """Hours of a device at which nothing flowed back, and that measures no temperature."""
    words = np.zeros((len(numbers), DEVICE_WORDS), np.int64)
    words[:, :3] = np.stack([numbers, last_us, readings], axis=1)
    words[:, 4] = kwh.view(np.int64)
    return DeviceHours.of(words)
