"""Channels to the services, and gRPC's errors as ours."""

import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import cast

import grpc
from google.protobuf.any_pb2 import Any
from google.rpc import error_details_pb2, status_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc

from fleetcli.client.credentials import Credentials
from fleetcli.client.errors import ClientError, IdentityRefused, NotReachable, ServiceError, StreamCutShort
from fleetcli.client.handshakes import handshake_failure
from shared.status import STATUS_DETAILS_KEY

CALL_TIMEOUT_S = 30.0
"""Three times what the services allow their own queries of the database."""

HEALTH_TIMEOUT_S = 5.0

_CONNECT_FAILED = re.compile(r"failed to connect to all addresses; last error: [A-Z]+: ")

_LINE_END = re.compile(r"\s*\n\s*")

_WRITE_FAILED = "Internal error from Core"
"""What grpc.aio says of a write after the service has ended the stream; the status itself is lost (grpc #36066)."""

_IDENTITY_REFUSED = (grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.PERMISSION_DENIED)

_OPTIONS = (
    # A channel's own back-off adds to the caller's: shorter than that, and without growth.
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1_000),
    ("grpc.keepalive_time_ms", 60_000),  # as the services' own: a stream must not wait for a peer that is gone
    ("grpc.enable_http_proxy", 0),  # a proxy in the environment is meant for the web
)


PLAINTEXT = Credentials()
"""Nothing to show, and nobody to trust."""


def open_channel(address: str, credentials: Credentials = PLAINTEXT) -> grpc.aio.Channel:
    """A channel, over TLS where the credentials have a CA. Connects when it is first used."""
    if credentials.ca is None:
        return grpc.aio.insecure_channel(address, options=_OPTIONS)
    tls = grpc.ssl_channel_credentials(credentials.ca, credentials.key, credentials.certificate)
    if credentials.token is not None:
        # Of the channel, not metadata of calls: gRPC sends it over TLS alone.
        tls = grpc.composite_channel_credentials(tls, grpc.access_token_call_credentials(credentials.token))
    return grpc.aio.secure_channel(address, tls, options=_OPTIONS)


@contextmanager
def service_errors(address: str, credentials: Credentials = PLAINTEXT) -> Iterator[None]:
    """Turns gRPC's error of a call to that address, with those credentials, into a ClientError."""
    try:
        yield
    except grpc.aio.AioRpcError as error:
        raise _explained(address, credentials, error) from None


def _explained(address: str, credentials: Credentials, error: grpc.aio.AioRpcError) -> ClientError:
    violations: list[str] = []
    retry_after_s: float | None = None
    for packed in _details(error):
        bad_request, retry = error_details_pb2.BadRequest(), error_details_pb2.RetryInfo()
        if packed.Unpack(bad_request):
            violations += [f"{each.field}: {each.description}" for each in bad_request.field_violations]
        elif packed.Unpack(retry):
            retry_after_s = retry.retry_delay.ToTimedelta().total_seconds()
    message = _LINE_END.sub(" ", error.details() or "").strip()
    if error.code() is grpc.StatusCode.INTERNAL and message == _WRITE_FAILED:
        return StreamCutShort(address)
    if error.code() is grpc.StatusCode.UNAVAILABLE and retry_after_s is None:
        failed = handshake_failure(address, message, credentials)
        return failed or NotReachable(address, _CONNECT_FAILED.sub("", message))
    if error.code() in _IDENTITY_REFUSED:
        return IdentityRefused(address, error.code().name, credentials.identity, message)
    return ServiceError(address, error.code().name, message, violations, retry_after_s)


def _details(error: grpc.aio.AioRpcError) -> Sequence[Any]:
    # The stubs know the synchronous metadata only; what grpc.aio gives is a sequence of pairs.
    trailing = cast(Iterable[tuple[str, bytes]], error.trailing_metadata() or ())
    packed = dict(trailing).get(STATUS_DETAILS_KEY)
    return status_pb2.Status.FromString(packed).details if packed else ()


async def is_serving(address: str, credentials: Credentials, service: str) -> tuple[bool, str]:
    """Asks grpc.health.v1 of a service name ("" for the whole server): whether it serves, and the state's name."""
    async with open_channel(address, credentials) as channel:
        with service_errors(address, credentials):
            answer = await health_pb2_grpc.HealthStub(channel).Check(
                health_pb2.HealthCheckRequest(service=service), timeout=HEALTH_TIMEOUT_S
            )
    state = health_pb2.HealthCheckResponse.ServingStatus.Name(answer.status)
    return answer.status == health_pb2.HealthCheckResponse.SERVING, state
