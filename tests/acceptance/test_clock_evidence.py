"""What readings say of a device's clock and sensors comes through from ingestion to answers."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from energyfleet.v1 import analytics_service_pb2 as analytics_wire
from energyfleet.v1 import ingestion_service_pb2 as wire
from energyfleet.v1.ingestion_service_pb2_grpc import IngestionServiceStub

import ingestion_svc.__main__
from shared.config import IngestionSettings
from shared.db.embedded import EmbeddedServer
from shared.timestamps import US_PER_SECOND, proto_from_us
from tests.builders import NOW_US, a_meter_reading, a_vehicle_reading, clock

if TYPE_CHECKING:  # in the stubs' types only
    from energyfleet.v1.analytics_service_pb2_grpc import AnalyticsServiceAsyncStub
    from energyfleet.v1.ingestion_service_pb2_grpc import IngestionServiceAsyncStub

import grpc


@asynccontextmanager
async def ingestion(postgres: EmbeddedServer, database: str) -> AsyncIterator[IngestionServiceAsyncStub]:
    """A service that stops, and has then written down what it had in memory."""
    settings = IngestionSettings(
        database_url=postgres.url(database, role="energyfleet_ingestion"), ingestion_address="127.0.0.1:0"
    )
    async with (
        ingestion_svc.__main__.serving(settings, clock) as (_, address),
        grpc.aio.insecure_channel(address) as channel,
    ):
        yield IngestionServiceStub(channel)


async def test_a_stopped_service_has_written_down_what_readings_said_of_their_clock(
    postgres: EmbeddedServer, database: str, ask: AnalyticsServiceAsyncStub
) -> None:
    async with ingestion(postgres, database) as stub:
        for seconds_ago, soc in ((60, 50), (120, 40), (120, 41), (120, 40), (-600, 50)):
            reading = a_vehicle_reading(ts_us=NOW_US - seconds_ago * US_PER_SECOND, soc=soc)
            await stub.IngestTelemetry(wire.IngestTelemetryRequest(readings=[reading]))

    status = await ask.GetVehicleStatus(analytics_wire.GetVehicleStatusRequest(vehicle_id="vehicle-001"))

    assert status.age.seconds == 60
    assert status.clock.newest_age_at_arrival.seconds == 60
    assert status.clock.late_readings == 1
    assert status.clock.conflicting_readings == 1
    assert status.clock.future_readings == 1


async def test_values_that_cannot_be_right_are_a_finding_of_the_window_in_which_they_came(
    postgres: EmbeddedServer, database: str, ask: AnalyticsServiceAsyncStub
) -> None:
    async with ingestion(postgres, database) as stub:
        since = proto_from_us(NOW_US - 3_600 * US_PER_SECOND)
        await stub.MapVehicle(
            wire.MapVehicleRequest(vehicle_id="vehicle-001", meter_id="meter-001", effective_from=since)
        )
        for seconds_ago in (60, 120):
            ts_us = NOW_US - seconds_ago * US_PER_SECOND
            readings = [
                a_vehicle_reading(ts_us=ts_us, soc=250, battery_temp=-300),
                a_meter_reading(ts_us=ts_us, voltage=-1),
            ]
            await stub.IngestTelemetry(wire.IngestTelemetryRequest(readings=readings))

    async def findings(window: analytics_wire.TimeWindow | None) -> dict[int, analytics_wire.Finding]:
        question = analytics_wire.GetVehiclePerformanceRequest(vehicle_id="vehicle-001", window=window)
        return {each.kind: each for each in (await ask.GetVehiclePerformance(question)).findings}

    finding = (await findings(None))[analytics_wire.FINDING_KIND_VALUES_LEFT_OUT]
    assert finding.readings == 6
    assert "meter.voltage 2, vehicle.battery_temp 2, vehicle.soc 2." in finding.text
    before = analytics_wire.TimeWindow(end=proto_from_us(NOW_US - 1))  # and they came later
    assert analytics_wire.FINDING_KIND_VALUES_LEFT_OUT not in await findings(before)
