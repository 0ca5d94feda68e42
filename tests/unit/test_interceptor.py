"""What stands around every rpc, over a real channel and without a service."""

import asyncio
import gc
import weakref
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, suppress
from typing import Any

import grpc
import pytest
import structlog
from structlog.testing import capture_logs

from shared.authentication import Authentication
from shared.errors import DatabaseUnavailable
from shared.interceptor import Interceptor
from shared.permissions import BE_KNOWN, NEEDS
from shared.timestamps import system_clock

METHOD = "Method"
PATH = f"/energyfleet.v1.Test/{METHOD}"
SHAPES = ["unary_unary", "stream_unary", "stream_stream"]

Behaviour = Callable[[Any, Any], Awaitable[Any]]


@asynccontextmanager
async def call_of(shape: str, behaviour: Behaviour, received: Callable[[bytes], Any]) -> AsyncIterator[Any]:
    """Serves one method, and gives what calls it with one message of bytes."""
    handler = getattr(grpc, f"{shape}_rpc_method_handler")(behaviour, received, bytes)
    interceptor = Interceptor({}, Authentication(system_clock), refused=lambda *_: None)
    server = grpc.aio.server(interceptors=(interceptor,))
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("energyfleet.v1.Test", {METHOD: handler}),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            method = getattr(channel, shape)(PATH)

            async def call(message: bytes) -> Any:
                if shape == "unary_unary":
                    return await method(message)
                calling = method(iter([message]))
                return await (calling if shape == "stream_unary" else calling.read())

            yield call
    finally:
        await server.stop(None)


@pytest.fixture(autouse=True)
def _permitted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shared.authentication.NEEDS", {**NEEDS, PATH: BE_KNOWN})


@pytest.fixture
def no_collector() -> Iterator[None]:
    """Meanwhile nothing is freed but what nobody refers to any more. The log is a service's: it keeps no exception."""
    structlog.configure(processors=[structlog.processors.format_exc_info, structlog.processors.JSONRenderer()])
    gc.collect()
    gc.disable()
    yield
    gc.enable()
    structlog.reset_defaults()


class Request:
    """A message that can be referred to weakly."""


class Receipt:
    """Keeps a failure that it raises, whose traceback leads back to it."""

    def __init__(self, failure: Exception) -> None:
        self.failure = failure

    def raise_failure(self, request: Request) -> None:
        try:
            raise OSError(f"no connection for {request}")
        except OSError as error:
            raise self.failure from error


@pytest.mark.parametrize("failure", [DatabaseUnavailable, ValueError])
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.usefixtures("no_collector")
async def test_an_aborted_call_leaves_no_request_alive(shape: str, failure: type[Exception]) -> None:
    alive: weakref.WeakSet[Request] = weakref.WeakSet()

    def received(_: bytes) -> Request:
        request = Request()
        alive.add(request)
        return request

    async def behaviour(request: Any, _: Any) -> None:
        taken = request if isinstance(request, Request) else await anext(request)
        assert taken in alive
        Receipt(failure()).raise_failure(taken)

    async with call_of(shape, behaviour, received) as call:
        for _ in range(3):
            with pytest.raises(grpc.aio.AioRpcError) as raised:
                await call(b"")
            expected = grpc.StatusCode.UNAVAILABLE if failure is DatabaseUnavailable else grpc.StatusCode.INTERNAL
            assert raised.value.code() == expected
    assert len(alive) == 0


@pytest.mark.parametrize("defect", [False, True])
async def test_a_peer_that_leaves_before_it_is_answered_is_no_defect(defect: bool) -> None:
    arrived, ended = asyncio.Event(), asyncio.Event()

    async def behaviour(requests: Any, context: Any) -> None:
        await anext(requests)
        arrived.set()
        with suppress(asyncio.CancelledError):  # what is under way when the peer leaves is told by its write alone
            await ended.wait()
        if defect:
            raise ZeroDivisionError
        await context.write(b"")

    with capture_logs() as lines:
        async with call_of("stream_stream", behaviour, bytes) as call:
            calling = asyncio.create_task(call(b""))
            await arrived.wait()
            calling.cancel()
            await asyncio.wait((calling,))
        # The server has stopped: the handler has ended.
    assert [line["event"] for line in lines] == (["rpc_failed"] if defect else [])
