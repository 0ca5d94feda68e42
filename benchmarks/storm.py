"""A fleet behind mutual TLS: 10,000 devices, a connection each, that all come back when the service is restarted; and
what handshakes cost those that are connected.
"""

import asyncio
import random
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
from energyfleet.v1.ingestion_service_pb2 import ExchangeTelemetryRequest
from energyfleet.v1.ingestion_service_pb2_grpc import IngestionServiceStub

from benchmarks import load
from benchmarks.client import BenchmarkError
from benchmarks.cpu import memory_bytes_each
from benchmarks.figures import Figure, Goal, percentile
from benchmarks.harness import Harness
from benchmarks.load import OWN_CONNECTION, meter_request
from benchmarks.mutual_tls import Credentials, Fleet, credentials_of, open_channel
from shared.timestamps import system_clock

DEVICES = 10_000
PROCESSES = 4

PER_S = 100
"""Connections that a process opens a second at first; after the restart all of them try at once, each when it likes."""

BACKOFF_MAX_S = 8.0
CONNECTED_WITHIN_S = 300.0
BACK_WITHIN_S = 300.0

QUIET_DEVICES = 200
QUIET_S = 20.0
"""For the latency of connected devices, each with a reading a second."""

VISITORS_PER_S = 20
"""Of each process: 80 handshakes a second, as many as a fleet of 10,000 makes that connects anew every two minutes."""


@dataclass(frozen=True)
class Back:
    """When devices were acknowledged after the restart, by `time.monotonic`, and how often they tried."""

    at_s: list[float]
    tries: int


def measure(harness: Harness, *, devices: int, tell: Callable[[str], None]) -> list[Figure]:
    """BenchmarkError when a device does not come back."""
    fleet = Fleet(harness.directory / "storm-tls")
    share = devices // PROCESSES
    subject = f"{share * PROCESSES:,} devices over mutual TLS"
    with harness.database("storm"), harness.clients(PROCESSES) as clients:
        with harness.service("ingestion", "storm", **fleet.variables) as target:
            address, before = target.address, sum(memory_bytes_each(target.service_pid))
            began = time.monotonic()
            working = [
                clients.start(come_back, address, fleet.directory, f"storm-{each}", share) for each in range(PROCESSES)
            ]
            tell(f"storm: {subject} connect")
            while len(list(fleet.directory.glob("storm-*.connected"))) < PROCESSES:
                if time.monotonic() > began + CONNECTED_WITHIN_S:
                    raise BenchmarkError(f"not all were connected within {CONNECTED_WITHIN_S:g} s")
                if any(each.ready() for each in working):
                    _ = [each.get() for each in working if each.ready()]
                time.sleep(0.1)
            connected_s = time.monotonic() - began
            memory = sum(memory_bytes_each(target.service_pid)) - before
            tell("storm: the service is restarted")
        variables = {**fleet.variables, "ENERGYFLEET_INGESTION_ADDRESS": address}
        with harness.service("ingestion", "storm", **variables) as target:
            restarted = time.monotonic()
            back = clients.watch(working, BACK_WITHIN_S, lambda: None)
            at_s = [each - restarted for outcome in back for each in outcome.at_s]
            tries = sum(outcome.tries for outcome in back)
            tell("storm: what handshakes cost others")
            quiet = _latencies_ms(harness, address, fleet, 0)
            busy = _latencies_ms(harness, address, fleet, VISITORS_PER_S)
    if len(at_s) != share * PROCESSES:
        raise BenchmarkError(f"{len(at_s):,} of {share * PROCESSES:,} devices came back")
    calm = f"{QUIET_DEVICES} connected devices"
    return [
        Figure(subject, "all connected, as they come", connected_s, "s"),
        Figure(subject, "memory per stream", memory / (share * PROCESSES) / 2**10, "KiB"),
        Figure(subject, "all back after a restart", max(at_s), "s"),
        Figure(subject, "half of them", percentile(at_s, 50), "s"),
        Figure(subject, "handshakes a second until then", share * PROCESSES / max(at_s), "/s"),
        Figure(subject, "tries per device", tries / (share * PROCESSES), ""),
        Figure(calm, "p99 acknowledgement", percentile(quiet, 99), "ms"),
        Figure(calm, f"p99 beside {PROCESSES * VISITORS_PER_S} handshakes a second", percentile(busy, 99), "ms"),
        Figure(calm, "ratio of the two", percentile(busy, 99) / percentile(quiet, 99), "", goal=Goal("below", 2)),
    ]


