"""ExchangeTelemetry as firmware meets it: what is acknowledged, in which order, and how a stream ends."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import grpc
import psycopg
import pytest
from energyfleet.v1 import ingestion_service_pb2 as wire
from energyfleet.v1.ingestion_service_pb2_grpc import IngestionServiceStub
from energyfleet.v1.telemetry_pb2 import Telemetry

import ingestion_svc.__main__
from shared.config import IngestionSettings
from shared.db.embedded import EmbeddedServer
from shared.timestamps import US_PER_SECOND, proto_from_us
from tests.acceptance.conftest import Running
from tests.acceptance.test_durability import retry_delay_s
from tests.acceptance.test_ingestion_service import bad_fields, details
from tests.builders import NOW_US, a_meter_reading, a_vehicle_reading, clock

if TYPE_CHECKING:  # in the stubs' types only
    from energyfleet.v1.ingestion_service_pb2_grpc import IngestionServiceAsyncStub


pytestmark = pytest.mark.one_server

END: Any = grpc.aio.EOF  # type: ignore[attr-defined]  # grpc-stubs does not have it


def request(sequence: int, *readings: Telemetry) -> wire.ExchangeTelemetryRequest:
    return wire.ExchangeTelemetryRequest(sequence=sequence, readings=readings)


def a_meter_reading_at(second: int, **fields: Any) -> Telemetry:
    return a_meter_reading(ts_us=NOW_US - second * US_PER_SECOND, **fields)


async def until_acknowledged(call: Any, sequence: int) -> list[wire.ExchangeTelemetryResponse]:
    """Reads answers up to the one that covers a request."""
    answers: list[wire.ExchangeTelemetryResponse] = []
    async with asyncio.timeout(10):
        while not answers or answers[-1].committed_sequence < sequence:
            answer = await call.read()
            assert answer is not END
            answers.append(answer)
    return answers


async def next_answers(call: Any, count: int) -> list[wire.ExchangeTelemetryResponse]:
    """Reads so many answers."""
    return [await call.read() for _ in range(count)]


async def until_the_end(call: Any) -> list[wire.ExchangeTelemetryResponse]:
    answers: list[wire.ExchangeTelemetryResponse] = []
    async with asyncio.timeout(10):
        while (answer := await call.read()) is not END:
            answers.append(answer)
    return answers


async def test_answers_cover_every_request_in_order_and_their_counts_add_up(
    ingest: IngestionServiceAsyncStub, database_url: str
) -> None:
    call = ingest.ExchangeTelemetry(None)
    for sequence in range(1, 501):
        await call.write(request(sequence * 10, a_meter_reading_at(sequence), a_vehicle_reading()))
    await call.done_writing()
    answers = await until_the_end(call)

    committed = [answer.committed_sequence for answer in answers]
    assert committed == sorted(set(committed))
    assert committed[-1] == 5_000
    assert len(answers) < 500
    assert sum(answer.summary.received for answer in answers) == 1_000
    assert sum(answer.summary.stored for answer in answers) == 501
    assert sum(answer.summary.duplicate for answer in answers) == 499
    assert await call.code() == grpc.StatusCode.OK
    with psycopg.connect(database_url) as connection:
        assert connection.execute("SELECT count(*) FROM meter_telemetry_history").fetchone() == (500,)


async def test_an_answer_comes_while_the_stream_is_open_and_is_durable(
    ingest: IngestionServiceAsyncStub, database_url: str
) -> None:
    call = ingest.ExchangeTelemetry(None)
    for sequence in (1, 2, 3):
        await call.write(request(sequence, a_meter_reading_at(sequence)))
        await until_acknowledged(call, sequence)
        with psycopg.connect(database_url) as connection:
            assert connection.execute("SELECT count(*) FROM meter_telemetry_history").fetchone() == (sequence,)
    call.cancel()


async def test_rejections_and_conflicts_name_their_request_and_place(ingest: IngestionServiceAsyncStub) -> None:
    call = ingest.ExchangeTelemetry(None)
    await call.write(request(7, a_meter_reading(), a_meter_reading(kwh_consumed_ac=None)))
    await until_acknowledged(call, 7)
    await call.write(request(9, Telemetry(), a_vehicle_reading(), a_meter_reading(kwh_consumed_ac=3)))
    [answer] = await until_acknowledged(call, 9)
    call.cancel()

    assert [(each.sequence, each.index, each.field) for each in answer.summary.rejections] == [(9, 0, "reading")]
    assert [(each.sequence, each.index, each.device_id) for each in answer.summary.conflicts] == [(9, 2, "meter-001")]


async def test_the_opening_is_answered_with_the_newest_committed_timestamps(ingest: IngestionServiceAsyncStub) -> None:
    await ingest.IngestTelemetry(wire.IngestTelemetryRequest(readings=[a_meter_reading_at(60), a_meter_reading_at(90)]))
    opening = wire.ExchangeOpening(meter_id="meter-001", vehicle_id="vehicle-001")
    call = ingest.ExchangeTelemetry(None)
    await call.write(wire.ExchangeTelemetryRequest(opening=opening))
    [first] = await next_answers(call, 1)
    await call.write(wire.ExchangeTelemetryRequest(opening=opening, sequence=1))
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await until_the_end(call)

    assert first.opened.newest_meter_timestamp == proto_from_us(NOW_US - 60 * US_PER_SECOND)
    assert not first.opened.HasField("newest_vehicle_timestamp")
    assert bad_fields(raised.value) == {"opening"}


@pytest.mark.parametrize("sequence", [0, 4, 5])
async def test_a_request_out_of_turn_ends_the_stream_after_the_others_are_acknowledged(
    ingest: IngestionServiceAsyncStub, sequence: int
) -> None:
    call = ingest.ExchangeTelemetry(None)
    await call.write(request(5, a_meter_reading()))
    await call.write(request(sequence, a_vehicle_reading()))
    answers = await until_acknowledged(call, 5)
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await until_the_end(call)

    assert answers[-1].summary.stored == 1
    assert raised.value.code() == grpc.StatusCode.INVALID_ARGUMENT
    assert bad_fields(raised.value) == {"sequence"}


async def test_a_stopping_service_acknowledges_and_ends_exchanges_with_ok(
    ingestion: Running, ingest: IngestionServiceAsyncStub
) -> None:
    calls = [ingest.ExchangeTelemetry(None) for _ in range(20)]
    for at, call in enumerate(calls):
        await call.write(request(1, a_meter_reading(f"m{at}")))
    for call in calls[:10]:
        await until_acknowledged(call, 1)
    draining = asyncio.ensure_future(ingestion.service.drain())
    ends = [await until_the_end(call) for call in calls]
    await draining

    assert [await call.code() for call in calls] == [grpc.StatusCode.OK] * 20
    assert ends[:10] == [[]] * 10


@pytest.fixture(params=[3_600.0])
async def limited(
    request: pytest.FixtureRequest, postgres: EmbeddedServer, database: str
) -> AsyncIterator[IngestionServiceAsyncStub]:
    """A service with tight limits, whose streams get so many seconds old."""
    settings = IngestionSettings(
        database_url=postgres.url(database, role="energyfleet_ingestion"),
        ingestion_address="127.0.0.1:0",
        streams_max=2,
        stream_max_age_s=request.param,
        device_max_readings_per_s=0.5,
    )
    async with (
        ingestion_svc.__main__.serving(settings, clock) as (_, address),
        grpc.aio.insecure_channel(address) as channel,
    ):
        yield IngestionServiceStub(channel)


@pytest.mark.parametrize("limited", [0.3], indirect=True)
async def test_an_old_stream_is_ended_with_everything_acknowledged(limited: IngestionServiceAsyncStub) -> None:
    call = limited.ExchangeTelemetry(None)
    await call.write(request(1, a_meter_reading()))
    answers = await until_the_end(call)

    assert answers[-1].committed_sequence == 1
    assert await call.code() == grpc.StatusCode.OK


async def test_a_stream_too_many_is_told_the_limit_and_when_to_come_back(limited: IngestionServiceAsyncStub) -> None:
    calls = [limited.ExchangeTelemetry(None) for _ in range(2)]
    for at, call in enumerate(calls):
        await call.write(request(1, a_meter_reading(f"m{at}")))
        await until_acknowledged(call, 1)
    one_more = limited.ExchangeTelemetry(None)
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await until_the_end(one_more)
    for call in calls:
        call.cancel()

    assert raised.value.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
    assert "2 streams" in (raised.value.details() or "")
    assert retry_delay_s(raised.value) > 0


async def test_a_device_that_sends_too_fast_is_told_the_limit_and_others_are_not(
    limited: IngestionServiceAsyncStub,
) -> None:
    def batch(meter_id: str, first: int) -> wire.IngestTelemetryRequest:
        return wire.IngestTelemetryRequest(
            readings=[a_meter_reading_at(first + at, meter_id=meter_id) for at in range(40)]
        )

    await limited.IngestTelemetry(batch("fast", 0))
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await limited.IngestTelemetry(batch("fast", 100))
    other = await limited.IngestTelemetry(batch("other", 100))

    assert raised.value.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
    assert "fast sends more than 0.5 readings a second" in (raised.value.details() or "")
    assert retry_delay_s(raised.value) > 10
    assert other.summary.stored == 40


async def test_a_client_that_never_reads_its_answers_loses_its_stream(
    ingestion: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shared.delivery.ANSWER_MAX_WAIT_S", 0.5)
    options = (("grpc.http2.bdp_probe", 0),)  # the window stays as small as a device's
    async with grpc.aio.insecure_channel(ingestion.address, options) as channel:
        call = IngestionServiceStub(channel).ExchangeTelemetry(None)
        sequence = 0
        async with asyncio.timeout(60):
            with suppress(grpc.aio.AioRpcError, asyncio.InvalidStateError):
                while not call.done() and sequence < 5_000:
                    sequence += 1
                    await call.write(request(sequence, Telemetry()))
                    await asyncio.sleep(0.001)  # or the answers are coalesced into few
        with pytest.raises(grpc.aio.AioRpcError) as raised:
            await until_the_end(call)

    assert raised.value.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
    assert details(raised.value) is None
