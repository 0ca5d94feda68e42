"""Starts the ingestion service: `python -m ingestion_svc`. The only place where its parts are put together.

With `--workers N` this process serves nothing itself and supervises N that do. With `--archive`, as the service itself
starts it, it serves nothing either: it archives the days that wait for it, and ends.
"""

import argparse
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial

import structlog
from energyfleet.v1.ingestion_service_pb2_grpc import add_IngestionServiceServicer_to_server
from prometheus_client import CollectorRegistry

from ingestion_svc.admission import Admission, DeviceRates
from ingestion_svc.archiver import ARGUMENT as ARCHIVE_ARGUMENT
from ingestion_svc.archiver import Archiver, archive_once
from ingestion_svc.batch import Batcher
from ingestion_svc.device_evidence import DeviceEvidence
from ingestion_svc.failpoints import fail_points_from
from ingestion_svc.heartbeat import Heartbeat
from ingestion_svc.intake import Intake
from ingestion_svc.maintenance import Maintenance, Sealing
from ingestion_svc.mappings_sql import MAPPING_OPTIONS
from ingestion_svc.reading_metrics import IngestionMetrics
from ingestion_svc.readings import TimeBounds
from ingestion_svc.servicer import LIST_LIMITS, IngestionServicer
from ingestion_svc.storage_metrics import StorageMetrics
from ingestion_svc.supervisor import WorkersFailed, supervise
from ingestion_svc.writer import Writer
from ingestion_svc.writer_sql import METERS, VEHICLES
from shared.archive.archive_errors import ExtraMissing
from shared.archive.archive_extra import require_extra
from shared.background import BackgroundLoop
from shared.config import IngestionSettings, read_settings
from shared.db.engine import answers, connection_parameters, make_engine
from shared.db.migrate import refusing_start, require_usable_database
from shared.errors import StartRefused
from shared.exporter import DIRECTORY_VARIABLE, exporting, keep_values_for_supervisor, own_registry, watching_event_loop
from shared.logs import configure_logs
from shared.serve import Service, run, tune_gc
from shared.timestamps import Clock, system_clock

NAME = "energyfleet.v1.IngestionService"
APPLICATION_NAME = "energyfleet ingestion"

HEALTH_TIMEOUT_S = 3.0
"""A database that takes longer for a connection and `SELECT 1` is away, for whoever waits for readings to be stored."""

CALLS_BESIDE_STREAMS = 100
"""Of a connection whose streams are as many as a peer may have: so that the next one is told so, and does not wait in
its client."""

MAPPING_CONNECTIONS = 2
"""Mappings are rare and one at a time; the second is for listing meanwhile."""


