"""By how much storage grows, and when a disk is full: arithmetic."""

from datetime import date, timedelta

import pytest

from fleetcli.commands.storage_growth import Growth, full_on, growth_of, retention_starts
from shared.db.storage import Held, Month, Rollups, Storage

TODAY = date(2026, 11, 30)


def a_fleet(*, sealed: bool, closed_readings: int = 1_000) -> Storage:
    """Of one kind: two closed days, today's beginning, and a day of a late reading; 100 B open and 5 B sealed."""
    days = {
        TODAY: Held(1, 10, 1_000),
        TODAY - timedelta(days=1): Held(1, closed_readings, closed_readings * 100),
        TODAY - timedelta(days=2): Held(1, closed_readings * 3, closed_readings * 300),
        TODAY - timedelta(days=5): Held(1, 1, 100),
    }
    total = Held()
    for held in days.values():
        total.add(held)
    month = Month("meter", date(2026, 11, 1), total, Held(20, 20_000, 100_000) if sealed else Held())
    return Storage([month], {"meter": days})


@pytest.mark.parametrize(("seal_after_days", "sealed", "cost"), [(2, True, 5), (2, False, 100), (0, True, 100)])
def test_closed_days_count_at_what_they_take_in_the_end(seal_after_days: int, sealed: bool, cost: int) -> None:
    rollups = {"meter": Rollups(10_000, 50), "vehicle": Rollups(10_000, 70)}
    growth = growth_of(a_fleet(sealed=sealed), rollups, TODAY, seal_after_days)
    days = 2 if seal_after_days else 3  # where nothing is sealed, no day is one of late readings alone
    readings = round(4_000 / 2 if seal_after_days else 4_001 / 3)
    assert (growth.readings, growth.days, growth.sealed, growth.rollup_bytes) == (readings, days, cost == 5, 120)
    assert growth.reading_bytes == pytest.approx(readings * cost, abs=cost)


def test_where_no_closed_day_is_open_the_sealed_ones_say_how_many_readings_a_day_has() -> None:
    storage = a_fleet(sealed=True)
    storage.open_days = {"meter": {}}
    growth = growth_of(storage, {}, TODAY, 2)
    assert (growth.readings, growth.days, growth.reading_bytes) == (1_000, 0, 5_000)


def test_an_empty_database_does_not_grow() -> None:
    assert growth_of(Storage(open_days={"meter": {}, "vehicle": {}}), {}, TODAY, 2).bytes == 0
    assert retention_starts(Storage(), 400) is None


@pytest.mark.parametrize(
    ("free", "starts", "full"),
    [
        (1_000, None, TODAY + timedelta(days=10)),
        (99, None, TODAY),
        (1_000, TODAY + timedelta(days=10), TODAY + timedelta(days=10)),
        (1_020, TODAY + timedelta(days=10), TODAY + timedelta(days=11)),
        (200, TODAY - timedelta(days=5), TODAY + timedelta(days=10)),
        (10**9, TODAY, None),
    ],
)
def test_from_the_start_of_retention_on_only_rollups_grow(free: int, starts: date | None, full: date | None) -> None:
    growth = Growth(readings=10, days=2, reading_bytes=80, sealed=True, rollup_bytes=20)
    assert full_on(free, growth, TODAY, starts) == full


def test_what_does_not_grow_never_fills_a_disk() -> None:
    assert full_on(1, Growth(0, 0, 0, True, 0), TODAY, None) is None
