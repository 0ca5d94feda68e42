"""Runs a plan through the services, and shows how often the database differs from the model: not once.

At the end `energyfleet verify` looks at it as well.
"""

import os
import random
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict

from benchmarks.ack import GRACE_S
from benchmarks.client import BenchmarkError
from benchmarks.exact.compare import compare
from benchmarks.exact.fleet import Plan
from benchmarks.exact.model import Counts, Model
from benchmarks.exact.send import send
from benchmarks.figures import Figure, Goal
from benchmarks.harness import Harness
from shared.timestamps import system_clock

READINGS = 1_000_000
WORKERS = 2

READINGS_PER_S_MIN = 2_000
"""A machine that takes fewer is not what one waits for."""

QUESTIONS = 400
"""Of GetVehiclePerformance, half of them over all of the time and half over a part of it."""

TOLD_MAX = 5
"""Differences that a failure names; one cause makes many."""


def measure(harness: Harness, *, readings: int, seed: int, workers: int, tell: Callable[[str], None]) -> list[Figure]:
    """How many of each outcome, and that nothing differs. BenchmarkError with the first differences otherwise."""
    plan = Plan.of(seed, readings, system_clock())
    subject = f"exact, {workers} workers, seed {seed}"
    tell(f"{subject}: {plan}")
    model = Model.of(plan)
    with (
        harness.database("exact") as url,
        harness.service("ingestion", "exact", ENERGYFLEET_WORKERS=str(workers)) as target,
        harness.service("analytics", "exact") as answering,
        harness.clients(1) as clients,
    ):
        tell(f"{subject}: sending {model.counts.received:,} readings")
        sending = clients.start(send, target, plan)
        [sent] = clients.watch([sending], model.counts.received / READINGS_PER_S_MIN + GRACE_S, _nothing)
        if workers > 1 and sent.workers < workers:
            raise BenchmarkError(
                f"the system gave all connections to {sent.workers} of {workers} workers; run it again"
            )
        tell(f"{subject}: comparing")
        found = compare(url, answering.address, model, plan.pairs, _questions(plan))
        tell(f"{subject}: energyfleet verify")
        verdict = _verify(url)
    differing = [*_differing_counts(sent.counts, model.counts), *found.differences, *verdict]
    if differing:
        first = "\n".join(differing[:TOLD_MAX])
        raise BenchmarkError(f"{subject}: {len(differing):,} differences from the model, the first of them\n{first}")
    counts = sent.counts
    return [
        Figure(subject, "meters and vehicles", 2 * plan.pairs, ""),
        Figure(subject, "hours", plan.hours_before + plan.hours_after, ""),
        Figure(subject, "streams and calls at a time", plan.streams, ""),
        Figure(subject, "messages", sent.messages, ""),
        Figure(subject, "readings sent", counts.received, ""),
        Figure(subject, "stored", counts.stored, ""),
        Figure(subject, "duplicates", counts.duplicate, ""),
        Figure(subject, "conflicts", counts.conflicting, ""),
        Figure(subject, "rejections", counts.rejected, ""),
        Figure(subject, "time", sent.elapsed_s, "s"),
        Figure(subject, "acknowledged", counts.received / sent.elapsed_s, "/s"),
        Figure(subject, "rows compared", found.rows, ""),
        Figure(subject, "answers compared", found.answers, ""),
        Figure(subject, "differences", 0, "", goal=Goal("below", 1)),
    ]


def _verify(url: str) -> list[str]:
    """What the operator's command has to say of the database, where it finds it otherwise than history."""
    ended = subprocess.run(
        [sys.executable, "-m", "fleetcli", "verify"],
        env={**os.environ, "ENERGYFLEET_DATABASE_URL": url},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    return [] if ended.returncode == 0 else [f"energyfleet verify: {ended.stdout}{ended.stderr}"]


def _differing_counts(answered: Counts, expected: Counts) -> list[str]:
    wanted = asdict(expected)
    return [
        f"{name} readings, as answered: {count:,} instead of {wanted[name]:,}"
        for name, count in asdict(answered).items()
        if count != wanted[name]
    ]


def _questions(plan: Plan) -> Iterator[tuple[int, int, int]]:
    """Vehicles, those that changed their meter among them, with windows: all of the time, or cut anywhere."""
    dice = random.Random(f"{plan.seed} questions")
    for number in range(QUESTIONS // 2):
        vehicle = number % plan.pairs
        yield vehicle, plan.start_us, plan.end_us
        start_us, end_us = sorted(dice.sample(range(plan.start_us, plan.end_us), 2))
        yield vehicle, start_us, end_us


def _nothing() -> None:
    pass
