"""Latency of GetVehiclePerformance over gRPC: 24 hours of one vehicle, with many rows stored."""

import random
import time
from collections.abc import Callable

from energyfleet.v1.analytics_service_pb2 import GetVehiclePerformanceRequest, TimeWindow

from benchmarks import client, history
from benchmarks.figures import Figure, Goal, percentile
from benchmarks.harness import Harness
from benchmarks.history import StoredDay
from benchmarks.readings import INTERVAL_US, vehicle_id
from shared.timestamps import proto_from_us, system_clock

HISTORY_ROWS = 2_880_000
"""A tenth of the design's 28.8 million, so that loading takes seconds: 1,000 pairs instead of 10,000, a day each."""

CALLS = 2_000
"""Twenty of them above the 99th percentile."""

WARM_UP_CALLS = 200

SEED = 20_260_209

_GOALS = {50: Goal("below", 5), 99: Goal("below", 15)}


def measure(harness: Harness, *, history_rows: int, calls: int, tell: Callable[[str], None]) -> list[Figure]:
    """Median and 99th percentile in milliseconds, one question at a time, each about a vehicle picked at random."""
    with harness.database("performance") as url:
        tell(f"performance: storing {history_rows:,} rows")
        started = time.monotonic()
        day = history.load(url, history_rows, system_clock() // INTERVAL_US * INTERVAL_US)
        tell(f"performance: stored in {time.monotonic() - started:.0f} s, asking {calls:,} times")
        questions = _questions(day, WARM_UP_CALLS + calls)
        warm_up, counted = questions[:WARM_UP_CALLS], questions[WARM_UP_CALLS:]
        with harness.service("analytics", "performance") as target:
            harness.in_client(client.performance, target, warm_up, history.INSTANTS)
            latencies, effort = harness.in_client(client.performance, target, counted, history.INSTANTS)
    subject = f"GetVehiclePerformance, 24 h, {day.rows:,} rows"
    in_ms = [latency * 1e3 for latency in latencies]
    return [
        Figure(subject, "p50", percentile(in_ms, 50), "ms", goal=_GOALS[50]),
        Figure(subject, "p99", percentile(in_ms, 99), "ms", goal=_GOALS[99]),
        Figure(subject, "slowest", max(in_ms), "ms"),
        Figure(subject, "PostgreSQL CPU per call", effort.postgres_cpu_s / calls * 1e6, "us"),
        Figure(subject, "service CPU per call", effort.service_cpu_s / calls * 1e6, "us"),
    ]


def _questions(day: StoredDay, count: int) -> list[GetVehiclePerformanceRequest]:
    window = TimeWindow(start=proto_from_us(day.start_us), end=proto_from_us(day.end_us))
    picked = random.Random(SEED)
    return [
        GetVehiclePerformanceRequest(vehicle_id=vehicle_id(picked.randrange(day.pairs)), window=window)
        for _ in range(count)
    ]
