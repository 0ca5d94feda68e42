"""What vehicles charged on the 28 days before, asked of a real database with the rights of the analytics role alone."""

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from datetime import date
from typing import Any

import numpy as np
import pytest
import pytest_asyncio
from sqlalchemy import TextClause

from analytics_svc import baseline_queries
from analytics_svc.baseline_queries import BaselineQueries
from analytics_svc.baseline_sql import BASELINE_HOURS, METER_DAY, VEHICLE_DAY
from analytics_svc.questions import PerformanceQuestion, Window
from analytics_svc.reader import QueryResult, Reader
from analytics_svc.stretches import CompareLimits
from shared.db.device_kind import KINDS
from shared.db.hour_changes import FORGET_HOURS, MARK_HOURS
from shared.timestamps import US_PER_DAY, US_PER_HOUR, datetime_from_us
from tests.charging_model import THRESHOLDS
from tests.integration.test_analytics_queries import MIDNIGHT_US, Rows, asking, reader_url, rows

pytestmark = pytest.mark.one_server

__all__ = ["reader_url", "rows"]

LIMITS = THRESHOLDS.comparing
WINDOW = Window(MIDNIGHT_US + US_PER_HOUR, MIDNIGHT_US + US_PER_DAY)


class CountingReader(Reader):
    """Counts what is asked."""

    def __init__(self, url: str) -> None:
        super().__init__(url, "test", pool_size=4, timeout_s=10.0)
        self.asked: list[object] = []

    async def ask(
        self, statement: TextClause, parameters: Mapping[str, object], planned_for: Mapping[str, date] | None = None
    ) -> QueryResult[list[Any]]:
        self.asked.append(statement)
        return await super().ask(statement, parameters, planned_for)

    @property
    def days_read(self) -> int:
        """Since it was asked last."""
        count = self.asked.count(VEHICLE_DAY)
        assert count == self.asked.count(METER_DAY)
        self.asked.clear()
        return count


@pytest_asyncio.fixture
async def reader(reader_url: str) -> AsyncIterator[CountingReader]:  # the fixture
    reader = CountingReader(reader_url)
    yield reader
    await reader.close()


def charge(rows: Rows, vehicle: int, meter: int, day: int, dc: float = 6.3) -> None:
    """Two hours in the evening so many days before, as the service's writer stores them."""
    start_us = MIDNIGHT_US - day * US_PER_DAY + 18 * US_PER_HOUR
    ends_us = [start_us + US_PER_HOUR, start_us + 2 * US_PER_HOUR]
    rows.delivered(vehicle, *((ts_us, dc) for ts_us in ends_us))
    rows.consumed(meter, *((ts_us, 7.0) for ts_us in ends_us))
    for kind in KINDS:
        rows.connection.execute(
            kind.render(MARK_HOURS).encode(), {"hours": [datetime_from_us(ts_us - US_PER_HOUR) for ts_us in ends_us]}
        )


def a_pair(rows: Rows, name: str) -> tuple[int, int]:
    vehicle, meter = rows.vehicle(name), rows.meter(f"{name}-meter")
    rows.mapping(vehicle, meter, MIDNIGHT_US - 100 * US_PER_DAY)
    return vehicle, meter


async def energies(baselines: BaselineQueries, keys: list[int]) -> list[float]:
    """Drawn by each vehicle."""
    found: list[float] = (await baselines.of_fleet(WINDOW, np.array(keys, np.int32), LIMITS)).value[1].tolist()
    return found


async def test_only_days_that_changed_are_read_again(rows: Rows, reader: CountingReader) -> None:
    one, other = a_pair(rows, "one"), a_pair(rows, "other")
    charge(rows, *one, day=3)
    baselines, keys = BaselineQueries(reader), [one[0], other[0]]
    assert (await energies(baselines, keys), reader.days_read) == ([14.0, 0.0], 28)
    assert (await energies(baselines, keys), reader.days_read) == ([14.0, 0.0], 0)
    charge(rows, *other, day=9)
    assert (await energies(baselines, keys), reader.days_read) == ([14.0, 14.0], 1)
    charge(rows, *other, day=40)
    assert (await energies(baselines, keys), reader.days_read) == ([14.0, 14.0], 0)


async def test_days_whose_mappings_changed_are_read_again(rows: Rows, reader: CountingReader) -> None:
    vehicle, meter = a_pair(rows, "one")
    charge(rows, vehicle, meter, day=3)
    charge(rows, vehicle, meter, day=2)
    baselines = BaselineQueries(reader)
    assert (await energies(baselines, [vehicle]), reader.days_read) == ([28.0], 28)
    rows.connection.execute(
        "UPDATE vehicle_meter_map SET effective_until = %s", (datetime_from_us(MIDNIGHT_US + US_PER_HOUR),)
    )
    assert (await energies(baselines, [vehicle]), reader.days_read) == ([28.0], 0)
    moved = datetime_from_us(MIDNIGHT_US - 2 * US_PER_DAY + US_PER_HOUR)
    rows.connection.execute("UPDATE vehicle_meter_map SET effective_until = %s", (moved,))
    assert (await energies(baselines, [vehicle]), reader.days_read) == ([14.0], 2)


async def test_the_next_day_needs_one_day_more(rows: Rows, reader: CountingReader) -> None:
    vehicle, meter = a_pair(rows, "one")
    charge(rows, vehicle, meter, day=28)
    charge(rows, vehicle, meter, day=0)
    baselines = BaselineQueries(reader)
    assert (await energies(baselines, [vehicle]), reader.days_read) == ([14.0], 28)
    tomorrow = Window(WINDOW.start_us + US_PER_DAY, WINDOW.end_us + US_PER_DAY)
    found = await baselines.of_fleet(tomorrow, np.array([vehicle], np.int32), LIMITS)
    assert (found.value[1].tolist(), reader.days_read) == ([14.0], 1)


