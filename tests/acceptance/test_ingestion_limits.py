"""The ingestion service at its limits: what is admitted, how streams end, and that nothing stays behind."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
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
from tests.builders import a_meter_reading, clock

if TYPE_CHECKING:  # in the stubs' types only
    from energyfleet.v1.ingestion_service_pb2_grpc import IngestionServiceAsyncStub

pytestmark = pytest.mark.one_server

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


@pytest.mark.parametrize("ended_by", ["its failure", "its client", "draining"])
async def test_no_task_is_left_of_exchanges_that_end_at_their_bound(
    serving: Serving, locked: Serving, postgres: EmbeddedServer, ended_by: str
) -> None:
    bounds = {"inflight_max_readings_per_stream": 10, "outage_grace_s": 0.1, "write_timeout_s": 1.0}
    async with serving(**bounds) as (running, ingest):
        await ingest.IngestTelemetry(wire.IngestTelemetryRequest(readings=readings(1)))
        before = len(asyncio.all_tasks())
        calls = [ingest.ExchangeTelemetry(None) for _ in range(20)]
        for call in calls:
            await call.write(wire.ExchangeTelemetryRequest(opening=wire.ExchangeOpening()))
            assert (await call.read()).HasField("opened")
        async with locked():
            for at, call in enumerate(calls):
                for sequence in (1, 2, 3):
                    await call.write(request(sequence, *readings(10, 10 * sequence, f"m{at}")))
            if ended_by == "its failure":
                errors = await asyncio.gather(*(failed(until_the_end(call)) for call in calls))
                assert {error.code() for error in errors} == {grpc.StatusCode.UNAVAILABLE}
            elif ended_by == "its client":
                for call in calls:
                    call.cancel()
            else:
                draining = asyncio.ensure_future(running.service.drain())
        if ended_by == "draining":
            await asyncio.gather(*(until_the_end(call) for call in calls))
            await draining
        await until(lambda: len(asyncio.all_tasks()) <= before)


async def test_a_busy_stream_is_ended_by_its_age_with_everything_acknowledged(serving: Serving) -> None:
    async with serving(stream_max_age_s=0.5) as (_, ingest):
        message = wire.StreamTelemetryRequest(readings=readings(2_000))
        call = ingest.StreamTelemetry(None)
        sent = 0
        with suppress(asyncio.InvalidStateError, grpc.aio.AioRpcError):  # what a write after the end comes to
            async with asyncio.timeout(10):
                while not call.done():
                    await call.write(message)
                    sent += 1
        summary = (await asyncio.wait_for(call, 5)).summary

    assert 0 < summary.received <= 2_000 * sent
    assert (summary.stored, summary.duplicate) == (2_000, summary.received - 2_000)


@pytest.mark.parametrize("rpc", ["StreamTelemetry", "ExchangeTelemetry"])
async def test_a_stream_that_opens_just_after_draining_began_is_sent_elsewhere(
    serving: Serving, rpc: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with serving() as (running, ingest):
        open_call = ingest.ExchangeTelemetry(None)
        await open_call.write(request(1, a_meter_reading()))
        assert (await open_call.read()).committed_sequence == 1
        opened = asyncio.Event()
        stop = running.service.server.stop

        async def stop_later(grace: float | None) -> None:
            await opened.wait()
            await stop(grace)

        monkeypatch.setattr(running.service.server, "stop", stop_later)
        draining = asyncio.ensure_future(running.service.drain())
        await running.service.draining.wait()
        late = getattr(ingest, rpc)(None)
        error = await failed(until_the_end(late) if rpc == "ExchangeTelemetry" else asyncio.wait_for(late, 5))
        opened.set()
        await draining
        assert await until_the_end(open_call) == []

    assert error.code() == grpc.StatusCode.UNAVAILABLE
    assert retry_delay_s(error) > 0
    assert await open_call.code() == grpc.StatusCode.OK


@pytest.mark.parametrize("limits", [{"unary_calls_max": 3}, {"unary_bytes_max": 3 * 40 * 10}], ids=["calls", "bytes"])
async def test_unary_calls_that_wait_are_bounded_and_those_beyond_are_told_when_to_come_back(
    serving: Serving, locked: Serving, limits: dict[str, int]
) -> None:
    async with serving(**limits) as (_, ingest):
        await ingest.IngestTelemetry(wire.IngestTelemetryRequest(readings=readings(1)))
        async with locked():
            calls = [
                asyncio.ensure_future(
                    ingest.IngestTelemetry(wire.IngestTelemetryRequest(readings=readings(10, 10 * at + 10)))
                )
                for at in range(8)
            ]
            await until(lambda: sum(call.done() for call in calls) >= 5)
        outcomes = await asyncio.gather(*calls, return_exceptions=True)
        refused = [each for each in outcomes if isinstance(each, grpc.aio.AioRpcError)]
        afterwards = await ingest.IngestTelemetry(wire.IngestTelemetryRequest(readings=readings(10, 10)))

    assert 5 <= len(refused) < 8
    assert {each.code() for each in refused} == {grpc.StatusCode.RESOURCE_EXHAUSTED}
    assert all(retry_delay_s(each) > 0 for each in refused)
    answered = [each for each in outcomes if isinstance(each, wire.IngestTelemetryResponse)]
    assert [each.summary.stored for each in answered] == [10] * (8 - len(refused))
    assert afterwards.summary.received == 10


async def test_a_message_larger_than_the_bound_on_bytes_is_taken_alone(serving: Serving) -> None:
    async with serving(unary_bytes_max=1) as (_, ingest):
        answer = await ingest.IngestTelemetry(wire.IngestTelemetryRequest(readings=readings(1_000)))

    assert answer.summary.stored == 1_000
