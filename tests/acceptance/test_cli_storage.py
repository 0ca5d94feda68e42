"""`energyfleet storage`, with the rights of maintenance."""

import csv
import re
from datetime import UTC, datetime, timedelta
from pathlib import Path

import psycopg
import pytest

from shared.db.embedded import EmbeddedServer
from tests.acceptance.test_cli_up import an_environment, energyfleet
from tests.sealed import seal_all

TODAY = datetime.now(UTC).date()


@pytest.fixture
async def environment(postgres: EmbeddedServer, database: str, tmp_path: Path) -> dict[str, str]:
    """Of a fleet of 20 meters with a reading every 15 minutes, for a day that is sealed and two that are not."""
    with psycopg.connect(postgres.url(database), autocommit=True) as owner:
        for ago in (1, 2, 3):
            day = TODAY - timedelta(days=ago)
            owner.execute("SELECT ensure_history_partition('meter_telemetry_history', %s)", (day,))
            owner.execute(
                "INSERT INTO meter_telemetry_history (meter_key, ts, kwh_consumed_ac)"
                " SELECT meter, %s::timestamp AT TIME ZONE 'UTC' + at * interval '15 minutes', 0.25"
                " FROM generate_series(1, 20) AS meter, generate_series(0, 95) AS at",
                (day,),
            )
    url = postgres.url(database, role="energyfleet_maintenance")
    await seal_all(url)
    return an_environment(tmp_path, DATABASE_URL=url)


def cells_of(table: str) -> list[list[str]]:
    return [[cell.strip() for cell in line.split("│")[1:-1]] for line in table.splitlines() if "│" in line]


@pytest.mark.one_server
async def test_storage_tells_months_growth_and_when_the_disk_is_full(environment: dict[str, str]) -> None:
    told = energyfleet("storage", "--free", "1GB", environment=environment)
    assert told.returncode == 0, told.stderr
    table, growth, full = told.stdout.strip().rsplit("\n", 2)
    cells = cells_of(table)
    _, *opened = cells[-1][:3]
    assert (*opened, *cells[-1][5:7]) == ("2", "3,840", "1", "1,920")  # of the only month, or of all
    assert float(cells[-1][8]) < float(cells[-1][4]) / 2
    assert "archived" not in table
    assert re.fullmatch(
        r"It grows by \d+(\.\d+)? kB a day: 1,920 readings \(the mean of the last 2 closed days\) of \d+\.\d B once"
        r" sealed, and 0 B of hourly rollups, which take \d+(\.\d+)? kB now\.",
        growth,
    )
    assert re.fullmatch(
        r"1.00 GB are free, enough for more than a century; from 20\d\d-\d\d-01 on retention drops.*", full
    ) or re.match(r"1\.00 GB are free, enough", full)

    assert energyfleet("storage", environment=environment).stderr == (
        "A database cannot tell how much is free on its disk: say it with --free, as --free 500GB.\n"
    )
    exact = energyfleet("storage", "--exact", "--free", "1GB", environment=environment)
    counted = [(*row[:3], *row[5:7]) for row in cells_of(exact.stdout)]
    assert counted == [(*row[:3], *row[5:7]) for row in cells]  # its tables may have been vacuumed meanwhile

    rows = [*csv.DictReader(energyfleet("storage", "--csv", environment=environment).stdout.splitlines())]
    assert sum(int(row["open_readings"]) for row in rows) == 3_840
    assert sum(int(row["sealed_readings"]) for row in rows) == 1_920
    assert all(row["kind"] == "meter" and row["estimated"] == "false" and row["archived_days"] == "0" for row in rows)


@pytest.mark.one_server
@pytest.mark.parametrize("free", ["much", "5XB", "-1GB", "1.5.2GB", ""])
def test_a_size_that_is_none_is_a_usage_error(free: str, tmp_path: Path) -> None:
    told = energyfleet("storage", "--free", free, environment=an_environment(tmp_path))
    assert told.returncode == 2
    assert "is no size such as 500GB" in told.stderr
    assert "Traceback" not in told.stderr


@pytest.mark.one_server
def test_an_embedded_server_without_a_reading_says_so_and_knows_its_disk(tmp_path: Path) -> None:
    environment = an_environment(tmp_path)
    assert energyfleet("migrate", environment=environment).returncode == 0
    told = energyfleet("storage", environment=environment)
    assert told.returncode == 0, told.stderr
    assert told.stdout.splitlines()[:2] == [
        "No readings are stored.",
        "No closed day has readings yet, by which growth could be told.",
    ]
    assert re.search(r"B are free, enough for more than a century\.$", told.stdout)
