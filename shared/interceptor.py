"""What stands around every rpc: requests that are not parsed, errors that become statuses, defects that stay inside,
and answers that wait no longer than they may."""

from __future__ import annotations  # gRPC's classes are generic in the stubs only

import asyncio
import inspect
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, TypeAlias, cast

import grpc
import structlog
from google.protobuf.message import DecodeError, Message

from shared import caller, deadline, delivery, status
from shared.authentication import Authentication, require_permission
from shared.errors import (
    FleetError,
    HeadersTooLarge,
    InvalidRequest,
    MalformedRequest,
    PermissionDenied,
    SlowConsumer,
    Unauthenticated,
    Violation,
)
from shared.list_limits import ListLimit, NotAMessage, exceeded
from shared.logs import quietly

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
    nothing of our internals. Of health and reflection, which are gRPC's own, is asked whether the caller may. An answer
    that is not taken in time ends its call, and so do headers that are too large.
    """

    def __init__(
        self, limits: ListLimits, authentication: Authentication, refused: Callable[[str, str, FleetError], None]
    ) -> None:
        """`refused` is told the rpc's path, the peer's address and why. To be made on the event loop that serves."""
        self._limits = limits
        self._authentication = authentication
        self._refused = refused
        self._guarded_handlers: dict[str, grpc.RpcMethodHandler[Message, Message]] = {}
        """By path, of the rpcs that there are; gRPC asks in each call."""
        self._deliveries = delivery.Deliveries()
        delivery.note_calls(asyncio.get_running_loop())

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[grpc.RpcMethodHandler[Message, Message]]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> grpc.RpcMethodHandler[Message, Message]:
        handler: Any = await continuation(handler_call_details)
        method = handler_call_details.method
        if handler is not None and _headers_bytes(handler_call_details.invocation_metadata) > HEADERS_MAX_BYTES:
            return _HEADERS_TOO_LARGE
        if handler is not None and method not in self._guarded_handlers:
            self._guarded_handlers[method] = self._guarded_handler(handler, method)
        return cast("grpc.RpcMethodHandler[Message, Message]", handler and self._guarded_handlers[method])

    def _guarded_handler(self, handler: Any, method: str) -> grpc.RpcMethodHandler[Message, Message]:
        taken: Callable[[Any], Any] | None = None
        deserializer = handler.request_deserializer
        if method.startswith("/energyfleet."):
            deserializer = _deserializer(deserializer, method, self._limits.get(method.rpartition("/")[2], ()))
            taken = _each_taken if handler.request_streaming else _Received.take
        make, behaviour = _KINDS[handler.request_streaming, handler.response_streaming](handler)
        if not (inspect.iscoroutinefunction(behaviour) or inspect.isasyncgenfunction(behaviour)):
            behaviour = _unimplemented  # what gRPC's own services have not, such as Health.List
        if inspect.isasyncgenfunction(behaviour):
            behaviour = _written(behaviour)
        # What is answered once is serialised by us, where its size is of interest.
        serializer = None if handler.response_streaming else handler.response_serializer
        streams = handler.request_streaming or handler.response_streaming
        guarded = self._guarded(behaviour, taken, method, serializer, streams=streams)
        made = make(guarded, deserializer, None if serializer else handler.response_serializer)
        return cast("grpc.RpcMethodHandler[Message, Message]", made)

    def _guarded(
        self,
        behaviour: Callable[[Any, Any], Awaitable[Message | None]],
        taken: Callable[[Any], Any] | None,
        method: str,
        serializer: Callable[[Message], bytes] | None,
        *,
        streams: bool,
    ) -> Any:
        """`serializer`: of what is answered once; None where the handler writes its answers itself."""

        async def answer(received: Any, context: Context) -> bytes | None:
            call = self._deliveries.call(context.peer())
            try:
                with self._admitted(context, method, streams=streams):
                    answered = await behaviour(  # and no name of ours for the request, which a traceback would keep
                        received if taken is None else taken(received),
                        context if serializer else _Context(context, call),
                    )
                wire = serializer(answered) if serializer and answered is not None else None
                call.leave(len(wire or b""))
                return wire
            except grpc.aio.AbortError:
                call.leave(0, delivery.STATUS_MAX_WAIT_S)
                raise
            except grpc.aio.InternalError:  # a write failed: the peer has left, and its cancellation is on its way
                return None
            except Exception as error:  # the boundary: a defect must leave as INTERNAL and nothing else
                termination = self._termination(method, context, error)
                untold = isinstance(error, SlowConsumer) and not call.answered
            if untold:  # gRPC would send the headers again that wait with the first answer, and fail
                call.end()
                await asyncio.sleep(0)  # raises CancelledError
            call.leave(0, delivery.STATUS_MAX_WAIT_S)
            await context.abort(*termination)
            return None

        return answer

    def _admitted(self, context: Context, method: str, *, streams: bool) -> AbstractContextManager[None]:
        """Sees who calls, and whether he may; a stream ends when he may not any more. Raises FleetError."""
        deadline.set_time_remaining(context.time_remaining())
        identity = self._authentication.identify(context)
        caller.set_identity(identity)
        require_permission(identity, method)
        return self._authentication.stream(identity) if streams else nullcontext()

    def _termination(self, method: str, context: Context, error: Exception) -> status.Termination:
        """How a call ends that failed."""
        termination = status.DEFECT
        if isinstance(error, FleetError):
            termination = status.termination(error)
            if isinstance(error, Unauthenticated | PermissionDenied):
                self._refused(method, context.peer(), error)
        else:
            quietly(_log.error, "rpc_failed", key=(method, type(error)), method=method, exc_info=error)
        _forget_frames(error)
        return termination


_KINDS: Mapping[tuple[bool, bool], Callable[[Any], tuple[Any, Any]]] = {
    (False, False): lambda handler: (grpc.unary_unary_rpc_method_handler, handler.unary_unary),
    (False, True): lambda handler: (grpc.unary_stream_rpc_method_handler, handler.unary_stream),
    (True, False): lambda handler: (grpc.stream_unary_rpc_method_handler, handler.stream_unary),
    (True, True): lambda handler: (grpc.stream_stream_rpc_method_handler, handler.stream_stream),
}
"""By whether requests and responses are streams: how a handler is made, and what one does."""


class _Context:
    """The context of a call that answers more than once: it writes within the limits on answers that wait."""

    def __init__(self, context: Context, call: delivery.Call) -> None:
        self._context = context
        self._call = call

    def __getattr__(self, name: str) -> Any:
        return getattr(self._context, name)

    async def write(self, answer: Message | bytes) -> None:
        """Raises SlowConsumer or LimitExceeded."""
        size = len(answer) if isinstance(answer, bytes) else answer.ByteSize()
        await self._call.write(self._context.write, answer, size)


def _headers_bytes(headers: Any) -> int:
    return sum(len(name) + len(value) + _HEADER_OVERHEAD_BYTES for name, value in headers or ())


async def _refuse_headers(_: Any, context: Context) -> None:
    await context.abort(*status.termination(HeadersTooLarge(HEADERS_MAX_BYTES)))


_HEADERS_TOO_LARGE = cast(
    "grpc.RpcMethodHandler[Message, Message]", grpc.stream_stream_rpc_method_handler(_refuse_headers)
)


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


async def _unimplemented(_: Any, context: Context) -> None:
    await context.abort(grpc.StatusCode.UNIMPLEMENTED, "this rpc is not there")


async def _each_taken(requests: AsyncIterator[_Received]) -> AsyncIterator[Message]:
    delivery.current().reads_here()
    received = aiter(requests)
    try:
        async for each in received:
            yield each.take()
    finally:
        if isinstance(received, AsyncGenerator):  # or it keeps the bytes of the last message, as gRPC keeps requests
            await received.aclose()


def _forget_frames(error: BaseException | None) -> None:
    """Frees what the frames that an error passed through hold, the request above all, though others keep the error."""
    while error is not None:
        error.__traceback__ = None
        before = error.__cause__ or error.__context__
        error.__cause__ = error.__context__ = None  # or errors that name each other as cause had no end
        error = before
