"""Figures, what they should be, and the table that shows both."""

import json
import math
import os
import platform
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Literal

import psutil
from rich import box
from rich.console import Console
from rich.table import Table


@dataclass(frozen=True)
class Goal:
    """What a figure should reach: at least this, or below this, in the figure's unit."""

    kind: Literal["at least", "below"]
    bound: float

    def is_met(self, value: float) -> bool:
        """Whether a value reaches it."""
        return value >= self.bound if self.kind == "at least" else value < self.bound


@dataclass(frozen=True)
class Figure:
    """One measured number. `low` and `high` are the extremes of the rounds whose median it is."""

    subject: str
    name: str
    value: float
    unit: str
    low: float | None = None
    high: float | None = None
    goal: Goal | None = None


def percentile(values: Sequence[float], percent: float) -> float:
    """The smallest of the values that at least so many percent of them do not exceed (nearest rank)."""
    ordered = sorted(values)
    return ordered[max(0, math.ceil(percent / 100 * len(ordered)) - 1)]


def machine_facts(postgres_version: str) -> dict[str, str]:
    """What the figures depend on."""
    ours = {name: value for name, value in sorted(os.environ.items()) if name.startswith("ENERGYFLEET_")}
    return {
        "processor": f"{os.cpu_count()} cores {_processor_name()}".rstrip(),
        "memory": f"{psutil.virtual_memory().total / 2**30:.0f} GiB",
        "PostgreSQL": postgres_version,
        "Python": platform.python_version(),
        "grpcio": version("grpcio"),
        "psycopg": version("psycopg"),
        "load before": f"{os.getloadavg()[0]:.1f}",
    } | ({"settings": " ".join(f"{name}={value}" for name, value in ours.items())} if ours else {})


def show(console: Console, figures: Sequence[Figure], facts: dict[str, str]) -> None:
    """Prints the table."""
    table = Table(
        title="Energy Fleet",
        caption=", ".join(f"{name} {value}" for name, value in facts.items()),
        box=box.SIMPLE_HEAD,
        title_justify="left",
        caption_justify="left",
    )
    table.add_column("what", no_wrap=True)
    table.add_column("figure", no_wrap=True)
    table.add_column("measured", justify="right", no_wrap=True)
    table.add_column("rounds", justify="right", no_wrap=True)
    table.add_column("reach", justify="right", no_wrap=True)
    table.add_column("met")
    subject = None
    for figure in figures:
        if subject not in (None, figure.subject):
            table.add_section()
        goal = figure.goal
        table.add_row(
            figure.subject if figure.subject != subject else "",
            figure.name,
            _written(figure.value, figure.unit),
            "" if figure.low is None or figure.high is None else f"{_number(figure.low)} .. {_number(figure.high)}",
            "" if goal is None else f"{'>=' if goal.kind == 'at least' else '<'} {_written(goal.bound, figure.unit)}",
            "" if goal is None else ("[green]yes[/]" if goal.is_met(figure.value) else "[red]no[/]"),
        )
        subject = figure.subject
    console.print(table)


def write_json(file: Path, figures: Sequence[Figure], facts: dict[str, str]) -> None:
    """Writes what the table shows, for programs."""
    shown = [asdict(figure) | {"met": figure.goal and figure.goal.is_met(figure.value)} for figure in figures]
    file.write_text(json.dumps({"machine": facts, "figures": shown}, indent=2) + "\n")


def _processor_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.machine()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def _written(value: float, unit: str) -> str:
    return f"{_number(value)} {unit}".rstrip()


def _number(value: float) -> str:
    """Counts whole; else three significant digits and no exponent: more would be noise."""
    if isinstance(value, int):
        return f"{value:,}"
    digits = 2 - math.floor(math.log10(abs(value))) if value else 0
    return f"{round(value, digits):,.{max(0, digits)}f}"
