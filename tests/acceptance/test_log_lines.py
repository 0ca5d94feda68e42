"""What hostile peers can make a service write: few lines, each of them JSON."""

import asyncio
import json
import socket
from collections import Counter
from contextlib import suppress
from pathlib import Path
from typing import Any

import grpc
import pytest
from energyfleet.v1 import ingestion_service_pb2 as wire
from energyfleet.v1.ingestion_service_pb2_grpc import IngestionServiceStub

from shared.identity import Role, device_urn, role_urn
from tests.acceptance.processes import service_process, until
from tests.authority import Authority, Issued, TlsFolder, channel
from tests.builders import a_meter_reading

HELLOS = 200


def bad_hello(address: str) -> None:
    """Asks for a page where TLS is spoken, and waits until it is hung up on."""
    host, _, port = address.rpartition(":")
    with socket.create_connection((host, int(port)), timeout=10) as connection, suppress(ConnectionError):
        connection.sendall(b"GET / HTTP/1.1\r\n\r\n")
        while connection.recv(4096):
            pass


@pytest.mark.one_server
async def test_what_hostile_peers_cause_is_told_in_a_few_lines_of_json(database_url: str, tmp_path: Path) -> None:
    files, log = TlsFolder(tmp_path, Authority()), tmp_path / "log"
    readers = [files.authority.client(role_urn(role)) for role in (Role.READER, Role.OPERATOR, Role.READER)]
    meter = files.authority.client(device_urn("meter", "m-1"))

    def lines() -> list[dict[str, Any]]:
        return [json.loads(line) for line in log.read_text().splitlines()]

    async with service_process(
        "ingestion_svc",
        tmp_path,
        log,
        ENERGYFLEET_DATABASE_URL=database_url,
        ENERGYFLEET_INGESTION_METRICS_ADDRESS="127.0.0.1:0",
        ENERGYFLEET_LOG_LEVEL="INFO",
        **{f"ENERGYFLEET_{name.upper()}": str(value) for name, value in files.settings.items()},
    ) as service:
        [metrics] = [line["address"] for line in lines() if line["event"] == "serving_metrics"]

        reading = wire.IngestTelemetryRequest(readings=[a_meter_reading()])

        def attack(number: int) -> None:
            for _ in range(HELLOS // 4):
                bad_hello(service.address if number else metrics)

        async def write_in_vain(reader: Issued) -> None:
            async with channel(service.address, files.authority.pem, reader) as connected:
                for _ in range(10):
                    with pytest.raises(grpc.aio.AioRpcError, match="PERMISSION_DENIED"):
                        await IngestionServiceStub(connected).IngestTelemetry(reading)

        async def leave_while_opening() -> None:
            async with channel(service.address, files.authority.pem, meter) as connected:
                stub: Any = IngestionServiceStub(connected)
                for _ in range(100):
                    call = stub.ExchangeTelemetry()
                    await call.write(wire.ExchangeTelemetryRequest(opening=wire.ExchangeOpening(meter_id="m-1")))
                    call.cancel()

        attacks = [asyncio.to_thread(attack, number) for number in range(4)]
        await asyncio.gather(*attacks, leave_while_opening(), *map(write_in_vain, readers))
        service.process.terminate()
        await until(lambda: service.process.poll() is not None)

    told = Counter(line["event"] for line in lines() if line["level"] != "info")
    assert told == {"permission_denied": 2}  # once for each identity
