"""The simulated year that verdicts are measured with: what is reported is what happened, and few answers are wrong."""

from itertools import islice, pairwise

import numpy as np
import pytest

from analytics_svc.__main__ import thresholds
from benchmarks.verdicts import normal
from benchmarks.verdicts.check import Answer, answers, rates
from benchmarks.verdicts.devices import NOT_BY_ITSELF, Device, Habit, Outage
from benchmarks.verdicts.visible import Pair, last_day
from benchmarks.verdicts.year import ELSEWHERE, YEAR_START_US, Curve, Piece
from shared.config import AnalyticsSettings
from shared.timestamps import US_PER_DAY, US_PER_HOUR, US_PER_MINUTE, US_PER_SECOND

SEED = 5
PAIRS = 12
LIMITS = thresholds(AnalyticsSettings())


@pytest.fixture(scope="module")
def found() -> list[Answer]:
    return answers(SEED, PAIRS, lambda _: None)


def at(hours: float) -> int:
    return YEAR_START_US + round(hours * US_PER_HOUR)


def a_device(habit: Habit, cadence_us: int = US_PER_HOUR // 2, *outages: Outage, registers: bool = False) -> Device:
    """Of one charge, 10 kWh from 10:00 to 12:00 on the first day."""
    flow = Curve.of([Piece(at(10), at(12), 10.0)], 0.0)
    flows = np.array([[at(10), at(12)]])
    return Device(flow, flows, habit, cadence_us, 0, 0, 10 * US_PER_SECOND, registers, outages)


def reported(device: Device, until_h: float) -> dict[float, float]:
    """Energy by hour of the day, of the readings that are not zero."""
    readings = device.readings(at(0), at(until_h), np.random.default_rng(4))
    every = zip(readings.ts_us.tolist(), readings.kwh.tolist(), strict=True)
    return {round((ts_us - YEAR_START_US) / US_PER_HOUR, 2): round(kwh, 3) for ts_us, kwh in every if kwh}


def test_no_healthy_pair_is_accused_and_few_verdicts_are_withheld(found: list[Answer]) -> None:
    accused, ok, low = rates(found)
    print(f"seed {SEED}: accused {accused:.2f} %, OK {ok:.1f} %, LOW_EFFICIENCY {low:.1f} %")  # noqa: T201  # the seed
    assert sum(each.charged for each in found) > 100
    assert accused == 0
    assert ok >= 90
    assert low >= 80


def test_a_seed_gives_the_same_answers(found: list[Answer]) -> None:
    again = answers(SEED, 1, lambda _: None)
    assert [each.performance for each in again[:20]] == [each.performance for each in found[:20]]


def test_devices_report_by_their_habits() -> None:
    halves = {10.5: 2.5, 11.0: 2.5, 11.5: 2.5, 12.0: 2.5}
    assert reported(a_device(Habit.ALWAYS), 24) == halves
    assert reported(a_device(Habit.CHARGING, 45 * US_PER_MINUTE), 24) == {10.5: 2.5, 11.25: 3.75, 12.0: 3.75}
    assert reported(a_device(Habit.AFTERWARDS), 24) == {12.0: 10.0}


def test_after_an_outage_energy_comes_in_one_piece_or_late() -> None:
    lost = a_device(Habit.ALWAYS, US_PER_HOUR // 2, Outage(at(10.2), at(11.2), False, NOT_BY_ITSELF))
    assert reported(lost, 24) == {11.5: 7.5, 12.0: 2.5}
    kept = Outage(at(10.2), at(11.2), True, at(13))
    assert reported(a_device(Habit.ALWAYS, US_PER_HOUR // 2, kept), 12.5) == {11.5: 2.5, 12.0: 2.5}
    assert reported(a_device(Habit.ALWAYS, US_PER_HOUR // 2, kept, registers=True), 12.5) == {11.5: 7.5, 12.0: 2.5}
    assert reported(a_device(Habit.ALWAYS, US_PER_HOUR // 2, kept), 13.5) == reported(a_device(Habit.ALWAYS), 24)


def test_what_is_reported_is_what_happened() -> None:
    """But for what is cut by the ends of the time that was asked about, and what has not come yet."""
    pairs = [Pair.of(SEED, False, number) for number in range(20)]
    pair = next(
        each for each in pairs if each.vehicle.habit is Habit.ALWAYS and each.vehicle.cadence_us > US_PER_MINUTE
    )
    since_us, until_us = YEAR_START_US + 5 * US_PER_DAY, YEAR_START_US + 300 * US_PER_DAY
    readings = pair.vehicle.readings(since_us, until_us, np.random.default_rng(1))
    ts_us, first = np.unique(readings.ts_us, return_index=True)
    assert len(ts_us) < len(readings.ts_us)
    true_kwh = pair.year.delivered.within(since_us, until_us)
    assert readings.kwh[first].sum() == pytest.approx(true_kwh, abs=80)


def test_a_vehicle_charges_at_one_place_at_a_time() -> None:
    moved = 0
    for number in range(20):
        year = Pair.of(SEED, False, number).year
        assert all(before.end_us <= after.plugged_us for before, after in pairwise(year.charges))
        assert all(before.until_us <= after.since_us for before, after in pairwise(year.mappings))
        for charge in year.charges:
            meters = {m.meter for m in year.mappings if m.since_us < charge.end_us and m.until_us > charge.start_us}
            assert meters <= {charge.place}
            moved += charge.place == ELSEWHERE
    assert moved


def test_spans_share_the_window_and_what_was_reported_in_it(found: list[Answer]) -> None:
    for answer in found[::7]:
        its = answer.pair.reported(answer.window)
        hours = its.hours()
        assert [span.since_us for span in hours.spans] == sorted(
            {answer.window.start_us, *(us for each in its.mappings for us in each[1:] if us < answer.window.end_us)}
        )
        readings = {int(ts): kwh for ts, kwh in zip(its.vehicle.ts_us, its.vehicle.kwh, strict=True)}
        within = [kwh for ts_us, kwh in readings.items() if answer.window.start_us < ts_us]
        spans = [span.vehicle.sums for span in hours.spans]
        assert sum(each.readings for each in spans) == len(within)
        assert sum(each.kwh for each in spans) == pytest.approx(sum(within))
        assert last_day(answer.window.end_us) == answer.window


def test_what_is_normal_is_near_the_truth_and_a_drop_is_told() -> None:
    """Of seldom readings; the benchmark has the others."""
    quiet = (
        pair
        for number in range(60)
        if (pair := Pair.of(3, False, number))
        and min(each.cadence_us for each in (pair.vehicle, *pair.meters)) >= 5 * US_PER_MINUTE
    )
    answers = [
        normal.answer(pair, last_day(YEAR_START_US + (60 + 7 * at) * US_PER_DAY), LIMITS)
        for at, pair in enumerate(islice(quiet, 12))
    ]
    errors = [each.error for each in answers if each.error is not None]
    assert len(errors) > 8
    assert max(map(abs, errors)) < 1.5
    assert not any(each.healthy.dropped for each in answers)
    assert sum(each.dropped.dropped for each in answers) >= 3
