"""What both sides account for: properties over random readings, and examples to check by hand."""

from collections.abc import Iterable, Sequence
from dataclasses import fields, replace
from enum import StrEnum
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
from hypothesis import event, given, settings
from hypothesis import strategies as st

from analytics_svc.charging import Hours, SideHours, Spans, hours_of
from analytics_svc.comparison import ComparedStretches, Comparison, compare
from analytics_svc.plain_charge import PlainCharge, plain_charge
from analytics_svc.stretches import Aside, CompareLimits
from shared.timestamps import US_PER_HOUR, US_PER_MINUTE
from tests.charging_model import Energies, FedSpan, spans_table
from tests.fleets import a_comparison

LIMITS = CompareLimits(standby_kw=0.2, low_efficiency_below=0.85, implausible_above=1.02)

ENERGIES = ("dc", "ac", "returned_dc", "returned_ac", "ac_squared_kw", "idle", "dc_aside", "ac_aside")
DOUBTS = ("dc_less", "dc_more", "ac_less", "ac_more")
PARTS = 1_024
"""Of a kWh: energies that have no rounding."""


def every(minutes: float, kwh: float, start_h: float, end_h: float) -> dict[int, float]:
    """A reading every so many minutes, the first one such interval after the start; hours from the window's start."""
    step_us, start_us, end_us = (
        round(each) for each in (minutes * US_PER_MINUTE, start_h * US_PER_HOUR, end_h * US_PER_HOUR)
    )
    return dict.fromkeys(range(start_us + step_us, end_us + 1, step_us), kwh)


def at(hour: float, kwh: float) -> dict[int, float]:
    return {round(hour * US_PER_HOUR): kwh}


def joined(*parts: Energies) -> dict[int, float]:
    found: dict[int, float] = {}
    for part in parts:
        found |= part
    return found


def compared(
    vehicle: Energies, *meters: Energies, hours: float = 24, start_h: float = 0
) -> tuple[Comparison, list[tuple[float, float]]]:
    """What is compared in a window, and from which hour to which its stretches last."""
    window_us = round(start_h * US_PER_HOUR), round((start_h + hours) * US_PER_HOUR)
    found, stretches = compare(spans_table(window_us, [FedSpan(*window_us, vehicle, meters)]), LIMITS)
    ends = zip(stretches.begins_us.tolist(), stretches.ends_us.tolist(), strict=True)
    return found, [(begins_us / US_PER_HOUR, ends_us / US_PER_HOUR) for begins_us, ends_us in ends]


def asides(found: Comparison) -> dict[Aside, tuple[float, float]]:
    """What is not compared of the first span, delivered and drawn."""
    its = {aside: (found.dc_aside[aside, 0].item(), found.ac_aside[aside, 0].item()) for aside in Aside}
    return {aside: energies for aside, energies in its.items() if any(energies)}


def test_a_steady_charge_gives_exactly_its_ratio() -> None:
    """Four hours at 7.4 kW."""
    found, stretches = compared(every(15, 1.665, 6, 10), every(15, 1.85, 6, 10))
    assert (found.dc[0], found.ac[0]) == (pytest.approx(26.64), pytest.approx(29.6))
    assert found.ac_squared_kw[0] / found.ac[0] == pytest.approx(7.4)
    assert stretches == [(6, 10)]
    assert asides(found) == {}
    assert found.idle[0] == 0


def test_standby_is_apart_and_no_part_of_charging() -> None:
    """At 0.1 kW for 20 hours; the vehicle sleeps meanwhile."""
    found, _ = compared(
        every(15, 1.5, 6, 10), every(15, 1.75, 6, 10) | every(15, 0.025, 0, 6) | every(15, 0.025, 10, 24)
    )
    assert (found.dc[0], found.ac[0]) == (24.0, 28.0)
    assert found.idle[0] == pytest.approx(2.0)


def test_a_meter_at_the_limit_stands_by_and_one_above_it_draws() -> None:
    for kw, idle in ((0.2, 4.8), (0.201, 0.0)):
        found, _ = compared({}, every(60, kw, 0, 24))
        assert found.idle[0] == pytest.approx(idle)


