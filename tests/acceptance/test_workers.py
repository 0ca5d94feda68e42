"""Several processes behind one port: exact together, restarted when killed, stopped as one."""

from __future__ import annotations

import asyncio
import json
import os
import random
import signal
import socket
import subprocess
import sys
import urllib.request
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import grpc
import psutil
import psycopg
import pytest
from energyfleet.v1 import ingestion_service_pb2 as wire
from energyfleet.v1.ingestion_service_pb2_grpc import IngestionServiceStub
from energyfleet.v1.telemetry_pb2 import Telemetry
from prometheus_client.parser import text_string_to_metric_families

from ingestion_svc.supervisor import hold_port
from shared import child
from shared.db.embedded import EmbeddedServer
from shared.serve import ListenError
from shared.timestamps import US_PER_SECOND, system_clock
from tests.acceptance.processes import until
from tests.acceptance.test_cli_up import STOP_TIMEOUT_S, an_environment, gone, started, wait_until
from tests.acceptance.test_durability import check_stored_once, forgotten, some_readings
from tests.builders import a_meter_reading, a_vehicle_reading

pytestmark = pytest.mark.one_server

SEED = 20_261_124
CHANNELS = 12
MESSAGE = 50
START_TIMEOUT_S = 60


@dataclass
class Fleet:
    """A supervisor with workers, and its log."""

    process: subprocess.Popen[bytes]
    log: Path
    ready_file: Path

    @property
    def address(self) -> str:
        return self.ready_file.read_text().strip()

    def workers(self) -> list[psutil.Process]:
        children = psutil.Process(self.process.pid).children()
        return [each for each in children if each.status() != psutil.STATUS_ZOMBIE]

    def connections_of(self, worker: psutil.Process) -> int:
        """How many clients a worker serves."""
        port = int(self.address.rpartition(":")[2])
        return sum(
            each.status == psutil.CONN_ESTABLISHED and each.laddr.port == port for each in worker.net_connections()
        )

    def events(self, name: str) -> list[dict[str, object]]:
        lines = [json.loads(line) for line in self.log.read_text().splitlines() if line.startswith("{")]
        return [line for line in lines if line["event"] == name]

    def metrics(self) -> dict[tuple[str, str], float]:
        """Samples by name and value of the first label."""
        [served] = self.events("serving_metrics")
        with urllib.request.urlopen(f"http://{served['address']}/metrics") as answer:
            families = list(text_string_to_metric_families(answer.read().decode()))
        return {
            (sample.name, next(iter(sample.labels.values()), "")): sample.value
            for family in families
            for sample in family.samples
        }


@asynccontextmanager
async def workers(tmp_path: Path, url: str, count: int = 2, **variables: str) -> AsyncIterator[Fleet]:
    """Workers on a free port, serving; killed at the end if they still run."""
    ready_file, log = tmp_path / "ready", tmp_path / "log"
    environment = os.environ | {
        "ENERGYFLEET_DATABASE_URL": url,
        "ENERGYFLEET_INGESTION_ADDRESS": "127.0.0.1:0",
        "ENERGYFLEET_INGESTION_METRICS_ADDRESS": "127.0.0.1:0",
        "ENERGYFLEET_READY_FILE": str(ready_file),
        "TMPDIR": str(tmp_path),
    }
    with log.open("wb") as stderr:
        process = subprocess.Popen(
            [*child.command_prefix(), sys.executable, "-m", "ingestion_svc", "--workers", str(count)],
            env=environment | variables,
            stderr=stderr,
            start_new_session=True,
        )
    fleet = Fleet(process, log, ready_file)
    family: list[psutil.Process] = []
    try:
        await until(lambda: ready_file.exists() or process.poll() is not None, START_TIMEOUT_S)
        assert process.poll() is None, log.read_text()
        family = fleet.workers()
        yield fleet
    finally:
        if process.poll() is None:
            family += fleet.workers()
            process.kill()
        process.wait()
        for each in family:
            if each.is_running():
                each.kill()


async def send(channel: grpc.aio.Channel, messages: list[list[Telemetry]]) -> wire.IngestionSummary:
    """Sends all messages on one stream, again and again until it is taken; the last summary."""
    async with asyncio.timeout(60):
        while True:
            try:
                requests = (wire.StreamTelemetryRequest(readings=each) for each in messages)
                return (await IngestionServiceStub(channel).StreamTelemetry(requests)).summary
            except grpc.aio.AioRpcError as error:
                if error.code() != grpc.StatusCode.UNAVAILABLE and not forgotten(error):
                    raise
                await asyncio.sleep(0.05)


