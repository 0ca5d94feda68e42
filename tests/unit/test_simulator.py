"""The simulator: its fleet, its readings, and the ground truth that the demo holds the services against."""

from collections import defaultdict
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fleetcli.simulation.charger import GLITCH_KWH, PAST_DAYS, SENTINEL_TEMP, Mapping, MeterReading, VehicleReading
from fleetcli.simulation.efficiency import EfficiencyCurve, measured_curves
from fleetcli.simulation.simulator import Faults, Fleet, FleetPlan
from fleetcli.simulation.truth import VehicleTruth, hour_of
from shared.timestamps import US_PER_DAY, US_PER_HOUR, US_PER_SECOND

END_US = 1_770_631_200_123_456
NO_FAULTS = Faults(0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0)

shares = st.sampled_from([0.0, 0.2, 1.0])
plans = st.builds(
    lambda chargers, hours, every_s, seed, faults: FleetPlan(
        chargers, END_US - round(hours * US_PER_HOUR), END_US, every_s, seed, faults
    ),
    st.integers(1, 6),
    st.floats(0.01, 8),
    st.sampled_from([30, 60, 61, 300, 3_600]),
    st.integers(0, 10_000),
    st.builds(
        Faults,
        worn=shares,
        silent=shares,
        moved=shares,
        uneven=shares,
        late=shares,
        repeated=shares,
        v2g=shares,
        by_phase=shares,
        wearing=shares,
    ),
)


def a_plan(chargers: int = 40, seed: int = 7, faults: Faults = NO_FAULTS) -> FleetPlan:
    return FleetPlan(chargers, END_US - US_PER_DAY, END_US, 300, seed, faults)


def readings_of(fleet: Fleet) -> list[MeterReading | VehicleReading]:
    return [reading for burst in fleet.bursts() for reading in burst]


def a_run_fleet(plan: FleetPlan) -> Fleet:
    fleet = Fleet(plan)
    readings_of(fleet)
    return fleet


def recomputed(fleet: Fleet) -> dict[str, VehicleTruth]:
    """The truth of every vehicle from what was sent, in the plainest way: each mapping against each reading."""
    truths = {truth.vehicle_id: VehicleTruth(truth.vehicle_id, "") for truth in fleet.truth}
    fed_from: dict[str, list[Mapping]] = defaultdict(list)
    for mapping in fleet.mappings:
        fed_from[mapping.vehicle_id].append(mapping)
        truths[mapping.vehicle_id].mappings = len(fed_from[mapping.vehicle_id])
    registers: dict[str, float] = {}
    within = {reading for reading in readings_of(fleet) if reading.ts_us > fleet.plan.start_us}
    distinct = sorted(within, key=lambda reading: reading.ts_us)
    corrected = {(each.meter_id, each.ts_us): each.kwh for each in fleet.corrections}
    for reading in distinct:
        if isinstance(reading, VehicleReading):
            temp = None if reading.battery_temp == SENTINEL_TEMP else reading.battery_temp
            truths[reading.vehicle_id].add_vehicle_reading(reading.ts_us, reading.kwh_delivered_dc, temp)
            continue
        kwh = corrected.get((reading.meter_id, reading.ts_us), reading.kwh_consumed_ac)
        if reading.register_kwh is not None:
            kwh = reading.register_kwh - registers.get(reading.meter_id, reading.register_kwh)
            registers[reading.meter_id] = reading.register_kwh
        assert kwh is not None
        for vehicle_id, changes in fed_from.items():
            feeding: list[str] = []
            for change in changes:
                if reading.ts_us > change.effective_from_us:
                    feeding = [*feeding, change.meter_id] if change.joins else [change.meter_id]
            if reading.meter_id in feeding:
                truths[vehicle_id].add_meter_reading(reading.ts_us, kwh)
    return truths


@settings(max_examples=60, deadline=None)
@given(plans)
def test_the_truth_is_what_the_readings_and_mappings_say(plan: FleetPlan) -> None:
    fleet = Fleet(plan)
    for vehicle_id, recounted in recomputed(fleet).items():
        truth = next(truth for truth in fleet.truth if truth.vehicle_id == vehicle_id)
        assert truth.dc_kwh == pytest.approx(recounted.dc_kwh, rel=1e-12)
        assert truth.ac_kwh == pytest.approx(recounted.ac_kwh, rel=1e-12, abs=1e-8), (
            "differences of a register lose some digits"
        )
        assert truth.battery_temp_sum == pytest.approx(recounted.battery_temp_sum, rel=1e-12)
        assert (truth.vehicle_readings, truth.meter_readings) == (recounted.vehicle_readings, recounted.meter_readings)
        assert truth.dc_returned_kwh == pytest.approx(recounted.dc_returned_kwh, rel=1e-12)
        assert truth.ac_returned_kwh == pytest.approx(recounted.ac_returned_kwh, rel=1e-12)
        assert truth.compared_hours == recounted.compared_hours
        assert truth.verdict in recounted.verdicts