def test_one_report_after_a_whole_charge_stands_for_it() -> None:
    found, stretches = compared(at(10.05, 26.5), every(1, 0.125, 6, 10))
    assert (found.dc[0], found.ac[0]) == (26.5, 30.0)
    assert stretches == [(6, 11)]


def test_what_a_meter_drew_in_an_outage_comes_in_one_piece() -> None:
    found, _ = compared(
        every(15, 0.0, 0, 4) | every(15, 1.5, 4, 10), at(0.25, 0.0) | at(9, 35.0) | every(15, 1.75, 9, 10)
    )
    assert (found.dc[0], found.ac[0]) == (36.0, 42.0)


def test_what_a_vehicle_says_it_did_not_take_is_set_aside() -> None:
    found, _ = compared(every(15, 0.0, 0, 24), every(15, 1.875, 6, 7))
    assert (found.dc[0], found.ac[0]) == (0, 0)
    assert asides(found) == {Aside.NOTHING_TAKEN: (0, 7.5)}


@pytest.mark.parametrize("taken", [0.01, 0.1 + 0.2 - 0.3])
def test_a_little_that_a_heated_car_takes_is_no_charge(taken: float) -> None:
    """And what rounding leaves of a sum whose readings were corrected is none at all."""
    found, _ = compared(every(15, 0.0, 0, 24) | at(6.75, taken), every(15, 1.875, 6, 7))
    assert (found.dc[0], found.ac[0]) == (0, 0)
    assert asides(found) == {Aside.NOTHING_TAKEN: (0, 7.5)}


def test_what_was_drawn_for_something_else_makes_no_power_of_charging() -> None:
    """Heated with 7.5 kWh for an hour, and then charged at 6.6 kW."""
    found, _ = compared(every(15, 0.0, 0, 7) | every(15, 1.5, 7, 9), every(15, 1.875, 6, 7) | every(15, 1.65, 7, 9))
    assert (found.dc[0], found.ac[0]) == (12.0, pytest.approx(13.2))
    assert asides(found) == {Aside.NOTHING_TAKEN: (0, 7.5)}
    assert found.ac_squared_kw[0] / found.ac[0] == pytest.approx(6.6)


def test_what_came_while_the_meters_stood_still_is_set_aside() -> None:
    found, _ = compared(every(15, 1.5, 6, 10), every(15, 0.0, 0, 24))
    assert asides(found) == {Aside.NOTHING_DRAWN: (24.0, 0)}


def test_a_charge_that_only_one_side_has_reported_is_under_way_and_later_silent() -> None:
    meter = every(15, 0.0, 0, 6) | every(15, 1.75, 6, 8)
    vehicle = every(15, 0.0, 0, 6)
    found, _ = compared(vehicle, meter | every(15, 1.75, 8, 10), hours=10)
    assert asides(found) == {Aside.SILENT: (0, 28.0)}
    found, _ = compared(every(60, 0.0, 0, 6), every(1, 0.125, 6, 6.75), hours=6.75)
    assert asides(found) == {Aside.UNDER_WAY: (0, 5.625)}


def test_a_side_that_falls_silent_takes_only_what_follows_with_it() -> None:
    """The vehicle for the last two of six hours."""
    found, stretches = compared(every(15, 1.5, 6, 10), every(15, 1.75, 6, 12), hours=14)
    assert (found.dc[0], found.ac[0]) == (24.0, 28.0)
    assert stretches == [(6, 10)]
    assert asides(found) == {Aside.SILENT: (0, 14.0)}


def test_what_a_side_has_yet_to_report_of_a_charge_that_goes_on_is_taken_off() -> None:
    """The meter reports each minute at 7.5 kW, the vehicle each half an hour at 6.75 kW, and it is ten past eleven."""
    found, _ = compared(every(30, 3.375, 9, 11), every(1, 0.125, 9, 11 + 1 / 6), hours=11 + 1 / 6)
    assert (found.dc[0], found.ac[0]) == (13.5, pytest.approx(15.0))
    assert found.ac_more[0] >= 1.25, "as it may have been reported"


