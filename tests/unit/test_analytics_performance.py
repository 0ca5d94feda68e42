"""What totals allow to say of a vehicle, and what they do not."""

import math
from dataclasses import dataclass, replace
from typing import Any

import pytest
from energyfleet.v1 import analytics_service_pb2 as wire
from hypothesis import given
from hypothesis import strategies as st

from analytics_svc.performance import Performance, Thresholds, VerdictReason, explain, judge
from analytics_svc.questions import Verdict
from analytics_svc.totals import Totals

THRESHOLDS = Thresholds(
    low_efficiency_below=0.85,
    implausible_above=1.02,
    evidence_min_kwh=0.5,
    evidence_min_coverage=0.9,
    returned_max_share=0.01,
)


def some_totals(**differing: Any) -> Totals:
    """A healthy night: 9 kWh of 10 kWh in 10 hours, a reading a minute on both sides."""
    healthy: dict[str, Any] = {
        "mappings": 1,
        "kwh_delivered_dc": 9.0,
        "kwh_consumed_ac": 10.0,
        "average_battery_temp": 21.0,
        "vehicle_readings": 600,
        "meter_readings": 600,
        "hours_either": 10,
        "hours_both": 10,
        "kwh_returned_dc": 0.0,
        "kwh_returned_ac": 0.0,
    }
    return Totals(**(healthy | differing))


NOTHING: dict[str, Any] = {
    "kwh_delivered_dc": None,
    "kwh_consumed_ac": None,
    "vehicle_readings": 0,
    "meter_readings": 0,
}


@dataclass(frozen=True)
class Judged:
    """A verdict with its numbers and its words."""

    performance: Performance
    reason: str
    alert: str

    def __getattr__(self, name: str) -> Any:
        return getattr(self.performance, name)


def judged(thresholds: Thresholds = THRESHOLDS, **differing: Any) -> Judged:
    totals = some_totals(**differing)
    performance = judge(totals, thresholds)
    explanation = explain("car-1", totals, performance, thresholds)
    return Judged(performance, explanation.reason, explanation.alert)


def test_the_verdicts_are_those_of_the_contract() -> None:
    assert {*Verdict, "VERDICT_UNSPECIFIED"} == set(wire.Verdict.keys())


def test_a_healthy_vehicle_is_ok_with_its_ratio_loss_and_coverage() -> None:
    performance = judged()
    assert performance.verdict is Verdict.OK
    assert performance.efficiency_ratio == 0.9
    assert performance.kwh_lost == 1.0
    assert performance.coverage == 1.0
    assert (
        performance.reason
        == "9.000 kWh were delivered of 10.000 kWh drawn, 90.0 %: at least the 85 % of a healthy charger."
    )
    assert performance.alert == ""


def test_below_the_limit_somebody_is_called_with_the_numbers() -> None:
    performance = judged(kwh_delivered_dc=8.0)
    assert performance.verdict is Verdict.LOW_EFFICIENCY
    assert performance.efficiency_ratio == 0.8
    assert "80.0 %" in performance.reason
    assert "85 %" in performance.reason
    assert "car-1" in performance.alert
    assert "2.000 kWh of 10.000 kWh" in performance.alert


@pytest.mark.parametrize(
    ("kwh_delivered_dc", "verdict"),
    [
        (8.5, Verdict.OK),
        (8.5 * (1 - 1e-12), Verdict.OK),
        (8.5 * (1 - 1e-7), Verdict.LOW_EFFICIENCY),
        (10.2, Verdict.OK),
        (10.2 * (1 + 1e-12), Verdict.OK),
        (10.2 * (1 + 1e-7), Verdict.IMPLAUSIBLE),
        (0.0, Verdict.LOW_EFFICIENCY),
    ],
)
def test_a_limit_itself_is_fine_and_rounding_does_not_cross_it(kwh_delivered_dc: float, verdict: Verdict) -> None:
    assert judged(kwh_delivered_dc=kwh_delivered_dc).verdict is verdict


def test_a_ratio_just_off_its_limit_is_written_with_the_digits_that_show_it() -> None:
    assert "84.9996 %" in judged(kwh_delivered_dc=8.49996).reason
    assert "102.002 %" in judged(kwh_delivered_dc=10.2002).reason


