"""`energyfleet fleet`: how the whole fleet charged, the worst first, for people and for programs."""

import asyncio
import csv
import sys
from collections.abc import Sequence
from enum import StrEnum
from typing import Annotated, Any

import typer
from rich.table import Table
from rich.text import Text

from fleetcli.client.channel import PLAINTEXT
from fleetcli.client.credentials import Credentials
from fleetcli.client.messages import fleet_request, series_request, window
from fleetcli.client.services import (
    AnalyticsClient,
    FleetPerformance,
    FleetQuestion,
    FleetVehicle,
    Series,
    finding_of,
    verdict_of,
)
from fleetcli.commands.command_errors import CommandError
from fleetcli.commands.console import (
    compared,
    fitting_table,
    measured,
    out,
    print_json,
    progress_bar,
    say,
    verdict_text,
)
from fleetcli.commands.identity_options import takes_credentials
from fleetcli.commands.options import (
    ANALYTICS_DEFAULT,
    Analytics,
    AsJson,
    DaysOf,
    Ending,
    Exact,
    alignment,
    hours_option,
    require_one_format,
    window_us,
)
from fleetcli.commands.sparkline import LEGEND, sparkline
from shared.timestamps import US_PER_DAY, us_from_proto

WINDOW_HOURS = 24.0

ROWS_SHOWN = 20
"""A screenful of the worst."""

_SERIES_AT_ONCE = 8
"""Questions to the service at a time: what its own connections to the database are."""

_RETURNED = {"DC back": "kwh_returned_dc", "AC back": "kwh_returned_ac"}
"""Columns, in kWh, that are there where energy flowed back."""

COMPARED = "Lost and ratio: of the charging that both sides account for. Standby and what is not compared are left out."

NORMAL = "Change: from what is normal for the vehicle, by the 28 days before."

_NUMBERS = ("DC kWh", "AC kWh", *_RETURNED, "compared", "lost kWh", "ratio", "change")

_LEFT_OUT = ("compared", *_RETURNED, "DC kWh", "AC kWh", "lost kWh", "by the hour", "change")
"""Columns that a narrow terminal has to do without, one after the other."""


class VerdictName(StrEnum):
    OK = "OK"
    LOW_EFFICIENCY = "LOW_EFFICIENCY"
    IMPLAUSIBLE = "IMPLAUSIBLE"
    INSUFFICIENT_DATA = "INSUFFICIENT_DATA"
    NO_METER = "NO_METER"


class OrderName(StrEnum):
    RATIO = "ratio"
    LOST = "lost"


class VehicleOrderName(StrEnum):
    RATIO = "ratio"
    LOST = "lost"
    DROP = "drop"


ORDERS = {"ratio": "RATIO", "lost": "KWH_LOST", "drop": "DROP"}

_CSV_FIELDS = (
    "efficiency_ratio",
    "kwh_lost",
    "kwh_delivered_dc",
    "kwh_consumed_ac",
    "coverage",
    "average_battery_temp",
    "vehicle_readings",
    "meter_readings",
    "kwh_returned_dc",
    "kwh_returned_ac",
    "kwh_consumed_ac_idle",
    "kwh_delivered_dc_unmapped",
    "baseline_ratio",
    "ratio_change",
)

CSV_COMPARED = (
    "kwh_delivered_dc",
    "kwh_consumed_ac",
    "efficiency_ratio",
    "kwh_lost",
    "mean_power_kw",
    "low_efficiency_below",
    "efficiency_ratio_at_least",
    "efficiency_ratio_at_most",
)
"""Fields of the comparison; their columns begin with `compared_`."""


@takes_credentials
def fleet(
    analytics: Analytics = ANALYTICS_DEFAULT,
    hours: Annotated[float | None, hours_option("Length of the window. Default: 24.")] = None,
    ending: Ending = None,
    exact: Exact = False,
    days_of: DaysOf = None,
    order: Annotated[
        VehicleOrderName,
        typer.Option(
            help="What comes first: the lowest ratio, the most kWh lost, or the greatest drop below what is normal."
        ),
    ] = VehicleOrderName.RATIO,
    verdict: Annotated[
        list[VerdictName] | None,
        typer.Option(case_sensitive=False, help="Only vehicles with it; may be given several times."),
    ] = None,
    vehicle: Annotated[
        list[str] | None, typer.Option(metavar="ID", help="Only this vehicle; may be given several times.")
    ] = None,
    rows: Annotated[
        int | None, typer.Option(min=1, help="Vehicles to list. Default: 20 in the table, all as JSON or CSV.")
    ] = None,
    as_json: AsJson = False,
    as_csv: Annotated[bool, typer.Option("--csv", help="Print the vehicles as CSV.")] = False,
    credentials: Credentials = PLAINTEXT,
) -> None:
    """How efficiently the fleet charged, the worst vehicles first: over the last 24 hours, or any window of a year.

    The window is widened to whole hours, or as --exact and --days-of say.
    """
    require_one_format(as_json, as_csv)
    start_us, end_us = window_us(hours, ending, WINDOW_HOURS)
    aligned = alignment(exact, days_of)
    question = fleet_request(window(start_us, end_us), aligned, verdict or (), vehicle or (), ORDERS[order])
    if as_json or as_csv:
        answer, _ = asyncio.run(_ask(analytics, credentials, question, rows, with_hours=False))
        (print_json if as_json else _print_csv)(answer)
    else:
        answer, hours_of = asyncio.run(_ask(analytics, credentials, question, rows or ROWS_SHOWN, with_hours=True))
        _show(answer, hours_of)
    if answer.unknown_vehicle_ids:
        raise CommandError(f"unknown: {', '.join(answer.unknown_vehicle_ids)}")


