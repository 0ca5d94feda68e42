"""Writes the sentences about a meter, as `explanation` does about a vehicle. Pure."""

from collections.abc import Sequence
from dataclasses import replace

from analytics_svc.explanation import Explanation, Finding, FindingKind, findings_of, in_kwh, reason_of
from analytics_svc.judged_meter import JudgedMeter, Told
from analytics_svc.performance import Performance, Thresholds, VerdictReason
from analytics_svc.questions import Verdict
from analytics_svc.stretches import Aside
from analytics_svc.totals import Totals

NO_VEHICLE = "The meter was mapped to no vehicle within the window."

_NAMED_MAX = 3
"""Meters that a sentence names; more are counted."""

_FINDINGS = {
    FindingKind.NOTHING_TAKEN: (
        "{} were drawn while the vehicles took nothing: they were heated or cooled, or something else was fed."
    ),
    FindingKind.VEHICLE_SILENT: "{} were drawn since vehicles fell silent.",
}
"""Sentences that name the vehicle where there is one."""


def explain_meter(meter: JudgedMeter, thresholds: Thresholds) -> Explanation:
    """The reason of the verdict and, where somebody should inspect the charger, the alert."""
    performance = meter.performance
    reason = _reason(meter.totals, performance, thresholds)
    if meter.shared_with.count:
        reason += f" Counted together with {_named(meter.shared_with)}, which fed a vehicle at the same time."
    alert = ""
    if performance.verdict is Verdict.LOW_EFFICIENCY:
        its = performance.compared
        assert its is not None
        count = meter.vehicles.count
        alert = (
            f"Inspect the charger at {_at(meter)}: {in_kwh(its.kwh_lost)} of {in_kwh(its.kwh_consumed_ac)} were"
            f" lost while it charged {'1 vehicle' if count == 1 else f'{count:,} vehicles'}."
        )
        if count == 1:
            alert += f" It may be vehicle {meter.vehicles.ids[0]} as well: no other one charged there."
    return Explanation(reason, alert)


def meter_findings_of(meter: JudgedMeter) -> list[Finding]:
    """What else there is to say, each kind at most once, by number."""
    return [_of_vehicles(each) for each in findings_of(meter.totals, meter.performance, None)]


def _of_vehicles(finding: Finding) -> Finding:
    if finding.hours_apart is not None:
        way = "later" if finding.hours_apart > 0 else "earlier"
        text = f"The sides lie about {abs(finding.hours_apart):g} h apart, the vehicles {way}: a clock is wrong."
        return replace(finding, text=text)
    said = _FINDINGS.get(finding.kind)
    return finding if said is None else replace(finding, text=said.format(in_kwh(finding.kwh)))


def _at(meter: JudgedMeter) -> str:
    if not meter.shared_with.count:
        return f"meter {meter.meter_id}"
    return f"meter {meter.meter_id}, together with {_named(meter.shared_with)}"


def _named(meters: Told) -> str:
    if meters.count > _NAMED_MAX:
        return f"meters {', '.join(meters.ids[:_NAMED_MAX])} and {meters.count - _NAMED_MAX:,} more"
    return f"meter{'s' if meters.count > 1 else ''} {_listed(meters.ids)}"


def _listed(ids: Sequence[str]) -> str:
    *others, last = ids
    return f"{', '.join(others)} and {last}" if others else last


def _reason(totals: Totals, performance: Performance, thresholds: Thresholds) -> str:
    match performance.reason:
        case VerdictReason.FED_NO_VEHICLE:
            return NO_VEHICLE
        case VerdictReason.NOBODY_REPORTED:
            return "Neither the meter nor a vehicle that it fed sent a reading meanwhile."
        case VerdictReason.VEHICLE_SILENT:
            return f"No vehicle sent a reading while the meter fed it; the meter sent {totals.meter_readings:,}."
        case VerdictReason.METERS_SILENT:
            return f"The meter sent no reading while it fed vehicles; they sent {totals.vehicle_readings:,}."
        case VerdictReason.ENERGY_FROM_NOWHERE:
            delivered, _ = performance.aside[Aside.NOTHING_DRAWN]
            return (
                f"{in_kwh(delivered)} were delivered while the meter drew nothing: it is stuck, its readings do not"
                " count, or a clock or a mapping is wrong."
            )
        case VerdictReason.NOTHING_CHARGED:
            _, drawn = performance.aside[Aside.NOTHING_TAKEN]
            return f"Nothing was charged: the vehicles took nothing of the {in_kwh(drawn)} that the meter drew."
    return reason_of(totals, performance, thresholds)
