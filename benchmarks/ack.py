"""How long ExchangeTelemetry takes to acknowledge at half of the rate that it can take."""

from collections.abc import Callable

import psycopg

from benchmarks import load
from benchmarks.client import Target
from benchmarks.figures import Figure, percentile
from benchmarks.harness import Clients, Harness
from benchmarks.stream import require_stored

STREAMS = 8
PER_MESSAGE = 100

FULL_RATE_S = 5.0
"""Seconds at full speed, to learn the rate."""

SECONDS = 10.0

GRACE_S = 120.0
"""What clients get beyond their seconds to start, connect and be acknowledged."""


def measure(harness: Harness, *, workers: int, seconds: float, tell: Callable[[str], None]) -> list[Figure]:
    """The full rate, and the acknowledgements' latency at half of it. BenchmarkError when a reading is not stored."""
    name = f"ack{workers}"
    with (
        harness.database(name) as url,
        psycopg.connect(url, autocommit=True) as connection,
        harness.service("ingestion", name, ENERGYFLEET_WORKERS=str(workers)) as target,
        harness.clients(1) as clients,
    ):
        tell(f"ack, {workers} workers: {FULL_RATE_S:g} s at full rate")
        rate, sent = full_rate(clients, target)
        tell(f"ack, {workers} workers: {seconds:g} s at half rate")
        pushing = clients.start(load.push, target.address, "half", STREAMS, PER_MESSAGE, seconds, rate / 2)
        [half] = clients.watch([pushing], seconds + GRACE_S, _nothing)
        require_stored(connection, sent + half.sent)
    subject = f"exchange, {PER_MESSAGE} per request" + (f", {workers} workers" if workers > 1 else "")
    in_ms = [latency * 1e3 for latency in half.latencies_s]
    return [
        Figure(subject, "acknowledged at full rate", rate, "/s"),
        Figure(subject, "p50 acknowledgement at half rate", percentile(in_ms, 50), "ms"),
        Figure(subject, "p99", percentile(in_ms, 99), "ms"),
    ]


def full_rate(clients: Clients, target: Target) -> tuple[float, int]:
    """Readings a second that are acknowledged when devices push as fast as they can, and how many it took."""
    warming = clients.start(load.push, target.address, "full", STREAMS, PER_MESSAGE, 1.0)
    [warm] = clients.watch([warming], GRACE_S, _nothing)
    pushing = clients.start(load.push, target.address, "full-rate", STREAMS, PER_MESSAGE, FULL_RATE_S)
    [full] = clients.watch([pushing], GRACE_S, _nothing)
    return full.sent / full.elapsed_s, warm.sent + full.sent


def _nothing() -> None:
    pass
