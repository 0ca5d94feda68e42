"""`energyfleet meters`: how vehicles charged at each meter, the worst first, for people and for programs."""

import csv
import json
import sys
from collections.abc import Sequence
from enum import StrEnum
from typing import Annotated, Any

import typer
from rich.text import Text

from fleetcli.client.channel import PLAINTEXT
from fleetcli.client.credentials import Credentials
from fleetcli.client.messages import meters_request, window
from fleetcli.client.services import AnalyticsClient, ListedMeter, Meters, finding_of, verdict_of
from fleetcli.commands.command_errors import CommandError
from fleetcli.commands.console import compared, fitting_table, measured, out, print_json, say, verdict_text
from fleetcli.commands.fleet import CSV_COMPARED, ORDERS, ROWS_SHOWN, WINDOW_HOURS, OrderName
from fleetcli.commands.identity_options import takes_credentials
from fleetcli.commands.options import (
    ANALYTICS_DEFAULT,
    Analytics,
    AsJson,
    DaysOf,
    Ending,
    Exact,
    alignment,
    ask,
    hours_option,
    require_one_format,
    window_us,
)

_VEHICLES_SHOWN = 3
"""Vehicles of a meter that the table names."""

_NUMBERS = ("DC kWh", "AC kWh", "unmapped kWh", "compared", "lost kWh", "ratio")

_LEFT_OUT = ("compared", "unmapped kWh", "DC kWh", "AC kWh", "vehicles", "lost kWh")
"""Columns that a narrow terminal has to do without, one after the other."""

_CSV_FIELDS = (
    "efficiency_ratio",
    "kwh_lost",
    "kwh_delivered_dc",
    "kwh_consumed_ac",
    "kwh_consumed_ac_unmapped",
    "coverage",
    "meter_readings",
    "meter_readings_unmapped",
    "vehicle_readings",
    "kwh_returned_dc",
    "kwh_returned_ac",
    "kwh_consumed_ac_idle",
    "vehicle_count",
    "mapping_count",
)


class MeterVerdictName(StrEnum):
    OK = "OK"
    LOW_EFFICIENCY = "LOW_EFFICIENCY"
    IMPLAUSIBLE = "IMPLAUSIBLE"
    INSUFFICIENT_DATA = "INSUFFICIENT_DATA"


@takes_credentials
def meters(
    analytics: Analytics = ANALYTICS_DEFAULT,
    hours: Annotated[float | None, hours_option("Length of the window. Default: 24.")] = None,
    ending: Ending = None,
    exact: Exact = False,
    days_of: DaysOf = None,
    order: Annotated[
        OrderName, typer.Option(help="What comes first: the lowest ratio, or the most kWh lost.")
    ] = OrderName.RATIO,
    verdict: Annotated[
        list[MeterVerdictName] | None,
        typer.Option(case_sensitive=False, help="Only meters with it; may be given several times."),
    ] = None,
    meter: Annotated[
        list[str] | None, typer.Option(metavar="ID", help="Only this meter; may be given several times.")
    ] = None,
    rows: Annotated[
        int | None, typer.Option(min=1, help="Meters to list. Default: 20 in the table, all as JSON or CSV.")
    ] = None,
    as_json: AsJson = False,
    as_csv: Annotated[bool, typer.Option("--csv", help="Print the meters as CSV.")] = False,
    credentials: Credentials = PLAINTEXT,
) -> None:
    """Which charger is worn: how all vehicles charged at each meter, the worst first.

    Over the last 24 hours, or any window of a year; it is widened to whole hours, or as --exact and --days-of say.
    """
    require_one_format(as_json, as_csv)
    start_us, end_us = window_us(hours, ending, WINDOW_HOURS)
    aligned = alignment(exact, days_of)
    question = meters_request(window(start_us, end_us), aligned, verdict or (), meter or (), ORDERS[order])
    most = rows if as_json or as_csv else rows or ROWS_SHOWN
    answer = ask(AnalyticsClient, analytics, credentials, lambda client: client.meters(question, most))
    (print_json if as_json else _print_csv if as_csv else _show)(answer)
    if answer.unknown_meter_ids:
        raise CommandError(f"unknown: {', '.join(answer.unknown_meter_ids)}")


