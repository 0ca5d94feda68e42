"""`python -m analytics_svc` as whoever runs it sees it: starts, refusals, signals."""

import asyncio
import os
import signal
import socket
import sys
from pathlib import Path

import grpc
import psycopg
import pytest
from energyfleet.v1 import analytics_service_pb2 as wire
from energyfleet.v1.analytics_service_pb2_grpc import AnalyticsServiceStub

from shared.db.embedded import EmbeddedServer
from tests.acceptance.processes import refusal

pytestmark = pytest.mark.one_server


@pytest.mark.parametrize("signal_number", [signal.SIGTERM, signal.SIGINT])
async def test_it_serves_until_a_signal_and_ends_with_0(
    postgres: EmbeddedServer, database: str, database_url: str, tmp_path: Path, signal_number: signal.Signals
) -> None:
    with psycopg.connect(database_url) as connection:
        connection.execute("INSERT INTO vehicles (vehicle_id) VALUES ('car')")
    ready_file = tmp_path / "address"
    variables = {
        "ENERGYFLEET_DATABASE_URL": postgres.url(database, role="energyfleet_analytics"),
        "ENERGYFLEET_ANALYTICS_ADDRESS": "127.0.0.1:0",
        "ENERGYFLEET_READY_FILE": str(ready_file),
    }
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "analytics_svc",
        env=os.environ | variables, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    while not ready_file.exists():
        assert process.returncode is None
        await asyncio.sleep(0.01)
    async with grpc.aio.insecure_channel(ready_file.read_text().strip()) as channel:
        stub = AnalyticsServiceStub(channel)
        answer = await stub.GetVehiclePerformance(wire.GetVehiclePerformanceRequest(vehicle_id="car"))
        assert answer.verdict == wire.VERDICT_NO_METER
    process.send_signal(signal_number)
    out, err = await process.communicate()
    assert process.returncode == 0
    assert out == b""
    assert b"Traceback" not in err
    assert err.count(b'"draining"') == 1
    with psycopg.connect(database_url) as connection:
        left = connection.execute(
            "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"
        ).fetchone()
    assert left == (0,)


async def test_it_refuses_to_start_without_a_database_url() -> None:
    assert (await refusal("analytics_svc")).startswith("ENERGYFLEET_DATABASE_URL is not set")


async def test_it_refuses_a_wrong_variable_and_names_it(database_url: str) -> None:
    said = await refusal("analytics_svc", ENERGYFLEET_DATABASE_URL=database_url, ENERGYFLEET_LOW_EFFICIENCY_BELOW="85")
    assert said.startswith("ENERGYFLEET_LOW_EFFICIENCY_BELOW: ")
    assert len(said.splitlines()) == 1


async def test_it_refuses_a_database_without_the_schema(postgres: EmbeddedServer) -> None:
    said = await refusal("analytics_svc", ENERGYFLEET_DATABASE_URL=postgres.url())
    assert said.endswith("run `energyfleet migrate`")
    assert len(said.splitlines()) == 1


async def test_it_refuses_a_database_that_is_not_there(tmp_path: Path) -> None:
    said = await refusal("analytics_svc", ENERGYFLEET_DATABASE_URL=f"postgresql://postgres@/none?host={tmp_path}")
    assert said.startswith("ENERGYFLEET_DATABASE_URL: ")
    said = await refusal(
        "analytics_svc", ENERGYFLEET_ANALYTICS_DATABASE_URL=f"postgresql://postgres@/none?host={tmp_path}"
    )
    assert said.startswith("ENERGYFLEET_ANALYTICS_DATABASE_URL: ")


async def test_it_refuses_a_port_that_is_taken(database_url: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        said = await refusal(
            "analytics_svc", ENERGYFLEET_DATABASE_URL=database_url, ENERGYFLEET_ANALYTICS_ADDRESS=address
        )
    assert f"cannot listen on {address}" in said.splitlines()[-1]
