"""`energyfleet verify`: whether rollups and current status are what history says, and repairing where they are not."""

import asyncio
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import typer
from psycopg import AsyncConnection, errors

from fleetcli.commands.command_errors import CommandError
from fleetcli.commands.console import note, progress_bar, say
from fleetcli.commands.options import hours_option, moment_us
from fleetcli.commands.signals import INTERRUPTED, run_until_asked_to_stop
from fleetcli.commands.stack import Database, connected, database
from shared.config import IngestionSettings, read_settings
from shared.db.verification import EVER_US, Difference, checks, find, repair_rows
from shared.power_limits import PowerLimits
from shared.timestamps import US_PER_HOUR, iso_from_us, system_clock

DIFFERENCES_SHOWN = 20
"""A screenful shows any pattern."""


@dataclass
class _Seen:
    shown_most: int
    devices: int = 0
    hours: int = 0
    """Of either kind of device."""
    checks: int = 0
    checks_done: int = 0
    limits: PowerLimits = field(default_factory=PowerLimits)
    """What counts depends on them."""
    limits_file: Path | None = None
    """Where they are from."""
    lines: list[str] = field(default_factory=list)
    differences: Counter[str] = field(default_factory=Counter)
    """By table."""

    def add(self, found: list[Difference]) -> None:
        self.lines += [_line(each) for each in found[: self.shown_most - len(self.lines)]]
        self.differences.update(each.table for each in found)
        self.checks_done += 1


def verify(
    from_: Annotated[
        str | None, typer.Option("--from", metavar="TIME", help="Only hours that end after it: RFC 3339.")
    ] = None,
    until: Annotated[
        str | None, typer.Option(metavar="now|TIME", help="Only hours that begin before it: RFC 3339.")
    ] = None,
    hours: Annotated[float | None, hours_option("Only so many hours, up to --until or now.")] = None,
    repair: Annotated[bool, typer.Option("--repair", help="Make what differs what history says.")] = False,
    show: Annotated[int, typer.Option(min=0, help="Differences to print; all are counted.")] = DIFFERENCES_SHOWN,
) -> None:
    """Hold hourly rollups and current status against history: exit code 0 where they agree, 1 where they differ.

    Looks at all hours that are stored, or at a span of whole hours; at current status always. What lies before the
    retention floor is not judged. With --repair rows are changed, added and deleted until they are what history says,
    each hour in one transaction, and the exit code is 0 where that was possible. Needs no more than the rights of
    maintenance; is safe beside services that run. Says first which limits of power it judges by: they are those of
    this command's environment, and should be those of ingestion.
    """
    start_us, end_us = _span(from_, until, hours)
    seen = _Seen(show)
    settings = read_settings(IngestionSettings)
    seen.limits, seen.limits_file = settings.power_limits, settings.power_limits_file
    with database(settings) as used:
        try:
            stopped = asyncio.run(run_until_asked_to_stop(_verify(used, start_us, end_us, repair, seen)))
        finally:
            for line in seen.lines:
                say(line)
    differ = _by_table(seen.differences)
    if stopped:
        so_far = f"{'repaired' if repair else 'not what history says'} so far: {differ or 'nothing'}"
        note(f"Stopped after {seen.checks_done:,} of {seen.checks:,} steps; {so_far}.")
        raise SystemExit(INTERRUPTED)
    looked_at = f"{seen.hours:,} hours of rollups and the current status of {seen.devices:,} devices"
    if not differ:
        say(f"{looked_at} are what history says.")
    elif repair:
        say(f"Repaired: {differ}. Now {looked_at} are what history says.")
    else:
        raise CommandError(f"Not what history says: {differ}. `energyfleet verify --repair` repairs them.")


def _span(from_: str | None, until: str | None, hours: float | None) -> tuple[int, int]:
    """The span in whole hours, in microseconds."""
    now_us = system_clock()
    start_us, end_us = EVER_US
    if until is not None or hours is not None:
        end_us = moment_us("--until", until or "now", now_us)
    if from_ is not None and hours is not None:
        raise typer.BadParameter("either --from or --hours, not both", param_hint="--hours")
    if from_ is not None:
        start_us = moment_us("--from", from_, now_us)
    elif hours is not None:
        start_us = end_us - round(hours * US_PER_HOUR)
    if start_us >= end_us:
        raise typer.BadParameter("the span ends before it begins", param_hint="--from")
    start_hour_us, end_hour_us = start_us // US_PER_HOUR * US_PER_HOUR, -(-end_us // US_PER_HOUR) * US_PER_HOUR
    return max(start_hour_us, EVER_US[0]), min(end_hour_us, EVER_US[1])


async def _verify(used: Database, start_us: int, end_us: int, repair: bool, seen: _Seen) -> None:
    async with connected(used, "energyfleet verify") as connection:
        try:
            await _look(connection, start_us, end_us, repair, seen)
        except errors.LockNotAvailable:
            why = "a table is in use by somebody else for too long; what is left was not repaired"
            raise CommandError(why) from None


async def _look(connection: AsyncConnection[Any], start_us: int, end_us: int, repair: bool, seen: _Seen) -> None:
    say(_judged_by(seen.limits, seen.limits_file))
    with progress_bar() as progress:
        task = progress.add_task("looking for hours", total=None)
        todo = await checks(connection, start_us, end_us, seen.limits)
        seen.checks = len(todo)
        seen.devices = sum(len(check.keys) for check in todo if check.hour_us is None)
        seen.hours = len({hour_us for check in todo for hour_us in check.hours_us})
        progress.update(task, description="status and hours", total=len(todo))
        for check in todo:
            found = await find(connection, check)
            if found and repair:
                found = await repair_rows(connection, found, check)
            seen.add(found)
            progress.advance(task)


def _judged_by(limits: PowerLimits, file: Path | None) -> str:
    """Said before anything is repaired: nothing stored tells which limits ingestion has."""
    of_all = f"{limits.max_kw:.15g} kW for all"
    number = len(limits.by_id) + len(limits.by_beginning)
    in_file = f"the {number:,} limit{'' if number == 1 else 's'} in {file} and {of_all} other devices"
    whose = f"{of_all} devices" if file is None else in_file
    return f"Power is judged by {whose}, over at least {limits.min_interval_s:.15g} s."


def _by_table(differences: Counter[str]) -> str:
    """`3 rows of meter_energy_hourly, 1 row of meter_current_status`; empty where there are none."""
    return ", ".join(f"{count:,} row{'s' if count > 1 else ''} of {table}" for table, count in differences.items())


def _line(difference: Difference) -> str:
    device = difference.device_id or f"no device (key {difference.device_key})"
    hour = "" if difference.hour_us is None else f" {iso_from_us(difference.hour_us)}"
    return (
        f"{difference.table} {device}{hour}: stored {_values(difference.stored)};"
        f" history says {_values(difference.history)}"
    )


def _values(values: dict[str, Any] | None) -> str:
    if values is None:
        return "nothing"
    return ", ".join(f"{column} {'null' if value is None else value}" for column, value in values.items())
