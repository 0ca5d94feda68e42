"""Closed days for the archive: which wait for it, what is in them, and what is recorded of their files."""

from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import date, datetime
from typing import Any

from psycopg import AsyncConnection, IsolationLevel
from psycopg.rows import class_row

from shared.db.device_kind import KINDS, DeviceKind
from shared.db.retention import us_from_day
from shared.timestamps import US_PER_DAY, datetime_from_us

MAINTAIN = "SELECT try_to_maintain()"

# Days before it are closed: so many whole days old by the earlier of two clocks.
_CLOSED_BEFORE = """
    SELECT (least(%(now)s::timestamptz, now()) AT TIME ZONE 'UTC')::date - greatest(%(seal_after_days)s::integer, 2)
"""

_WAITING = """
    SELECT day, EXISTS (
        SELECT FROM archived_days AS archived
        WHERE archived.kind = '{device}' AND archived.day = candidate.day AND archived.url = %(url)s
    )
    FROM {device}_days() AS candidate (day)
    WHERE day < %(closed_before)s AND {device}_day_awaits_archive(day, %(url)s)
    ORDER BY day
"""

# The devices that have readings in a day, in the order of their ids, each with what the database says of them.
_DEVICES = """
    SELECT device.{device}_key AS key, device.{device}_id AS device_id,
        coalesce(sealed.readings, 0) + open.readings AS readings,
        coalesce(sealed.kwh, 0) + coalesce(open.kwh, 0) AS kwh,
        coalesce(sealed.kwh_returned, 0) + coalesce(open.kwh_returned, 0) AS kwh_returned,
        least(sealed.first_ts, open.first_ts) AS first_ts, greatest(sealed.last_ts, open.last_ts) AS last_ts
    FROM {device}s AS device
        LEFT JOIN {device}_sealed_days AS sealed
            ON sealed.device_key = device.{device}_key AND sealed.day = %(day)s
        CROSS JOIN LATERAL (
            SELECT count(*) AS readings, sum({energy}) AS kwh, sum(greatest(0, -{energy})) AS kwh_returned,
                min(ts) AS first_ts, max(ts) AS last_ts
            FROM {device}_telemetry_history AS history
            WHERE history.{device}_key = device.{device}_key AND ts >= %(begin)s AND ts < %(end)s
        ) AS open
    WHERE sealed.device_key IS NOT NULL OR open.readings > 0
    ORDER BY device.{device}_id
"""

_SEALED_ARRAYS = """
    SELECT device_key, gaps_us, {measurements}, sent_kwh, counting
    FROM {device}_sealed_days
    WHERE day = %(day)s AND device_key = ANY(%(keys)s)
"""

_OPEN_ARRAYS = """
    SELECT {device}_key, array_agg(ts), {measurements:CASE WHEN count(#) > 0 THEN array_agg(#) END},
        CASE WHEN count(sent_kwh) > 0 THEN array_agg(sent_kwh) END,
        CASE WHEN count(counting) > 0 THEN array_agg(counting) END
    FROM (
        SELECT {device}_key, ts, {measurements}, sent_kwh, counting
        FROM {device}_telemetry_history
        WHERE {device}_key = ANY(%(keys)s) AND ts >= %(begin)s AND ts < %(end)s
        ORDER BY {device}_key, ts
    ) AS reading
    GROUP BY {device}_key
"""

_VERSION = "SELECT {device}_day_version(%(day)s)"

_FLOOR_PASSED = "SELECT floor_day > %(day)s FROM retention"

_RECORD = """
    INSERT INTO archived_days AS archived (
        kind, day, url, file, readings, kwh, kwh_returned, first_ts, last_ts, bytes, sha256, version
    )
    VALUES (
        %(kind)s, %(day)s, %(url)s, %(file)s, %(readings)s, %(kwh)s, %(kwh_returned)s, %(first_ts)s, %(last_ts)s,
        %(bytes)s, %(sha256)s, %(version)s
    )
    ON CONFLICT (kind, day, url) DO UPDATE SET
        file = excluded.file, readings = excluded.readings, kwh = excluded.kwh, kwh_returned = excluded.kwh_returned,
        first_ts = excluded.first_ts, last_ts = excluded.last_ts, bytes = excluded.bytes, sha256 = excluded.sha256,
        version = excluded.version, archived_at = now()
"""