@settings(max_examples=60, deadline=None)
@given(plans)
def test_what_is_sent_is_counted_and_within_the_span(plan: FleetPlan) -> None:
    fleet = Fleet(plan)
    sent = readings_of(fleet)
    assert len(sent) == fleet.sent.total
    assert len({(reading[0], reading.ts_us) for reading in sent}) == fleet.sent.distinct
    assert len(set(sent)) == fleet.sent.distinct, "a repeated reading has the same values"
    with_past = {mapping.meter_id for mapping in fleet.mappings if mapping.effective_from_us < plan.start_us}
    with_past |= {mapping.vehicle_id for mapping in fleet.mappings if mapping.meter_id in with_past}
    since_us = plan.start_us - PAST_DAYS * US_PER_DAY
    assert all(
        (since_us if reading[0] in with_past else plan.start_us) < reading.ts_us <= plan.end_us for reading in sent
    )
    assert all(since_us <= mapping.effective_from_us <= plan.end_us for mapping in fleet.mappings)


@settings(max_examples=20, deadline=None)
@given(plans)
def test_the_same_plan_gives_the_same_fleet(plan: FleetPlan) -> None:
    fleet, again = Fleet(plan), Fleet(plan)
    assert readings_of(fleet) == readings_of(again)
    assert fleet.mappings == again.mappings
    assert fleet.truth == again.truth


def test_another_seed_gives_another_fleet() -> None:
    assert (
        readings_of(Fleet(a_plan(chargers=1, seed=1)))[0][2:] != readings_of(Fleet(a_plan(chargers=1, seed=2)))[0][2:]
    )


def test_without_faults_readings_come_once_and_each_device_in_its_order() -> None:
    fleet = Fleet(a_plan(chargers=3))
    newest: dict[str, int] = defaultdict(int)
    for reading in readings_of(fleet):
        assert reading.ts_us > newest[reading[0]]
        newest[reading[0]] = reading.ts_us
    assert (fleet.sent.late, fleet.sent.repeated) == (0, 0)
    assert set(newest) == {f"{kind}-7-0000{number}" for kind in ("ev", "meter") for number in (1, 2, 3)}


def test_late_readings_arrive_behind_newer_ones_of_their_device() -> None:
    fleet = Fleet(a_plan(chargers=3, faults=replace(NO_FAULTS, late=0.2)))
    newest: dict[str, int] = defaultdict(int)
    behind = 0
    for reading in readings_of(fleet):
        behind += reading.ts_us < newest[reading[0]]
        newest[reading[0]] = max(newest[reading[0]], reading.ts_us)
    assert 0 < behind <= fleet.sent.late


def test_worn_chargers_are_all_below_the_limit() -> None:
    fleet = a_run_fleet(a_plan(faults=replace(NO_FAULTS, worn=1)))
    assert {truth.verdict for truth in fleet.truth} == {"LOW_EFFICIENCY"}


def test_most_healthy_chargers_are_fine_and_those_at_low_power_may_not_be() -> None:
    fleet = a_run_fleet(a_plan(chargers=200))
    low = [truth for truth in fleet.truth if truth.verdict == "LOW_EFFICIENCY"]
    assert {truth.verdict for truth in fleet.truth} == {"OK", "LOW_EFFICIENCY"}
    assert 0 < len(low) < 40
    assert all(0.4 < (truth.efficiency_ratio or 0) < 1 for truth in fleet.truth)


def test_a_vehicle_is_judged_up_to_the_hour_in_which_its_meter_falls_silent() -> None:
    silent = a_run_fleet(a_plan(faults=replace(NO_FAULTS, silent=1)))
    for truth in silent.truth:
        assert 0 < len(truth.compared_hours) < 0.7 * len(truth.dc_by_hour)
        assert truth.dc_kwh > 1.1 * truth.ac_kwh
        assert 0.4 < (truth.compared_ratio or 0) < 1
    assert {truth.verdict for truth in silent.truth} == {"OK", "LOW_EFFICIENCY"}


