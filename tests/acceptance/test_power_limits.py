"""Each device's readings are held against its own limit of power, wherever what counts of them is judged."""

from __future__ import annotations

from typing import TYPE_CHECKING

import grpc
import psycopg
import pytest
from energyfleet.v1 import ingestion_service_pb2 as wire
from energyfleet.v1.ingestion_service_pb2_grpc import IngestionServiceStub
from google.protobuf.empty_pb2 import Empty

import ingestion_svc.__main__
from shared.config import IngestionSettings
from shared.timestamps import US_PER_HOUR, proto_from_us
from tests.acceptance.test_cli_up import an_environment, energyfleet
from tests.acceptance.test_cli_verify import JUDGED_BY
from tests.builders import NOW_US, a_meter_reading, clock

if TYPE_CHECKING:  # in the stubs' types only
    from pathlib import Path

    from shared.db.embedded import EmbeddedServer

pytestmark = pytest.mark.one_server

QUARTER_US = US_PER_HOUR // 4


async def test_what_a_wall_box_cannot_draw_a_fast_charger_can(
    postgres: EmbeddedServer, database: str, database_url: str, tmp_path: Path
) -> None:
    limits = tmp_path / "limits"
    limits.write_text("meter 22 wall-*\n")
    settings = IngestionSettings(
        database_url=postgres.url(database, role="energyfleet_ingestion"),
        ingestion_address="127.0.0.1:0",
        power_limits_file=limits,
    )
    times = [NOW_US - quarter * QUARTER_US for quarter in (3, 2, 1)]
    async with (
        ingestion_svc.__main__.serving(settings, clock) as (_, address),
        grpc.aio.insecure_channel(address) as channel,
    ):
        ingest = IngestionServiceStub(channel)
        for ts_us in (times[0], times[2], times[1]):  # 6 kWh in a quarter of an hour are 24 kW, in two 12 kW
            readings = [a_meter_reading(f"{kind}-1", ts_us=ts_us, kwh_consumed_ac=6.0) for kind in ("wall", "fast")]
            await ingest.IngestTelemetry(wire.IngestTelemetryRequest(readings=readings))
        correction = wire.CorrectReadingRequest(
            meter_id="wall-1", timestamp=proto_from_us(times[1]), author="Ada", note="a test"
        )
        correction.voided.CopyFrom(Empty())
        await ingest.CorrectReading(correction)
        correction.as_sent.CopyFrom(Empty())
        assert (await ingest.CorrectReading(correction)).correction.kwh == 0.0, "it is doubted as before"

    assert doubted(database_url) == [("wall-1", 2)]
    environment = an_environment(tmp_path, DATABASE_URL=database_url, POWER_LIMITS_FILE=str(limits))
    assert energyfleet("verify", environment=environment).returncode == 0
    without = energyfleet("verify", environment=environment | {"ENERGYFLEET_POWER_LIMITS_FILE": ""})
    assert (without.returncode, without.stdout.splitlines()[0]) == (1, JUDGED_BY.strip())
    limits.write_text("meter 24 wall-1\nmeter 150 fast-*\nmeter 150 fast-*\n")
    differ = energyfleet("verify", environment=environment | {"ENERGYFLEET_POWER_MAX_KW": "333.33333"})
    assert differ.returncode == 1
    assert differ.stdout.startswith(
        f"Power is judged by the 2 limits in {limits} and 333.33333 kW for all other devices, over at least 900 s.\n"
    )
    assert energyfleet("verify", "--repair", environment=environment).returncode == 0
    assert doubted(database_url) == []

    limits.write_text("meter 24\n")
    refused = energyfleet("verify", environment=environment)
    assert refused.returncode == 1
    assert refused.stderr == (
        f"ENERGYFLEET_POWER_LIMITS_FILE: {limits}, line 1: expected meter or vehicle, kW, and an id or the beginning of"
        " ids and *: meter 22 home-*\n"
    )


def doubted(url: str) -> list[tuple[str, int]]:
    """The meters that have readings which are doubted, and how many."""
    with psycopg.connect(url) as connection:
        return connection.execute(
            "SELECT meter_id, count(*) FROM meter_telemetry_history JOIN meters USING (meter_key)"
            " WHERE counting = 'doubted' GROUP BY meter_id"
        ).fetchall()
