"""Holds hourly rollups and current status against the history that they follow from, and repairs what differs.

Each hour of each table is one statement, hence one snapshot: ingestion commits a reading, its rollup and its status
together, so that whatever is being written, all of it or nothing of it is seen. Where days may be sealed it is a day of
some devices, so that each is unpacked once; the sealed days themselves are looked at as well. Repairing keeps writers
of that one table waiting while it recomputes the rows that differ, and opens the days that it needs. History is the
truth; what was sent is never touched.
"""

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any

from psycopg import AsyncConnection, Error, errors

from shared.db.device_kind import KINDS
from shared.db.partitions import create_partitions
from shared.db.retention import retention_floor_us, us_from_day
from shared.db.sealing import SEALED_BEFORE, missing_days
from shared.db.session_registers_sql import REACH_DAYS
from shared.db.verification_sql import DAYS, SIDES, Derived, Side
from shared.power_limits import PowerLimits
from shared.timestamps import (
    TIMESTAMP_MAX_US,
    TIMESTAMP_MIN_US,
    US_PER_DAY,
    US_PER_HOUR,
    datetime_from_us,
    us_from_datetime,
)

EVER_US = (TIMESTAMP_MIN_US, TIMESTAMP_MAX_US // US_PER_HOUR * US_PER_HOUR)
"""The start and the end of a span that leaves nothing out, in whole hours."""

_HOUR = timedelta(hours=1)

_DEFAULT_LIMITS = PowerLimits()

_LIMIT_LOCK_WAIT = "SET LOCAL lock_timeout = '2s'"
"""While we wait for a long transaction, those that come later wait behind us; a writer's takes well under a second."""

DEVICES_A_DAY = 500
"""Devices whose readings of a day are looked at in one statement: 720,000 of them where one comes each minute."""

_REPAIR_TRIES = 5
_REPAIR_PAUSE_S = 1.0


@dataclass(frozen=True, slots=True)
class Check:
    """One table and some hours of it, or all of a table that has no hours."""

    derived: Derived
    keys: list[int]
    hour_us: int | None
    """The start of the first hour."""
    max_kw: Mapping[int, float]
    """By key, the most kW of a reading that counts."""
    min_interval_s: float
    """The least time that a reading's energy stands for."""
    unseal: str
    """Opens the days that it needs."""
    hours: int = 1

    @property
    def hours_us(self) -> Sequence[int]:
        """The starts of its hours."""
        if self.hour_us is None:
            return ()
        return range(self.hour_us, self.hour_us + self.hours * US_PER_HOUR, US_PER_HOUR)


@dataclass(frozen=True, slots=True)
class Difference:
    """A row that is not what history says, or is there for nothing, or is missing."""

    table: str
    device_id: str | None
    """None where no device is registered under the key."""
    device_key: int
    hour_us: int | None
    """The start of the hour `(h, h + 1 h]`; None in a table without hours."""
    stored: dict[str, Any] | None
    """Values by column; None where there is no row."""
    history: dict[str, Any] | None
    """The same as history has it; None where it has nothing."""


async def checks(
    connection: AsyncConnection[Any], start_us: int, end_us: int, limits: PowerLimits = _DEFAULT_LIMITS
) -> list[Check]:
    """What there is to look at: first sealed days, which are opened where they are wrong; then current status, and of
    the hours that begin within `[start_us, end_us)` the rollups and what counts of their readings, which depends on
    `limits`.

    Hours in which nothing is stored are left out, and those before the retention floor. A device or an hour that
    appears later is not among them. Raises the driver's errors.
    """
    found, sealed = [], []
    start_us = max(start_us, await retention_floor_us(connection))
    open_us = await _open_from_us(connection)
    for side in SIDES:
        devices = await _rows(connection, side.devices, {})
        keys = [key for key, _ in devices]
        max_kw = {key: limits.max_kw_of(side.device, device_id or "") for key, device_id in devices}
        hours = sorted(await _hours(connection, side, start_us, end_us))
        days = sorted(await _sealable_days(connection, side, hours, start_us, min(end_us, open_us)))
        hours = [hour for hour in hours if hour >= open_us]
        for derived, when in ((side.counting, hours), (side.status, [None]), (side.hours, hours)):
            found += [Check(derived, keys, hour, max_kw, limits.min_interval_s, side.unseal) for hour in when]
        for day_us in days:
            first_us, last_us = max(day_us, start_us), min(day_us + US_PER_DAY, end_us)
            of_day = Check(side.sealed, [], day_us, max_kw, limits.min_interval_s, side.unseal, 24)
            of_hours = replace(of_day, hour_us=first_us, hours=(last_us - first_us) // US_PER_HOUR)
            for some in (keys[at : at + DEVICES_A_DAY] for at in range(0, len(keys), DEVICES_A_DAY)):
                sealed.append(replace(of_day, keys=some))
                found += [replace(of_hours, keys=some, derived=each) for each in (side.counting, side.hours)]
    return sealed + found


async def find(connection: AsyncConnection[Any], check: Check) -> list[Difference]:
    """The differences, in the order of the devices' keys. Raises the driver's errors."""
    while True:
        open_us = await _open_from_us(connection)
        sealed = check.hour_us is not None and check.hour_us < open_us
        found = await _find(connection, check, sealed=sealed)
        if not found or sealed or open_us == await _open_from_us(connection):
            return found  # otherwise days were sealed meanwhile


async def _find(connection: AsyncConnection[Any], check: Check, *, sealed: bool) -> list[Difference]:
    statement = (sealed and check.derived.find_sealed) or check.derived.find
    return [_difference(check, row) for row in await _rows(connection, statement, _parameters(check))]


async def repair_rows(
    connection: AsyncConnection[Any], differences: list[Difference], check: Check
) -> list[Difference]:
    """Makes rows what history says, in one transaction; returns what differed when nobody else could write any more.

    Looks only at devices that differed before. The connection commits by itself (autocommit). Raises the driver's
    errors, LockNotAvailable among them when others kept the table for themselves for a long time.
    """
    assert connection.autocommit
    suspects = replace(check, keys=sorted({each.device_key for each in differences}))
    for _ in range(_REPAIR_TRIES - 1):
        try:
            return await _repair_rows(connection, suspects)
        except (errors.LockNotAvailable, errors.DeadlockDetected):
            await asyncio.sleep(_REPAIR_PAUSE_S)
        except Error as error:
            missing = missing_days(error)
            if not missing:
                raise
            for kind in KINDS:
                await create_partitions(connection, kind.history, missing)
    return await _repair_rows(connection, suspects)


async def _repair_rows(connection: AsyncConnection[Any], suspects: Check) -> list[Difference]:
    async with connection.transaction():
        await connection.execute(_LIMIT_LOCK_WAIT)
        await connection.execute(suspects.derived.lock)
        sealed = await _find(connection, suspects, sealed=True) if suspects.derived.opens_days else []
        if suspects.hour_us is not None:
            await connection.execute(suspects.unseal, _parameters(suspects), prepare=False)
        # From here on each statement sees all that was committed, and nothing is added to what it sees of this table.
        if suspects.derived.opens_days:
            return sealed
        found = await _find(connection, suspects, sealed=False)
        by_hour = suspects.derived.add and suspects.hour_us is not None
        pairs = {(each.device_key, each.hour_us if by_hour else suspects.hour_us) for each in found}
        wrong = _parameters(suspects, sorted(pairs))
        await connection.execute(suspects.derived.remove, wrong, prepare=False)
        if suspects.derived.add:
            await connection.execute(suspects.derived.add, wrong, prepare=False)
        if suspects.derived.mark_hours is not None:
            marked = _hours_of_status(found) if suspects.hour_us is None else sorted(set(wrong["hours"]))
            await connection.execute(suspects.derived.mark_hours, {"hours": marked}, prepare=False)
    return found


def _hours_of_status(found: list[Difference]) -> list[str]:
    """The hours that were open, and those that are: of each the status tells when the last reading came."""
    return sorted({row["hour_start"] for each in found for row in (each.stored, each.history) if row is not None})


async def _hours(connection: AsyncConnection[Any], side: Side, start_us: int, end_us: int) -> set[int]:
    """The hours within `[start_us, end_us)` that have rollups, or lie in a day of which history has readings."""
    span = {"start": datetime_from_us(start_us), "end": datetime_from_us(end_us)}
    stored = await _rows(connection, side.stored_hours, span)
    hours = {
        us_from_datetime(hour) // US_PER_HOUR * US_PER_HOUR for (hour,) in stored
    }  # of a wrong one the hour it is in
    for (day,) in await _rows(connection, DAYS, {"history_table": side.history_table}):
        # The reading stamped midnight lies in the day that begins, and belongs to the hour that ends.
        within = range(us_from_day(day) - US_PER_HOUR, us_from_day(day) + US_PER_DAY - US_PER_HOUR + 1, US_PER_HOUR)
        asked = [hour for hour in within if start_us <= hour < end_us]
        bounds = {"day": datetime_from_us(within[1]), "next_day": datetime_from_us(within[1] + US_PER_DAY)}
        if asked and await _rows(connection, side.some_reading, bounds):
            hours.update(asked)
    return hours


async def _sealable_days(
    connection: AsyncConnection[Any], side: Side, hours: Iterable[int], start_us: int, end_us: int
) -> set[int]:
    """The starts of the days that may be sealed, with some of the hours that are looked at, or sealed readings."""
    if start_us >= end_us:
        return set()
    days = {hour // US_PER_DAY * US_PER_DAY for hour in hours if hour < end_us}
    span = {"start": datetime_from_us(start_us), "end": datetime_from_us(end_us - 1)}
    return days | {us_from_day(day) for (day,) in await _rows(connection, side.sealed_days, span)}


async def _open_from_us(connection: AsyncConnection[Any]) -> int:
    """From when on the readings of hours, and those that lie near them, are in history alone."""
    [(day,)] = await _rows(connection, SEALED_BEFORE, {})
    return us_from_day(day) + (REACH_DAYS + 1) * US_PER_DAY


async def _rows(connection: AsyncConnection[Any], query: str, parameters: dict[str, Any]) -> list[tuple[Any, ...]]:
    return await (await connection.execute(query, parameters, prepare=False)).fetchall()


def _parameters(check: Check, wrong: Sequence[tuple[int, int | None]] | None = None) -> dict[str, Any]:
    """Of a check; of rows that are wrong, each the key of a device and its hour, to change them alone."""
    hour = None if check.hour_us is None else datetime_from_us(check.hour_us)
    pairs = [(key, check.hour_us) for key in check.keys] if wrong is None else wrong
    keys = [key for key, _ in pairs]
    return {
        "keys": keys,
        "hours": [None if hour_us is None else datetime_from_us(hour_us) for _, hour_us in pairs],
        "hour": hour,
        "next_hour": hour and hour + check.hours * _HOUR,
        "limits_kw": [check.max_kw[key] for key in keys],
        "min_interval_s": check.min_interval_s,
    }


def _difference(check: Check, row: tuple[Any, ...]) -> Difference:
    key, device_id, hour, *values = row
    columns = check.derived.columns
    stored, history = values[: len(columns)], values[len(columns) :]
    hour_us = None if hour is None else us_from_datetime(hour)
    return Difference(
        check.derived.table, device_id, key, hour_us, _by_column(columns, stored), _by_column(columns, history)
    )


def _by_column(columns: Sequence[str], values: list[Any]) -> dict[str, Any] | None:
    return None if values[0] is None else dict(zip(columns, values, strict=True))
