"""The questions of 24 hours with two months of sealed days behind them, and without: neither reads a sealed day."""

from collections.abc import Callable
from statistics import median

from benchmarks import ask, history
from benchmarks.client import Target
from benchmarks.figures import Figure, Goal, percentile
from benchmarks.harness import Harness
from benchmarks.history import Stored
from benchmarks.reads import FLEET_WARM_UP_CALLS, WARM_UP_CALLS, fleet_question, questions
from benchmarks.sealing import seal_days
from shared.timestamps import US_PER_HOUR, system_clock

PAIRS = 600
OPEN_DAYS, SEALED_DAYS = 2, 60
INTERVAL_US = US_PER_HOUR
ROUNDS = 20
"""Short ones: what slows the host for a moment is then in few of them."""
CALLS = 60
FLEET_CALLS = 6

GOAL = Goal("below", 1.15)


def measure(harness: Harness, *, tell: Callable[[str], None]) -> list[Figure]:
    """Medians of both questions, in turns, and their ratios. BenchmarkError where an answer is not the whole of it."""
    short = Stored(PAIRS, INTERVAL_US, history.full_hour(system_clock()))
    tell(f"24 h beside sealed days: storing {OPEN_DAYS} and {OPEN_DAYS + SEALED_DAYS} days of {PAIRS:,} vehicles")
    with harness.database("recent") as recent, harness.database("months") as months:
        history.extend(recent, short, OPEN_DAYS)
        history.extend(months, short, OPEN_DAYS + SEALED_DAYS)
        tell(f"24 h beside sealed days: sealing {SEALED_DAYS} days")
        seal_days(months, OPEN_DAYS)
        history.settle(months)
        with harness.service("analytics", "recent") as without, harness.service("analytics", "months") as beside:
            tell("24 h beside sealed days: asking in turns")
            one = _in_turns(lambda target, calls: _one(harness, target, short, calls), without, beside, CALLS)
            fleet = _in_turns(lambda target, calls: _fleet(harness, target, short, calls), without, beside, FLEET_CALLS)
    told = f"24 h, {PAIRS:,} vehicles"
    return [*_figures(f"GetVehiclePerformance, {told}", one), *_figures(f"ListVehiclePerformance, {told}", fleet)]


def _in_turns(
    asked: Callable[[Target, int], list[float]], without: Target, beside: Target, calls: int
) -> list[tuple[float, float]]:
    """The medians of each round in milliseconds, without sealed days and with them."""
    for target in (without, beside):
        asked(target, WARM_UP_CALLS if calls > FLEET_CALLS else FLEET_WARM_UP_CALLS)
    rounds = []
    for number in range(ROUNDS):
        order = (without, beside) if number % 2 else (beside, without)
        found = {target: percentile(asked(target, calls), 50) * 1e3 for target in order}
        rounds.append((found[without], found[beside]))
    return rounds


def _one(harness: Harness, target: Target, stored: Stored, calls: int) -> list[float]:
    latencies, _ = harness.in_client(ask.performance, target, questions(stored, calls), stored.a_day)
    return latencies


def _fleet(harness: Harness, target: Target, stored: Stored, calls: int) -> list[float]:
    request = fleet_question(stored)
    latencies, _ = harness.in_client(ask.fleet, target, request, calls, stored.pairs, stored.a_day)
    return latencies


def _figures(subject: str, rounds: list[tuple[float, float]]) -> list[Figure]:
    without, beside = ([each[side] for each in rounds] for side in (0, 1))
    ratios = [after / before for before, after in rounds]
    return [
        Figure(subject, f"p50 with {OPEN_DAYS} open days", median(without), "ms", min(without), max(without)),
        Figure(subject, f"p50 with {SEALED_DAYS} sealed ones, too", median(beside), "ms", min(beside), max(beside)),
        Figure(subject, "ratio of the two", median(ratios), "", min(ratios), max(ratios), GOAL),
    ]
