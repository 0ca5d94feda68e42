"""What stands around every rpc, without a server."""

import asyncio
import gc
import weakref
from collections.abc import AsyncIterator, Iterator
from typing import Any

import grpc
import pytest

from shared.errors import DatabaseUnavailable, FleetError, InvalidRequest, Violation
from shared.interceptor import Interceptor


class Request:
    """A large message; unlike a real one it can be watched."""


class FakeContext:
    """Keeps what `abort` raised, as gRPC does."""

    def __init__(self) -> None:
        self.abort_error: BaseException | None = None
        self.ended: tuple[Any, ...] = ()

    def time_remaining(self) -> None:
        return None

    async def abort(self, *ended: Any) -> None:
        self.ended = ended
        self.abort_error = grpc.aio.AbortError()
        raise self.abort_error


class Details:
    method = "/energyfleet.v1.IngestionService/IngestTelemetry"


@pytest.fixture
def _without_garbage_collector() -> Iterator[None]:
    gc.collect()
    gc.disable()
    yield
    gc.enable()


async def aborted(handler: Any, context: FakeContext) -> "weakref.ref[Request]":
    """Makes a call that is aborted; its request, if that is still anywhere."""
    request: Any = Request()
    watched = weakref.ref(request)
    if handler.request_streaming:

        async def requests(sent: Request) -> AsyncIterator[Request]:
            yield sent

        request = requests(request)
    try:
        await (handler.stream_unary or handler.unary_unary)(request, context)
    except grpc.aio.AbortError as error:
        error.__traceback__ = None  # as gRPC's own frames end
    return watched


@pytest.mark.usefixtures("_without_garbage_collector")
@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize(
    "error", [InvalidRequest([Violation("f", "d")]), DatabaseUnavailable(), ZeroDivisionError("a defect")]
)
async def test_an_aborted_call_keeps_no_request_in_memory(error: Exception, streaming: bool) -> None:
    kept: list[Exception] = []

    async def unary(request: Request, context: Any) -> None:
        try:
            raise KeyError from None
        except KeyError as cause:
            kept.append(error)  # as a receipt keeps its failure
            raise error from cause

    async def stream(requests: AsyncIterator[Request], context: Any) -> None:
        async for request in requests:
            await unary(request, context)

    method: Any = (
        grpc.stream_unary_rpc_method_handler(stream) if streaming else grpc.unary_unary_rpc_method_handler(unary)
    )

    async def continuation(_: Any) -> Any:
        return method

    handler = await Interceptor({}).intercept_service(continuation, Details())  # type: ignore[arg-type]
    context = FakeContext()
    request = await aborted(handler, context)
    for _ in range(5):  # generators that were left are closed by tasks
        await asyncio.sleep(0)

    assert request() is None
    assert context.ended[0] is not None
    assert isinstance(error, FleetError) or context.ended[:2] == (grpc.StatusCode.INTERNAL, "internal error")
