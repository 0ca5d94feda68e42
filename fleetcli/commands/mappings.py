"""`energyfleet mappings`: which meter feeds which vehicle, who said so, and what became of it."""

from typing import Annotated

import typer

from fleetcli.client.channel import PLAINTEXT
from fleetcli.client.credentials import Credentials
from fleetcli.client.services import IngestionClient, Mapping, MappingChange, Record
from fleetcli.commands.console import print_json, say_rows
from fleetcli.commands.identity_options import takes_credentials
from fleetcli.commands.mapping import span_told, told
from fleetcli.commands.options import INGESTION_DEFAULT, LINES_SHOWN, AsJson, Ingestion, Rows, ask


@takes_credentials
def mappings(
    vehicle: Annotated[str, typer.Option(metavar="ID", help="Only this vehicle's.")] = "",
    meter: Annotated[str, typer.Option(metavar="ID", help="Only this meter's.")] = "",
    changes: Annotated[
        bool, typer.Option("--changes", help="What became of them, the newest change first; also of removed ones.")
    ] = False,
    rows: Rows = None,
    as_json: AsJson = False,
    ingestion: Ingestion = INGESTION_DEFAULT,
    credentials: Credentials = PLAINTEXT,
) -> None:
    """List mappings, past and present, or their changes: who registered and ended each, when and why."""
    shown = rows or LINES_SHOWN
    most = rows if as_json else shown + 1
    if changes:
        made = ask(IngestionClient, ingestion, credentials, lambda client: client.mapping_changes(vehicle, meter, most))
        if as_json:
            print_json(made)
        else:
            say_rows([_change_told(each) for each in made.changes], shown, "No changes.")
    else:
        found = ask(IngestionClient, ingestion, credentials, lambda client: client.mappings(vehicle, meter, most))
        if as_json:
            print_json(found)
        else:
            say_rows([_mapping_told(each) for each in found.mappings], shown, "No mappings.")


def _mapping_told(mapping: Mapping) -> str:
    line = told(mapping)
    for what in ("registered", "ended"):
        if mapping.HasField(what):
            line += f"; {what} {_record_told(getattr(mapping, what))}"
    return line


def _change_told(change: MappingChange) -> str:
    if not change.HasField("after"):
        what = f"no longer: {told(change.before)}"
    else:
        what = told(change.after)
        if change.HasField("before"):
            what += f", before {span_told(change.before)}"
    return f"{what}; {_record_told(change.record)}"


def _record_told(record: Record) -> str:
    return f"{record.changed_at.ToJsonString()} by {record.identity}" + (f": {record.note}" if record.note else "")
