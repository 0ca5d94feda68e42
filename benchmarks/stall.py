"""A database that stands still under full load: is memory bounded, and is everything acknowledged once afterwards?"""

import time
from collections.abc import Callable

import psycopg

from benchmarks import load
from benchmarks.ack import GRACE_S, PER_MESSAGE
from benchmarks.client import BenchmarkError
from benchmarks.cpu import memory_bytes_each
from benchmarks.figures import Figure, Goal
from benchmarks.harness import Harness
from benchmarks.stream import require_stored

SECONDS = 60.0

STREAMS = 40
"""Each has the service's bound for one stream ready, together eight times what it takes of all streams."""

CALLERS = 200
CALL_READINGS = 5_000
"""Readings in a unary call: together 48 MB of messages, six times what the service lets calls hold."""

LOAD_BEFORE_S = 5.0
LOAD_AFTER_S = 5.0

FILLING_S = 10.0
"""Seconds of the stall in which the service fills what it may; from then on its memory is to be flat."""

_LOCK = "LOCK TABLE meter_current_status, vehicle_current_status IN ACCESS EXCLUSIVE MODE"


def measure(harness: Harness, *, seconds: float, workers: int, tell: Callable[[str], None]) -> list[Figure]:
    """Memory of the largest ingestion process. BenchmarkError when a reading is not acknowledged and stored, once."""
    with (
        harness.database("stall") as url,
        psycopg.connect(url) as locking,
        psycopg.connect(url, autocommit=True) as connection,
        harness.service("ingestion", "stall", ENERGYFLEET_WORKERS=str(workers)) as target,
        harness.clients(2) as clients,
    ):
        tell(f"stall: full load, the database stands still for {seconds:g} s")
        load_s = LOAD_BEFORE_S + seconds + LOAD_AFTER_S
        pushing = clients.start(load.push, target.address, "stall", STREAMS, PER_MESSAGE, load_s)
        calling = clients.start(load.call, target.address, "stall-call", CALLERS, CALL_READINGS, load_s)
        begun = time.monotonic()
        stalled_at = released_at = 0.0
        seen: list[tuple[float, int]] = []

        def look() -> None:
            nonlocal stalled_at, released_at
            now = time.monotonic()
            seen.append((now, max(memory_bytes_each(target.service_pid), default=0)))
            if not stalled_at and now > begun + LOAD_BEFORE_S:
                locking.execute(_LOCK)
                stalled_at = time.monotonic()
            elif stalled_at and not released_at and now > stalled_at + seconds:
                locking.rollback()
                released_at = now

        pushed, called = clients.watch([pushing, calling], load_s + GRACE_S, look)
        for each in (pushed, called):
            if each.stored + each.duplicate != each.sent:
                raise BenchmarkError(f"{each.sent:,} readings were sent, {each.stored:,} stored: {each.duplicate:,}")
        require_stored(connection, pushed.sent + called.sent)
    filled = [memory for at, memory in seen if stalled_at + min(FILLING_S, seconds / 2) <= at <= released_at]
    subject = f"database stalled for {seconds:g} s"
    return [
        Figure(subject, "readings acknowledged, each once", pushed.sent + called.sent, ""),
        Figure(subject, "of them in unary calls", called.sent, ""),
        Figure(subject, "unary calls told to come back later", called.refused, ""),
        Figure(subject, "streams opened", pushed.streams, ""),
        Figure(
            subject,
            "memory of a process at most",
            max(memory for _, memory in seen) / 2**20,
            "MiB",
            goal=Goal("below", 300),
        ),
        Figure(subject, "growth once it is full", (filled[-1] - filled[0]) / 2**20, "MiB", goal=Goal("below", 5)),
        Figure(subject, "slowest acknowledgement", max(pushed.latencies_s), "s"),
    ]
