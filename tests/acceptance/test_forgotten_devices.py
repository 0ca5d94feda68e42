"""`energyfleet devices --forget`: ids that have neither a reading nor a mapping, while both services run."""

from pathlib import Path
from typing import TYPE_CHECKING

import psycopg
import pytest
from energyfleet.v1.analytics_service_pb2 import ListMeterPerformanceRequest, ListVehiclePerformanceRequest
from energyfleet.v1.ingestion_service_pb2 import IngestTelemetryRequest, MapVehicleRequest, UnmapVehicleRequest

from shared.db.embedded import EmbeddedServer
from shared.timestamps import proto_from_us
from tests.acceptance.test_cli_up import an_environment, energyfleet
from tests.builders import NOW_US, a_meter_reading, a_vehicle_reading

if TYPE_CHECKING:  # in the stubs' types only
    from energyfleet.v1.analytics_service_pb2_grpc import AnalyticsServiceAsyncStub
    from energyfleet.v1.ingestion_service_pb2_grpc import IngestionServiceAsyncStub

pytestmark = pytest.mark.one_server


async def listed(ask: "AnalyticsServiceAsyncStub") -> tuple[list[str], list[str]]:
    """The vehicles and the meters that analytics knows of."""
    vehicles = await ask.ListVehiclePerformance(ListVehiclePerformanceRequest())
    meters = await ask.ListMeterPerformance(ListMeterPerformanceRequest())
    return sorted(each.vehicle_id for each in vehicles.vehicles), sorted(each.meter_id for each in meters.meters)


async def mistaken(ingest: "IngestionServiceAsyncStub", vehicle_id: str, meter_id: str) -> None:
    """Maps what is not there, and takes it back."""
    start = proto_from_us(NOW_US - 3_600_000_000)
    await ingest.MapVehicle(MapVehicleRequest(vehicle_id=vehicle_id, meter_id=meter_id, effective_from=start))
    await ingest.UnmapVehicle(UnmapVehicleRequest(vehicle_id=vehicle_id, effective_from=start))


async def test_what_has_neither_a_reading_nor_a_mapping_is_forgotten_and_nothing_else(
    postgres: EmbeddedServer,
    database: str,
    ingest: "IngestionServiceAsyncStub",
    ask: "AnalyticsServiceAsyncStub",
    tmp_path: Path,
) -> None:
    environment = an_environment(tmp_path, DATABASE_URL=postgres.url(database, role="energyfleet_maintenance"))
    await ingest.IngestTelemetry(IngestTelemetryRequest(readings=[a_vehicle_reading("sent"), a_meter_reading("sent")]))
    await ingest.MapVehicle(MapVehicleRequest(vehicle_id="mapped", meter_id="mapped"))
    await mistaken(ingest, "typo", "tyop")
    assert await listed(ask) == (["mapped", "sent", "typo"], ["mapped", "sent", "tyop"])

    forgot = energyfleet("devices", "--forget", environment=environment)

    assert forgot.returncode == 0, forgot.stderr
    assert forgot.stdout.splitlines() == [
        "forgot meter tyop",
        "forgot vehicle typo",
        "2 ids had neither a reading nor a mapping.",
    ]
    await ingest.IngestTelemetry(IngestTelemetryRequest(readings=[a_vehicle_reading("new"), a_meter_reading("new")]))
    assert await listed(ask) == (["mapped", "new", "sent"], ["mapped", "new", "sent"])  # as many as before
    with psycopg.connect(postgres.url(database)) as owner:  # somebody works with the devices
        owner.execute("SELECT FROM vehicles")
        held_up = energyfleet("devices", "--forget", environment=environment)
    assert held_up.returncode == 1
    assert "try again" in held_up.stderr
    again = energyfleet("devices", "--forget", environment=environment)
    assert again.stdout == "0 ids had neither a reading nor a mapping.\n"
