"""What readings say of a device's clock comes through from ingestion to status."""

from __future__ import annotations

from typing import TYPE_CHECKING

from energyfleet.v1 import analytics_service_pb2 as analytics_wire
from energyfleet.v1 import ingestion_service_pb2 as wire
from energyfleet.v1.ingestion_service_pb2_grpc import IngestionServiceStub

import ingestion_svc.__main__
from shared.config import IngestionSettings
from shared.db.embedded import EmbeddedServer
from shared.timestamps import US_PER_SECOND
from tests.builders import NOW_US, a_vehicle_reading, clock

if TYPE_CHECKING:  # in the stubs' types only
    from energyfleet.v1.analytics_service_pb2_grpc import AnalyticsServiceAsyncStub

import grpc


async def test_a_stopped_service_has_written_down_what_readings_said_of_their_clock(
    postgres: EmbeddedServer, database: str, ask: AnalyticsServiceAsyncStub
) -> None:
    settings = IngestionSettings(
        database_url=postgres.url(database, role="energyfleet_ingestion"), ingestion_address="127.0.0.1:0"
    )
    async with (
        ingestion_svc.__main__.serving(settings, clock) as (_, address),
        grpc.aio.insecure_channel(address) as channel,
    ):
        stub = IngestionServiceStub(channel)
        for seconds_ago, soc in ((60, 50), (120, 40), (120, 41), (120, 40), (-600, 50)):
            reading = a_vehicle_reading(ts_us=NOW_US - seconds_ago * US_PER_SECOND, soc=soc)
            await stub.IngestTelemetry(wire.IngestTelemetryRequest(readings=[reading]))

    status = await ask.GetVehicleStatus(analytics_wire.GetVehicleStatusRequest(vehicle_id="vehicle-001"))

    assert status.age.seconds == 60
    assert status.clock.newest_age_at_arrival.seconds == 60
    assert status.clock.late_readings == 1
    assert status.clock.conflicting_readings == 1
    assert status.clock.future_readings == 1