def test_what_a_side_reports_of_the_time_before_the_window_is_taken_off() -> None:
    """Likewise, from ten past nine on: of what the vehicle reports at half past nine, a third is from before."""
    found, _ = compared(every(30, 3.375, 8, 12), every(1, 0.125, 8, 12), start_h=9 + 1 / 6, hours=5)
    assert (found.dc[0], found.ac[0]) == (pytest.approx(6 * 3.375 - 1.125), pytest.approx(21.25))
    assert found.dc[0] / found.ac[0] == pytest.approx(0.9)


@pytest.mark.parametrize("hours", [2, 5, 12])
def test_a_vehicle_s_hours_that_match_when_shifted_lie_apart(hours: int) -> None:
    for later, sign in ((every(15, 1.5, 2 + hours, 3 + hours), 1), (every(15, 1.5, 14 - hours, 15 - hours), -1)):
        drawn = every(15, 1.75, 2, 3) if sign > 0 else every(15, 1.75, 14, 15)
        beside = every(15, 0.0, 0, 24)
        found, _ = compared(beside | later, beside | drawn)
        assert found.hours_apart[0] == sign * hours
        assert (found.dc[0], found.ac[0]) == (0, 0)


def at_most(found: Comparison) -> float:
    """The highest ratio that the first span may have."""
    surely_drawn = found.ac - found.ac_less
    return ((found.dc + found.dc_more) / surely_drawn).item(0)


def test_hours_that_draw_little_before_a_charge_may_have_been_something_else() -> None:
    heating = joined(every(1, 1.2 / 60, 3, 4), every(1, 0.8 / 60, 4, 5))
    found, _ = compared(at(6.1, 2.6), joined(heating, every(1, 2.9 / 60, 5, 6), every(1, 0.0, 6, 7)))
    assert found.dc / found.ac < 0.6
    assert found.ac_less == pytest.approx(2.0, abs=0.1)
    # but not an hour that draws as much as the others
    found, _ = compared(at(6.1, 5.2), joined(every(1, 2.9 / 60, 3, 6), every(1, 0.0, 6, 7)))
    assert at_most(found) < 0.65


def test_what_was_drawn_before_a_pause_may_have_been_something_else() -> None:
    found, _ = compared(at(4.6, 4.6), joined(at(2.1, 0.01), at(3.1, 1.6), at(4.1, 0.01), at(5.1, 5.0)))
    assert found.dc / found.ac < 0.75
    assert at_most(found) > 0.9


def test_a_meter_s_hour_that_ends_when_the_vehicle_begins_to_charge_is_none_of_it() -> None:
    vehicle = joined(every(5, 0.0, 0, 6), every(5, 2.6 / 12, 6, 7), every(5, 0.0, 7, 24))
    meter = at(3.1, 0.02) | at(4.1, 0.02) | at(5.1, 0.02) | at(6.1, 0.9) | at(7.1, 2.6) | at(8.1, 0.02)
    found, _ = compared(vehicle, meter)
    assert found.dc / found.ac < 0.75
    assert at_most(found) > 0.9


def test_one_report_of_a_vehicle_that_was_silent_through_several_charges_is_all_of_theirs() -> None:
    vehicle = joined(every(15, 0.0, -1, 0.5), at(23.8, 10.0))
    meter = joined(every(5, 0.5, 2.5, 3.5), every(5, 0.5, 14.25, 15.1))
    found, _ = compared(vehicle, meter)
    assert found.dc == 10
    assert found.ac == pytest.approx(11, abs=0.5)
    assert not asides(found)


def test_a_meter_that_was_silent_reports_the_charge_that_a_sleeping_vehicle_reported_meanwhile() -> None:
    found, _ = compared(every(30, 3.5, 8, 9), joined(every(30, 0.02, -1, 1), at(14, 8.0), every(30, 0.02, 14, 24)))
    assert (found.dc[0], found.ac[0]) == (7, 8)
    assert not asides(found)