def test_more_than_was_drawn_is_implausible_and_neither_capped_nor_hidden() -> None:
    performance = judged(kwh_delivered_dc=15.0)
    assert performance.verdict is Verdict.IMPLAUSIBLE
    assert performance.efficiency_ratio == 1.5
    assert performance.kwh_lost == -5.0
    assert "150.0 %" in performance.reason
    assert performance.alert == ""


def test_without_a_mapping_nothing_else_is_said() -> None:
    performance = judged(mappings=0, kwh_consumed_ac=None, meter_readings=0, hours_both=0)
    assert performance.verdict is Verdict.NO_METER
    assert performance.efficiency_ratio is None
    assert performance.kwh_lost is None
    assert performance.coverage == 0.0


def test_readings_of_neither_side_leave_everything_absent() -> None:
    performance = judged(**NOTHING, hours_either=0, hours_both=0)
    assert performance.verdict is Verdict.INSUFFICIENT_DATA
    assert (performance.efficiency_ratio, performance.kwh_lost, performance.coverage) == (None, None, None)
    assert performance.reason.startswith("Neither")


def test_no_alternating_current_data_is_not_an_efficiency_of_0() -> None:
    performance = judged(kwh_consumed_ac=None, meter_readings=0, hours_both=0)
    assert performance.verdict is Verdict.INSUFFICIENT_DATA
    assert performance.efficiency_ratio is None
    assert "No meter" in performance.reason


def test_no_direct_current_data_is_not_an_efficiency_of_0() -> None:
    performance = judged(kwh_delivered_dc=None, vehicle_readings=0, hours_both=0)
    assert performance.verdict is Verdict.INSUFFICIENT_DATA
    assert performance.efficiency_ratio is None
    assert "The vehicle sent no reading" in performance.reason


def test_a_ratio_over_nothing_drawn_is_absent_and_its_loss_is_not() -> None:
    anything_goes = replace(THRESHOLDS, evidence_min_kwh=0.0)
    performance = judged(anything_goes, kwh_consumed_ac=0.0, kwh_delivered_dc=0.0)
    assert performance.verdict is Verdict.INSUFFICIENT_DATA
    assert performance.efficiency_ratio is None
    assert performance.kwh_lost == 0.0
    assert "No energy was drawn" in performance.reason


@pytest.mark.parametrize(
    ("kwh_consumed_ac", "verdict"),
    [(0.499, Verdict.INSUFFICIENT_DATA), (0.5 * (1 - 1e-12), Verdict.OK), (0.5, Verdict.OK), (0.501, Verdict.OK)],
)
def test_a_verdict_needs_half_a_kilowatt_hour(kwh_consumed_ac: float, verdict: Verdict) -> None:
    performance = judged(kwh_consumed_ac=kwh_consumed_ac, kwh_delivered_dc=kwh_consumed_ac * 0.9)
    assert performance.verdict is verdict
    assert performance.efficiency_ratio == pytest.approx(0.9)


def test_what_came_while_the_meter_stood_still_is_implausible() -> None:
    performance = judged(kwh_delivered_dc=19.98, kwh_consumed_ac=0.0)
    assert performance.verdict is Verdict.IMPLAUSIBLE
    assert (performance.efficiency_ratio, performance.kwh_lost) == (None, -19.98)
    assert performance.reason == (
        "19.980 kWh were delivered while 0.000 kWh were drawn: the meter is stuck, its readings do not count,"
        " or the mapping is wrong."
    )
    assert performance.alert == ""


@pytest.mark.parametrize("kwh_consumed_ac", [0.0, 1e-6, 0.25, 0.49])
@pytest.mark.parametrize(
    ("times", "verdict"),
    [
        (1.0, Verdict.IMPLAUSIBLE),
        (1 - 1e-12, Verdict.IMPLAUSIBLE),
        (1 - 1e-7, Verdict.INSUFFICIENT_DATA),
        (0.9, Verdict.INSUFFICIENT_DATA),
    ],
)
def test_half_a_kilowatt_hour_must_have_come_from_nowhere(
    kwh_consumed_ac: float, times: float, verdict: Verdict
) -> None:
    delivered = (0.5 + kwh_consumed_ac) * times
    assert judged(kwh_consumed_ac=kwh_consumed_ac, kwh_delivered_dc=delivered).verdict is verdict