def test_what_strangers_draw_at_a_meter_does_not_count() -> None:
    moved = a_run_fleet(a_plan(faults=replace(NO_FAULTS, moved=1)))
    stayed = a_run_fleet(a_plan())
    for truth, same in zip(moved.truth, stayed.truth, strict=True):
        assert truth.ac_kwh > 0
        assert truth.compared_hours == truth.dc_by_hour.keys()
        assert 0.4 < (truth.efficiency_ratio or 0) < 1, same.story
    per_meter: dict[str, float] = defaultdict(float)
    for reading in readings_of(Fleet(a_plan(faults=replace(NO_FAULTS, moved=1)))):
        if isinstance(reading, MeterReading):
            per_meter[reading.meter_id] += reading.kwh_consumed_ac or 0.0
    assert sum(per_meter.values()) > 1.3 * sum(truth.ac_kwh for truth in moved.truth)


def test_uneven_sides_report_different_numbers_of_readings_and_the_same_energy() -> None:
    fleet = a_run_fleet(a_plan(faults=replace(NO_FAULTS, uneven=1)))
    for truth in fleet.truth:
        more, fewer = sorted((truth.vehicle_readings, truth.meter_readings), reverse=True)
        assert more >= 4 * fewer
        assert 0.4 < (truth.efficiency_ratio or 0) < 1


def test_a_v2g_car_gives_back_less_than_it_took_and_is_judged_by_how_it_charges() -> None:
    fleet = a_run_fleet(a_plan(faults=replace(NO_FAULTS, v2g=1)))
    giving = [truth for truth in fleet.truth if truth.dc_returned_kwh]
    assert len(giving) > 30, "the others charge all day"
    for truth in giving:
        assert truth.story.startswith("V2G")
        assert truth.ac_returned_kwh < truth.dc_returned_kwh < 0.7 * (truth.dc_kwh + truth.dc_returned_kwh)
        assert truth.ac_kwh > truth.dc_kwh > 0, "there are losses in both directions"
        assert 0.6 < (truth.compared_ratio or 0) < 1
        assert (truth.efficiency_ratio or 0) < (truth.compared_ratio or 0)
    assert sum(truth.verdict == "OK" for truth in giving) > 20


def test_a_share_above_zero_means_at_least_one_charger() -> None:
    fleet = Fleet(a_plan(chargers=5, faults=Faults(0.001, 0.001, 0.001, 0.001, 0, 0, 0.001, 0.001, 0, 0, 0.001)))
    assert fleet.faults == (
        "1 worn, 1 with a silent meter, 1 moved to another meter, 1 that give back to the grid,"
        " 1 with a meter for each phase, 1 with uneven intervals"
    )


def test_the_meters_of_three_phases_draw_together_what_the_vehicle_takes() -> None:
    fleet = a_run_fleet(a_plan(chargers=5, faults=replace(NO_FAULTS, by_phase=1)))
    for truth in fleet.truth:
        assert truth.meter_readings == 3 * truth.vehicle_readings
        assert 0.4 < (truth.efficiency_ratio or 0) < 1
        assert truth.story.startswith("3 meters, ")


def test_meters_of_registers_broken_sensors_and_glitches_are_healthy_in_the_end() -> None:
    for fault in ("register", "sentinel", "glitch"):
        fleet = a_run_fleet(a_plan(chargers=5, faults=replace(NO_FAULTS, **{fault: 1})))
        for truth in fleet.truth:
            assert 0.4 < (truth.efficiency_ratio or 0) < 1, truth.story
            assert truth.battery_temp_readings <= truth.vehicle_readings
    sent = readings_of(Fleet(a_plan(chargers=5, faults=replace(NO_FAULTS, glitch=1))))
    assert len(fleet.corrections) == 5
    assert sum(isinstance(each, MeterReading) and each.kwh_consumed_ac == GLITCH_KWH for each in sent) == 5


def test_a_reading_at_the_full_hour_belongs_to_the_hour_that_ends() -> None:
    hour_us = 5 * US_PER_HOUR
    assert (hour_of(hour_us), hour_of(hour_us + 1), hour_of(hour_us + US_PER_HOUR)) == (4, 5, 5)


