"""What can be compared of a vehicle allows to say, and what it does not."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
import pytest
from energyfleet.v1 import analytics_service_pb2 as wire
from hypothesis import given
from hypothesis import strategies as st

from analytics_svc.baseline_result import NO_BASELINE, Baseline
from analytics_svc.comparison import Comparison
from analytics_svc.explanation import Finding, FindingKind, explain, findings_of
from analytics_svc.performance import Performance, Thresholds, VerdictReason, judge, may_be_too_coarse
from analytics_svc.questions import Verdict
from analytics_svc.stretches import Aside
from analytics_svc.totals import Evidence, FleetTotals
from tests.fleets import a_comparison, a_fleet

THRESHOLDS = Thresholds(
    low_efficiency_below=0.85,
    implausible_above=1.02,
    evidence_min_kwh=0.5,
    evidence_min_coverage=0.0,
    returned_max_share=0.01,
    standby_kw=0.2,
    plausible_min=0.3,
    baseline_min_kwh=20.0,
    ratio_drop_min=0.03,
)

BY_POWER = replace(THRESHOLDS, low_efficiency_by_power=((2.3, 0.72), (3.7, 0.78), (7.0, 0.85)))

EVIDENCE = Evidence(
    first_vehicle_us=None,
    last_vehicle_us=7,
    first_meter_us=None,
    last_meter_us=5,
    hours_either=0,
    hours_both=0,
    feedings=(),
    compared_us=(),
    vehicle_quality={},
    meter_quality={},
    similar_vehicle_ids=(),
)

TOTALS = {each.name for each in fields(FleetTotals)}


def a_vehicle(
    dc: float = 9.0,
    ac: float = 10.0,
    power_kw: float = 7.4,
    aside: Mapping[Aside, tuple[float, float]] | None = None,
    **differing: Any,
) -> FleetTotals:
    """A healthy night: 9 kWh of 10 kWh, charged at 7.4 kW, a reading a minute on both sides. `dc` and `ac` flowed in.

    The totals are what is compared and what is set aside, unless they are told.
    """
    returned_dc, returned_ac = (differing.get(f"returned_{side}", 0.0) for side in ("dc", "ac"))
    asides = (aside or {}).values()
    totals: dict[str, Any] = {
        "mappings": 1,
        "kwh_delivered_dc": dc + sum(delivered for delivered, _ in asides) - returned_dc,
        "kwh_consumed_ac": ac + sum(drawn for _, drawn in asides) + differing.get("idle", 0.0) - returned_ac,
        "vehicle_readings": 600,
        "meter_readings": 600,
        "kwh_returned_dc": returned_dc,
        "kwh_returned_ac": returned_ac,
    }
    totals |= {name: value for name, value in differing.items() if name in TOTALS}
    energies = {name: value for name, value in differing.items() if name not in TOTALS}
    comparison = a_comparison(1, aside, dc=dc, ac=ac, ac_squared_kw=power_kw * ac, **energies)
    return a_fleet(["car-1"], comparison, **totals)


@dataclass(frozen=True)
class Judged:
    """A verdict with its numbers and its words."""

    performance: Performance
    reason: str
    alert: str
    findings: list[Finding]

    def __getattr__(self, name: str) -> Any:
        return getattr(self.performance, name)

    @property
    def kinds(self) -> list[FindingKind]:
        return [each.kind for each in self.findings]


def judged(
    thresholds: Any = THRESHOLDS, *, evidence: Any = None, baseline: Any = NO_BASELINE, **differing: Any
) -> Judged:
    found = a_vehicle(**differing)
    totals, performance = found.at(0), judge(found, thresholds).at(0, found)
    explanation = explain("car-1", ["meter-1"], totals, performance, thresholds, baseline)
    findings = findings_of(totals, performance, evidence, baseline)
    return Judged(performance, explanation.reason, explanation.alert, findings)


def test_the_verdicts_are_those_of_the_contract() -> None:
    assert {*Verdict, "VERDICT_UNSPECIFIED"} == set(wire.Verdict.keys())


def test_the_findings_are_those_of_the_contract_in_its_order() -> None:
    assert ["FINDING_KIND_UNSPECIFIED", *FindingKind] == wire.FindingKind.keys()


def test_a_healthy_vehicle_is_ok_with_its_ratio_loss_and_coverage() -> None:
    performance = judged()
    assert performance.verdict is Verdict.OK
    assert (performance.efficiency_ratio, performance.kwh_lost) == (0.9, 1.0)
    assert (performance.compared.efficiency_ratio, performance.compared.kwh_lost) == (0.9, 1.0)
    assert performance.coverage == 1.0
    assert performance.reason == (
        "9.000 kWh were delivered of 10.000 kWh drawn, 90.0 %: at least the 85 % of a healthy charger at 7.4 kW."
    )
    assert (performance.alert, performance.findings) == ("", [])


def test_below_the_limit_somebody_is_called_with_the_numbers() -> None:
    performance = judged(dc=8.0)
    assert performance.verdict is Verdict.LOW_EFFICIENCY
    assert performance.reason == (
        "8.000 kWh were delivered of 10.000 kWh drawn, 80.0 %: a healthy charger delivers at least 85 % at 7.4 kW."
    )
    assert performance.alert.startswith(
        "Vehicle car-1 at meter meter-1 loses 2.000 kWh of 10.000 kWh while charging: inspect"
    )


@pytest.mark.parametrize(
    ("meter_ids", "named"),
    [
        ([], "car-1 loses"),
        (["a"], "car-1 at meter a loses"),
        (["a", "b", "c"], "car-1 at meters a, b, c loses"),
        (["a", "b", "c", "d", "e"], "car-1 at meters a, b, c and 2 more loses"),
    ],
)
def test_an_alert_names_up_to_three_meters(meter_ids: list[str], named: str) -> None:
    found = a_vehicle(dc=8.0)
    performance = judge(found, THRESHOLDS).at(0, found)
    assert named in explain("car-1", meter_ids, found.at(0), performance, THRESHOLDS).alert


def test_what_is_not_compared_changes_the_totals_and_not_the_verdict() -> None:
    performance = judged(
        idle=5.0, kwh_delivered_dc=19.0, kwh_delivered_dc_unmapped=10.0, aside={Aside.NOTHING_TAKEN: (0.0, 7.6)}
    )
    assert performance.efficiency_ratio == pytest.approx(19.0 / 22.6)
    assert performance.verdict is Verdict.OK
    assert performance.compared.efficiency_ratio == 0.9
    assert performance.coverage == pytest.approx(19.0 / 26.6), "standby is none of it"


@pytest.mark.parametrize(
    ("dc", "verdict"),
    [
        (8.5, Verdict.OK),
        (8.5 * (1 - 1e-12), Verdict.OK),
        (8.5 * (1 - 1e-7), Verdict.LOW_EFFICIENCY),
        (10.2, Verdict.OK),
        (10.2 * (1 + 1e-12), Verdict.OK),
        (10.2 * (1 + 1e-7), Verdict.IMPLAUSIBLE),
        (3.0, Verdict.LOW_EFFICIENCY),
        (3.0 * (1 - 1e-12), Verdict.LOW_EFFICIENCY),
        (3.0 * (1 - 1e-7), Verdict.IMPLAUSIBLE),
    ],
)
def test_a_limit_itself_is_fine_and_rounding_does_not_cross_it(dc: float, verdict: Verdict) -> None:
    assert judged(dc=dc).verdict is verdict


def test_a_ratio_just_off_its_limit_is_written_with_the_digits_that_show_it() -> None:
    assert "84.9996 %" in judged(dc=8.49996).reason
    assert "102.002 %" in judged(dc=10.2002).reason
    assert "29.9998 %" in judged(dc=2.99998).reason


def test_more_than_was_drawn_is_implausible_and_neither_capped_nor_hidden() -> None:
    performance = judged(dc=15.0)
    assert performance.verdict is Verdict.IMPLAUSIBLE
    assert (performance.efficiency_ratio, performance.compared.efficiency_ratio) == (1.5, 1.5)
    assert performance.kwh_lost == -5.0
    assert "150.0 %: above 102 % a meter, a clock or a mapping is wrong" in performance.reason
    assert performance.alert == ""


def test_a_loss_that_no_charger_has_sends_nobody_to_one() -> None:
    performance = judged(dc=1.0)
    assert performance.verdict is Verdict.IMPLAUSIBLE
    assert performance.performance.reason is VerdictReason.BELOW_PLAUSIBLE
    assert "10.0 %: below 30 %" in performance.reason
    assert performance.alert == ""
    assert judged(replace(THRESHOLDS, plausible_min=0.0), dc=1.0).verdict is Verdict.LOW_EFFICIENCY


@pytest.mark.parametrize(
    ("power_kw", "limit"),
    [
        (0.5, 0.72),
        (2.3, 0.72),
        (3.69, 0.72),
        (3.7 * (1 - 1e-12), 0.78),
        (3.7, 0.78),
        (6.9, 0.78),
        (7.0, 0.85),
        (50, 0.85),
    ],
)
def test_the_limit_is_that_of_the_greatest_power_that_is_reached(power_kw: float, limit: float) -> None:
    """And of the first one below them all."""
    on_it = judged(BY_POWER, dc=10 * limit, power_kw=power_kw)
    assert (on_it.verdict, on_it.compared.low_efficiency_below) == (Verdict.OK, limit)
    assert on_it.compared.mean_power_kw == pytest.approx(power_kw)
    below = judged(BY_POWER, dc=10 * limit - 0.01, power_kw=power_kw)
    assert below.verdict is Verdict.LOW_EFFICIENCY
    assert f"at least {100 * limit:g} % at {power_kw:.1f} kW" in below.reason


def test_without_limits_by_power_one_holds_for_all_and_low_power_is_told() -> None:
    performance = judged(dc=7.6, power_kw=2.3)
    assert (performance.verdict, performance.compared.low_efficiency_below) == (Verdict.LOW_EFFICIENCY, 0.85)
    assert performance.kinds == [FindingKind.LOW_POWER]
    assert "2.3 kW" in performance.findings[0].text
    assert judged(BY_POWER, dc=7.6, power_kw=2.3).verdict is Verdict.OK


def test_the_comparison_looks_at_all_that_any_limit_may_accuse() -> None:
    assert THRESHOLDS.comparing.low_efficiency_below == 0.85
    assert BY_POWER.comparing.low_efficiency_below == 0.85
    assert replace(BY_POWER, low_efficiency_by_power=((2.3, 0.72), (7.0, 0.7))).comparing.low_efficiency_below == 0.72
    assert (THRESHOLDS.comparing.standby_kw, THRESHOLDS.comparing.implausible_above) == (0.2, 1.02)


def test_without_a_mapping_nothing_else_is_said() -> None:
    performance = judged(mappings=0, dc=0.0, ac=0.0, kwh_delivered_dc=9.0, meter_readings=0)
    assert performance.verdict is Verdict.NO_METER
    assert (performance.efficiency_ratio, performance.kwh_lost, performance.compared) == (None, None, None)
    assert performance.coverage is None


def test_readings_of_neither_side_leave_everything_absent() -> None:
    performance = judged(dc=0.0, ac=0.0, vehicle_readings=0, meter_readings=0)
    assert performance.verdict is Verdict.INSUFFICIENT_DATA
    assert (performance.efficiency_ratio, performance.kwh_lost, performance.coverage) == (None, None, None)
    assert performance.reason.startswith("Neither")


def test_no_alternating_current_data_is_not_an_efficiency_of_0() -> None:
    performance = judged(dc=0.0, ac=0.0, aside={Aside.SILENT: (9.0, 0.0)}, meter_readings=0)
    assert performance.verdict is Verdict.INSUFFICIENT_DATA
    assert performance.efficiency_ratio is None
    assert performance.reason == "No meter that fed the vehicle sent a reading within the window; it sent 600."


def test_no_direct_current_data_is_not_an_efficiency_of_0() -> None:
    performance = judged(dc=0.0, ac=0.0, aside={Aside.SILENT: (0.0, 10.0)}, vehicle_readings=0)
    assert performance.verdict is Verdict.INSUFFICIENT_DATA
    assert performance.efficiency_ratio is None
    assert performance.reason.startswith("The vehicle sent no reading")


def test_a_ratio_over_nothing_drawn_is_absent_and_its_loss_is_not() -> None:
    for thresholds in (THRESHOLDS, replace(THRESHOLDS, evidence_min_kwh=0.0)):
        performance = judged(thresholds, dc=0.0, ac=0.0)
        assert performance.verdict is Verdict.INSUFFICIENT_DATA
        assert (performance.efficiency_ratio, performance.kwh_lost) == (None, 0.0)
        assert performance.compared is None
        assert performance.reason.startswith("0.000 kWh were drawn while charging; ")


@pytest.mark.parametrize(
    ("ac", "verdict"),
    [(0.499, Verdict.INSUFFICIENT_DATA), (0.5 * (1 - 1e-12), Verdict.OK), (0.5, Verdict.OK), (0.501, Verdict.OK)],
)
def test_a_verdict_needs_half_a_kilowatt_hour_that_can_be_compared(ac: float, verdict: Verdict) -> None:
    performance = judged(ac=ac, dc=ac * 0.9, idle=20.0)
    assert performance.verdict is verdict
    assert performance.compared.efficiency_ratio == pytest.approx(0.9)


def test_what_came_while_the_meter_stood_still_is_implausible() -> None:
    performance = judged(dc=0.0, ac=0.0, aside={Aside.NOTHING_DRAWN: (19.98, 0.0)})
    assert performance.verdict is Verdict.IMPLAUSIBLE
    assert (performance.efficiency_ratio, performance.kwh_lost) == (None, -19.98)
    assert performance.reason == (
        "19.980 kWh were delivered while the meters drew nothing: a meter is stuck, its readings do not count,"
        " or a clock or a mapping is wrong."
    )
    assert (performance.alert, performance.kinds) == ("", [FindingKind.NOTHING_DRAWN])


@pytest.mark.parametrize(
    ("from_nowhere", "dc", "verdict"),
    [
        (0.5, 0.0, Verdict.IMPLAUSIBLE),
        (0.5 * (1 - 1e-12), 0.0, Verdict.IMPLAUSIBLE),
        (0.5 * (1 - 1e-7), 0.0, Verdict.INSUFFICIENT_DATA),
        (9.1, 9.0, Verdict.IMPLAUSIBLE),
        (8.9, 9.0, Verdict.OK),
        (0.45, 0.3, Verdict.INSUFFICIENT_DATA),
    ],
)
def test_energy_from_nowhere_is_implausible_where_it_is_the_bulk_and_enough(
    from_nowhere: float, dc: float, verdict: Verdict
) -> None:
    performance = judged(dc=dc, ac=dc / 0.9, aside={Aside.NOTHING_DRAWN: (from_nowhere, 0.0)})
    assert performance.verdict is verdict
    assert FindingKind.NOTHING_DRAWN in performance.kinds, "it is told in any case"


@pytest.mark.parametrize(
    ("dc", "ac", "verdict"),
    [
        (0.001, 0.001, Verdict.OK),
        (0.002, 0.001, Verdict.IMPLAUSIBLE),
        (0.0, 0.0, Verdict.INSUFFICIENT_DATA),
        (1e-10, 1e-10, Verdict.INSUFFICIENT_DATA),
    ],
)
def test_where_any_energy_is_evidence_any_is_judged_but_none_is_not(dc: float, ac: float, verdict: Verdict) -> None:
    assert judged(replace(THRESHOLDS, evidence_min_kwh=0.0), ac=ac, dc=dc).verdict is verdict


ASIDES = [
    (Aside.UNDER_WAY, VerdictReason.UNDER_WAY, "under way", [FindingKind.CHARGE_UNDER_WAY]),
    (Aside.SILENT, VerdictReason.FELL_SILENT, "fell silent", [FindingKind.VEHICLE_SILENT, FindingKind.METER_SILENT]),
    (Aside.BEYOND, VerdictReason.NOT_ATTRIBUTABLE, "before the window", [FindingKind.NOT_ATTRIBUTABLE]),
    (Aside.NOTHING_TAKEN, VerdictReason.NOTHING_CHARGED, "Nothing was charged", [FindingKind.NOTHING_TAKEN]),
]


@pytest.mark.parametrize(("aside", "reason", "words", "kinds"), ASIDES)
def test_what_is_set_aside_is_why_too_little_is_left(
    aside: Aside, reason: VerdictReason, words: str, kinds: list[FindingKind]
) -> None:
    dc = 0.0 if aside is Aside.NOTHING_TAKEN else 3.0
    nothing = judged(dc=0.0, ac=0.0, aside={aside: (dc, 4.0)}, evidence=EVIDENCE)
    assert (nothing.verdict, nothing.performance.reason) == (Verdict.INSUFFICIENT_DATA, reason)
    assert words in nothing.reason
    assert nothing.kinds == kinds
    assert nothing.coverage == 0.0
    beside = judged(aside={aside: (dc, 4.0)})
    assert (beside.verdict, beside.kinds) == (Verdict.OK, kinds), "where enough is left it is only told"
    assert beside.coverage == pytest.approx(19 / (23 + dc))
    little = judged(dc=0.0, ac=0.0, aside={aside: (0.0, 0.4)})
    assert little.performance.reason is VerdictReason.TOO_LITTLE_ENERGY, "nor would it have been enough"


def test_who_fell_silent_is_told_since_when() -> None:
    performance = judged(aside={Aside.SILENT: (3.0, 4.0)}, evidence=EVIDENCE)
    assert [(each.kind, each.kwh, each.since_us) for each in performance.findings] == [
        (FindingKind.VEHICLE_SILENT, 4.0, 7),
        (FindingKind.METER_SILENT, 3.0, 5),
    ]


@pytest.mark.parametrize(
    ("times", "verdict"),
    [
        (1.0, Verdict.OK),
        (1 + 1e-12, Verdict.OK),
        (1 + 1e-7, Verdict.INSUFFICIENT_DATA),
        (2.0, Verdict.INSUFFICIENT_DATA),
    ],
)
def test_a_verdict_may_need_nine_tenths_that_can_be_compared(times: float, verdict: Verdict) -> None:
    needed = replace(THRESHOLDS, evidence_min_coverage=0.9)
    aside = {Aside.UNDER_WAY: (0.0, 19.0 / 9 * times)}
    performance = judged(needed, aside=aside)
    assert performance.verdict is verdict
    assert performance.coverage == pytest.approx(19 / (19 + 19 / 9 * times))
    assert judged(needed, dc=1.0, aside=aside).verdict is not Verdict.LOW_EFFICIENCY


def test_missing_coverage_is_explained_with_the_shares() -> None:
    needed = replace(THRESHOLDS, evidence_min_coverage=0.9)
    performance = judged(needed, aside={Aside.UNDER_WAY: (0.0, 19.0)})
    assert performance.reason == "50.0 % of what was charged can be compared; 90 % are needed for a verdict."


# By how much each of these may be another until the ratio reaches its limit: 8 of 10 kWh, 8.5; 11 of 10 kWh, 10.2.
BOUNDS = [
    (8.0, {"dc_more": 0.5}, Verdict.LOW_EFFICIENCY),
    (8.0, {"ac_less": 10 - 8 / 0.85}, Verdict.LOW_EFFICIENCY),
    (11.0, {"dc_less": 0.8}, Verdict.IMPLAUSIBLE),
    (11.0, {"ac_more": 11 / 1.02 - 10}, Verdict.IMPLAUSIBLE),
    (1.0, {"dc_more": 7.5}, Verdict.IMPLAUSIBLE),
]


@pytest.mark.parametrize(("dc", "doubt", "verdict"), BOUNDS)
def test_nobody_is_accused_where_the_ratio_may_be_on_its_limit(
    dc: float, doubt: dict[str, float], verdict: Verdict
) -> None:
    surely = judged(dc=dc, **{name: 0.99 * value for name, value in doubt.items()})
    assert surely.verdict is verdict
    perhaps = judged(dc=dc, **{name: 1.01 * value for name, value in doubt.items()})
    assert perhaps.performance.reason is VerdictReason.TOO_COARSE
    assert (perhaps.alert, perhaps.kinds) == ("", [FindingKind.TOO_COARSE])
    low, high = (f"{100 * share:.1f} %" for share in (perhaps.compared.at_least, perhaps.compared.at_most))
    assert f"too coarse to say, it may be {low} to {high}." in perhaps.reason
    assert perhaps.compared.at_least <= perhaps.compared.efficiency_ratio <= perhaps.compared.at_most


@pytest.mark.parametrize("name", ["dc_less", "dc_more", "ac_less", "ac_more"])
def test_a_healthy_ratio_is_not_examined(name: str) -> None:
    performance = judged(**{name: 9.0})
    assert performance.verdict is Verdict.OK
    assert performance.compared.at_least == performance.compared.at_most == 0.9


def test_where_all_that_was_drawn_may_be_something_else_the_ratio_may_be_any() -> None:
    performance = judged(dc=8.0, ac_less=10.0)
    assert performance.compared.at_most == math.inf
    assert "80.0 % to any share" in performance.reason


@pytest.mark.parametrize(
    ("dc", "step_kwh", "reason", "suspected"),
    [
        (9.0, 0.1, VerdictReason.HEALTHY, True),
        (9.0, 1.0, VerdictReason.TOO_COARSE, True),  # 9 of 9 or of 11
        (8.0, 0.1, VerdictReason.BELOW_LIMIT, True),  # 80 of 99 or of 101
        (8.0, 1.0, VerdictReason.TOO_COARSE, True),
        (7.0, 1.0, VerdictReason.BELOW_LIMIT, False),
        (12.0, 1.0, VerdictReason.ABOVE_LIMIT, False),
        (11.0, 1.0, VerdictReason.TOO_COARSE, True),
    ],
)
def test_a_register_s_step_may_be_too_coarse(
    dc: float, step_kwh: float, reason: VerdictReason, suspected: bool
) -> None:
    assert judged(dc=dc, step_kwh=step_kwh).performance.reason is reason
    found = a_vehicle(dc=dc)
    assert may_be_too_coarse(found, judge(found, THRESHOLDS), THRESHOLDS).tolist() == [0] * suspected


def test_what_is_no_sum_of_steps_needs_no_question_about_them() -> None:
    found = a_vehicle(dc=9.0, ac=10.05)
    assert may_be_too_coarse(found, judge(found, THRESHOLDS), THRESHOLDS).tolist() == []


@given(
    dc=st.integers(1, 40_000).map(lambda steps: steps * 0.0005),
    ac=st.integers(1, 40_000).map(lambda steps: steps * 0.0005),
    power_kw=st.integers(1, 400).map(lambda steps: steps * 0.05),
    direction=st.sampled_from([-math.inf, math.inf]),
)
def test_sums_that_differ_by_the_order_of_adding_are_told_in_the_same_words(
    dc: float, ac: float, power_kw: float, direction: float
) -> None:
    """Also those half way between two numbers of three digits."""
    aside = {Aside.NOTHING_TAKEN: (0.0, dc)}
    doubt = {"dc_more": 0.0005, "ac_more": 0.0005}
    one = judged(dc=dc, ac=ac, power_kw=power_kw, aside=aside, **doubt)
    for _ in range(3):
        dc, ac, power_kw = (
            math.nextafter(dc, direction),
            math.nextafter(ac, -direction),
            math.nextafter(power_kw, direction),
        )
    other = judged(dc=dc, ac=ac, power_kw=power_kw, aside={Aside.NOTHING_TAKEN: (0.0, dc)}, **doubt)
    assert (other.verdict, other.reason, other.alert) == (one.verdict, one.reason, one.alert)
    assert [each.text for each in other.findings] == [each.text for each in one.findings]


def test_every_reason_has_a_verdict_and_words_of_its_own() -> None:
    nothing: dict[str, Any] = {"dc": 0.0, "ac": 0.0}
    cases = [
        judged(),
        judged(dc=8.0),
        judged(dc=15.0),
        judged(dc=1.0),
        judged(dc=8.0, dc_more=1.0),
        judged(mappings=0),
        judged(**nothing, vehicle_readings=0, meter_readings=0),
        judged(**nothing, vehicle_readings=0),
        judged(**nothing, meter_readings=0),
        judged(ac=0.1, dc=0.09),
        judged(replace(THRESHOLDS, evidence_min_coverage=0.9), aside={Aside.SILENT: (9.0, 0.0)}),
        judged(**nothing, aside={Aside.NOTHING_DRAWN: (9.0, 0.0)}),
        *(judged(**nothing, aside={aside: (0.0, 9.0)}) for aside, *_ in ASIDES),
    ]
    of_vehicles = {*VerdictReason} - {VerdictReason.FED_NO_VEHICLE}
    assert {each.performance.reason for each in cases} == of_vehicles
    assert len({each.reason for each in cases}) == len(of_vehicles)
    assert [reason.number for reason in VerdictReason] == list(range(1, len(VerdictReason) + 1))


def test_the_limits_are_those_that_are_configured() -> None:
    strict = replace(THRESHOLDS, low_efficiency_below=0.95)
    assert judged(strict).verdict is Verdict.LOW_EFFICIENCY
    assert "95 %" in judged(strict).reason
    lenient = replace(THRESHOLDS, implausible_above=1.1, evidence_min_kwh=0.0)
    assert judged(lenient, dc=10.5).verdict is Verdict.OK


# The V2G row of the field: 2.5 kWh eight times and -1.8 kWh eight times at the meter, 2.3 and -2.0 at the vehicle.
BOTH_WAYS: dict[str, Any] = {"dc": 18.4, "ac": 20.0, "returned_dc": 16.0, "returned_ac": 14.4}


def test_of_a_vehicle_that_gives_back_charging_is_compared_with_charging() -> None:
    performance = judged(**BOTH_WAYS)
    assert performance.verdict is Verdict.OK
    assert performance.compared.efficiency_ratio == pytest.approx(0.92)
    assert performance.efficiency_ratio == pytest.approx(2.4 / 5.6), "the plain quotient stays what it is"
    assert performance.kwh_lost == pytest.approx(3.2), "in both directions"
    assert performance.reason.startswith("18.400 kWh were delivered of 20.000 kWh drawn, 92.0 %: at least the 85 %")


def test_the_call_to_inspect_a_charger_that_gives_back_names_what_is_lost_while_charging() -> None:
    performance = judged(**(BOTH_WAYS | {"dc": 16.0}))
    assert performance.verdict is Verdict.LOW_EFFICIENCY
    assert "80.0 %" in performance.reason
    assert "loses 4.000 kWh of 20.000 kWh while charging" in performance.alert


def test_where_as_much_flowed_back_as_was_drawn_there_is_no_quotient_but_a_verdict() -> None:
    rounding = 0.1 + 0.2 - 0.3
    assert rounding > 0
    for drawn in (rounding, 0.0, -rounding, -5.0):
        performance = judged(ac=10.0, returned_ac=10.0 - drawn, dc=9.0, returned_dc=11.0, kwh_consumed_ac=drawn)
        assert performance.efficiency_ratio is None
        assert performance.verdict is Verdict.OK
        assert performance.kwh_lost == drawn + 2.0


@pytest.mark.parametrize(("side", "at_most"), [("dc", 9.0 / 100), ("ac", 10.0 / 100)])
@pytest.mark.parametrize(("times", "both_ways"), [(1.0, False), (1 + 1e-12, False), (1 + 1e-7, True)])
def test_a_counter_that_steps_back_by_no_more_than_a_hundredth_nets_by_itself(
    side: str, at_most: float, times: float, both_ways: bool
) -> None:
    performance = judged(**{f"returned_{side}": at_most * times})
    assert performance.compared.efficiency_ratio == pytest.approx(
        0.9 if both_ways else performance.efficiency_ratio, rel=1e-12
    )
    assert performance.efficiency_ratio != pytest.approx(0.9, rel=1e-3)


def test_what_was_drawn_is_evidence_whatever_flowed_back() -> None:
    assert judged(ac=0.5, returned_ac=0.1, dc=0.45).verdict is Verdict.OK


def test_how_much_may_flow_back_is_configured() -> None:
    lenient = replace(THRESHOLDS, returned_max_share=0.9)
    assert judged(lenient, **BOTH_WAYS).compared.efficiency_ratio == pytest.approx(2.4 / 5.6)
    assert judged(lenient, **BOTH_WAYS).verdict is Verdict.LOW_EFFICIENCY


def test_findings_are_told_with_their_numbers_in_the_contract_s_order_and_watts_are_not() -> None:
    evidence = replace(
        EVIDENCE,
        vehicle_quality={"doubted": 3, "corrected": 9},
        meter_quality={"session": 4, "jump": 5, "baseline": 1},
        similar_vehicle_ids=["CAR-1", "Car-1"],
        values_left_out={"vehicle.soc": 1_200, "meter.voltage": 3},
    )
    aside = dict.fromkeys(Aside, (1.0, 2.0))
    told: dict[str, Any] = {"kwh_delivered_dc_unmapped": 6.0, "idle": 7.0, "hours_apart": -5.0, "power_kw": 3.9}
    dropped = Baseline(0.91, -0.04, dropped=True)
    performance = judged(dc=8.0, dc_more=1.0, aside=aside, evidence=evidence, baseline=dropped, **told)
    assert performance.kinds == list(FindingKind)
    assert [each.kwh for each in performance.findings] == [6.0, 1.0, 2.0, 7.0, 2.0, 2.0, 1.0, 2.0] + [None] * 7
    numbers = {each.kind: (each.readings, each.hours_apart) for each in performance.findings}
    assert numbers[FindingKind.DOUBTED_READINGS] == (12, None)
    assert numbers[FindingKind.SIDES_APART] == (None, -5.0)
    texts = {each.kind: each.text for each in performance.findings}
    assert "about 5 h apart, the vehicle earlier" in texts[FindingKind.SIDES_APART]
    assert "CAR-1, Car-1" in texts[FindingKind.ID_DIFFERS_IN_CASE]
    assert "meter.voltage 3, vehicle.soc 1,200." in texts[FindingKind.VALUES_LEFT_OUT]
    assert len(set(texts.values())) == len(FindingKind)
    in_list = judged(dc=8.0, dc_more=1.0, aside=aside, baseline=dropped, **told).kinds
    assert set(FindingKind) - set(in_list) == {
        FindingKind.DOUBTED_READINGS,
        FindingKind.ID_DIFFERS_IN_CASE,
        FindingKind.VALUES_LEFT_OUT,
    }
    assert judged(aside=dict.fromkeys(Aside, (0.009, 0.009)), idle=0.009).kinds == []


_energies = st.just(0.0) | st.floats(1e-6, 1e9)
_readings = st.integers(0, 3)
_asides = st.dictionaries(st.sampled_from(Aside), st.tuples(_energies, _energies))


@st.composite
def vehicles(draw: st.DrawFn) -> dict[str, Any]:
    """Anything that may be compared of a vehicle, or nothing."""
    names = ("dc", "ac", "returned_dc", "returned_ac", "dc_less", "dc_more", "ac_less", "ac_more", "idle")
    vehicle = {name: draw(_energies) for name in names}
    vehicle |= {name: draw(_readings) for name in ("mappings", "vehicle_readings", "meter_readings")}
    return vehicle | {"aside": draw(_asides), "power_kw": draw(st.floats(0.1, 400))}


@given(vehicles())
def test_a_verdict_never_claims_more_than_its_numbers(vehicle: dict[str, Any]) -> None:
    performance = judged(**vehicle)
    its, reason = performance.compared, performance.performance.reason
    assert performance.reason
    assert (performance.alert != "") == (performance.verdict is Verdict.LOW_EFFICIENCY)
    assert (performance.verdict is Verdict.NO_METER) == (vehicle["mappings"] == 0)
    assert performance.coverage is None or 0 <= performance.coverage <= 1
    if performance.verdict in (Verdict.OK, Verdict.LOW_EFFICIENCY, Verdict.IMPLAUSIBLE):
        assert vehicle["vehicle_readings"]
        assert vehicle["meter_readings"]
        if reason is VerdictReason.ENERGY_FROM_NOWHERE:
            assert vehicle["aside"][Aside.NOTHING_DRAWN][0] > vehicle["dc"]
        else:
            assert math.isfinite(its.efficiency_ratio)
            assert vehicle["ac"] >= 0.5 * (1 - 1e-9)
            assert its.kwh_consumed_ac > 0
    if performance.verdict is Verdict.LOW_EFFICIENCY:
        assert 0.3 * (1 - 1e-9) <= its.efficiency_ratio <= its.at_most < 0.85
    if reason is VerdictReason.ABOVE_LIMIT:
        assert 1.02 < its.at_least <= its.efficiency_ratio
    if reason is VerdictReason.BELOW_PLAUSIBLE:
        assert its.efficiency_ratio < 0.3
        assert its.at_most < 0.85
    if reason is VerdictReason.HEALTHY:
        assert 0.85 * (1 - 1e-9) <= its.efficiency_ratio <= 1.02 * (1 + 1e-9)


@given(st.lists(vehicles(), min_size=1, max_size=6))
def test_vehicles_do_not_change_each_other_s_verdicts(told: list[dict[str, Any]]) -> None:
    alone = [a_vehicle(**each) for each in told]
    columns = {
        name: np.concatenate([getattr(each, name) for each in alone])
        for name in TOTALS - {"vehicle_ids", "by_id", "comparison"}
    }
    comparison = Comparison(
        *(np.concatenate([getattr(each.comparison, name.name) for each in alone], -1) for name in fields(Comparison))
    )
    together = FleetTotals(["car-1"] * len(told), range(len(told)), **columns, comparison=comparison)
    judgement = judge(together, BY_POWER)
    for position, found in enumerate(alone):
        assert judgement.at(position, together) == judge(found, BY_POWER).at(0, found)