def test_what_came_from_nowhere_is_what_flowed_in_whatever_flowed_back() -> None:
    gave_back: dict[str, Any] = {"kwh_returned_dc": 16.0, "kwh_delivered_dc": 0.4}
    stuck = judged(kwh_consumed_ac=0.0, **gave_back)
    assert stuck.verdict is Verdict.IMPLAUSIBLE
    assert stuck.reason.startswith("16.400 kWh were delivered while 0.000 kWh were drawn")
    assert judged(kwh_consumed_ac=-14.4, kwh_returned_ac=14.4, **gave_back).verdict is Verdict.IMPLAUSIBLE
    only_gave_back = judged(kwh_consumed_ac=0.0, kwh_delivered_dc=-16.0, kwh_returned_dc=16.0)
    assert only_gave_back.verdict is Verdict.INSUFFICIENT_DATA
    by_net_sums = replace(THRESHOLDS, returned_max_share=0.95)
    assert judged(by_net_sums, kwh_consumed_ac=0.4, kwh_delivered_dc=0.1, kwh_returned_dc=0.9).verdict is (
        Verdict.INSUFFICIENT_DATA
    ), "the ratio that the verdict goes by is not above the limit"


def test_no_meter_is_blamed_without_coverage() -> None:
    performance = judged(kwh_consumed_ac=0.0, hours_both=8)
    assert performance.verdict is Verdict.INSUFFICIENT_DATA
    assert performance.reason == "Both sides reported in 8 of 10 hours, 80.0 %; 90 % are needed for a verdict."


@pytest.mark.parametrize(
    ("mappings", "meter_readings", "verdict"),
    [
        (1, 1, Verdict.INSUFFICIENT_DATA),
        (1, 2, Verdict.IMPLAUSIBLE),
        (3, 3, Verdict.INSUFFICIENT_DATA),
        (3, 4, Verdict.IMPLAUSIBLE),
    ],
)
def test_no_meter_is_blamed_for_a_first_reading_which_may_be_a_registers(
    mappings: int, meter_readings: int, verdict: Verdict
) -> None:
    performance = judged(kwh_consumed_ac=0.0, mappings=mappings, meter_readings=meter_readings)
    assert performance.verdict is verdict


@pytest.mark.parametrize(
    ("dc", "ac", "verdict"),
    [
        (20.0, 0.0, Verdict.IMPLAUSIBLE),
        (0.001, 0.0, Verdict.IMPLAUSIBLE),
        (0.0, 0.0, Verdict.INSUFFICIENT_DATA),
        (0.001, 0.001, Verdict.OK),
        (0.002, 0.001, Verdict.IMPLAUSIBLE),
    ],
)
def test_where_any_energy_is_evidence_any_may_come_from_nowhere_but_none_does_not(
    dc: float, ac: float, verdict: Verdict
) -> None:
    anything_goes = replace(THRESHOLDS, evidence_min_kwh=0.0)
    assert judged(anything_goes, kwh_consumed_ac=ac, kwh_delivered_dc=dc).verdict is verdict


def test_what_rounding_leaves_of_sums_did_not_come_from_nowhere() -> None:
    anything_goes = replace(THRESHOLDS, evidence_min_kwh=0.0)
    rounding = 0.1 + 0.2 - 0.3
    for dc in (rounding, -rounding):
        for ac in (rounding, -rounding):
            performance = judged(
                anything_goes,
                kwh_delivered_dc=dc - 8.0,
                kwh_returned_dc=8.0,
                kwh_consumed_ac=ac - 7.2,
                kwh_returned_ac=7.2,
            )
            assert performance.verdict is Verdict.INSUFFICIENT_DATA


@pytest.mark.parametrize(("hours_both", "verdict"), [(8, Verdict.INSUFFICIENT_DATA), (9, Verdict.OK)])
def test_a_verdict_needs_both_sides_in_nine_hours_of_ten(hours_both: int, verdict: Verdict) -> None:
    performance = judged(hours_both=hours_both)
    assert performance.verdict is verdict
    assert performance.coverage == hours_both / 10


def test_missing_coverage_is_explained_with_the_hours() -> None:
    assert judged(hours_both=5).reason == "Both sides reported in 5 of 10 hours, 50.0 %; 90 % are needed for a verdict."


