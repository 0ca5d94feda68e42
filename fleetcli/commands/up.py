"""`energyfleet up`."""

import asyncio
import os
from typing import Annotated

import typer

from fleetcli.commands.command_errors import StackError
from fleetcli.commands.console import note, say
from fleetcli.commands.options import INGESTION_DEFAULT
from fleetcli.commands.signals import run_until_asked_to_stop
from fleetcli.commands.stack import Stack, running
from shared.config import AnalyticsSettings, ConfigError, IngestionSettings, read_settings


def up(
    ingestion: Annotated[
        str | None,
        typer.Option(metavar="HOST:PORT", help="Where the ingestion service shall listen. Port 0: a free one."),
    ] = None,
    analytics: Annotated[
        str | None,
        typer.Option(metavar="HOST:PORT", help="Where the analytics service shall listen. Port 0: a free one."),
    ] = None,
    workers: Annotated[
        int | None,
        typer.Option(metavar="N", help="Ingestion processes behind the one port.  [ENERGYFLEET_WORKERS, or 1]"),
    ] = None,
) -> None:
    """Start the database and both services in one go; Ctrl-C stops all of them.

    Without ENERGYFLEET_DATABASE_URL an embedded PostgreSQL is started in ENERGYFLEET_DATA_DIR (.energyfleet). With it,
    analytics answers from the replica that ENERGYFLEET_ANALYTICS_DATABASE_URL names, if any. The services log to
    standard error, from ENERGYFLEET_LOG_LEVEL up (here WARNING unless set).
    """
    for variable, address in (("INGESTION", ingestion), ("ANALYTICS", analytics)):
        if address is not None:
            os.environ[f"ENERGYFLEET_{variable}_ADDRESS"] = address
    if workers is not None:
        os.environ["ENERGYFLEET_WORKERS"] = str(workers)
    if not os.environ.get("ENERGYFLEET_LOG_LEVEL"):
        os.environ["ENERGYFLEET_LOG_LEVEL"] = "WARNING"
    settings = read_settings(IngestionSettings)
    analytics_settings = read_settings(AnalyticsSettings)  # what is wrong should be told before anything starts
    if analytics_settings.analytics_database_url and not settings.database_url:
        raise ConfigError(
            "ENERGYFLEET_ANALYTICS_DATABASE_URL is set and ENERGYFLEET_DATABASE_URL, whose replica it names, is not"
        )
    asyncio.run(run_until_asked_to_stop(_up(settings)))
    note("Everything has stopped.")


async def _up(settings: IngestionSettings) -> None:
    async with running(settings, os.environ) as stack:
        for line in _announcement(stack, settings):
            say(line)
        raise StackError(await stack.ended())


def _announcement(stack: Stack, settings: IngestionSettings) -> list[str]:
    certificate = settings.tls_cert_file
    grpcurl = "grpcurl -plaintext" if certificate is None else f"grpcurl -cacert {certificate}"
    simulate = "energyfleet simulate" if certificate is None else f"energyfleet simulate --ca {certificate}"
    if settings.tls_client_ca_file is not None:  # a gateway's that is an operator, which we do not have
        grpcurl += " -cert CERT -key KEY"
        simulate += " --cert CERT --key KEY"
    if stack.ingestion_address != INGESTION_DEFAULT:
        simulate += f" --ingestion {stack.ingestion_address}"
    return [
        "Energy Fleet is running; Ctrl-C stops it.",
        f"  database   {stack.database.whereabouts}",
        f"  ingestion  {stack.ingestion_address}",
        f"  analytics  {stack.analytics_address}",
        "Try",
        f"  {grpcurl} {stack.ingestion_address} describe energyfleet.v1.IngestionService",
        f"  {simulate}",
    ]
