"""The plans of a question as the service ran it, from PostgreSQL's own log, and what they have to look like."""

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import LiteralString

import psycopg
from psycopg import sql

from benchmarks.client import BenchmarkError

DIRECTORY = Path("bench-plans")

_SETTINGS: Sequence[tuple[LiteralString, LiteralString]] = (
    ("session_preload_libraries", "auto_explain"),
    ("auto_explain.log_min_duration", "0"),
    ("auto_explain.log_analyze", "on"),
    ("auto_explain.log_buffers", "on"),
)

_LOGGED = re.compile(r"LOG:  duration: [\d.]+ ms  plan:\n((?:\t.*\n)+)")
_SCAN = re.compile(r"(\w[\w ]* Scan)(?: Backward)?(?: using \w+)? on (\w+)(.*)")
_HEAP_FETCHES = re.compile(r"Heap Fetches: [1-9]\d*")
_HISTORY = re.compile(r"(?:meter|vehicle)_telemetry_history\w*?(\d{8})$")


class PlanLog:
    """A server's log, from which the plans of new sessions can be read."""

    def __init__(self, log_file: Path) -> None:
        self._log_file = log_file
        self._seen = log_file.stat().st_size

    def since(self) -> list[str]:
        """The plans, as EXPLAIN (ANALYZE, BUFFERS) prints them, of what has read our tables since the last look."""
        with self._log_file.open("rb") as log:
            log.seek(self._seen)
            text = log.read().decode(errors="replace")
            self._seen = log.tell()
        plans = [re.sub("^\t", "", found[1], flags=re.MULTILINE) for found in _LOGGED.finditer(text)]
        return [plan for plan in plans if any(not on.startswith("pg_") for _, on, _ in _SCAN.findall(plan))]


@contextmanager
def logged(url: str, log_file: Path) -> Iterator[PlanLog]:
    """While it lasts, sessions that begin in this database write the plans of all that they run to the server's log."""
    with psycopg.connect(url, autocommit=True) as connection:
        database = sql.Identifier(connection.info.dbname)
        for name, value in _SETTINGS:
            connection.execute(
                sql.SQL("ALTER DATABASE {} SET {} = {}").format(database, sql.SQL(name), sql.Literal(value))
            )
        try:
            yield PlanLog(log_file)
        finally:
            for name, _ in _SETTINGS:
                connection.execute(sql.SQL("ALTER DATABASE {} RESET {}").format(database, sql.SQL(name)))


def save(directory: Path, name: str, plans: Sequence[str], start: datetime, end: datetime) -> Path:
    """Writes a question's plans into a file and returns it.

    BenchmarkError where there is none, or where one reads history otherwise than from its covering index alone and in
    the partitions of `(start, end]` alone.
    """
    directory.mkdir(parents=True, exist_ok=True)
    file = directory / f"{name}.txt"
    file.write_text("\n".join(plans))
    wrong = [each for plan in plans for each in faults(plan, start, end)]
    if not plans:
        raise BenchmarkError(f"PostgreSQL logged no plan of {name}")
    if wrong:
        raise BenchmarkError(f"{file}: {wrong[0]}" + (f", and {len(wrong) - 1} more" if len(wrong) > 1 else ""))
    return file


def faults(plan: str, start: datetime, end: datetime) -> list[str]:
    """What a plan does with history that it should not do."""
    first, last = (each.astimezone(UTC).date() for each in (start, end))
    # Of what VACUUM has seen, an index-only scan needs no row itself.
    found = [f"not from the index alone: {fetches}" for fetches in _HEAP_FETCHES.findall(plan)]
    for scan, relation, figures in _SCAN.findall(plan):
        partition = _HISTORY.match(relation)
        if partition is None:
            continue
        day = datetime.strptime(partition[1], "%Y%m%d").replace(tzinfo=UTC).date()
        if scan != "Index Only Scan" and "(never executed)" not in figures:
            found.append(f"{relation} is read by {scan}")
        if not first <= day <= last:
            found.append(f"{relation} is read for {start:%F %T} to {end:%F %T}")
    return found
