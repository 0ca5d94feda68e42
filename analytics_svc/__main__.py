"""Starts the analytics service: `python -m analytics_svc`. The only place where its parts are put together."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import fields

from energyfleet.v1.analytics_service_pb2_grpc import add_AnalyticsServiceServicer_to_server
from prometheus_client import CollectorRegistry

from analytics_svc.performance import Thresholds
from analytics_svc.queries import Queries
from analytics_svc.replica import ReplicaWatch
from analytics_svc.request_metrics import AnalyticsMetrics
from analytics_svc.servicer import LIST_LIMITS, AnalyticsServicer
from shared.config import AnalyticsSettings, read_settings
from shared.db.migrate import refusing_start, require_usable_database
from shared.exporter import exporting, own_registry, watching_event_loop
from shared.logs import configure_logs
from shared.serve import Service, run, tune_gc
from shared.timestamps import US_PER_MINUTE, US_PER_SECOND, Clock, system_clock

NAME = "energyfleet.v1.AnalyticsService"
APPLICATION_NAME = "energyfleet analytics"

HEALTH_TIMEOUT_S = 3.0
"""Seconds after which a database that does not answer counts as unavailable."""

CALLS_PER_CONNECTION = 1_000
"""At a time: a program that asks for all of a fleet at once, and again when its deadlines have passed. What answers
hold is bounded in bytes."""

CONNECTIONS = 1_000
"""That there must be room for: more people and programs than look at one fleet."""


@asynccontextmanager
async def serving(
    settings: AnalyticsSettings,
    clock: Clock = system_clock,
    registry: CollectorRegistry | None = None,
    *,
    read_ahead: bool = False,
) -> AsyncIterator[tuple[Service, str]]:
    """The running service and its HOST:PORT; drains and closes everything at the end. Raises StartRefused.

    Its metrics go into `registry`, which is served at the address in the settings. With `read_ahead` it begins to read
    at once, in the background, what most questions need.
    """
    registry = registry or own_registry()
    metrics = AnalyticsMetrics(registry)
    url = settings.require_database_url()
    await require_usable_database(url, APPLICATION_NAME, settings.database_variable)
    queries = Queries(url, APPLICATION_NAME, pool_size=settings.pool_size, timeout_s=settings.query_timeout_s)
    # A connection of its own: that all others are busy does not mean that the database is unavailable.
    health = Queries(url, f"{APPLICATION_NAME} health", pool_size=1, timeout_s=HEALTH_TIMEOUT_S)
    watch = ReplicaWatch(health.replica_lag_us, settings.replica_lag_max_s, metrics.set_replica_lag)
    service = Service(
        NAME,
        settings,
        settings.analytics_address,
        watch.fit_to_serve,
        LIST_LIMITS,
        registry=registry,
        calls_per_connection=CALLS_PER_CONNECTION,
        connections=CONNECTIONS,
    )
    servicer = AnalyticsServicer(
        queries,
        thresholds(settings),
        round(settings.stale_after_s * US_PER_SECOND),
        clock,
        round(settings.session_pause_minutes * US_PER_MINUTE),
    )
    metrics.observe(servicer)
    add_AnalyticsServiceServicer_to_server(servicer, service.server)
    async with (
        exporting(settings.analytics_metrics_address, registry, settings),
        watching_event_loop(metrics.event_loop_lag, lambda: None),
    ):
        try:
            with refusing_start(settings.database_variable):
                address = await service.start()
            if read_ahead:
                queries.baselines.read_ahead(clock(), thresholds(settings).comparing)
            yield service, address
        finally:
            await service.drain()
            await health.close()
            await queries.close()


def thresholds(settings: AnalyticsSettings) -> Thresholds:
    """The configured ones, which have the settings' names."""
    return Thresholds(**{each.name: getattr(settings, each.name) for each in fields(Thresholds)})


async def main() -> None:
    settings = read_settings(AnalyticsSettings)
    configure_logs(settings.log_level, "analytics")
    tune_gc()
    async with serving(settings, read_ahead=True) as (service, address):
        await service.until_signal(address)


if __name__ == "__main__":
    run(main)
