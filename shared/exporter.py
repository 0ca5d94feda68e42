"""Metrics of ourselves, in Prometheus' text format over HTTP, on a port of their own.

A process that serves alone exports its own registry. Workers behind one port would each answer a scrape in turn, with
a share of the truth: they keep their values in memory-mapped files instead (prometheus-client's multiprocess mode), in
a directory of their supervisor, which exports the sum. A file belongs to a worker's number rather than to a process
id: a restarted worker goes on counting where the killed one stopped, and the files never become more.
"""

import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

import structlog
from prometheus_client import CollectorRegistry, Histogram, disable_created_metrics, generate_latest, values
from prometheus_client.multiprocess import MultiProcessCollector, mark_process_dead
from prometheus_client.process_collector import ProcessCollector

from shared.background import BackgroundLoop
from shared.config import ServingSettings
from shared.errors import StartRefused
from shared.metrics_server import MetricsServer
from shared.metrics_tls import MetricsTls

_log = structlog.get_logger()

DIRECTORY_VARIABLE = "PROMETHEUS_MULTIPROC_DIR"
"""Where a worker keeps its values; prometheus-client reads it when it is imported."""

LATENCY_BUCKETS_S = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0, 90.0)
"""From what a commit takes at best to the longest that a transaction may take."""

LAG_BUCKETS_S = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0)
"""A loop that comes a second late is in trouble, however much later it comes."""

WATCH_INTERVAL_S = 0.25
"""Often enough to meet a loop that is held up; costs nothing."""

CERTIFICATES_INTERVAL_S = 1.0
"""Between two looks at the files of certificates: as often as the service itself looks."""


class MetricsAddressTaken(StartRefused):
    """The metrics cannot be served where they should be."""


def new_registry() -> CollectorRegistry:
    """An empty registry. Switches off the `_created` series, which Prometheus would store and nobody asks for."""
    disable_created_metrics()  # type: ignore[no-untyped-call]  # it has no types
    return CollectorRegistry()


def own_registry() -> CollectorRegistry:
    """A registry with what is to be said of this process as such: `process_*`."""
    registry = new_registry()
    ProcessCollector(registry=registry)
    return registry


def keep_values_for_supervisor(worker: int) -> None:
    """Makes the metrics that are created from now on keep their values in the files of a worker's number."""
    values.ValueClass = values.MultiProcessValue(lambda: worker)  # type: ignore[no-untyped-call]  # it has no types


def registry_of_workers(directory: Path) -> CollectorRegistry:
    """A registry that tells the sum of what workers keep in a directory."""
    registry = new_registry()
    MultiProcessCollector(registry, str(directory))  # type: ignore[no-untyped-call]  # it has no types
    return registry


def forget_worker(directory: Path, worker: int) -> None:
    """Takes a dead worker's gauges out of the sum. What it has counted stays."""
    mark_process_dead(worker, str(directory))  # type: ignore[no-untyped-call]  # it has no types


def event_loop_lag(registry: CollectorRegistry) -> Histogram:
    """The metric for `watching_event_loop`, common to all services."""
    return Histogram(
        "energyfleet_event_loop_lag_seconds",
        "How much later than asked for the event loop ran a timer",
        buckets=LAG_BUCKETS_S,
        registry=registry,
    )


@asynccontextmanager
async def watching_event_loop(lag: Histogram, look: Callable[[], None]) -> AsyncIterator[None]:
    """Meanwhile observes the event loop's lag, and calls `look`, every WATCH_INTERVAL_S."""
    due = time.monotonic() + WATCH_INTERVAL_S

    async def watch() -> None:
        nonlocal due
        lag.observe(max(0.0, time.monotonic() - due))
        look()
        due = time.monotonic() + WATCH_INTERVAL_S

    loop = BackgroundLoop("event_loop_watch", watch, WATCH_INTERVAL_S)
    loop.start()
    try:
        yield
    finally:
        await loop.close()


@asynccontextmanager
async def exporting(
    address: str | None, registry: CollectorRegistry, settings: ServingSettings
) -> AsyncIterator[str | None]:
    """Meanwhile serves a registry on HOST:PORT, over TLS where the service itself does; None: serves nothing.

    Gives the address with the port that it got. Raises MetricsAddressTaken, or another StartRefused where a file of
    certificates cannot be used. Metrics are rendered in a thread, as files of workers are read for it.
    """
    if address is None:
        yield None
        return
    try:
        tls = MetricsTls.of(settings)
    except (OSError, ValueError) as error:
        raise StartRefused(f"TLS of the metrics cannot be set up: {error}") from None
    server = MetricsServer(partial(generate_latest, registry), tls)
    host, _, port = address.rpartition(":")
    try:
        served = f"{host}:{await server.start(host.strip('[]'), int(port))}"
    except OSError as error:
        raise MetricsAddressTaken(f"cannot serve metrics on {address}: it is in use, or not of this machine") from error
    _log.info("serving_metrics", address=served)
    files = None if tls is None else BackgroundLoop("metrics_certificates", tls.refresh, CERTIFICATES_INTERVAL_S)
    if files is not None:
        files.start()
    try:
        yield served
    finally:
        if files is not None:
            await files.close()
        await server.close()
