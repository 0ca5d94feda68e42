"""`energyfleet up`, `migrate` and `demo` as an operator starts and stops them: as processes, on free ports."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import psutil
import psycopg
import pytest

from shared import child
from shared.db.migrate import head

START_TIMEOUT_S = 60
STOP_TIMEOUT_S = 40

COMMAND = (sys.executable, "-m", "fleetcli")

IMPATIENT_S = 2
IMPATIENT_COMMAND = (
    sys.executable,
    "-c",
    "from fleetcli import __main__; from fleetcli.client import services;"
    f" services.PATIENCE_S = {IMPATIENT_S}; __main__.main()",
)
"""The command, but for how long it waits for a service."""


def wait_until(condition: Callable[[], bool], what: str, timeout_s: float = START_TIMEOUT_S) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, f"not within {timeout_s:g} s: {what}"
        time.sleep(0.02)


def an_environment(directory: Path, **variables: str) -> dict[str, str]:
    """Nothing of ours but `variables`, and every temporary and data file below a directory."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("ENERGYFLEET_")}
    temporary = directory / "tmp"
    temporary.mkdir(exist_ok=True)
    ours = {"TMPDIR": str(temporary), "ENERGYFLEET_DATA_DIR": str(directory / "data"), "COLUMNS": "200"}
    return inherited | ours | {f"ENERGYFLEET_{name}": value for name, value in variables.items()}


def energyfleet(
    *arguments: str, environment: Mapping[str, str], stdin: str | None = None
) -> subprocess.CompletedProcess[str]:
    """Runs a command to its end."""
    return subprocess.run(
        [*COMMAND, *arguments], env=environment, input=stdin, capture_output=True, text=True, check=False, timeout=100
    )


@dataclass
class Running:
    """An `energyfleet` that goes on, with what it printed in files."""

    process: subprocess.Popen[bytes]
    stdout: Path
    stderr: Path

    def family(self) -> list[psutil.Process]:
        """It and everything that it has started."""
        itself = psutil.Process(self.process.pid)
        return [itself, *itself.children(recursive=True)]

    def commands(self) -> Iterator[tuple[psutil.Process, list[str]]]:
        """The family and its command lines, but for what has just ended, as PostgreSQL's processes may at any time."""
        for each in self.family():
            with suppress(psutil.NoSuchProcess):
                yield each, each.cmdline()

    def address(self, service: str) -> str:
        """What `up` printed behind a service's name."""
        (line,) = [line for line in self.stdout.read_text().splitlines() if line.split()[:1] == [service]]
        return line.split()[1]

    def says(self, word: str) -> Callable[[], bool]:
        """A condition: it has printed a word, or has ended, which is reported with what it said."""

        def said() -> bool:
            assert self.process.poll() is None, self.stderr.read_text()
            return word in self.stdout.read_text() + self.stderr.read_text()

        return said


def gone(family: list[psutil.Process]) -> bool:
    return not any(each.is_running() and each.status() != psutil.STATUS_ZOMBIE for each in family)


@contextmanager
def started(
    directory: Path, *arguments: str, environment: Mapping[str, str], command: Sequence[str] = COMMAND
) -> Iterator[Running]:
    """A command that goes on, in a session of its own; ended at the end, or with us, if it has not."""
    stdout, stderr = directory / "stdout", directory / "stderr"
    with stdout.open("wb") as out, stderr.open("wb") as err:
        process = subprocess.Popen(
            [*child.command_prefix(), *command, *arguments],
            env=environment,
            stdout=out,
            stderr=err,
            start_new_session=True,
        )
    running = Running(process, stdout, stderr)
    try:
        yield running
    finally:
        if process.poll() is None:
            process.terminate()
        process.wait(STOP_TIMEOUT_S)


def superuser(directory: Path) -> psycopg.Connection[tuple[object, ...]]:
    """A connection to the embedded database below a directory, found as PostgreSQL's own programs find it."""
    socket_dir = (directory / "data" / "pgdata" / "postmaster.pid").read_text().splitlines()[4]
    return psycopg.connect(f"postgresql://postgres@/energyfleet?host={socket_dir}", autocommit=True)


@contextmanager
def up(directory: Path, **variables: str) -> Iterator[Running]:
    """`energyfleet up` on free ports, ready."""
    free = ("--ingestion", "127.0.0.1:0", "--analytics", "127.0.0.1:0")
    with started(directory, "up", *free, environment=an_environment(directory, **variables)) as running:
        wait_until(running.says("Try"), "up is ready")
        yield running


def test_ctrl_c_stops_everything_and_leaves_nothing_behind(tmp_path: Path) -> None:
    with up(tmp_path) as running:
        family = running.family()
        assert len(family) > 4, "up itself, two services, and PostgreSQL with its backends"
        running.process.send_signal(signal.SIGINT)
        assert running.process.wait(STOP_TIMEOUT_S) == 0
    assert gone(family)
    assert list((tmp_path / "tmp").iterdir()) == []
    assert running.stderr.read_text() == "Everything has stopped.\n"


