"""Writes a batch of rows in one transaction; the statements are in `writer_sql`.

The slow path: the rows go by COPY into a temporary table that lives as long as the session. Then one statement
inserts into history what is new there and, from the rows that it really inserted, brings current status forward and
adds to the hourly rollups. A resend can therefore never be counted twice, whatever happened between COMMIT and the
answer. What counts of a row depends on the reading before it, so a late row changes what counts of the one after it:
that follows in the same transaction.

The fast path, for devices whose rows are all newer than what this writer saw of them, and of which all simply counts:
COPY straight into history, and status and rollups from what is known of the rows here. If a device's newest reading is
another one after all, or history has one of the rows, the transaction fails, nothing of it stays, and all rows go the
slow path. So do rows of days that may be sealed, which are opened first.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import datetime
from functools import partial
from typing import Any, Generic, TypeVar

import numpy as np
import psycopg
import structlog
from psycopg import AsyncConnection

from ingestion_svc.copy_format import Columns, Keys, Positions, appended_readings, staged_hours, staged_readings
from ingestion_svc.failpoints import FailPoints
from ingestion_svc.known_devices import NOT_KNOWN, NOTHING, Appendable, KnownDevices
from ingestion_svc.readings import AnyRow, Values, Written
from ingestion_svc.rises import Merged, Newest, merge
from ingestion_svc.sealed_days import DAY_MAY_BE_SEALED, SealedDays
from ingestion_svc.session_registers import EVER, Suspects, count_sessions
from ingestion_svc.writer_sql import Target
from shared.db.engine import UnsafeServer, require_safe_server
from shared.db.partitions import create_partitions
from shared.db.retention import us_from_day
from shared.db.sealing import SEALED_BEFORE, missing_days
from shared.db.verification_sql import of_hours
from shared.errors import DatabaseUnavailable, reason_of
from shared.logs import quietly
from shared.power_limits import PowerLimits
from shared.timestamps import US_PER_DAY, US_PER_HOUR, datetime_from_us

_log = structlog.get_logger()

Found = TypeVar("Found")

PARTITION_DAYS_MAX = 1_000
"""Days whose partition a writer knows to be there: more than retention keeps."""

NEIGHBOUR_MAX_US = US_PER_DAY
"""How far from a batch's late rows the readings before and after them are looked for, before all days are looked at."""

_ROWS_FAULT = ("22", "23")
"""SQLSTATE classes data exception and integrity violation: the rows' fault. All others are the database's."""


_TRIES = 5
"""Of a transaction that finds days sealed, or partitions dropped: once for each, and while others seal and drop."""

_DEFAULT_LIMITS = PowerLimits()


class _StatusChanged(Exception):
    """Somebody else changed the status of a known device, or took it away."""


class _RowsRefused(Exception):
    """At least one of the rows can never be stored."""


