"""Archives closed days: one file for each kind of device and UTC day, compared before it counts.

What is recorded holds at any time, so that archiving may be ended between any two steps, and goes on later:

1. A day is read in one snapshot, with its version, into a local file.
2. The file is put aside in the archive, read back and compared with what was read, to the last bit.
3. It is renamed, in the place of an older version.
4. It is recorded. A day that has changed since the snapshot has another version by then, and is archived again.
"""

import asyncio
import hashlib
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
from psycopg import AsyncConnection

from shared.archive.archive_errors import ArchiverBusy, NotWhatWasWritten, PackingFailed
from shared.archive.day_arrays import day_table
from shared.archive.day_file import ROW_GROUP_READINGS, DayTotals, DayWriter, totals_of
from shared.archive.day_store import DayStore, file_of
from shared.db.archive_days import (
    ArchivedDay,
    DaySnapshot,
    Device,
    WaitingDay,
    chunks,
    day_snapshot,
    floor_has_passed,
    may_maintain,
    record,
    recorded_readings,
    waiting_days,
)
from shared.db.retention import us_from_day
from shared.errors import reason_of
from shared.timestamps import datetime_from_us, us_from_datetime

BUSY_TIMEOUT_S = 30.0
"""Sealing a day of a large fleet takes longer: then the next round archives."""

_POLL_S = 0.2

PassFailPoint = Callable[[str], None]
OnArchived = Callable[[ArchivedDay, bool], None]
"""Is told of each day that is archived, and whether it had been before, in another version."""


@dataclass(slots=True)
class Archived:
    """What one round did."""

    days: list[ArchivedDay] = field(default_factory=list)
    left: list[WaitingDay] = field(default_factory=list)
    """The days that were found to be dropped, or without readings, when their turn came."""


async def archive(
    connection: AsyncConnection[Any],
    store: DayStore,
    now_us: int,
    seal_after_days: int,
    on_archived: OnArchived = lambda day, changed: None,
    pass_fail_point: PassFailPoint = lambda place: None,
    row_group_readings: int = ROW_GROUP_READINGS,
) -> Archived:
    """Archives the closed days that are not archived there in their present version, the oldest first.

    The connection commits by itself (autocommit) and is from then on that of the session that seals and archives.
    Raises ArchiverBusy where another one is and goes on for long; ArchiveError where the store fails, with what was
    archived before it recorded; the driver's errors.
    """
    assert connection.autocommit
    await _become_archiver(connection)
    done = Archived()
    waiting = await waiting_days(connection, str(store.url), now_us, seal_after_days)
    if not waiting:
        return done
    await store.remove_asides()
    failed: NotWhatWasWritten | None = None
    for each in waiting:
        try:
            archived = await _archive_day(connection, store, each, pass_fail_point, row_group_readings)
        except NotWhatWasWritten as error:
            failed = failed or error
            continue
        if archived is None:
            done.left.append(each)
            continue
        done.days.append(archived)
        on_archived(archived, each.changed)
    if failed is not None:
        raise failed
    return done


async def _become_archiver(connection: AsyncConnection[Any]) -> None:
    try:
        async with asyncio.timeout(BUSY_TIMEOUT_S):
            while not await may_maintain(connection):  # noqa: ASYNC110 (of another session)
                await asyncio.sleep(_POLL_S)
    except TimeoutError:
        raise ArchiverBusy from None


async def _archive_day(
    connection: AsyncConnection[Any],
    store: DayStore,
    waiting: WaitingDay,
    pass_fail_point: PassFailPoint,
    row_group_readings: int,
) -> ArchivedDay | None:
    kind, day = waiting.kind, waiting.day
    file = file_of(kind.name, day)
    with tempfile.TemporaryDirectory(prefix="energyfleet-archive-") as directory:
        local = Path(directory) / "day.parquet"
        async with day_snapshot(connection, kind, day) as snapshot:
            version = await snapshot.version()
            devices = await snapshot.devices()
            try:
                with DayWriter(local, kind, day) as writer:
                    await _write(snapshot, waiting, devices, writer, row_group_readings)
            except (OSError, pa.ArrowException) as error:
                raise PackingFailed(directory, reason_of(error)) from None
        totals, expected = writer.totals, _expected(devices)
        if not totals.readings and not devices:
            return None
        if difference := expected.differs_from(totals):
            raise NotWhatWasWritten(f"{store.url}/{file}", f"of the day was read {difference}")
        if await floor_has_passed(connection, day) and totals.readings < await recorded_readings(
            connection, kind, day, str(store.url)
        ):
            return None  # what is archived has more of it
        pass_fail_point("day_written")
        size, digest = await asyncio.to_thread(_digest, local)
        aside = await store.put_aside(local, kind.name, day)
        pass_fail_point("put_aside")
        if await store.fetch(aside) != (size, digest):
            raise NotWhatWasWritten(f"{store.url}/{aside}", "what was read back is not what was written")
        if difference := totals.differs_from(await asyncio.to_thread(totals_of, local)):
            raise NotWhatWasWritten(f"{store.url}/{aside}", f"read back were {difference}")
        await store.publish(aside, file)
        pass_fail_point("renamed")
        archived = ArchivedDay(
            kind=kind.name,
            day=day,
            url=str(store.url),
            file=file,
            readings=totals.readings,
            kwh=totals.kwh,
            kwh_returned=totals.kwh_returned,
            first_ts=datetime_from_us(totals.first_us or 0),
            last_ts=datetime_from_us(totals.last_us or 0),
            bytes=size,
            sha256=digest,
            version=version,
        )
        await record(connection, archived)
        pass_fail_point("recorded")
    return archived


async def _write(
    snapshot: DaySnapshot, waiting: WaitingDay, devices: Sequence[Device], writer: DayWriter, row_group_readings: int
) -> None:
    day_us = us_from_day(waiting.day)
    for chunk in chunks(devices, row_group_readings):
        arrays = await snapshot.arrays([device.key for device in chunk])
        table = await asyncio.to_thread(day_table, waiting.kind, chunk, arrays, day_us)
        await asyncio.to_thread(writer.write, table)


def _expected(devices: Sequence[Device]) -> DayTotals:
    """What the database says that there is."""
    return DayTotals(
        readings=sum(device.readings for device in devices),
        kwh=sum(device.kwh for device in devices),
        kwh_returned=sum(device.kwh_returned for device in devices),
        first_us=min((us_from_datetime(device.first_ts) for device in devices), default=None),
        last_us=max((us_from_datetime(device.last_ts) for device in devices), default=None),
    )


def _digest(local: Path) -> tuple[int, str]:
    with local.open("rb") as source:
        digest = hashlib.file_digest(source, "sha256")
    return local.stat().st_size, digest.hexdigest()
