"""The reference client at a service that asks who it is: what it says when one side refuses the other, and renewal."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, NamedTuple

import grpc
import pytest
from energyfleet.v1.ingestion_service_pb2_grpc import add_IngestionServiceServicer_to_server
from grpc_health.v1 import health_pb2, health_pb2_grpc

from fleetcli.client.channel import PLAINTEXT, is_serving, open_channel
from fleetcli.client.credentials import Credentials
from fleetcli.client.errors import ClientError, HandshakeFailed, IdentityRefused
from fleetcli.client.uplink import Uplink
from tests.acceptance.test_uplink import Script, Scripted, Stream, a_request, acknowledge_all, send_all
from tests.authority import HOUR, Authority, Issued

METER = "urn:energyfleet:meter:m-1"


class Fleet(NamedTuple):
    """Two authorities, the first one the fleet's, and what they have signed."""

    authority: Authority
    other: Authority
    server: Issued
    folder: Path

    def credentials(self, issued: Issued | None = None, trusted: Authority | None = None) -> Credentials:
        return Credentials((trusted or self.authority).pem, *((issued.certificate, issued.key) if issued else ()))


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Fleet:
    authority, other = Authority("Fleet CA"), Authority("Other CA")
    folder = tmp_path_factory.mktemp("fleet")
    (folder / "ca").write_bytes(authority.pem)
    return Fleet(authority, other, authority.server(), folder)


def a_service(*scripts: Script) -> Scripted:
    return Scripted(*scripts)  # type: ignore[abstract]  # the other rpcs are not called


@asynccontextmanager
async def serving(
    servicer: Scripted, fleet: Fleet, shown: Issued | None, *, tokens: list[str] | None = None
) -> AsyncIterator[str]:
    """A server of scripted streams and health; over TLS where it has something to show.

    It asks for certificates, or else takes a list for the tokens that come.
    """

    class Health(health_pb2_grpc.HealthServicer):  # type: ignore[misc]  # it has no types
        async def Check(self, request: Any, context: Any) -> health_pb2.HealthCheckResponse:  # noqa: N802
            if tokens is not None:
                tokens.append(dict(context.invocation_metadata())["authorization"])
            return health_pb2.HealthCheckResponse(status=health_pb2.HealthCheckResponse.SERVING)

    server = grpc.aio.server()
    add_IngestionServiceServicer_to_server(servicer, server)
    health_pb2_grpc.add_HealthServicer_to_server(Health(), server)
    if shown is None:
        port = server.add_insecure_port("127.0.0.1:0")
    else:
        pair = [(shown.key, shown.certificate)]
        asks = (fleet.authority.pem, True) if tokens is None else (None, False)
        port = server.add_secure_port("127.0.0.1:0", grpc.ssl_server_credentials(pair, *asks))
    await server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        await server.stop(None)


async def test_a_handshake_that_fails_says_which_side_refuses_the_other_and_why(fleet: Fleet) -> None:
    sign = fleet.authority
    ours, expired, foreign = sign.client(METER), sign.client(METER, lasts=-HOUR / 2), fleet.other.client(METER)
    ended, elsewhere = sign.server(lasts=-HOUR / 2), sign.server("192.0.2.1")
    by_address = {"named": fleet.server, "elsewhere": elsewhere, "ended": ended, "plaintext": None}
    lasting, maybe_stopping = True, False
    cases = (
        ("named", fleet.credentials(ours, fleet.other), "none of those in --ca has signed it (CN=Other CA)", lasting),
        ("ended", fleet.credentials(ours), "not trusted: certificate has expired, by this machine's clock", lasting),
        ("elsewhere", fleet.credentials(ours), "is for other names", lasting),
        ("plaintext", fleet.credentials(ours), "does not speak TLS", lasting),
        ("named", PLAINTEXT, "--ca makes this client speak TLS", maybe_stopping),
        ("named", fleet.credentials(), "it may want a certificate, which --cert and --key show", maybe_stopping),
        ("named", fleet.credentials(expired), f"the certificate of {METER} (serial ", maybe_stopping),
        ("named", fleet.credentials(expired), "has expired, by this machine's clock; renew it", maybe_stopping),
        ("named", fleet.credentials(fleet.server), "the certificate of CN=service (serial ", maybe_stopping),
        ("named", fleet.credentials(fleet.server), "is not for clients: its extended key usage", maybe_stopping),
        ("named", fleet.credentials(foreign), "it may not trust who issued the certificate of", maybe_stopping),
        ("named", fleet.credentials(foreign), "issued by CN=Other CA", maybe_stopping),
    )

    async def told(address: str, credentials: Credentials) -> HandshakeFailed:
        with pytest.raises(HandshakeFailed) as raised:
            await is_serving(address, credentials, "")
        return raised.value

    for name, shown in by_address.items():
        async with serving(a_service(), fleet, shown) as address:
            for where, credentials, said, lasts in cases:
                if where != name:
                    continue
                failure = await told(address, credentials)
                assert said in str(failure)
                assert address in str(failure)
                assert failure.lasting is lasts, said
            if shown is fleet.server:
                assert await is_serving(address, fleet.credentials(ours), "") == (True, "SERVING")


