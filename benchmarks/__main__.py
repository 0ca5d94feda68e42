"""`python -m benchmarks`: measures on this machine, and prints one table."""

import random
import signal
from enum import StrEnum
from itertools import product
from pathlib import Path
from types import FrameType
from typing import Annotated, NoReturn

import typer
from rich.console import Console

from benchmarks import (
    ack,
    backlog,
    fairness,
    growth,
    performance,
    plans,
    reads,
    soak,
    stall,
    storage,
    storm,
    stream,
    streams,
    unary,
    years,
)
from benchmarks.client import BenchmarkError
from benchmarks.exact import check
from benchmarks.figures import Figure, machine_facts, show, write_json
from benchmarks.harness import Harness
from benchmarks.history import ROWS_MIN
from benchmarks.verdicts import check as verdicts
from benchmarks.verdicts import normal

LOG_WIDTH = 132
"""Columns where the output is a file: the table's width, not the 80 of a terminal that is not there."""


class Benchmark(StrEnum):
    """What can be measured."""

    STREAM = "stream"
    ACK = "ack"
    UNARY = "unary"
    PERFORMANCE = "performance"
    GROWTH = "growth"
    STORAGE = "storage"
    YEARS = "years"
    STREAMS = "streams"
    STORM = "storm"
    STALL = "stall"
    FAIRNESS = "fairness"
    SOAK = "soak"
    EXACT = "exact"
    VERDICTS = "verdicts"


SHORT = (Benchmark.STREAM, Benchmark.ACK, Benchmark.UNARY, Benchmark.PERFORMANCE, Benchmark.GROWTH, Benchmark.STORAGE)
"""Under eight minutes together: what `make bench` prints. The others are asked for by name."""

WORKERS = (1, 2)


