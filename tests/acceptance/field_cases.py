"""What the tests of field cases share: an evening, and how its readings get in."""

from __future__ import annotations

from typing import TYPE_CHECKING

from energyfleet.v1 import ingestion_service_pb2 as wire

from shared.timestamps import US_PER_HOUR, proto_from_us
from tests.builders import NOW_US

if TYPE_CHECKING:  # in the stubs' types only
    from energyfleet.v1.ingestion_service_pb2_grpc import IngestionServiceAsyncStub
    from energyfleet.v1.telemetry_pb2 import Telemetry

QUARTER_US = US_PER_HOUR // 4
EVENING_US = NOW_US // US_PER_HOUR * US_PER_HOUR - 6 * US_PER_HOUR
"""18:00 on the day before."""


async def send(ingest: IngestionServiceAsyncStub, *readings: Telemetry) -> wire.IngestionSummary:
    return (await ingest.IngestTelemetry(wire.IngestTelemetryRequest(readings=readings))).summary


async def map_pair(ingest: IngestionServiceAsyncStub) -> None:
    start = proto_from_us(NOW_US - 48 * US_PER_HOUR)
    await ingest.MapVehicle(
        wire.MapVehicleRequest(vehicle_id="vehicle-001", meter_id="meter-001", effective_from=start)
    )
