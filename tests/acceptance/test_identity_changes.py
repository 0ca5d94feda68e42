"""Foreign readings, and certificates, keys and serials that change while streams are open."""

import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import grpc
import psycopg
import pytest
from energyfleet.v1.ingestion_service_pb2 import (
    ExchangeOpening,
    ExchangeTelemetryRequest,
    IngestTelemetryRequest,
    ListMappingsRequest,
)
from energyfleet.v1.ingestion_service_pb2_grpc import IngestionServiceStub
from energyfleet.v1.telemetry_pb2 import Telemetry
from prometheus_client import CollectorRegistry

import ingestion_svc.__main__
from shared.config import IngestionSettings
from shared.db.embedded import EmbeddedServer
from shared.exporter import new_registry
from shared.identity import Role, device_urn, role_urn
from tests.authority import Authority, Issued, TlsFolder, TokenKey, channel
from tests.builders import NOW_US, a_meter_reading, a_vehicle_reading, clock

pytestmark = pytest.mark.one_server

EOF: Any = grpc.aio.EOF  # type: ignore[attr-defined]  # grpc-stubs does not have it

CAR, METER = device_urn("vehicle", "car-1"), device_urn("meter", "meter-1")
WITHIN_S = 10


@dataclass
class Secured:
    """The ingestion service with mutual TLS."""

    address: str
    backend_address: str
    files: TlsFolder
    key: TokenKey
    registry: CollectorRegistry
    database_url: str

    @property
    def authority(self) -> Authority:
        return self.files.authority

    def channel(self, issued: Issued) -> grpc.aio.Channel:
        return channel(self.address, self.authority.pem, issued)

    def stored(self) -> list[str]:
        """The ids of the devices that readings are stored of."""
        with psycopg.connect(self.database_url) as connection:
            found = connection.execute(
                "SELECT meter_id FROM meter_telemetry_history JOIN meters USING (meter_key)"
                " UNION ALL SELECT vehicle_id FROM vehicle_telemetry_history JOIN vehicles USING (vehicle_key)"
            )
            return sorted(each for (each,) in found)


@pytest.fixture
async def secured(postgres: EmbeddedServer, database: str, tmp_path: Path) -> AsyncIterator[Secured]:
    key, registry = TokenKey("first"), new_registry()
    files = TlsFolder(tmp_path, Authority(), [key])
    settings: dict[str, Any] = {
        "ingestion_address": "127.0.0.1:0",
        "shutdown_grace_s": 1,
        "new_devices_per_hour": 3,
        **files.settings,
    }
    url = postgres.url(database, role="energyfleet_ingestion")
    async with ingestion_svc.__main__.serving(IngestionSettings(database_url=url, **settings), clock, registry) as (
        service,
        address,
    ):
        assert service.backend_address
        yield Secured(address, service.backend_address, files, key, registry, postgres.url(database))


def rpcs(called: grpc.aio.Channel) -> Any:
    """The service's; its types know a stream by an iterator only."""
    return IngestionServiceStub(called)


async def ended(call: Any) -> str:
    """The status that ends a stream, and what it says."""
    async with asyncio.timeout(WITHIN_S):
        try:
            while await call.read() is not EOF:
                pass
        except grpc.aio.AioRpcError as error:
            return f"{error.code().name}: {error.details()}"
    return "OK"


class Stream:
    """An open exchange."""

    def __init__(self, called: grpc.aio.Channel) -> None:
        self._call = rpcs(called).ExchangeTelemetry()
        self._sequence = 0

    async def send(self, *readings: Telemetry) -> int:
        """Sends readings, and returns how many were stored."""
        self._sequence += 1
        await self._call.write(ExchangeTelemetryRequest(sequence=self._sequence, readings=readings))
        return int((await self._call.read()).summary.stored)

    async def ended(self) -> str:
        """The status that ends it, and what it says."""
        return await ended(self._call)


def a_reading(car: str = "car-1", second: int = 0) -> Telemetry:
    return a_vehicle_reading(car, NOW_US - 3_600_000_000 + second * 1_000_000)


