"""How efficiently vehicles charged: what their totals and what can be compared of them allow to say. Pure.

Efficiency is direct current into the battery over alternating current from the grid; 10 to 15 % of losses are expected.
`judge` finds the verdicts of a whole fleet at once; `analytics_svc.explanation` writes the sentences, for the vehicles
of a page.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import Enum
from math import isnan
from typing import Any, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from analytics_svc.charging import Flags, Numbers, Places
from analytics_svc.comparison import Comparison
from analytics_svc.questions import Verdict
from analytics_svc.stretches import Aside, CompareLimits
from analytics_svc.totals import FleetTotals, Totals

RELATIVE_TOLERANCE = 1e-9
"""Relative error of sums of doubles. What is this close to a threshold counts as equal to it, and equal is OK: sums of
readings and sums of rollups must give the same verdict."""


REGISTER_STEPS_KWH = (1.0, 0.1)
"""What registers may show at least that is coarse beside a charge: whole kWh, and tenths."""


@dataclass(frozen=True, slots=True)
class Thresholds:
    """What the numbers of a vehicle are compared with."""

    low_efficiency_below: float
    implausible_above: float
    """Both are efficiency ratios."""
    evidence_min_kwh: float
    """Energy drawn that can be compared; or delivered while nothing was drawn. Below there is no verdict by it."""
    evidence_min_coverage: float
    """Share of the energy that can be compared, 0 to 1. Below there is no verdict by the ratio."""
    returned_max_share: float
    """Of what flowed in, 0 to 1. Where more flowed back, on either side, charging is compared with charging."""
    standby_kw: float
    """Meters that draw no more on average stand by."""
    plausible_min: float
    """A ratio below it is no charger's."""
    baseline_min_kwh: float
    """Energy drawn in the charges of the 28 days before. Below nobody can say what is normal for a vehicle."""
    ratio_drop_min: float
    """By how much less than normal a ratio has to be to be worth saying."""
    low_efficiency_by_power: Sequence[tuple[float, float]] = field(default=())
    """Limits from some power in kW on, ascending; empty: `low_efficiency_below` for all."""

    @property
    def comparing(self) -> CompareLimits:
        limits = [limit for _, limit in self.low_efficiency_by_power] or [self.low_efficiency_below]
        return CompareLimits(self.standby_kw, max(limits), self.implausible_above)

    def low_efficiency_at(self, power_kw: Numbers) -> Numbers:
        """The limits of healthy chargers at some powers."""
        if not self.low_efficiency_by_power:
            return np.full(len(power_kw), self.low_efficiency_below)
        powers, limits = map(np.array, zip(*self.low_efficiency_by_power, strict=True))
        at = np.searchsorted(powers, power_kw * (1 + RELATIVE_TOLERANCE), side="right") - 1
        found: Numbers = limits[np.maximum(at, 0)]
        return found


class VerdictReason(Enum):
    """Why a verdict is what it is, by number."""

    HEALTHY = 1, Verdict.OK
    BELOW_LIMIT = 2, Verdict.LOW_EFFICIENCY
    ABOVE_LIMIT = 3, Verdict.IMPLAUSIBLE
    NO_MAPPING = 4, Verdict.NO_METER
    NOBODY_REPORTED = 5, Verdict.INSUFFICIENT_DATA
    VEHICLE_SILENT = 6, Verdict.INSUFFICIENT_DATA
    METERS_SILENT = 7, Verdict.INSUFFICIENT_DATA
    TOO_LITTLE_ENERGY = 8, Verdict.INSUFFICIENT_DATA
    TOO_LITTLE_COVERAGE = 9, Verdict.INSUFFICIENT_DATA
    ENERGY_FROM_NOWHERE = 10, Verdict.IMPLAUSIBLE
    BELOW_PLAUSIBLE = 11, Verdict.IMPLAUSIBLE
    TOO_COARSE = 12, Verdict.INSUFFICIENT_DATA
    NOTHING_CHARGED = 13, Verdict.INSUFFICIENT_DATA
    UNDER_WAY = 14, Verdict.INSUFFICIENT_DATA
    FELL_SILENT = 15, Verdict.INSUFFICIENT_DATA
    NOT_ATTRIBUTABLE = 16, Verdict.INSUFFICIENT_DATA
    FED_NO_VEHICLE = 17, Verdict.INSUFFICIENT_DATA
    """Of a meter, in the place of NO_MAPPING."""

    def __init__(self, number: int, verdict: Verdict) -> None:
        self.number = number
        self.verdict = verdict


