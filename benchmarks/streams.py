"""A fleet that is connected: 10,000 streams, each with a reading every ten seconds, twice in a row."""

import time
from collections.abc import Callable

import psycopg

from benchmarks import load
from benchmarks.ack import GRACE_S
from benchmarks.client import BenchmarkError
from benchmarks.cpu import memory_bytes_each
from benchmarks.figures import Figure, Goal, percentile
from benchmarks.harness import Harness
from benchmarks.stream import require_stored

DEVICES = 10_000
EVERY_S = 10.0
SECONDS = 300.0
PROCESSES = 4

PER_CONNECTION = 100
"""Devices have a connection each, and so can these (1): client and service then share twice 10,000 sockets here."""

MEMORY_SETTLES_S = 30.0
"""What memory gets to come back: gRPC frees a connection's buffers in the background."""

BACK_WITHIN = 1.10


def measure(
    harness: Harness, *, devices: int, seconds: float, per_connection: int, workers: int, tell: Callable[[str], None]
) -> list[Figure]:
    """Latency and memory of both rounds. BenchmarkError when a reading is not acknowledged and stored, once.

    Memory is compared with what it was before a round; before the first one the whole fleet comes and goes once. What
    CPython has taken for so many streams it gives back by whole MiB only, and what the service remembers of the devices
    lies in between: the process stays larger than a new one, and what shows a leak is that it does not go on growing.
    The size of the new process is told, too.
    """
    figures: list[Figure] = []
    sent = 0
    with (
        harness.database("streams") as url,
        psycopg.connect(url, autocommit=True) as connection,
        harness.service("ingestion", "streams", ENERGYFLEET_WORKERS=str(workers)) as target,
        harness.clients(PROCESSES) as clients,
    ):

        def one_round(each: int, its_devices: int, its_seconds: float) -> tuple[load.Outcome, int]:
            share = its_devices // PROCESSES
            working = [
                clients.start(load.live, target.address, f"live-{process}", share, EVERY_S, its_seconds, per_connection)
                for process in range(PROCESSES)
            ]
            most = 0

            def look() -> None:
                nonlocal most
                most = max(most, sum(memory_bytes_each(target.service_pid)))

            tell(f"streams: round {each}, {its_devices:,} streams for {its_seconds:g} s")
            whole = load.Outcome()
            for outcome in clients.watch(working, its_seconds + its_devices / 100 + GRACE_S, look):
                whole.add(outcome)
            return whole, most

        fresh = _settled(target.service_pid, 0)
        warm, _ = one_round(0, devices, EVERY_S)
        sent += warm.sent
        figures.append(Figure(f"{devices:,} streams", "memory of the new service", fresh / 2**20, "MiB"))
        for each in (1, 2):
            before = _settled(target.service_pid, 0)
            outcome, most = one_round(each, devices, seconds)
            after = _settled(target.service_pid, round(BACK_WITHIN * before))
            sent += outcome.sent
            if outcome.stored != outcome.sent:
                raise BenchmarkError(f"{outcome.sent:,} readings were sent and {outcome.stored:,} acknowledged as new")
            require_stored(connection, sent)
            subject = f"{devices:,} streams, {per_connection} a connection, round {each}"
            in_ms = [latency * 1e3 for latency in outcome.latencies_s]
            figures += [
                Figure(subject, "readings acknowledged", outcome.sent, ""),
                Figure(subject, "p50 acknowledgement", percentile(in_ms, 50), "ms"),
                Figure(subject, "p99", percentile(in_ms, 99), "ms", goal=Goal("below", 250)),
                Figure(subject, "memory before", before / 2**20, "MiB"),
                Figure(subject, "memory at most", most / 2**20, "MiB"),
                Figure(subject, "memory per stream, beyond a new service", (most - fresh) / devices / 2**10, "KiB"),
                Figure(subject, "memory afterwards / before", after / before, "", goal=Goal("below", BACK_WITHIN)),
            ]
    return figures


def _settled(pid: int, enough: int) -> int:
    """Resident memory of all the service's processes, as soon as it is little enough or has had its time."""
    deadline = time.monotonic() + (MEMORY_SETTLES_S if enough else 2)
    while (memory := sum(memory_bytes_each(pid))) > enough and time.monotonic() < deadline:
        time.sleep(0.5)
    return memory
