"""The ingestion service at its limits: what is admitted, how streams end, and that nothing stays behind."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import grpc
import psycopg
import pytest
from energyfleet.v1 import ingestion_service_pb2 as wire
from energyfleet.v1.ingestion_service_pb2_grpc import IngestionServiceStub

import ingestion_svc.__main__
from shared.config import IngestionSettings
from shared.db.embedded import EmbeddedServer
from tests.acceptance.conftest import Running
from tests.acceptance.test_durability import retry_delay_s
from tests.acceptance.test_exchange import a_meter_reading_at, request, until_the_end
from tests.builders import clock

if TYPE_CHECKING:  # in the stubs' types only
    from energyfleet.v1.ingestion_service_pb2_grpc import IngestionServiceAsyncStub

Serving = Callable[..., Any]


@pytest.fixture
def serving(postgres: EmbeddedServer, database: str) -> Serving:
    """Runs a service with settings of the test's own."""

    @asynccontextmanager
    async def start(**settings: Any) -> AsyncIterator[tuple[Running, IngestionServiceAsyncStub]]:
        read = IngestionSettings(
            database_url=postgres.url(database, role="energyfleet_ingestion"),
            ingestion_address="127.0.0.1:0",
            shutdown_grace_s=5,
            health_interval_s=0.1,
            **settings,
        )
        async with (
            ingestion_svc.__main__.serving(read, clock) as (service, address),
            grpc.aio.insecure_channel(address) as channel,
        ):
            yield Running(service, address, channel), IngestionServiceStub(channel)

    return start


@pytest.fixture
def locked(database_url: str) -> Serving:
    """Meanwhile no batch can be committed."""

    @asynccontextmanager
    async def lock() -> AsyncIterator[None]:
        with psycopg.connect(database_url) as owner:
            owner.execute("LOCK TABLE meter_current_status, vehicle_current_status IN ACCESS EXCLUSIVE MODE")
            yield
            owner.rollback()

    return lock


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        while not condition():
            await asyncio.sleep(0.01)


async def failed(call: Awaitable[Any]) -> grpc.aio.AioRpcError:
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await call
    return raised.value


def readings(count: int, first: int = 0, meter_id: str = "meter-001") -> list[Any]:
    return [a_meter_reading_at(first + at, meter_id=meter_id) for at in range(count)]


async def test_a_day_of_backlog_in_a_message_is_admitted_as_a_whole(serving: Serving) -> None:
    async with serving(device_max_readings_per_s=1) as (_, ingest):
        call = ingest.ExchangeTelemetry(None)
        await call.write(request(1, *readings(1_440)))
        await call.done_writing()
        answers = await until_the_end(call)
        again = await failed(ingest.IngestTelemetry(wire.IngestTelemetryRequest(readings=readings(1))))

    assert sum(answer.summary.stored for answer in answers) == 1_440
    assert again.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
    assert retry_delay_s(again) == pytest.approx(1_440 - 60, abs=30)


async def test_a_message_is_admitted_for_all_of_its_devices_or_for_none(serving: Serving) -> None:
    async with serving(device_max_readings_per_s=1) as (_, ingest):
        await ingest.IngestTelemetry(wire.IngestTelemetryRequest(readings=readings(200, meter_id="busy")))
        both = readings(150, 1_000, "idle") + readings(1, 1_000, "busy")
        refused = await failed(ingest.IngestTelemetry(wire.IngestTelemetryRequest(readings=both)))
        alone = await ingest.IngestTelemetry(wire.IngestTelemetryRequest(readings=both[:150]))

    assert "busy" in (refused.details() or "")
    assert alone.summary.stored == 150, "and nothing of the refused message was stored"
