"""Partitions ahead, the retention floor, and what is dropped and refused before it."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
import pytest
from psycopg import AsyncConnection

from ingestion_svc.maintenance import Maintenance
from ingestion_svc.readings import MeterRow, Written
from ingestion_svc.writer import Writer
from ingestion_svc.writer_sql import METERS
from shared.db.embedded import EmbeddedServer
from shared.db.engine import connection_parameters
from shared.db.partitions import DAYS_AHEAD, HISTORY_TABLES
from shared.db.retention import Maintained, maintain, retention_floor_us
from shared.errors import DatabaseUnavailable
from shared.timestamps import US_PER_DAY, system_clock

RETENTION_DAYS = 40
ROLLUP_RETENTION_DAYS = 400


@pytest.fixture
def ingestion_url(postgres: EmbeddedServer, database: str) -> str:
    return postgres.url(database, role="energyfleet_ingestion")


@pytest.fixture
def owner(database_url: str) -> Iterator[psycopg.Connection[Any]]:
    with psycopg.connect(database_url, autocommit=True) as connection:
        yield connection


@pytest.fixture
async def ours(ingestion_url: str) -> AsyncIterator[AsyncConnection[Any]]:
    async with await AsyncConnection.connect(**connection_parameters(ingestion_url, "test"), autocommit=True) as mine:
        yield mine


@asynccontextmanager
async def writing(url: str) -> AsyncIterator[Writer[MeterRow]]:
    writer = Writer(METERS, connection_parameters(url, "test"), 30, lambda place: None)
    try:
        yield writer
    finally:
        await writer.close()


async def maintained(url: str, now_us: int | None = None, retention_days: int = RETENTION_DAYS) -> Maintained:
    async with await AsyncConnection.connect(**connection_parameters(url, "test"), autocommit=True) as connection:
        return await maintain(connection, now_us or system_clock(), retention_days, ROLLUP_RETENTION_DAYS)


def days_ago(days: int) -> int:
    """Noon of a day so many days back, in microseconds."""
    return (system_clock() // US_PER_DAY - days) * US_PER_DAY + US_PER_DAY // 2


def partition(table: str, ts_us: int) -> str:
    return f"{table}_{datetime.fromtimestamp(ts_us // 1_000_000, UTC):%Y%m%d}"


def partitions(owner: psycopg.Connection[Any]) -> set[str]:
    return {name for (name,) in owner.execute("SELECT relname FROM pg_class WHERE relispartition AND relkind = 'r'")}


def readings(owner: psycopg.Connection[Any]) -> tuple[int, int]:
    """In history, and as the hourly rollups count them."""
    row = owner.execute(
        "SELECT (SELECT count(*) FROM meter_telemetry_history), (SELECT sum(readings) FROM meter_energy_hourly)"
    ).fetchone()
    assert row is not None
    return row[0], row[1]


async def test_partitions_wholly_before_the_floor_are_dropped_and_status_and_rollups_stay(
    ingestion_url: str, owner: psycopg.Connection[Any]
) -> None:
    rows = [MeterRow("m", days_ago(days), 1.0, None) for days in (42, 41, 40, 39)]
    async with writing(ingestion_url) as writer:
        await writer.write(rows)
    done = await maintained(ingestion_url)

    assert done.dropped == [partition(HISTORY_TABLES[0], row.ts_us) for row in rows[:2]]
    assert done.floor_us == days_ago(40) - US_PER_DAY // 2
    assert readings(owner) == (2, 4)
    assert owner.execute("SELECT count(*) FROM meter_current_status").fetchone() == (1,)


async def test_the_marks_of_hours_are_kept_for_as_long_as_readings_of_their_month_may_be(
    ingestion_url: str, owner: psycopg.Connection[Any]
) -> None:
    async with writing(ingestion_url) as writer:
        await writer.write([MeterRow("m", days_ago(days), 1.0, None) for days in (90, 80, 41, 39)])
    done = await maintained(ingestion_url)

    first = owner.execute("SELECT min(hour_start) FROM meter_hour_changes").fetchone()
    assert first is not None
    assert first[0] >= datetime(done.floor_day.year, done.floor_day.month, 1, tzinfo=UTC) - timedelta(hours=1)
    assert owner.execute("SELECT count(*) > 0 FROM meter_hour_changes").fetchone() == (True,)


async def test_a_day_that_is_sent_again_after_dropping_is_refused_and_its_neighbours_stored(
    ingestion_url: str, owner: psycopg.Connection[Any]
) -> None:
    old = [MeterRow(f"m{at}", days_ago(45), 1.0, None) for at in range(3)]
    async with writing(ingestion_url) as knows_the_day, writing(ingestion_url) as another:
        await knows_the_day.write(old)
        await maintained(ingestion_url)
        fresh = [MeterRow(f"m{at}", days_ago(1), 1.0, None) for at in range(3)]
        mixed = [fresh[0], old[0], old[1], fresh[1], old[2], fresh[2]]
        with suppress(DatabaseUnavailable):  # what it knew of partitions is old; a lane sends the same batch again
            await knows_the_day.write(mixed[:3])
        written = await knows_the_day.write(mixed)
        assert sorted(written.refused) == [1, 2, 4]
        assert await another.write(old) == Written(refused=[0, 1, 2])

    assert readings(owner) == (3, 6)
    assert partition(HISTORY_TABLES[0], old[0].ts_us) not in partitions(owner)


async def test_the_floor_is_committed_before_the_first_drop(
    ingestion_url: str, database_url: str, owner: psycopg.Connection[Any], ours: AsyncConnection[Any]
) -> None:
    async with writing(ingestion_url) as writer:
        await writer.write([MeterRow("m", days_ago(50), 1.0, None)])
    with psycopg.connect(database_url) as reader:
        reader.execute("SELECT count(*) FROM meter_telemetry_history")  # holds its lock until it ends
        done = await maintained(ingestion_url)
        assert done.in_use == ["meter_telemetry_history"]
        assert done.dropped == []
    assert await retention_floor_us(ours) == done.floor_us
    with pytest.raises(psycopg.errors.DatetimeFieldOverflow, match="before the retention floor"):
        await ours.execute(
            "SELECT ensure_history_partition('meter_telemetry_history', current_date - %s::integer)",
            (RETENTION_DAYS + 1,),
        )
    assert (await maintained(ingestion_url)).dropped == [partition(HISTORY_TABLES[0], days_ago(50))]


async def test_a_floor_that_is_not_committed_drops_nothing(ingestion_url: str, ours: AsyncConnection[Any]) -> None:
    async with ours.transaction():
        await ours.execute("SELECT move_retention_floor(now(), 400)")
        with pytest.raises(psycopg.errors.ObjectNotInPrerequisiteState, match="commit"):
            await ours.execute("SELECT drop_oldest_history_partition('meter_telemetry_history')")


async def test_two_maintainers_at_once_drop_and_create_each_partition_once(
    ingestion_url: str, owner: psycopg.Connection[Any]
) -> None:
    expected = sorted(partition(HISTORY_TABLES[0], days_ago(days)) for days in range(41, 61))
    async with writing(ingestion_url) as writer:
        await writer.write([MeterRow("m", days_ago(days), 1.0, None) for days in range(41, 61)])
    ahead = partition(HISTORY_TABLES[1], days_ago(-DAYS_AHEAD))
    owner.execute(f"DROP TABLE {ahead}")

    rounds = await asyncio.gather(*(maintained(ingestion_url) for _ in range(3)))

    assert sorted(name for done in rounds for name in done.dropped) == expected
    assert [name for done in rounds for name in done.created] == [ahead]


@pytest.mark.parametrize("years", [-50, -1, 1, 20])
async def test_a_clock_that_is_wrong_drops_nothing_that_is_kept(
    ingestion_url: str, owner: psycopg.Connection[Any], years: int
) -> None:
    async with writing(ingestion_url) as writer:
        await writer.write([MeterRow("m", days_ago(days), 1.0, None) for days in (0, 10, 39)])
    wrong = datetime.now(UTC) + timedelta(days=365 * years)
    done = await maintained(ingestion_url, int(wrong.timestamp()) * 1_000_000)

    assert done.dropped == []
    assert readings(owner) == (3, 3)


async def test_the_floor_never_moves_back_and_the_last_month_is_kept_whatever_the_setting_says(
    ingestion_url: str, owner: psycopg.Connection[Any]
) -> None:
    async with writing(ingestion_url) as writer:
        await writer.write([MeterRow("m", days_ago(days), 1.0, None) for days in (29, 30, 31)])
    done = await maintained(ingestion_url, retention_days=1)

    assert done.dropped == [partition(HISTORY_TABLES[0], days_ago(31))]
    assert (await maintained(ingestion_url, retention_days=400)).floor_day == done.floor_day
    assert readings(owner) == (2, 3)


async def test_the_service_s_maintenance_tells_the_days_ahead_and_the_floor_and_survives_an_outage(
    ingestion_url: str, owner: psycopg.Connection[Any]
) -> None:
    for table in HISTORY_TABLES:
        owner.execute(f"DROP TABLE {partition(table, days_ago(-DAYS_AHEAD))}")
    now_us = days_ago(0)
    told: list[int] = []
    parameters = connection_parameters(ingestion_url, "test")
    maintenance = Maintenance(parameters, RETENTION_DAYS, ROLLUP_RETENTION_DAYS, lambda: now_us, told.append)
    await maintenance.round()
    assert told == [DAYS_AHEAD]
    assert maintenance.floor_us == days_ago(40) - US_PER_DAY // 2

    maintenance._parameters["host"] = "/nonexistent"
    now_us += 3 * US_PER_DAY
    with pytest.raises(psycopg.OperationalError):
        await maintenance.round()
    assert told == [DAYS_AHEAD, DAYS_AHEAD - 3]