_RECORDED = """
    SELECT kind, day, url, file, readings, kwh, kwh_returned, first_ts, last_ts, bytes, sha256, version
    FROM archived_days
    WHERE url = %(url)s
    ORDER BY day, kind
"""

_RECORDED_READINGS = """
    SELECT readings FROM archived_days WHERE kind = %(kind)s AND day = %(day)s AND url = %(url)s
"""

_HAS_READINGS = "SELECT floor_day <= %(day)s AND {device}_day_awaits_archive(%(day)s, NULL) FROM retention"

_FORGET = "UPDATE archived_days SET version = '' WHERE kind = %(kind)s AND day = %(day)s AND url = %(url)s"


@dataclass(frozen=True, slots=True)
class WaitingDay:
    """A closed day of one kind that has readings and is not archived in its present version."""

    kind: DeviceKind
    day: date
    changed: bool
    """It is archived in another version."""


@dataclass(frozen=True, slots=True)
class Device:
    """A device that has readings in a day: how many, and what the database says of them."""

    key: int
    device_id: str
    readings: int
    kwh: float
    kwh_returned: float
    first_ts: datetime
    last_ts: datetime


@dataclass(frozen=True, slots=True)
class DeviceArrays:
    """A device's readings in their order, as PostgreSQL sends arrays in binary."""

    sealed: bool
    times: bytes
    """`timestamptz[]`; of a sealed day the gaps between them, `bigint[]`."""
    numbers: Sequence[bytes | None]
    """Its measurements, and last what was sent: `float8[]`, or None where no reading has one."""
    counting: bytes | None


@dataclass(frozen=True, slots=True)
class ArchivedDay:
    """A row of `archived_days`."""

    kind: str
    day: date
    url: str
    file: str
    readings: int
    kwh: float
    kwh_returned: float
    first_ts: datetime
    last_ts: datetime
    bytes: int
    sha256: str
    version: str


class DaySnapshot:
    """A day of one kind of device as it is at one instant: its version, its devices and their readings."""

    def __init__(self, connection: AsyncConnection[Any], kind: DeviceKind, day: date) -> None:
        self._connection = connection
        self._kind = kind
        begin_us = us_from_day(day)
        self._parameters = {
            "day": day,
            "begin": datetime_from_us(begin_us),
            "end": datetime_from_us(begin_us + US_PER_DAY),
        }

    async def version(self) -> str:
        return str(await _value(self._connection, self._kind.render(_VERSION), self._parameters))

    async def devices(self) -> list[Device]:
        async with self._connection.cursor(row_factory=class_row(Device)) as cursor:
            await cursor.execute(self._kind.render(_DEVICES), self._parameters)
            return await cursor.fetchall()

    async def arrays(self, keys: Sequence[int]) -> dict[int, DeviceArrays]:
        """The readings of some devices by their keys."""
        found = {}
        for sealed, query in ((True, _SEALED_ARRAYS), (False, _OPEN_ARRAYS)):
            async with self._connection.cursor(binary=True) as cursor:
                await cursor.execute(self._kind.render(query), self._parameters | {"keys": list(keys)})
                result = cursor.pgresult
                assert result is not None
                last = result.nfields - 1
                for row in range(result.ntuples):
                    key, times = result.get_value(row, 0), result.get_value(row, 1)
                    assert key is not None
                    assert times is not None
                    numbers = [result.get_value(row, at) for at in range(2, last)]
                    found[int.from_bytes(key, "big")] = DeviceArrays(
                        sealed, times, numbers, result.get_value(row, last)
                    )
        return found


