"""`energyfleet archive`: closed days as Parquet, in a directory or an object store."""

import asyncio
import os
import sys
from typing import Annotated, NoReturn

import typer
from rich.table import Table

from fleetcli.commands.command_errors import BadInput, CommandError
from fleetcli.commands.console import complain, out, say
from fleetcli.commands.stack import Database, connected, database
from shared.archive.archive_errors import ArchiveError, BadArchiveUrl, StoreTooSlow
from shared.archive.archive_extra import require_extra
from shared.archive.archive_url import ArchiveUrl, archive_url
from shared.config import IngestionSettings, read_settings
from shared.db.archive_days import ArchivedDay
from shared.timestamps import system_clock

APPLICATION_NAME = "energyfleet archive"

STATEMENT_TIMEOUT = "10min"
"""A statement reads the readings of a day's devices at most once."""


def archive(
    to: Annotated[
        str | None,
        typer.Option(
            metavar="URL",
            help="A directory, s3://BUCKET/PATH or gs://BUCKET/PATH. Default: ENERGYFLEET_ARCHIVE_URL.",
            show_default=False,
        ),
    ] = None,
    check: Annotated[
        bool, typer.Option("--check", help="Archive nothing; hold the archive against the database and the records.")
    ] = False,
    repair: Annotated[
        bool, typer.Option("--repair", help="With --check: write files that are wrong anew, where the days are kept.")
    ] = False,
) -> None:
    """Write closed UTC days of readings as Parquet, those that are not archived there as they are now.

    A day is closed when it is ENERGYFLEET_SEAL_AFTER_DAYS whole days old, at least 2. Each file is read back and
    compared with the database, to the last bit, before it counts. Credentials for object stores come from the usual
    environment, files or instance. Safe to repeat, to break off, and beside services that run.

    Exit code 1 where something could not be archived, or with --check where something is wrong.
    """
    settings = read_settings(IngestionSettings)
    if repair and not check:
        raise BadInput("--repair goes with --check, which finds what to repair")
    try:
        url = archive_url(to) if to else settings.archive
        require_extra()
    except BadArchiveUrl as error:
        raise BadInput(f"--to: {error}") from None
    except ArchiveError as error:
        raise CommandError(str(error)) from None
    if url is None:
        raise BadInput("say where: --to URL, or ENERGYFLEET_ARCHIVE_URL")
    try:
        with database(settings) as used:
            asyncio.run(_check(used, settings, url, repair) if check else _archive(used, settings, url))
    except ArchiveError as error:
        fail(error)


def fail(error: ArchiveError) -> NoReturn:
    """Ends the command: at once where a call of the store does not come back, for which an orderly end would wait."""
    if isinstance(error, StoreTooSlow):
        complain(str(error))
        sys.stdout.flush()
        os._exit(1)
    raise CommandError(str(error)) from None


async def _archive(used: Database, settings: IngestionSettings, url: ArchiveUrl) -> None:
    archived = ArchivedTable()
    try:
        await archive_to(used, settings, url, archived)
    finally:
        archived.show()


class ArchivedTable:
    """What was archived, for people; told also where something fails after it."""

    def __init__(self) -> None:
        self._days: list[tuple[ArchivedDay, bool]] = []

    def add(self, day: ArchivedDay, changed: bool) -> None:
        self._days.append((day, changed))

    def show(self) -> None:
        if not self._days:
            return
        say(f"Archived to {self._days[0][0].url}:")
        table = Table()
        for name in ("day", "kind", "readings", "bytes", "bytes per reading", ""):
            table.add_column(name, justify="left" if name in ("day", "kind", "") else "right", no_wrap=True)
        for day, changed in self._days:
            table.add_row(*_row(day.day.isoformat(), day.kind, day.readings, day.bytes), "again" if changed else "")
        if len(self._days) > 1:
            readings, size = (sum(getattr(day, name) for day, _ in self._days) for name in ("readings", "bytes"))
            table.add_section()
            table.add_row(*_row("in all", "", readings, size), "")
        out.print(table)


def _row(day: str, kind: str, readings: int, size: int) -> tuple[str, ...]:
    return day, kind, f"{readings:,}", f"{size:,}", f"{size / readings:.2f}"


async def archive_to(used: Database, settings: IngestionSettings, url: ArchiveUrl, archived: ArchivedTable) -> None:
    """Archives what waits, and tells the table. Raises ArchiveError."""
    require_extra()
    from shared.archive import archiving  # where it is needed: other commands start without pyarrow
    from shared.archive.day_store import DayStore

    async with connected(used, APPLICATION_NAME, statement_timeout=STATEMENT_TIMEOUT) as connection:
        store = DayStore(url, settings.archive_timeout_s)
        done = await archiving.archive(connection, store, system_clock(), settings.seal_after_days, archived.add)
    if not done.days:
        say("Nothing to archive: no closed day has readings that are not archived there.")


async def _check(used: Database, settings: IngestionSettings, url: ArchiveUrl, repair: bool) -> None:
    from shared.archive import archive_check
    from shared.archive.day_store import DayStore

    async with connected(used, APPLICATION_NAME, statement_timeout=STATEMENT_TIMEOUT) as connection:
        store = DayStore(url, settings.archive_timeout_s)
        checked = await archive_check.check(connection, store, system_clock(), settings.seal_after_days)
        if repair:
            await archive_check.repair(connection, checked)
    for problem in checked.problems:
        complain(problem)
    say(f"{url}: {checked.files:,} files of {checked.readings:,} readings and {checked.bytes:,} bytes were read.")
    if repair and checked.damaged:
        await _archive(used, settings, url)
    left = len(checked.problems) - (len(checked.damaged) if repair else 0)
    if left:
        raise CommandError(f"{left} of these are wrong" if left > 1 else "1 of these is wrong")
    say("Every closed day is archived as it is, and every file is what was written.")