def test_a_charge_from_before_the_window_that_was_worn_in_any_case_is_compared() -> None:
    meter = joined(every(1, 7.4 / 60, -1, 3), every(1, 0.0, 3, 24))
    worn, _ = compared(at(3.2, 21.0), meter)  # of 29.6 kWh at least
    assert at_most(worn) == pytest.approx(21 / 29.6, abs=0.01)
    assert asides(worn).keys() == {Aside.BEYOND}
    maybe, _ = compared(at(3.2, 27.0), meter)
    assert (maybe.dc[0], maybe.ac[0]) == (0, 0)


def test_standby_of_a_silence_in_which_a_vehicle_charged_may_be_in_the_meter_s_report_of_it() -> None:
    meter = joined(every(60, 0.045, -1, 4), at(13.6, 3.4 / 0.92 + 9.6 * 0.045))
    found, _ = compared(joined(every(15, 0.0, -1, 12), every(15, 1.7, 12, 12.5), every(15, 0.0, 12.5, 24)), meter)
    assert found.dc / found.ac < 0.85
    assert at_most(found) > 0.9


def test_what_a_vehicle_did_not_take_in_the_first_hour_of_a_span_is_set_aside() -> None:
    start_us, since_us, end_us = 0, round(20.05 * US_PER_HOUR), 24 * US_PER_HOUR
    vehicle = joined(every(1, 0.0, 19, 22), every(1, 7.0 / 60, 22, 23), every(1, 0.0, 23, 24))
    meter = joined(every(15, 0.0, 18, 20.0), every(15, 0.4, 20, 20.75), every(15, 0.0, 20.75, 22))
    meter |= joined(every(15, 2.0, 22, 23), every(15, 0.0, 23, 24))
    span = FedSpan(since_us, end_us, vehicle, [meter])
    found, _ = compare(spans_table((start_us, end_us), [span]), LIMITS)
    assert (found.dc[0], found.ac[0]) == (pytest.approx(7), pytest.approx(8))
    assert asides(found).keys() == {Aside.NOTHING_TAKEN}
    assert found.ac_aside[Aside.NOTHING_TAKEN, 0] == pytest.approx(1.2)


def test_a_charge_that_began_minutes_ago_shows_too_little_to_accuse_anybody() -> None:
    found, _ = compared(every(1, 0.15, 23.8, 24), every(1, 0.2, 23.8, 24))
    assert at_most(found) > found.dc / found.ac + 0.1  # by two minutes of 11 kW
    found, _ = compared(every(1, 0.22, 23.8, 24), every(1, 0.2, 23.8, 24))
    assert asides(found).keys() == {Aside.UNDER_WAY}


def test_several_meters_draw_together() -> None:
    found, _ = compared(every(15, 4.5, 6, 10), *(every(15, 1.75, 6, 10) for _ in range(3)))
    assert (found.dc[0], found.ac[0]) == (72.0, 84.0)


def test_spans_of_a_vehicle_add_up_and_agree_on_the_hours_they_lie_apart() -> None:
    spans = a_comparison(6, {Aside.BEYOND: (1.0, 2.0)}, dc=9.0, ac=10.0)
    spans.hours_apart[:] = [5, 0, 5, -3, 5, 0]
    found = spans.by_vehicle(np.array([0, 0, 0, 1, 1, 3]), 4)
    assert found.dc.tolist() == [27, 18, 0, 9]
    assert found.ac_aside[Aside.BEYOND].tolist() == [6, 4, 0, 2]
    assert found.hours_apart.tolist() == [5, 0, 0, 0]


