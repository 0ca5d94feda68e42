"""Partitions and retention: creates the coming days, moves the floor, drops the days before it, and old rollups.

The stored floor only moves forward, to so many days before the earlier of two clocks, ours and the database's. It is
committed before anything is dropped. From then on the database refuses the days before it, so that a late batch can
not bring back a day whose duplicates are forgotten. Sealed days go by the month. Current status stays, and hourly
rollups stay much longer than the readings that they are sums of.
"""

from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from typing import Any

from psycopg import AsyncConnection, errors

from shared.db.device_kind import KINDS
from shared.db.hour_changes import FORGET_HOURS
from shared.db.partitions import ENSURE, HISTORY_TABLES, days_to_cover
from shared.timestamps import datetime_from_us, us_from_datetime

_MOVE_FLOOR = """
    SELECT floor_day, held_day FROM move_archived_retention_floor(%(now)s, %(retention_days)s, %(archive_url)s)
"""

RETENTION_DAYS_MIN = 30
"""Kept whatever the setting says; the database holds it."""

_DROP_OLDEST = "SELECT dropped, held_day FROM drop_oldest_archived(%(parent)s, %(archive_url)s)"

_FLOOR = "SELECT floor_day FROM retention"

# Rollups of hours before both the retention floor and so many days before the earlier of two clocks; some at a time.
_FORGET_ROLLUPS = """
    DELETE FROM {device}_closed_hours WHERE ctid = ANY(ARRAY(
        SELECT ctid FROM {device}_closed_hours
        WHERE hour_start < (SELECT floor_day::timestamp AT TIME ZONE 'UTC' FROM retention)
            AND hour_start < least(%(now)s, now()) - %(days)s * interval '1 day'
        ORDER BY hour_start
        LIMIT %(most)s
    ))
"""

ROLLUPS_AT_ONCE = 20_000
"""Rollups that are deleted in one transaction: some 50 ms."""

# Which days have partitions in every history table.
_COVERED = """
    SELECT day
    FROM unnest(%(days)s::date[]) AS day
    WHERE NOT EXISTS (
        SELECT FROM unnest(%(parents)s::text[]) AS parent
        WHERE to_regclass(parent || '_' || to_char(day, 'YYYYMMDD')) IS NULL
    )
"""


@dataclass(slots=True)
class Maintained:
    """What one round did: the partitions' names, in the order in which it did it."""

    floor_day: date
    """The first UTC day whose readings are kept."""
    created: list[str] = field(default_factory=list)
    dropped: list[str] = field(default_factory=list)
    held_day: date | None = None
    """The first UTC day that would be dropped but for the archive, which has not got it as it is now."""
    in_use: list[str] = field(default_factory=list)
    """The tables from which nothing could be dropped in time; the next round tries again."""
    rollups_deleted: int = 0

    @property
    def floor_us(self) -> int:
        """The earliest timestamp that is kept, in microseconds."""
        return us_from_day(self.floor_day)


async def maintain(
    connection: AsyncConnection[Any],
    now_us: int,
    retention_days: int,
    rollup_retention_days: int,
    archive_url: str | None = None,
) -> Maintained:
    """Creates partitions from yesterday to a week ahead, moves the floor, drops what lies wholly before it, with a URL
    no day that is not archived there in its present version, and deletes the rollups that are older than readings and
    so many days.

    The connection commits by itself (autocommit): the floor before the first drop, and every drop for itself, so that
    the locks are short. Safe from several processes at once. Raises the driver's errors.
    """
    assert connection.autocommit
    created = await create_ahead(connection, now_us)
    parameters = {"now": datetime_from_us(now_us), "retention_days": retention_days, "archive_url": archive_url}
    try:
        [(floor_day, held_day)] = await (await connection.execute(_MOVE_FLOOR, parameters)).fetchall()
    except errors.LockNotAvailable:  # the next round moves it
        floor_day, held_day = await _one(connection, _FLOOR), None
    done = Maintained(floor_day, created, held_day=held_day)
    for parent in (*HISTORY_TABLES, *(kind.sealed for kind in KINDS)):
        try:
            await _drop(connection, parent, archive_url, done)
        except errors.LockNotAvailable:
            done.in_use.append(parent)
    if not done.in_use and done.held_day is None:  # what is left has its version still
        for kind in KINDS:
            await connection.execute(kind.render(FORGET_HOURS))
    asked = {"now": datetime_from_us(now_us), "days": rollup_retention_days, "most": ROLLUPS_AT_ONCE}
    for kind in KINDS:
        deleted = ROLLUPS_AT_ONCE
        while deleted == ROLLUPS_AT_ONCE:
            deleted = (await connection.execute(kind.render(_FORGET_ROLLUPS), asked)).rowcount
            done.rollups_deleted += deleted
    return done


async def _drop(connection: AsyncConnection[Any], parent: str, archive_url: str | None, done: Maintained) -> None:
    while True:
        parameters = {"parent": parent, "archive_url": archive_url}
        [(dropped, held_day)] = await (await connection.execute(_DROP_OLDEST, parameters)).fetchall()
        if held_day is not None:
            done.held_day = min(held_day, done.held_day or held_day)
        if dropped is None:
            return
        done.dropped.append(dropped)


def days_held(done: Maintained, now_us: int, retention_days: int) -> int:
    """How many days more would be dropped but for the archive; 0 where it holds none."""
    if done.held_day is None:
        return 0
    wanted = datetime_from_us(now_us).date() - timedelta(days=max(retention_days, RETENTION_DAYS_MIN))
    return max((wanted - done.held_day).days, 0)


async def forget_devices(connection: AsyncConnection[Any]) -> list[tuple[str, str]]:
    """Removes the devices that have neither a reading nor a mapping; their kinds and ids. Raises the driver's errors,
    LockNotAvailable where somebody uses the devices for more than two seconds."""
    found = await connection.execute("SELECT kind, device_id FROM forget_devices() ORDER BY kind, device_id")
    return [(kind, device_id) for kind, device_id in await found.fetchall()]


async def create_ahead(connection: AsyncConnection[Any], now_us: int) -> list[str]:
    """Creates the partitions from yesterday to a week ahead where they are missing; the names of those it created."""
    floor_day = await _one(connection, _FLOOR)
    return [
        f"{parent}_{day:%Y%m%d}"
        for day in days_to_cover(datetime_from_us(now_us).date())
        for parent in HISTORY_TABLES
        if day >= floor_day and await _one(connection, ENSURE, parent=parent, day=day)
    ]


async def days_ahead(connection: AsyncConnection[Any], now_us: int) -> int:
    """How many days after today have their partitions, without a gap, a week at most; -1 where today's is missing."""
    _, *days = days_to_cover(datetime_from_us(now_us).date())
    parameters = {"days": days, "parents": list(HISTORY_TABLES)}
    covered = {day for (day,) in await (await connection.execute(_COVERED, parameters)).fetchall()}
    return next((ahead for ahead, day in enumerate(days) if day not in covered), len(days)) - 1


async def retention_floor_us(connection: AsyncConnection[Any]) -> int:
    """The earliest timestamp that the database takes, in microseconds."""
    return us_from_day(await _one(connection, _FLOOR))


def us_from_day(day: date) -> int:
    """The microsecond at which a UTC day begins."""
    return us_from_datetime(datetime(day.year, day.month, day.day, tzinfo=UTC))


async def _one(connection: AsyncConnection[Any], query: str, **parameters: Any) -> Any:
    row = await (await connection.execute(query, parameters)).fetchone()
    return row[0] if row else None
