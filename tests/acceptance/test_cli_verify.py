"""`energyfleet verify`, as an operator calls it."""

from pathlib import Path

import psycopg
import pytest

from ingestion_svc.readings import MeterRow
from ingestion_svc.writer import Writer
from ingestion_svc.writer_sql import METERS
from shared.db.embedded import EmbeddedServer
from shared.db.engine import connection_parameters
from shared.timestamps import US_PER_SECOND
from tests.acceptance.test_cli_up import an_environment, energyfleet
from tests.builders import NOW_US

pytestmark = pytest.mark.one_server

JUDGED_BY = "Power is judged by 500 kW for all devices, over at least 900 s.\n"


async def test_a_row_changed_by_hand_is_found_and_mended(
    postgres: EmbeddedServer, database: str, database_url: str, tmp_path: Path
) -> None:
    writer = Writer(METERS, connection_parameters(database_url, "test"), 30, lambda place: None)
    await writer.write(
        [MeterRow(f"m{at % 30}", NOW_US - at // 30 * 1_800 * US_PER_SECOND, 1.5, None) for at in range(90)]
    )
    await writer.close()
    environment = an_environment(tmp_path, DATABASE_URL=database_url)
    right = energyfleet("verify", environment=environment)
    assert (right.returncode, right.stderr) == (0, "")
    assert right.stdout == (
        f"{JUDGED_BY}49 hours of rollups and the current status of 30 devices are what history says.\n"
    )

    with psycopg.connect(database_url) as by_hand:
        by_hand.execute("UPDATE meter_current_status SET hour_kwh = 7 WHERE hour_start = '2026-02-10T00:00:00Z'")
        by_hand.execute("DELETE FROM meter_current_status WHERE meter_key = 1")
    found = energyfleet("verify", "--show", "3", environment=environment)
    assert found.returncode == 1
    assert found.stdout.splitlines()[1].startswith(
        "meter_current_status m0: stored nothing; history says ts 2026-02-10"
    )
    last = "last_ts 2026-02-10 00:30:00+00"
    assert found.stdout.splitlines()[2:] == [
        f"meter_energy_hourly {device} 2026-02-10T00:00:00Z: stored {stored};"
        f" history says kwh_consumed_ac 1.5, kwh_returned_ac 0.0, readings 1, {last}"
        for device, stored in (
            ("m0", "nothing"),
            ("m1", f"kwh_consumed_ac 7.0, kwh_returned_ac 0.0, readings 1, {last}"),
        )
    ]
    assert found.stderr == (
        "Not what history says: 1 row of meter_current_status, 30 rows of meter_energy_hourly."
        " `energyfleet verify --repair` repairs them.\n"
    )
    without = energyfleet("verify", "--until", "2026-02-10T00:00:00Z", "--hours", "1", environment=environment)
    assert "Not what history says: 1 row of meter_current_status. " in without.stderr

    reader = an_environment(tmp_path, DATABASE_URL=postgres.url(database, role="energyfleet_analytics"))
    refused = energyfleet("verify", "--repair", environment=reader)
    assert refused.returncode == 1
    assert "permission denied for table meter_current_status" in refused.stderr
    repaired = energyfleet("verify", "--repair", environment=environment)
    assert (repaired.returncode, repaired.stderr) == (0, "")
    assert repaired.stdout.splitlines()[-1].startswith(
        "Repaired: 1 row of meter_current_status, 30 rows of meter_energy_"
    )
    assert energyfleet("verify", environment=environment).returncode == 0


def test_a_span_at_the_ends_of_time_is_cut(database_url: str, tmp_path: Path) -> None:
    environment = an_environment(tmp_path, DATABASE_URL=database_url)
    for span in (("--until", "9999-12-31T23:59:59Z"), ("--until", "0001-01-01T00:30:00Z", "--hours", "2")):
        asked = energyfleet("verify", *span, environment=environment)
        assert asked.stdout.startswith(f"{JUDGED_BY}0 hours of rollups and the current status of 0 devices are"), (
            asked.stderr
        )


def test_a_database_that_is_none_or_without_a_schema_or_away_is_told_in_a_line(
    postgres: EmbeddedServer, tmp_path: Path
) -> None:
    for url, complaint in (
        (postgres.url("postgres"), "schema is missing"),
        ("postgresql://nobody@127.0.0.1:1/none", "ENERGYFLEET_DATABASE_URL: connection failed"),
        ("mysql://somewhere", "not a URL of the form postgresql://"),
    ):
        asked = energyfleet("verify", environment=an_environment(tmp_path, DATABASE_URL=url))
        assert (asked.returncode, asked.stdout, asked.stderr.count("\n")) == (1, "", 1), asked.stderr
        assert complaint in asked.stderr
