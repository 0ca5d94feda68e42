"""What stands around every rpc: requests that are not parsed, errors that become statuses, defects that stay inside,
and answers that wait no longer than they may."""

from __future__ import annotations  # gRPC's classes are generic in the stubs only

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping, Sequence
from inspect import isasyncgenfunction
from typing import Any, TypeAlias, cast

import grpc
import structlog
from google.protobuf.message import DecodeError, Message

from shared import deadline, delivery, status
from shared.errors import FleetError, HeadersTooLarge, InvalidRequest, MalformedRequest, SlowConsumer, Violation
from shared.list_limits import ListLimit, NotAMessage, exceeded

_log = structlog.get_logger()

Context: TypeAlias = "grpc.aio.ServicerContext[Message, Message]"

ListLimits: TypeAlias = Mapping[str, Sequence[ListLimit]]
"""By rpc, without the service's name: how many elements the lists of its requests may have."""


HEADERS_MAX_BYTES = 16 * 1024
"""Of a call, names and values: several times what a token needs. gRPC's own limit for those that it knows."""

_HEADER_OVERHEAD_BYTES = 32  # of each, as HTTP/2 counts


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
    nothing of our internals. An answer that is not taken in time ends its call, and so do headers that are too large.
    All of this is so for health and reflection, too.
    """

    def __init__(self, limits: ListLimits) -> None:
        """To be made on the event loop that serves."""
        self._limits = limits
        self._deliveries = delivery.Deliveries()
        delivery.note_calls(asyncio.get_running_loop())

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[grpc.RpcMethodHandler[Message, Message]]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> grpc.RpcMethodHandler[Message, Message]:
        handler: Any = await continuation(handler_call_details)
        method = handler_call_details.method
        if handler is None:
            return cast("grpc.RpcMethodHandler[Message, Message]", handler)
        if _headers_bytes(handler_call_details.invocation_metadata) > HEADERS_MAX_BYTES:
            refuse = _guarded(_refuse_headers, _each_taken, method, self._deliveries)
            return cast("grpc.RpcMethodHandler[Message, Message]", grpc.stream_stream_rpc_method_handler(refuse))
        limits = self._limits.get(method.rpartition("/")[2], ())
        deserializer = _deserializer(handler.request_deserializer, method, limits)
        asked = "stream" if handler.request_streaming else "unary"
        shape = f"{asked}_stream" if handler.response_streaming else f"{asked}_unary"
        behaviour = getattr(handler, shape)
        if isasyncgenfunction(behaviour):
            behaviour = _written(behaviour)
        taken: Callable[[Any], Any] = _each_taken if handler.request_streaming else _Received.take
        # What is answered once is serialised here, where its size is of interest.
        once = None if handler.response_streaming else handler.response_serializer
        guarded = _guarded(behaviour, taken, method, self._deliveries, once)
        make: Any = getattr(grpc, f"{shape}_rpc_method_handler")
        made = make(guarded, deserializer, None if once else handler.response_serializer)
        return cast("grpc.RpcMethodHandler[Message, Message]", made)


class _Context:
    """The context of a call that answers more than once: it writes within the limits on answers that wait."""

    def __init__(self, context: Context, call: delivery.Call) -> None:
        self._context = context
        self._call = call

    def __getattr__(self, name: str) -> Any:
        return getattr(self._context, name)

    async def write(self, answer: Message) -> None:
        """Raises SlowConsumer or LimitExceeded."""
        await self._call.write(self._context.write, answer, answer.ByteSize())


def _headers_bytes(headers: Any) -> int:
    return sum(len(name) + len(value) + _HEADER_OVERHEAD_BYTES for name, value in headers or ())


async def _refuse_headers(requests: Any, context: Any) -> None:
    raise HeadersTooLarge(HEADERS_MAX_BYTES)


def _written(answers: Callable[[Any, Any], AsyncIterator[Message]]) -> Callable[[Any, Any], Awaitable[None]]:
    """A handler that writes what another one yields."""

    async def write(requests: Any, context: Any) -> None:
        async for answer in answers(requests, context):
            await context.write(answer)

    return write


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
    delivery.current().reads_here()
    received = aiter(requests)
    try:
        async for each in received:
            yield each.take()
    finally:
        if isinstance(received, AsyncGenerator):  # or it keeps the bytes of the last message, as gRPC keeps requests
            await received.aclose()


def _guarded(
    behaviour: Callable[[Any, Any], Awaitable[Message | None]],
    taken: Callable[[Any], Any],
    method: str,
    deliveries: delivery.Deliveries,
    serializer: Callable[[Message], bytes] | None = None,
) -> Any:
    """`serializer`: of what is answered once; None where the handler writes its answers itself."""

    async def answer(received: Any, context: Context) -> bytes | None:
        deadline.set_time_remaining(context.time_remaining())
        call = deliveries.call(context.peer())
        try:
            answered = await behaviour(taken(received), context if serializer else _Context(context, call))
            wire = serializer(answered) if serializer and answered is not None else None
            call.leave(len(wire or b""))
            return wire
        except grpc.aio.AbortError:
            call.leave(0, delivery.STATUS_MAX_WAIT_S)
            raise
        except FleetError as error:
            termination = status.termination(error)
            _forget_frames(error)
            untold = isinstance(error, SlowConsumer) and not call.answered
        except Exception as error:  # the boundary: a defect must leave as INTERNAL and nothing else
            _log.error("rpc_failed", method=method, exc_info=error)
            termination, untold = status.DEFECT, False
            _forget_frames(error)
        if untold:  # gRPC would send the headers again that wait with the first answer, and fail
            call.end()
            await asyncio.sleep(0)  # raises CancelledError
        call.leave(0, delivery.STATUS_MAX_WAIT_S)
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