async def test_a_token_is_sent_over_tls(fleet: Fleet) -> None:
    tokens: list[str] = []
    async with serving(a_service(), fleet, fleet.server, tokens=tokens) as address:
        assert await is_serving(address, Credentials(fleet.authority.pem, token="a.b.c"), "") == (True, "SERVING")
    assert tokens == ["Bearer a.b.c"]


def noting(shown: list[bytes], script: Script) -> Script:
    """A script that notes its client's certificate first; gRPC's context does not have it any more after a stream."""

    async def play(stream: Stream) -> None:
        shown.extend(stream.context.auth_context()["x509_pem_cert"])
        await script(stream)

    return play


async def test_a_refused_identity_keeps_its_readings_until_its_certificate_is_renewed(fleet: Fleet) -> None:
    before, after = fleet.authority.client(METER), fleet.authority.client(METER)
    cert, key = before.write(fleet.folder, "renewed")
    waited: list[tuple[ClientError, float]] = []

    async def refuses(stream: Stream) -> None:
        await stream.take(1)
        await stream.context.abort(grpc.StatusCode.UNAUTHENTICATED, "the certificate is revoked")

    def renew(failure: ClientError, wait_s: float) -> None:
        waited.append((failure, wait_s))
        after.write(fleet.folder, "renewed")

    shown: list[bytes] = []
    service = a_service(noting(shown, refuses), noting(shown, acknowledge_all))
    async with serving(service, fleet, fleet.server) as address:
        credentials = Credentials.read(str(fleet.folder / "ca"), cert, key)
        async with asyncio.timeout(20), open_channel(address, credentials) as channel:
            await send_all(Uplink(channel, address, credentials, on_wait=renew), [a_request(1)])

    assert shown == [before.certificate, after.certificate]
    assert service.sequences == [[1], [1]]
    [(failure, wait_s)] = waited
    assert isinstance(failure, IdentityRefused)
    assert f"refuses the certificate of {METER} (serial {before.serial}, " in str(failure)
    assert "the certificate is revoked (UNAUTHENTICATED)" in str(failure)
    assert wait_s > 60


@pytest.mark.parametrize("expired", [False, True])
async def test_the_next_stream_uses_a_certificate_that_was_renewed_meanwhile(expired: bool, fleet: Fleet) -> None:
    before, after = fleet.authority.client(METER), fleet.authority.client(METER)
    cert, key = before.write(fleet.folder, "rotated")
    waited: list[ClientError] = []

    async def ends(stream: Stream) -> None:
        await stream.take(2)  # all of them: gRPC loses a status that comes while something is written
        await stream.acknowledge(1, 1)
        after.write(fleet.folder, "rotated")
        if expired:
            await stream.context.abort(grpc.StatusCode.UNAUTHENTICATED, "the certificate has expired")

    shown: list[bytes] = []
    service = a_service(noting(shown, ends), noting(shown, acknowledge_all))
    async with serving(service, fleet, fleet.server) as address:
        credentials = Credentials.read(str(fleet.folder / "ca"), cert, key)
        async with asyncio.timeout(20), open_channel(address, credentials) as channel:
            uplink = Uplink(channel, address, credentials, on_wait=lambda failure, _: waited.append(failure))
            await send_all(uplink, [a_request(1), a_request(2)])
    assert shown == [before.certificate, after.certificate]
    assert service.sequences == [[1, 2], [2]]
    assert waited == []


async def test_who_has_a_person_waiting_tells_a_refusal_at_once(fleet: Fleet) -> None:
    async def refuses(stream: Stream) -> None:
        await stream.take(1)
        await stream.context.abort(grpc.StatusCode.PERMISSION_DENIED, "it is another's meter")

    ours = fleet.credentials(fleet.authority.client(METER))
    service = a_service(refuses)
    async with serving(service, fleet, fleet.server) as address, open_channel(address, ours) as channel:
        with pytest.raises(IdentityRefused, match="it is another's meter"):
            await send_all(Uplink(channel, address, ours, patience_s=10), [a_request(1)])
    assert len(service.streams) == 1
