"""Sessions from what devices tell of charging: whose silence belongs to which charge, and what a pause is."""

from typing import Any

import pytest

from analytics_svc.questions import Window
from analytics_svc.sessions import Charge, Device, SessionRules, SessionSpan, SilenceEnded, busy_times, find_sessions
from shared.timestamps import US_PER_HOUR, US_PER_MINUTE

DAY = Window(0, 24 * US_PER_HOUR)
RULES = SessionRules(15 * US_PER_MINUTE, 0.2)
CAR, METER = ("vehicle", 1), ("meter", 1)


def at(clock: str) -> int:
    hours, minutes = map(int, clock.split(":"))
    return hours * US_PER_HOUR + minutes * US_PER_MINUTE


def a_charge(begin: str, end: str, device: Device = METER, minutes: int = 1, kw: float | None = None) -> Charge:
    return Charge(device, at(begin), at(end), minutes * US_PER_MINUTE, kw)


def a_reading(before: str | None, time: str, kwh: float, device: Device = CAR, **more: Any) -> SilenceEnded:
    """After a silence; the ones beside it are `earlier`, `before_kwh`, `next` and `next_kwh`."""
    earlier, after = (None if more.get(name) is None else at(more[name]) for name in ("earlier", "next"))
    before_us = None if before is None else at(before)
    sides = (more.get("before_kwh", 0.0), after, more.get("next_kwh"))
    return SilenceEnded(device, device == CAR, -US_PER_HOUR * 100, at(time), kwh, before_us, earlier, *sides)


def found(charges: list[Charge], readings: list[SilenceEnded], window: Window = DAY) -> list[SessionSpan]:
    return find_sessions(window, charges, readings, RULES)


def times(charges: list[Charge], readings: list[SilenceEnded]) -> list[tuple[int, int]]:
    return [(each.begin_us, each.end_us) for each in found(charges, readings)]


def clocks(*pairs: tuple[str, str]) -> list[tuple[int, int]]:
    return [(at(begin), at(end)) for begin, end in pairs]


def test_both_sides_make_a_session_and_pauses_as_long_as_allowed_are_within_it() -> None:
    charges = [a_charge("10:00", "11:00", CAR), a_charge("10:05", "11:20"), a_charge("11:35", "12:00", CAR)]
    assert times(charges, []) == clocks(("10:00", "12:00"))
    assert times([*charges[:2], a_charge("11:36", "12:00", CAR)], []) == clocks(("10:00", "11:20"), ("11:36", "12:00"))


def test_a_pause_may_last_the_interval_of_either_charge_beside_it_but_of_no_other() -> None:
    hourly = a_charge("08:00", "10:00", METER, minutes=60)
    assert times([hourly, a_charge("10:50", "11:00", CAR)], []) == clocks(("08:00", "11:00"))
    assert times([hourly, a_charge("09:00", "10:10", CAR), a_charge("11:05", "11:30", CAR)], []) == clocks(
        ("08:00", "10:10"), ("11:05", "11:30")
    )
    late_and_slow = a_charge("11:05", "13:05", METER, minutes=60)
    both = [a_charge("08:00", "10:10", CAR), a_charge("10:30", "10:45", CAR), late_and_slow]
    assert times(both, []) == clocks(("08:00", "13:05"))


@pytest.mark.parametrize(
    ("time", "sessions"),
    [
        ("18:30", [("18:00", "20:00")]),  # within it
        ("20:15", [("18:00", "20:15")]),  # soon after it
        ("23:00", [("18:00", "23:00")]),  # for lack of another
    ],
)
def test_what_is_reported_after_silence_belongs_to_what_another_device_charged(
    time: str, sessions: list[tuple[str, str]]
) -> None:
    told = found([a_charge("18:00", "20:00")], [a_reading("02:00", time, 13.0)])
    assert [(each.begin_us, each.end_us) for each in told] == clocks(*sessions)
    assert told[0].charged_until_us == at("20:00")
    assert told[0].highest_kw is None