@pytest.mark.parametrize(
    ("dc_kwh", "ac_kwh", "verdict"),
    [
        (9.0, 10.0, "OK"),
        (8.5, 10.0, "OK"),
        (8.49, 10.0, "LOW_EFFICIENCY"),
        (10.21, 10.0, "IMPLAUSIBLE"),
        (2.99, 10.0, "IMPLAUSIBLE"),
        (0.4, 0.49, "INSUFFICIENT_DATA"),
        (0.5, 0.0, "INSUFFICIENT_DATA"),
        (0.0, 0.0, "INSUFFICIENT_DATA"),
    ],
)
def test_the_truth_knows_the_contracts_verdicts(dc_kwh: float, ac_kwh: float, verdict: str) -> None:
    truth = VehicleTruth("ev", "")
    truth.add_vehicle_reading(US_PER_SECOND, dc_kwh, 20.0)
    for kwh in (ac_kwh, 0.0):
        truth.add_meter_reading(US_PER_SECOND, kwh)
    assert truth.verdict == verdict


@pytest.mark.parametrize(
    ("ratio", "hours", "verdicts"),
    [
        (0.95, 4, {"OK"}),
        (0.7, 4, {"LOW_EFFICIENCY"}),
        (0.845, 4, {"LOW_EFFICIENCY", "OK", "INSUFFICIENT_DATA"}),
        (0.7, 2, {"LOW_EFFICIENCY", "INSUFFICIENT_DATA"}),
    ],
)
def test_of_little_energy_and_near_a_limit_more_than_one_verdict_is_right(
    ratio: float, hours: int, verdicts: set[str]
) -> None:
    truth = VehicleTruth("ev", "")
    for hour in range(1, hours + 1):
        truth.add_vehicle_reading(hour * US_PER_HOUR, ratio, 20.0)
        truth.add_meter_reading(hour * US_PER_HOUR, 1.0)
    assert truth.verdicts == verdicts


@pytest.mark.parametrize(
    ("given_dc", "given_ac", "verdict"),
    [(16.0, 14.4, "OK"), (0.0, 14.4, "OK"), (20.0, 20.0, "OK"), (0.0, 0.2, "OK"), (6.0, 0.0, "OK")],
)
def test_the_truth_compares_charging_with_charging(given_dc: float, given_ac: float, verdict: str) -> None:
    truth = VehicleTruth("ev", "")
    for kwh in (18.4, -given_dc):
        truth.add_vehicle_reading(US_PER_SECOND, kwh, 20.0)
    for kwh in (20.0, -given_ac):
        truth.add_meter_reading(US_PER_SECOND, kwh)
    assert (truth.kwh_returned_dc, truth.kwh_returned_ac) == (given_dc, given_ac)
    assert truth.verdict == verdict


def test_a_curve_goes_through_its_measurements_and_straight_between_them() -> None:
    curve = EfficiencyCurve("a car", (1_000.0, 2_000.0), (0.8, 0.9))
    assert [curve.at(watts) for watts in (0, 1_000, 1_500, 2_000, 99_000)] == pytest.approx([0.8, 0.8, 0.85, 0.9, 0.9])


def test_the_measured_curves_are_those_of_six_cars() -> None:
    curves = measured_curves()
    assert len(curves) == 6
    assert sum(len(curve.ratios) for curve in curves.values()) == 182
    assert curves["Nissan Leaf"].at(2_300) == pytest.approx(0.747202)
    assert all(list(curve.grid_watts) == sorted(curve.grid_watts) for curve in curves.values())


def test_a_charger_that_wears_slowly_has_dropped_below_what_was_normal_before() -> None:
    fleet = a_run_fleet(a_plan(chargers=10, faults=replace(NO_FAULTS, wearing=1.0)))
    for truth in fleet.truth:
        assert truth.story.startswith("wears slowly")
        assert truth.baseline_ratio is not None
        assert truth.compared_ratio is not None
        assert 0.03 < truth.baseline_ratio - truth.compared_ratio < 0.08
        assert truth.verdict == "OK"
    assert sum(truth.has_dropped is True for truth in fleet.truth) >= 8


def test_no_other_charger_has_a_past() -> None:
    fleet = a_run_fleet(a_plan(faults=replace(NO_FAULTS, worn=0.5)))
    assert {(truth.baseline_ratio, truth.has_dropped) for truth in fleet.truth} == {(None, False)}


def test_a_past_that_would_be_refused_as_too_old_is_not_sent() -> None:
    plan = replace(a_plan(2, faults=replace(NO_FAULTS, wearing=1.0)), start_us=END_US - 398 * US_PER_DAY, every_s=3_600)
    oldest_us = min(reading.ts_us for reading in readings_of(Fleet(plan)))
    assert END_US - oldest_us <= 399 * US_PER_DAY
