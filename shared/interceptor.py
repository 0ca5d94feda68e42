"""What stands around every rpc: requests that are not parsed, errors that become statuses, defects that stay inside."""

from __future__ import annotations  # gRPC's classes are generic in the stubs only

from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping, Sequence
from typing import Any, TypeAlias, cast

import grpc
import structlog
from google.protobuf.message import DecodeError, Message

from shared import deadline, status
from shared.errors import FleetError, InvalidRequest, MalformedRequest, Violation
from shared.list_limits import ListLimit, NotAMessage, exceeded
from shared.logs import quietly

_log = structlog.get_logger()

Context: TypeAlias = "grpc.aio.ServicerContext[Message, Message]"

ListLimits: TypeAlias = Mapping[str, Sequence[ListLimit]]
"""By rpc, without the service's name: how many elements the lists of its requests may have."""


class _Received:
    """Brings a request, or what is wrong with it, past gRPC to the handler.

    gRPC answers a failed deserializer with UNKNOWN, and may keep the last message of a call until the garbage collector
    comes, which is rarely here.
    """

    __slots__ = ("_request",)

    def __init__(self, request: Message | FleetError) -> None:
        self._request: Message | FleetError | None = request

    def take(self) -> Message:
        """The request, once. Raises what is wrong with it."""
        request, self._request = self._request, None
        if isinstance(request, FleetError):
            raise request
        assert request is not None
        return request


class Interceptor(grpc.aio.ServerInterceptor):  # type: ignore[type-arg]  # generic in the stubs only
    """Answers malformed bytes and lists that are too long with INVALID_ARGUMENT, unparsed; a FleetError with its
    status; and a defect with INTERNAL.

    gRPC would tell the client `Unexpected <type>: <text>` of an exception; here it is logged, and the client learns
    nothing of our internals. Health and reflection are gRPC's own and pass through.
    """

    def __init__(self, limits: ListLimits) -> None:
        self._limits = limits

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[grpc.RpcMethodHandler[Message, Message]]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> grpc.RpcMethodHandler[Message, Message]:
        handler: Any = await continuation(handler_call_details)
        method = handler_call_details.method
        if handler is None or not method.startswith("/energyfleet."):
            return cast("grpc.RpcMethodHandler[Message, Message]", handler)
        limits = self._limits.get(method.rpartition("/")[2], ())
        deserializer = _deserializer(handler.request_deserializer, method, limits)
        taken: Callable[[Any], Any] = _Received.take
        make, behaviour = grpc.unary_unary_rpc_method_handler, handler.unary_unary
        if handler.request_streaming and handler.response_streaming:
            make, behaviour, taken = grpc.stream_stream_rpc_method_handler, handler.stream_stream, _each_taken
        elif handler.request_streaming:
            make, behaviour, taken = grpc.stream_unary_rpc_method_handler, handler.stream_unary, _each_taken
        return make(_guarded(behaviour, taken, method), deserializer, handler.response_serializer)


def _deserializer(
    parse: Callable[[bytes], Message], method: str, limits: Sequence[ListLimit]
) -> Callable[[bytes], _Received]:
    def deserialize(wire: bytes) -> _Received:
        try:
            limit = exceeded(wire, limits) if limits else None
            if limit is None:
                return _Received(parse(wire))
        except (DecodeError, NotAMessage):
            return _Received(MalformedRequest(method))
        violation = Violation(limit.field, f"too many; at most {limit.most:,} in a message")
        return _Received(InvalidRequest([violation]))

    return deserialize


async def _each_taken(requests: AsyncIterator[_Received]) -> AsyncIterator[Message]:
    received = aiter(requests)
    try:
        async for each in received:
            yield each.take()
    finally:
        if isinstance(received, AsyncGenerator):  # or it keeps the bytes of the last message, as gRPC keeps requests
            await received.aclose()


def _guarded(
    behaviour: Callable[[Any, Context], Awaitable[Message | None]], taken: Callable[[Any], Any], method: str
) -> Any:
    async def answer(received: Any, context: Context) -> Message | None:
        deadline.set_time_remaining(context.time_remaining())
        try:
            return await behaviour(taken(received), context)
        except grpc.aio.AbortError:
            raise
        except FleetError as error:
            termination = status.termination(error)
            _forget_frames(error)
        except Exception as error:  # the boundary: a defect must leave as INTERNAL and nothing else
            quietly(_log.error, "rpc_failed", key=(method, type(error)), method=method, exc_info=error)
            termination = status.DEFECT
            _forget_frames(error)
        await context.abort(*termination)
        return None

    return answer


def _forget_frames(error: BaseException | None) -> None:
    """Frees what the frames that an error passed through hold, the request above all, though others keep the error."""
    while error is not None:
        error.__traceback__ = None
        before = error.__cause__ or error.__context__
        error.__cause__ = error.__context__ = None  # or errors that name each other as cause had no end
        error = before
