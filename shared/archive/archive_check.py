"""Holds the archive against what is recorded of it, and against the database."""

import asyncio
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from psycopg import AsyncConnection

from shared.archive.archive_errors import BadDayFile
from shared.archive.day_file import DayTotals, totals_of
from shared.archive.day_store import DayStore, day_of
from shared.db.archive_days import ArchivedDay, forget_archived, has_readings, recorded, waiting_days
from shared.timestamps import us_from_datetime

ARCHIVE_IT = "`energyfleet archive` archives it"
REPAIR_IT = "the database has the day: `energyfleet archive --check --repair` writes it anew"
RESTORE_IT = "the database has dropped the day: bring the file back from a copy of the archive"


@dataclass(slots=True)
class Checked:
    """What was looked at, and what is wrong: a sentence each, with what to do."""

    files: int = 0
    readings: int = 0
    bytes: int = 0
    problems: list[str] = field(default_factory=list)
    damaged: list[ArchivedDay] = field(default_factory=list)
    """Those files that are wrong and whose days the database has."""


async def check(connection: AsyncConnection[Any], store: DayStore, now_us: int, seal_after_days: int) -> Checked:
    """Reads every recorded file to its end, and looks for closed days that are not archived, and for files that nothing
    is recorded of. Changes nothing. Raises ArchiveError where the store can't be read, and the driver's errors."""
    checked = Checked()
    waiting = await waiting_days(connection, str(store.url), now_us, seal_after_days)
    for each in waiting:
        why = "has changed since it was archived" if each.changed else "is not archived"
        checked.problems.append(f"{each.kind.name} {each.day} {why}; {ARCHIVE_IT}")
    unsettled = {(each.kind.name, each.day) for each in waiting}
    archived = await recorded(connection, str(store.url))
    for day in archived:
        if (day.kind, day.day) in unsettled:  # its file may be of a version that was not recorded any more
            continue
        checked.files += 1
        checked.readings += day.readings
        checked.bytes += day.bytes
        if problem := await _problem(store, day):
            there = await has_readings(connection, day.kind, day.day)
            checked.problems.append(f"{store.url}/{day.file} {problem}; {REPAIR_IT if there else RESTORE_IT}")
            if there:
                checked.damaged.append(day)
    known = {day.file for day in archived}
    for file in sorted(await store.files()):
        found = day_of(file)
        if found is not None and file not in known and found not in unsettled:
            checked.problems.append(
                f"{store.url}/{file} is not recorded; if no other fleet archives there, remove it: readers count it"
            )
    return checked


async def repair(connection: AsyncConnection[Any], checked: Checked) -> None:
    """Has the days of damaged files count as not archived: the next round writes them anew, and none is dropped."""
    for day in checked.damaged:
        await forget_archived(connection, day)


async def _problem(store: DayStore, day: ArchivedDay) -> str:
    """What is wrong with a file; empty where nothing is."""
    with tempfile.TemporaryDirectory(prefix="energyfleet-archive-") as directory:
        local = Path(directory) / "day.parquet"
        fetched = await store.fetch(day.file, local)
        if fetched is None:
            return "is missing"
        size, digest = fetched
        if size != day.bytes:
            return f"has {size:,} bytes instead of {day.bytes:,}: it was cut short, or changed"
        if digest != day.sha256:
            return "was changed: its SHA-256 is not the recorded one"
        try:
            found = await asyncio.to_thread(totals_of, local)
        except BadDayFile as error:
            return str(error)
    difference = _expected(day).differs_from(found)
    return f"has {difference}" if difference else ""


def _expected(day: ArchivedDay) -> DayTotals:
    return DayTotals(
        day.readings, day.kwh, day.kwh_returned, us_from_datetime(day.first_ts), us_from_datetime(day.last_ts)
    )
