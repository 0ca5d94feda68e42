"""Writes a batch of rows in one transaction; the statements are in `writer_sql`.

The slow path, `slow_path`: the rows go by COPY into a temporary table that lives as long as the session, and from there
what is new into history.

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

from ingestion_svc.copy_format import Columns, Positions, appended_readings, staged_hours
from ingestion_svc.failpoints import FailPoints
from ingestion_svc.known_devices import NOT_KNOWN, NOTHING, Appendable, KnownDevices
from ingestion_svc.readings import AnyRow, Written
from ingestion_svc.sealed_days import DAY_MAY_BE_SEALED, SealedDays
from ingestion_svc.session_registers import Suspects, count_sessions
from ingestion_svc.slow_path import Merging, SlowPath, executed, find_devices
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
        self._devices = KnownDevices(target.device, limits)
        self._slow_path = SlowPath(target, self._devices, limits)
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
        found = await self._asked(lambda cursor: find_devices(self._target, ids, cursor))
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
        merged = Merging()
        async with connection.transaction(), connection.cursor(binary=True) as cursor:
            sealed = SealedDays(self._target.device, partial(executed, cursor))
            suspects = self._suspects(columns, appendable)
            if len(appendable.positions):
                await self._append(columns, appendable, cursor)
            if len(others):
                merged = await self._merge(rows, columns, others, sealed, cursor)
                suspects = suspects.and_others(merged.suspects)
            written, anew = merged.written, merged.anew
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
        if merged.new_keys:
            self._devices.remember(merged.new_keys)
            slots = self._slots(rows)
        self._devices.learn(slots, columns, not_inserted, appendable, merged.newest)
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
        sealed: SealedDays,
        cursor: psycopg.AsyncCursor[Any],
    ) -> Merging:
        """The slow path of the rows at some positions."""
        if len(positions) < len(rows):
            rows, columns = [rows[position] for position in positions], columns.at(positions)
        old = columns.ts_us < self._sealed_before_us
        return await self._slow_path.merge(rows, columns, positions, old, sealed, cursor)

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
        execute = partial(executed, cursor)
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


def _has_no_partition(error: psycopg.Error) -> bool:
    return isinstance(error, psycopg.errors.CheckViolation) and error.diag.constraint_name is None


def _unavailable(error: Exception) -> DatabaseUnavailable:
    return DatabaseUnavailable(getattr(error, "sqlstate", None), reason_of(error))


def _hours(rows: Columns) -> list[datetime]:
    return [datetime_from_us(hour * US_PER_HOUR) for hour in np.unique((rows.ts_us - 1) // US_PER_HOUR).tolist()]