def test_where_all_that_a_side_reports_may_be_from_before_nothing_is_compared_whatever_is_beside_it() -> None:
    """A vehicle's first report, an hour after its meter's, and beside it a meter whose vehicle is silent."""
    window_us = 0, 2 * US_PER_HOUR
    first_report = FedSpan(US_PER_HOUR - 1, window_us[1], every(30, 0.25, 1, 2), [every(30, 1.2, 0, 2) | at(0.5, 1.1)])
    alone = FedSpan(*window_us, {}, [every(30, 1.2, 0, 2)])
    for beside in ([], [alone]):
        found, _ = compare(spans_table(window_us, [first_report, *beside]), LIMITS)
        assert asides(found) == {Aside.BEYOND: pytest.approx((0.5, 3.6))}
        assert (found.dc[0], found.ac[0]) == (0, 0)


def test_no_spans_and_spans_without_charging_are_nothing() -> None:
    for count in (0, 3):
        window_us = 0, 5 * US_PER_HOUR
        zeros = np.zeros((6, count))
        side = SideHours(zeros, zeros, zeros.astype(np.int64), zeros.astype(np.int64))
        ends_us = np.arange(6)[:, None] * US_PER_HOUR + np.zeros(count, np.int64)
        found, stretches = compare(Spans(window_us[0], ends_us[0], ends_us, side, side), LIMITS)
        assert all(not getattr(found, each.name).any() for each in fields(found))
        assert len(stretches.span) == 0


# Random readings: each side reports in some pieces, at a cadence of its own, at no, little or much power, with times on
# the hours and beside them; sometimes both report the same charge.
times_h = st.one_of(st.integers(-2, 12).map(float), st.integers(-8 * 4, 12 * 4).map(lambda quarter: quarter / 4))
energies = st.sampled_from([0, 1, 10, 51, 52, 60, 204, 205, 300, 1_700, 7_000]).map(lambda parts: parts / PARTS)
minutes = st.sampled_from([1, 7, 15, 30, 60, 150])


@st.composite
def pieces(draw: st.DrawFn) -> dict[int, float]:
    step, start_h, count = draw(minutes), draw(times_h), draw(st.integers(1, 12))
    beside_us = draw(st.sampled_from([0, 0, 1, -1, 30_000_000]))
    kwh = draw(energies)
    start_us = round(start_h * US_PER_HOUR) + beside_us
    return {start_us + number * step * US_PER_MINUTE: kwh for number in range(1, count + 1)}


@st.composite
def charges(draw: st.DrawFn) -> tuple[dict[int, float], dict[int, float]]:
    """A charge of some hours as both sides report it, each at its cadence, perhaps with one that falls silent."""
    start_h, hours = draw(times_h), draw(st.integers(1, 6))
    kw, ratio = draw(st.sampled_from([1, 2, 7, 11])), draw(st.sampled_from([0.1, 0.5, 0.75, 0.875, 1.0, 1.25]))
    sides = []
    for power_kw in (kw * ratio, float(kw)):
        step = draw(st.sampled_from([1, 15, 30, 60]))
        silent = draw(st.sampled_from([0, 0, 0, 1, 2]))
        kwh = round(power_kw * step / 60 * PARTS) / PARTS
        sides.append(every(step, kwh, start_h, start_h + hours - silent))
    return sides[0], sides[1]


