"""The processes of a benchmark: an embedded PostgreSQL in a temporary directory, the services, one client."""

import multiprocessing
import os
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from multiprocessing.pool import AsyncResult, Pool
from pathlib import Path
from types import TracebackType
from typing import ParamSpec, Self, TypeVar

import psycopg
from psycopg import sql

from benchmarks.client import BenchmarkError, Target
from shared.db.embedded import EmbeddedServer
from shared.db.migrate import migrate
from shared.serve import tune_gc

START_TIMEOUT_S = 30
STOP_TIMEOUT_S = 20
"""Twice the grace that a service gives its calls."""

CLIENT_TIMEOUT_S = 600
"""A client that takes longer for one measurement hangs."""

WATCH_S = 1.0
"""Between two looks at what a load does to the service."""

P = ParamSpec("P")
T = TypeVar("T")


class Clients:
    """Client processes that work at the same time."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    def start(self, work: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> "AsyncResult[T]":
        """Begins to call a function in one of them."""
        return self._pool.apply_async(work, args, kwargs)

    def watch(self, results: "Sequence[AsyncResult[T]]", seconds: float, look: Callable[[], None]) -> list[T]:
        """Calls `look` every second until all results are there; BenchmarkError after so many seconds."""
        deadline = time.monotonic() + seconds
        while not all(result.ready() for result in results):
            if time.monotonic() > deadline:
                raise BenchmarkError(f"the clients took longer than {seconds:g} s")
            look()
            time.sleep(WATCH_S)
        return [result.get() for result in results]


class Harness:
    """Everything that a benchmark needs, on free ports and in a temporary directory; as a context manager it is all
    stopped and removed at the end, however that comes."""

    def __init__(self) -> None:
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        _raise_file_limit()
        with ExitStack() as stack:
            self.directory = Path(stack.enter_context(_temporary_directory()))
            self.server = stack.enter_context(EmbeddedServer(self.directory / "postgres"))
            spawn = multiprocessing.get_context("spawn")  # forked processes and gRPC do not go together
            self._client = stack.enter_context(spawn.Pool(1, initializer=_initialize_client))
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    @contextmanager
    def database(self, name: str) -> Iterator[str]:
        """The URL, for its owner, of a migrated and empty database. It is dropped at the end: its vacuum and its
        checkpoint would be felt by the next benchmark."""
        with psycopg.connect(self.server.url(), autocommit=True) as connection:
            connection.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
            migrate(self.server.url(name))
            yield self.server.url(name)
            connection.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(name)))
            connection.execute("CHECKPOINT")

    @contextmanager
    def service(self, name: str, database: str, ready: str = "", **variables: str) -> Iterator[Target]:
        """`ingestion` or `analytics`, running on a database with the rights of its role, until the context ends.

        `variables` are added to its environment; `ready` tells it from another one on the same database."""
        ready_file = self.directory / f"{name}-{database}{ready}.ready"
        log_file = self.directory / f"{name}-{database}{ready}.log"
        environment = {
            **os.environ,
            "ENERGYFLEET_DATABASE_URL": self.server.url(database, role=f"energyfleet_{name}"),
            f"ENERGYFLEET_{name.upper()}_ADDRESS": "127.0.0.1:0",
            "ENERGYFLEET_READY_FILE": str(ready_file),
            **variables,
        }
        ready_file.unlink(missing_ok=True)
        with log_file.open("wb") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", f"{name}_svc"], env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )
        try:
            yield Target(_address(process, ready_file, log_file), process.pid, self.server.pid)
        finally:
            _stop(process)

    def in_client(self, work: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
        """Calls a function of `benchmarks.client` in the client's process and returns what it returns."""
        try:
            return self._client.apply_async(work, args, kwargs).get(CLIENT_TIMEOUT_S)
        except multiprocessing.TimeoutError:
            raise BenchmarkError(f"the client took longer than {CLIENT_TIMEOUT_S} s") from None

    @contextmanager
    def clients(self, processes: int) -> Iterator[Clients]:
        """More client processes, for a load that one cannot make. They are killed at the end."""
        spawn = multiprocessing.get_context("spawn")
        with spawn.Pool(processes, initializer=_initialize_client) as pool:
            yield Clients(pool)

    @property
    def postgres_version(self) -> str:
        """For example `18.1`."""
        with psycopg.connect(self.server.url()) as connection:
            row = connection.execute("SHOW server_version").fetchone()
        assert row is not None
        return str(row[0]).split()[0]


@contextmanager
def _temporary_directory() -> Iterator[str]:
    directory = tempfile.mkdtemp(prefix="energyfleet-bench-")
    try:
        yield directory
    finally:
        shutil.rmtree(directory, ignore_errors=True)


def _raise_file_limit() -> None:
    """As many connections as the system lets us have; children inherit it."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


def _initialize_client() -> None:
    _raise_file_limit()
    tune_gc()  # looking through 2,500 streams, it would hold up all of a process's devices
    # Ctrl-C, or a SIGTERM of `timeout`, goes to the whole group; the harness ends its clients itself. One that the
    # signal ended while it waited for work would take the queue's lock with it, and the harness would wait for ever.
    os.setsid()


def _address(process: subprocess.Popen[bytes], ready_file: Path, log_file: Path) -> str:
    deadline = time.monotonic() + START_TIMEOUT_S
    while not ready_file.exists():
        if process.poll() is not None or time.monotonic() > deadline:
            log_end = "\n".join(log_file.read_text(errors="replace").splitlines()[-5:])
            raise BenchmarkError(f"{log_file.stem} did not start:\n{log_end}")
        time.sleep(0.02)
    return ready_file.read_text().strip()


def _stop(process: subprocess.Popen[bytes]) -> None:
    process.send_signal(signal.SIGTERM)
    try:
        process.wait(STOP_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
