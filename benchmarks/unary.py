"""Latency of IngestTelemetry, commit included, at a steady rate of calls with one reading each."""

from collections.abc import Callable

from benchmarks import client
from benchmarks.figures import Figure, Goal, percentile
from benchmarks.harness import Harness
from benchmarks.readings import INTERVAL_US, PAIRS, consecutive_spans
from shared.timestamps import system_clock

RATE = 500.0
"""Calls a second: 15,000 chargers, each telling both sides once a minute, in calls of their own."""

SECONDS = 15.0

_GOAL = Goal("below", 50)


def measure(harness: Harness, *, rate: float, seconds: float, tell: Callable[[str], None]) -> list[Figure]:
    """Median and 99th percentile in milliseconds, from the instant a call was due to its answer."""
    count = max(1, round(rate * seconds))
    now_us = system_clock() // INTERVAL_US * INTERVAL_US
    # All devices first, and some calls, not measured: connections, plans and caches are those of a running service.
    devices, warm_up, span = consecutive_spans([2 * PAIRS, max(1, round(rate)), count], now_us)
    tell(f"unary: {rate:,.0f} calls a second for {seconds:g} s")
    with harness.database("unary"), harness.service("ingestion", "unary") as target:
        harness.in_client(client.stream, target, devices, 1_000, 2)
        harness.in_client(client.unary, target, warm_up, rate)
        latencies, effort = harness.in_client(client.unary, target, span, rate)
    subject = f"unary ingest at {rate:,.0f}/s"
    in_ms = [latency * 1e3 for latency in latencies]
    goal = _GOAL if rate == RATE else None
    return [
        Figure(subject, "p50, commit included", percentile(in_ms, 50), "ms"),
        Figure(subject, "p99", percentile(in_ms, 99), "ms", goal=goal),
        Figure(subject, "slowest", max(in_ms), "ms"),
        Figure(subject, "PostgreSQL CPU per call", effort.postgres_cpu_s / count * 1e6, "us"),
        Figure(subject, "service CPU per call", effort.service_cpu_s / count * 1e6, "us"),
    ]
