"""What stands around every rpc: bytes that are no message, errors that become statuses, defects that stay inside."""

from __future__ import annotations  # gRPC's classes are generic in the stubs only

from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, TypeAlias, cast

import grpc
import structlog
from google.protobuf.message import DecodeError, Message

from shared import deadline, status
from shared.errors import FleetError, MalformedRequest

_log = structlog.get_logger()

Context: TypeAlias = "grpc.aio.ServicerContext[Message, Message]"


class _Malformed:
    """Stands for a request that could not be deserialized, because gRPC answers a failed deserializer with UNKNOWN."""


class Guard(grpc.aio.ServerInterceptor):  # type: ignore[type-arg]  # generic in the stubs only
    """Answers malformed bytes with INVALID_ARGUMENT, a FleetError with its status, and a defect with INTERNAL.

    gRPC would tell the client `Unexpected <type>: <text>` of an exception; here it is logged, and the client learns
    nothing of our insides. Health and reflection are gRPC's own and pass through.
    """

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[grpc.RpcMethodHandler[Message, Message]]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> grpc.RpcMethodHandler[Message, Message]:
        handler: Any = await continuation(handler_call_details)
        method = handler_call_details.method
        if handler is None or not method.startswith("/energyfleet."):
            return cast("grpc.RpcMethodHandler[Message, Message]", handler)
        deserializer = _lenient(handler.request_deserializer)
        if handler.request_streaming and handler.response_streaming:
            return grpc.stream_stream_rpc_method_handler(
                _guarded(handler.stream_stream, _each_checked, method), deserializer, handler.response_serializer
            )
        if handler.request_streaming:
            return grpc.stream_unary_rpc_method_handler(
                _guarded(handler.stream_unary, _each_checked, method), deserializer, handler.response_serializer
            )
        return grpc.unary_unary_rpc_method_handler(
            _guarded(handler.unary_unary, _checked, method), deserializer, handler.response_serializer
        )


def _lenient(deserializer: Callable[[bytes], Message]) -> Callable[[bytes], Any]:
    def deserialize(wire: bytes) -> Message | _Malformed:
        try:
            return deserializer(wire)
        except DecodeError:
            return _Malformed()

    return deserialize


def _checked(request: Any, method: str) -> Any:
    if request.__class__ is _Malformed:
        raise MalformedRequest(method)
    return request


async def _each_checked(requests: AsyncIterator[Any], method: str) -> AsyncIterator[Any]:
    async for request in requests:
        yield _checked(request, method)


def _guarded(
    behaviour: Callable[[Any, Context], Awaitable[Message | None]], check: Callable[[Any, str], Any], method: str
) -> Any:
    async def answer(request: Any, context: Context) -> Message | None:
        deadline.set_time_remaining(context.time_remaining())
        try:
            return await behaviour(check(request, method), context)
        except grpc.aio.AbortError:
            raise
        except FleetError as error:
            await status.abort(context, error)
        except Exception as error:  # the boundary: a defect must leave as INTERNAL and nothing else
            _log.error("rpc_failed", method=method, exc_info=error)
            await context.abort(grpc.StatusCode.INTERNAL, "internal error")
        return None

    return answer
