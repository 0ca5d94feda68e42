"""`python -m benchmarks`: measures on this machine, and prints one table."""

import signal
from enum import StrEnum
from pathlib import Path
from types import FrameType
from typing import Annotated, NoReturn

import typer
from rich.console import Console

from benchmarks import performance, stream, unary
from benchmarks.client import BenchmarkError
from benchmarks.figures import Figure, machine_facts, show, write_json
from benchmarks.harness import Harness
from benchmarks.history import ROWS_MIN

LOG_WIDTH = 132
"""Columns where the output is a file: the table's width, not the 80 of a terminal that is not there."""


class Benchmark(StrEnum):
    """What can be measured."""

    STREAM = "stream"
    UNARY = "unary"
    PERFORMANCE = "performance"


def main(
    only: Annotated[list[Benchmark] | None, typer.Option(help="Measure only this; may be repeated.")] = None,
    readings: Annotated[int, typer.Option(min=10_000, help="stream: readings in a round.")] = stream.READINGS,
    rounds: Annotated[int, typer.Option(min=1, help="stream: rounds, ours and raw COPY in turn.")] = stream.ROUNDS,
    per_message: Annotated[
        list[int] | None, typer.Option(min=1, max=10_000, help="stream: only this message size; may be repeated.")
    ] = None,
    streams: Annotated[int, typer.Option(min=1, help="stream: concurrent calls.")] = stream.STREAMS,
    rate: Annotated[float, typer.Option(min=1, help="unary: calls a second.")] = unary.RATE,
    seconds: Annotated[float, typer.Option(min=1, help="unary: seconds of calls.")] = unary.SECONDS,
    history_rows: Annotated[
        int, typer.Option(min=ROWS_MIN, help="performance: rows stored; 28800000 is the design's figure.")
    ] = performance.HISTORY_ROWS,
    calls: Annotated[int, typer.Option(min=1, help="performance: questions asked.")] = performance.CALLS,
    json_file: Annotated[Path | None, typer.Option("--json", help="Write the figures to this file, too.")] = None,
) -> None:
    """Measure ingest and query latency with an embedded PostgreSQL and both services on this machine."""
    chosen = only or list(Benchmark)
    progress, output = Console(stderr=True), Console()
    if not output.is_terminal:
        output.width = LOG_WIDTH
    # A terminal shows one line that changes; a log shows one line for each step.
    status = progress.status("starting")
    tell = status.update if progress.is_terminal else progress.print
    signal.signal(signal.SIGTERM, _interrupt)
    figures: list[Figure] = []
    try:
        with status, Harness() as harness:
            facts = machine_facts(harness.postgres_version)
            if Benchmark.STREAM in chosen:
                sizes = per_message or stream.PER_MESSAGE
                figures += stream.measure(
                    harness, per_message=sizes, readings=readings, rounds=rounds, streams=streams, tell=tell
                )
            if Benchmark.UNARY in chosen:
                figures += unary.measure(harness, rate=rate, seconds=seconds, tell=tell)
            if Benchmark.PERFORMANCE in chosen:
                figures += performance.measure(harness, history_rows=history_rows, calls=calls, tell=tell)
    except BenchmarkError as error:
        progress.print(f"failed: {error}", style="red", markup=False)
        raise typer.Exit(1) from None
    show(output, figures, facts)
    if json_file is not None:
        write_json(json_file, figures, facts)


def _interrupt(_signal_number: int, _frame: FrameType | None) -> NoReturn:
    raise KeyboardInterrupt


if __name__ == "__main__":
    typer.run(main)
