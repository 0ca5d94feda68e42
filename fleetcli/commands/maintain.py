"""`energyfleet maintain`: what the ingestion service does every hour, for cron."""

import asyncio

from fleetcli.commands.archive import ArchivedTable, archive_to, fail
from fleetcli.commands.command_errors import CommandError
from fleetcli.commands.console import complain, note, say
from fleetcli.commands.stack import Database, connected, database
from shared.archive.archive_errors import ArchiveError
from shared.config import IngestionSettings, read_settings
from shared.db.retention import Maintained
from shared.db.retention import maintain as maintain_partitions
from shared.db.sealing import WHEN_FULL, Sealed, seal
from shared.timestamps import system_clock


def maintain() -> None:
    """Create the coming week's partitions, drop what retention no longer keeps, and seal closed days.

    With ENERGYFLEET_ARCHIVE_URL closed days are archived first, and none is dropped that is not. Needs no more than the
    rights of maintenance. Safe to repeat, and beside services that run. Readings of the last 30 days are kept whatever
    ENERGYFLEET_RETENTION_DAYS says, hourly sums for ENERGYFLEET_ROLLUP_RETENTION_DAYS, and current status for good.
    Readings of days that are ENERGYFLEET_SEAL_AFTER_DAYS whole days old are sealed: they take 20 to 40 times less room,
    and are answered as before.
    """
    settings = read_settings(IngestionSettings)
    with database(settings) as used:
        failure = _archive(used, settings)
        done, sealed = asyncio.run(_maintain(used, settings))
    for name in done.created:
        say(f"created {name}")
    for name in done.dropped:
        say(f"dropped {name}")
    for name in (*done.in_use, *sealed.in_use):
        note(f"{name} is in use; what is left of it to drop or to seal comes the next time")
    if sealed.days or sealed.dropped:
        freed = f"the room of {len(sealed.dropped)} partitions is free again"
        say(f"{sealed.readings:,} readings sealed, of {sealed.days:,} days of devices; {freed}")
    if sealed.elsewhere:
        note("Another process seals or archives at the moment; what is to be sealed is left to it.")
    floor = "no day was dropped yet" if done.floor_day.year == 1 else f"readings are kept from {done.floor_day} on"
    if done.held_day is not None:
        note(
            f"{done.held_day} and later days stay, for that day is not archived to {settings.archive} as it is now;"
            " `energyfleet archive` archives it",
            "yellow",
        )
    if sealed.disk_full:
        if failure is not None:
            complain(str(failure))
        raise CommandError(f"Sealing stopped: {WHEN_FULL}. Then run `energyfleet maintain` again.")
    say(f"{len(done.created)} partitions created, {len(done.dropped)} dropped; {floor}.")
    if failure is not None:
        fail(failure)


def _archive(used: Database, settings: IngestionSettings) -> ArchiveError | None:
    """Archives what waits where the settings say where; what went wrong. The rest of maintenance does not wait."""
    if settings.archive is None:
        return None
    archived = ArchivedTable()
    try:
        asyncio.run(archive_to(used, settings, settings.archive, archived))
    except ArchiveError as error:
        return error
    finally:
        archived.show()
    return None


async def _maintain(used: Database, settings: IngestionSettings) -> tuple[Maintained, Sealed]:
    async with connected(used, "energyfleet maintain", statement_timeout="60s") as connection:
        now_us = system_clock()
        done = await maintain_partitions(
            connection,
            now_us,
            settings.retention_days,
            settings.rollup_retention_days,
            None if settings.archive is None else str(settings.archive),
        )
        return done, await seal(connection, now_us, settings.seal_after_days)