_REASONS = {reason.number: reason for reason in VerdictReason}

_BY_ASIDE = {
    Aside.UNDER_WAY: VerdictReason.UNDER_WAY,
    Aside.SILENT: VerdictReason.FELL_SILENT,
    Aside.BEYOND: VerdictReason.NOT_ATTRIBUTABLE,
    Aside.NOTHING_TAKEN: VerdictReason.NOTHING_CHARGED,
}
"""Why too little is left to compare, where the energy that was set aside would have been enough; the first that was."""


class Compared(NamedTuple):
    """What the verdict of a vehicle goes by, in kWh: net, or what flowed in where much flowed back."""

    kwh_delivered_dc: float
    kwh_consumed_ac: float
    efficiency_ratio: float
    at_least: float
    """The ratio lies between this and the next."""
    at_most: float
    mean_power_kw: float
    low_efficiency_below: float
    """The limit at this power."""

    @property
    def kwh_lost(self) -> float:
        return self.kwh_consumed_ac - self.kwh_delivered_dc


class Performance(NamedTuple):
    """What follows for one vehicle. None means absent, never 0."""

    efficiency_ratio: float | None
    kwh_lost: float | None
    """Both are those of the totals."""
    coverage: float | None
    verdict: Verdict
    reason: VerdictReason
    compared: Compared | None
    aside: dict[Aside, tuple[float, float]]
    """Energy delivered and drawn that is not compared."""
    hours_apart: float | None
    """By how much later the vehicle's hours are than the meters', where they match when shifted."""

    @classmethod
    def of(
        cls,
        totals: Totals,
        aside: dict[Aside, tuple[float, float]],
        reason_number: int,
        coverage: float,
        hours_apart: float,
        dc: float,
        ac: float,
        *others: float,
    ) -> Self:
        """From the numbers of a Judgement."""
        reason = _REASONS[reason_number]
        return cls(
            efficiency_ratio(totals.kwh_delivered_dc, totals.kwh_consumed_ac, totals.kwh_returned_ac),
            kwh_lost(totals.kwh_delivered_dc, totals.kwh_consumed_ac),
            None if isnan(coverage) else coverage,
            reason.verdict,
            reason,
            None if isnan(dc) else Compared(dc, ac, dc / ac, *others),
            aside,
            hours_apart or None,
        )


@dataclass(frozen=True, slots=True)
class Judgement:
    """The verdicts of a fleet, and what they go by; `[vehicles]`."""

    reasons: NDArray[np.int8]
    """By their numbers."""
    dc: Numbers
    """NaN, here and below, where nothing can be compared."""
    ac: Numbers
    at_least: Numbers
    at_most: Numbers
    mean_power_kw: Numbers
    low_efficiency_below: Numbers
    coverage: Numbers
    """NaN where nothing was charged."""

    @property
    def ratio(self) -> Numbers:
        return self.dc / self.ac

    def at(self, position: int, found: FleetTotals) -> Performance:
        return self.of_totals(position, found.at(position), found.comparison)

    def of_totals(self, position: int, totals: Totals, comparison: Comparison) -> Performance:
        """Of the vehicle at a position, which has these totals."""
        columns = self._columns(comparison)
        aside = _aside_of(slice(position, position + 1), comparison)
        return Performance.of(totals, aside.get(0, {}), *(column.item(position) for column in columns))

    def of(self, positions: Sequence[int], totals: Sequence[Totals], comparison: Comparison) -> list[Performance]:
        """Of the vehicles at some positions, which have these totals."""
        at = np.array(positions, np.intp)
        aside = _aside_of(at, comparison)
        told = [aside.get(row, {}) for row in range(len(at))]
        columns = self._columns(comparison)
        return list(map(Performance.of, totals, told, *(column[at].tolist() for column in columns)))

    def _columns(self, comparison: Comparison) -> Sequence[NDArray[Any]]:
        """What `Performance.of` takes."""
        return (
            self.reasons,
            self.coverage,
            comparison.hours_apart,
            self.dc,
            self.ac,
            self.at_least,
            self.at_most,
            self.mean_power_kw,
            self.low_efficiency_below,
        )


