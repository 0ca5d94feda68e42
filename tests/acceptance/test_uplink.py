"""The reference client: beside a service that is killed again and again, and beside one that does what it is told."""

from __future__ import annotations

import asyncio
import signal
import socket
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import cached_property
from pathlib import Path
from typing import Any, cast

import grpc
import pytest
from energyfleet.v1 import ingestion_service_pb2 as wire
from energyfleet.v1.ingestion_service_pb2_grpc import IngestionServiceServicer, add_IngestionServiceServicer_to_server
from energyfleet.v1.telemetry_pb2 import Telemetry

from fleetcli.client.channel import open_channel
from fleetcli.client.errors import ClientError, ServiceError
from fleetcli.client.uplink import Uplink, backoff_s
from shared.db.embedded import EmbeddedServer
from shared.errors import DatabaseUnavailable, FleetError, InvalidRequest, LimitExceeded, Violation
from shared.status import termination
from tests.acceptance.conftest import Running
from tests.acceptance.processes import service_process, until
from tests.acceptance.test_durability import check_stored_once, some_readings
from tests.builders import NOW_US, a_meter_reading

pytestmark = pytest.mark.one_server

KILLS = 20
BATCH = 20
FAST_S = 0.01
"""A first back-off for tests."""


def requests_of(readings: list[Telemetry], each: int = BATCH) -> list[wire.ExchangeTelemetryRequest]:
    return [
        wire.ExchangeTelemetryRequest(readings=readings[start : start + each])
        for start in range(0, len(readings), each)
    ]


def a_request(number: int) -> wire.ExchangeTelemetryRequest:
    return wire.ExchangeTelemetryRequest(readings=[a_meter_reading(f"m{number}")])


async def send_all(uplink: Uplink, requests: list[wire.ExchangeTelemetryRequest]) -> None:
    async with uplink:
        for request in requests:
            await uplink.send(request)


def a_free_port() -> int:
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        return int(bound.getsockname()[1])


