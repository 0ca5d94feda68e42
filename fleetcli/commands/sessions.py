"""`energyfleet sessions`: when a vehicle charged, or what a meter fed, session by session."""

from collections.abc import Sequence
from typing import Annotated, Any

import typer
from google.protobuf.timestamp_pb2 import Timestamp
from rich.table import Table
from rich.text import Text

from fleetcli.client.channel import PLAINTEXT
from fleetcli.client.credentials import Credentials
from fleetcli.client.messages import sessions_request
from fleetcli.client.services import AnalyticsClient, Session, Sessions, finding_of, verdict_of
from fleetcli.commands.console import compared, fitting_table, measured, out, print_json, say, verdict_text
from fleetcli.commands.identity_options import takes_credentials
from fleetcli.commands.options import ANALYTICS_DEFAULT, Analytics, AsJson, Ending, ask, hours_option, window_us

WINDOW_HOURS = 24.0

WINDOW_HOURS_MAX = 32 * 24
"""What the service takes at most."""

_NUMBERS = ("DC kWh", "AC kWh", "lost kWh", "ratio", "charge %", "highest kW")

_LEFT_OUT = ("findings", "meters", "highest kW", "charge %", "lost kWh", "AC kWh")
"""Columns that a narrow terminal has to do without, one after the other."""

_METERS_SHOWN = 3

NOT_BEFORE = "<"
GOES_ON = ">"
LEGEND = f"{NOT_BEFORE} it began before the window; {GOES_ON} it may go on."


@takes_credentials
def sessions(
    vehicle: Annotated[
        str | None, typer.Argument(metavar="VEHICLE", help="The vehicle's id; after -- where it begins with -.")
    ] = None,
    meter: Annotated[
        str | None, typer.Option(metavar="ID", help="The vehicles that this meter fed, instead of a vehicle.")
    ] = None,
    analytics: Analytics = ANALYTICS_DEFAULT,
    hours: Annotated[float | None, hours_option("Length of the window. Default: 24.", WINDOW_HOURS_MAX)] = None,
    ending: Ending = None,
    as_json: AsJson = False,
    credentials: Credentials = PLAINTEXT,
) -> None:
    """When a vehicle charged and how efficiently, session by session: over the last 24 hours, or up to a month."""
    if (vehicle is None) == (meter is None):
        raise typer.BadParameter("say whose sessions with one of VEHICLE and --meter", param_hint="VEHICLE")
    start_us, end_us = window_us(hours, ending, WINDOW_HOURS)
    question = sessions_request(vehicle, meter, start_us, end_us)
    answer = ask(AnalyticsClient, analytics, credentials, lambda client: client.sessions(question))
    if as_json:
        print_json(answer)
    else:
        _show(answer, vehicle or f"meter {meter}", of_meter=meter is not None)


def session_line(session: Session) -> str:
    """A session in a line: energies, ratio, state of charge and verdict."""
    its = session.performance
    parts = [f"{measured(its, 'kwh_delivered_dc', '{:,.3f}')} of {measured(its, 'kwh_consumed_ac', '{:,.3f}')} kWh"]
    if its.HasField("comparison"):
        parts.append(f"{its.comparison.efficiency_ratio:.1%}")
    if session.HasField("soc_at_start") or session.HasField("soc_at_end"):
        parts.append(f"charge {_charge(session)} %")
    return ", ".join([*parts, verdict_of(its)])


def _show(answer: Sessions, whose: str, *, of_meter: bool) -> None:
    title = f"{whose}, {_clock(answer.window.start)} to {_clock(answer.window.end)} UTC"
    if answer.sessions:
        out.print(_table(answer, title, of_meter=of_meter))
        if any(each.begins_before_window or each.open for each in answer.sessions):
            say(LEGEND, "dim")
    else:
        say(f"{title}: no session.")
    delivered = sum(each.performance.kwh_delivered_dc for each in answer.sessions)
    drawn = sum(each.performance.kwh_consumed_ac for each in answer.sessions)
    say(f"{len(answer.sessions):,} sessions: {delivered:,.3f} kWh delivered (DC), {drawn:,.3f} kWh drawn (AC).")
    outside = [
        measured(answer, field, form)
        for field, form in (
            ("kwh_delivered_dc_outside", "{:,.3f} kWh delivered (DC)"),
            ("kwh_consumed_ac_outside", "{:,.3f} kWh drawn (AC)"),
        )
        if answer.HasField(field)  # type: ignore[arg-type]  # one of its names
    ]
    if outside:
        say(f"In no session: {', '.join(outside)}.")


def _table(answer: Sessions, title: str, *, of_meter: bool) -> Table:
    columns: dict[str, Sequence[Any]] = {
        "from": [
            f"{NOT_BEFORE if each.begins_before_window else ''}{_clock(each.window.start)}" for each in answer.sessions
        ],
        "to": [f"{_clock(each.window.end)}{GOES_ON if each.open else ''}" for each in answer.sessions],
        "vehicle": [Text(each.vehicle_id or "-") for each in answer.sessions],
        "meters": [Text(_meters(each)) for each in answer.sessions],
        "DC kWh": [measured(each.performance, "kwh_delivered_dc", "{:,.3f}") for each in answer.sessions],
        "AC kWh": [measured(each.performance, "kwh_consumed_ac", "{:,.3f}") for each in answer.sessions],
        "lost kWh": [compared(each.performance, "kwh_lost", "{:,.3f}") for each in answer.sessions],
        "ratio": [compared(each.performance, "efficiency_ratio", "{:.4f}") for each in answer.sessions],
        "charge %": [_charge(each) for each in answer.sessions],
        "highest kW": [measured(each, "highest_power_kw", "{:,.1f}") for each in answer.sessions],
        "verdict": [verdict_text(verdict_of(each.performance)) for each in answer.sessions],
        "findings": [", ".join(map(finding_of, each.performance.findings)) for each in answer.sessions],
    }
    columns.pop("meters" if of_meter else "vehicle")
    return fitting_table(title, columns, _NUMBERS, _LEFT_OUT)


def _meters(session: Session) -> str:
    ids = list(dict.fromkeys(each.meter_id for each in session.meters))
    more = f" and {len(ids) - _METERS_SHOWN:,} more" if len(ids) > _METERS_SHOWN else ""
    return ", ".join(ids[:_METERS_SHOWN]) + more or "-"


def _charge(session: Session) -> str:
    ends = measured(session, "soc_at_start", "{:.0f}"), measured(session, "soc_at_end", "{:.0f}")
    return "-" if ends == ("-", "-") else " to ".join(ends)


def _clock(moment: Timestamp) -> str:
    return f"{moment.ToDatetime():%Y-%m-%d %H:%M}"
