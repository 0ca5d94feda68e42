"""`energyfleet maintain`, as cron calls it."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import psycopg
import pytest

from shared.db.embedded import EmbeddedServer
from shared.db.partitions import DAYS_AHEAD
from tests.acceptance.test_cli_up import an_environment, energyfleet


@pytest.mark.one_server
def test_maintain_says_what_it_created_and_dropped_and_then_has_nothing_to_do(
    postgres: EmbeddedServer, database: str, tmp_path: Path
) -> None:
    today = datetime.now(UTC).date()
    old, ahead = today - timedelta(days=50), today + timedelta(days=DAYS_AHEAD)
    with psycopg.connect(postgres.url(database), autocommit=True) as owner:
        owner.execute("SELECT ensure_history_partition('meter_telemetry_history', %s)", (old,))
        owner.execute(f"DROP TABLE meter_telemetry_history_{ahead:%Y%m%d}")
    url = postgres.url(database, role="energyfleet_maintenance")
    environment = an_environment(tmp_path, DATABASE_URL=url, RETENTION_DAYS="45")

    first = energyfleet("maintain", environment=environment)
    assert first.returncode == 0, first.stderr
    assert f"created meter_telemetry_history_{ahead:%Y%m%d}\n" in first.stdout
    assert f"dropped meter_telemetry_history_{old:%Y%m%d}\n" in first.stdout
    second = energyfleet("maintain", environment=environment).stdout
    assert second == f"0 partitions created, 0 dropped; readings are kept from {today - timedelta(days=45)} on.\n"
