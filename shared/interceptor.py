"""What stands around every rpc: requests that are not parsed, errors that become statuses, defects that stay inside."""

from __future__ import annotations  # gRPC's classes are generic in the stubs only

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from typing import Any, NamedTuple, TypeAlias, cast

import grpc
import structlog
from google.protobuf.message import DecodeError, Message

from shared import deadline, status
from shared.errors import FleetError, InvalidRequest, MalformedRequest, Violation
from shared.list_limits import ListLimit, NotAMessage, exceeded

_log = structlog.get_logger()

Context: TypeAlias = "grpc.aio.ServicerContext[Message, Message]"


ListLimits: TypeAlias = Mapping[str, Sequence[ListLimit]]
"""By rpc, without the service's name: how many elements the lists of its requests may have."""


class _Refused(NamedTuple):
    """Stands for a request that is not parsed, because gRPC answers a failed deserializer with UNKNOWN."""

    error: FleetError


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
        parsed: Callable[[Any], Any] = _parsed
        make, behaviour = grpc.unary_unary_rpc_method_handler, handler.unary_unary
        if handler.request_streaming and handler.response_streaming:
            make, behaviour, parsed = grpc.stream_stream_rpc_method_handler, handler.stream_stream, _each_parsed
        elif handler.request_streaming:
            make, behaviour, parsed = grpc.stream_unary_rpc_method_handler, handler.stream_unary, _each_parsed
        return make(_guarded(behaviour, parsed, method), deserializer, handler.response_serializer)


def _deserializer(
    parse: Callable[[bytes], Message], method: str, limits: Sequence[ListLimit]
) -> Callable[[bytes], Message | _Refused]:
    def deserialize(wire: bytes) -> Message | _Refused:
        try:
            limit = exceeded(wire, limits) if limits else None
            if limit is None:
                return parse(wire)
        except (DecodeError, NotAMessage):
            return _Refused(MalformedRequest(method))
        return _Refused(InvalidRequest([Violation(limit.field, f"too many; at most {limit.most:,} in a message")]))

    return deserialize


def _parsed(request: Any) -> Any:
    if request.__class__ is _Refused:
        raise request.error
    return request


async def _each_parsed(requests: AsyncIterator[Any]) -> AsyncIterator[Any]:
    async for request in requests:
        yield _parsed(request)


def _guarded(
    behaviour: Callable[[Any, Context], Awaitable[Message | None]], parsed: Callable[[Any], Any], method: str
) -> Any:
    async def answer(request: Any, context: Context) -> Message | None:
        deadline.set_time_remaining(context.time_remaining())
        try:
            return await behaviour(parsed(request), context)
        except grpc.aio.AbortError:
            raise
        except FleetError as error:
            termination = status.termination(error)
            _forget_frames(error)
        except Exception as error:  # the boundary: a defect must leave as INTERNAL and nothing else
            _log.error("rpc_failed", method=method, exc_info=error)
            termination = status.DEFECT
            _forget_frames(error)
        # gRPC keeps what `abort` raises, and with it this frame, until the garbage collector comes: rarely here.
        del request
        await context.abort(*termination)
        return None

    return answer


def _forget_frames(error: BaseException | None) -> None:
    """Frees what the frames that an error passed through hold, the request above all, though others keep the error."""
    while error is not None:
        error.__traceback__ = None
        error = error.__cause__ or error.__context__
