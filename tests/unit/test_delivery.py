"""Answers that nobody takes, over a real connection and without a service."""

from __future__ import annotations

import asyncio
import gc
import weakref
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from typing import Any

import grpc
import pytest
from google.protobuf.wrappers_pb2 import BytesValue

from shared import delivery
from shared.authentication import Authentication
from shared.interceptor import Interceptor
from shared.permissions import BE_KNOWN, NEEDS
from shared.timestamps import system_clock
from tests.raw_http2 import NO_WINDOW, RawConnection, raw_connection

METHOD = "Test/Method"
SIZE = 60_000

CANCELLED, RESOURCE_EXHAUSTED = 1, 8


@asynccontextmanager
async def serving(shape: str, behaviour: Callable[[Any, Any], Any]) -> AsyncIterator[tuple[str, delivery.Deliveries]]:
    handler = getattr(grpc, f"{shape}_rpc_method_handler")(
        behaviour, BytesValue.FromString, BytesValue.SerializeToString
    )
    interceptor = Interceptor({}, Authentication(system_clock), refused=lambda *_: None)
    server = grpc.aio.server(interceptors=(interceptor,))
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("energyfleet.v1.Test", {"Method": handler}),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        yield f"127.0.0.1:{port}", interceptor._deliveries
    finally:
        await server.stop(None)


async def unread(connection: RawConnection, *, more: bool = False) -> int:
    """Calls, and takes no answer; the call's stream."""
    stream_id, call = connection.call(METHOD, more=more)
    await connection.send(call)
    return stream_id


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(10):
        while not condition():
            await asyncio.sleep(0.005)


async def ask(address: str) -> bytes:
    async with grpc.aio.insecure_channel(address) as channel:
        call: Awaitable[bytes] = channel.unary_unary(f"/energyfleet.v1.{METHOD}", None, None)(b"")
        return await call


async def answer(request: Any, context: Any) -> BytesValue:
    return BytesValue(value=bytes(SIZE))


async def write(requests: Any, context: Any) -> None:
    await context.write(BytesValue(value=bytes(SIZE)))


async def write_from_elsewhere(requests: Any, context: Any) -> None:
    await asyncio.create_task(write(requests, context))


async def read_meanwhile(requests: Any, context: Any) -> None:
    reading = asyncio.create_task(anext(aiter(requests)))
    await asyncio.sleep(0)
    try:
        await write(requests, context)
    finally:
        reading.add_done_callback(lambda each: each.cancelled() or each.exception())


async def generate(requests: Any, context: Any) -> AsyncIterator[BytesValue]:
    yield BytesValue(value=bytes(SIZE))


@pytest.fixture(autouse=True)
def _permitted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shared.authentication.NEEDS", {**NEEDS, f"/energyfleet.v1.{METHOD}": BE_KNOWN})


@pytest.fixture
def no_collector() -> Iterator[None]:
    gc.collect()
    gc.disable()
    yield
    gc.enable()


@pytest.mark.parametrize(
    ("shape", "behaviour"),
    [
        ("unary_unary", answer),
        ("stream_unary", answer),
        ("unary_stream", write),
        ("stream_stream", write),
        ("stream_stream", write_from_elsewhere),
        ("stream_stream", read_meanwhile),
        ("stream_stream", generate),
    ],
)
@pytest.mark.usefixtures("no_collector")
async def test_an_answer_that_is_not_taken_in_time_ends_its_call(
    shape: str, behaviour: Callable[[Any, Any], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(delivery, "ANSWER_MAX_WAIT_S", 0.1)
    monkeypatch.setattr(delivery, "STATUS_MAX_WAIT_S", 0.05)
    alive: weakref.WeakSet[Any] = weakref.WeakSet()
    call = delivery.Deliveries.call

    def noted(deliveries: delivery.Deliveries, peer: str) -> Any:
        alive.add(made := call(deliveries, peer))
        return made

    monkeypatch.setattr(delivery.Deliveries, "call", noted)
    async with serving(shape, behaviour) as (address, deliveries), raw_connection(address, NO_WINDOW) as connection:
        await ask(address)  # gRPC keeps a server's first call
        ids = [await unread(connection, more=shape.startswith("stream")) for _ in range(5)]
        await until(lambda: deliveries.waiting_bytes)
        await until(lambda: not deliveries.waiting_bytes)
        await connection.send(connection.call("Test/Unknown")[1])  # and the last one, until there is another
        await connection.until(lambda: all(connection.streams[each].ended for each in ids))
        assert {connection.streams[each].status for each in ids} == {CANCELLED}
        await until(lambda: not alive)


async def test_a_connection_has_its_share_of_what_may_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(delivery, "WAITING_MAX_BYTES_PER_PEER", SIZE * 2 - 1)
    async with serving("unary_unary", answer) as (address, deliveries):
        async with raw_connection(address, NO_WINDOW) as connection:
            await ask(address)
            await unread(connection)
            await until(lambda: deliveries.waiting_bytes)
            refused = connection.streams[await unread(connection)]
            await connection.until(lambda: refused.ended)
            assert refused.status == RESOURCE_EXHAUSTED
            assert "grpc-status-details-bin" in refused.headers, "RetryInfo"
            assert len(await ask(address)) > SIZE
        await until(lambda: not deliveries.waiting_bytes)


@pytest.mark.parametrize("makes_way_after_s", [0.0, 60.0])
async def test_what_waits_longest_makes_way_where_it_has_waited_for_some_time(
    makes_way_after_s: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(delivery, "WAITING_MAX_BYTES", SIZE * 3)  # and a little each
    monkeypatch.setattr(delivery, "MAKES_WAY_AFTER_S", makes_way_after_s)
    async with serving("unary_unary", answer) as (address, deliveries):
        async with raw_connection(address, NO_WINDOW) as first, raw_connection(address, NO_WINDOW) as second:
            await ask(address)
            await until(lambda: not deliveries.waiting_bytes)  # or what is awaited next is true too early
            longest = first.streams[await unread(first)]
            await until(lambda: deliveries.waiting_bytes >= SIZE)
            later = second.streams[await unread(second)]
            await until(lambda: deliveries.waiting_bytes > SIZE * 2)
            if makes_way_after_s:
                with pytest.raises(grpc.aio.AioRpcError) as raised:
                    await ask(address)
                assert raised.value.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
                assert not longest.ended
            else:
                for _ in range(2):
                    assert len(await ask(address)) > SIZE
                await first.until(lambda: longest.ended)
                assert longest.status == CANCELLED
            assert not later.ended
        await until(lambda: not deliveries.waiting_bytes)


async def test_answers_that_are_taken_cost_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(delivery, "WAITING_MAX_BYTES", SIZE * 2)
    async with serving("unary_unary", answer) as (address, deliveries):
        for _ in range(20):
            assert len(await ask(address)) > SIZE
            await until(lambda: not deliveries.waiting_bytes)
        assert not deliveries._of_peer
        assert not deliveries._waiting
