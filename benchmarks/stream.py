"""Durable ingest end to end: StreamTelemetry in, committed, answered; beside raw COPY of the same rows."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from statistics import median
from typing import Any

import psycopg

from benchmarks import client, raw_copy
from benchmarks.client import BenchmarkError, Effort
from benchmarks.cpu import memory_bytes_each
from benchmarks.figures import Figure, Goal
from benchmarks.harness import Harness
from benchmarks.mutual_tls import Fleet, credentials_of
from benchmarks.raw_copy import RawEffort
from benchmarks.readings import INTERVAL_US, PAIRS, Span, consecutive_spans
from shared.timestamps import system_clock

PER_MESSAGE = (1, 10, 100, 1_000)

ROUNDS = 3
"""Of both, in turn: a median that one checkpoint or one busy neighbour does not move."""

READINGS = 200_000
"""A round of two seconds at 100 readings per message."""

PER_MESSAGE_OVER_TLS = 100

STREAMS = 8
"""Concurrent calls. One would wait for its own message to be read between any two of them."""

_GOALS = {
    1: {"ingest": Goal("at least", 10_000)},
    100: {"ingest": Goal("at least", 80_000), "ratio": Goal("at least", 0.25)},
}

_COUNT_HISTORY = (
    "SELECT (SELECT count(*) FROM meter_telemetry_history) + (SELECT count(*) FROM vehicle_telemetry_history)"
)


@dataclass(frozen=True)
class Round:
    """What it took to store a span, once through the service and once by raw COPY."""

    span: Span
    ours: Effort
    raw: RawEffort

    @property
    def rate(self) -> float:
        """Readings a second through the service."""
        return self.span.count / self.ours.wall_s

    @property
    def raw_rate(self) -> float:
        """Rows a second by raw COPY."""
        return self.span.count / self.raw.wall_s


def measure(
    harness: Harness,
    *,
    per_message: Sequence[int],
    readings: int,
    rounds: int,
    streams: int,
    workers: int,
    registers: bool,
    tell: Callable[[str], None],
) -> list[Figure]:
    """The figures of each message size. `readings` is a round's size at 100 readings per message and more; `registers`:
    the devices send those.

    BenchmarkError when not every reading ended up in history, once."""
    counts = [readings_per_round(size, readings) for size in per_message for _ in range(rounds)]
    # Before the first round, one reading of each device, not measured: it makes the devices and their status rows.
    last_us = system_clock() // INTERVAL_US * INTERVAL_US
    warm_up, *spans = (replace(span, registers=registers) for span in consecutive_spans([2 * PAIRS, *counts], last_us))
    figures: list[Figure] = []
    with (
        harness.database("stream") as url,
        psycopg.connect(url, autocommit=True) as connection,
        harness.service("ingestion", "stream", ENERGYFLEET_WORKERS=str(workers)) as target,
    ):
        raw_copy.create_tables(connection, warm_up.first_us, system_clock())
        harness.in_client(client.stream, target, warm_up, 100, streams)
        raw_copy.copy(connection, warm_up, target.postgres_pid)
        for number, size in enumerate(per_message):
            done = []
            for each, span in enumerate(spans[number * rounds : (number + 1) * rounds], 1):
                tell(f"stream, {size} per message, {workers} workers: round {each} of {rounds}")
                ours = harness.in_client(client.stream, target, span, size, streams)
                done.append(Round(span, ours, raw_copy.copy(connection, span, target.postgres_pid)))
            figures += figures_of(size, done, workers, registers=registers)
        figures.append(
            Figure(
                f"ingestion service, {workers} workers" if workers > 1 else "ingestion service",
                "memory of the largest",
                max(memory_bytes_each(target.service_pid)) / 2**20,
                "MiB",
            )
        )
        require_stored(connection, warm_up.count + sum(counts))
    return figures


def over_mutual_tls(
    harness: Harness, *, readings: int, rounds: int, streams: int, tell: Callable[[str], None]
) -> list[Figure]:
    """The rate over mutual TLS beside that in plaintext: two services on one database, in turn."""
    fleet = Fleet(harness.directory / "stream-tls")
    shown = credentials_of(fleet.directory, roles=["gateway"])
    last_us = system_clock() // INTERVAL_US * INTERVAL_US
    warm_up, *spans = consecutive_spans([2 * PAIRS, *([readings] * 2 * rounds)], last_us)
    plain_s: list[float] = []
    secured_s: list[float] = []
    with (
        harness.database("stream-tls") as url,
        psycopg.connect(url, autocommit=True) as connection,
        harness.service("ingestion", "stream-tls") as plain,
        harness.service("ingestion", "stream-tls", ready="secured", **fleet.variables) as secured,
    ):
        harness.in_client(client.stream, plain, warm_up, PER_MESSAGE_OVER_TLS, streams)
        for number in range(rounds):
            tell(f"stream over mutual TLS: round {number + 1} of {rounds}")
            for target, took_s in ((plain, plain_s), (replace(secured, credentials=shown), secured_s)):
                span = spans.pop(0)
                took_s.append(harness.in_client(client.stream, target, span, PER_MESSAGE_OVER_TLS, streams).wall_s)
        require_stored(connection, warm_up.count + readings * 2 * rounds)
    subject = f"stream, {PER_MESSAGE_OVER_TLS} per message, mutual TLS"
    ratios = [plain / secured for plain, secured in zip(plain_s, secured_s, strict=True)]
    return [
        Figure(subject, "durable ingest", readings / median(secured_s), "/s"),
        Figure(subject, "in plaintext", readings / median(plain_s), "/s"),
        Figure(subject, "ratio of the two", median(ratios), "", min(ratios), max(ratios)),
    ]


def readings_per_round(per_message: int, most: int) -> int:
    """Small messages are slower: rounds of about the same time, in whole messages."""
    count = most // (5 if per_message < 10 else 2 if per_message < 100 else 1)
    return max(per_message, count // per_message * per_message)


def figures_of(per_message: int, rounds: Sequence[Round], workers: int = 1, *, registers: bool = False) -> list[Figure]:
    """A message size's figures: medians of the rounds, processor time over all of them."""
    subject = f"{'registers' if registers else 'stream'}, {per_message:,} per message"
    if workers > 1:
        subject += f", {workers} workers"
    goals = _GOALS.get(per_message, {})
    rates = [each.rate for each in rounds]
    raw_rates = [each.raw_rate for each in rounds]
    ratios = [each.rate / each.raw_rate for each in rounds]
    readings = sum(each.span.count for each in rounds)

    def us_each(seconds: float) -> float:
        return seconds / readings * 1e6

    return [
        Figure(subject, "durable ingest", median(rates), "/s", min(rates), max(rates), goals.get("ingest")),
        Figure(subject, "raw COPY", median(raw_rates), "/s", min(raw_rates), max(raw_rates)),
        Figure(subject, "ratio of the two", median(ratios), "", min(ratios), max(ratios), goals.get("ratio")),
        Figure(subject, "PostgreSQL CPU per reading", us_each(sum(each.ours.postgres_cpu_s for each in rounds)), "us"),
        Figure(subject, "service CPU per reading", us_each(sum(each.ours.service_cpu_s for each in rounds)), "us"),
        Figure(subject, "client CPU per reading", us_each(sum(each.ours.client_cpu_s for each in rounds)), "us"),
        Figure(subject, "PostgreSQL CPU per raw row", us_each(sum(each.raw.postgres_cpu_s for each in rounds)), "us"),
    ]


def require_stored(connection: psycopg.Connection[Any], sent: int) -> None:
    """BenchmarkError where history does not have exactly so many readings."""
    row = connection.execute(_COUNT_HISTORY).fetchone()
    assert row is not None
    if row[0] != sent:
        raise BenchmarkError(f"{sent:,} readings were sent and answered as stored, history has {row[0]:,}")