def _aside_of(at: Places | slice, comparison: Comparison) -> dict[int, dict[Aside, tuple[float, float]]]:
    """What is set aside of vehicles, by their place among the positions; nothing of most."""
    dc, ac = comparison.dc_aside[:, at], comparison.ac_aside[:, at]
    found: dict[int, dict[Aside, tuple[float, float]]] = {}
    if not (np.count_nonzero(dc) or np.count_nonzero(ac)):
        return found
    for why, row in zip(*(each.tolist() for each in ((dc != 0) | (ac != 0)).nonzero()), strict=True):
        found.setdefault(row, {})[Aside(why)] = dc.item(why, row), ac.item(why, row)
    return found


def efficiency_ratio(dc: float | None, ac: float | None, returned_ac: float | None) -> float | None:
    """Energy delivered over energy drawn; None where one is absent, or no more was drawn than flowed back.

    Where the two are equal, rounding may leave a little of `ac`: beside `returned_ac` that is nothing.
    """
    if dc is None or ac is None or ac <= (RELATIVE_TOLERANCE * returned_ac if returned_ac else 0.0):
        return None
    return dc / ac


def kwh_lost(dc: float | None, ac: float | None) -> float | None:
    """Energy drawn less energy delivered; None where one is absent."""
    return ac - dc if dc is not None and ac is not None else None


def judge(found: FleetTotals, thresholds: Thresholds) -> Judgement:
    """The verdicts of vehicles. Bounds of a ratio decide where somebody would be accused."""
    its = found.comparison
    dc, ac = _compared_energies(found, thresholds)
    needed_kwh = max(thresholds.evidence_min_kwh * (1 - RELATIVE_TOLERANCE), 1e-9)
    nothing = ac <= 0
    dc, ac = np.where(nothing, np.nan, dc), np.where(nothing, np.nan, ac)
    ratio = at_least = at_most = dc / ac
    power_kw = its.ac_squared_kw / np.where(its.ac > 0, its.ac, np.nan)
    limit = thresholds.low_efficiency_at(power_kw)
    low = ratio < limit * (1 - RELATIVE_TOLERANCE)
    high = ratio > thresholds.implausible_above * (1 + RELATIVE_TOLERANCE)
    accused, coarse = low | high, its.step_kwh > 0
    reasons = np.full(len(found), VerdictReason.HEALTHY.number, np.int8)
    if np.count_nonzero(accused | coarse):
        at_least, at_most = ratio_bounds(its, dc, ac, accused)
        reasons[coarse & ((at_least < limit) | (at_most > thresholds.implausible_above))] = (
            VerdictReason.TOO_COARSE.number
        )
        reasons[accused] = VerdictReason.TOO_COARSE.number
        surely_low = low & (at_most < limit * (1 - RELATIVE_TOLERANCE))
        reasons[surely_low] = VerdictReason.BELOW_LIMIT.number
        no_charger = ratio < thresholds.plausible_min * (1 - RELATIVE_TOLERANCE)
        reasons[surely_low & no_charger] = VerdictReason.BELOW_PLAUSIBLE.number
        surely_high = high & (at_least > thresholds.implausible_above * (1 + RELATIVE_TOLERANCE))
        reasons[surely_high] = VerdictReason.ABOVE_LIMIT.number
    charged = its.dc + its.ac
    everything = charged + np.add.reduce(its.dc_aside) + np.add.reduce(its.ac_aside)
    coverage = charged / np.where(everything > 0, everything, np.nan)
    too_little = coverage < thresholds.evidence_min_coverage * (1 - RELATIVE_TOLERANCE)
    reasons[too_little] = VerdictReason.TOO_LITTLE_COVERAGE.number
    little = its.ac < needed_kwh
    if np.count_nonzero(little):
        reasons[little] = VerdictReason.TOO_LITTLE_ENERGY.number
        for aside, reason in reversed(_BY_ASIDE.items()):
            much = np.maximum(its.dc_aside[aside], its.ac_aside[aside]) >= needed_kwh
            reasons[little & much] = reason.number
    from_nowhere = its.dc_aside[Aside.NOTHING_DRAWN]
    reasons[(from_nowhere >= needed_kwh) & (from_nowhere > its.dc)] = VerdictReason.ENERGY_FROM_NOWHERE.number
    for which, reason in (
        (found.meter_readings == 0, VerdictReason.METERS_SILENT),
        (found.vehicle_readings == 0, VerdictReason.VEHICLE_SILENT),
        (found.vehicle_readings + found.meter_readings == 0, VerdictReason.NOBODY_REPORTED),
        (found.mappings == 0, VerdictReason.NO_MAPPING),
    ):
        reasons[which] = reason.number
    return Judgement(reasons, dc, ac, at_least, at_most, power_kw, limit, coverage)


