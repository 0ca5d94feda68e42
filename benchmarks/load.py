"""Devices for the load programs, many in a process, each with the reference client of ExchangeTelemetry.

A latency counts from the instant at which a request was due to the answer that resolves it, both in this process: a
client that is short of processor time makes figures worse, never better.
"""

import asyncio
import random
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from itertools import repeat
from typing import TYPE_CHECKING

import grpc
from energyfleet.v1.ingestion_service_pb2 import (
    ExchangeTelemetryRequest,
    ExchangeTelemetryResponse,
    IngestionSummary,
    IngestTelemetryRequest,
)
from energyfleet.v1.ingestion_service_pb2_grpc import IngestionServiceStub
from energyfleet.v1.telemetry_pb2 import MeterReading, Telemetry, VehicleReading
from google.protobuf.timestamp_pb2 import Timestamp

from benchmarks.mutual_tls import Credentials, open_channel
from benchmarks.readings import telemetry
from fleetcli.client.channel import service_errors
from fleetcli.client.errors import ServiceError
from fleetcli.client.uplink import Uplink
from shared.timestamps import US_PER_SECOND, proto_from_us, system_clock

if TYPE_CHECKING:  # in the stubs' types only
    from energyfleet.v1.ingestion_service_pb2_grpc import IngestionServiceAsyncStub

CONNECTIONS_PER_S = 150
"""So many streams are opened a second and process: all at once would measure the storm, and not the streams. Four
processes open 600 a second, and a stream takes some 2 ms of client and service together."""

BACKLOG_AGE_US = 3 * 86_400 * US_PER_SECOND
"""Backlog begins three days ago."""

OWN_CONNECTION = (("grpc.use_local_subchannel_pool", 1),)
"""Without it, channels to one address share a connection; devices do not."""


GO_ON_STEP_US = 1_000
"""A millisecond: half a minute of 10,000 readings a second fits into the five minutes that a clock may be ahead, also
where they are of two devices."""

_Maker = Callable[[], ExchangeTelemetryRequest]


@dataclass
class Outcome:
    """What became of the readings of some devices, and how long each request took to be resolved, in seconds."""

    elapsed_s: float = 0.0
    """From the first request until everything was resolved; told by `push`."""
    settled_in_time: int = 0
    """Readings that were resolved before the seconds of `push` were over, and not out of its buffers afterwards."""
    sent: int = 0
    stored: int = 0
    duplicate: int = 0
    streams: int = 0
    refused: int = 0
    """Unary calls that were told to come back later."""
    latencies_s: list[float] = field(default_factory=list)

    def add(self, other: "Outcome") -> None:
        """Counts another process's devices, too."""
        self.sent += other.sent
        self.stored += other.stored
        self.duplicate += other.duplicate
        self.streams += other.streams
        self.refused += other.refused
        self.latencies_s += other.latencies_s


class _Device:
    """One uplink and when its unsettled requests were due."""

    def __init__(self, channel: grpc.aio.Channel, address: str, outcome: Outcome) -> None:
        self.uplink = Uplink(channel, address, on_answer=self._answered, patience_s=120)
        self._outcome = outcome
        self._due: deque[tuple[int, float]] = deque()

    async def send(self, request: ExchangeTelemetryRequest, due: float) -> None:
        readings = len(request.readings)
        self._due.append((await self.uplink.send(request), due))
        self._outcome.sent += readings

    def count(self) -> None:
        """Adds what became of its readings, once it is closed."""
        totals = self.uplink.totals
        self._outcome.stored += totals.stored
        self._outcome.duplicate += totals.duplicate
        self._outcome.streams += self.uplink.streams

    def _answered(self, answer: ExchangeTelemetryResponse) -> None:
        now = asyncio.get_running_loop().time()
        while self._due and self._due[0][0] <= answer.committed_sequence:
            self._outcome.latencies_s.append(now - self._due.popleft()[1])


