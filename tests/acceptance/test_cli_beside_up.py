"""`energyfleet verify`, `maintain` and `migrate` beside a running `energyfleet up`, on its embedded database."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil
import psycopg
import pytest

from shared.db.migrate import head
from tests.acceptance.test_cli_up import (
    STOP_TIMEOUT_S,
    Running,
    an_environment,
    energyfleet,
    gone,
    started,
    superuser,
    up,
    wait_until,
)
from tests.acceptance.test_cli_verify import JUDGED_BY

A_READING = '{"meter": {"meterId": "m-1", "kwhConsumedAc": 1.5, "timestamp": "2024-03-05T10:00:00Z"}}'
NOTHING_DIFFERS = f"{JUDGED_BY}0 hours of rollups and the current status of 0 devices are what history says.\n"


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("up")


@pytest.fixture(scope="module", autouse=True)
def running(directory: Path) -> Iterator[Running]:
    """`up` in that directory."""
    with up(directory) as running:
        yield running
        assert running.process.poll() is None, "no command stops what it did not start"


@contextmanager
def a_verify_that_waits(directory: Path, beside: Path) -> Iterator[Running]:
    """`verify` in the middle of its work, where it waits for a table that somebody else has locked."""
    with superuser(beside) as holder, superuser(beside) as observer, holder.transaction():
        holder.execute("LOCK TABLE meter_current_status IN ACCESS EXCLUSIVE MODE")
        with started(directory, "verify", environment=an_environment(beside)) as verifying:
            waits = """
                SELECT FROM pg_stat_activity WHERE application_name = 'energyfleet verify' AND wait_event_type = 'Lock'
            """
            wait_until(lambda: observer.execute(waits).fetchone() is not None, "verify waits")
            yield verifying


@pytest.mark.parametrize(
    ("command", "printed"),
    [
        ("verify", " devices are what history says.\n"),
        ("maintain", "0 partitions created, 0 dropped; "),
        ("migrate", f"The schema is at revision {head()}: embedded PostgreSQL in "),
    ],
)
def test_a_command_uses_the_database_that_up_runs(command: str, printed: str, directory: Path) -> None:
    done = energyfleet(command, environment=an_environment(directory))
    assert (done.returncode, done.stderr) == (0, "")
    assert printed in done.stdout


def test_a_difference_is_found_and_repaired_beside_up(running: Running, directory: Path) -> None:
    environment = an_environment(directory, INGESTION_ADDRESS=running.address("ingestion"))
    sent = energyfleet("replay", "-", "--ending", "now", environment=environment, stdin=A_READING)
    assert sent.returncode == 0, sent.stderr
    with superuser(directory) as owner:
        owner.execute("DELETE FROM meter_current_status")
    found = energyfleet("verify", environment=environment)
    assert found.returncode == 1, found.stderr
    assert found.stdout.startswith(f"{JUDGED_BY}meter_current_status m-1: stored nothing")
    repaired = energyfleet("verify", "--repair", environment=environment)
    assert (repaired.returncode, repaired.stderr) == (0, "")
    assert energyfleet("verify", environment=environment).returncode == 0


def test_two_commands_at_once_share_it(directory: Path, tmp_path: Path) -> None:
    with a_verify_that_waits(tmp_path, directory) as first:
        assert energyfleet("maintain", environment=an_environment(directory)).returncode == 0
        assert first.process.poll() is None, "both are connected"


def test_ctrl_c_stops_the_command_and_leaves_up_running(directory: Path, tmp_path: Path) -> None:
    with a_verify_that_waits(tmp_path, directory) as verifying:
        verifying.process.send_signal(signal.SIGINT)
        assert verifying.process.wait(STOP_TIMEOUT_S) == 130
    assert verifying.stderr.read_text().startswith("Stopped after ")
    assert energyfleet("migrate", environment=an_environment(directory)).returncode == 0


def test_a_command_that_finds_up_starting_waits_until_its_schema_is_there(tmp_path: Path) -> None:
    free = ("--ingestion", "127.0.0.1:0", "--analytics", "127.0.0.1:0")
    environment = an_environment(tmp_path)
    with started(tmp_path, "up", *free, environment=environment):
        wait_until((tmp_path / "data" / "lock").exists, "up has the directory")
        verified = energyfleet("verify", environment=environment)
    assert (verified.returncode, verified.stdout, verified.stderr) == (0, NOTHING_DIFFERS, "")


def test_a_command_whose_database_up_takes_away_says_so(tmp_path: Path) -> None:
    beside = tmp_path / "command"
    beside.mkdir()
    with up(tmp_path) as stopping, suppress(psycopg.OperationalError), a_verify_that_waits(beside, tmp_path) as cut:
        stopping.process.send_signal(signal.SIGTERM)
        assert cut.process.wait(STOP_TIMEOUT_S) == 1
        assert stopping.process.wait(STOP_TIMEOUT_S) == 0
    assert cut.stderr.read_text() == (
        f"The `energyfleet up` in {tmp_path / 'data'} has stopped, and its database with it; run the command again.\n"
    )


def test_after_a_crash_of_up_and_its_database_commands_start_it_themselves_one_after_the_other(tmp_path: Path) -> None:
    with up(tmp_path) as crashing:
        family = crashing.family()
        postgres = next(each for each, words in crashing.commands() if words[0].endswith("/postgres"))
        for each in (postgres, psutil.Process(crashing.process.pid)):
            each.kill()
        wait_until(lambda: gone(family), "all children have ended", STOP_TIMEOUT_S)
        assert (tmp_path / "data" / "pgdata" / "postmaster.pid").exists()
    environment = an_environment(tmp_path)
    with started(tmp_path, "verify", environment=environment) as first:
        second = energyfleet("verify", environment=environment)
        assert first.process.wait(STOP_TIMEOUT_S) == 0, first.stderr.read_text()
    assert first.stdout.read_text() == NOTHING_DIFFERS
    assert (second.returncode, second.stdout, second.stderr) == (0, NOTHING_DIFFERS, "")
