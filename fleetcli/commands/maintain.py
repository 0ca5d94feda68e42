"""`energyfleet maintain`: what the ingestion service does every hour, for cron."""

import asyncio

from fleetcli.commands.console import note, say
from fleetcli.commands.stack import Database, connected, database
from shared.config import IngestionSettings, read_settings
from shared.db.retention import Maintained
from shared.db.retention import maintain as maintain_partitions
from shared.timestamps import system_clock


def maintain() -> None:
    """Create the coming week's partitions and drop those that retention no longer keeps.

    Needs no more than the rights of maintenance. Safe to repeat, and beside services that run. Readings of the
    last 30 days are kept whatever ENERGYFLEET_RETENTION_DAYS says; current status and hourly sums are kept for good.
    """
    settings = read_settings(IngestionSettings)
    with database(settings) as used:
        done = asyncio.run(_maintain(used, settings.retention_days))
    for name in done.created:
        say(f"created {name}")
    for name in done.dropped:
        say(f"dropped {name}")
    for name in done.in_use:
        note(f"{name} is in use; what is left of it to drop is dropped the next time")
    floor = "no day was dropped yet" if done.floor_day.year == 1 else f"readings are kept from {done.floor_day} on"
    say(f"{len(done.created)} partitions created, {len(done.dropped)} dropped; {floor}.")


async def _maintain(used: Database, retention_days: int) -> Maintained:
    async with connected(used, "energyfleet maintain", statement_timeout="60s") as connection:
        return await maintain_partitions(connection, system_clock(), retention_days)