@asynccontextmanager
async def channels(address: str) -> AsyncIterator[list[grpc.aio.Channel]]:
    """Connections of their own, which the kernel spreads over the workers."""
    opened = [
        grpc.aio.insecure_channel(
            address, [("grpc.use_local_subchannel_pool", 1), ("grpc.max_reconnect_backoff_ms", 200)]
        )
        for _ in range(CHANNELS)
    ]
    try:
        yield opened
    finally:
        await asyncio.gather(*(each.close(None) for each in opened))


def shares(readings: list[Telemetry], dice: random.Random) -> list[list[list[Telemetry]]]:
    """Messages for each channel: every reading on two of them at least, in another order on each."""
    lots: list[list[Telemetry]] = [[] for _ in range(CHANNELS)]
    for reading in readings:
        for at in dice.sample(range(CHANNELS), dice.choice([2, 3])):
            lots[at].append(reading)
    for lot in lots:
        dice.shuffle(lot)
    return [[lot[at : at + MESSAGE] for at in range(0, len(lot), MESSAGE)] for lot in lots]


async def test_readings_of_one_device_through_several_workers_stay_exact(
    postgres: EmbeddedServer, database: str, tmp_path: Path
) -> None:
    readings = some_readings(3_000)
    lots = shares(readings, random.Random(SEED))
    sent = sum(len(message) for lot in lots for message in lot)
    async with (
        workers(tmp_path, postgres.url(database, role="energyfleet_ingestion")) as fleet,
        channels(fleet.address) as opened,
    ):
        summaries = await asyncio.gather(*(send(*each) for each in zip(opened, lots, strict=True)))
        connections = [fleet.connections_of(worker) for worker in fleet.workers()]
        told = fleet.metrics()

    assert len(connections) == 2
    assert all(connections), f"one worker served all connections: {connections}"
    assert sum(summary.stored for summary in summaries) == len(readings)
    assert sum(summary.duplicate for summary in summaries) == sent - len(readings)
    check_stored_once(postgres.url(database), readings)
    assert told["energyfleet_ingestion_readings_total", "stored"] == len(readings)
    assert told["energyfleet_ingestion_readings_total", "duplicate"] == sent - len(readings)
    assert told["energyfleet_ingestion_workers", ""] == 2


async def test_other_values_for_one_reading_through_several_workers_are_stored_once_and_told(
    postgres: EmbeddedServer, database: str, tmp_path: Path
) -> None:
    now_us = system_clock()
    times = [now_us - at * US_PER_SECOND for at in range(200)]
    lots = [
        [[a_meter_reading("m", ts_us, kwh_consumed_ac=1.0 + at), a_vehicle_reading("v", ts_us)] for ts_us in times]
        for at in range(CHANNELS)
    ]
    async with (
        workers(tmp_path, postgres.url(database, role="energyfleet_ingestion")) as fleet,
        channels(fleet.address) as opened,
    ):
        summaries = await asyncio.gather(*(send(*each) for each in zip(opened, lots, strict=True)))

    assert sum(summary.stored for summary in summaries) == 2 * len(times)
    assert sum(summary.conflicting for summary in summaries) == (CHANNELS - 1) * len(times)
    assert sum(summary.duplicate for summary in summaries) == (CHANNELS - 1) * len(times)
    with psycopg.connect(postgres.url(database)) as connection:
        for table in ("meter_energy_hourly", "meter_telemetry_history"):
            count = "count(*)" if table.endswith("history") else "sum(readings)"
            row = connection.execute(f"SELECT {count}, sum(kwh_consumed_ac) FROM {table}").fetchone()
            history = connection.execute("SELECT sum(kwh_consumed_ac) FROM meter_telemetry_history").fetchone()
            assert row is not None
            assert history is not None
            assert row[0] == len(times)
            assert row[1] == pytest.approx(history[0], rel=1e-9)


