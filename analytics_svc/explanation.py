"""Writes the sentences about a vehicle: why its verdict is what it is, what to do, what else there is to say. Pure."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

from analytics_svc.baseline_result import NO_BASELINE, Baseline
from analytics_svc.performance import RELATIVE_TOLERANCE, Compared, Performance, Thresholds, VerdictReason
from analytics_svc.questions import Verdict
from analytics_svc.stretches import Aside
from analytics_svc.totals import Evidence, Totals

LOW_POWER_KW = 4.0
"""Below, on-board chargers lose more than most limits allow for."""

_TOLD_MIN_KWH = 0.01
"""Energy that is worth a finding."""

_METERS_MAX = 3
"""Meters that an alert names; more are counted."""

_PERCENT_DIGITS_MAX = 7
"""Enough to show any difference that exceeds RELATIVE_TOLERANCE."""

_ROUNDED_DIGITS = 9
"""Digits after the point that do not depend on the order of addition, up to some 10,000 kWh."""


class FindingKind(StrEnum):
    """What there is to say beside a verdict; the values are the contract's names, in the order of their numbers."""

    CHARGED_ELSEWHERE = "FINDING_KIND_CHARGED_ELSEWHERE"
    NOTHING_DRAWN = "FINDING_KIND_NOTHING_DRAWN"
    NOTHING_TAKEN = "FINDING_KIND_NOTHING_TAKEN"
    STANDBY = "FINDING_KIND_STANDBY"
    CHARGE_UNDER_WAY = "FINDING_KIND_CHARGE_UNDER_WAY"
    VEHICLE_SILENT = "FINDING_KIND_VEHICLE_SILENT"
    METER_SILENT = "FINDING_KIND_METER_SILENT"
    NOT_ATTRIBUTABLE = "FINDING_KIND_NOT_ATTRIBUTABLE"
    TOO_COARSE = "FINDING_KIND_TOO_COARSE"
    LOW_POWER = "FINDING_KIND_LOW_POWER"
    DOUBTED_READINGS = "FINDING_KIND_DOUBTED_READINGS"
    SIDES_APART = "FINDING_KIND_SIDES_APART"
    ID_DIFFERS_IN_CASE = "FINDING_KIND_ID_DIFFERS_IN_CASE"
    VALUES_LEFT_OUT = "FINDING_KIND_VALUES_LEFT_OUT"
    RATIO_DROPPED = "FINDING_KIND_RATIO_DROPPED"


@dataclass(frozen=True, slots=True)
class Finding:
    kind: FindingKind
    text: str
    kwh: float | None = None
    readings: int | None = None
    hours_apart: float | None = None
    since_us: int | None = None
    baseline_ratio: float | None = None
    ratio_change: float | None = None


@dataclass(frozen=True, slots=True)
class Explanation:
    reason: str
    alert: str
    """Empty unless somebody should inspect the charger."""


def explain(
    vehicle_id: str,
    meter_ids: Sequence[str],
    totals: Totals,
    performance: Performance,
    thresholds: Thresholds,
    baseline: Baseline = NO_BASELINE,
) -> Explanation:
    """The reason of the verdict and, where somebody should inspect the charger, the alert."""
    alert = ""
    if performance.verdict is Verdict.LOW_EFFICIENCY:
        its = performance.compared
        assert its is not None
        alert = (
            f"Vehicle {vehicle_id}{_at_meters(meter_ids)} loses {in_kwh(its.kwh_lost)} of {in_kwh(its.kwh_consumed_ac)}"
            " while charging: inspect charger, cable and battery for heat, ageing and leakage."
        )
    reason = reason_of(totals, performance, thresholds)
    if baseline.dropped:
        reason += f" {_dropped(baseline)}"
    return Explanation(reason, alert)


def _dropped(baseline: Baseline) -> str:
    assert baseline.ratio is not None
    assert baseline.change is not None
    points = round(-baseline.change * 100, _ROUNDED_DIGITS)
    return (
        f"On the 28 days before it delivered {_percent(baseline.ratio)} of what was drawn: its ratio has dropped by"
        f" {points:.1f} points."
    )


def _at_meters(meter_ids: Sequence[str]) -> str:
    if not meter_ids:
        return ""
    named = ", ".join(meter_ids[:_METERS_MAX])
    more = f" and {len(meter_ids) - _METERS_MAX:,} more" if len(meter_ids) > _METERS_MAX else ""
    return f" at meter{'s' if len(meter_ids) > 1 else ''} {named}{more}"


