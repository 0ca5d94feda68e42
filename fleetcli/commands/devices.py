"""`energyfleet devices`: which devices are silent, have a clock that is off, are refused or doubted."""

import asyncio
import csv
import sys
from collections.abc import Sequence
from enum import StrEnum
from typing import Annotated, Any

import psycopg
import typer
from rich.text import Text

from fleetcli.client.channel import PLAINTEXT
from fleetcli.client.credentials import Credentials
from fleetcli.client.messages import devices_request
from fleetcli.client.services import AnalyticsClient, Clock, Device, DeviceList, freshness_of, state_of
from fleetcli.commands.command_errors import CommandError
from fleetcli.commands.console import age_text, fitting_table, out, print_json, say
from fleetcli.commands.fleet import ROWS_SHOWN
from fleetcli.commands.identity_options import takes_credentials
from fleetcli.commands.options import ANALYTICS_DEFAULT, Analytics, AsJson, ask, require_one_format
from fleetcli.commands.stack import Database, connected, database
from shared.config import Settings, read_settings
from shared.db.retention import forget_devices

_NUMBERS = ("late", "future", "conflicting", "rejected", "left out", "doubted")

_LEFT_OUT = ("conflicting", "late", "future", "left out", "age on arrival", "doubted", "rejected", "states")
"""Columns that a narrow terminal has to do without, one after the other."""

_CSV_FIELDS = (
    "kind",
    "id",
    "freshness",
    "newest_reading",
    "age_s",
    "newest_age_at_arrival_s",
    "late_readings",
    "future_readings",
    "conflicting_readings",
    "rejected_readings",
    "omitted_values",
    "last_refused",
    "doubted_readings",
    "states",
)


class DeviceOrderName(StrEnum):
    FRESHNESS = "freshness"
    CLOCK = "clock"
    REFUSED = "refused"
    DOUBTED = "doubted"


@takes_credentials
def devices(
    analytics: Analytics = ANALYTICS_DEFAULT,
    vehicles: Annotated[bool, typer.Option("--vehicles", help="Only vehicles.")] = False,
    meters: Annotated[bool, typer.Option("--meters", help="Only meters.")] = False,
    stale: Annotated[bool, typer.Option("--stale", help="Those that are silent, or of which no reading came.")] = False,
    clock: Annotated[bool, typer.Option("--clock", help="Those whose clock may be wrong.")] = False,
    refused: Annotated[bool, typer.Option("--refused", help="Those of which something was refused.")] = False,
    doubted: Annotated[bool, typer.Option("--doubted", help="Those of which readings are doubted.")] = False,
    order: Annotated[
        DeviceOrderName | None,
        typer.Option(help="What comes first. Default: as one of the options above says, or the longest silent."),
    ] = None,
    rows: Annotated[
        int | None, typer.Option(min=1, help="Devices to list. Default: 20 in the table, all as JSON or CSV.")
    ] = None,
    as_json: AsJson = False,
    as_csv: Annotated[bool, typer.Option("--csv", help="Print the devices as CSV.")] = False,
    forget: Annotated[
        bool,
        typer.Option(
            "--forget",
            help="Remove the ids that have neither a reading nor a mapping from the database that"
            " ENERGYFLEET_DATABASE_URL names, with the rights of maintenance; list them.",
        ),
    ] = False,
    credentials: Credentials = PLAINTEXT,
) -> None:
    """Which devices somebody should look at: silent, with a wrong clock, refused or doubted.

    With several of these options: devices to which any of them applies.
    """
    require_one_format(as_json, as_csv)
    if forget:
        _forget()
        return
    chosen = [
        (stale, ("STALE", "NO_READING"), DeviceOrderName.FRESHNESS),
        (clock, ("CLOCK_OFF",), DeviceOrderName.CLOCK),
        (refused, ("REFUSED",), DeviceOrderName.REFUSED),
        (doubted, ("DOUBTED",), DeviceOrderName.DOUBTED),
    ]
    states = [state for wanted, its, _ in chosen if wanted for state in its]
    by = order or next((its for wanted, _, its in chosen if wanted), DeviceOrderName.FRESHNESS)
    kind = "UNSPECIFIED" if vehicles == meters else "VEHICLE" if vehicles else "METER"
    question = devices_request(kind, states, by.upper())
    most = rows if as_json or as_csv else rows or ROWS_SHOWN
    answer = ask(AnalyticsClient, analytics, credentials, lambda client: client.devices(question, most))
    (print_json if as_json else _print_csv if as_csv else _show)(answer)