async def changed(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(WITHIN_S):
        while not condition():
            await asyncio.sleep(0.02)


async def test_a_foreign_reading_ends_the_call_and_stores_nothing_of_its_message(secured: Secured) -> None:
    async with secured.channel(secured.authority.client(CAR, METER)) as called:
        stream = Stream(called)
        assert await stream.send(a_reading(), a_meter_reading(meter_id="meter-1")) == 2
        with pytest.raises(grpc.aio.AioRpcError) as refusal:
            await stream.send(a_reading(second=1), a_reading("car-2"))
        assert refusal.value.code() is grpc.StatusCode.PERMISSION_DENIED
        assert CAR in str(refusal.value.details())
        assert device_urn("vehicle", "car-2") in str(refusal.value.details())
        for readings in (
            [a_meter_reading(meter_id="meter-2")],
            [a_reading(second=2), a_meter_reading(meter_id="car-1")],
        ):
            with pytest.raises(grpc.aio.AioRpcError, match="PERMISSION_DENIED"):
                await rpcs(called).IngestTelemetry(IngestTelemetryRequest(readings=readings))
    assert secured.stored() == ["car-1", "meter-1"]
    refused = secured.registry.get_sample_value(
        "energyfleet_refused_calls_total", {"rpc": "IngestTelemetry", "code": "PERMISSION_DENIED"}
    )
    assert refused == 2


async def test_an_opening_tells_of_the_callers_own_devices_alone(secured: Secured) -> None:
    async with secured.channel(secured.authority.client(CAR)) as called:
        call = rpcs(called).ExchangeTelemetry()
        await call.write(ExchangeTelemetryRequest(opening=ExchangeOpening(vehicle_id="car-1")))
        assert (await call.read()).HasField("opened")
        call.cancel()
        foreign = rpcs(called).ExchangeTelemetry()
        await foreign.write(ExchangeTelemetryRequest(opening=ExchangeOpening(vehicle_id="car-1", meter_id="meter-9")))
        assert "PERMISSION_DENIED" in await ended(foreign)


async def test_a_gateway_sends_for_everybody_and_an_id_that_is_none_is_rejected_as_ever(secured: Secured) -> None:
    async with secured.channel(secured.authority.client(role_urn(Role.GATEWAY))) as called:
        assert await Stream(called).send(a_reading("any-1"), a_meter_reading(meter_id="any-2")) == 2
    async with secured.channel(secured.authority.client(CAR)) as called:
        assert await Stream(called).send(a_reading(" not an id "), a_reading()) == 1


async def test_a_gateway_registers_so_many_an_hour_and_a_device_itself_always(secured: Secured) -> None:
    async with secured.channel(secured.authority.client(role_urn(Role.GATEWAY))) as called:
        stream = Stream(called)
        assert await stream.send(*(a_reading(f"gateway-{number}") for number in range(3))) == 3
        with pytest.raises(grpc.aio.AioRpcError, match="3 new vehicles an hour are registered and no more") as refusal:
            await stream.send(a_reading("gateway-3"))
        assert refusal.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert "grpc-status-details-bin" in str(refusal.value.trailing_metadata())
        assert await Stream(called).send(a_reading("gateway-0", second=1)) == 1
    async with secured.channel(secured.authority.client(CAR)) as called:
        assert await Stream(called).send(a_reading()) == 1
    assert secured.stored() == ["car-1", "gateway-0", "gateway-0", "gateway-1", "gateway-2"]


async def test_a_revoked_peers_stream_ends_and_others_live(secured: Secured) -> None:
    lost, kept = secured.authority.client(CAR), secured.authority.client(CAR)
    async with secured.channel(lost) as theirs, secured.channel(kept) as ours:
        revoked, other = Stream(theirs), Stream(ours)
        assert await revoked.send(a_reading()) == 1
        assert await other.send(a_reading(second=1)) == 1
        secured.files.replace("denied", f"{lost.serial} lost\n".encode())
        assert await revoked.ended() == f"UNAUTHENTICATED: the certificate {lost.serial} of {CAR} is revoked"
        with pytest.raises(grpc.aio.AioRpcError, match="is revoked"):
            await rpcs(theirs).IngestTelemetry(IngestTelemetryRequest(readings=[a_reading(second=2)]))
        assert await other.send(a_reading(second=3)) == 1


async def test_streams_live_through_a_rotation_and_a_broken_file_changes_nothing(secured: Secured) -> None:
    client, successor = secured.authority.client(CAR), Authority("Next CA")

    def expiry_s() -> float | None:
        return secured.registry.get_sample_value("energyfleet_certificate_expiry_seconds", {"certificate": "server"})

    async with secured.channel(client) as called:
        stream = Stream(called)
        assert await stream.send(a_reading()) == 1
        await changed(lambda: 0 < (expiry_s() or 0) <= 3_600)
        secured.files.replace("server.crt", b"-----BEGIN CERTIFICATE-----\nhalf of")
        secured.files.replace("denied", b"no serial\n")
        async with secured.channel(client) as late:
            assert await Stream(late).send(a_reading(second=1)) == 1
        secured.files.replace("ca.crt", secured.authority.pem + successor.pem)
        secured.files.show(successor.server(lasts=timedelta(hours=5)))
        await changed(lambda: (expiry_s() or 0) > 3_600)
        assert await stream.send(a_reading(second=2)) == 1
    async with (
        channel(secured.address, successor.pem, client) as old,
        channel(secured.address, successor.pem, successor.client(CAR)) as new,
    ):
        assert await Stream(old).send(a_reading(second=3)) == 1
        assert await Stream(new).send(a_reading(second=4)) == 1


async def test_a_stream_ends_with_its_token_and_keys_are_read_again(secured: Secured) -> None:
    def bearing(token: str) -> Any:
        return rpcs(backend).ListMappings(ListMappingsRequest(), metadata=[("authorization", f"Bearer {token}")])

    next_key = TokenKey("next")
    async with channel(secured.backend_address, secured.authority.pem) as backend:
        await bearing(secured.key.token("reader"))
        with pytest.raises(grpc.aio.AioRpcError, match="no key of its kid is known"):
            await bearing(next_key.token("reader"))
        rotated = TlsFolder(secured.files.folder, secured.authority, [next_key])
        async with asyncio.timeout(WITHIN_S):
            while True:
                try:
                    await bearing(next_key.token("reader"))
                    break
                except grpc.aio.AioRpcError:
                    await asyncio.sleep(0.02)
        with pytest.raises(grpc.aio.AioRpcError, match="no key of its kid is known"):
            await bearing(secured.key.token("reader"))
        call = rpcs(backend).ExchangeTelemetry(
            metadata=[("authorization", f"Bearer {rotated.keys[0].token('gateway', lasts_s=-29)}")]
        )
        await call.write(ExchangeTelemetryRequest(sequence=1, readings=[a_reading()]))
        assert (await call.read()).summary.stored == 1
        assert "UNAUTHENTICATED: the token of token:back-end has expired" in await ended(call)