def reason_of(totals: Totals, performance: Performance, thresholds: Thresholds) -> str:
    its = performance.compared
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
        case VerdictReason.ENERGY_FROM_NOWHERE:
            delivered, _ = performance.aside[Aside.NOTHING_DRAWN]
            return (
                f"{in_kwh(delivered)} were delivered while the meters drew nothing: a meter is stuck, its readings do"
                " not count, or a clock or a mapping is wrong."
            )
        case VerdictReason.UNDER_WAY:
            return "A charge is under way, and one side has yet to report its part of it."
        case VerdictReason.FELL_SILENT:
            return "One side fell silent in a charge and has not come back, so there is nothing to compare."
        case VerdictReason.NOT_ATTRIBUTABLE:
            return "Readings stand for time from before the window or a mapping, so there is nothing to compare."
        case VerdictReason.NOTHING_CHARGED:
            _, drawn = performance.aside[Aside.NOTHING_TAKEN]
            return f"Nothing was charged: the vehicle took nothing of the {in_kwh(drawn)} that the meters drew."
        case VerdictReason.TOO_LITTLE_ENERGY:
            drawn = 0.0 if its is None else its.kwh_consumed_ac
            needed = f"{thresholds.evidence_min_kwh:g} kWh are needed for a verdict"
            return f"{in_kwh(drawn)} were drawn while charging; {needed}."
        case VerdictReason.TOO_LITTLE_COVERAGE:
            assert performance.coverage is not None
            percent, limit = _percents(performance.coverage, thresholds.evidence_min_coverage)
            return f"{percent} of what was charged can be compared; {limit} are needed for a verdict."
    assert its is not None
    return _compared(performance, its, thresholds)


def _compared(performance: Performance, its: Compared, thresholds: Thresholds) -> str:
    numbers = f"{in_kwh(its.kwh_delivered_dc)} were delivered of {in_kwh(its.kwh_consumed_ac)} drawn"
    power = f" at {_kw(its.mean_power_kw)}"
    match performance.reason:
        case VerdictReason.ABOVE_LIMIT:
            percent, limit = _percents(its.efficiency_ratio, thresholds.implausible_above)
            return f"{numbers}, {percent}: above {limit} a meter, a clock or a mapping is wrong."
        case VerdictReason.BELOW_PLAUSIBLE:
            percent, limit = _percents(its.efficiency_ratio, thresholds.plausible_min)
            return (
                f"{numbers}, {percent}: below {limit} a meter, a clock or a mapping is wrong; no charger loses as much."
            )
        case VerdictReason.TOO_COARSE:
            percent, _ = _percents(its.efficiency_ratio, its.low_efficiency_below)
            return (
                f"{numbers}, {percent}: too coarse to say, it may be"
                f" {_percent(its.at_least)} to {_percent(its.at_most)}."
            )
        case VerdictReason.BELOW_LIMIT:
            percent, limit = _percents(its.efficiency_ratio, its.low_efficiency_below)
            return f"{numbers}, {percent}: a healthy charger delivers at least {limit}{power}."
    percent, limit = _percents(its.efficiency_ratio, its.low_efficiency_below)
    return f"{numbers}, {percent}: at least the {limit} of a healthy charger{power}."


def findings_of(
    totals: Totals, performance: Performance, evidence: Evidence | None, baseline: Baseline = NO_BASELINE
) -> list[Finding]:
    """What else there is to say, each kind at most once, by number. Without evidence what it would show is left out."""
    found: list[Finding] = []
    if totals.kwh_delivered_dc_unmapped:
        text = "{} were charged while no meter was mapped; they are not compared."
        _tell(found, FindingKind.CHARGED_ELSEWHERE, totals.kwh_delivered_dc_unmapped, text)
    if totals.kwh_consumed_ac_idle:
        _tell(found, FindingKind.STANDBY, totals.kwh_consumed_ac_idle, "{} were drawn at standby.")
    if performance.aside:
        _tell_aside(found, performance.aside, evidence)
    its = performance.compared
    if performance.reason is VerdictReason.TOO_COARSE:
        text = "The ratio cannot be told from its limit: by steps of a register, standby, clocks or long intervals."
        found.append(Finding(FindingKind.TOO_COARSE, text))
    if its is not None and round(its.mean_power_kw, _ROUNDED_DIGITS) < LOW_POWER_KW:
        text = f"It charged at {_kw(its.mean_power_kw)} on average, at which on-board chargers lose more."
        found.append(Finding(FindingKind.LOW_POWER, text))
    hours_apart = performance.hours_apart
    if hours_apart is not None:
        way = "later" if hours_apart > 0 else "earlier"
        text = f"The sides lie about {abs(hours_apart):g} h apart, the vehicle {way}: a clock is wrong."
        found.append(Finding(FindingKind.SIDES_APART, text, hours_apart=hours_apart))
    if baseline.dropped:
        text = _dropped(baseline)
        found.append(
            Finding(FindingKind.RATIO_DROPPED, text, baseline_ratio=baseline.ratio, ratio_change=baseline.change)
        )
    if evidence is not None:
        _tell_evidence(found, evidence)
    return sorted(found, key=_by_number) if len(found) > 1 else found


