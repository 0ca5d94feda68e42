"""How efficiently a vehicle charged, by its totals. Pure: no clock, no database.

Efficiency is direct current into the battery over alternating current from the grid; 10 to 15 % of losses are expected.
`judge` finds the verdict, cheaply enough for a whole fleet; `explain` writes the sentences, for the vehicles of a page.
"""

from dataclasses import dataclass
from enum import Enum
from typing import NamedTuple

from analytics_svc.questions import Verdict
from analytics_svc.totals import Totals

RELATIVE_TOLERANCE = 1e-9
"""Relative error of sums of doubles. What is this close to a threshold counts as equal to it, and equal is OK: sums of
readings and sums of rollups must give the same verdict."""

_PERCENT_DIGITS_MAX = 7
"""Enough to show any difference that exceeds RELATIVE_TOLERANCE."""

_ROUNDED_DIGITS = 9
"""Digits after the point that do not depend on the order of addition, up to some 10,000 kWh."""


@dataclass(frozen=True, slots=True)
class Thresholds:
    """What the numbers of a vehicle are compared with."""

    low_efficiency_below: float
    implausible_above: float
    """Both are efficiency ratios."""
    evidence_min_kwh: float
    """Energy drawn, whatever flowed back; or delivered beyond all that was drawn, see `_came_from_nowhere`."""
    evidence_min_coverage: float
    """Share of hours, 0 to 1. Below either of the two there is no verdict by the ratio."""
    returned_max_share: float
    """Of what flowed in, 0 to 1. Where more flowed back, on either side, charging is compared with charging."""


class VerdictReason(Enum):
    HEALTHY = 1, Verdict.OK
    BELOW_LIMIT = 2, Verdict.LOW_EFFICIENCY
    ABOVE_LIMIT = 3, Verdict.IMPLAUSIBLE
    NO_MAPPING = 4, Verdict.NO_METER
    NOBODY_REPORTED = 5, Verdict.INSUFFICIENT_DATA
    VEHICLE_SILENT = 6, Verdict.INSUFFICIENT_DATA
    METERS_SILENT = 7, Verdict.INSUFFICIENT_DATA
    TOO_LITTLE_ENERGY = 8, Verdict.INSUFFICIENT_DATA
    TOO_LITTLE_COVERAGE = 9, Verdict.INSUFFICIENT_DATA
    NOTHING_DRAWN = 10, Verdict.INSUFFICIENT_DATA
    ENERGY_FROM_NOWHERE = 11, Verdict.IMPLAUSIBLE

    def __init__(self, number: int, verdict: Verdict) -> None:
        self.verdict = verdict


class Performance(NamedTuple):
    """What follows from the totals. None means absent, never 0."""

    efficiency_ratio: float | None
    kwh_lost: float | None
    coverage: float | None
    verdict: Verdict
    reason: VerdictReason
    compared_ratio: float | None
    """What the verdict goes by."""


@dataclass(frozen=True, slots=True)
class Explanation:
    reason: str
    alert: str
    """Empty unless somebody should inspect the charger."""


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


def judge(totals: Totals, thresholds: Thresholds) -> Performance:
    dc, ac, returned_ac = totals.kwh_delivered_dc, totals.kwh_consumed_ac, totals.kwh_returned_ac
    drawn, ratio = ac, efficiency_ratio(dc, ac, returned_ac)
    compared_ratio = ratio
    if returned_ac or totals.kwh_returned_dc:
        drawn = _flowed_in(ac, returned_ac)
        compared_ratio = efficiency_ratio(*_energies(totals, thresholds), returned_ac)
    lost = kwh_lost(dc, ac)
    coverage = totals.hours_both / totals.hours_either if totals.hours_either else None
    reason = _reason(totals, drawn, compared_ratio, coverage, thresholds)
    return Performance(ratio, lost, coverage, reason.verdict, reason, compared_ratio)


def _flowed_in(energy: float | None, returned: float | None) -> float | None:
    return energy if not returned or energy is None else energy + returned


def _energies(totals: Totals, thresholds: Thresholds) -> tuple[float | None, float | None]:
    """Energy delivered and energy drawn as the verdict compares them: net, or of charging alone where more flowed back,
    on either side, than a counter that steps back a little explains."""
    dc = _flowed_in(totals.kwh_delivered_dc, totals.kwh_returned_dc)
    ac = _flowed_in(totals.kwh_consumed_ac, totals.kwh_returned_ac)
    share = thresholds.returned_max_share * (1 + RELATIVE_TOLERANCE)
    for flowed_in, returned in ((dc, totals.kwh_returned_dc), (ac, totals.kwh_returned_ac)):
        if flowed_in is not None and returned and returned > share * flowed_in:
            return dc, ac
    return totals.kwh_delivered_dc, totals.kwh_consumed_ac


def _reason(
    totals: Totals, drawn: float | None, ratio: float | None, coverage: float | None, thresholds: Thresholds
) -> VerdictReason:
    if totals.mappings == 0:
        return VerdictReason.NO_MAPPING
    if totals.vehicle_readings == 0:
        return VerdictReason.NOBODY_REPORTED if totals.meter_readings == 0 else VerdictReason.VEHICLE_SILENT
    if totals.meter_readings == 0:
        return VerdictReason.METERS_SILENT
    too_little = drawn is not None and drawn < thresholds.evidence_min_kwh * (1 - RELATIVE_TOLERANCE)
    from_nowhere = (too_little or ratio is None) and _came_from_nowhere(totals, drawn, ratio, thresholds)
    if too_little and not from_nowhere:
        return VerdictReason.TOO_LITTLE_ENERGY
    if coverage is not None and coverage < thresholds.evidence_min_coverage:
        return VerdictReason.TOO_LITTLE_COVERAGE
    if from_nowhere:
        return VerdictReason.ENERGY_FROM_NOWHERE
    if ratio is None:
        return VerdictReason.NOTHING_DRAWN
    if ratio > thresholds.implausible_above * (1 + RELATIVE_TOLERANCE):
        return VerdictReason.ABOVE_LIMIT
    if ratio < thresholds.low_efficiency_below * (1 - RELATIVE_TOLERANCE):
        return VerdictReason.BELOW_LIMIT
    return VerdictReason.HEALTHY


