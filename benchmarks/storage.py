"""What readings take of the disk, open and sealed; what sealing takes, and what live readings notice of it."""

import asyncio
import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from statistics import median

import psycopg
from psycopg import AsyncConnection

from benchmarks import backlog, client, history, sealed_questions
from benchmarks.client import BenchmarkError, Target
from benchmarks.cpu import cpu_seconds
from benchmarks.figures import Figure, Goal, percentile
from benchmarks.harness import Harness
from benchmarks.history import FULL_PRECISION, WATT_HOURS, Values
from benchmarks.readings import INTERVAL_US, Span, consecutive_spans
from benchmarks.sealing import NEVER_SEALS, days_ago, seal_days
from shared.db.device_kind import KINDS
from shared.db.engine import connection_parameters
from shared.db.storage import Storage
from shared.db.storage import measure as measure_storage
from shared.timestamps import US_PER_DAY, system_clock

SEED = 1

VEHICLES = 300
"""And as many meters: a day of 864,000 readings is sealed in some seven seconds."""

BYTES_READINGS = 144_000
"""Enough for sizes: a page more or less no longer counts."""

QUARTER_HOUR_US = 15 * INTERVAL_US

CASES: Sequence[tuple[str, int, Values]] = (
    ("Wh, 0.1 V, every minute", INTERVAL_US, WATT_HOURS),
    ("the same, off by up to 1 s", INTERVAL_US, Values(jitter_ms=999)),
    ("full precision, every minute", INTERVAL_US, FULL_PRECISION),
    ("Wh, 0.1 V, every 15 minutes", QUARTER_HOUR_US, WATT_HOURS),
)

BYTES_GOALS = {CASES[0][0]: Goal("below", 8)}

SEALED_DAYS_AGO = (5, 4, 3)
"""Days that are sealed one after the other: one alone, the others beside live readings."""

LIVE_RATE = 200.0
"""Unary calls a second: 6,000 chargers, each telling both sides once a minute."""

LIVE_S = 7.0


def measure(
    harness: Harness, *, vehicles: int, backlog_vehicles: int, seed: int, tell: Callable[[str], None]
) -> list[Figure]:
    """All of it, in some three minutes. BenchmarkError where a reading is lost, or an answer wrong."""
    return [
        Figure("storage", "seed", seed, ""),
        *_bytes(harness, seed, tell),
        *_sealing(harness, vehicles, seed, tell),
        *backlog.measure(harness, vehicles=backlog_vehicles, seed=seed, tell=tell),
        *sealed_questions.measure(harness, tell=tell),
    ]


