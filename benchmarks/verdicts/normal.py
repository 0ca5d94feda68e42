"""Compares what answers say is normal for a pair with the truth, and asks who is said to have dropped."""

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import replace
from types import SimpleNamespace
from typing import NamedTuple

import numpy as np
from rich import box
from rich.console import Console
from rich.table import Table

from analytics_svc.__main__ import thresholds
from analytics_svc.baseline import baselines
from analytics_svc.baseline_charges import baseline_window, sums_of
from analytics_svc.baseline_result import Baseline
from analytics_svc.baseline_tables import hours_of_vehicle
from analytics_svc.performance import Thresholds, judge
from analytics_svc.questions import Window
from analytics_svc.span_tables import totals_of
from benchmarks.figures import Figure, Goal
from benchmarks.verdicts.devices import Readings
from benchmarks.verdicts.visible import Pair, Reported, last_day, once
from benchmarks.verdicts.year import YEAR_START_US, YEAR_US
from shared.config import AnalyticsSettings
from shared.timestamps import EPOCH_2000_US, US_PER_DAY, US_PER_HOUR, US_PER_SECOND

WORN_SINCE = 0.05
"""By so much less arrives within the window of the pairs that have dropped."""

NEAR = 1.0
"""Percent of the truth."""

NEAR_GOAL, FALSE_GOAL, FOUND_GOAL = Goal("at least", 95.0), Goal("below", 2.0), Goal("at least", 70.0)

_DICE = 28
_FIRST_DAYS = 40


class Answer(NamedTuple):
    pair: Pair
    healthy: Baseline
    dropped: Baseline
    """Of the same pair, of which less arrived within the window."""

    @property
    def error(self) -> float | None:
        """Relative, in percent."""
        return None if self.healthy.ratio is None else 100 * (self.healthy.ratio / self.pair.year.ratio - 1)


def measure(*, pairs: int, seed: int, tell: Callable[[str], None], output: Console) -> list[Figure]:
    """The figures; prints the errors by the cadences of both sides."""
    subject = f"what is normal, seed {seed}, {pairs} pairs"
    limits = thresholds(AnalyticsSettings())
    found = []
    for at in range(pairs):
        pair = Pair.of(seed, False, at)
        dice = np.random.default_rng([*pair.seed, _DICE])
        asked_us = int(dice.integers(_FIRST_DAYS * US_PER_DAY, YEAR_US))
        found.append(answer(pair, last_day(YEAR_START_US + asked_us), limits))
        if (at + 1) % 50 == 0:
            tell(f"{subject}: {at + 1} of {pairs} pairs")
    output.print(_by_cadence(found))
    errors = [each.error for each in found if each.error is not None]
    compared = [each for each in found if each.healthy.change is not None]
    told = _percent([each.healthy.dropped for each in compared])
    found_out = _percent([each.dropped.dropped for each in compared])
    within = _percent([abs(error) <= NEAR for error in errors])
    return [
        Figure(subject, "with a baseline", 100 * len(errors) / len(found), "%"),
        Figure(subject, f"baseline within {NEAR:g} % of the truth", within, "%", goal=NEAR_GOAL),
        Figure(subject, "error on average", float(np.mean(errors)), "%"),
        Figure(subject, "healthy: RATIO_DROPPED", told, "%", goal=FALSE_GOAL),
        Figure(subject, f"{100 * WORN_SINCE:g} % less arrive: RATIO_DROPPED", found_out, "%", goal=FOUND_GOAL),
    ]


def answer(pair: Pair, window: Window, limits: Thresholds) -> Answer:
    """What the service would say of a window."""
    period = baseline_window(window)
    # A day more at either end: what was mapped goes on there.
    around = pair.reported(Window(period.start_us - US_PER_DAY, period.end_us + US_PER_DAY))
    mappings = b"".join(
        np.array([each.meter, each.since_us - EPOCH_2000_US, each.until_us - EPOCH_2000_US], ">i8").tobytes()
        for each in sorted(around.mappings)
    )
    rows = [SimpleNamespace(meter_key=meter, hours=_packed(readings)) for meter, readings in around.meters.items()]
    rows.append(SimpleNamespace(meter_key=None, hours=_packed(around.vehicle)))
    sums = sums_of(hours_of_vehicle(period, mappings, rows), limits.comparing)

    def of(reported: Reported) -> Baseline:
        totals, _ = totals_of(reported.window, ["vehicle"], [reported.hours()], limits.comparing)
        return baselines(sums, totals, judge(totals, limits), limits).at(0)

    reported = pair.reported(window)
    less = Readings(reported.vehicle.ts_us, reported.vehicle.kwh * (1 - WORN_SINCE))
    return Answer(pair, of(reported), of(replace(reported, vehicle=less)))


def _packed(readings: Readings) -> bytes:
    """The hours of a device as the database packs them."""
    its = once(readings)
    hours_us, first = np.unique((its.ts_us - 1) // US_PER_HOUR * US_PER_HOUR, return_index=True)
    kwh = np.add.reduceat(its.kwh, first) if len(first) else its.kwh
    words = np.stack([hours_us - EPOCH_2000_US, kwh.view(np.int64), np.zeros(len(kwh), np.int64)], axis=1)
    return words.astype(">i8").tobytes()


def _by_cadence(found: Sequence[Answer]) -> Table:
    errors: dict[tuple[str, str], list[float]] = defaultdict(list)
    for each in found:
        if each.error is not None:
            for side, device in (("vehicle", each.pair.vehicle), ("meter", each.pair.meters[0])):
                errors[side, f"{device.cadence_us // US_PER_SECOND:,}"].append(each.error)
    table = Table(title="Errors of what is normal, in percent", box=box.SIMPLE_HEAD, title_justify="left")
    for name in ("side", "every, s", "pairs", "mean", "median", "95 % below", "greatest"):
        table.add_column(name, justify="left" if name == "side" else "right")
    for (side, every), its in sorted(errors.items(), key=lambda item: (item[0][0], len(item[0][1]), item[0][1])):
        sizes = np.abs(its)
        shown = (np.mean(its), np.median(its), np.percentile(sizes, 95), sizes.max())
        table.add_row(side, every, str(len(its)), *(f"{value:+.2f}" for value in shown))
    return table


def _percent(flags: Sequence[bool]) -> float:
    return 100 * sum(flags) / len(flags) if flags else 0.0