async def test_a_killed_worker_is_restarted_and_what_is_sent_again_counts_once(
    postgres: EmbeddedServer, database: str, tmp_path: Path
) -> None:
    readings = some_readings(3_000)
    lots = shares(readings, random.Random(SEED))
    url = postgres.url(database, role="energyfleet_ingestion")
    async with workers(tmp_path, url, ENERGYFLEET_BATCH_MAX_READINGS="100") as fleet:
        victim = fleet.workers()[0]
        async with channels(fleet.address) as opened:
            sending = asyncio.gather(*(send(*each) for each in zip(opened, lots, strict=True)))
            with psycopg.connect(postgres.url(database), autocommit=True) as connection:
                await until(lambda: connection.execute("SELECT 1 FROM meter_telemetry_history LIMIT 1").fetchone())
            victim.kill()
            await sending
        await until(lambda: fleet.events("worker_back"))
        assert len(fleet.workers()) == 2
        told = fleet.metrics()
        check_stored_once(postgres.url(database), readings)
        fleet.process.terminate()
        await until(lambda: fleet.process.poll() is not None, 30)

    assert fleet.process.returncode == 0
    assert len(fleet.events("worker_ended")) == 1
    assert told["energyfleet_ingestion_worker_restarts_total", ""] == 1
    assert told["energyfleet_ingestion_workers", ""] == 2


async def test_sigterm_drains_every_worker_and_leaves_nothing(
    postgres: EmbeddedServer, database: str, tmp_path: Path
) -> None:
    async with workers(tmp_path, postgres.url(database, role="energyfleet_ingestion")) as fleet:
        family = fleet.workers()
        async with channels(fleet.address) as opened:
            calls = [IngestionServiceStub(channel).StreamTelemetry(None) for channel in opened]
            for at, call in enumerate(calls):
                await call.write(wire.StreamTelemetryRequest(readings=[a_meter_reading(f"m{at}", system_clock())]))
            with psycopg.connect(postgres.url(database), autocommit=True) as connection:
                count = "SELECT count(*) FROM meter_telemetry_history"
                await until(lambda: connection.execute(count).fetchone() == (CHANNELS,))
            await until(lambda: fleet.metrics()["energyfleet_ingestion_open_streams", "StreamTelemetry"] == CHANNELS)
            fleet.process.send_signal(signal.SIGTERM)
            summaries = [(await call).summary for call in calls]
        await until(lambda: fleet.process.poll() is not None, 30)

    assert fleet.process.returncode == 0
    assert [summary.stored for summary in summaries] == [1] * CHANNELS
    assert not any(each.is_running() for each in family)
    assert sorted(each.name for each in tmp_path.iterdir()) == ["log", "ready"]


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells children that their parent was killed")
async def test_workers_end_with_a_killed_supervisor(postgres: EmbeddedServer, database: str, tmp_path: Path) -> None:
    async with workers(tmp_path, postgres.url(database, role="energyfleet_ingestion")) as fleet:
        family = fleet.workers()
        assert len(family) == 2
        fleet.process.kill()
        await until(lambda: not any(each.is_running() for each in family), 30)


async def test_workers_that_cannot_start_end_everything_with_one_line(tmp_path: Path) -> None:
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "ingestion_svc",
        "--workers",
        "3",
        env=os.environ
        | {
            "ENERGYFLEET_DATABASE_URL": "postgresql://postgres@127.0.0.1:1/x",
            "ENERGYFLEET_INGESTION_ADDRESS": "127.0.0.1:0",
            "ENERGYFLEET_LOG_LEVEL": "WARNING",
        },
        stderr=asyncio.subprocess.PIPE,
    )
    _, said = await process.communicate()

    assert process.returncode == 1
    assert "ENERGYFLEET_DATABASE_URL" in said.decode()
    assert len(said.decode().splitlines()) == 1


def test_a_port_on_which_somebody_listens_is_not_shared_even_with_the_willing() -> None:
    held, address = hold_port("127.0.0.1:0")
    with held, socket.socket() as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        listener.bind(held.getsockname())
        listener.listen()
        with pytest.raises(ListenError, match=address):
            hold_port(address)


def test_up_serves_through_as_many_workers_as_it_is_told(tmp_path: Path) -> None:
    free = ("--ingestion", "127.0.0.1:0", "--analytics", "127.0.0.1:0")
    with started(tmp_path, "up", "--workers", "2", *free, environment=an_environment(tmp_path)) as running:
        wait_until(running.says("Try"), "up is ready")
        family = running.family()
        assert sum("--worker" in words for _, words in running.commands()) == 2
        running.process.terminate()
        assert running.process.wait(STOP_TIMEOUT_S) == 0
    assert gone(family)
    assert list((tmp_path / "tmp").iterdir()) == []
    assert running.stderr.read_text() == "Everything has stopped.\n"