def _latencies_ms(harness: Harness, address: str, fleet: Fleet, visitors_per_s: float) -> list[float]:
    gateway = credentials_of(fleet.directory, roles=["gateway"])
    with harness.clients(PROCESSES + 1) as clients:
        working: list[Any] = [clients.start(load.live, address, "calm", QUIET_DEVICES, 1.0, QUIET_S, 100, gateway)]
        if visitors_per_s:
            seconds = QUIET_S + QUIET_DEVICES / load.CONNECTIONS_PER_S
            working += [clients.start(visit, address, gateway, visitors_per_s, seconds) for _ in range(PROCESSES)]
        outcome, *_ = clients.watch(working, 10 * QUIET_S, lambda: None)
    return [latency * 1e3 for latency in outcome.latencies_s]


def come_back(address: str, directory: Path, name: str, devices: int) -> Back:
    """Devices with a certificate and a connection each. They send a reading, which is told by a file when all are
    acknowledged; when the service ends their streams they reconnect, and send another."""
    return asyncio.run(_come_back(address, directory, name, devices))


async def _come_back(address: str, directory: Path, name: str, devices: int) -> Back:
    at_s: list[float] = []
    connected = [0]
    tries = [0]

    async def acknowledged(call: Any, device: str) -> None:
        await call.write(ExchangeTelemetryRequest(sequence=1, readings=meter_request(device, system_clock()).readings))
        if (await call.read()).summary.stored != 1:
            raise BenchmarkError(f"a new reading of {device} was not stored")

    async def one(number: int) -> None:
        device = f"{name}-{number}"
        shown = credentials_of(directory, meters=[device])
        await asyncio.sleep(number / PER_S)
        async with open_channel(address, shown, (*OWN_CONNECTION, ("grpc.max_reconnect_backoff_ms", 1_000))) as channel:
            stub: Any = IngestionServiceStub(channel)
            call = stub.ExchangeTelemetry()
            await acknowledged(call, device)
            connected[0] += 1
            if connected[0] == devices:
                (directory / f"{name}.connected").touch()
            with suppress(grpc.aio.AioRpcError):
                await call.read()  # until the service ends it
            backoff_s = 1.0
            while True:
                tries[0] += 1
                try:
                    await acknowledged(stub.ExchangeTelemetry(), device)
                    at_s.append(time.monotonic())
                    return
                except (grpc.aio.AioRpcError, grpc.aio.InternalError, AttributeError):
                    await asyncio.sleep(backoff_s * random.uniform(0.5, 1))
                    backoff_s = min(2 * backoff_s, BACKOFF_MAX_S)

    await asyncio.gather(*(one(number) for number in range(devices)))
    return Back(at_s, tries[0])


def visit(address: str, credentials: Credentials, per_s: float, seconds: float) -> int:
    """Connects and goes again, so often a second; returns how many handshakes there were."""
    return asyncio.run(_visit(address, credentials, per_s, seconds))


async def _visit(address: str, credentials: Credentials, per_s: float, seconds: float) -> int:
    async def one(number: int) -> None:
        await asyncio.sleep(number / per_s)
        async with open_channel(address, credentials, OWN_CONNECTION) as channel:
            await channel.channel_ready()

    visitors = round(seconds * per_s)
    await asyncio.gather(*(one(number) for number in range(visitors)))
    return visitors
