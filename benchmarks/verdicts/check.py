"""Asks about the last 24 hours of healthy and of worn pairs, and counts who is accused and who is missed."""

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from enum import StrEnum
from typing import NamedTuple

import numpy as np
from rich import box
from rich.console import Console
from rich.table import Table

from analytics_svc.__main__ import thresholds
from analytics_svc.performance import Performance, Thresholds, judge
from analytics_svc.questions import Verdict, Window
from analytics_svc.span_tables import totals_of
from benchmarks.figures import Figure, Goal
from benchmarks.verdicts.visible import Pair, Reported, last_day
from benchmarks.verdicts.year import YEAR_START_US, YEAR_US
from shared.config import AnalyticsSettings
from shared.timestamps import US_PER_DAY, US_PER_SECOND, iso_from_us

PAIRS = 300
"""Healthy ones, and as many worn ones: 0.1 % of the answers about the healthy ones are six."""

SEED = 1

ASKS = 20
"""About each pair, at random instants."""

CHARGED_MIN_KWH = 2.0
"""What was charged to the end within the window where there must be a verdict."""

ACCUSED_BELOW, RIGHT_AT_LEAST = 0.1, 95.0
"""Percent of the answers about healthy pairs; and of those where there must be a verdict."""

LISTED_MAX = 20

_ACCUSATIONS = frozenset({Verdict.LOW_EFFICIENCY, Verdict.IMPLAUSIBLE})
_FIRST_DAYS = 10  # that nothing is asked about: before the first charge there is none


class Answer(NamedTuple):
    pair: Pair
    window: Window
    charged_kwh: float
    """Within the window, mapped, and ended."""
    performance: Performance

    @property
    def charged(self) -> bool:
        return self.charged_kwh >= CHARGED_MIN_KWH

    @property
    def verdict(self) -> Verdict:
        return self.performance.verdict


class Wrong(StrEnum):
    """In what way an answer is."""

    ACCUSED = "accused"
    """A healthy pair."""
    WITHHELD = "withheld"
    """From a healthy pair."""
    MISSED = "missed"
    """A worn pair."""


def measure(*, pairs: int, seed: int, tell: Callable[[str], None], output: Console) -> list[Figure]:
    """The figures; prints the verdicts by what is true, and the wrong ones."""
    subject = f"verdicts, seed {seed}, {pairs} pairs"
    found = answers(seed, pairs, lambda done: tell(f"{subject}: {done} of {2 * pairs} pairs"))
    output.print(_by_truth(found), _wrong_ones(found))
    accused, ok, low = rates(found)
    return [
        Figure(subject, "healthy: LOW_EFFICIENCY or IMPLAUSIBLE", accused, "%", goal=Goal("below", ACCUSED_BELOW)),
        Figure(subject, f"healthy, {CHARGED_MIN_KWH:g} kWh: OK", ok, "%", goal=Goal("at least", RIGHT_AT_LEAST)),
        Figure(
            subject, f"worn, {CHARGED_MIN_KWH:g} kWh: LOW_EFFICIENCY", low, "%", goal=Goal("at least", RIGHT_AT_LEAST)
        ),
    ]


def answers(seed: int, pairs: int, done: Callable[[int], None]) -> list[Answer]:
    """About so many healthy pairs, and as many worn ones."""
    limits = thresholds(AnalyticsSettings())
    found: list[Answer] = []
    for at in range(2 * pairs):
        pair = Pair.of(seed, at >= pairs, at % pairs)
        dice = np.random.default_rng([*pair.seed, ASKS])
        for asked_us in dice.integers(_FIRST_DAYS * US_PER_DAY, YEAR_US, size=ASKS).tolist():
            window = last_day(YEAR_START_US + asked_us)
            performance = performance_of(pair.reported(window), limits)
            found.append(Answer(pair, window, pair.year.charged_and_ended(window), performance))
        if (at + 1) % 50 == 0:
            done(at + 1)
    return found