async def _ask(
    address: str, credentials: Credentials, question: FleetQuestion, most: int | None, *, with_hours: bool
) -> tuple[FleetPerformance, list[Series]]:
    """The answer and, for each of its vehicles, the last hours of the window."""
    free = asyncio.Semaphore(_SERIES_AT_ONCE)
    async with AnalyticsClient(address, credentials) as client:
        with progress_bar() as progress:
            task = progress.add_task("vehicles", total=None)
            answer = await client.fleet(question, most)
            if not with_hours:
                return answer, []
            progress.update(task, total=len(answer.vehicles))
            end_us = us_from_proto(answer.window.end)
            start_us = max(us_from_proto(answer.window.start), end_us - US_PER_DAY)

            async def hours_of(vehicle: FleetVehicle) -> Series:
                async with free:
                    series = await client.series(series_request(vehicle.vehicle_id, start_us, end_us, "HOUR", ""))
                progress.advance(task)
                return series

            return answer, await asyncio.gather(*(hours_of(vehicle) for vehicle in answer.vehicles))


def _print_csv(answer: FleetPerformance) -> None:
    window = [moment.ToJsonString() for moment in (answer.window.start, answer.window.end)]
    rows = csv.writer(sys.stdout, lineterminator="\n")
    names = [f"compared_{name}" for name in CSV_COMPARED] + [*_CSV_FIELDS, "findings"]
    rows.writerow(("vehicle_id", "verdict", *names, "window_start", "window_end", "verdict_reason", "alert"))
    for vehicle in answer.vehicles:
        its = vehicle.comparison if vehicle.HasField("comparison") else None
        of_compared = ["" if its is None else getattr(its, name) for name in CSV_COMPARED]
        known = {field.name: value for field, value in vehicle.ListFields()}
        counts = {"vehicle_readings": vehicle.vehicle_readings, "meter_readings": vehicle.meter_readings}
        values = [(known | counts).get(name, "") for name in _CSV_FIELDS]
        findings = " ".join(map(finding_of, vehicle.findings))
        said = vehicle.verdict_reason, vehicle.alert
        rows.writerow((vehicle.vehicle_id, verdict_of(vehicle), *of_compared, *values, findings, *window, *said))


def _show(answer: FleetPerformance, hours_of: Sequence[Series]) -> None:
    start, end = (f"{moment.ToDatetime():%Y-%m-%d %H:%M}" for moment in (answer.window.start, answer.window.end))
    if not answer.vehicles:
        say(f"{start} to {end} UTC: no vehicle{' with such a verdict' if answer.totals.vehicles else ' was heard of'}.")
    else:
        out.print(_table(answer, hours_of, f"{start} to {end} UTC"))
        say(LEGEND, "dim")
        say(COMPARED, "dim")
        if any(vehicle.HasField("ratio_change") for vehicle in answer.vehicles):
            say(NORMAL, "dim")
    _show_totals(answer)


def _table(answer: FleetPerformance, hours_of: Sequence[Series], title: str) -> Table:
    """All columns, or those for which a terminal has room."""
    returned = {
        name: [measured(vehicle, field, "{:,.3f}") for vehicle in answer.vehicles]
        for name, field in _RETURNED.items()
        if any(getattr(vehicle, field) for vehicle in answer.vehicles)
    }
    normal = {}
    if any(vehicle.HasField("ratio_change") for vehicle in answer.vehicles):
        normal["change"] = [measured(vehicle, "ratio_change", "{:+.4f}") for vehicle in answer.vehicles]
    columns: dict[str, Sequence[Any]] = {
        "vehicle": [Text(vehicle.vehicle_id) for vehicle in answer.vehicles],
        "DC kWh": [measured(vehicle, "kwh_delivered_dc", "{:,.3f}") for vehicle in answer.vehicles],
        "AC kWh": [measured(vehicle, "kwh_consumed_ac", "{:,.3f}") for vehicle in answer.vehicles],
        **returned,
        "compared": [measured(vehicle, "coverage", "{:.0%}") for vehicle in answer.vehicles],
        "lost kWh": [compared(vehicle, "kwh_lost", "{:,.3f}") for vehicle in answer.vehicles],
        "ratio": [compared(vehicle, "efficiency_ratio", "{:.4f}") for vehicle in answer.vehicles],
        **normal,
        "verdict": [verdict_text(verdict_of(vehicle)) for vehicle in answer.vehicles],
        "by the hour": [sparkline(series.buckets, answer.thresholds) for series in hours_of],
    }
    return fitting_table(title, columns, _NUMBERS, _LEFT_OUT)


def _show_totals(answer: FleetPerformance) -> None:
    totals = answer.totals
    verdicts = [f"{each.vehicles:,} {verdict_of(each)}" for each in totals.by_verdict if each.vehicles]
    say(f"{len(answer.vehicles):,} of {answer.matched:,} vehicles shown; verdicts: {', '.join(verdicts) or 'none'}.")
    if totals.HasField("efficiency_ratio"):
        say(f"Those that can be judged delivered {totals.efficiency_ratio:.1%} and lost {totals.kwh_lost:,.1f} kWh.")
    if totals.kwh_consumed_ac_idle:
        say(f"Meters drew {totals.kwh_consumed_ac_idle:,.1f} kWh at standby.")
    if totals.kwh_delivered_dc_unmapped:
        say(f"{totals.kwh_delivered_dc_unmapped:,.1f} kWh were charged while no meter was mapped.")
    if totals.kwh_returned_dc or totals.kwh_returned_ac:
        dc, ac = totals.kwh_returned_dc, totals.kwh_returned_ac
        say(f"{dc:,.1f} kWh flowed back out of batteries, {ac:,.1f} kWh into the grid; the sums are less by it.")
