"""`energyfleet map` and `energyfleet unmap` say which meter feeds which vehicle, and when."""

from contextlib import suppress
from typing import Annotated

import typer

from fleetcli.client.channel import PLAINTEXT
from fleetcli.client.credentials import Credentials
from fleetcli.client.errors import ClientError
from fleetcli.client.services import AnalyticsClient, IngestionClient, Mapping
from fleetcli.commands.console import say, warn_similar
from fleetcli.commands.identity_options import takes_credentials
from fleetcli.commands.options import (
    ANALYTICS_DEFAULT,
    INGESTION_DEFAULT,
    Analytics,
    Ingestion,
    Vehicle,
    ask,
    moment_us,
)
from shared.timestamps import system_clock

From = Annotated[
    str | None,
    typer.Option("--from", metavar="now|TIME", help="From when on: RFC 3339, also in the past. Default: now."),
]
Until = Annotated[str | None, typer.Option(metavar="now|TIME", help="Until when: RFC 3339. Default: no end.")]
Note = Annotated[str, typer.Option(help="Why; `energyfleet mappings` shows it.")]


@takes_credentials
def map_(
    vehicle: Vehicle,
    meter: Annotated[str, typer.Argument(metavar="METER", help="The id of the meter that feeds it; as VEHICLE.")],
    from_: From = None,
    until: Until = None,
    join: Annotated[
        bool, typer.Option("--join", help="Beside the vehicle's other meters, not in their place: their sum counts.")
    ] = False,
    note: Note = "",
    ingestion: Ingestion = INGESTION_DEFAULT,
    analytics: Analytics = ANALYTICS_DEFAULT,
    credentials: Credentials = PLAINTEXT,
) -> None:
    """Say which meter feeds a vehicle, from an instant on or for a span of time.

    Either may lie in the past, and answers about the past follow at once. Where the analytics service can be reached,
    it is asked for known devices whose ids differ from these only in case.
    """
    from_us, until_us = _span_us(from_, until)
    mapping, closed = ask(
        IngestionClient,
        ingestion,
        credentials,
        lambda client: client.map_vehicle(vehicle, meter, from_us, until_us, join=join, note=note),
    )
    for each in closed:
        say(f"closed: {told(each)}")
    say(told(mapping))
    with suppress(ClientError):  # it is mapped all the same
        vehicles, meters = ask(
            AnalyticsClient, analytics, credentials, lambda client: client.similar_ids(vehicle, meter)
        )
        warn_similar("vehicle", vehicle, vehicles)
        warn_similar("meter", meter, meters)


@takes_credentials
def unmap(
    vehicle: Vehicle,
    from_: From = None,
    until: Until = None,
    meter: Annotated[str, typer.Option(metavar="METER", help="Only this meter no longer. Default: all of them.")] = "",
    note: Note = "",
    ingestion: Ingestion = INGESTION_DEFAULT,
    credentials: Credentials = PLAINTEXT,
) -> None:
    """Say that no meter feeds a vehicle, from an instant on or for a span of time.

    What is taken away is told. To correct the past: unmap the span that is wrong, then map what is right.
    """
    from_us, until_us = _span_us(from_, until)
    removed = ask(
        IngestionClient,
        ingestion,
        credentials,
        lambda client: client.unmap_vehicle(vehicle, from_us, until_us, meter, note),
    )
    for each in removed:
        say(f"no longer: {told(each)}")
    if not removed:
        say(f"{vehicle} was not fed by {meter or 'a meter'} then; nothing has changed.")


def _span_us(start: str | None, end: str | None) -> tuple[int | None, int | None]:
    now_us = system_clock()
    return (
        None if start is None else moment_us("--from", start, now_us),
        None if end is None else moment_us("--until", end, now_us),
    )


def told(mapping: Mapping) -> str:
    return f"{mapping.vehicle_id} is fed by {mapping.meter_id} {span_told(mapping)}"


def span_told(mapping: Mapping) -> str:
    until = f"until {mapping.effective_until.ToJsonString()}" if mapping.HasField("effective_until") else "on"
    return f"from {mapping.effective_from.ToJsonString()} {until}"