@st.composite
def spans(draw: st.DrawFn) -> tuple[tuple[int, int], list[FedSpan]]:
    """A window, and spans within it, of vehicles that have nothing to do with each other."""
    start_us = draw(times_h.filter(lambda hour: hour < 10).map(lambda hour: round(hour * US_PER_HOUR)))
    window_us = start_us, start_us + draw(st.integers(1, 10 * 4)) * US_PER_HOUR // 4
    found = []
    for _ in range(draw(st.integers(1, 4))):
        ends = draw(st.lists(st.integers(0, 4), min_size=2, max_size=2, unique=True).map(sorted))
        since_us, until_us = (start_us + (window_us[1] - start_us) * part // 4 for part in ends)
        charged = draw(st.lists(charges(), max_size=2))
        vehicle = joined(*draw(st.lists(pieces(), max_size=3)), *(each for each, _ in charged))
        meters = [joined(*draw(st.lists(pieces(), max_size=3)), *(each for _, each in charged))]
        meters += [joined(*draw(st.lists(pieces(), max_size=2))) for _ in range(draw(st.sampled_from([0, 0, 1])))]
        found.append(FedSpan(since_us, until_us, vehicle, meters))
    return window_us, found


def columns(found: Comparison | ComparedStretches, names: Iterable[str]) -> list[Any]:
    return [getattr(found, name) for name in names]


@settings(max_examples=300, deadline=None)
@given(spans())
def test_no_energy_is_told_twice_and_none_is_forgotten(told: tuple[tuple[int, int], Sequence[FedSpan]]) -> None:
    """But what is estimated and taken off, up to a quarter of a stretch at either end; less than charging of a vehicle;
    and less than standby beside charging."""
    table = spans_table(*told)
    found, stretches = compare(table, LIMITS)
    hours = hours_of(table, LIMITS.standby_kw)
    rest = uncounted(table, hours)
    estimated = sum(columns(found, DOUBTS)) > 0
    for aside in (Aside.UNDER_WAY, Aside.BEYOND):  # perhaps what was left of it
        estimated |= (found.dc_aside[aside] > 0) | (found.ac_aside[aside] > 0)
    for side, total, kept, uncounted_kwh in (
        ("dc", table.vehicle.kwh[1:].sum(axis=0), found.dc + found.dc_aside.sum(axis=0), rest[0]),
        ("ac", table.meters.kwh[1:].sum(axis=0), found.ac + found.ac_aside.sum(axis=0) + found.idle, rest[1]),
    ):
        assert (kept <= total + 1e-9).all(), side
        assert (kept + uncounted_kwh >= total - 1e-9)[~estimated].all(), side
        assert (kept + uncounted_kwh >= total / 2 - 1e-9).all(), side
    assert all((energies >= -1e-12).all() for energies in columns(found, (*ENERGIES, *DOUBTS)))
    count = len(told[1])
    for name in ("dc", "ac"):
        of_stretches = np.bincount(stretches.span, weights=getattr(stretches, name), minlength=count)
        assert of_stretches == pytest.approx(getattr(found, name))
    event(f"compared: {(found.ac > 0).any()}, aside: {[aside.name for aside in Aside if found.ac_aside[aside].any()]}")


def uncounted(table: Spans, hours: Hours) -> tuple[Any, Any]:
    """What is neither compared nor set aside: of the vehicles less than charging, and of the meters no more than
    standby where the vehicle charged."""
    charging = hours.takes | hours.draws
    little = ~charging | hours.nothing_taken
    of_vehicles = np.where(little[1:], table.vehicle.kwh[1:], 0.0).sum(axis=0)
    return of_vehicles, np.where((hours.takes & ~hours.draws)[1:], table.meters.kwh[1:], 0.0).sum(axis=0)


@settings(max_examples=200, deadline=None)
@given(spans())
def test_spans_do_not_change_each_other(told: tuple[tuple[int, int], Sequence[FedSpan]]) -> None:
    window_us, its = told
    together, stretches = compare(spans_table(window_us, its), LIMITS)
    for number, span in enumerate(its):
        alone, own = compare(spans_table(window_us, [span]), LIMITS)
        for each in fields(Comparison):
            assert np.array_equal(getattr(together, each.name)[..., number], getattr(alone, each.name)[..., 0]), (
                each.name
            )
        mine = stretches.span == number
        for name in ("begins_us", "ends_us", "dc", "ac"):
            assert np.array_equal(getattr(stretches, name)[mine], getattr(own, name)), name


class Disturbance(StrEnum):
    """What is otherwise with an hour of a side than is usual."""

    EARLY = "its reading comes before the hour's end"
    SILENT = "no reading comes"
    RETURNED = "energy flows back"
    STANDBY = "power is about that of standby"
    MORE = "power is a little more"


disturbances = st.tuples(
    st.sampled_from(Disturbance), st.sampled_from([[0], [1], [0, 1]]), st.integers(0, 9), st.floats(0.01, 0.4)
)


@st.composite
def charges_hour_by_hour(draw: st.DrawFn) -> tuple[tuple[int, int], FedSpan]:
    """A window and a span of all of it, with a charge that both sides report on the hour but for some disturbances."""
    first, charging = draw(st.integers(0, 6)), draw(st.integers(1, 8))
    hours = first + charging + draw(st.sampled_from([0, 2, 30]))
    power_kw, idle_kw, ratio = draw(st.floats(0.4, 22)), draw(st.floats(0, 0.19)), draw(st.floats(0.86, 1.01))
    kw = [power_kw if first <= hour < first + charging else idle_kw for hour in range(hours)]
    sides = [{hour: (hour + 1.0, power * share) for hour, power in enumerate(kw)} for share in (ratio, 1.0)]
    for what, of_sides, hour, size in draw(st.lists(disturbances, max_size=2)):
        for side in of_sides:
            time_h, kwh = sides[side].pop(min(hour, hours - 1), (hour + 1.0, 0.0))
            match what:
                case Disturbance.EARLY:
                    sides[side][hour] = time_h - size, kwh
                case Disturbance.RETURNED:
                    sides[side] |= {hour: (time_h, kwh), hours + hour: (time_h - 0.5, -size)}
                case Disturbance.STANDBY:
                    sides[side][hour] = time_h, size
                case Disturbance.MORE:
                    sides[side][hour] = time_h, kwh * (1 + size)
    vehicle, meters = ({round(time_h * US_PER_HOUR): kwh for time_h, kwh in side.values()} for side in sides)
    window_us = (
        draw(st.integers(0, min(6, 2 * hours - 1))) * US_PER_HOUR // 2,
        (hours + draw(st.integers(0, 1))) * US_PER_HOUR,
    )
    return window_us, FedSpan(*window_us, vehicle, [meters])


@settings(max_examples=1_000, deadline=None)
@given(charges_hour_by_hour())
def test_a_plain_charge_is_to_the_last_bit_what_is_found_of_any(told: tuple[tuple[int, int], FedSpan]) -> None:
    window_us, span = told
    table = spans_table(window_us, [span])
    event(f"plain: {plain_charge(table, LIMITS) is not None}")
    found, stretches = compare(table, LIMITS)
    with patch("analytics_svc.comparison.plain_charge", return_value=None):
        expected, of_any = compare(table, LIMITS)
    for each in fields(Comparison):
        its, others = getattr(found, each.name), getattr(expected, each.name)
        assert (its.dtype, its.tolist()) == (others.dtype, others.tolist()), each.name
    for name, its, others in zip(ComparedStretches._fields, stretches, of_any, strict=True):
        assert (its.dtype, its.tolist()) == (others.dtype, others.tolist()), name


def a_plain_charge(vehicle: Energies, meter: Energies) -> PlainCharge | None:
    window_us = 0, 24 * US_PER_HOUR
    return plain_charge(spans_table(window_us, [FedSpan(*window_us, vehicle, [meter])]), LIMITS)


VEHICLE, METER = (every(15, idle, 0, 24) | every(15, kwh, 6, 10) for idle, kwh in ((0.0, 1.5), (0.02, 1.75)))
"""A night's charge, between hours in which both sides report."""


def test_a_night_s_charge_is_a_plain_one() -> None:
    charge = a_plain_charge(VEHICLE, METER)
    assert charge is not None
    assert charge[:4] == (7, 10, 24.0, 28.0)
    assert charge.ac_squared_kw == pytest.approx(28.0 * 7)
    assert charge.idle == pytest.approx(1.6)


@pytest.mark.parametrize(
    ("vehicle", "meter"),
    [
        ({}, {}),
        (VEHICLE | at(7.1, -0.25), METER),
        (VEHICLE, METER | at(7.1, -0.25)),
        (VEHICLE | every(15, 1.5, 12, 13), METER | every(15, 1.75, 12, 13)),
        (VEHICLE, every(15, 1.75, 6, 9.75)),
        (every(15, 1.5, 6, 9.75), METER),
    ],
    ids=["none", "returned by the car", "returned to the grid", "two", "car ahead", "meter ahead"],
)
def test_whatever_else_is_reported_makes_it_no_plain_charge(vehicle: Energies, meter: Energies) -> None:
    assert a_plain_charge(vehicle, meter) is None


@settings(max_examples=200, deadline=None)
@given(spans())
def test_twice_the_energy_is_compared_alike(told: tuple[tuple[int, int], Sequence[FedSpan]]) -> None:
    """With twice the standby, and so that doubling has no rounding."""
    table = spans_table(*told)
    vehicle, meters = (
        side._replace(kwh=2 * side.kwh, kwh_returned=2 * side.kwh_returned) for side in (table.vehicle, table.meters)
    )
    twice = table._replace(vehicle=vehicle, meters=meters)
    found, _ = compare(table, LIMITS)
    double, _ = compare(twice, replace(LIMITS, standby_kw=2 * LIMITS.standby_kw))
    for name in ("dc", "ac", "idle", "dc_aside", "ac_aside"):
        assert np.array_equal(getattr(double, name), 2 * getattr(found, name)), name
    assert np.array_equal(double.hours_apart, found.hours_apart)


def test_of_a_second_meter_that_sends_nothing_times_are_no_numbers_to_calculate_with() -> None:
    """Forty-eight minutes of a charge that has begun before, whatever the number of the day is."""
    found = []
    for day in (-1, 0, 1):
        start_h = 24.0 * day
        sides = (every(1, kwh, start_h - 0.25, start_h + 0.8) for kwh in (0.015, 0.02))
        found.append(asides(compared(*sides, {}, hours=0.875, start_h=start_h)[0]))
    assert found[0] == found[1] == found[2]


@settings(max_examples=100, deadline=None)
@given(spans(), st.integers(-5, 5))
def test_it_does_not_matter_when_it_was(told: tuple[tuple[int, int], Sequence[FedSpan]], days: int) -> None:
    shift_us = days * 24 * US_PER_HOUR

    def shifted(readings: Energies) -> Energies:
        return {ts_us + shift_us: kwh for ts_us, kwh in readings.items()}

    (start_us, end_us), its = told
    window_us = start_us + shift_us, end_us + shift_us
    later = [
        FedSpan(since_us + shift_us, until_us + shift_us, shifted(vehicle), [shifted(each) for each in meters])
        for since_us, until_us, vehicle, meters in its
    ]
    found, _ = compare(spans_table(*told), LIMITS)
    moved, _ = compare(spans_table(window_us, later), LIMITS)
    for each in fields(Comparison):
        assert np.array_equal(getattr(moved, each.name), getattr(found, each.name)), each.name


@settings(max_examples=200, deadline=None)
@given(
    ratio=st.sampled_from([0.5, 0.75, 0.875, 1.0, 1.25]),
    hours=st.integers(1, 8),
    steps=st.tuples(st.sampled_from([1, 5, 15, 30, 60]), st.sampled_from([1, 5, 15, 30, 60])),
    start_h=st.integers(0, 6),
    kw=st.sampled_from([2.0, 8.0, 11.0, 128.0]),
    hourly_before=st.booleans(),
)
def test_a_charge_that_both_sides_report_from_end_to_end_gives_its_ratio(
    ratio: float, hours: int, steps: tuple[int, int], start_h: int, kw: float, *, hourly_before: bool
) -> None:
    """Whatever their cadences are, and whether they reported before or only while charging."""
    sides = []
    for power_kw, step in zip((kw * ratio, kw), steps, strict=True):
        before = every(step, 0.0, -1, start_h) if hourly_before else {}
        sides.append(before | every(step, power_kw * step / 60, start_h, start_h + hours))
    found, stretches = compared(*sides, hours=24)
    assert (found.dc[0], found.ac[0]) == (pytest.approx(kw * ratio * hours), pytest.approx(kw * hours))
    assert found.ac_squared_kw[0] / found.ac[0] == pytest.approx(kw)
    assert stretches == [(start_h, start_h + hours)]
    assert asides(found) == {}
