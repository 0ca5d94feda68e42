"""Starts the ingestion service: `python -m ingestion_svc`. The only place where its parts are put together."""

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial

from energyfleet.v1.ingestion_service_pb2_grpc import add_IngestionServiceServicer_to_server

from ingestion_svc.batch import Batcher
from ingestion_svc.servicer import IngestionServicer
from ingestion_svc.writer import Writer
from ingestion_svc.writer_sql import METERS, VEHICLES
from shared.config import IngestionSettings, read_settings
from shared.db.engine import answers, connection_parameters, make_engine
from shared.db.migrate import require_usable_database
from shared.failpoints import fail_points_from
from shared.logs import configure_logs
from shared.serve import Service, rest_the_garbage_collector, run
from shared.timestamps import Clock, system_clock

NAME = "energyfleet.v1.IngestionService"
APPLICATION_NAME = "energyfleet ingestion"

HEALTH_TIMEOUT_S = 3.0
"""A database that takes longer for a connection and `SELECT 1` is away, for whoever waits for readings to be stored."""

MAPPING_CONNECTIONS = 2
"""Mappings are rare and one at a time; the second is for listing meanwhile."""


@asynccontextmanager
async def serving(settings: IngestionSettings, clock: Clock = system_clock) -> AsyncIterator[tuple[Service, str]]:
    """The running service and its HOST:PORT; drains and lets go of everything at the end. Raises StartRefused."""
    url = settings.require_database_url()
    await require_usable_database(url, APPLICATION_NAME)
    parameters = connection_parameters(url, APPLICATION_NAME, statement_timeout=f"{settings.write_timeout_s:.0f}s")
    pass_fail_point = fail_points_from(os.environ)
    batcher = Batcher(
        [Writer(METERS, parameters, settings.write_timeout_s, pass_fail_point) for _ in range(settings.writers)],
        [Writer(VEHICLES, parameters, settings.write_timeout_s, pass_fail_point) for _ in range(settings.writers)],
        settings,
    )
    engine = make_engine(url, APPLICATION_NAME, pool_size=MAPPING_CONNECTIONS, statement_timeout="10s")
    service = Service(
        NAME, settings, settings.ingestion_address, partial(answers, url, APPLICATION_NAME, HEALTH_TIMEOUT_S)
    )
    servicer = IngestionServicer(batcher, engine, service.draining, settings.retention_days, clock)
    add_IngestionServiceServicer_to_server(servicer, service.server)
    try:
        await batcher.start()
        yield service, await service.start()
    finally:
        await service.drain()
        await batcher.close()
        await engine.dispose()


async def main() -> None:
    """Serves until SIGTERM or SIGINT."""
    settings = read_settings(IngestionSettings)
    configure_logs(settings.log_level, "ingestion")
    rest_the_garbage_collector()
    async with serving(settings) as (service, address):
        await service.until_signal(address)


if __name__ == "__main__":
    run(main)