@pytest.mark.parametrize("victim", ["ingestion_svc", "analytics_svc", "postgres"])
def test_when_a_part_ends_by_itself_everything_stops_with_an_error(victim: str, tmp_path: Path) -> None:
    with up(tmp_path) as running:
        family = running.family()
        next(each for each, words in running.commands() if any(victim in word for word in words)).kill()
        assert running.process.wait(STOP_TIMEOUT_S) == 1
    assert gone(family)
    called = "the embedded PostgreSQL" if victim == "postgres" else victim
    assert running.stderr.read_text().splitlines()[-1].startswith(f"{called} ended by itself")


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells children that their parent was killed")
def test_when_up_is_killed_its_children_end(tmp_path: Path) -> None:
    with up(tmp_path) as running:
        family = running.family()
        running.process.kill()
        try:
            wait_until(lambda: gone(family), "all children have ended", STOP_TIMEOUT_S)
        finally:
            for each in family:
                if each.is_running():
                    each.kill()


def test_a_service_that_cannot_start_is_an_error_and_stops_the_rest(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as somebody:
        taken = f"127.0.0.1:{somebody.getsockname()[1]}"
        refused = energyfleet(
            "up", "--ingestion", taken, "--analytics", "127.0.0.1:0", environment=an_environment(tmp_path)
        )
    assert refused.returncode == 1
    assert f"cannot listen on {taken}" in refused.stderr
    assert refused.stderr.splitlines()[-1] == "ingestion_svc ended before it was ready (exit code 1)"
    assert list((tmp_path / "tmp").iterdir()) == []


def test_a_replica_of_nothing_is_refused(tmp_path: Path) -> None:
    refused = energyfleet("up", environment=an_environment(tmp_path, ANALYTICS_DATABASE_URL="postgresql://a@b/c"))
    assert refused.returncode == 1
    assert "ENERGYFLEET_ANALYTICS_DATABASE_URL is set and ENERGYFLEET_DATABASE_URL" in " ".join(refused.stderr.split())
    assert not (tmp_path / "data").exists()


def test_a_data_directory_belongs_to_one_at_a_time_and_keeps_its_readings(tmp_path: Path) -> None:
    reading = '{"meter": {"meterId": "m-1", "kwhConsumedAc": 1.5, "timestamp": "2024-03-05T10:00:00Z"}}'
    with up(tmp_path) as running:
        environment = an_environment(tmp_path, INGESTION_ADDRESS=running.address("ingestion"))
        second = energyfleet("up", environment=environment)
        assert (second.returncode, "in use by another energyfleet" in second.stderr) == (1, True)
        sent = energyfleet("replay", "-", "--ending", "now", environment=environment, stdin=reading)
        assert sent.returncode == 0, sent.stderr
    with up(tmp_path) as again:
        environment = an_environment(tmp_path, ANALYTICS_ADDRESS=again.address("analytics"))
        known = energyfleet("status", "m-1", environment=environment)
        assert "1.5000 kWh" in known.stdout, known.stderr


@pytest.mark.one_server
def test_the_database_of_the_environment_is_migrated_and_used(database_url: str, tmp_path: Path) -> None:
    with psycopg.connect(database_url, autocommit=True) as connection:
        connection.execute("DROP SCHEMA public CASCADE")
        connection.execute("CREATE SCHEMA public")
    environment = an_environment(tmp_path, DATABASE_URL=database_url)
    migrated = [energyfleet("migrate", environment=environment) for _ in range(2)]
    assert [each.returncode for each in migrated] == [0, 0], migrated[0].stderr
    assert migrated[0].stdout.startswith(f"The schema is at revision {head()}: ")
    with up(tmp_path, DATABASE_URL=database_url) as running:
        healthy = energyfleet("health", running.address("ingestion"), environment=environment)
        assert (healthy.returncode, healthy.stdout.split()[-1]) == (0, "SERVING")
        assert not (tmp_path / "data").exists(), "nothing embedded was started"


def test_the_demo_agrees_with_its_ground_truth(tmp_path: Path) -> None:
    shown = energyfleet("demo", "--chargers", "12", "--hours", "6", environment=an_environment(tmp_path))
    assert shown.returncode == 0, shown.stderr
    assert "All 12 vehicles are as simulated" in shown.stdout
    assert "LOW_EFFICIENCY" in shown.stdout
    assert "readings committed in" in shown.stdout
    assert list((tmp_path / "tmp").iterdir()) == []


def test_a_demo_that_is_interrupted_leaves_nothing_behind(tmp_path: Path) -> None:
    with started(tmp_path, "demo", "--chargers", "1000", environment=an_environment(tmp_path)) as running:
        wait_until(running.says("Broken on purpose"), "the demo streams")
        family = running.family()
        running.process.send_signal(signal.SIGINT)
        assert running.process.wait(STOP_TIMEOUT_S) == 130
    assert gone(family)
    assert list((tmp_path / "tmp").iterdir()) == []


def test_a_service_that_goes_away_for_good_is_waited_for_and_then_named(tmp_path: Path) -> None:
    client = tmp_path / "client"
    client.mkdir()
    with up(tmp_path) as running:
        environment = an_environment(client, INGESTION_ADDRESS=running.address("ingestion"))
        simulating = ("simulate", "--chargers", "500", "--seed", "1")
        with started(client, *simulating, environment=environment, command=IMPATIENT_COMMAND) as sending:
            with superuser(tmp_path) as observer:
                stored = "SELECT FROM vehicle_telemetry_history LIMIT 1"
                wait_until(lambda: observer.execute(stored).fetchone() is not None, "readings are being stored")
            running.process.send_signal(signal.SIGTERM)
            assert sending.process.wait(STOP_TIMEOUT_S) == 1
            told = sending.stderr.read_text()
            assert "Trying again in" in told
            assert told.splitlines()[-1].startswith("no answer from ")
            assert "Traceback" not in told
        assert running.process.wait(STOP_TIMEOUT_S) == 0
