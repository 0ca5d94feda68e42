"""Half load and 200 reconnects a second for as long as one likes: does memory grow?"""

import time
from collections.abc import Callable, Sequence
from statistics import linear_regression

import psycopg

from benchmarks import load, visitors
from benchmarks.ack import GRACE_S, PER_MESSAGE, STREAMS, full_rate
from benchmarks.client import BenchmarkError
from benchmarks.cpu import memory_bytes_each
from benchmarks.figures import Figure, Goal, percentile
from benchmarks.harness import Harness
from benchmarks.stream import require_stored

SECONDS = 600.0
RECONNECTS_PER_S = 200.0

KEPT_UP = 0.95
"""Share of the steady load that must have come through, or it was no soak at half rate."""

WARM_UP = 0.3
"""Share of the time that does not count: allocator and caches reach their size."""


def measure(harness: Harness, *, seconds: float, workers: int, tell: Callable[[str], None]) -> list[Figure]:
    """Slope of the resident memory of all ingestion processes. BenchmarkError when a reading is not stored, once."""
    with (
        harness.database("soak") as url,
        psycopg.connect(url, autocommit=True) as connection,
        harness.service("ingestion", "soak", ENERGYFLEET_WORKERS=str(workers)) as target,
        harness.clients(2) as clients,
    ):
        tell("soak: full rate")
        rate, sent = full_rate(clients, target)
        tell(f"soak: {seconds:g} s at {rate / 2:,.0f} readings and {RECONNECTS_PER_S:g} reconnects a second")
        working = [
            clients.start(load.push, target.address, "steady", STREAMS, PER_MESSAGE, seconds, rate / 2),
            clients.start(visitors.visit, target.address, "visitor", RECONNECTS_PER_S, seconds),
        ]
        begun = time.monotonic()
        seen: list[tuple[float, int]] = []
        steady, visits = clients.watch(
            working,
            seconds + GRACE_S,
            lambda: seen.append((time.monotonic() - begun, sum(memory_bytes_each(target.service_pid)))),
        )
        if steady.stored + visits.stored != steady.sent + visits.sent:
            raise BenchmarkError("not every reading was acknowledged as new")
        require_stored(connection, sent + steady.sent + visits.sent)
    subject = f"soak of {seconds:g} s"
    return [
        Figure(subject, "readings acknowledged, each once", steady.sent + visits.sent, ""),
        Figure(subject, "steadily", steady.sent / seconds, "/s", goal=Goal("at least", KEPT_UP * rate / 2)),
        Figure(subject, "reconnects", visits.streams / seconds, "/s"),
        Figure(subject, "p99 of a whole visit", percentile(visits.latencies_s, 99) * 1e3, "ms"),
        Figure(subject, "memory at the end", seen[-1][1] / 2**20, "MiB"),
        Figure(subject, "slope of memory", slope(seen, WARM_UP * seconds, seconds), "MiB/min", goal=Goal("below", 1)),
    ]


def slope(seen: Sequence[tuple[float, int]], from_s: float, until_s: float) -> float:
    """MiB a minute, by least squares, of (seconds, bytes) within a span of time."""
    counted = [(at, memory) for at, memory in seen if from_s <= at <= until_s]
    return linear_regression(*zip(*counted, strict=True)).slope * 60 / 2**20