def _came_from_nowhere(totals: Totals, drawn: float | None, ratio: float | None, thresholds: Thresholds) -> bool:
    """Whether at least the energy that a verdict needs was delivered beyond all that was drawn.

    There must be more readings of meters than one for each mapping: a register's first counts as 0 whatever was drawn.
    """
    delivered = _flowed_in(totals.kwh_delivered_dc, totals.kwh_returned_dc)
    if delivered is None or drawn is None or totals.meter_readings <= totals.mappings:
        return False
    if ratio is not None and ratio <= thresholds.implausible_above * (1 + RELATIVE_TOLERANCE):
        return False
    if delivered <= RELATIVE_TOLERANCE * (totals.kwh_returned_dc or 0.0):  # nothing, beside what flowed back
        return False
    return delivered >= (thresholds.evidence_min_kwh + drawn) * (1 - RELATIVE_TOLERANCE)


def explain(vehicle_id: str, totals: Totals, performance: Performance, thresholds: Thresholds) -> Explanation:
    """The reason of the verdict and, where somebody should inspect the charger, the alert."""
    alert = ""
    if performance.verdict is Verdict.LOW_EFFICIENCY:
        dc, ac = _energies(totals, thresholds)
        alert = (
            f"Vehicle {vehicle_id} loses {_kwh(kwh_lost(dc, ac))} of {_kwh(ac)} while"
            " charging: inspect charger, cable and battery for heat, ageing and leakage."
        )
    by_ratio = performance.reason in (VerdictReason.HEALTHY, VerdictReason.BELOW_LIMIT, VerdictReason.ABOVE_LIMIT)
    return Explanation((_compared if by_ratio else _missing)(totals, performance, thresholds), alert)


def _compared(totals: Totals, performance: Performance, thresholds: Thresholds) -> str:
    assert performance.compared_ratio is not None
    dc, ac = _energies(totals, thresholds)
    numbers = f"{_kwh(dc)} were delivered of {_kwh(ac)} drawn"
    if (dc, ac) != (totals.kwh_delivered_dc, totals.kwh_consumed_ac):
        numbers = f"Charging alone, {numbers}"
    if performance.reason is VerdictReason.ABOVE_LIMIT:
        percent, limit = _percents(performance.compared_ratio, thresholds.implausible_above)
        return f"{numbers}, {percent}: above {limit} a meter, a clock or a mapping is wrong."
    percent, limit = _percents(performance.compared_ratio, thresholds.low_efficiency_below)
    if performance.reason is VerdictReason.BELOW_LIMIT:
        return f"{numbers}, {percent}: a healthy charger delivers at least {limit}."
    return f"{numbers}, {percent}: at least the {limit} of a healthy charger."


def _missing(totals: Totals, performance: Performance, thresholds: Thresholds) -> str:
    match performance.reason:
        case VerdictReason.NO_MAPPING:
            return "No meter was mapped to the vehicle within the window."
        case VerdictReason.NOBODY_REPORTED:
            return "Neither the vehicle nor a meter that fed it sent a reading within the window."
        case VerdictReason.VEHICLE_SILENT:
            sent = f"the meters that fed it sent {totals.meter_readings:,}"
            return f"The vehicle sent no reading within the window; {sent}."
        case VerdictReason.METERS_SILENT:
            sent = f"it sent {totals.vehicle_readings:,}"
            return f"No meter that fed the vehicle sent a reading within the window; {sent}."
        case VerdictReason.TOO_LITTLE_ENERGY:
            needed = f"{thresholds.evidence_min_kwh:g} kWh are needed for a verdict"
            return f"{_kwh(_flowed_in(totals.kwh_consumed_ac, totals.kwh_returned_ac))} were drawn; {needed}."
        case VerdictReason.ENERGY_FROM_NOWHERE:
            delivered = _kwh(_flowed_in(totals.kwh_delivered_dc, totals.kwh_returned_dc))
            drawn = _kwh(_flowed_in(totals.kwh_consumed_ac, totals.kwh_returned_ac))
            return (
                f"{delivered} were delivered while {drawn} were drawn: the meter is stuck, its readings do not count,"
                " or the mapping is wrong."
            )
        case VerdictReason.TOO_LITTLE_COVERAGE:
            assert performance.coverage is not None
            percent, limit = _percents(performance.coverage, thresholds.evidence_min_coverage)
            return (
                f"Both sides reported in {totals.hours_both:,} of {totals.hours_either:,} hours, {percent};"
                f" {limit} are needed for a verdict."
            )
        case _:
            return "No energy was drawn within the window, so there is no ratio."


def _kwh(energy: float | None) -> str:
    """Energy with its unit; the same text for sums that differ by rounding alone, also half way between two texts."""
    assert energy is not None
    return f"{round(energy, _ROUNDED_DIGITS) + 0.0:,.3f} kWh"  # not -0.000


def _percents(share: float, limit: float) -> tuple[str, str]:
    """A share and the threshold it is compared with, in percent, with as many digits as make them differ."""
    limit_text = f"{limit * 100:g} %"
    for digits in range(1, _PERCENT_DIGITS_MAX):
        text = f"{round(share * 100, _ROUNDED_DIGITS):.{digits}f}"
        if float(text) != limit * 100:
            return f"{text} %", limit_text
    return limit_text, limit_text
