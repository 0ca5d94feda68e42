"""What is normal for a vehicle: charges that are compared as wholes, day by day or at once, and what a drop is."""

from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from analytics_svc.baseline import baselines
from analytics_svc.baseline_charges import (
    BASELINE_DAYS,
    BaselineHours,
    add_joined,
    baseline_window,
    of_hours,
    side_by_side,
    sums_of,
)
from analytics_svc.baseline_result import Baseline
from analytics_svc.explanation import FindingKind, explain, findings_of
from analytics_svc.performance import VerdictReason, judge
from analytics_svc.questions import Window
from shared.timestamps import US_PER_DAY, US_PER_HOUR
from tests.charging_model import THRESHOLDS
from tests.fleets import a_comparison, a_fleet
from tests.unit.test_analytics_performance import judged

LIMITS = THRESHOLDS.comparing
EVENING = 18


def hours(*energies: tuple[float, float], first: int = EVENING, days: int = 2, known: bool = True) -> BaselineHours:
    """Delivered and drawn, hour after hour, of one vehicle; nothing in all others."""
    flowed = np.zeros((4, 24 * days, 1))
    for at, (dc, ac) in enumerate(energies, first):
        flowed[:2, at, 0] = dc, ac
    return BaselineHours(flowed, np.full((24 * days, 1), known))


def sums(table: BaselineHours) -> list[float]:
    dc, ac, *_ = sums_of(table, LIMITS)[:, 0].tolist()
    return [dc, ac]


def test_a_charge_is_what_both_sides_reported_in_its_hours_wherever_in_them_readings_lie() -> None:
    assert sums(hours((6.3, 3.7), (6.3, 7.0), (0.0, 3.3))) == pytest.approx([12.6, 14.0])


def test_standby_and_hours_in_which_a_vehicle_takes_next_to_nothing_are_no_charge() -> None:
    assert sums(hours((0.05, 0.2), (6.3, 7.0), (0.05, 0.2))) == pytest.approx([6.3, 7.0])


@pytest.mark.parametrize(
    "energies",
    [
        pytest.param([(6.3, 7.0), (6.3, 0.1), (6.3, 7.0), (6.3, 7.0)], id="a meter fell silent in it"),
        pytest.param([(0.0, 7.0), (0.0, 7.0), (18.9, 7.0)], id="one report of three hours"),
        pytest.param([(6.3, 7.0), (6.3, 57.0)], id="a meter's first reading after an outage"),
        pytest.param([(0.0, 7.0)], id="nothing was taken"),
        pytest.param([(6.3, 0.0)], id="nothing was drawn"),
        pytest.param([(7.3, 7.0)], id="more came than was drawn"),
    ],
)
def test_a_charge_that_one_side_has_not_reported_whole_is_left_out(energies: list[tuple[float, float]]) -> None:
    assert sums(hours(*energies)) == [0.0, 0.0]


@pytest.mark.parametrize("at", [EVENING - 1, EVENING, EVENING + 1, EVENING + 2])
def test_a_charge_at_the_edge_of_a_mapping_is_left_out(at: int) -> None:
    table = hours((6.3, 7.0), (6.3, 7.0))
    table.known[at] = False
    assert sums(table) == [0.0, 0.0]


@pytest.mark.parametrize("first", [0, 46])
def test_a_charge_at_the_edge_of_the_days_is_left_out(first: int) -> None:
    assert sums(hours((6.3, 7.0), (6.3, 7.0), first=first)) == [0.0, 0.0]


@pytest.mark.parametrize(("length", "counts"), [(40, True), (41, False)])
def test_a_charge_through_a_whole_day_is_left_out(length: int, counts: bool) -> None:
    """One that begins at seven ends at eleven of the next day, or at midnight."""
    found = sums(hours(*[(6.3, 7.0)] * length, first=7, days=3))
    assert found == (pytest.approx([6.3 * length, 7.0 * length]) if counts else [0.0, 0.0])


QUIET, BOTH, TAKEN, DRAWN, BACK = (
    (0.0, 0.0, 0.0, True),
    (6.0, 7.0, 0.0, True),
    (7.0, 0.0, 0.0, True),
    (0.0, 7.0, 0.0, True),
    (6.0, 7.0, 1.0, True),
)
hours_told = st.sampled_from(
    [QUIET] * 4 + [BOTH] * 6 + [TAKEN, DRAWN, BACK, (0.0, 0.0, 0.0, False), (6.0, 7.0, 0.0, False)]
)


@settings(max_examples=300)
@given(
    st.integers(1, 3).flatmap(
        lambda vehicles: st.lists(st.lists(hours_told, min_size=vehicles, max_size=vehicles), min_size=72, max_size=72)
    )
)
def test_days_together_have_what_all_of_their_hours_have(told: list[list[tuple[float, float, float, bool]]]) -> None:
    """Whatever goes on over midnight, and also where vehicles are looked at one by one."""
    table = np.array(told, np.float64).transpose(2, 0, 1)
    flowed = np.concatenate([table[:3], table[2:3]])
    known = table[3] > 0
    at_once = sums_of(BaselineHours(flowed.copy(), known), LIMITS)
    days = []
    for day in range(3):
        its = slice(24 * day, 24 * day + 24)
        columns = range(flowed.shape[2])
        parts = [
            of_hours(BaselineHours(flowed[:, its, at : at + 1].copy(), known[its, at : at + 1]), LIMITS)
            for at in columns
        ]
        days.append(side_by_side(parts))
    together = np.add.reduce([day.sums for day in days])
    for day_before, following in pairwise(days):
        add_joined(together, day_before, following, LIMITS)
    assert together == pytest.approx(at_once)