class Writer(Generic[AnyRow]):
    """Owns one connection and writes one kind of reading through it. Not for use by two tasks at once."""

    def __init__(
        self,
        target: Target[AnyRow],
        parameters: Mapping[str, Any],
        timeout_s: float,
        pass_fail_point: FailPoints,
        limits: PowerLimits = _DEFAULT_LIMITS,
    ) -> None:
        self._target = target
        self._parameters = parameters
        self._timeout_s = timeout_s
        self._pass_fail_point = pass_fail_point
        self._connection: AsyncConnection[Any] | None = None
        self._limits = limits
        self._min_interval = {"min_interval_s": limits.min_interval_s}
        # Without parameters PostgreSQL plans it once: to plan it takes longer than to run it for a few rows.
        self._insert = target.insert % self._min_interval
        self._devices = KnownDevices(target.device, limits)
        self._partition_days: set[int] = set()
        self._sealed_before_us = 0

    async def write(self, rows: Sequence[AnyRow]) -> Written:
        """Commits rows, at least one, and tells what became of each.

        A row that only the database refuses is found by halving, and costs its neighbours nothing. Raises
        DatabaseUnavailable when a transaction failed or its outcome is unknown: the same rows may be written again,
        and those that were committed then count as duplicates.
        """
        try:
            return await self._attempt(rows)
        except _RowsRefused as refusal:
            if len(rows) == 1:
                device, ts_us, *_ = rows[0]
                error = str(refusal.__cause__)
                quietly(_log.warning, "reading_refused", key=device, device=device, ts_us=ts_us, error=error)
                return Written(refused=[0])
        middle = len(rows) // 2
        written = await self.write(rows[:middle])
        written.add(await self.write(rows[middle:]), middle)
        return written

    def unremembered(self, rows: Sequence[AnyRow]) -> set[str]:
        """The ids of devices that may be new."""
        unknown = np.flatnonzero(self._slots(rows) == NOT_KNOWN).tolist()
        return {rows[at][0] for at in unknown}

    async def unregistered(self, ids: set[str]) -> set[str]:
        """Those of some devices that are not registered. Raises DatabaseUnavailable."""
        found = await self._asked(lambda cursor: self._find_devices(ids, cursor))
        return ids - found.keys()

    async def registered(self) -> int:
        """How many devices are registered. Raises DatabaseUnavailable."""

        async def count(cursor: psycopg.AsyncCursor[Any]) -> int:
            await cursor.execute(self._target.count_devices)
            [(devices,)] = await cursor.fetchall()
            return int(devices)

        return await self._asked(count)

    async def _asked(self, question: Callable[[psycopg.AsyncCursor[Any]], Awaitable[Found]]) -> Found:
        """What the database answers outside of a transaction that writes. Raises DatabaseUnavailable."""
        async with self._within_time():
            connection = await self._connected()
            async with connection.transaction(), connection.cursor(binary=True) as cursor:
                return await question(cursor)

    async def connect(self) -> None:
        """Sees to it that there is a connection; raises DatabaseUnavailable where none can be had."""
        try:
            await self._connected()
        except (psycopg.Error, OSError, UnsafeServer) as error:
            await self.close()
            raise _unavailable(error) from error

    async def close(self) -> None:
        if self._connection is not None:
            await self._connection.close()
            self._connection = None

    async def _attempt(self, rows: Sequence[AnyRow]) -> Written:
        async with self._within_time():
            try:
                return await self._transact(rows)
            except psycopg.Error as error:
                if self._is_rows_fault(error):
                    raise _RowsRefused from error
                raise

    @asynccontextmanager
    async def _within_time(self) -> AsyncIterator[None]:
        """Bounds what is done over the connection. What fails closes that, unless it is the rows' fault, and leaves as
        DatabaseUnavailable where it is the database's."""
        try:
            async with asyncio.timeout(self._timeout_s):
                yield
        except (psycopg.Error, OSError, UnsafeServer) as error:  # TimeoutError is an OSError
            await self.close()
            raise _unavailable(error) from error
        except _RowsRefused:
            raise
        except BaseException:
            await self.close()
            raise

    def _is_rows_fault(self, error: psycopg.Error) -> bool:
        if error.sqlstate is None or not error.sqlstate.startswith(_ROWS_FAULT):
            return False
        return not _has_no_partition(error)

    async def _transact(self, rows: Sequence[AnyRow]) -> Written:
        connection = await self._connected()
        columns = Columns.of(rows, self._slots(rows))
        tries = _TRIES
        while True:
            tries -= 1
            try:
                return await self._try(connection, rows, columns)
            except psycopg.Error as error:
                if not tries:
                    raise
                if error.sqlstate == DAY_MAY_BE_SEALED:
                    await self._ask_for_sealed_before(connection)
                elif missing := missing_days(error):
                    await create_partitions(connection, self._target.history_table, missing)
                elif _has_no_partition(error):
                    self._partition_days.clear()  # what we know of them is old
                else:
                    raise

    async def _try(self, connection: AsyncConnection[Any], rows: Sequence[AnyRow], columns: Columns) -> Written:
        await self._ensure_partitions(connection, columns)
        appendable = self._devices.appendable(columns, self._sealed_before_us)
        if len(appendable.positions):
            try:
                return await self._store(connection, rows, columns, appendable)
            except (psycopg.errors.UniqueViolation, _StatusChanged) as error:
                reason = type(error).__name__
                quietly(_log.info, "append_rolled_back", key=reason, readings=len(rows), reason=reason)
                self._devices.hold_off()
        return await self._store(connection, rows, columns, NOTHING)

    async def _store(
        self, connection: AsyncConnection[Any], rows: Sequence[AnyRow], columns: Columns, appendable: Appendable
    ) -> Written:
        """One transaction: appends the rows that may be, and takes the others the slow path."""
        others = np.delete(np.arange(len(rows)), appendable.positions)
        written, new_keys, newest = Written(), dict[str, int](), None
        anew = set[tuple[int, datetime]]()
        async with connection.transaction(), connection.cursor(binary=True) as cursor:
            sealed = SealedDays(self._target.device, partial(_executed, cursor))
            suspects = self._suspects(columns, appendable)
            if len(appendable.positions):
                await self._append(columns, appendable, cursor)
            if len(others):
                written, new_keys, merged, newest = await self._merge(rows, columns, others, anew, sealed, cursor)
                suspects = suspects.and_others(merged)
            if len(suspects.keys):
                await self._count_sessions(suspects, written, anew, sealed, cursor)
            if anew:
                await sealed.open_of_hours(anew)
                await cursor.execute(self._target.remove_hours, of_hours(anew), prepare=False)
                await cursor.execute(self._target.add_hours_anew, of_hours(anew), prepare=False)
            hours = sorted({*_hours(columns), *(hour for _, hour in anew)})
            await cursor.execute(self._target.mark_hours, {"hours": hours}, prepare=True)
            self._pass_fail_point("before_commit")
        self._pass_fail_point("after_commit")
        not_inserted = [*written.duplicates, *written.conflicts, *written.refused]
        slots = columns.slots
        if new_keys:
            self._devices.remember(new_keys)
            slots = self._slots(rows)
        self._devices.learn(slots, columns, not_inserted, appendable, newest)
        return written

    def _slots(self, rows: Sequence[AnyRow]) -> Positions:
        return self._devices.slots([row[0] for row in rows])

    async def _append(self, columns: Columns, appendable: Appendable, cursor: psycopg.AsyncCursor[Any]) -> None:
        """Raises UniqueViolation where history has a row already, and _StatusChanged."""
        rows = replace(columns.at(appendable.positions), kwh=appendable.kwh)
        keys = self._devices.keys(rows.slots)
        async with cursor.copy(self._target.copy_to_staged_hours) as copy:
            await copy.write(
                staged_hours(
                    keys,
                    rows,
                    self._target.averaged,
                    appendable.from_kwh,
                    appendable.previous_us,
                    appendable.previous_from_kwh,
                )
            )
        await cursor.execute(self._target.add_hours, prepare=True)
        [(found,)] = await cursor.fetchall()
        if found < 1 + np.count_nonzero(np.diff(keys)):
            raise _StatusChanged
        async with cursor.copy(self._target.copy_to_history) as copy:
            await copy.write(appended_readings(keys, rows))

    async def _merge(
        self,
        rows: Sequence[AnyRow],
        columns: Columns,
        positions: Positions,
        anew: set[tuple[int, datetime]],
        sealed: SealedDays,
        cursor: psycopg.AsyncCursor[Any],
    ) -> tuple[Written, dict[str, int], Suspects, tuple[Positions, Newest]]:
        """What became of the rows at some positions, the keys of devices that were not known here, the suspects among
        them, and their devices' newest readings now, with a row of each.

        Adds the hours to `anew` that have to be added up anew, after the keys of the devices whose they are.
        """
        target = self._target
        if len(positions) < len(rows):
            rows, columns = [rows[position] for position in positions], columns.at(positions)
        keys, new_keys = await self._resolve(rows, columns.slots, cursor)
        devices, of_devices, device_of = np.unique(keys, return_index=True, return_inverse=True)
        merged = merge(await self._lock(devices, cursor), keys, columns.ts_us, columns.kwh)
        max_kw = np.array([self._limits.max_kw_of(target.device, rows[at][0]) for at in of_devices.tolist()])[device_of]
        async with cursor.copy(target.copy_to_staging) as copy:
            await copy.write(staged_readings(keys, columns, max_kw))
        if (old := columns.ts_us < self._sealed_before_us).any():
            await sealed.open_of_rows(keys[old], columns.ts_us[old])
        followed = await self._find_neighbours(columns, merged, sealed, cursor)
        await cursor.execute(self._insert, prepare=True)
        [(inserted, missed, doubted)] = await cursor.fetchall()
        if len(merged.changed):
            changed = merged.newest.at(merged.changed)
            its = {"keys": changed.keys.tolist(), "rising_from_kwh": changed.from_kwh.tolist()}
            await cursor.execute(target.change_rises, its, prepare=False)
        if followed is not None:
            await cursor.execute(target.count_anew, self._min_interval | followed, prepare=False)
            anew.update(await cursor.fetchall())
        written = Written(doubted=sorted(doubted))
        if inserted < len(rows):
            stored = await self._find_stored(columns, missed, cursor) if missed else {}
            _compare(rows, set(missed), stored, written)
        suspected = merged.suspected
        suspected[[*written.duplicates, *written.conflicts, *written.refused]] = False
        suspects = Suspects(positions, keys, columns.ts_us, max_kw).at(np.flatnonzero(suspected))
        return written.of(positions.tolist()), new_keys, suspects, (positions[of_devices], merged.newest)

    def _suspects(self, columns: Columns, appendable: Appendable) -> Suspects:
        """The rows that will be appended and whose devices' energies rise and rise."""
        positions = appendable.positions[appendable.suspected]
        slots = columns.slots[positions]
        return Suspects(positions, self._devices.keys(slots), columns.ts_us[positions], self._devices.limits_kw(slots))

    async def _count_sessions(
        self,
        suspects: Suspects,
        written: Written,
        anew: set[tuple[int, datetime]],
        sealed: SealedDays,
        cursor: psycopg.AsyncCursor[Any],
    ) -> None:
        """Has nothing count of what is a session's register; adds to what was `written` and to `anew`."""
        execute = partial(_executed, cursor)
        sessions = await count_sessions(execute, sealed, self._target.device, suspects, self._limits.min_interval_s)
        anew |= sessions.anew
        if sessions.doubted:
            places = zip(suspects.keys.tolist(), map(datetime_from_us, suspects.ts_us.tolist()), strict=True)
            written.session_registers = sorted(
                position
                for position, place in zip(suspects.positions.tolist(), places, strict=True)
                if place in sessions.doubted
            )
            written.doubted = sorted({*written.doubted, *written.session_registers})

    async def _lock(self, keys: Keys, cursor: psycopg.AsyncCursor[Any]) -> Newest:
        """Locks devices, whose keys ascend, and returns their newest readings."""
        target, its_keys = self._target, {"keys": keys.tolist()}
        await cursor.execute(target.lock_status, its_keys, prepare=True)
        if cursor.rowcount < len(keys):
            await cursor.execute(target.lock_new_devices, prepare=True)
            await cursor.execute(target.lock_status, its_keys, prepare=True)
        await cursor.execute(target.find_newest, its_keys, prepare=True)
        return Newest.of(keys, await cursor.fetchall())

    async def _find_neighbours(
        self, columns: Columns, merged: Merged, sealed: SealedDays, cursor: psycopg.AsyncCursor[Any]
    ) -> dict[str, datetime] | None:
        """Finds between which stored readings late rows belong.

        The first and the last timestamp of stored readings that now come after late rows; None where there are none.
        """
        target = self._target
        if not merged.late.any():
            return None
        near = {
            "first": datetime_from_us(int(columns.ts_us.min()) - NEIGHBOUR_MAX_US),
            "last": datetime_from_us(int(columns.ts_us.max()) + NEIGHBOUR_MAX_US),
        }
        [(beyond, first, last, keys, days)] = await _executed(cursor, target.find_neighbours, near)
        if beyond:
            [(_, first, last, keys, days)] = await _executed(cursor, target.find_neighbours, EVER)
        await sealed.open(keys, days, days)
        return None if first is None else {"first": first, "last": last}

    async def _connected(self) -> AsyncConnection[Any]:
        if self._connection is None or self._connection.closed:
            self._connection = await AsyncConnection.connect(**self._parameters, autocommit=True)
            await require_safe_server(self._connection)
            for statement in self._target.open_session:
                await self._connection.execute(statement)
            await self._ask_for_sealed_before(self._connection)
        return self._connection

    async def _ask_for_sealed_before(self, connection: AsyncConnection[Any]) -> None:
        row = await (await connection.execute(SEALED_BEFORE)).fetchone()
        assert row is not None
        self._sealed_before_us = us_from_day(row[0])

    async def _ensure_partitions(self, connection: AsyncConnection[Any], rows: Columns) -> None:
        missing = set(np.unique(rows.ts_us // US_PER_DAY).tolist()) - self._partition_days
        if missing:
            await create_partitions(connection, self._target.history_table, missing)
            if len(self._partition_days) > PARTITION_DAYS_MAX:
                self._partition_days.clear()
            self._partition_days |= missing

    async def _resolve(
        self, rows: Sequence[AnyRow], slots: Positions, cursor: psycopg.AsyncCursor[Any]
    ) -> tuple[Keys, dict[str, int]]:
        """The devices' keys, and which of them were not known here; unknown devices are registered."""
        keys = self._devices.keys(slots)
        at_unknown = np.flatnonzero(slots == NOT_KNOWN).tolist()
        if not at_unknown:
            return keys, {}
        unknown = {rows[at][0] for at in at_unknown}
        new_keys = await self._find_devices(unknown, cursor)
        if len(new_keys) < len(unknown):
            await cursor.execute(self._target.add_devices, {"ids": list(unknown - new_keys.keys())})
            new_keys = await self._find_devices(unknown, cursor)
        keys[at_unknown] = [new_keys[rows[at][0]] for at in at_unknown]
        return keys, new_keys

    async def _find_devices(self, ids: set[str], cursor: psycopg.AsyncCursor[Any]) -> dict[str, int]:
        await cursor.execute(self._target.find_devices, {"ids": list(ids)})
        return dict(await cursor.fetchall())

    async def _find_stored(
        self, rows: Columns, missed: list[int], cursor: psycopg.AsyncCursor[Any]
    ) -> dict[int, Values]:
        """The values that were sent for the slots of the rows that history did not take."""
        times = rows.ts_us[missed]
        bounds = {"first": datetime_from_us(int(times.min())), "last": datetime_from_us(int(times.max()))}
        await cursor.execute(self._target.find_stored, {**bounds, "ordinals": missed}, prepare=False)
        return {
            ordinal: (None if register is not None else kwh if sent_kwh is None else sent_kwh, *others, register)
            for ordinal, sent_kwh, kwh, *others, register in await cursor.fetchall()
        }


async def _executed(
    cursor: psycopg.AsyncCursor[Any], statement: str, parameters: dict[str, Any]
) -> Sequence[tuple[Any, ...]]:
    await cursor.execute(statement, parameters, prepare=False)
    return await cursor.fetchall()


def _has_no_partition(error: psycopg.Error) -> bool:
    return isinstance(error, psycopg.errors.CheckViolation) and error.diag.constraint_name is None


def _unavailable(error: Exception) -> DatabaseUnavailable:
    return DatabaseUnavailable(getattr(error, "sqlstate", None), reason_of(error))


def _hours(rows: Columns) -> list[datetime]:
    return [datetime_from_us(hour * US_PER_HOUR) for hour in np.unique((rows.ts_us - 1) // US_PER_HOUR).tolist()]


def _compare(rows: Sequence[AnyRow], missed: set[int], stored: dict[int, Values], written: Written) -> None:
    """Tells duplicates from conflicts.

    A row is held against what history has in its slot: what was found there (`missed`, `stored`), or else the first
    row of the batch with its device and timestamp.
    """
    inserted: dict[tuple[str, int], int] = {}
    for position, row in enumerate(rows):
        if position in missed:
            values = stored.get(position)
        else:
            first = inserted.setdefault((row[0], row.ts_us), position)
            if first == position:
                continue
            values = rows[first][2:]
        if values is None:
            written.refused.append(position)  # its partition was dropped between two statements: older than the floor
        elif values == row[2:]:
            written.duplicates.append(position)
        else:
            written.conflicts.append(position)
            written.stored[position] = values