@given(
    dc=st.integers(1, 40_000).map(lambda steps: steps * 0.0005),
    ac=st.integers(1, 40_000).map(lambda steps: steps * 0.0005),
    direction=st.sampled_from([-math.inf, math.inf]),
)
def test_sums_that_differ_by_the_order_of_adding_are_told_in_the_same_words(
    dc: float, ac: float, direction: float
) -> None:
    """Also those half way between two numbers of three digits."""
    one = judged(kwh_delivered_dc=dc, kwh_consumed_ac=ac)
    for _ in range(3):
        dc, ac = math.nextafter(dc, direction), math.nextafter(ac, -direction)
    other = judged(kwh_delivered_dc=dc, kwh_consumed_ac=ac)
    assert (other.verdict, other.reason, other.alert) == (one.verdict, one.reason, one.alert)


def test_every_reason_has_a_verdict_and_words_of_its_own() -> None:
    silent = NOTHING | {"hours_either": 0, "hours_both": 0}
    cases = [
        judged(),
        judged(kwh_delivered_dc=8.0),
        judged(kwh_delivered_dc=15.0),
        judged(mappings=0),
        judged(**silent),
        judged(**(silent | {"meter_readings": 1})),
        judged(**(silent | {"vehicle_readings": 1})),
        judged(kwh_consumed_ac=0.1, kwh_delivered_dc=0.09),
        judged(hours_both=1),
        judged(replace(THRESHOLDS, evidence_min_kwh=0.0), kwh_consumed_ac=0.0, kwh_delivered_dc=0.0),
        judged(kwh_consumed_ac=0.1),
    ]
    assert {each.performance.reason for each in cases} == set(VerdictReason)
    assert len({each.reason for each in cases}) == len(VerdictReason)


def test_the_limits_are_those_that_are_configured() -> None:
    strict = replace(THRESHOLDS, low_efficiency_below=0.95)
    assert judged(strict).verdict is Verdict.LOW_EFFICIENCY
    assert "95 %" in judged(strict).reason
    lenient = replace(THRESHOLDS, implausible_above=1.1, evidence_min_kwh=0.0, evidence_min_coverage=0.0)
    assert judged(lenient, kwh_delivered_dc=10.5, hours_both=0).verdict is Verdict.OK


# The V2G row of the field: 2.5 kWh eight times and -1.8 kWh eight times at the meter, 2.3 and -2.0 at the vehicle.
BOTH_WAYS: dict[str, Any] = {
    "kwh_delivered_dc": 18.4 - 16.0,
    "kwh_consumed_ac": 20.0 - 14.4,
    "kwh_returned_dc": 16.0,
    "kwh_returned_ac": 14.4,
}


def test_of_a_vehicle_that_gives_back_charging_is_compared_with_charging() -> None:
    performance = judged(**BOTH_WAYS)
    assert performance.verdict is Verdict.OK
    assert performance.compared_ratio == pytest.approx(0.92)
    assert performance.efficiency_ratio == pytest.approx(2.4 / 5.6), "the plain quotient stays what it is"
    assert performance.kwh_lost == pytest.approx(3.2), "in both directions"
    assert performance.reason == (
        "Charging alone, 18.400 kWh were delivered of 20.000 kWh drawn, 92.0 %: at least the 85 % of a healthy charger."
    )


def test_the_call_to_inspect_a_charger_that_gives_back_names_what_is_lost_while_charging() -> None:
    performance = judged(**(BOTH_WAYS | {"kwh_delivered_dc": 0.0}))
    assert performance.verdict is Verdict.LOW_EFFICIENCY
    assert "80.0 %" in performance.reason
    assert "loses 4.000 kWh of 20.000 kWh while charging" in performance.alert


def test_where_as_much_flowed_back_as_was_drawn_there_is_no_quotient_but_a_verdict() -> None:
    rounding = 0.1 + 0.2 - 0.3
    assert rounding > 0
    for drawn in (rounding, 0.0, -rounding, -5.0):
        performance = judged(
            kwh_consumed_ac=drawn, kwh_returned_ac=10.0 - drawn, kwh_delivered_dc=-2.0, kwh_returned_dc=11.0
        )
        assert performance.efficiency_ratio is None
        assert performance.verdict is Verdict.OK
        assert performance.kwh_lost == drawn + 2.0


