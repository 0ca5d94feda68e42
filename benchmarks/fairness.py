"""Live devices beside devices that come back with hours of readings: how much longer do they wait?

The backlog begins when the live devices begin to connect. These report from then on, each once in an interval, and are
timed from when all have been there for an interval until before the first leaves; the backlog goes on for as long.
"""

from collections.abc import Callable

import psycopg

from benchmarks import load
from benchmarks.ack import GRACE_S
from benchmarks.client import BenchmarkError
from benchmarks.figures import Figure, Goal, percentile
from benchmarks.harness import Harness
from benchmarks.stream import require_stored

DEVICES = 1_000
PER_CONNECTION = 10
EVERY_S = 1.0
SECONDS = 30.0

BACKLOG_STREAMS = 20
BACKLOG_PER_MESSAGE = 500


def measure(harness: Harness, *, seconds: float, workers: int, tell: Callable[[str], None]) -> list[Figure]:
    """p99 of the live devices alone, and beside the backlog. BenchmarkError when a reading is not stored, once."""
    with (
        harness.database("fairness") as url,
        psycopg.connect(url, autocommit=True) as connection,
        harness.service("ingestion", "fairness", ENERGYFLEET_WORKERS=str(workers)) as target,
        harness.clients(2) as clients,
    ):
        arguments = (DEVICES, EVERY_S, seconds, PER_CONNECTION)
        tell(f"fairness: {DEVICES:,} live devices alone")
        alone = clients.start(load.live, target.address, "live", *arguments)
        [calm] = clients.watch([alone], seconds + GRACE_S, _nothing)
        tell(f"fairness: {DEVICES:,} live devices beside {BACKLOG_STREAMS} streams of backlog")
        backlog_s = DEVICES / load.CONNECTIONS_PER_S + EVERY_S + seconds
        beside = [
            clients.start(load.live, target.address, "live", *arguments),
            clients.start(load.push, target.address, "backlog", BACKLOG_STREAMS, BACKLOG_PER_MESSAGE, backlog_s),
        ]
        crowded, backlog = clients.watch(beside, seconds + GRACE_S, _nothing)
        sent = calm.sent + crowded.sent + backlog.sent
        if calm.stored + crowded.stored + backlog.stored != sent:
            raise BenchmarkError(f"{sent:,} readings were sent and not all stored as new")
        require_stored(connection, sent)
    subject = f"{DEVICES:,} live devices"
    calm_ms, crowded_ms = (percentile(each.latencies_s, 99) * 1e3 for each in (calm, crowded))
    return [
        Figure(subject, "p50 acknowledgement, alone", percentile(calm.latencies_s, 50) * 1e3, "ms"),
        Figure(subject, "p99, alone", calm_ms, "ms"),
        Figure(subject, f"p50 beside {BACKLOG_STREAMS} of backlog", percentile(crowded.latencies_s, 50) * 1e3, "ms"),
        Figure(subject, f"p99 beside {BACKLOG_STREAMS} of backlog", crowded_ms, "ms"),
        Figure(subject, "ratio of the two p99", crowded_ms / calm_ms, "", goal=Goal("below", 2)),
        Figure(subject, "backlog resolved meanwhile", backlog.settled_in_time / backlog_s, "/s"),
    ]


def _nothing() -> None:
    pass