def main(
    only: Annotated[list[Benchmark] | None, typer.Option(help="Measure only this; may be repeated.")] = None,
    readings: Annotated[
        int | None,
        typer.Option(
            min=10_000,
            help=f"stream: readings in a round, {stream.READINGS:,} by default;"
            f" exact: distinct readings, {check.READINGS:,} by default.",
        ),
    ] = None,
    rounds: Annotated[int, typer.Option(min=1, help="stream: rounds, ours and raw COPY in turn.")] = stream.ROUNDS,
    per_message: Annotated[
        list[int] | None, typer.Option(min=1, max=10_000, help="stream: only this message size; may be repeated.")
    ] = None,
    registers: Annotated[
        bool, typer.Option("--registers", help="stream: also with readings of registers, after those of intervals.")
    ] = False,
    calls_at_once: Annotated[int, typer.Option("--streams", min=1, help="stream: concurrent calls.")] = stream.STREAMS,
    workers: Annotated[
        list[int] | None,
        typer.Option(
            min=1,
            max=16,
            help="Processes of the ingestion service, 2 for exact and 1 for others by default; repeat it for stream and"
            " ack, which take each.",
        ),
    ] = None,
    devices: Annotated[
        int, typer.Option(min=4, max=100_000, help="streams, storm: devices, a stream each.")
    ] = streams.DEVICES,
    per_connection: Annotated[
        int, typer.Option(min=1, max=100, help="streams: streams that share a connection; devices have one each.")
    ] = streams.PER_CONNECTION,
    rate: Annotated[float, typer.Option(min=1, help="unary: calls a second.")] = unary.RATE,
    seconds: Annotated[
        float | None,
        typer.Option(
            min=5, max=7_200, help="How long. Default: ack 10, unary 15, fairness 30, stall 60, streams 300, soak 600."
        ),
    ] = None,
    history_rows: Annotated[
        int, typer.Option(min=ROWS_MIN, help="performance: rows stored; 28800000 is a fleet of 10,000 for a day.")
    ] = performance.HISTORY_ROWS,
    calls: Annotated[
        int, typer.Option(min=1, help="performance: questions asked about a vehicle.")
    ] = performance.CALLS,
    vehicles: Annotated[
        int, typer.Option(min=1, max=100_000, help="growth: vehicles, and as many meters.")
    ] = reads.FLEET_VEHICLES,
    days: Annotated[
        list[int] | None,
        typer.Option(min=1, max=390, help="growth: days of history to ask against; repeat it. Default: 1 and 7."),
    ] = None,
    sealed_vehicles: Annotated[
        int,
        typer.Option(
            min=10,
            max=100_000,
            help="storage: vehicles, and as many meters, whose days are sealed; 10000: 28,800,000 readings a day.",
        ),
    ] = storage.VEHICLES,
    backlog_vehicles: Annotated[
        int, typer.Option(min=10, max=100_000, help="storage: vehicles, and as many meters, that come back with a day.")
    ] = backlog.VEHICLES,
    plans_directory: Annotated[
        Path | None,
        typer.Option(
            "--plans", help="performance, growth: where plans are saved. Default: beside --json or bench-plans."
        ),
    ] = None,
    pairs: Annotated[
        int, typer.Option(min=1, max=10_000, help="verdicts: healthy pairs, and as many worn ones.")
    ] = verdicts.PAIRS,
    seed: Annotated[
        int | None,
        typer.Option(
            min=0,
            help="exact: repeats the run that named it; without it another one each time."
            f" verdicts, storage: another fleet, {verdicts.SEED} by default.",
        ),
    ] = None,
    json_file: Annotated[Path | None, typer.Option("--json", help="Write the figures to this file, too.")] = None,
) -> None:
    """Measure ingest and query latency with an embedded PostgreSQL and both services on this machine."""
    chosen = only or list(SHORT)
    process_counts = workers or list(WORKERS)
    processes = workers[0] if workers else 1
    if plans_directory is None:
        plans_directory = json_file.parent / plans.DIRECTORY if json_file is not None else plans.DIRECTORY
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
                for count, of_registers in product(process_counts, (False, True) if registers else (False,)):
                    figures += stream.measure(
                        harness,
                        per_message=sizes,
                        readings=readings or stream.READINGS,
                        rounds=rounds,
                        streams=calls_at_once,
                        workers=count,
                        registers=of_registers,
                        tell=tell,
                    )
                figures += stream.over_mutual_tls(
                    harness, readings=readings or stream.READINGS, rounds=rounds, streams=calls_at_once, tell=tell
                )
            if Benchmark.ACK in chosen:
                for count in process_counts:
                    figures += ack.measure(harness, workers=count, seconds=seconds or ack.SECONDS, tell=tell)
            if Benchmark.UNARY in chosen:
                figures += unary.measure(harness, rate=rate, seconds=seconds or unary.SECONDS, tell=tell)
            if Benchmark.PERFORMANCE in chosen:
                figures += performance.measure(
                    harness, history_rows=history_rows, calls=calls, plans_directory=plans_directory, tell=tell
                )
            if Benchmark.GROWTH in chosen:
                figures += growth.measure(
                    harness, vehicles=vehicles, days=days or growth.DAYS, plans_directory=plans_directory, tell=tell
                )
            if Benchmark.STORAGE in chosen:
                figures += storage.measure(
                    harness,
                    vehicles=sealed_vehicles,
                    backlog_vehicles=backlog_vehicles,
                    seed=storage.SEED if seed is None else seed,
                    tell=tell,
                )
            if Benchmark.YEARS in chosen:
                figures += years.measure(harness, tell=tell)
            if Benchmark.STREAMS in chosen:
                figures += streams.measure(
                    harness,
                    devices=devices,
                    seconds=seconds or streams.SECONDS,
                    per_connection=per_connection,
                    workers=processes,
                    tell=tell,
                )
            if Benchmark.STORM in chosen:
                figures += storm.measure(harness, devices=devices, tell=tell)
            if Benchmark.STALL in chosen:
                figures += stall.measure(harness, seconds=seconds or stall.SECONDS, workers=processes, tell=tell)
            if Benchmark.FAIRNESS in chosen:
                figures += fairness.measure(harness, seconds=seconds or fairness.SECONDS, workers=processes, tell=tell)
            if Benchmark.SOAK in chosen:
                figures += soak.measure(harness, seconds=seconds or soak.SECONDS, workers=processes, tell=tell)
            if Benchmark.EXACT in chosen:
                figures += check.measure(
                    harness,
                    readings=readings or check.READINGS,
                    seed=random.randrange(10**6) if seed is None else seed,
                    workers=workers[0] if workers else check.WORKERS,
                    tell=tell,
                )
            if Benchmark.VERDICTS in chosen:
                figures += verdicts.measure(
                    pairs=pairs, seed=verdicts.SEED if seed is None else seed, tell=tell, output=output
                )
                figures += normal.measure(
                    pairs=pairs, seed=verdicts.SEED if seed is None else seed, tell=tell, output=output
                )
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
