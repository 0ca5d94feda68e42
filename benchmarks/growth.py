"""What 24 hours cost against how much is stored: the same questions with 1 day of history, and with more."""

import time
from collections.abc import Callable, Sequence
from pathlib import Path

from benchmarks import history
from benchmarks.figures import Figure, Goal
from benchmarks.harness import Harness
from benchmarks.history import Stored
from benchmarks.reads import one_vehicle, other_lists, save_plans, whole_fleet
from shared.timestamps import US_PER_HOUR, system_clock

DAYS = (1, 7)
"""Loaded in less than a minute; thirty take several."""

INTERVAL_US = US_PER_HOUR
CALLS = 500

GROWTH_GOAL = Goal("below", 1.5)
"""Of the most days against the fewest: what a deeper index and a larger working set may cost."""


def measure(
    harness: Harness, *, vehicles: int, days: Sequence[int], plans_directory: Path, tell: Callable[[str], None]
) -> list[Figure]:
    """Both questions at each of these numbers of days, and how much dearer the most are than the fewest.

    A reading an hour, so that the fleet's month fits: the questions of one vehicle are small, and every row of history
    has its row in the rollups.
    """
    counts = sorted(set(days))
    stored = Stored(vehicles, INTERVAL_US, history.full_hour(system_clock()))
    figures: list[Figure] = []
    medians: list[tuple[float, float]] = []
    with harness.database("growth") as url:
        for count in counts:
            tell(f"growth: storing {count} days of {vehicles:,} vehicles")
            started = time.monotonic()
            stored = history.extend(url, stored, count)
            tell(f"growth: stored in {time.monotonic() - started:.0f} s, asking")
            told = f"24 h, {count} {'day' if count == 1 else 'days'} stored"
            with harness.service("analytics", "growth") as target:
                one = one_vehicle(harness, target, stored, CALLS, f"GetVehiclePerformance, {told}")
                fleet = whole_fleet(harness, target, stored, f"ListVehiclePerformance, {told}")
                others = other_lists(harness, target, stored, told)
            rows = Figure(one[0].subject, f"hourly rows, {vehicles:,} vehicles", stored.rows, "")
            figures += [rows, *one, *fleet, *others]
            medians.append((one[0].value, fleet[0].value))
        saved = save_plans(harness, "growth", stored, plans_directory, f"{counts[-1]}-days")
    if len(counts) > 1:
        subject = f"24 h, {counts[-1]} days stored over {counts[0]}"
        rpcs = ("GetVehiclePerformance", "ListVehiclePerformance")
        for rpc, fewest, most in zip(rpcs, medians[0], medians[-1], strict=True):
            figures.append(Figure(subject, f"{rpc}, p50", most / fewest, "", goal=GROWTH_GOAL))
    tell(f"growth: {len(saved)} plans saved in {plans_directory}")
    return figures
