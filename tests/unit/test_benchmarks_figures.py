"""The benchmarks' arithmetic and their table."""

import io
import json
from pathlib import Path

import pytest
from rich.console import Console

from benchmarks.client import Effort
from benchmarks.figures import Figure, Goal, percentile, show, write_json
from benchmarks.raw_copy import RawEffort
from benchmarks.readings import Span
from benchmarks.stream import Round, figures_of, readings_per_round


def shown(*figures: Figure) -> str:
    console = Console(file=io.StringIO(), width=132)
    show(console, figures, {"Python": "3.11"})
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


@pytest.mark.parametrize(("percent", "expected"), [(50, 50), (99, 99), (99.5, 100), (100, 100), (0, 1)])
def test_a_percentile_is_the_nearest_rank(percent: float, expected: float) -> None:
    assert percentile([float(value) for value in range(100, 0, -1)], percent) == expected


def test_a_percentile_of_one_value_is_that_value() -> None:
    assert percentile([7.0], 99) == 7.0


@pytest.mark.parametrize(
    ("goal", "value", "met"),
    [
        (Goal("at least", 80_000), 80_000, True),
        (Goal("at least", 80_000), 79_999, False),
        (Goal("below", 50), 49.9, True),
        (Goal("below", 50), 50, False),
    ],
)
def test_a_goal_is_met_at_its_bound_or_below_it(goal: Goal, value: float, met: bool) -> None:
    assert goal.is_met(value) is met


def test_the_table_shows_the_figure_its_goal_and_whether_it_is_met() -> None:
    table = shown(Figure("stream", "durable ingest", 91_234.5, "/s", 89_000, 92_000, Goal("at least", 80_000)))
    assert "91,200 /s" in table
    assert "89,000 .. 92,000" in table
    assert ">= 80,000 /s" in table
    assert "yes" in table
    assert "no" in shown(Figure("unary", "p99", 51.0, "ms", goal=Goal("below", 50))).split()


def test_a_figure_without_a_goal_is_neither_met_nor_missed() -> None:
    words = shown(Figure("unary", "slowest", 0.0, "ms")).split()
    assert "yes" not in words
    assert "no" not in words


def test_the_file_has_the_figures_whole(tmp_path: Path) -> None:
    file = tmp_path / "figures.json"
    write_json(file, [Figure("unary", "p99", 12.3456, "ms", goal=Goal("below", 50))], {"Python": "3.11"})
    written = json.loads(file.read_text())
    assert written["machine"] == {"Python": "3.11"}
    assert written["figures"][0] == {
        "subject": "unary", "name": "p99", "value": 12.3456, "unit": "ms", "low": None, "high": None,
        "goal": {"kind": "below", "bound": 50}, "met": True,
    }  # fmt: skip


@pytest.mark.parametrize(("per_message", "expected"), [(1, 40_000), (10, 100_000), (100, 200_000), (1_000, 200_000)])
def test_rounds_of_small_messages_are_smaller(per_message: int, expected: int) -> None:
    assert readings_per_round(per_message, 200_000) == expected


def test_rounds_consist_of_whole_messages() -> None:
    assert readings_per_round(1_000, 10_700) == 10_000


def test_the_ratio_is_the_median_of_each_rounds_own() -> None:
    """A round in which the whole machine was slow has the same ratio as the others."""
    rounds = [
        Round(Span(0, 1_000), Effort(wall_s, 0.1, 0.2, 0.3), RawEffort(raw_s, 0.05))
        for wall_s, raw_s in ((1.0, 0.25), (4.0, 1.0), (1.0, 0.3))
    ]
    found = {figure.name: figure for figure in figures_of(100, rounds)}
    assert found["ratio of the two"].value == 0.25
    assert found["durable ingest"].value == 1_000
    assert found["durable ingest"].low == 250
    assert found["PostgreSQL CPU per reading"].value == pytest.approx(300)
    assert found["PostgreSQL CPU per raw row"].value == pytest.approx(50)
