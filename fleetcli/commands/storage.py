"""`energyfleet storage`: what readings take of the disk, month by month, and when it is full at this pace."""

import asyncio
import csv
import re
import shutil
import sys
from collections.abc import Sequence
from datetime import date
from typing import Annotated, Any

import typer

from fleetcli.commands.console import fitting_table, note, out, say
from fleetcli.commands.stack import Database, connected, database
from fleetcli.commands.storage_growth import Growth, full_on, growth_of, retention_starts
from shared.config import IngestionSettings, read_settings
from shared.db.storage import EXACT_BYTES, Held, Month, Rollups, Storage, measure, measure_rollups
from shared.timestamps import datetime_from_us, system_clock

_UNITS = "kMGTP"
_SIZE = re.compile(rf"(\d+(?:\.\d+)?) ?(?:([{_UNITS}])(i)?B|B)?", re.IGNORECASE)

_LEFT_OUT = ("archived\ndays", "open\ndays", "sealed\ndays", "open\nB each")
"""Columns that a narrow terminal has to do without, one after the other."""

_CSV_FIELDS = (
    "month",
    "kind",
    "open_days",
    "open_readings",
    "open_bytes",
    "sealed_days",
    "sealed_readings",
    "sealed_bytes",
    "archived_days",
    "estimated",
)


def storage(
    free: Annotated[
        str | None,
        typer.Option(
            metavar="BYTES|GB",
            help="What is free on the database's disk, such as 500GB. Default: what an embedded server's disk has.",
        ),
    ] = None,
    exact: Annotated[
        bool, typer.Option("--exact", help="Count all readings; this reads every table, which may take minutes.")
    ] = False,
    as_csv: Annotated[
        bool, typer.Option("--csv", help="Print the months as CSV, meters and vehicles apart, in bytes.")
    ] = False,
) -> None:
    """What readings take of the disk, month by month, by how much it grows, and when the disk is full at this pace.

    Open days have a row for each reading; sealed days have one for each device, some 20 times smaller. Numbers
    with ~ are estimates: beyond some 60 MB of tables readings are not counted, unless with --exact, but follow
    from PostgreSQL's statistics and samples. Sizes are exact, with indexes. Needs no more than the rights of
    maintenance.
    """
    free_bytes = None if free is None else _bytes_of(free)
    settings = read_settings(IngestionSettings)
    now_us = system_clock()
    with database(settings) as used:
        found, rollups = asyncio.run(_measure(used, now_us, exact))
    if as_csv:
        _print_csv(found)
        return
    _show(found)
    today = datetime_from_us(now_us).date()
    growth = growth_of(found, rollups, today, settings.seal_after_days)
    say(_growth_line(growth, sum(each.bytes for each in rollups.values())))
    if free_bytes is None and not settings.database_url:
        free_bytes = shutil.disk_usage(settings.data_dir).free
    if free_bytes is None:
        note("A database cannot tell how much is free on its disk: say it with --free, as --free 500GB.")
    else:
        say(_full_line(free_bytes, growth, today, retention_starts(found, settings.retention_days)))


async def _measure(used: Database, now_us: int, exact: bool) -> tuple[Storage, dict[str, Rollups]]:
    options = {} if exact else {"statement_timeout": "60s"}
    async with connected(used, "energyfleet storage", **options) as connection:
        found = await measure(connection, sys.maxsize if exact else EXACT_BYTES)
        return found, await measure_rollups(connection, now_us)


def _show(found: Storage) -> None:
    if not found.months:
        say("No readings are stored.")
        return
    by_month: dict[date, list[Month]] = {}
    for month in found.months:
        by_month.setdefault(month.first, []).append(month)
    rows = [(f"{first:%Y-%m}", *_both(months)) for first, months in by_month.items()]
    if len(rows) > 1:
        rows.append(("all", *_all([row[1:] for row in rows])))
    opened, sealed = [row[1] for row in rows], [row[2] for row in rows]
    columns: dict[str, Sequence[Any]] = {
        "month": [row[0] for row in rows],
        "open\ndays": [f"{held.days:,}" for held in opened],
        "open\nreadings": [_marked(held, held.readings) for held in opened],
        "open\nsize": [_size(held.bytes) for held in opened],
        "open\nB each": [_each(held) for held in opened],
        "sealed\ndays": [_marked(held, held.days) for held in sealed],
        "sealed\nreadings": [_marked(held, held.readings) for held in sealed],
        "sealed\nsize": [_size(held.bytes) for held in sealed],
        "sealed\nB each": [_each(held) for held in sealed],
    }
    if any(row[3] for row in rows):
        columns["archived\ndays"] = [f"{row[3] or 0:,}" for row in rows]
    out.print(fitting_table("readings on disk", columns, columns.keys() - {"month"}, _LEFT_OUT))


