"""What happened: a year of a vehicle that charges at two meters, at one of them only, or elsewhere.

Energy is in kWh, a curve of what has flowed since the year began; time in microseconds.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple, Self

import numpy as np

from analytics_svc.charging import Numbers, Times
from analytics_svc.questions import Window
from shared.timestamps import US_PER_DAY, US_PER_HOUR, US_PER_MINUTE, US_PER_SECOND

YEAR_START_US = 20_089 * US_PER_DAY
"""2025-01-01T00:00:00Z"""

YEAR_US = 365 * US_PER_DAY

HEALTHY_RATIOS, WORN_RATIOS = (0.88, 0.95), (0.60, 0.80)

POWERS_KW = (2.3, 3.7, 7.4, 11.0, 22.0, 50.0, 150.0)
POWER_WEIGHTS = (0.08, 0.12, 0.25, 0.30, 0.10, 0.10, 0.05)
"""Most chargers are at homes and offices."""

KWH_MIN, KWH_MAX = 0.3, 80.0

MOVERS = 0.3
"""Share of the vehicles that change their meter and charge elsewhere; the others have one meter all year."""

PRECONDITIONERS, PRECONDITIONED = 0.3, 0.2
"""Share of the vehicles that heat or cool themselves from the grid, and of their charges before which they do."""

PRECONDITIONING_KW, PRECONDITIONING_H = (1.0, 3.0), (0.2, 0.8)
PRECONDITIONING_PAUSE_H = (0.7, 3.8)
"""From its end to the charge. Without a pause hourly readings cannot tell it from what a worn charger loses."""

WITHOUT_STANDBY = 0.25
"""Share of the meters behind which nothing draws but the car; all meters of a pair are alike."""

STANDBY_MAX_KW = 0.1

ELSEWHERE = 2
"""In the place of a meter's number: where no known meter is."""


class Piece(NamedTuple):
    """Energy that flows evenly."""

    since_us: int
    until_us: int
    kwh: float


@dataclass(frozen=True, slots=True)
class Charge:
    place: int
    drawn_before: Sequence[Piece]
    """What the car draws for itself before it charges."""
    delivered: Sequence[Piece]
    """At full power, then at half and at a quarter of it."""

    @property
    def plugged_us(self) -> int:
        return [*self.drawn_before, *self.delivered][0].since_us

    @property
    def start_us(self) -> int:
        return self.delivered[0].since_us

    @property
    def end_us(self) -> int:
        return self.delivered[-1].until_us


class Mapping(NamedTuple):
    meter: int
    since_us: int
    until_us: int


@dataclass(frozen=True, slots=True)
class Curve:
    """Energy since the year began, at some instants; between them it flows evenly."""

    at_us: Times
    kwh: Numbers

    @classmethod
    def of(cls, pieces: Iterable[Piece], idle_kw: float) -> Self:
        """From pieces in their order; the rest of the time flows `idle_kw`."""
        at_us, kwh = [YEAR_START_US], [0.0]
        for piece in [*pieces, Piece(YEAR_START_US + 2 * YEAR_US, YEAR_START_US + 2 * YEAR_US, 0.0)]:
            kwh.append(kwh[-1] + (piece.since_us - at_us[-1]) / US_PER_HOUR * idle_kw)
            kwh.append(kwh[-1] + piece.kwh)
            at_us += [piece.since_us, piece.until_us]
        return cls(np.array(at_us), np.array(kwh))

    def upto(self, us: Times) -> Numbers:
        found: Numbers = np.interp(us, self.at_us, self.kwh)
        return found

    def within(self, since_us: int, until_us: int) -> float:
        before, after = self.upto(np.array([since_us, until_us])).tolist()
        return float(after - before)


@dataclass(frozen=True, slots=True)
class Year:
    ratio: float
    """What arrives in the battery of what is drawn while it charges."""
    standby_kw: float
    charges: Sequence[Charge]
    mappings: Sequence[Mapping]
    """They do not overlap."""
    delivered: Curve

    @classmethod
    def of(cls, ratio: float, dice: np.random.Generator) -> Self:
        charges = _charges(ratio, dice)
        movers = {charge.place for charge in charges} != {0}
        always = [Mapping(0, YEAR_START_US - US_PER_DAY, YEAR_START_US + 2 * YEAR_US)]
        standby_kw = 0.0 if dice.random() < WITHOUT_STANDBY else dice.uniform(0, STANDBY_MAX_KW)
        return cls(
            ratio,
            standby_kw,
            charges,
            _mappings(charges, dice) if movers else always,
            Curve.of([piece for charge in charges for piece in charge.delivered], 0.0),
        )

    def drawn(self, meter: int) -> Curve:
        pieces: list[Piece] = []
        for charge in self.charges:
            if charge.place == meter:
                pieces += charge.drawn_before
                pieces += [piece._replace(kwh=piece.kwh / self.ratio) for piece in charge.delivered]
        return Curve.of(pieces, self.standby_kw)

    def charged_and_ended(self, window: Window) -> float:
        """What was delivered while the meter was mapped, within a window, in charges that ended within it."""
        return sum(
            self.delivered.within(
                max(charge.start_us, mapping.since_us, window.start_us), min(charge.end_us, mapping.until_us)
            )
            for charge in self.charges
            if window.start_us < charge.end_us <= window.end_us
            for mapping in self.mappings
            if mapping.meter == charge.place
            and mapping.since_us < charge.end_us
            and mapping.until_us > max(charge.start_us, window.start_us)
        )