def test_a_ratio_may_be_negative_and_the_verdict_goes_by_charging() -> None:
    performance = judged(kwh_consumed_ac=9.0, kwh_returned_ac=1.0, kwh_delivered_dc=-3.0, kwh_returned_dc=12.0)
    assert performance.efficiency_ratio == pytest.approx(-1 / 3)
    assert (performance.verdict, performance.compared_ratio) == (Verdict.OK, 0.9)


@pytest.mark.parametrize(("side", "at_most"), [("dc", 9.0 / 99), ("ac", 10.0 / 99)])
@pytest.mark.parametrize(("times", "both_ways"), [(1.0, False), (1 + 1e-12, False), (1 + 1e-7, True)])
def test_a_counter_that_steps_back_by_no_more_than_a_hundredth_nets_by_itself(
    side: str, at_most: float, times: float, both_ways: bool
) -> None:
    returned: dict[str, Any] = {f"kwh_returned_{side}": at_most * times}
    performance = judged(**returned)
    assert performance.efficiency_ratio == 0.9
    assert (performance.compared_ratio != 0.9) == both_ways
    assert performance.reason.startswith("Charging alone") == both_ways


def test_a_side_that_only_gave_back_drew_too_little_for_a_verdict() -> None:
    performance = judged(kwh_consumed_ac=-7.2, kwh_returned_ac=7.2, kwh_delivered_dc=-8.0, kwh_returned_dc=8.0)
    assert performance.verdict is Verdict.INSUFFICIENT_DATA
    assert performance.reason == "0.000 kWh were drawn; 0.5 kWh are needed for a verdict."


def test_what_was_drawn_is_evidence_whatever_flowed_back() -> None:
    assert judged(kwh_consumed_ac=0.4, kwh_returned_ac=0.1, kwh_delivered_dc=0.45).verdict is Verdict.OK


def test_how_much_may_flow_back_is_configured() -> None:
    lenient = replace(THRESHOLDS, returned_max_share=0.9)
    assert judged(lenient, **BOTH_WAYS).verdict is Verdict.LOW_EFFICIENCY


_kwh = st.none() | st.floats(0, 1e9)
_returned = st.just(0.0) | st.floats(0, 1e9)
_readings = st.integers(0, 3)


@given(
    mappings=_readings,
    dc=_kwh,
    ac=_kwh,
    returned=st.tuples(_returned, _returned),
    of_vehicle=_readings,
    of_meter=_readings,
    hours=st.tuples(_readings, _readings),
)
def test_a_verdict_never_claims_more_than_its_numbers(
    mappings: int,
    dc: float | None,
    ac: float | None,
    returned: tuple[float, float],
    of_vehicle: int,
    of_meter: int,
    hours: tuple[int, int],
) -> None:
    """`dc` and `ac` flowed in, and `returned` flowed back."""
    performance = judged(
        mappings=mappings,
        kwh_delivered_dc=None if dc is None or not of_vehicle else dc - returned[0],
        kwh_consumed_ac=None if ac is None or not of_meter else ac - returned[1],
        kwh_returned_dc=None if dc is None or not of_vehicle else returned[0],
        kwh_returned_ac=None if ac is None or not of_meter else returned[1],
        vehicle_readings=of_vehicle,
        meter_readings=of_meter,
        hours_both=min(hours),
        hours_either=max(hours),
    )
    assert performance.reason
    assert (performance.alert != "") == (performance.verdict is Verdict.LOW_EFFICIENCY)
    assert (performance.verdict is Verdict.NO_METER) == (mappings == 0)
    if performance.verdict in (Verdict.OK, Verdict.LOW_EFFICIENCY, Verdict.IMPLAUSIBLE):
        assert of_vehicle
        assert of_meter
        assert dc is not None
        assert ac is not None
        if performance.compared_ratio is None:
            assert performance.performance.reason is VerdictReason.ENERGY_FROM_NOWHERE
        else:
            assert math.isfinite(performance.compared_ratio)
    if performance.verdict is Verdict.IMPLAUSIBLE:
        assert performance.compared_ratio is None or performance.compared_ratio > 1.02
        assert max(hours) == 0 or min(hours) >= 0.9 * max(hours)
    if performance.performance.reason is VerdictReason.ENERGY_FROM_NOWHERE:
        assert of_meter > mappings
