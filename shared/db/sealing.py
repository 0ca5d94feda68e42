"""Seals closed days: a device's readings of a day become one row of arrays, 20 to 40 times smaller, to the last bit.

A device's day is open (rows of history) or sealed (a row of `meter_sealed_days` or `vehicle_sealed_days`), never both.
What is committed holds at any time, so that sealing may be ended between any two steps, and goes on later:

1. `move_sealed_before`: says of which days readings may be sealed. Two clocks have to agree.
2. `begin_sealing`: from then on the day's partition takes no reading of whoever has not looked for a sealed day.
3. `seal_meter_days`, `seal_vehicle_days`: a chunk of devices at a time moves. Whoever writes to a day that may be
   sealed waits meanwhile, and what is written live never does.
4. `drop_sealed_history_partition`: the partition goes with its room, where it is empty; some seconds later.

A late reading opens its device's day again (`unseal_meter_days`, `unseal_vehicle_days`), in its own transaction.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from datetime import date
from typing import Any

import psycopg
from psycopg import AsyncConnection, errors

from shared.db.device_kind import KINDS, DeviceKind
from shared.timestamps import datetime_from_us

CHUNK_READINGS = 10_000
"""Readings that are sealed in one transaction, and at least one device: some 50 ms for which late readings wait."""

PAUSE_FACTOR = 2.0
"""How many times as long as a chunk took the pause after it is: a core is taken for a third of the time, and a day of
10,000 chargers at a reading a minute for some ten minutes of it."""

_MAINTAIN = "SELECT try_to_maintain()"

_SEALED_BEFORE = "SELECT move_sealed_before(%(now)s, %(seal_after_days)s)"

# Days of history that may be sealed, the oldest first: those that have a partition, and are kept.
_OPEN_DAYS = """
    SELECT day FROM (
        SELECT to_date(right(child.relname, 8), 'YYYYMMDD') AS day
        FROM pg_inherits JOIN pg_class AS child ON child.oid = inhrelid
        WHERE inhparent = %(parent)s::regclass
    ) AS open CROSS JOIN retention
    WHERE day >= floor_day AND day < sealed_before
    ORDER BY day
"""

_BEGIN = "SELECT begin_sealing(%(parent)s, %(day)s)"

_SEAL = "SELECT last_key, devices, readings FROM seal_{device}_days(%(day)s, %(after_key)s, %(readings)s)"

_DROP = "SELECT drop_sealed_history_partition(%(parent)s, %(day)s)"

WHEN_FULL = (
    "the database's disk is full: nothing is lost, and what was sealed stays so; make room, about a tenth of what the"
    " days take that are to be sealed, whose room is free when all of their devices are sealed"
)

PAUSES_S = (0.1, 0.5, 1.0, 1.0)
"""After each time that others used a day for too long; then it is left to the next round."""

# Of some devices of one kind, for each its sealed days from a first to a last one.
_UNSEAL = """
    SELECT device_key, day FROM unseal_{device}_days(
        %(keys)s::integer[], %(first_days)s::date[], %(last_days)s::date[], %(unsealed_until)s::date
    )
