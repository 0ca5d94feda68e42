"""What readings take of the disk: by kind of device and month, open and sealed apart; what of it is estimated.

What it costs is bounded, however much is stored: tables are counted, the small ones first, until EXACT_BYTES of them
were read. The readings of other open days follow from PostgreSQL's own statistics, and those of other sealed months
from a sample of their rows. Sizes are those of tables with their indexes and TOAST, from the file system.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from typing import Any

from psycopg import AsyncConnection

from shared.db.device_kind import KINDS, DeviceKind
from shared.timestamps import datetime_from_us

EXACT_BYTES = 64 * 2**20
"""Of tables that are read to count readings: some 800,000 readings of open days, a quarter of a second."""

SAMPLE_PAGES = 256
"""Of a month of sealed days: some 8,000 days of devices, from which all days of the month can be told."""

PAGE_BYTES = 8_192

ROWS_A_PAGE = 120
"""Readings in a page of history, where PostgreSQL has no statistics yet."""

ROLLUP_BYTES = 120
"""A closed hour of a device with its two keys, where PostgreSQL has no statistics yet."""

# Partitions of history and of sealed days, with rows and pages as they were when PostgreSQL last looked.
_PARTITIONS = """
    SELECT parent.relname, child.relname, coalesce(pg_total_relation_size(child.oid), 0),
        coalesce(pg_relation_size(child.oid), 0), child.reltuples, child.relpages
    FROM pg_inherits JOIN pg_class AS parent ON parent.oid = inhparent JOIN pg_class AS child ON child.oid = inhrelid
    WHERE parent.relnamespace = current_schema()::regnamespace AND parent.relname = ANY(%(parents)s)
    ORDER BY child.relname
"""

_COUNT_OPEN = "SELECT count(*) FROM {device}_telemetry_history WHERE ts >= %(first)s AND ts < %(end)s"

# Days, readings, and rows: days of devices.
_COUNT_SEALED = """
    SELECT count(DISTINCT day), coalesce(sum(readings), 0)::bigint, count(*)
    FROM {device}_sealed_days WHERE day >= %(first)s AND day < %(end)s
"""

_SAMPLE_SEALED = """
    SELECT count(DISTINCT day), coalesce(sum(readings), 0)::bigint, count(*)
    FROM {device}_sealed_days TABLESAMPLE SYSTEM (%(percent)s::real) WHERE day >= %(first)s AND day < %(end)s
"""

_HAS_ARCHIVE = "SELECT to_regclass('archived_days') IS NOT NULL"

# An empty version: the file is no longer what the day is.
_ARCHIVED = """
    SELECT kind, date_trunc('month', day)::date, count(DISTINCT day)
    FROM archived_days WHERE version <> '' GROUP BY 1, 2
"""

_ROLLUPS = """
    SELECT pg_total_relation_size(oid), reltuples,
        (SELECT count(*) FROM {device}_closed_hours WHERE hour_start >= %(first)s AND hour_start < %(end)s)
    FROM pg_class WHERE oid = '{device}_closed_hours'::regclass
"""


@dataclass(slots=True)
class Held:
    """What is held of readings in one way, open or sealed."""

    days: int = 0
    """UTC days that have such readings, of any device."""
    readings: int = 0
    bytes: int = 0
    estimated: bool = False
    """Whether days and readings are near the truth; bytes are always true."""

    def add(self, other: "Held") -> None:
        """Adds other days."""
        self.days += other.days
        self.readings += other.readings
        self.bytes += other.bytes
        self.estimated |= other.estimated


@dataclass(slots=True)
class Month:
    """The readings of one kind of device in a month."""

    kind: str
    first: date
    open: Held = field(default_factory=Held)
    sealed: Held = field(default_factory=Held)
    archived_days: int | None = None
    """None where there is no archive."""


@dataclass(slots=True)
class Storage:
    months: list[Month] = field(default_factory=list)
    """By kind and month, those that have readings, in the order of time."""
    open_days: dict[str, dict[date, Held]] = field(default_factory=dict)
    """By kind, the open days that have readings."""

    def open(self, kind: str) -> Held:
        """All that is open."""
        return _sum(month.open for month in self.months if month.kind == kind)

    def sealed(self, kind: str) -> Held:
        """All that is sealed."""
        return _sum(month.sealed for month in self.months if month.kind == kind)

    def unsealed_days(self, kind: str, now_us: int, seal_after_days: int) -> int:
        """How many open days are so old that they should be sealed; 0 days: none ever is."""
        before = datetime_from_us(now_us).date() - timedelta(days=max(seal_after_days, 2))
        return sum(day < before for day in self.open_days[kind]) if seal_after_days else 0


@dataclass(frozen=True, slots=True)
class Rollups:
    """The hourly rollups of closed hours, of one kind of device."""

    bytes: int
    bytes_a_day: int
    """What the hours of the last whole day take."""


@dataclass(frozen=True, slots=True)
class _Partition:
    kind: DeviceKind
    first: date
    """Its day, or the first one of its month."""
    bytes: int
    table_bytes: int
    """Without indexes and TOAST."""
    rows: float
    """When PostgreSQL last looked; -1 where it never did."""
    pages: int

    def estimated_rows(self) -> int | None:
        """As PostgreSQL's planner has it; None where it has no statistics."""
        if self.rows < 0 or not self.pages:
            return None
        return round(self.rows / self.pages * self.table_bytes / PAGE_BYTES)


