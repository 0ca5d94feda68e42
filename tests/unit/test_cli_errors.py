"""gRPC's errors become one line each that tells an operator what to do."""

import grpc
import pytest
from google.protobuf.any_pb2 import Any
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message
from google.rpc import error_details_pb2, status_pb2

from fleetcli.client.channel import service_errors
from fleetcli.client.errors import ClientError, NotReachable, ServiceError, StreamCutShort
from shared.status import STATUS_DETAILS_KEY


def an_error(code: grpc.StatusCode, message: str, *details: Message) -> grpc.aio.AioRpcError:
    status = status_pb2.Status(code=code.value[0], message=message)
    for detail in details:
        packed = Any()
        packed.Pack(detail)
        status.details.append(packed)
    trailing = grpc.aio.Metadata((STATUS_DETAILS_KEY, status.SerializeToString())) if details else grpc.aio.Metadata()
    return grpc.aio.AioRpcError(code, grpc.aio.Metadata(), trailing, message, None)


def told(error: grpc.aio.AioRpcError, kind: type[ClientError]) -> str:
    with pytest.raises(ClientError) as raised, service_errors("host:1"):
        raise error
    assert type(raised.value) is kind
    return str(raised.value)


def test_all_violations_are_told() -> None:
    violation = error_details_pb2.BadRequest.FieldViolation
    both = error_details_pb2.BadRequest(
        field_violations=[violation(field="a", description="too long"), violation(field="b", description="missing")]
    )
    line = told(an_error(grpc.StatusCode.INVALID_ARGUMENT, "a: too long", both), ServiceError)
    assert line == "host:1 answered INVALID_ARGUMENT: a: too long; b: missing"


def test_a_service_without_its_database_is_there_all_the_same() -> None:
    retry = error_details_pb2.RetryInfo(retry_delay=Duration(seconds=1, nanos=500_000_000))
    line = told(an_error(grpc.StatusCode.UNAVAILABLE, "the database is unavailable", retry), ServiceError)
    assert line == "host:1 answered UNAVAILABLE: the database is unavailable; it may succeed in 1.5 s"


def test_unavailable_without_a_retry_means_that_nobody_is_there() -> None:
    details = "failed to connect to all addresses; last error: UNKNOWN: ipv4:1.2.3.4:1: Connection\n refused"
    line = told(an_error(grpc.StatusCode.UNAVAILABLE, details), NotReachable)
    assert line == "no answer from host:1 (ipv4:1.2.3.4:1: Connection refused)"


def test_a_write_after_the_services_last_word_is_no_defect_of_the_service() -> None:
    line = told(an_error(grpc.StatusCode.INTERNAL, "Internal error from Core"), StreamCutShort)
    assert line.startswith("host:1 ended the stream early")
    assert told(an_error(grpc.StatusCode.INTERNAL, "internal error"), ServiceError).endswith("INTERNAL: internal error")


def test_a_status_without_a_word_is_still_a_sentence() -> None:
    assert (
        told(an_error(grpc.StatusCode.NOT_FOUND, ""), ServiceError) == "host:1 answered NOT_FOUND: it gives no reason"
    )