async def test_a_service_killed_twenty_times_loses_nothing_and_counts_nothing_twice(
    postgres: EmbeddedServer, database: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Both are back as soon as the service is: doubled waits would last as long again as its start, twenty times.
    monkeypatch.setattr("fleetcli.client.uplink.BACKOFF_MAX_S", 0.05)
    often = (("grpc.initial_reconnect_backoff_ms", 100), ("grpc.max_reconnect_backoff_ms", 100))
    monkeypatch.setattr("fleetcli.client.channel._OPTIONS", often)
    variables = {
        "ENERGYFLEET_DATABASE_URL": postgres.url(database, role="energyfleet_ingestion"),
        "ENERGYFLEET_INGESTION_ADDRESS": f"127.0.0.1:{a_free_port()}",  # the same after each kill
    }
    readings = some_readings(8_000)
    waiting = deque(requests_of(readings))
    answers: asyncio.Queue[None] = asyncio.Queue()

    async with (
        open_channel(variables["ENERGYFLEET_INGESTION_ADDRESS"]) as channel,
        Uplink(
            channel,
            "",
            buffer_max_readings=10 * BATCH,
            backoff_first_s=0.05,
            on_answer=lambda _: answers.put_nowait(None),
        ) as uplink,
    ):

        async def send(requests: int) -> None:
            for _ in range(min(requests, len(waiting))):
                await uplink.send(waiting.popleft())

        unfinished: list[asyncio.Future[None]] = []
        for _ in range(KILLS):
            async with service_process("ingestion_svc", tmp_path, **variables) as service:
                sending = asyncio.ensure_future(send(len(readings) // BATCH // (KILLS + 1)))
                while not answers.empty():
                    answers.get_nowait()
                await asyncio.wait_for(answers.get(), 30)  # it is at work, and has more before it
                service.process.send_signal(signal.SIGKILL)
                await service.ended()
            unfinished.append(sending)
        async with service_process("ingestion_svc", tmp_path, **variables):
            await asyncio.gather(*unfinished)
            await send(len(waiting))
            await uplink.close()

    totals = uplink.totals
    assert uplink.streams > KILLS
    assert totals.received == totals.stored + totals.duplicate == len(readings)
    check_stored_once(postgres.url(database), readings)


async def test_the_real_service_tells_what_is_newest_and_what_it_refused(ingestion: Running) -> None:
    answers: list[wire.ExchangeTelemetryResponse] = []
    async with Uplink(ingestion.channel, ingestion.address, on_answer=answers.append) as uplink:
        good, bad, other = a_meter_reading(), a_meter_reading(kwh_consumed_ac=None), a_meter_reading(kwh_consumed_ac=9)
        assert await uplink.send(wire.ExchangeTelemetryRequest(readings=[good, bad])) == 1
        await uplink.flush()
        assert await uplink.send(wire.ExchangeTelemetryRequest(readings=[good, other])) == 2
    opening = wire.ExchangeOpening(meter_id="meter-001", vehicle_id="vehicle-001")
    async with Uplink(ingestion.channel, ingestion.address, opening=opening) as resumed:
        opened = await resumed.opened()

    assert [(each.sequence, each.index) for answer in answers for each in answer.summary.rejections] == [(1, 1)]
    assert [(each.sequence, each.index) for answer in answers for each in answer.summary.conflicts] == [(2, 1)]
    totals = uplink.totals
    assert (totals.received, totals.stored, totals.duplicate) == (4, 1, 1)
    assert (totals.conflicting, totals.rejected, uplink.streams) == (1, 1, 1)
    assert opened.newest_meter_timestamp.ToMicroseconds() == NOW_US
    assert not opened.HasField("newest_vehicle_timestamp")


async def test_what_a_stopping_service_has_acknowledged_is_not_kept(ingestion: Running) -> None:
    async with Uplink(ingestion.channel, ingestion.address, backoff_first_s=FAST_S, patience_s=0.3) as uplink:
        await uplink.send(a_request(1))
        await uplink.flush()
        await ingestion.service.drain()
    assert (uplink.totals.stored, uplink.completed_sequence) == (1, 1)


class Stream:
    """One stream at the scripted service: what came, and the answers that a test gives."""

    def __init__(self, requests: AsyncIterator[wire.ExchangeTelemetryRequest], context: Any) -> None:
        self.sequences: list[int] = []
        self._requests = requests
        self.context = context

    @cached_property
    def requests(self) -> AsyncIterator[wire.ExchangeTelemetryRequest]:
        """Not before they are read: gRPC complains of a reader that never was."""
        return aiter(self._requests)

    async def take(self, requests: int) -> None:
        for _ in range(requests):
            self.sequences.append((await anext(self.requests)).sequence)

    async def acknowledge(self, sequence: int, received: int) -> None:
        summary = wire.IngestionSummary(received=received, stored=received)
        await self.context.write(wire.ExchangeTelemetryResponse(committed_sequence=sequence, summary=summary))

    async def end(self, error: FleetError) -> None:
        await self.context.abort(*termination(error))


Script = Callable[[Stream], Awaitable[None]]


class Scripted(IngestionServiceServicer):
    """Plays one script a stream, and the last one for all that follow."""

    def __init__(self, *scripts: Script) -> None:
        self.scripts = scripts
        self.streams: list[Stream] = []

    async def ExchangeTelemetry(self, request_iterator: Any, context: Any) -> None:  # type: ignore[override]  # noqa: N802
        self.streams.append(Stream(request_iterator, context))
        await self.scripts[min(len(self.streams), len(self.scripts)) - 1](self.streams[-1])

    @property
    def sequences(self) -> list[list[int]]:
        return [stream.sequences for stream in self.streams]


@asynccontextmanager
async def scripted(*scripts: Script) -> AsyncIterator[tuple[Scripted, grpc.aio.Channel]]:
    server, servicer = grpc.aio.server(), Scripted(*scripts)  # type: ignore[abstract]  # the other rpcs are not called
    add_IngestionServiceServicer_to_server(servicer, server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        async with open_channel(f"127.0.0.1:{port}") as channel:
            yield servicer, channel
    finally:
        await server.stop(None)


async def acknowledge_all(stream: Stream) -> None:
    async for request in stream.requests:
        stream.sequences.append(request.sequence)
        await stream.acknowledge(request.sequence, len(request.readings))


async def test_only_what_was_not_acknowledged_is_sent_again_and_at_once_after_ok() -> None:
    async def ends_with_ok(stream: Stream) -> None:
        await stream.take(5)
        await stream.acknowledge(3, 3)

    async with (
        scripted(ends_with_ok, acknowledge_all) as (service, channel),
        Uplink(channel, "", backoff_first_s=3_600) as uplink,
    ):
        for number in range(5):
            await uplink.send(a_request(number))
    assert service.sequences == [[1, 2, 3, 4, 5], [4, 5]]
    assert uplink.totals.received == 5


async def test_acknowledgements_that_are_withheld_fill_the_buffer_and_then_send_waits() -> None:
    go_on = asyncio.Event()

    async def withholds(stream: Stream) -> None:
        await stream.take(3)
        await go_on.wait()
        await stream.acknowledge(1, 1)
        await acknowledge_all(stream)

    async with scripted(withholds) as (service, channel), Uplink(channel, "", buffer_max_readings=3) as uplink:
        for number in range(3):
            await uplink.send(a_request(number))
        fourth = asyncio.ensure_future(uplink.send(a_request(4)))
        await until(lambda: service.sequences == [[1, 2, 3]])
        assert not fourth.done()
        go_on.set()
        assert await fourth == 4


@pytest.mark.parametrize(
    ("error", "waits_s"), [(DatabaseUnavailable(), None), (LimitExceeded("too many streams", 0.2), 0.2)]
)
async def test_a_wait_that_the_service_asks_for_is_obeyed(error: FleetError, waits_s: float | None) -> None:
    waited: list[tuple[ClientError, float]] = []

    async def refuses(stream: Stream) -> None:
        await stream.end(error)

    async with (
        scripted(refuses, acknowledge_all) as (_, channel),
        Uplink(channel, "", backoff_first_s=3_600, on_wait=lambda *told: waited.append(told)) as uplink,
    ):
        await uplink.send(a_request(1))
        began = asyncio.get_running_loop().time()
        await uplink.flush()
        took_s = asyncio.get_running_loop().time() - began
    [(failure, wait_s)] = waited
    asked_s = cast(ServiceError, failure).retry_after_s
    assert asked_s is not None
    assert waits_s in (None, asked_s)
    assert asked_s <= wait_s <= 1.5 * asked_s
    assert took_s >= wait_s


async def test_a_stream_is_opened_for_something_to_send_and_again_after_the_service_has_cancelled_it() -> None:
    waited: list[ClientError] = []

    async def cancels(stream: Stream) -> None:
        await stream.take(1)
        await stream.context.abort(grpc.StatusCode.CANCELLED)

    async with (
        scripted(cancels, acknowledge_all) as (service, channel),
        Uplink(channel, "", backoff_first_s=FAST_S, on_wait=lambda why, _: waited.append(why)) as uplink,
    ):
        for _ in range(10):  # turns of the loop, in the first of which it would open one
            await asyncio.sleep(0)
        assert uplink.streams == 0
        await uplink.send(a_request(1))
        await uplink.flush()
    assert service.sequences == [[1], [1]]
    assert [cast(ServiceError, each).code for each in waited] == ["CANCELLED"]


async def test_what_can_never_succeed_is_told_and_not_tried_again() -> None:
    async def refuses(stream: Stream) -> None:
        await stream.take(1)
        await stream.end(InvalidRequest([Violation("sequence", "no")]))

    async with scripted(refuses) as (service, channel):
        with pytest.raises(ServiceError, match="INVALID_ARGUMENT: sequence: no"):
            await send_all(Uplink(channel, "", backoff_first_s=FAST_S), [a_request(1)])
    assert len(service.streams) == 1


async def test_the_reason_is_learnt_also_while_writing_as_fast_as_possible() -> None:
    async def refuses_in_the_middle(stream: Stream) -> None:
        for _ in range(50):
            request = await anext(stream.requests)
            if request.sequence == 30:
                await stream.end(InvalidRequest([Violation("sequence", "no")]))
            if request.sequence < 30:
                await stream.acknowledge(request.sequence, len(request.readings))
        await stream.end(InvalidRequest([Violation("sequence", "no")]))

    requests = requests_of([a_meter_reading()] * 50_000, 500)
    for _ in range(5):
        async with scripted(refuses_in_the_middle) as (_, channel):
            with pytest.raises(ServiceError, match="INVALID_ARGUMENT"):
                await send_all(Uplink(channel, "", backoff_first_s=FAST_S, buffer_max_readings=10**6), requests)


async def test_ok_without_an_answer_is_not_asked_in_a_tight_loop() -> None:
    waited: list[float] = []

    async def ends_at_once(stream: Stream) -> None:
        return

    async with (
        scripted(ends_at_once, ends_at_once, acknowledge_all) as (_, channel),
        Uplink(channel, "", backoff_first_s=FAST_S, on_wait=lambda _, wait_s: waited.append(wait_s)) as uplink,
    ):
        await uplink.send(a_request(1))
    assert len(waited) == 2


async def test_patience_ends_with_the_last_failure() -> None:
    async with open_channel(f"127.0.0.1:{a_free_port()}") as channel:
        with pytest.raises(ServiceError, match="no answer from the depot"):
            await send_all(Uplink(channel, "the depot", backoff_first_s=FAST_S, patience_s=0.1), [a_request(1)])


def test_a_back_off_doubles_up_to_a_minute_and_spreads_over_its_second_half() -> None:
    for failures, longest in ((1, 1), (2, 2), (3, 4), (6, 32), (7, 60), (5_000, 60)):
        drawn = [backoff_s(failures, None) for _ in range(200)]
        assert longest / 2 <= min(drawn) < 0.6 * longest
        assert 0.9 * longest < max(drawn) <= longest
    assert 30 <= backoff_s(9, 30.0) <= 45
