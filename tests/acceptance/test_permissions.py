"""Who may call what, over real TLS: every kind of caller, every rpc of both services, health and reflection."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import grpc
import pytest
from energyfleet.v1 import analytics_service_pb2, ingestion_service_pb2
from google.protobuf.descriptor import MethodDescriptor
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection_pb2

import analytics_svc.__main__
import ingestion_svc.__main__
from shared.config import AnalyticsSettings, IngestionSettings
from shared.db.embedded import EmbeddedServer
from shared.identity import Role, device_urn, prefix_urn, role_urn
from shared.permissions import NEEDS
from tests.authority import HOUR, Authority, Issued, TlsFolder, TokenKey, channel
from tests.builders import clock
from tests.conftest import new_database

pytestmark = pytest.mark.one_server

INGESTION, ANALYTICS, HEALTH, REFLECTION = (
    module.DESCRIPTOR.services_by_name[name]
    for module, name in (
        (ingestion_service_pb2, "IngestionService"),
        (analytics_service_pb2, "AnalyticsService"),
        (health_pb2, "Health"),
        (reflection_pb2, "ServerReflection"),
    )
)
RPCS = {
    f"/{service.full_name}/{rpc.name}": rpc
    for service in (INGESTION, ANALYTICS, HEALTH, REFLECTION)
    for rpc in service.methods
}

HEALTH_RPCS = {f"/grpc.health.v1.Health/{rpc}" for rpc in ("Check", "List", "Watch")}
SENDING = {
    f"/energyfleet.v1.IngestionService/{rpc}" for rpc in ("StreamTelemetry", "ExchangeTelemetry", "IngestTelemetry")
}
CHANGING = {f"/energyfleet.v1.IngestionService/{rpc}" for rpc in ("MapVehicle", "UnmapVehicle", "CorrectReading")}
READING = RPCS.keys() - HEALTH_RPCS - SENDING - CHANGING

REFUSED = (grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.PERMISSION_DENIED, grpc.StatusCode.UNAVAILABLE)

READER, OPERATOR, GATEWAY = (role_urn(role) for role in Role)
CAR = device_urn("vehicle", "car-1")
AUTHORITY, STRANGER = Authority(), Authority()
KEYS, FORGER = [TokenKey("first"), TokenKey("second")], TokenKey("first")


@dataclass(frozen=True)
class Caller:
    """Somebody who calls, the status that he gets from what he may not call, and what he may."""

    may: set[str]
    refused_with: str = "PERMISSION_DENIED"
    certificate: Callable[[], Issued | None] = lambda: None
    token: Callable[[], str | None] = lambda: None


REVOKED = AUTHORITY.client(OPERATOR)

CALLERS = {
    "no certificate": Caller(set(), "UNAVAILABLE"),
    "another authority": Caller(set(), "UNAVAILABLE", lambda: STRANGER.client(OPERATOR)),
    "expired": Caller(set(), "UNAVAILABLE", lambda: AUTHORITY.client(OPERATOR, lasts=-HOUR / 2)),
    "not yet valid": Caller(set(), "UNAVAILABLE", lambda: AUTHORITY.client(OPERATOR, begins=HOUR / 2)),
    "revoked": Caller(set(), "UNAUTHENTICATED", lambda: REVOKED),
    "grants nothing that is known": Caller(
        set(), "UNAUTHENTICATED", lambda: AUTHORITY.client(OPERATOR, "urn:energyfleet:role:root")
    ),
    "no grant": Caller(HEALTH_RPCS, certificate=lambda: AUTHORITY.client(common_name="somebody")),
    "device": Caller(HEALTH_RPCS | SENDING, certificate=lambda: AUTHORITY.client(CAR)),
    "devices by prefix": Caller(HEALTH_RPCS | SENDING, certificate=lambda: AUTHORITY.client(prefix_urn("meter", "m-"))),
    "gateway": Caller(HEALTH_RPCS | SENDING, certificate=lambda: AUTHORITY.client(GATEWAY)),
    "reader": Caller(HEALTH_RPCS | READING, certificate=lambda: AUTHORITY.client(READER)),
    "operator": Caller(HEALTH_RPCS | READING | CHANGING, certificate=lambda: AUTHORITY.client(OPERATOR)),
    "operator and device": Caller({*RPCS}, certificate=lambda: AUTHORITY.client(OPERATOR, CAR)),
    "reader with an operator's token": Caller(
        HEALTH_RPCS | READING, certificate=lambda: AUTHORITY.client(READER), token=lambda: KEYS[0].token("operator")
    ),
    "token without a role": Caller(HEALTH_RPCS, token=lambda: KEYS[0].token("elsewhere")),
    "token of a reader": Caller(HEALTH_RPCS | READING, token=lambda: KEYS[1].token("reader")),
    "token of an operator": Caller(HEALTH_RPCS | READING | CHANGING, token=lambda: KEYS[0].token("operator")),
    "token of a gateway": Caller(HEALTH_RPCS | SENDING, token=lambda: KEYS[0].token("gateway")),
    "token of a device": Caller(HEALTH_RPCS | SENDING, token=lambda: KEYS[0].token(CAR)),
    "expired token": Caller(set(), "UNAUTHENTICATED", token=lambda: KEYS[0].token("operator", lasts_s=-60)),
    "forged token": Caller(set(), "UNAUTHENTICATED", token=lambda: FORGER.token("operator")),
    "token for somebody else": Caller(set(), "UNAUTHENTICATED", token=lambda: KEYS[0].token("operator", aud="others")),
    "no token": Caller(set(), "UNAUTHENTICATED", token=lambda: ""),
}


@dataclass(frozen=True)
class Addresses:
    """Where each service listens, for certificates and for tokens."""

    certificates: dict[str, str]
    tokens: dict[str, str]


@pytest.fixture(scope="module")
async def addresses(postgres: EmbeddedServer, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Addresses]:
    files = TlsFolder(tmp_path_factory.mktemp("tls"), AUTHORITY, KEYS)
    files.replace("denied", f"{REVOKED.serial} an operator who left\n".encode())
    with new_database(postgres) as database:
        settings: dict[str, Any] = {"database_url": postgres.url(database), "shutdown_grace_s": 1, **files.settings}
        async with (
            ingestion_svc.__main__.serving(IngestionSettings(ingestion_address="127.0.0.1:0", **settings), clock) as (
                ingestion,
                ours,
            ),
            analytics_svc.__main__.serving(AnalyticsSettings(analytics_address="127.0.0.1:0", **settings), clock) as (
                analytics,
                theirs,
            ),
        ):
            assert ingestion.backend_address
            assert analytics.backend_address
            yield Addresses(
                {"IngestionService": ours, "AnalyticsService": theirs},
                {"IngestionService": ingestion.backend_address, "AnalyticsService": analytics.backend_address},
            )


async def code_of(called: grpc.aio.Channel, path: str, rpc: MethodDescriptor, metadata: Any) -> str:
    """Calls an rpc with an empty request, or with none, and waits for its status or its first answer."""
    shape = f"{'stream' if rpc.client_streaming else 'unary'}_{'stream' if rpc.server_streaming else 'unary'}"
    call = getattr(called, shape)(path)
    calling = call(metadata=metadata, timeout=20) if rpc.client_streaming else call(b"", metadata=metadata, timeout=20)
    try:
        if rpc.client_streaming:
            with suppress(asyncio.InvalidStateError, grpc.aio.InternalError):  # it has ended already
                await calling.done_writing()
        await (calling.read() if rpc.server_streaming else calling)
        if not calling.done():
            calling.cancel()
            return "OK"
    except grpc.aio.AioRpcError as error:
        return str(error.code().name)
    return str((await calling.code()).name)


def test_the_table_has_every_rpc() -> None:
    assert NEEDS.keys() == RPCS.keys()


@pytest.mark.parametrize("name", CALLERS)
async def test_a_caller_gets_what_he_may_have_and_nothing_else(name: str, addresses: Addresses) -> None:
    caller = CALLERS[name]
    certificate, token = caller.certificate(), caller.token()
    metadata = [("x-identity", OPERATOR), ("x-forwarded-client-cert", f"URI={OPERATOR}")]
    if token:
        metadata.append(("authorization", f"Bearer {token}"))
    listeners = addresses.tokens if token is not None and certificate is None else addresses.certificates
    for service, address in listeners.items():
        async with channel(address, AUTHORITY.pem, certificate) as called:
            rpcs = {
                path: rpc
                for path, rpc in RPCS.items()
                if rpc.containing_service.name in (service, "Health", "ServerReflection")
            }
            codes = await asyncio.gather(*(code_of(called, path, rpc, metadata) for path, rpc in rpcs.items()))
        for path, code in zip(rpcs, codes, strict=True):
            if path in caller.may:
                assert code not in [each.name for each in REFUSED], (path, code)
            else:
                assert code == caller.refused_with, (path, code)