async def test_days_before_the_retention_floor_count_as_they_are(rows: Rows, reader: CountingReader) -> None:
    """Their marks are forgotten with their readings, and their rollups stay."""
    vehicle, meter = a_pair(rows, "one")
    charge(rows, vehicle, meter, day=9)
    baselines = BaselineQueries(reader)
    assert await energies(baselines, [vehicle]) == [14.0]
    rows.connection.execute("UPDATE retention SET floor_day = '2026-02-04'")
    for kind in KINDS:
        rows.connection.execute(kind.render(FORGET_HOURS).encode())
        rows.connection.execute(f"DELETE FROM {kind.history}".encode())
    reader.asked.clear()
    assert (await energies(baselines, [vehicle]), reader.days_read) == ([14.0], 23)
    assert (await energies(baselines, [vehicle]), reader.days_read) == ([14.0], 0)


async def test_a_vehicle_is_asked_about_once_until_something_changes(
    rows: Rows, reader_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    vehicle, meter = a_pair(rows, "one")
    charge(rows, vehicle, meter, day=3)
    async with asking(reader_url) as queries:
        asked: list[object] = []
        ask = queries.baselines._ask_hours

        async def counted(
            period: Window, vehicle_ids: Sequence[str], limits: CompareLimits
        ) -> QueryResult[dict[str, list[Any]]]:
            asked.append(BASELINE_HOURS)
            return await ask(period, vehicle_ids, limits)

        monkeypatch.setattr(queries.baselines, "_ask_hours", counted)

        async def drawn() -> float:
            _, evidence = (await queries.performance(PerformanceQuestion("one", WINDOW), LIMITS)).value
            assert evidence.baseline_sums is not None
            return float(evidence.baseline_sums[1, 0])

        assert ([await drawn() for _ in range(3)], len(asked)) == ([14.0] * 3, 1)
        charge(rows, vehicle, meter, day=4)
        assert ([await drawn() for _ in range(3)], len(asked)) == ([28.0] * 3, 2)


async def test_after_many_vehicles_all_days_are_read_and_answer_for_each_of_them(
    rows: Rows, reader_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(baseline_queries, "MISSED_MAX", 3)
    names = [f"car-{number}" for number in range(9)]
    for number, name in enumerate(names):
        charge(rows, *a_pair(rows, name), day=number + 1)
    async with asking(reader_url, pool_size=4) as queries:

        async def drawn(name: str) -> float:
            _, evidence = (await queries.performance(PerformanceQuestion(name, WINDOW), LIMITS)).value
            assert evidence.baseline_sums is not None
            return float(evidence.baseline_sums[1, 0])

        assert [await drawn(name) for name in names[:3]] == [14.0] * 3
        task = queries.baselines._background
        assert task is not None
        await asyncio.wait_for(task, 30)
        monkeypatch.setattr(queries.baselines, "_ask_hours", None)
        assert [await drawn(name) for name in names] == [14.0] * 9


async def test_what_was_read_ahead_is_not_read_when_it_is_asked_for(rows: Rows, reader: CountingReader) -> None:
    vehicle, meter = a_pair(rows, "one")
    charge(rows, vehicle, meter, day=3)
    baselines = BaselineQueries(reader)
    baselines.read_ahead(WINDOW.start_us + US_PER_DAY, LIMITS)
    baselines.read_ahead(WINDOW.start_us + US_PER_DAY, LIMITS)
    assert baselines._background is not None
    await asyncio.wait_for(baselines._background, 30)
    assert reader.days_read == 28
    assert (await energies(baselines, [vehicle]), reader.days_read) == ([14.0], 0)
    baselines.read_ahead(WINDOW.start_us + 9 * US_PER_DAY, LIMITS)
    await baselines.close()
    assert baselines._background.cancelled()


async def test_many_named_vehicles_have_what_each_of_them_has(
    rows: Rows, reader: CountingReader, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = [f"car-{number}" for number in range(5)]
    for number, name in enumerate(names):
        charge(rows, *a_pair(rows, name), day=number + 1, dc=6.0 + number / 8)
    asked = [*reversed(names), "unknown"]
    few = await BaselineQueries(reader).of_vehicles(WINDOW, asked, LIMITS)
    monkeypatch.setattr(baseline_queries, "NAMED_MAX", 3)
    many = await BaselineQueries(reader).of_vehicles(WINDOW, asked, LIMITS)
    assert few.value.tolist() == many.value.tolist()
    assert few.value[0].tolist() == [13.0, 12.75, 12.5, 12.25, 12.0, 0.0]


async def test_windows_at_the_beginning_of_time_have_no_days_before_them(rows: Rows, reader: CountingReader) -> None:
    vehicle, _ = a_pair(rows, "one")
    for days in (0, 3):
        start_us = -62_135_596_800_000_000 + days * US_PER_DAY
        window = Window(start_us, start_us + US_PER_HOUR)
        baselines = BaselineQueries(reader)
        assert (await baselines.of_vehicles(window, ["one"], LIMITS)).value[:, 0].tolist() == [0.0] * 4
        assert (await baselines.of_fleet(window, np.array([vehicle], np.int32), LIMITS)).value.tolist() == [[0.0]] * 4