def _tell(found: list[Finding], kind: FindingKind, kwh: float, text: str, since_us: int | None = None) -> None:
    if kwh >= _TOLD_MIN_KWH * (1 - RELATIVE_TOLERANCE):
        found.append(Finding(kind, text.format(in_kwh(kwh)), kwh=kwh, since_us=since_us))


def _tell_aside(found: list[Finding], aside: Mapping[Aside, tuple[float, float]], evidence: Evidence | None) -> None:
    nothing = 0.0, 0.0
    _tell(
        found,
        FindingKind.NOTHING_DRAWN,
        aside.get(Aside.NOTHING_DRAWN, nothing)[0],
        "{} were delivered while the meters drew nothing.",
    )
    _tell(
        found,
        FindingKind.NOTHING_TAKEN,
        aside.get(Aside.NOTHING_TAKEN, nothing)[1],
        "{} were drawn while the vehicle took nothing: it was heated or cooled, or something else was fed.",
    )
    _tell(
        found,
        FindingKind.CHARGE_UNDER_WAY,
        max(aside.get(Aside.UNDER_WAY, nothing)),
        "{} of a charge under way are not compared: one side has yet to report its part.",
    )
    delivered, drawn = aside.get(Aside.SILENT, nothing)
    if drawn >= delivered / 2:  # less of one is what was left where a stretch was cut
        last_us = None if evidence is None else evidence.last_vehicle_us
        _tell(found, FindingKind.VEHICLE_SILENT, drawn, "{} were drawn since the vehicle fell silent.", last_us)
    if delivered >= drawn / 2:
        last_us = None if evidence is None else evidence.last_meter_us
        _tell(found, FindingKind.METER_SILENT, delivered, "{} were delivered since the meters fell silent.", last_us)
    _tell(
        found,
        FindingKind.NOT_ATTRIBUTABLE,
        max(aside.get(Aside.BEYOND, nothing)),
        "{} are not compared: readings stand for time from before the window or a mapping.",
    )


def _tell_evidence(found: list[Finding], evidence: Evidence) -> None:
    doubted = sum(
        quality.get(why, 0)
        for quality in (evidence.vehicle_quality, evidence.meter_quality)
        if quality
        for why in ("doubted", "session", "jump")
    )
    if doubted:
        subject = "1 reading is doubted, and its" if doubted == 1 else f"{doubted:,} readings are doubted, and their"
        text = f"{subject} energy does not count."
        found.append(Finding(FindingKind.DOUBTED_READINGS, text, readings=doubted))
    if evidence.similar_vehicle_ids:
        text = f"Known ids that differ in case alone: {', '.join(evidence.similar_vehicle_ids)}."
        found.append(Finding(FindingKind.ID_DIFFERS_IN_CASE, text))
    if evidence.values_left_out:
        fields = ", ".join(f"{name} {count:,}" for name, count in sorted(evidence.values_left_out.items()))
        text = f"Values that cannot be right are left out of readings, so far: {fields}. A sensor is faulty."
        readings = sum(evidence.values_left_out.values())
        found.append(Finding(FindingKind.VALUES_LEFT_OUT, text, readings=readings))


_NUMBERS = {kind: number for number, kind in enumerate(FindingKind)}


def _by_number(finding: Finding) -> int:
    return _NUMBERS[finding.kind]


def in_kwh(energy: float | None) -> str:
    """Energy with its unit; the same text for sums that differ by rounding alone, also half way between two texts."""
    assert energy is not None
    return f"{round(energy, _ROUNDED_DIGITS) + 0.0:,.3f} kWh"  # not -0.000


def _kw(power: float) -> str:
    """Likewise."""
    return f"{round(power, _ROUNDED_DIGITS):.1f} kW"


def _percent(share: float) -> str:
    return "any share" if share == float("inf") else f"{round(share * 100, _ROUNDED_DIGITS):.1f} %"


def _percents(share: float, limit: float) -> tuple[str, str]:
    """A share and the threshold it is compared with, in percent, with as many digits as make them differ."""
    limit_text = f"{limit * 100:g} %"
    for digits in range(1, _PERCENT_DIGITS_MAX):
        text = f"{round(share * 100, _ROUNDED_DIGITS):.{digits}f}"
        if float(text) != limit * 100:
            return f"{text} %", limit_text
    return limit_text, limit_text