@asynccontextmanager
async def day_snapshot(connection: AsyncConnection[Any], kind: DeviceKind, day: date) -> AsyncIterator[DaySnapshot]:
    """Reads a day in one transaction, in which all is as it was at its first statement.

    The connection is of a session that may seal (`try_to_maintain`): nobody else then drops a partition that is sealed.
    """
    await connection.set_isolation_level(IsolationLevel.REPEATABLE_READ)
    await connection.set_read_only(True)
    try:
        async with connection.transaction():
            yield DaySnapshot(connection, kind, day)
    finally:
        await connection.set_isolation_level(None)
        await connection.set_read_only(None)


async def may_maintain(connection: AsyncConnection[Any]) -> bool:
    """Makes the session the one that seals and archives, until it ends; False where another one is."""
    return bool(await _value(connection, MAINTAIN, {}))


async def closed_before(connection: AsyncConnection[Any], now_us: int, seal_after_days: int) -> date:
    """The first day that is not closed yet."""
    parameters = {"now": datetime_from_us(now_us), "seal_after_days": seal_after_days}
    found = await _value(connection, _CLOSED_BEFORE, parameters)
    assert isinstance(found, date)
    return found


async def waiting_days(
    connection: AsyncConnection[Any], url: str, now_us: int, seal_after_days: int
) -> list[WaitingDay]:
    """The closed days that are not archived at a URL in their present version, the oldest first."""
    parameters = {"url": url, "closed_before": await closed_before(connection, now_us, seal_after_days)}
    found = []
    for kind in KINDS:
        rows = await (await connection.execute(kind.render(_WAITING), parameters)).fetchall()
        found += [WaitingDay(kind, day, changed) for day, changed in rows]
    return sorted(found, key=lambda waiting: (waiting.day, waiting.kind.name))


async def floor_has_passed(connection: AsyncConnection[Any], day: date) -> bool:
    """Whether a day's readings may have been dropped."""
    return bool(await _value(connection, _FLOOR_PASSED, {"day": day}))


async def recorded_readings(connection: AsyncConnection[Any], kind: DeviceKind, day: date, url: str) -> int:
    """How many readings the day's file has, if it is recorded; else 0."""
    return int(await _value(connection, _RECORDED_READINGS, {"kind": kind.name, "day": day, "url": url}) or 0)


async def record(connection: AsyncConnection[Any], archived: ArchivedDay) -> None:
    """From then on the day counts as archived in this version."""
    values = {name: getattr(archived, name) for name in ArchivedDay.__dataclass_fields__}
    await connection.execute(_RECORD, values)


async def recorded(connection: AsyncConnection[Any], url: str) -> list[ArchivedDay]:
    """What is archived at a URL, the oldest day first."""
    async with connection.cursor(row_factory=class_row(ArchivedDay)) as cursor:
        await cursor.execute(_RECORDED, {"url": url})
        return await cursor.fetchall()


async def has_readings(connection: AsyncConnection[Any], kind: str, day: date) -> bool:
    """Whether the database has a day's readings, all of them."""
    [device_kind] = [each for each in KINDS if each.name == kind]
    return bool(await _value(connection, device_kind.render(_HAS_READINGS), {"day": day}))


async def forget_archived(connection: AsyncConnection[Any], archived: ArchivedDay) -> None:
    """From then on the day does not count as archived."""
    await connection.execute(_FORGET, {"kind": archived.kind, "day": archived.day, "url": archived.url})


def chunks(devices: Sequence[Device], readings: int) -> Iterator[list[Device]]:
    """Devices in their order, as many at a time as have so many readings, and at least one."""
    chunk: list[Device] = []
    left = readings
    for device in devices:
        if chunk and device.readings > left:
            yield chunk
            chunk, left = [], readings
        chunk.append(device)
        left -= device.readings
    if chunk:
        yield chunk


async def _value(connection: AsyncConnection[Any], query: str, parameters: dict[str, Any]) -> Any:
    row = await (await connection.execute(query, parameters)).fetchone()
    return row[0] if row else None
