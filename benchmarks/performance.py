"""Latency of analytics with many rows stored: one vehicle, alone and beside ingest, the fleet, and raw rows."""

import time
from collections.abc import Callable
from pathlib import Path

from benchmarks import ask, history, load, raw_fleet
from benchmarks.ack import GRACE_S, PER_MESSAGE, STREAMS
from benchmarks.client import BenchmarkError, Target
from benchmarks.figures import Figure, Goal, percentile
from benchmarks.harness import Harness
from benchmarks.history import Stored
from benchmarks.reads import latency_figures, one_vehicle, questions, save_plans, whole_fleet
from shared.timestamps import system_clock

HISTORY_ROWS = 2_880_000
"""A tenth of what 10,000 pairs send in a day, so that loading takes seconds: 1,000 pairs."""

CALLS = 2_000
"""Twenty of them above the 99th percentile."""

BESIDE_RATE = 10_000.0
"""Readings a second that come in beside the questions: 300,000 chargers that tell both sides once a minute."""

BESIDE_ENOUGH = 0.95
"""Share of that rate: connecting and the last acknowledgement are part of the time."""

BESIDE_S = 10.0

MARGIN_S = 4.0
"""Ingest begins so long before the questions that count, and goes on so long after them."""


def measure(
    harness: Harness, *, history_rows: int, calls: int, plans_directory: Path, tell: Callable[[str], None]
) -> list[Figure]:
    """Medians and percentiles in milliseconds. BenchmarkError also where a plan is not as it should be, or where ingest
    did not go on beside the questions."""
    with harness.database("performance") as url:
        tell(f"performance: storing {history_rows:,} rows")
        started = time.monotonic()
        day = history.extend(url, history.minutes_of_a_day(history_rows, history.full_hour(system_clock())), 1)
        tell(f"performance: stored in {time.monotonic() - started:.0f} s, looking at plans")
        saved = save_plans(harness, "performance", day, plans_directory, f"{day.rows}-rows")
        tell(f"performance: {len(saved)} plans saved in {plans_directory}")
        subject = f"GetVehiclePerformance, 24 h, {day.rows:,} rows"
        with harness.service("analytics", "performance") as target:
            tell(f"performance: asking {calls:,} times about a vehicle, then about all of them")
            figures = one_vehicle(harness, target, day, calls, subject)
            fleet = whole_fleet(harness, target, day, f"ListVehiclePerformance, 24 h, {day.pairs:,} vehicles")
            tell(f"performance: asking for {BESIDE_S:g} s beside {BESIDE_RATE:,.0f} readings a second")
            figures += _beside_ingest(harness, target, day, "GetVehiclePerformance, beside ingest")
        tell("performance: asking the raw rows")
        figures += fleet + raw_fleet.measure(url, day)
    return figures


def _beside_ingest(harness: Harness, target: Target, day: Stored, subject: str) -> list[Figure]:
    """The same questions while the same devices send what comes next; BenchmarkError when that is not all stored.

    Ingest begins at its dearest: the service knows none of the devices, each of them ends an hour, and since the
    checkpoint after loading no page that it writes to was written."""
    asked = questions(day, 10_000)
    with harness.service("ingestion", "performance") as taking, harness.clients(1) as clients:
        seconds = MARGIN_S + BESIDE_S + MARGIN_S
        sending = clients.start(
            load.go_on,
            taking.address,
            day.pairs,
            day.end_us,
            min(STREAMS, day.pairs),
            PER_MESSAGE,
            seconds,
            BESIDE_RATE,
        )
        harness.in_client(ask.performance, target, asked, day.a_day, MARGIN_S)
        latencies, _ = harness.in_client(ask.performance, target, asked, day.a_day, BESIDE_S)
        if sending.ready():
            raise BenchmarkError("ingest had ended before the last question was answered")
        [sent] = clients.watch([sending], seconds + GRACE_S, _nothing)
    if sent.stored != sent.sent:
        raise BenchmarkError(f"{sent.sent:,} readings were sent beside the questions and {sent.stored:,} stored as new")
    return [
        Figure(subject, "ingest", sent.sent / sent.elapsed_s, "/s", goal=Goal("at least", BESIDE_ENOUGH * BESIDE_RATE)),
        Figure(subject, "p99 acknowledgement", percentile(sent.latencies_s, 99) * 1e3, "ms"),
        *latency_figures(subject, latencies),
    ]


def _nothing() -> None:
    pass
