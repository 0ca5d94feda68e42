"""The command and the reference client at services that ask who calls: who is let in, and what is printed where not."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from energyfleet.v1.ingestion_service_pb2 import ExchangeTelemetryRequest

import analytics_svc.__main__
import ingestion_svc.__main__
from fleetcli.client.channel import open_channel
from fleetcli.client.credentials import Credentials
from fleetcli.client.errors import ClientError, IdentityRefused
from fleetcli.client.services import AnalyticsClient, IngestionClient
from fleetcli.client.uplink import Uplink
from shared.config import AnalyticsSettings, IngestionSettings
from shared.db.embedded import EmbeddedServer
from shared.identity import Role, device_urn, role_urn
from shared.timestamps import US_PER_HOUR, iso_from_us
from tests.acceptance.test_cli_up import COMMAND, an_environment
from tests.authority import Authority, Issued, TlsFolder, TokenKey
from tests.builders import NOW_US, a_meter_reading, a_vehicle_reading, clock

pytestmark = pytest.mark.one_server

METER, CAR = device_urn("meter", "meter-001"), device_urn("vehicle", "vehicle-001")


@dataclass
class Secured:
    """Both services with mutual TLS, and tokens at addresses of their own."""

    files: TlsFolder
    key: TokenKey
    ingestion: str
    analytics: str
    backend_analytics: str

    @property
    def ca(self) -> str:
        return str(self.files.folder / "ca.crt")

    def credentials(self, issued: Issued) -> Credentials:
        return Credentials(self.files.authority.pem, issued.certificate, issued.key)

    def options(self, issued: Issued) -> list[str]:
        """That show a certificate."""
        cert, key = issued.write(self.files.folder, issued.serial)
        return ["--ca", self.ca, "--cert", cert, "--key", key]

    def client(self, *urns: str) -> Issued:
        return self.files.authority.client(*urns)


@pytest.fixture
async def secured(postgres: EmbeddedServer, database: str, tmp_path: Path) -> AsyncIterator[Secured]:
    key = TokenKey("first")
    files = TlsFolder(tmp_path, Authority("Fleet CA"), [key])
    common: dict[str, Any] = {"shutdown_grace_s": 1, **files.settings}
    ingestion = IngestionSettings(
        database_url=postgres.url(database, role="energyfleet_ingestion"), ingestion_address="127.0.0.1:0", **common
    )
    analytics = AnalyticsSettings(
        database_url=postgres.url(database, role="energyfleet_analytics"), analytics_address="127.0.0.1:0", **common
    )
    async with AsyncExitStack() as stack:
        _, takes = await stack.enter_async_context(ingestion_svc.__main__.serving(ingestion, clock))
        service, answers = await stack.enter_async_context(analytics_svc.__main__.serving(analytics, clock))
        assert service.backend_address
        yield Secured(files, key, takes, answers, service.backend_address)


class Printed(NamedTuple):
    code: int | None
    out: str
    err: str


async def energyfleet(secured: Secured, *arguments: str, stdin: str = "", **variables: str) -> Printed:
    """Runs a command to its end."""
    addresses = {"INGESTION_ADDRESS": secured.ingestion, "ANALYTICS_ADDRESS": secured.analytics}
    environment = an_environment(secured.files.folder, **addresses | variables)
    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec(
        *COMMAND, *arguments, env=environment, stdin=pipe, stdout=pipe, stderr=pipe
    )
    out, err = await asyncio.wait_for(process.communicate(stdin.encode()), 60)
    return Printed(process.returncode, out.decode(), " ".join(err.decode().split()))


async def test_each_identity_is_let_in_to_what_it_grants_and_a_refusal_names_it(secured: Secured) -> None:
    reader, operator = secured.client(role_urn(Role.READER)), secured.client(role_urn(Role.OPERATOR))
    device = secured.client(METER, CAR)
    async with IngestionClient(secured.ingestion, secured.credentials(operator)) as operating:
        await operating.map_vehicle("vehicle-001", "meter-001", NOW_US - US_PER_HOUR)
    async with IngestionClient(secured.ingestion, secured.credentials(device)) as sending, sending.uplink() as uplink:
        await uplink.send(ExchangeTelemetryRequest(readings=[a_meter_reading(), a_vehicle_reading()]))
    assert uplink.totals.stored == 2

    async with IngestionClient(secured.ingestion, secured.credentials(reader)) as listing:
        (mapping,) = (await listing.mappings("vehicle-001", "")).mappings
        (change,) = (await listing.mapping_changes("", "meter-001")).changes
    assert mapping.registered.identity == change.record.identity == role_urn(Role.OPERATOR)

    asking = AnalyticsClient(secured.analytics, secured.credentials(reader))
    async with asking:
        assert (await asking.performance("vehicle-001", NOW_US - US_PER_HOUR, NOW_US)).meter_readings == 1

    foreign = json.dumps({"meter": {"meterId": "meter-002", "timestamp": iso_from_us(NOW_US), "kwhConsumedAc": 1.0}})
    token_file = secured.files.folder / "token"
    token_file.write_text(secured.key.token("operator"))
    backend = {"ANALYTICS_ADDRESS": secured.backend_analytics, "CA": secured.ca, "TOKEN": f"@{token_file}"}
    answered, mapped, sent = await asyncio.gather(
        energyfleet(secured, "status", "meter-001", "--json", **backend),
        energyfleet(secured, "map", "vehicle-001", "meter-002", *secured.options(reader)),
        energyfleet(secured, "replay", "-", *secured.options(device), stdin=foreign),
    )
    assert (answered.code, json.loads(answered.out)["meter"]["freshness"]) == (0, "FRESHNESS_ONLINE")
    assert (mapped.code, sent.code) == (1, 1)
    refusal = (
        f"{secured.ingestion} refuses the certificate of {role_urn(Role.READER)} (serial {reader.serial}, issued by"
    )
    assert mapped.err.startswith(refusal)
    assert "needs the role operator (PERMISSION_DENIED); --cert and --key, or --token, show one that" in mapped.err
    assert f"refuses the certificate of {METER}, {CAR} (serial {device.serial}, issued by CN=Fleet CA" in sent.err
    assert f"may not send readings of {device_urn('meter', 'meter-002')}; nothing of this message" in sent.err


async def test_a_refused_reading_is_kept_until_a_renewed_certificate_names_its_device(
    secured: Secured, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fleetcli.client.renewal.FILES_LOOK_S", 0.05)
    cert, key = secured.client(CAR).write(secured.files.folder, "device")
    credentials = Credentials.read(secured.ca, cert, key)
    refused: asyncio.Queue[ClientError] = asyncio.Queue()
    async with (
        asyncio.timeout(30),  # less than the wait after a refusal
        open_channel(secured.ingestion, credentials) as channel,
        Uplink(
            channel, secured.ingestion, credentials, on_wait=lambda failure, _: refused.put_nowait(failure)
        ) as uplink,
    ):
        await uplink.send(ExchangeTelemetryRequest(readings=[a_vehicle_reading(), a_meter_reading()]))
        failure = await refused.get()
        assert isinstance(failure, IdentityRefused)
        assert f"{CAR} may not send readings of {METER}" in str(failure)
        assert uplink.completed_sequence == 0
        secured.client(CAR, METER).write(secured.files.folder, "device")
    assert (uplink.totals.received, uplink.totals.stored) == (2, 2)
