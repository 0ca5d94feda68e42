"""What was acknowledged is there, and there once, whatever dies in between."""

from __future__ import annotations

import asyncio
import math
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import grpc
import psycopg
import pytest
from energyfleet.v1 import ingestion_service_pb2 as wire
from energyfleet.v1.ingestion_service_pb2_grpc import IngestionServiceStub
from energyfleet.v1.telemetry_pb2 import Telemetry
from google.rpc import error_details_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc

from shared.db.embedded import EmbeddedServer
from shared.db.migrate import migrate
from shared.timestamps import US_PER_SECOND, system_clock
from tests.acceptance.processes import ServiceProcess, service_process, until
from tests.acceptance.test_ingestion_service import details
from tests.builders import a_meter_reading, a_vehicle_reading
from tests.conftest import TEST_SETTINGS

DEVICES = 20
READINGS = 4_000
BATCH = 200


@pytest.fixture
def own_postgres(postgres: EmbeddedServer, tmp_path: Path) -> Iterator[EmbeddedServer]:
    """A server of this test's own, of the session's version, to be stopped and killed."""
    with EmbeddedServer(tmp_path / "postgres", bin_dir=postgres.bin_dir, settings=TEST_SETTINGS) as server:
        migrate(server.url())
        yield server


def some_readings(count: int = READINGS) -> list[Telemetry]:
    """Both sides, over devices in turn, up to now."""
    now_us = system_clock()
    readings = []
    for at in range(count // 2):
        ts_us = now_us - at // DEVICES * 10 * US_PER_SECOND
        readings.append(a_meter_reading(f"m{at % DEVICES}", ts_us, kwh_consumed_ac=0.1 + at % 7))
        readings.append(a_vehicle_reading(f"v{at % DEVICES}", ts_us, kwh_delivered_dc=0.1 + at % 5))
    return readings


async def send(address: str, readings: list[Telemetry]) -> wire.IngestionSummary:
    messages = [
        wire.StreamTelemetryRequest(readings=readings[start : start + BATCH])
        for start in range(0, len(readings), BATCH)
    ]
    async with grpc.aio.insecure_channel(address) as channel:
        return (await IngestionServiceStub(channel).StreamTelemetry(iter(messages))).summary


async def refusal(address: str, readings: list[Telemetry]) -> grpc.aio.AioRpcError:
    """What becomes of sending them in vain."""
    while True:
        with pytest.raises(grpc.aio.AioRpcError) as raised:
            await send(address, readings)
        if not forgotten(raised.value):
            return raised.value


def forgotten(error: grpc.aio.AioRpcError) -> bool:
    """Whether grpc.aio has lost a call's status to a write that was under way when it came (grpc #36066)."""
    return error.details() == "Internal error from Core"


def check_stored_once(url: str, readings: list[Telemetry]) -> None:
    """History has each reading once, rollups are its sums, and current status is its newest."""
    with psycopg.connect(url) as connection:
        for side, energy in (("meter", "kwh_consumed_ac"), ("vehicle", "kwh_delivered_dc")):
            sent = [getattr(reading, side) for reading in readings if reading.WhichOneof("reading") == side]
            row = one(connection, f"SELECT count(*), sum({energy}) FROM {side}_telemetry_history")
            total = math.fsum(getattr(reading, energy) for reading in sent)
            assert row[0] == len(sent)
            assert math.isclose(row[1], total, rel_tol=1e-9)
            row = one(connection, f"SELECT sum(readings), sum({energy}) FROM {side}_energy_hourly")
            assert row[0] == len(sent)
            assert math.isclose(row[1], total, rel_tol=1e-9)
            row = one(
                connection,
                f"SELECT count(*) FROM {side}_current_status AS status WHERE ts ="
                f" (SELECT max(ts) FROM {side}_telemetry_history WHERE {side}_key = status.{side}_key)",
            )
            assert row[0] == DEVICES


def one(connection: psycopg.Connection[Any], query: str) -> Any:
    return connection.execute(query).fetchone()


@pytest.mark.one_server
@pytest.mark.parametrize("place", ["before_commit", "after_commit"])
async def test_a_service_killed_around_commit_loses_nothing_and_counts_nothing_twice(
    postgres: EmbeddedServer, database: str, tmp_path: Path, place: str
) -> None:
    url = postgres.url(database, role="energyfleet_ingestion")
    readings = some_readings()
    variables = {"ENERGYFLEET_DATABASE_URL": url, "ENERGYFLEET_BATCH_MAX_READINGS": "300"}
    async with service_process("ingestion_svc", tmp_path, **variables, ENERGYFLEET_FAIL_POINTS=f"{place}:4") as doomed:
        refused = await refusal(doomed.address, readings)
        assert await doomed.ended() == -signal.SIGKILL
    async with service_process("ingestion_svc", tmp_path, **variables) as service:
        summary = await send(service.address, readings)

    assert refused.code() == grpc.StatusCode.UNAVAILABLE
    assert summary.duplicate > 0
    assert summary.stored + summary.duplicate == len(readings)
    check_stored_once(postgres.url(database), readings)


@pytest.mark.parametrize("victim", ["backend", "postmaster"])
async def test_postgresql_killed_during_a_commit_loses_nothing_and_counts_nothing_twice(
    own_postgres: EmbeddedServer, tmp_path: Path, victim: str
) -> None:
    readings = some_readings()
    async with service_process(
        "ingestion_svc",
        tmp_path,
        ENERGYFLEET_DATABASE_URL=own_postgres.url(role="energyfleet_ingestion"),
        ENERGYFLEET_BATCH_MAX_READINGS="300",
    ) as service:
        with suppress(psycopg.OperationalError), psycopg.connect(own_postgres.url()) as connection:  # it dies as well
            # The last thing that a batch touches: it has to wait here, its rows written and not committed.
            connection.execute("LOCK TABLE meter_closed_hours IN EXCLUSIVE MODE")
            sending = asyncio.ensure_future(send(service.address, readings))
            backend = await backend_that_waits(own_postgres)
            os.kill(backend if victim == "backend" else own_postgres.pid, signal.SIGKILL)
        if victim == "postmaster":
            own_postgres.restart()
        summary = await sending

    assert summary.stored + summary.duplicate == len(readings)
    check_stored_once(own_postgres.url(), readings)


async def backend_that_waits(server: EmbeddedServer) -> int:
    """The process id of the session that waits for a lock."""
    found: list[int] = []

    def look() -> list[int]:
        with psycopg.connect(server.url()) as connection:
            rows = connection.execute("SELECT pid FROM pg_stat_activity WHERE wait_event_type = 'Lock'")
            found.extend(pid for (pid,) in rows)
        return found

    await until(look)
    return found[0]


async def test_a_database_that_is_away_is_told_with_when_to_retry_and_service_resumes_with_it(
    own_postgres: EmbeddedServer, tmp_path: Path
) -> None:
    readings = some_readings()
    async with service_process(
        "ingestion_svc",
        tmp_path,
        ENERGYFLEET_DATABASE_URL=own_postgres.url(role="energyfleet_ingestion"),
        ENERGYFLEET_OUTAGE_GRACE_S="0.5",
        ENERGYFLEET_HEALTH_INTERVAL_S="0.1",
    ) as service:
        await send(service.address, readings[:1_000])
        os.kill(own_postgres.pid, signal.SIGINT)
        for _ in range(3):  # in the grace, after it, and while it is known
            refused = await refusal(service.address, readings)
            assert refused.code() == grpc.StatusCode.UNAVAILABLE
            assert retry_delay_s(refused) > 0
        await health_is(service, health_pb2.HealthCheckResponse.NOT_SERVING)
        own_postgres.restart()
        await health_is(service, health_pb2.HealthCheckResponse.SERVING)
        summary = await send_until_taken(service, readings)

    assert summary.duplicate >= 1_000
    assert summary.stored + summary.duplicate == len(readings)
    check_stored_once(own_postgres.url(), readings)


async def send_until_taken(service: ServiceProcess, readings: list[Telemetry]) -> wire.IngestionSummary:
    async with asyncio.timeout(10):
        while True:
            try:
                return await send(service.address, readings)
            except grpc.aio.AioRpcError as error:
                await asyncio.sleep(0 if forgotten(error) else retry_delay_s(error) / 10)


def retry_delay_s(error: grpc.aio.AioRpcError) -> float:
    status = details(error)
    assert status is not None
    retry = error_details_pb2.RetryInfo()
    assert status.details[0].Unpack(retry)
    return float(retry.retry_delay.ToTimedelta().total_seconds())


async def health_is(service: ServiceProcess, wanted: int) -> None:
    async with grpc.aio.insecure_channel(service.address) as channel, asyncio.timeout(15):
        call = health_pb2_grpc.HealthStub(channel).Watch(
            health_pb2.HealthCheckRequest(service="energyfleet.v1.IngestionService")
        )
        while (await call.read()).status != wanted:
            pass
        call.cancel()


@pytest.mark.one_server
async def test_sigterm_ends_open_streams_with_their_final_answer_and_exit_code_0(
    postgres: EmbeddedServer, database: str, tmp_path: Path
) -> None:
    async with service_process(
        "ingestion_svc", tmp_path, ENERGYFLEET_DATABASE_URL=postgres.url(database, role="energyfleet_ingestion")
    ) as service:
        async with grpc.aio.insecure_channel(service.address) as channel:
            stub = IngestionServiceStub(channel)
            calls = [stub.StreamTelemetry(None) for _ in range(50)]
            for at, call in enumerate(calls):
                await call.write(wire.StreamTelemetryRequest(readings=[a_meter_reading(f"m{at}", system_clock())]))
            await until(lambda: stored_meters(postgres.url(database)) == 50)
            service.process.terminate()
            summaries = [(await call).summary for call in calls]
        code = await service.ended()

    assert [summary.stored for summary in summaries] == [1] * 50
    assert code == 0


def stored_meters(url: str) -> int:
    with psycopg.connect(url) as connection:
        return int(one(connection, "SELECT count(*) FROM meter_telemetry_history")[0])


@pytest.mark.parametrize(
    ("variables", "told"),
    [
        ({"ENERGYFLEET_DATABASE_URL": ""}, "ENERGYFLEET_DATABASE_URL"),
        ({"ENERGYFLEET_DATABASE_URL": "postgresql://postgres@127.0.0.1:1/x"}, "ENERGYFLEET_DATABASE_URL"),
        ({"ENERGYFLEET_DATABASE_URL": "nonsense"}, "ENERGYFLEET_DATABASE_URL"),
        ({"ENERGYFLEET_WRITERS": "0"}, "ENERGYFLEET_WRITERS"),
    ],
)
async def test_a_start_that_cannot_succeed_says_why_in_a_line(variables: dict[str, str], told: str) -> None:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "ingestion_svc", env=os.environ | variables, stderr=asyncio.subprocess.PIPE
    )
    _, said = await process.communicate()

    assert process.returncode == 1
    assert told in said.decode()
    assert len(said.decode().splitlines()) == 1
