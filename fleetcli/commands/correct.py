"""`energyfleet correct` and `energyfleet corrections`: what counts of a reading's energy, and who said so."""

import getpass
from typing import Annotated

import typer

from fleetcli.client.channel import PLAINTEXT
from fleetcli.client.credentials import Credentials
from fleetcli.client.services import Correction, IngestionClient
from fleetcli.commands.console import print_json, say, say_rows
from fleetcli.commands.identity_options import takes_credentials
from fleetcli.commands.options import INGESTION_DEFAULT, LINES_SHOWN, AsJson, Ingestion, Rows, ask, moment_us
from shared.timestamps import system_clock

Meter = Annotated[str | None, typer.Option(metavar="ID", help="The meter whose reading it is.")]
OfVehicle = Annotated[str | None, typer.Option("--vehicle", metavar="ID", help="The vehicle whose reading it is.")]


@takes_credentials
def correct(
    time: Annotated[str, typer.Argument(metavar="TIME", help="The reading's timestamp: RFC 3339.")],
    note: Annotated[str, typer.Option(help="Why.")],
    meter: Meter = None,
    vehicle: OfVehicle = None,
    kwh: Annotated[float | None, typer.Option(metavar="KWH", help="This energy counts.")] = None,
    void: Annotated[bool, typer.Option("--void", help="Its energy does not count.")] = False,
    as_sent: Annotated[bool, typer.Option("--as-sent", help="What was sent counts again.")] = False,
    author: Annotated[str | None, typer.Option(help="Who corrects. Default: your account's name.")] = None,
    ingestion: Ingestion = INGESTION_DEFAULT,
    credentials: Credentials = PLAINTEXT,
) -> None:
    """Say what counts of a stored reading's energy, instead of what was sent.

    Answers about the past follow at once. What was sent is kept, and so is who corrected it and why.
    """
    if (meter is None) == (vehicle is None):
        raise typer.BadParameter("say whose reading it is with one of --meter and --vehicle", param_hint="--meter")
    if [kwh is not None, void, as_sent].count(True) != 1:
        raise typer.BadParameter("say what counts with one of --kwh, --void and --as-sent", param_hint="--kwh")
    ts_us = moment_us("TIME", time, system_clock())
    who = author or getpass.getuser()
    energy = None if as_sent else "void" if void else kwh
    correction = ask(
        IngestionClient, ingestion, credentials, lambda client: client.correct(meter, vehicle, ts_us, energy, who, note)
    )
    say(_told(correction) if correction is not None else "What was sent counts, as before.")


@takes_credentials
def corrections(
    meter: Meter = None,
    vehicle: OfVehicle = None,
    rows: Rows = None,
    as_json: AsJson = False,
    ingestion: Ingestion = INGESTION_DEFAULT,
    credentials: Credentials = PLAINTEXT,
) -> None:
    """List corrections of readings, the newest first: who corrected what, when and why."""
    if meter is not None and vehicle is not None:
        raise typer.BadParameter("either --meter or --vehicle, not both", param_hint="--vehicle")
    shown = rows or LINES_SHOWN
    most = rows if as_json else shown + 1
    found = ask(IngestionClient, ingestion, credentials, lambda client: client.corrections(meter, vehicle, most))
    if as_json:
        print_json(found)
    else:
        say_rows([_told(each) for each in found.corrections], shown, "No corrections.")


def _told(correction: Correction) -> str:
    device = correction.vehicle_id or correction.meter_id
    who = f"{correction.author} ({correction.identity})" if correction.HasField("identity") else correction.author
    counts = "is void" if correction.voided else f"counts as {correction.kwh:g} kWh"
    return (
        f"{device} {correction.timestamp.ToJsonString()}: {counts} since {correction.corrected_at.ToJsonString()}"
        f" (before: {correction.kwh_before:g} kWh, uncorrected: {correction.sent_kwh:g} kWh);"
        f" {who}: {correction.note}"
    )
