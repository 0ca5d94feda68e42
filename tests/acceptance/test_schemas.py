"""Two fleets beside each other in the schemas of one database."""

from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import psycopg
import pytest
from energyfleet.v1 import analytics_service_pb2 as analytics_wire
from energyfleet.v1 import ingestion_service_pb2 as ingestion_wire
from energyfleet.v1.analytics_service_pb2_grpc import AnalyticsServiceStub
from energyfleet.v1.ingestion_service_pb2_grpc import IngestionServiceStub

import analytics_svc.__main__
import ingestion_svc.__main__
from shared.config import AnalyticsSettings, IngestionSettings
from shared.db.embedded import EmbeddedServer
from shared.timestamps import US_PER_DAY, US_PER_SECOND, proto_from_us, system_clock
from tests.acceptance.test_cli_up import an_environment, energyfleet
from tests.builders import a_meter_reading, a_vehicle_reading

pytestmark = pytest.mark.one_server

DAYS_KEPT = 45


@dataclass
class Fleet:
    """What a fleet's two services listen to."""

    ingest: Any
    ask: Any

    async def charge(self, vehicle_id: str, meter_id: str, dc: float, ac: float, end_us: int) -> None:
        """Maps a pair and sends what both sides report of some minutes, and of an hour before retention."""
        await self.ingest.MapVehicle(
            ingestion_wire.MapVehicleRequest(
                vehicle_id=vehicle_id, meter_id=meter_id, effective_from=proto_from_us(end_us - US_PER_DAY)
            )
        )
        times = [end_us - (DAYS_KEPT + 5) * US_PER_DAY, *(end_us - at * 60 * US_PER_SECOND for at in range(3))]
        readings = [a_vehicle_reading(vehicle_id, ts_us, dc) for ts_us in times]
        readings += [a_meter_reading(meter_id, ts_us, ac) for ts_us in times]
        answer = await self.ingest.IngestTelemetry(ingestion_wire.IngestTelemetryRequest(readings=readings))
        assert answer.summary.stored == len(readings)

    async def totals(self, vehicle_id: str) -> tuple[float, float]:
        """The kWh of a vehicle and of its meter in the last 24 hours."""
        answer = await self.ask.GetVehiclePerformance(
            analytics_wire.GetVehiclePerformanceRequest(vehicle_id=vehicle_id)
        )
        return answer.kwh_delivered_dc, answer.kwh_consumed_ac

    async def vehicles(self) -> list[str]:
        """All that there are."""
        answer = await self.ask.ListVehiclePerformance(analytics_wire.ListVehiclePerformanceRequest())
        return sorted(each.vehicle_id for each in answer.vehicles)


@asynccontextmanager
async def a_fleet(postgres: EmbeddedServer, database: str, schema: str) -> AsyncIterator[Fleet]:
    """Both services of the fleet in a schema, each with the rights of its role."""
    of_ingestion = IngestionSettings(
        ENERGYFLEET_SCHEMA=schema,
        database_url=postgres.url(database, role="energyfleet_ingestion"),
        ingestion_address="127.0.0.1:0",
    )
    of_analytics = AnalyticsSettings(
        ENERGYFLEET_SCHEMA=schema,
        database_url=postgres.url(database, role="energyfleet_analytics"),
        analytics_address="127.0.0.1:0",
    )
    async with AsyncExitStack() as stack:
        _, ingestion = await stack.enter_async_context(ingestion_svc.__main__.serving(of_ingestion))
        _, analytics = await stack.enter_async_context(analytics_svc.__main__.serving(of_analytics))
        channels = [
            await stack.enter_async_context(grpc.aio.insecure_channel(address)) for address in (ingestion, analytics)
        ]
        yield Fleet(IngestionServiceStub(channels[0]), AnalyticsServiceStub(channels[1]))


@pytest.fixture
def owner(database_url: str) -> Iterator[psycopg.Connection[Any]]:
    with psycopg.connect(database_url, autocommit=True) as connection:
        yield connection


def history_partitions(owner: psycopg.Connection[Any], schema: str) -> set[str]:
    named = "SELECT relname FROM pg_class WHERE relispartition AND relkind = 'r' AND relnamespace = %s::regnamespace"
    return {name for (name,) in owner.execute(named, (schema,))}


async def test_two_fleets_in_one_database_know_nothing_of_each_other(
    postgres: EmbeddedServer, database: str, database_url: str, owner: psycopg.Connection[Any], tmp_path: Path
) -> None:
    schemas = ("north", "south")
    environments = {
        schema: an_environment(
            tmp_path,
            DATABASE_URL=database_url,
            SCHEMA=schema,
            INGESTION_ADDRESS="127.0.0.1:0",
            RETENTION_DAYS=str(DAYS_KEPT),
        )
        for schema in schemas
    }
    for schema in schemas:
        migrated = energyfleet("migrate", environment=environments[schema])
        assert migrated.returncode == 0, migrated.stderr

    end_us = system_clock()
    async with a_fleet(postgres, database, "north") as north, a_fleet(postgres, database, "south") as south:
        await north.charge("car", "meter", 0.9, 1.0, end_us)
        await north.charge("van", "wallbox", 0.9, 1.0, end_us)
        await south.charge("car", "meter", 1.6, 2.0, end_us)
        assert await north.totals("car") == pytest.approx((2.7, 3.0))
        assert await south.totals("car") == pytest.approx((4.8, 6.0))
        assert await north.vehicles() == ["car", "van"]
        assert await south.vehicles() == ["car"]
        with pytest.raises(grpc.aio.AioRpcError) as unknown:
            await south.totals("van")
        assert unknown.value.code() is grpc.StatusCode.NOT_FOUND

        before = {schema: history_partitions(owner, schema) for schema in schemas}
        maintained = energyfleet("maintain", environment=environments["north"])
        assert "0 partitions created, 2 dropped" in maintained.stdout, maintained.stderr
        assert len(before["north"] - history_partitions(owner, "north")) == 2
        assert history_partitions(owner, "south") == before["south"]

    for schema in schemas:
        verified = energyfleet("verify", environment=environments[schema])
        assert verified.returncode == 0, verified.stderr
    assert owner.execute("SELECT count(*) FROM public.meters").fetchone() == (0,)

    owner.execute("DROP SCHEMA north CASCADE")
    async with a_fleet(postgres, database, "south") as south:
        assert await south.totals("car") == pytest.approx((4.8, 6.0))