def _charges(ratio: float, dice: np.random.Generator) -> list[Charge]:
    place_of = _places(dice)
    powers_kw = [dice.choice(POWERS_KW, p=POWER_WEIGHTS) for _ in range(3)]
    pause_h = 24 / dice.uniform(0.3, 1.5)
    preconditions = dice.random() < PRECONDITIONERS
    charges: list[Charge] = []
    end_us = YEAR_START_US
    while end_us < YEAR_START_US + YEAR_US:
        since_us, place = end_us, place_of(len(charges), dice)
        start_us = since_us + round(max(0.3, dice.exponential(pause_h)) * US_PER_HOUR)
        before: list[Piece] = []
        if preconditions and dice.random() < PRECONDITIONED:
            hours, power_kw = dice.uniform(*PRECONDITIONING_H), dice.uniform(*PRECONDITIONING_KW)
            until_us = start_us - round(dice.uniform(*PRECONDITIONING_PAUSE_H) * US_PER_HOUR)
            begun_us = until_us - round(hours * US_PER_HOUR)
            if begun_us > since_us:
                before = [Piece(begun_us, until_us, hours * power_kw)]
        kwh = float(np.clip(dice.lognormal(2.5, 0.8), KWH_MIN, KWH_MAX))
        charges.append(Charge(place, before, _tapering(start_us, kwh, powers_kw[place] * ratio, dice.uniform(0, 0.2))))
        end_us = charges[-1].end_us
    return charges


class _Places:
    """Where a vehicle charges: always at its own meter, or some times in turn here, there and elsewhere."""

    def __init__(self, moves: bool) -> None:
        self._moves = moves
        self._place, self._until = 0, 0

    def __call__(self, charge: int, dice: np.random.Generator) -> int:
        if self._moves and charge >= self._until:
            self._place = int(dice.choice([0, 1, ELSEWHERE], p=[0.5, 0.25, 0.25]))
            self._until = charge + int(dice.integers(1, 6))
        return self._place


def _places(dice: np.random.Generator) -> _Places:
    return _Places(bool(dice.random() < MOVERS))


def _tapering(start_us: int, kwh: float, power_kw: float, tapered: float) -> list[Piece]:
    """A share of the energy flows at half and at a quarter of the power."""
    pieces = []
    for share, slower in ((1 - tapered, 1), (tapered / 2, 2), (tapered / 2, 4)):
        until_us = start_us + round(share * kwh * slower / power_kw * US_PER_HOUR)
        pieces.append(Piece(start_us, until_us, share * kwh))
        start_us = until_us
    return pieces


def _mappings(charges: Sequence[Charge], dice: np.random.Generator) -> list[Mapping]:
    """One for each stay at a meter; it begins and ends at the plug, some minutes around it, or hours away."""
    stays: list[list[Charge]] = []
    for charge in charges:
        if stays and stays[-1][-1].place == charge.place:
            stays[-1].append(charge)
        else:
            stays.append([charge])
    mappings: list[Mapping] = []
    free_us = YEAR_START_US  # from when on the vehicle has charged at no other meter
    for stay, following in pairwise([*stays, []]):
        plugged_us, unplugged_us = stay[0].plugged_us, stay[-1].end_us
        next_us = following[0].plugged_us if following else YEAR_START_US + 2 * YEAR_US
        since_us = max(free_us, plugged_us + _from_plug_us(dice, -1))
        until_us = min(next_us, unplugged_us + _from_plug_us(dice, 1))
        if stay[0].place != ELSEWHERE and since_us < until_us:
            mappings.append(Mapping(stay[0].place, since_us, until_us))
        free_us = max(unplugged_us, until_us)
    return mappings


def _from_plug_us(dice: np.random.Generator, direction: int) -> int:
    match dice.choice(["at it", "around it", "away"], p=[0.15, 0.25, 0.6]):
        case "at it":
            return 0
        case "around it":
            return int(dice.integers(-10 * US_PER_MINUTE, 10 * US_PER_MINUTE))
        case _:
            return direction * int(dice.integers(US_PER_SECOND, 8 * US_PER_HOUR))