def live(
    address: str,
    name: str,
    devices: int,
    every_s: float,
    seconds: float,
    streams_per_connection: int,
    credentials: Credentials | None = None,
) -> Outcome:
    """Devices that send one reading every so many seconds, spread evenly, each over a stream of its own.

    What they send until all have been there for an interval is not timed: devices are made in the database, and others
    are still connecting. Nor is any timed while others leave: all stay for another interval.
    """
    return asyncio.run(_live(address, name, devices, every_s, seconds, streams_per_connection, credentials))


async def _live(
    address: str,
    name: str,
    devices: int,
    every_s: float,
    seconds: float,
    streams_per_connection: int,
    credentials: Credentials | None,
) -> Outcome:
    loop, outcome, untimed = asyncio.get_running_loop(), Outcome(), Outcome()
    begin = loop.time() + devices / CONNECTIONS_PER_S + every_s

    async def one(number: int, channel: grpc.aio.Channel) -> None:
        await asyncio.sleep(number / CONNECTIONS_PER_S)
        device = _Device(channel, address, outcome)
        async with device.uplink as uplink:
            await uplink.send(meter_request(f"{name}-{number}", system_clock()))
            untimed.sent += 1
            due = begin + every_s * number / devices
            due -= every_s * ((due - loop.time()) // every_s)
            while due < begin + seconds:
                await asyncio.sleep(due - loop.time())
                request = meter_request(f"{name}-{number}", system_clock())
                if due < begin:
                    await uplink.send(request)
                    untimed.sent += 1
                else:
                    await device.send(request, due)
                due += every_s
            await asyncio.sleep(begin + seconds + every_s + number / CONNECTIONS_PER_S - loop.time())
        device.count()

    async with AsyncExitStack() as stack:
        channels = [
            await stack.enter_async_context(open_channel(address, credentials, OWN_CONNECTION))
            for _ in range(-(-devices // streams_per_connection))
        ]
        await asyncio.gather(*(one(at, channels[at // streams_per_connection]) for at in range(devices)))
    outcome.sent += untimed.sent
    return outcome


def push(
    address: str, name: str, streams: int, per_message: int, seconds: float, readings_per_s: float | None = None
) -> Outcome:
    """Streams, a connection each, that push for so many seconds: what is measured now, at a rate, as gateways do; or
    backlog, as fast as they can (None)."""
    makers = [
        _requests(f"{name}-{number}", per_message, of_the_past=readings_per_s is None) for number in range(streams)
    ]
    return asyncio.run(_push(address, makers, per_message, seconds, readings_per_s))


def call(address: str, name: str, callers: int, per_message: int, seconds: float) -> Outcome:
    """Callers that send backlog in one IngestTelemetry call after the other, over one connection, for so many seconds.

    A call that is told to come back later is repeated until it is answered, as soon as it may be.
    """
    return asyncio.run(_call(address, name, callers, per_message, seconds))


async def _call(address: str, name: str, callers: int, per_message: int, seconds: float) -> Outcome:
    loop, outcome = asyncio.get_running_loop(), Outcome()

    async def one(number: int, stub: "IngestionServiceAsyncStub") -> None:
        make, end = _requests(f"{name}-{number}", per_message, of_the_past=True), loop.time() + seconds
        while loop.time() < end:
            request = IngestTelemetryRequest(readings=make().readings)
            outcome.sent += per_message
            summary = await _until_answered(stub, address, request, outcome)
            outcome.stored += summary.stored
            outcome.duplicate += summary.duplicate

    async with grpc.aio.insecure_channel(address) as channel:
        await asyncio.gather(*(one(number, IngestionServiceStub(channel)) for number in range(callers)))
    return outcome


async def _until_answered(
    stub: "IngestionServiceAsyncStub", address: str, request: IngestTelemetryRequest, outcome: Outcome
) -> IngestionSummary:
    while True:
        try:
            with service_errors(address):
                return (await stub.IngestTelemetry(request)).summary
        except ServiceError as error:
            if error.retry_after_s is None:
                raise
            outcome.refused += 1
            await asyncio.sleep(error.retry_after_s)


def go_on(
    address: str, pairs: int, after_us: int, streams: int, per_message: int, seconds: float, readings_per_s: float
) -> Outcome:
    """Pushes what the fleet of a stored history sends after it: all devices in turn, again and again."""
    makers = [_later_requests(range(number, 2 * pairs, streams), after_us, per_message) for number in range(streams)]
    return asyncio.run(_push(address, makers, per_message, seconds, readings_per_s))


async def _push(
    address: str, makers: Sequence[_Maker], per_message: int, seconds: float, readings_per_s: float | None
) -> Outcome:
    loop, outcome, streams = asyncio.get_running_loop(), Outcome(), len(makers)
    devices: list[_Device] = []
    interval_s = 0.0 if readings_per_s is None else per_message * streams / readings_per_s

    async def one(number: int, make: _Maker) -> None:
        async with grpc.aio.insecure_channel(address, OWN_CONNECTION) as channel:
            device = _Device(channel, address, outcome)
            devices.append(device)
            async with device.uplink:
                end = loop.time() + seconds
                due = loop.time() + interval_s * number / streams
                while due < end and loop.time() < end:
                    if interval_s:
                        await asyncio.sleep(due - loop.time())
                    await device.send(make(), due)
                    due = due + interval_s if interval_s else loop.time()
            device.count()

    def look() -> None:
        outcome.settled_in_time = sum(device.uplink.totals.received for device in devices)

    begun = loop.time()
    loop.call_at(begun + seconds, look)
    await asyncio.gather(*(one(number, make) for number, make in enumerate(makers)))
    outcome.elapsed_s = loop.time() - begun
    return outcome


def meter_request(meter_id: str, ts_us: int) -> ExchangeTelemetryRequest:
    """One reading of one meter."""
    meter = MeterReading(
        meter_id=meter_id, kwh_consumed_ac=random.uniform(0.1, 0.2), voltage=230, timestamp=proto_from_us(ts_us)
    )
    return ExchangeTelemetryRequest(readings=[Telemetry(meter=meter)])


def _later_requests(devices: Sequence[int], after_us: int, per_message: int) -> _Maker:
    """Makes requests with the next readings of these devices, counted as in `benchmarks.readings`."""
    first_ones: dict[int, ExchangeTelemetryRequest] = {}  # by the place of their first device
    made = 0

    def make() -> ExchangeTelemetryRequest:
        nonlocal made
        numbers = range(made, made + per_message)
        made += per_message
        place = numbers.start % len(devices)
        if place not in first_ones:
            readings = [telemetry(devices[number % len(devices)], after_us) for number in numbers]
            first_ones[place] = ExchangeTelemetryRequest(readings=readings)
        instants = [proto_from_us(after_us + (number // len(devices) + 1) * GO_ON_STEP_US) for number in numbers]
        return _again(first_ones[place], instants)

    return make


def _requests(name: str, per_message: int, *, of_the_past: bool) -> _Maker:
    """Makes requests with one reading of each of so many devices, half of them meters: a second later each time, or of
    the time of its making."""
    begin_us = system_clock() - BACKLOG_AGE_US
    template = ExchangeTelemetryRequest()
    for device in range(per_message):
        if device % 2:
            vehicle = VehicleReading(vehicle_id=f"{name}-{device}", soc=50, kwh_delivered_dc=0.09, battery_temp=25)
            template.readings.add(vehicle=vehicle)
        else:
            meter = MeterReading(meter_id=f"{name}-{device}", kwh_consumed_ac=0.1, voltage=230)
            template.readings.add(meter=meter)
    made = 0

    def make() -> ExchangeTelemetryRequest:
        nonlocal made
        made += 1
        timestamp = proto_from_us(begin_us + made * US_PER_SECOND if of_the_past else system_clock())
        return _again(template, repeat(timestamp))

    return make


def _again(request: ExchangeTelemetryRequest, instants: Iterable[Timestamp]) -> ExchangeTelemetryRequest:
    """The same readings at other instants: a sixth of what it takes to make them."""
    made = ExchangeTelemetryRequest()
    made.CopyFrom(request)
    for reading, instant in zip(made.readings, instants, strict=False):
        side = reading.meter if reading.HasField("meter") else reading.vehicle
        side.timestamp.CopyFrom(instant)
    return made