def _both(months: Sequence[Month]) -> tuple[Held, Held, int | None]:
    """Of a month: a day counts once, whichever kind has readings of it."""
    opened, sealed, archived = Held(), Held(), None
    for month in months:
        days = max(opened.days, month.open.days), max(sealed.days, month.sealed.days)
        opened.add(month.open)
        sealed.add(month.sealed)
        opened.days, sealed.days = days
        if month.archived_days is not None:
            archived = max(archived or 0, month.archived_days)
    return opened, sealed, archived


def _all(months: Sequence[tuple[Held, Held, int | None]]) -> tuple[Held, Held, int | None]:
    opened, sealed = Held(), Held()
    for month in months:
        opened.add(month[0])
        sealed.add(month[1])
    archived = [month[2] for month in months if month[2] is not None]
    return opened, sealed, sum(archived) if archived else None


def _growth_line(growth: Growth, rollup_bytes: int) -> str:
    if not growth.readings:
        return "No closed day has readings yet, by which growth could be told."
    which = {0: "as the sealed days had", 1: "as the last closed day had"}
    source = which.get(growth.days, f"the mean of the last {growth.days} closed days")
    how = "once sealed" if growth.sealed else "as they lie open"
    each = growth.reading_bytes / growth.readings
    return (
        f"It grows by {_size(growth.bytes)} a day: {growth.readings:,} readings ({source}) of {each:.1f} B {how}, and"
        f" {_size(growth.rollup_bytes)} of hourly rollups, which take {_size(rollup_bytes)} now."
    )


def _full_line(free: int, growth: Growth, today: date, starts: date | None) -> str:
    full = full_on(free, growth, today, starts)
    line = f"{_size(free)} are free, enough " + (
        "for more than a century" if full is None else f"until {full}" if full > today else "for less than a day"
    )
    if starts is not None and (full is None or full >= starts):
        line += f"; from {max(starts, today)} on retention drops as many readings as come"
    return f"{line}."


def _print_csv(found: Storage) -> None:
    rows = csv.writer(sys.stdout, lineterminator="\n")
    rows.writerow(_CSV_FIELDS)
    for month in found.months:
        parts = (value for held in (month.open, month.sealed) for value in (held.days, held.readings, held.bytes))
        archived = "" if month.archived_days is None else month.archived_days
        estimated = str(month.open.estimated or month.sealed.estimated).lower()
        rows.writerow((f"{month.first:%Y-%m}", month.kind, *parts, archived, estimated))


def _bytes_of(text: str) -> int:
    """Such as `500GB`, `1.5 TiB` or a number of bytes; a usage error for anything else."""
    match = _SIZE.fullmatch(text.strip())
    if match is None:
        raise typer.BadParameter(f"{text!r} is no size such as 500GB, 1.5TiB or 500000000000", param_hint="--free")
    number, unit, binary = match.groups()
    power = 0 if unit is None else 1 + _UNITS.lower().index(unit.lower())
    return int(float(number) * (1024 if binary else 1000) ** power)


def _size(size: float) -> str:
    """Three digits and a decimal unit, as disks are sold by."""
    for unit in ("B", *(f"{each}B" for each in _UNITS)):
        if size < 999.5 or unit == "PB":
            break
        size /= 1000
    return f"{size:.0f} {unit}" if unit == "B" or size >= 99.95 else f"{size:.{1 if size >= 9.995 else 2}f} {unit}"


def _marked(held: Held, number: int) -> str:
    return f"{'~' if held.estimated else ''}{number:,}"


def _each(held: Held) -> str:
    return f"{'~' if held.estimated else ''}{held.bytes / held.readings:.1f}" if held.readings else "-"