def test_of_several_charges_in_a_silence_the_longest_is_told_and_of_equal_ones_the_last() -> None:
    reading = a_reading("02:00", "22:00", 13.0)
    brief = a_charge("20:00", "20:30")
    assert times([a_charge("06:00", "08:00"), brief], [reading]) == clocks(("06:00", "22:00"))
    equal = [a_charge("06:00", "06:30"), brief]
    assert times(equal, [reading]) == clocks(("06:00", "06:30"), ("20:00", "22:00"))


def test_one_that_comes_as_another_device_begins_to_charge_belongs_to_that_charge() -> None:
    reading = a_reading("02:00", "18:15", 61.85, METER, next="18:30", next_kwh=1.85)
    charges = [a_charge("06:00", "08:00", CAR), a_charge("18:15", "20:00", CAR)]
    assert times(charges, [reading]) == clocks(("06:00", "08:00"), ("18:00", "20:00"))


def test_a_charge_that_the_silence_just_touches_is_not_told_by_it() -> None:
    touched = a_charge("18:00", "20:05")
    reading = a_reading("20:00", "23:00", 0.4, earlier="19:59", before_kwh=0.1)
    assert times([touched], [reading]) == clocks(("18:00", "20:05"), ("22:56", "23:00"))


@pytest.mark.parametrize(
    ("reading", "begin"),
    [
        (a_reading("02:00", "12:00", 7.4), "02:00"),  # nothing tells: all of the silence
        (a_reading(None, "12:00", 7.4), "11:00"),  # nothing was sent before: an hour
        (a_reading(None, "12:00", 1.85, next="12:15", next_kwh=1.85), "11:45"),  # as the one after it
        (a_reading("02:00", "12:00", 7.4, next="12:15", next_kwh=1.85), "11:00"),  # as long as its energy takes
        (a_reading("02:00", "12:00", 0.4, next="12:15", next_kwh=1.85), "11:45"),  # an interval at least
        (a_reading("11:10", "12:00", 99.0, next="12:15", next_kwh=1.85), "11:10"),  # the silence at most
    ],
)
def test_where_nobody_else_tells_a_reading_stands_for_what_its_energy_takes(reading: SilenceEnded, begin: str) -> None:
    assert times([], [reading]) == clocks((begin, "12:00"))


def test_standby_of_a_long_silence_is_no_charging() -> None:
    quiet = {"earlier": "01:45", "before_kwh": 0.015, "next": "22:15", "next_kwh": 0.015}
    assert times([], [a_reading("02:00", "22:00", 1.2, METER, **quiet)]) == []
    assert times([], [a_reading("02:00", "22:00", 0.05, CAR, **quiet)]) == []
    assert len(times([], [a_reading("02:00", "22:00", 0.051, CAR, **quiet)])) == 1


def test_a_session_is_cut_where_its_window_is_and_says_so() -> None:
    window = Window(at("10:30"), at("12:00"))
    charges = [a_charge("10:00", "11:00", CAR, kw=7.0), a_charge("08:00", "10:20"), a_charge("11:45", "11:46")]
    first, second = find_sessions(window, charges, [], RULES)
    assert first == SessionSpan(at("10:30"), at("11:00"), at("11:00"), begins_before=True, open=False, highest_kw=7.0)
    assert second == SessionSpan(at("11:45"), at("11:46"), at("11:46"), begins_before=False, open=True, highest_kw=None)


def test_busy_hours_are_looked_at_with_their_neighbours_and_joined() -> None:
    hours_us = [at(f"{hour}:00") for hour in (15, 10, 12, 10)]
    assert busy_times(hours_us, at("9:30"), at("16:00")) == clocks(("9:30", "16:00"))
    assert busy_times([at("10:00"), at("13:00")], 0, DAY.end_us) == clocks(("9:00", "15:00"))
    assert busy_times([at("10:00"), at("14:00")], 0, DAY.end_us) == clocks(("9:00", "12:00"), ("13:00", "16:00"))
    assert busy_times([at("10:00")], at("12:00"), at("13:00")) == []