def performance_of(reported: Reported, limits: Thresholds) -> Performance:
    """What the service would say."""
    totals, _ = totals_of(reported.window, ["vehicle"], [reported.hours()], limits.comparing)
    return judge(totals, limits).at(0, totals)


def rates(found: Sequence[Answer]) -> tuple[float, float, float]:
    """Percent of all answers about healthy pairs that accuse; where enough was charged, percent that are OK of those
    about healthy pairs, and LOW_EFFICIENCY of those about worn ones."""
    return (
        _percent(each.verdict in _ACCUSATIONS for each in found if not each.pair.worn),
        _percent(each.verdict is Verdict.OK for each in found if not each.pair.worn and each.charged),
        _percent(each.verdict is Verdict.LOW_EFFICIENCY for each in found if each.pair.worn and each.charged),
    )


def _percent(which: Iterable[bool]) -> float:
    flags = list(which)
    return 100 * sum(flags) / len(flags) if flags else 0.0


def _wrong(answer: Answer) -> Wrong | None:
    if not answer.pair.worn and answer.verdict in _ACCUSATIONS:
        return Wrong.ACCUSED
    if not answer.charged:
        return None
    if not answer.pair.worn:
        return Wrong.WITHHELD if answer.verdict is not Verdict.OK else None
    return Wrong.MISSED if answer.verdict is not Verdict.LOW_EFFICIENCY else None


def _by_truth(found: Sequence[Answer]) -> Table:
    """The verdicts of healthy and of worn pairs."""
    table = _table("Verdicts by what is true")
    table.add_column("pairs")
    for name in ("answers", *(verdict.name for verdict in Verdict)):
        table.add_column(name, justify="right")
    for worn in (False, True):
        for charged in (False, True):
            counts = Counter(each.verdict for each in found if each.pair.worn == worn and (each.charged or not charged))
            name = ("worn" if worn else "healthy") + (f", at least {CHARGED_MIN_KWH:g} kWh ended" if charged else "")
            table.add_row(name, f"{counts.total():,}", *(f"{counts[verdict]:,}" for verdict in Verdict))
    return table


def _wrong_ones(found: Sequence[Answer]) -> Table:
    """The wrong answers by what they have in common, with one of each, so that it can be looked at."""
    alike: dict[tuple[Wrong, str, str], list[Answer]] = defaultdict(list)
    for answer in found:
        if wrong := _wrong(answer):
            alike[wrong, answer.performance.reason.name, _habits(answer)].append(answer)
    ordered = sorted(alike.items(), key=lambda item: (item[0][0] is not Wrong.ACCUSED, -len(item[1]), item[0]))
    table = _table("Wrong answers")
    for name in ("what", "reason", "vehicle, meter", "answers", "such as pair, at", "every, s", "true", "ratio"):
        number = name in ("answers", "true")
        table.add_column(name, justify="right" if number else "left", no_wrap=True, min_width=7 if number else None)
    for (wrong, reason, habits), its in ordered[:LISTED_MAX]:
        table.add_row(wrong, reason, habits, str(len(its)), *_shown(its[0]))
    if len(ordered) > LISTED_MAX:
        table.caption = f"and {sum(len(its) for _, its in ordered[LISTED_MAX:])} others"
    return table


def _habits(answer: Answer) -> str:
    return f"{answer.pair.vehicle.habit}, {answer.pair.meters[0].habit}"


def _shown(answer: Answer) -> tuple[str, str, str, str]:
    pair, its = answer.pair, answer.performance.compared
    every = "/".join(str(device.cadence_us // US_PER_SECOND) for device in (pair.vehicle, *pair.meters))
    ratio = "" if its is None else f"{its.efficiency_ratio:.2f} ({its.at_least:.2f} .. {its.at_most:.2f})"
    return f"{pair.seed[-1]}, {iso_from_us(answer.window.end_us)[2:16]}", every, f"{pair.year.ratio:.2f}", ratio


def _table(title: str) -> Table:
    return Table(title=title, box=box.SIMPLE_HEAD, title_justify="left")