def test_the_days_are_those_before_the_one_in_which_the_window_starts() -> None:
    for start_us in (40 * US_PER_DAY, 41 * US_PER_DAY - 1):
        window = Window(start_us, start_us + US_PER_HOUR)
        assert baseline_window(window) == Window((40 - BASELINE_DAYS) * US_PER_DAY, 40 * US_PER_DAY)


def told(dc: float = 8.7, ac: float = 10.0, baseline: Any = (91.0, 100.0, 0.0, 0.0), **differing: Any) -> Baseline:
    """Of a vehicle of which so much is compared, and that charged so much on the days before."""
    comparison = a_comparison(dc=dc, ac=ac, ac_squared_kw=7.4 * ac, **differing)
    found = a_fleet(comparison=comparison, mappings=1, vehicle_readings=9, meter_readings=9)
    its = np.array(baseline, np.float64)[:, None]
    return baselines(its, found, judge(found, THRESHOLDS), THRESHOLDS).at(0)


def test_a_car_that_fell_from_91_to_87_percent_has_dropped_and_is_ok_still() -> None:
    its = told()
    assert its.ratio == pytest.approx(0.91)
    assert its.change == pytest.approx(-0.04)
    assert its.dropped
    performance = judged(dc=8.7, baseline=its)
    assert performance.verdict == "VERDICT_OK"
    assert performance.reason == (
        "8.700 kWh were delivered of 10.000 kWh drawn, 87.0 %: at least the 85 % of a healthy charger at 7.4 kW."
        " On the 28 days before it delivered 91.0 % of what was drawn: its ratio has dropped by 4.0 points."
    )
    [finding] = performance.findings
    assert (finding.kind, finding.ratio_change) == (FindingKind.RATIO_DROPPED, its.change)
    assert performance.reason.endswith(finding.text)


def test_a_car_that_has_always_lost_30_percent_has_not_dropped() -> None:
    its = told(dc=7.0, baseline=(70.0, 100.0, 0.0, 0.0))
    assert its.ratio == pytest.approx(0.7)
    assert its.change == pytest.approx(0)
    assert not its.dropped


@pytest.mark.parametrize(("dc", "dropped"), [(8.79, True), (8.8, True), (8.81, False), (9.5, False)])
def test_a_drop_is_told_from_the_configured_one_on(dc: float, dropped: bool) -> None:
    assert told(dc=dc).dropped == dropped


def test_nothing_is_normal_below_the_evidence() -> None:
    assert told(baseline=(18.1, 19.9, 0.0, 0.0)) == Baseline(None, None, dropped=False)
    assert told(baseline=(18.2, 20.0, 0.0, 0.0)).ratio == pytest.approx(0.91)


def test_without_a_comparison_there_is_no_change() -> None:
    its = told(dc=0.0, ac=0.0)
    assert its.ratio == pytest.approx(0.91)
    assert (its.change, its.dropped) == (None, False)


@pytest.mark.parametrize("differing", [{"dc_more": 0.2}, {"ac_less": 0.2}])
def test_nobody_has_dropped_within_the_bounds(differing: dict[str, float]) -> None:
    assert told(**differing).change == pytest.approx(-0.04)
    assert not told(**differing).dropped


def test_a_drop_is_told_beside_low_efficiency_and_not_beside_what_is_not_believed() -> None:
    assert told(dc=8.0).dropped
    assert not told(dc=2.0).dropped
    assert not told(dc=0.3, ac=0.4).dropped


@pytest.mark.parametrize(
    ("returned", "ratio"), [((0.5, 0.5), (91.0 - 0.5) / (100.0 - 0.5)), ((20.0, 25.0), 0.91)], ids=["little", "V2G"]
)
def test_what_flowed_back_is_netted_where_it_is_little(returned: tuple[float, float], ratio: float) -> None:
    assert told(baseline=(91.0, 100.0, *returned)).ratio == pytest.approx(ratio)


def test_the_thresholds_decide() -> None:
    comparison = a_comparison(dc=8.7, ac=10.0, ac_squared_kw=74.0)
    found = a_fleet(comparison=comparison, mappings=1, vehicle_readings=9, meter_readings=9)
    other = replace(THRESHOLDS, baseline_min_kwh=0.0, ratio_drop_min=0.05)
    its = baselines(np.array([[0.91], [1.0], [0.0], [0.0]]), found, judge(found, other), other).at(0)
    assert its.ratio == pytest.approx(0.91)
    assert not its.dropped
    nothing = baselines(np.zeros((4, 1)), found, judge(found, other), other).at(0)
    assert nothing.ratio is None
    performance = judge(found, other).at(0, found)
    assert performance.reason is VerdictReason.HEALTHY
    totals = found.at(0)
    assert "28 days" not in explain("car", [], totals, performance, other, its).reason
    assert findings_of(totals, performance, None, its) == []
