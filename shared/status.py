"""The one place where an error becomes a gRPC status."""

from __future__ import annotations  # gRPC's classes are generic in the stubs only

from typing import NamedTuple

import grpc
from google.protobuf import any_pb2, duration_pb2
from google.protobuf.message import Message
from google.rpc import error_details_pb2, status_pb2

from shared import errors

STATUS_DETAILS_KEY = "grpc-status-details-bin"
"""The trailing metadata that carries `google.rpc.Status`, as all of gRPC's languages agree."""

_CODES: dict[type[errors.FleetError], grpc.StatusCode] = {
    errors.Unauthenticated: grpc.StatusCode.UNAUTHENTICATED,
    errors.PermissionDenied: grpc.StatusCode.PERMISSION_DENIED,
    errors.InvalidRequest: grpc.StatusCode.INVALID_ARGUMENT,
    errors.MalformedRequest: grpc.StatusCode.INVALID_ARGUMENT,
    errors.UnknownDevice: grpc.StatusCode.NOT_FOUND,
    errors.UnknownReading: grpc.StatusCode.NOT_FOUND,
    errors.MappingContradiction: grpc.StatusCode.FAILED_PRECONDITION,
    errors.PageTokenExpired: grpc.StatusCode.FAILED_PRECONDITION,
    errors.SlowConsumer: grpc.StatusCode.RESOURCE_EXHAUSTED,
    errors.SilentStream: grpc.StatusCode.DEADLINE_EXCEEDED,
    errors.HeadersTooLarge: grpc.StatusCode.RESOURCE_EXHAUSTED,
    errors.DeadlinePassed: grpc.StatusCode.DEADLINE_EXCEEDED,
    errors.LimitExceeded: grpc.StatusCode.RESOURCE_EXHAUSTED,
    errors.DatabaseUnavailable: grpc.StatusCode.UNAVAILABLE,
    errors.ServiceStopping: grpc.StatusCode.UNAVAILABLE,
}


def _details(error: errors.FleetError) -> list[Message]:
    match error:
        case errors.InvalidRequest():
            violations = [
                error_details_pb2.BadRequest.FieldViolation(field=v.field, description=v.description)
                for v in error.violations
            ]
            return [error_details_pb2.BadRequest(field_violations=violations)]
        case errors.RetryLater():
            delay = duration_pb2.Duration()
            delay.FromMilliseconds(max(1, int(error.retry_after_s * 1_000)))
            return [error_details_pb2.RetryInfo(retry_delay=delay)]
        case _:
            return []


class Termination(NamedTuple):
    """How a call ends: what gRPC's `abort` takes."""

    code: grpc.StatusCode
    message: str
    trailing_metadata: tuple[tuple[str, bytes], ...] = ()


DEFECT = Termination(grpc.StatusCode.INTERNAL, "internal error")


def termination(error: errors.FleetError) -> Termination:
    """The error's status code, its message, and its details where it has any."""
    code = _CODES[type(error)]
    status = status_pb2.Status(code=code.value[0], message=str(error))
    for detail in _details(error):
        packed = any_pb2.Any()
        packed.Pack(detail)
        status.details.append(packed)
    trailing = ((STATUS_DETAILS_KEY, status.SerializeToString()),) if status.details else ()
    return Termination(code, str(error), trailing)