def ratio_bounds(its: Comparison, dc: Numbers, ac: Numbers, accused: Flags) -> tuple[Numbers, Numbers]:
    """Between which the ratios lie: of those that accuse nobody, as far as the meters' steps allow."""
    surely_drawn = ac - its.step_kwh - np.where(accused, its.ac_less, 0.0)
    surely_delivered = dc + np.where(accused, its.dc_more, 0.0)
    at_least = (dc - np.where(accused, its.dc_less, 0.0)) / (ac + np.where(accused, its.ac_more, 0.0) + its.step_kwh)
    some = surely_drawn > 0
    return at_least, np.where(some, surely_delivered / np.where(some, surely_drawn, 1.0), np.inf)


def may_be_too_coarse(found: FleetTotals, judgement: Judgement, thresholds: Thresholds) -> Places:
    """The vehicles whose verdict may be another if their meters tell energy in steps, by the greatest that they may be.

    Sums of whole steps are whole steps.
    """
    its = found.comparison
    judged = (judgement.ac > 0) & _whole(its.ac, REGISTER_STEPS_KWH[-1])
    if not np.count_nonzero(judged):
        return judged.nonzero()[0]
    which = np.zeros(len(found), np.bool_)
    with np.errstate(divide="ignore", invalid="ignore"):
        for step_kwh in REGISTER_STEPS_KWH:
            whole = judged & _whole(its.ac, step_kwh)
            if not np.count_nonzero(whole):
                continue
            at_least, at_most = judgement.dc / (judgement.ac + step_kwh), judgement.dc / (judgement.ac - step_kwh)
            for limit in (judgement.low_efficiency_below, thresholds.implausible_above):
                which |= whole & (at_least < limit) & ((at_most > limit) | (at_most < 0))
    return np.flatnonzero(which)


def coarsest_step(ac: Numbers) -> Numbers:
    """The greatest steps that energies may be told in which are sums of some: where no register shows it any more."""
    found = np.zeros(len(ac))
    for step_kwh in reversed(REGISTER_STEPS_KWH):
        found[_whole(ac, step_kwh)] = step_kwh
    return found


def _whole(kwh: Numbers, step_kwh: float) -> Flags:
    """Whether energies are whole steps, of which the smallest ones make up the others."""
    steps = kwh / step_kwh
    whole: Flags = np.abs(steps - np.rint(steps)) * step_kwh < 1e-7
    return whole


def _compared_energies(found: FleetTotals, thresholds: Thresholds) -> tuple[Numbers, Numbers]:
    """Energy delivered and drawn as the verdict compares them: net, or of charging alone where more flowed back, on
    either side, than a counter that steps back a little explains."""
    its = found.comparison
    if not (np.count_nonzero(its.returned_dc) or np.count_nonzero(its.returned_ac)):
        return its.dc, its.ac
    share = thresholds.returned_max_share * (1 + RELATIVE_TOLERANCE)
    much = (its.returned_dc > share * its.dc) | (its.returned_ac > share * its.ac)
    return np.where(much, its.dc, its.dc - its.returned_dc), np.where(much, its.ac, its.ac - its.returned_ac)