def _forget() -> None:
    with database(read_settings(Settings)) as used:
        forgotten = asyncio.run(_forgotten(used))
    for kind, device_id in forgotten:
        say(f"forgot {kind} {device_id}")
    say(f"{len(forgotten):,} ids had neither a reading nor a mapping.")


async def _forgotten(used: Database) -> list[tuple[str, str]]:
    async with connected(used, "energyfleet devices", statement_timeout="60s") as connection:
        try:
            return await forget_devices(connection)
        except psycopg.errors.LockNotAvailable:
            raise CommandError("the devices are in use by a long question or transaction; try again") from None


def _print_csv(answer: DeviceList) -> None:
    rows = csv.DictWriter(sys.stdout, _CSV_FIELDS, lineterminator="\n")
    rows.writeheader()
    for device in answer.devices:
        kind, device_id = _kind_and_id(device)
        seen = device.HasField("clock")
        arrived = device.clock.HasField("newest_age_at_arrival")
        rows.writerow(
            {
                "kind": kind,
                "id": device_id,
                "freshness": freshness_of(device),
                "newest_reading": device.newest_reading.ToJsonString() if device.HasField("newest_reading") else "",
                "age_s": device.age.ToMicroseconds() / 1e6 if device.HasField("age") else "",
                "newest_age_at_arrival_s": device.clock.newest_age_at_arrival.ToMicroseconds() / 1e6 if arrived else "",
                "late_readings": device.clock.late_readings if seen else "",
                "future_readings": device.clock.future_readings if seen else "",
                "conflicting_readings": device.clock.conflicting_readings if seen else "",
                "rejected_readings": device.rejected_readings,
                "omitted_values": device.omitted_values,
                "last_refused": device.last_refused.ToJsonString() if device.HasField("last_refused") else "",
                "doubted_readings": device.doubted_readings,
                "states": " ".join(map(state_of, device.states)),
            }
        )


def _show(answer: DeviceList) -> None:
    if answer.devices:
        clocks = [device.clock if device.HasField("clock") else None for device in answer.devices]
        columns: dict[str, Sequence[Any]] = {
            "device": [Text(" ".join(_kind_and_id(device))) for device in answer.devices],
            "newest reading": [
                age_text(device.age, ahead=" ahead") if device.HasField("age") else "none" for device in answer.devices
            ],
            "age on arrival": [_age_on_arrival(its) for its in clocks],
            "late": [f"{its.late_readings:,}" if its else "-" for its in clocks],
            "future": [f"{its.future_readings:,}" if its else "-" for its in clocks],
            "conflicting": [f"{its.conflicting_readings:,}" if its else "-" for its in clocks],
            "rejected": [f"{device.rejected_readings:,}" for device in answer.devices],
            "left out": [f"{device.omitted_values:,}" for device in answer.devices],
            "doubted": [f"{device.doubted_readings:,}" for device in answer.devices],
            "states": [Text(" ".join(map(state_of, device.states))) for device in answer.devices],
        }
        out.print(fitting_table(f"as of {answer.as_of.ToDatetime():%Y-%m-%d %H:%M} UTC", columns, _NUMBERS, _LEFT_OUT))
    counts = (
        f"{each.vehicles:,} and {each.meters:,} {state_of(each.state)}"
        for each in answer.by_state
        if each.vehicles or each.meters
    )
    shown = f"{len(answer.devices):,} of {answer.matched:,} devices shown"
    say(f"{shown}; vehicles and meters: {', '.join(counts) or 'none'}.")


def _age_on_arrival(seen: Clock | None) -> str:
    if seen is None or not seen.HasField("newest_age_at_arrival"):
        return "-"
    return age_text(seen.newest_age_at_arrival, "", " ahead")


def _kind_and_id(device: Device) -> tuple[str, str]:
    return ("vehicle", device.vehicle_id) if device.HasField("vehicle_id") else ("meter", device.meter_id)