def _print_csv(answer: Meters) -> None:
    """A list of ids is one cell, a JSON array: ids may have any sign that could part them."""
    window = [moment.ToJsonString() for moment in (answer.window.start, answer.window.end)]
    rows = csv.writer(sys.stdout, lineterminator="\n")
    names = [f"compared_{name}" for name in CSV_COMPARED] + [*_CSV_FIELDS, "vehicle_ids", "shared_with", "findings"]
    rows.writerow(("meter_id", "verdict", *names, "window_start", "window_end", "verdict_reason", "alert"))
    for meter in answer.meters:
        its = meter.comparison if meter.HasField("comparison") else None
        of_compared = ["" if its is None else getattr(its, name) for name in CSV_COMPARED]
        values = [_cell(meter, name) for name in _CSV_FIELDS]
        ids = json.dumps(list(meter.vehicle_ids)), json.dumps(list(meter.shared_with))
        findings = " ".join(map(finding_of, meter.findings))
        said = meter.verdict_reason, meter.alert
        rows.writerow((meter.meter_id, verdict_of(meter), *of_compared, *values, *ids, findings, *window, *said))


def _cell(meter: ListedMeter, name: str) -> object:
    """A value; nothing where it is absent."""
    absent = meter.DESCRIPTOR.fields_by_name[name].has_presence and not meter.HasField(name)  # type: ignore[arg-type]  # any name
    return "" if absent else getattr(meter, name)


def _show(answer: Meters) -> None:
    start, end = (f"{moment.ToDatetime():%Y-%m-%d %H:%M}" for moment in (answer.window.start, answer.window.end))
    if not answer.meters:
        say(f"{start} to {end} UTC: no meter{' with such a verdict' if answer.totals.meters else ' was heard of'}.")
    else:
        columns: dict[str, Sequence[Any]] = {
            "meter": [Text(meter.meter_id) for meter in answer.meters],
            "vehicles": [Text(_vehicles(meter)) for meter in answer.meters],
            "DC kWh": [measured(meter, "kwh_delivered_dc", "{:,.3f}") for meter in answer.meters],
            "AC kWh": [measured(meter, "kwh_consumed_ac", "{:,.3f}") for meter in answer.meters],
            "unmapped kWh": [measured(meter, "kwh_consumed_ac_unmapped", "{:,.3f}") for meter in answer.meters],
            "compared": [measured(meter, "coverage", "{:.0%}") for meter in answer.meters],
            "lost kWh": [compared(meter, "kwh_lost", "{:,.3f}") for meter in answer.meters],
            "ratio": [compared(meter, "efficiency_ratio", "{:.4f}") for meter in answer.meters],
            "verdict": [verdict_text(verdict_of(meter)) for meter in answer.meters],
        }
        out.print(fitting_table(f"{start} to {end} UTC", columns, _NUMBERS, _LEFT_OUT))
        say("Lost and ratio: of what both sides account for, over all vehicles. Unmapped: drawn for no vehicle.", "dim")
    verdicts = [f"{each.meters:,} {verdict_of(each)}" for each in answer.totals.by_verdict if each.meters]
    say(f"{len(answer.meters):,} of {answer.matched:,} meters shown; verdicts: {', '.join(verdicts) or 'none'}.")


def _vehicles(meter: ListedMeter) -> str:
    """Those that it fed, and a mark where other meters fed them as well."""
    named = ", ".join(meter.vehicle_ids[:_VEHICLES_SHOWN])
    more = f" and {meter.vehicle_count - _VEHICLES_SHOWN:,} more" if meter.vehicle_count > _VEHICLES_SHOWN else ""
    beside = f", with {', '.join(meter.shared_with[:_VEHICLES_SHOWN])}" if meter.shared_with else ""
    return f"{named}{more}{beside}" or "-"