async def measure(connection: AsyncConnection[Any], exact_bytes: int = EXACT_BYTES) -> Storage:
    """What readings take. Needs no more than to read the tables; raises the driver's errors.

    Statements are not of one snapshot: what is sealed meanwhile may be counted twice, or not at all.
    """
    tables = {kind.history: kind for kind in KINDS}, {kind.sealed: kind for kind in KINDS}
    found = await _rows(connection, _PARTITIONS, parents=[*tables[0], *tables[1]])
    days, months = (
        [
            _Partition(kinds[parent], _date_of(name, digits), *sizes)
            for parent, name, *sizes in found
            if parent in kinds and sizes[1]
        ]
        for kinds, digits in zip(tables, (8, 6), strict=True)
    )
    storage = Storage(open_days={kind.name: {} for kind in KINDS})
    by_month = dict[tuple[str, date], Month]()

    def month_of(kind: str, day: date) -> Month:
        return by_month.setdefault((kind, day.replace(day=1)), Month(kind, day.replace(day=1)))

    left = exact_bytes
    for each in sorted([*days, *months], key=lambda partition: partition.table_bytes):
        exact = each.table_bytes <= left
        left -= each.table_bytes if exact else 0
        if each in days:
            held = await _open(connection, each, exact)
            month_of(each.kind.name, each.first).open.add(held)
            if held.readings:
                storage.open_days[each.kind.name][each.first] = held
        else:
            month_of(each.kind.name, each.first).sealed.add(await _sealed(connection, each, exact))
    [(has_archive,)] = await _rows(connection, _HAS_ARCHIVE)
    archived = await _rows(connection, _ARCHIVED) if has_archive else []
    for kind, first, count in archived:
        month_of(kind, first).archived_days = count
    for month in by_month.values():
        if has_archive and month.archived_days is None:
            month.archived_days = 0
    storage.months = sorted(by_month.values(), key=lambda month: (month.first, month.kind))
    return storage


async def measure_rollups(connection: AsyncConnection[Any], now_us: int) -> dict[str, Rollups]:
    """By kind of device; raises the driver's errors."""
    today = datetime_from_us(now_us).date()
    measured = {}
    for kind in KINDS:
        [(size, rows, of_a_day)] = await _rows(
            connection, kind.render(_ROLLUPS), first=_midnight(today - timedelta(days=1)), end=_midnight(today)
        )
        each = size / rows if rows > 0 else ROLLUP_BYTES
        measured[kind.name] = Rollups(size, round(of_a_day * each))
    return measured


async def _open(connection: AsyncConnection[Any], partition: _Partition, exact: bool) -> Held:
    if not exact:
        rows = partition.estimated_rows()
        readings = partition.table_bytes // PAGE_BYTES * ROWS_A_PAGE if rows is None else rows
    else:
        span = {"first": _midnight(partition.first), "end": _midnight(partition.first + timedelta(days=1))}
        [(readings,)] = await _rows(connection, partition.kind.render(_COUNT_OPEN), **span)
    return Held(1 if readings else 0, readings, partition.bytes, not exact)


async def _sealed(connection: AsyncConnection[Any], partition: _Partition, exact: bool) -> Held:
    span = {"first": partition.first, "end": (partition.first + timedelta(days=31)).replace(day=1)}
    if exact:
        [(days, readings, _)] = await _rows(connection, partition.kind.render(_COUNT_SEALED), **span)
        return Held(days, readings, partition.bytes)
    percent = min(100.0, 100 * SAMPLE_PAGES * PAGE_BYTES / partition.table_bytes)
    sampled = await _rows(connection, partition.kind.render(_SAMPLE_SEALED), percent=percent, **span)
    [(days, readings, rows)] = sampled
    all_rows = partition.estimated_rows()
    factor = 100 / percent if all_rows is None or not rows else all_rows / rows
    return Held(days, round(readings * factor), partition.bytes, estimated=True)


def _sum(parts: Iterable[Held]) -> Held:
    total = Held()
    for part in parts:
        total.add(part)
    return total


def _date_of(name: str, digits: int) -> date:
    text = name[-digits:]
    return date(int(text[:4]), int(text[4:6]), int(text[6:] or 1))


def _midnight(day: date) -> datetime:
    return datetime(day.year, day.month, day.day, tzinfo=UTC)


async def _rows(connection: AsyncConnection[Any], query: str, **parameters: Any) -> Sequence[Any]:
    # Never prepared: a plan for any day would lock every partition.
    return await (await connection.execute(query, parameters, prepare=False)).fetchall()