"""
UNSEAL = {kind.name: kind.render(_UNSEAL) for kind in KINDS}

SEALED_BEFORE = "SELECT sealed_before FROM retention"

NO_PARTITION = "EF002"
"""SQLSTATE where sealed days cannot be opened before there are partitions; its detail is the days."""

DROP_AFTER_S = 15.0
"""From the last readings that were sealed to the first partition that is dropped: longer than a question to the
database takes. One that began before might find the partition gone, and not see yet what was sealed of it."""

PassFailPoint = Callable[[str], None]


@dataclass(slots=True)
class Sealed:
    """What one round did."""

    days: int = 0
    """Of devices: a device and a day each."""
    readings: int = 0
    dropped: list[str] = field(default_factory=list)
    """The partitions that were empty then."""
    in_use: list[str] = field(default_factory=list)
    """Those that others used for too long; the next round goes on with them."""
    elsewhere: bool = False
    """Another session seals or archives: nothing was done here."""
    disk_full: bool = False
    """It ended because there was no room. All that is stored stays what it is, open or sealed."""
    finished: bool = False
    """Whether it went through all days, and nothing was left."""


async def seal(
    connection: AsyncConnection[Any],
    now_us: int,
    seal_after_days: int,
    pass_fail_point: PassFailPoint = lambda place: None,
    chunk_readings: int = CHUNK_READINGS,
    drop_after_s: float = DROP_AFTER_S,
) -> Sealed:
    """Seals all days that are so many whole days old; 0: none.

    The connection commits by itself (autocommit), each step alone. Pauses after each chunk for longer than it took, so
    that whoever waits has his turn, and before the empty partitions are dropped. One session does so at a time: where
    another one does, it returns at once. Raises the driver's errors.
    """
    assert connection.autocommit
    done = Sealed()
    if not seal_after_days:
        return done
    if not await _value(connection, _MAINTAIN):
        done.elsewhere = True
        return done
    await _value(connection, _SEALED_BEFORE, now=datetime_from_us(now_us), seal_after_days=seal_after_days)
    days = [
        (kind, day)
        for kind in KINDS
        for (day,) in await (await connection.execute(_OPEN_DAYS, {"parent": kind.history})).fetchall()
    ]
    round_ = _Round(connection, done, pass_fail_point, chunk_readings)
    try:
        for kind, day in days:
            await round_.unless_in_use(round_.seal, kind, day)
        if done.days:
            await asyncio.sleep(drop_after_s)
        for kind, day in days:
            await round_.unless_in_use(round_.drop, kind, day)
    except errors.DiskFull:
        done.disk_full = True
    done.finished = not (done.in_use or done.disk_full)
    return done


@dataclass(frozen=True, slots=True)
class _Round:
    connection: AsyncConnection[Any]
    done: Sealed
    pass_fail_point: PassFailPoint
    chunk_readings: int

    async def unless_in_use(
        self, step: Callable[[DeviceKind, date], Awaitable[None]], kind: DeviceKind, day: date
    ) -> None:
        """A step with a day, tried again a few times where others use it."""
        if _partition(kind, day) in self.done.in_use:
            return
        for pause_s in PAUSES_S:
            try:
                await step(kind, day)
            except (errors.LockNotAvailable, errors.DeadlockDetected):
                await asyncio.sleep(pause_s)
            else:
                return
        self.done.in_use.append(_partition(kind, day))

    async def seal(self, kind: DeviceKind, day: date) -> None:
        await _value(self.connection, _BEGIN, parent=kind.history, day=day)
        self.pass_fail_point("sealing_begun")
        after_key: int | None = -1
        while after_key is not None:
            begun_s = time.monotonic()
            asked = {"day": day, "after_key": after_key, "readings": self.chunk_readings}
            found = await self.connection.execute(kind.render(_SEAL), asked)
            [(after_key, devices, readings)] = await found.fetchall()
            self.done.days += devices
            self.done.readings += readings
            self.pass_fail_point("chunk_sealed")
            await asyncio.sleep(PAUSE_FACTOR * (time.monotonic() - begun_s))

    async def drop(self, kind: DeviceKind, day: date) -> None:
        if await _value(self.connection, _DROP, parent=kind.history, day=day):
            self.done.dropped.append(_partition(kind, day))
            self.pass_fail_point("sealed_day_dropped")


def _partition(kind: DeviceKind, day: date) -> str:
    return f"{kind.history}_{day:%Y%m%d}"


async def _value(connection: AsyncConnection[Any], query: str, **parameters: Any) -> Any:
    row = await (await connection.execute(query, parameters)).fetchone()
    assert row is not None
    return row[0]


def missing_days(error: BaseException | None) -> set[int]:
    """The days, numbered from 1970-01-01, for want of whose partitions sealed days could not be opened; none where
    the error is another one."""
    if not isinstance(error, psycopg.Error) or error.sqlstate != NO_PARTITION:
        return set()
    days = (error.diag.message_detail or "").split(",")
    return {(date.fromisoformat(day) - date(1970, 1, 1)).days for day in days}