def _bytes(harness: Harness, seed: int, tell: Callable[[str], None]) -> list[Figure]:
    """Bytes per reading of both kinds together: tables with their indexes and TOAST, as rows and sealed, and files."""
    figures = []
    for number, (name, interval_us, values) in enumerate(CASES):
        tell(f"storage: bytes per reading, {name}")
        with harness.database(f"bytes-{number}") as url:
            history.add_devices(url, BYTES_READINGS * interval_us // (2 * US_PER_DAY), system_clock())
            history.store_days(url, days_ago(3), interval_us, values, seed)
            opened = _stored(url)
            done = seal_days(url, 2)
            sealed = _stored(url)
            archived = _archived_bytes_each(url, harness.directory / f"archive-{number}")
        readings = sum(opened.open(kind.name).readings for kind in KINDS)
        if (done.readings, sum(sealed.sealed(kind.name).readings for kind in KINDS)) != (readings, readings):
            raise BenchmarkError(f"{readings:,} readings were stored, and {done.readings:,} sealed")
        subject = f"a reading, {name}"
        as_rows = sum(opened.open(kind.name).bytes for kind in KINDS) / readings
        packed = sum(sealed.sealed(kind.name).bytes for kind in KINDS) / readings
        figures += [
            Figure(subject, "readings", readings, ""),
            Figure(subject, "open: a row, with its key", as_rows, "B"),
            Figure(subject, "sealed", packed, "B", goal=BYTES_GOALS.get(name)),
            Figure(subject, "archived, Parquet", archived, "B"),
            Figure(subject, "open over sealed", as_rows / packed, ""),
        ]
    return figures


def _archived_bytes_each(url: str, directory: Path) -> float:
    environment = {**os.environ, "ENERGYFLEET_DATABASE_URL": url}
    command = [sys.executable, "-m", "fleetcli", "archive", "--to", str(directory)]
    ran = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if ran.returncode:
        raise BenchmarkError(f"nothing was archived: {ran.stderr}")
    with psycopg.connect(url) as connection:
        row = connection.execute("SELECT sum(bytes), sum(readings) FROM archived_days").fetchone()
    assert row is not None
    return float(row[0] / row[1])


def _stored(url: str) -> Storage:
    async def measured() -> Storage:
        parameters = connection_parameters(url, "benchmark")
        async with await AsyncConnection.connect(**parameters, autocommit=True) as connection:
            return await measure_storage(connection, exact_bytes=2**40)

    return asyncio.run(measured())


def _sealing(harness: Harness, vehicles: int, seed: int, tell: Callable[[str], None]) -> list[Figure]:
    """How long a day takes alone, and unary calls beside the next ones, in turns with calls beside nothing."""
    alone, *beside = SEALED_DAYS_AGO
    with harness.database("sealing") as url:
        tell(f"storage: storing {len(SEALED_DAYS_AGO)} days of {vehicles:,} vehicles and meters")
        history.add_devices(url, vehicles, system_clock())
        history.store_days(url, days_ago(*SEALED_DAYS_AGO), INTERVAL_US, WATT_HOURS, seed)
        history.settle(url)
        with harness.service("ingestion", "sealing", **NEVER_SEALS) as target:
            count = round(LIVE_RATE * LIVE_S)
            now_us = system_clock() // INTERVAL_US * INTERVAL_US
            turns = [count] * 2 * len(beside)
            first, warm_up, *spans = consecutive_spans([2 * vehicles, round(LIVE_RATE), *turns], now_us, vehicles)
            harness.in_client(client.stream, target, first, 1_000, 2)
            harness.in_client(client.unary, target, warm_up, LIVE_RATE)
            tell("storage: sealing a day")
            begun_s, cpu_s = time.monotonic(), cpu_seconds(target.postgres_pid)
            done = seal_days(url, alone - 1)
            took_s, cpu_s = time.monotonic() - begun_s, cpu_seconds(target.postgres_pid) - cpu_s
            quiet, sealing = [], []
            for number, ago in enumerate(beside):
                tell("storage: live readings, alone and while a day is sealed")
                if number % 2:
                    sealing.append(_while_sealing(harness, target, spans.pop(0), url, ago - 1))
                quiet.append(_p99_ms(harness, target, spans.pop(0)))
                if not number % 2:
                    sealing.append(_while_sealing(harness, target, spans.pop(0), url, ago - 1))
    ratios = [loud / calm for calm, loud in zip(quiet, sealing, strict=True)]
    subject = f"sealing a day, {vehicles:,} + {vehicles:,} devices"
    live = f"live readings, {LIVE_RATE:,.0f} calls/s"
    return [
        Figure(subject, "readings", done.readings, ""),
        Figure(subject, "time, with its pauses", took_s, "s"),
        Figure(subject, "time per reading", took_s / done.readings * 1e6, "us"),
        Figure(subject, "PostgreSQL CPU per reading", cpu_s / done.readings * 1e6, "us"),
        Figure(live, "p99", median(quiet), "ms", min(quiet), max(quiet)),
        Figure(live, "p99 while a day is sealed", median(sealing), "ms", min(sealing), max(sealing)),
        Figure(live, "ratio of the two", median(ratios), "", min(ratios), max(ratios)),
    ]


def _p99_ms(harness: Harness, target: Target, span: Span) -> float:
    latencies, _ = harness.in_client(client.unary, target, span, LIVE_RATE)
    return percentile(latencies, 99) * 1e3


def _while_sealing(harness: Harness, target: Target, span: Span, url: str, seal_after_days: int) -> float:
    """Of the calls that were due before the day was sealed."""
    with ThreadPoolExecutor(1) as other:
        begun_s = time.monotonic()
        sealing = other.submit(seal_days, url, seal_after_days)
        ended_s: list[float] = []
        sealing.add_done_callback(lambda _: ended_s.append(time.monotonic() - begun_s))
        latencies, _ = harness.in_client(client.unary, target, span, LIVE_RATE)
        if not sealing.result().readings:
            raise BenchmarkError("nothing was sealed beside the live readings")
    return percentile(latencies[: max(1, round(ended_s[0] * LIVE_RATE))], 99) * 1e3
