"""What a vehicle's totals allow to say of how it charged. Pure: no clock, no database.

Efficiency is direct current into the battery over alternating current from the grid; 10 to 15 % of losses are expected.
"""

from dataclasses import dataclass
from enum import StrEnum

from shared.config import AnalyticsSettings

ROUNDING = 1e-9
"""Relative error that sums of doubles may carry. A ratio this close to a limit counts as on it, and on it is fine."""

_PERCENT_DIGITS_MAX = 7
"""Enough to tell apart what ROUNDING tells apart."""


class Verdict(StrEnum):
    """What the numbers allow to say; the values are the contract's names."""

    OK = "VERDICT_OK"
    LOW_EFFICIENCY = "VERDICT_LOW_EFFICIENCY"
    IMPLAUSIBLE = "VERDICT_IMPLAUSIBLE"
    INSUFFICIENT_DATA = "VERDICT_INSUFFICIENT_DATA"
    NO_METER = "VERDICT_NO_METER"


@dataclass(frozen=True, slots=True)
class Totals:
    """What one vehicle and the meters that fed it, while they fed it, reported within a window.

    Energy in kWh, None without a reading; temperature in degrees Celsius, None where none was measured.
    """

    mappings: int
    kwh_delivered_dc: float | None
    kwh_consumed_ac: float | None
    average_battery_temp: float | None
    vehicle_readings: int
    meter_readings: int
    hours_either: int
    """Hours, `(h, h + 1 h]` in UTC, in which at least one side reported."""
    hours_both: int
    """Those of them in which both did."""


@dataclass(frozen=True, slots=True)
class Performance:
    """What follows from the totals. None is absent, and never stands for 0."""

    efficiency_ratio: float | None
    kwh_lost: float | None
    coverage: float | None
    verdict: Verdict
    reason: str
    alert: str
    """Empty unless somebody should look."""


def judge(vehicle_id: str, totals: Totals, limits: AnalyticsSettings) -> Performance:
    """The verdict of a vehicle, with its numbers and its reason in words."""
    dc, ac = totals.kwh_delivered_dc, totals.kwh_consumed_ac
    ratio = dc / ac if dc is not None and ac else None
    lost = ac - dc if dc is not None and ac is not None else None
    coverage = totals.hours_both / totals.hours_either if totals.hours_either else None
    verdict, reason = _verdict(totals, ratio, coverage, limits)
    alert = ""
    if verdict is Verdict.LOW_EFFICIENCY:
        alert = (
            f"Vehicle {vehicle_id} loses {lost:,.3f} kWh of {ac:,.3f} kWh while charging:"
            " inspect charger, cable and battery for heat, ageing and leakage."
        )
    return Performance(ratio, lost, coverage, verdict, reason, alert)


def _verdict(
    totals: Totals, ratio: float | None, coverage: float | None, limits: AnalyticsSettings
) -> tuple[Verdict, str]:
    if totals.mappings == 0:
        return Verdict.NO_METER, "No meter was mapped to the vehicle within the window."
    missing = _missing_evidence(totals, coverage, limits)
    if missing or ratio is None:
        return Verdict.INSUFFICIENT_DATA, missing or "No energy was drawn within the window, so there is no ratio."
    numbers = f"{totals.kwh_delivered_dc:,.3f} kWh were delivered of {totals.kwh_consumed_ac:,.3f} kWh drawn"
    if ratio > limits.implausible_above * (1 + ROUNDING):
        percent, limit = _percents(ratio, limits.implausible_above)
        return Verdict.IMPLAUSIBLE, f"{numbers}, {percent}: above {limit} a meter, a clock or a mapping is wrong."
    percent, limit = _percents(ratio, limits.low_efficiency_below)
    if ratio < limits.low_efficiency_below * (1 - ROUNDING):
        return Verdict.LOW_EFFICIENCY, f"{numbers}, {percent}: a healthy charger delivers at least {limit}."
    return Verdict.OK, f"{numbers}, {percent}: at least the {limit} of a healthy charger."


def _missing_evidence(totals: Totals, coverage: float | None, limits: AnalyticsSettings) -> str:
    """Why nothing can be said, or nothing."""
    if totals.vehicle_readings == 0 and totals.meter_readings == 0:
        return "Neither the vehicle nor a meter that fed it sent a reading within the window."
    if totals.vehicle_readings == 0:
        return f"The vehicle sent no reading within the window; the meters that fed it sent {totals.meter_readings:,}."
    if totals.meter_readings == 0:
        return f"No meter that fed the vehicle sent a reading within the window; it sent {totals.vehicle_readings:,}."
    if totals.kwh_consumed_ac is not None and totals.kwh_consumed_ac < limits.evidence_min_kwh:
        return (
            f"{totals.kwh_consumed_ac:,.3f} kWh were drawn; {limits.evidence_min_kwh:g} kWh are needed for a verdict."
        )
    if coverage is not None and coverage < limits.evidence_min_coverage:
        percent, limit = _percents(coverage, limits.evidence_min_coverage)
        return (
            f"Both sides reported in {totals.hours_both:,} of {totals.hours_either:,} hours, {percent};"
            f" {limit} are needed for a verdict."
        )
    return ""


def _percents(share: float, limit: float) -> tuple[str, str]:
    """A share and the limit that it is held against, in percent, with the digits that it takes to tell them apart."""
    limit_text = f"{limit * 100:g} %"
    for digits in range(1, _PERCENT_DIGITS_MAX):
        text = f"{share * 100:.{digits}f}"
        if float(text) != limit * 100:
            return f"{text} %", limit_text
    return limit_text, limit_text