@asynccontextmanager
async def serving(
    settings: IngestionSettings,
    clock: Clock = system_clock,
    registry: CollectorRegistry | None = None,
    *,
    shared_port: bool = False,
) -> AsyncIterator[tuple[Service, str]]:
    """The running service and its HOST:PORT; drains and lets go of everything at the end. Raises StartRefused.

    What it tells of itself goes into `registry`, which is served where the settings say. `shared_port`: others listen
    on the port too.
    """
    registry = registry or own_registry()
    metrics = IngestionMetrics(registry)
    url = settings.require_database_url()
    await require_usable_database(url, APPLICATION_NAME)
    parameters = connection_parameters(url, APPLICATION_NAME, statement_timeout=f"{settings.write_timeout_s:.0f}s")
    pass_fail_point = fail_points_from(os.environ)
    limits = settings.power_limits
    background = connection_parameters(url, APPLICATION_NAME, statement_timeout="30s")
    maintenance = Maintenance(
        background,
        settings.retention_days,
        settings.rollup_retention_days,
        clock,
        metrics.set_partitions_ahead,
        None if settings.archive is None else str(settings.archive),
        metrics.set_retention_held,
    )
    sealing = Sealing(background, settings.seal_after_days, clock, pass_fail_point, StorageMetrics(registry))
    # Nobody is told that evidence is durable, and no replica sees a beat before its log is on the disk: no commit of
    # either has to wait for that.
    unwaited = connection_parameters(url, APPLICATION_NAME, statement_timeout="30s", synchronous_commit="off")
    evidence = DeviceEvidence(unwaited)
    heartbeat = Heartbeat(unwaited)
    loops: list[BackgroundLoop] = [maintenance, sealing, evidence, heartbeat]
    if settings.archive is not None:
        try:
            require_extra()
        except ExtraMissing as missing:
            raise StartRefused(f"ENERGYFLEET_ARCHIVE_URL is set: {missing}") from None
        loops.append(Archiver(background, settings, settings.archive, clock, metrics.set_archive_waiting))
    batcher = Batcher(
        [
            Writer(METERS, parameters, settings.write_timeout_s, pass_fail_point, limits)
            for _ in range(settings.writers)
        ],
        [
            Writer(VEHICLES, parameters, settings.write_timeout_s, pass_fail_point, limits)
            for _ in range(settings.writers)
        ],
        settings,
        metrics,
    )
    engine = make_engine(
        url, APPLICATION_NAME, pool_size=MAPPING_CONNECTIONS, statement_timeout="10s", **MAPPING_OPTIONS
    )
    service = Service(
        NAME,
        settings,
        settings.ingestion_address,
        partial(answers, url, APPLICATION_NAME, HEALTH_TIMEOUT_S),
        LIST_LIMITS,
        calls_per_connection=settings.streams_per_peer_max + CALLS_BESIDE_STREAMS,
        connections=settings.streams_max,
        registry=registry,
        shared_port=shared_port,
    )
    admission = Admission(settings, metrics)
    service.on_drain.append(admission.drain)
    rates = DeviceRates(settings.device_max_readings_per_s)

    def bounds() -> TimeBounds:
        return TimeBounds.at(clock(), settings.retention_days, maintenance.floor_us)

    servicer = IngestionServicer(
        admission,
        Intake(batcher, evidence, rates, bounds),
        engine,
        bounds,
        settings.inflight_max_readings_per_stream,
        limits,
    )
    add_IngestionServiceServicer_to_server(servicer, service.server)
    async with (
        exporting(settings.ingestion_metrics_address, registry, settings),
        watching_event_loop(metrics.event_loop_lag, lambda: metrics.set_inflight(batcher.inflight_readings)),
    ):
        try:
            with refusing_start("ENERGYFLEET_DATABASE_URL"):
                await batcher.start()
                for loop in loops:
                    loop.start()
                address = await service.start()
            yield service, address
        finally:
            await service.drain()
            await batcher.close()
            for loop in loops:
                await loop.close()
            await engine.dispose()


async def main() -> None:
    """Serves until SIGTERM or SIGINT, in this process or through workers."""
    arguments = _arguments()
    if arguments.workers is not None:
        os.environ["ENERGYFLEET_WORKERS"] = arguments.workers
    settings = read_settings(IngestionSettings)
    configure_logs(settings.log_level, "ingestion")
    if arguments.archive:
        await archive_once(settings, APPLICATION_NAME)
        return
    if arguments.worker is None and settings.workers > 1:
        try:
            await supervise(settings)
        except WorkersFailed as failure:
            raise SystemExit(str(failure)) from None
        return
    if arguments.worker is not None:
        structlog.contextvars.bind_contextvars(worker=arguments.worker)
        if os.environ.get(DIRECTORY_VARIABLE):
            keep_values_for_supervisor(arguments.worker)
    tune_gc()
    async with serving(settings, shared_port=arguments.worker is not None) as (service, address):
        await service.until_signal(address)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m ingestion_svc", description="Takes telemetry in.")
    parser.add_argument(
        "--workers", metavar="N", help="serve through N processes behind one port (ENERGYFLEET_WORKERS, or 1)"
    )
    parser.add_argument(ARCHIVE_ARGUMENT, action="store_true", dest="archive", help="archive closed days, and end")
    parser.add_argument("--worker", type=int, help=argparse.SUPPRESS)  # its number; what a supervisor starts
    return parser.parse_args()


if __name__ == "__main__":
    run(main)
