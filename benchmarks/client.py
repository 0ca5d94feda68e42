"""The client's side of a measurement. It runs in a process of its own, so that its processor time can be told.

Requests are serialized before the clock starts and sent as bytes: a device's own cost is not what is measured.
"""

import asyncio
import time
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import Any

import grpc
from energyfleet.v1 import ingestion_service_pb2

from benchmarks.cpu import cpu_seconds
from benchmarks.mutual_tls import Credentials, open_channel
from benchmarks.readings import Span, messages

CONNECT_TIMEOUT_S = 10

_INGESTION = "/energyfleet.v1.IngestionService"

# The stubs require both. Without the first gRPC sends bytes as they are, without the second it takes `call.write`.
_AS_IT_IS: Any = None
_FROM_WRITES: Any = None


class BenchmarkError(Exception):
    """A figure cannot be had, or would be wrong. The message says why."""


@dataclass(frozen=True)
class Target:
    """The service to call, and the processes whose work is measured."""

    address: str
    service_pid: int
    postgres_pid: int
    credentials: Credentials | None = None
    """None: plaintext."""


@dataclass(frozen=True)
class Effort:
    """What it took: seconds on the clock, and seconds of processor time of each side."""

    wall_s: float
    client_cpu_s: float
    service_cpu_s: float
    postgres_cpu_s: float


class Stopwatch:
    """Measures from its making to `stop()`."""

    def __init__(self, target: Target) -> None:
        self._target = target
        self._started = self._look()

    def stop(self) -> Effort:
        """What it took."""
        return Effort(*(now - then for now, then in zip(self._look(), self._started, strict=True)))

    def _look(self) -> tuple[float, float, float, float]:
        target = self._target
        cpu = cpu_seconds(target.service_pid), cpu_seconds(target.postgres_pid)
        return time.perf_counter(), time.process_time(), *cpu


def stream(target: Target, span: Span, per_message: int, streams: int) -> Effort:
    """Sends a span over concurrent StreamTelemetry calls, the messages dealt out in turn, and waits for the answers.

    BenchmarkError when a call fails or a reading was not stored as new.
    """
    return asyncio.run(_stream(target, messages(span, per_message), span.count, streams))


def stream_messages(target: Target, requests: Sequence[bytes], count: int, streams: int) -> Effort:
    """The same of messages with so many readings in all, serialized already."""
    return asyncio.run(_stream(target, requests, count, streams))


async def _stream(target: Target, requests: Sequence[bytes], count: int, streams: int) -> Effort:
    async with AsyncExitStack() as stack:
        # A connection each: it is connections that are dealt out to the service's workers.
        own = (("grpc.use_local_subchannel_pool", 1),)
        channels = [
            await stack.enter_async_context(open_channel(target.address, target.credentials, own))
            for _ in range(streams)
        ]
        await asyncio.gather(*(ready(channel) for channel in channels))

        async def one(channel: grpc.aio.Channel, share: Sequence[bytes]) -> ingestion_service_pb2.IngestionSummary:
            method = channel.stream_unary(
                f"{_INGESTION}/StreamTelemetry",
                request_serializer=_AS_IT_IS,
                response_deserializer=ingestion_service_pb2.StreamTelemetryResponse.FromString,
            )
            call = method(_FROM_WRITES)
            for request in share:
                await call.write(request)
            await call.done_writing()
            response: ingestion_service_pb2.StreamTelemetryResponse = await call
            return response.summary

        stopwatch = Stopwatch(target)
        try:
            summaries = await asyncio.gather(
                *(one(channel, requests[each::streams]) for each, channel in enumerate(channels))
            )
        except grpc.aio.AioRpcError as error:
            raise BenchmarkError(described(error)) from None
        effort = stopwatch.stop()
    stored = sum(summary.stored for summary in summaries)
    if stored != count:
        raise BenchmarkError(f"{count:,} new readings were sent and {stored:,} stored: {summaries[0]}")
    return effort


def unary(target: Target, span: Span, rate: float) -> tuple[list[float], Effort]:
    """Sends each reading of a span in an IngestTelemetry call of its own; returns the calls' latencies in seconds.

    `rate` calls a second start on a schedule, whether or not earlier ones were answered, and a latency counts from the
    scheduled instant: a stall is felt by every call that it delays. The event loop's timers add up to a millisecond.
    """
    return asyncio.run(_unary(target, messages(span, 1), rate))


async def _unary(target: Target, requests: Sequence[bytes], rate: float) -> tuple[list[float], Effort]:
    async with grpc.aio.insecure_channel(target.address) as channel:
        await ready(channel)
        method = channel.unary_unary(
            f"{_INGESTION}/IngestTelemetry",
            request_serializer=_AS_IT_IS,
            response_deserializer=ingestion_service_pb2.IngestTelemetryResponse.FromString,
        )
        loop = asyncio.get_running_loop()
        stopwatch = Stopwatch(target)
        start = loop.time() + 0.5  # the tasks have to be made first

        async def one(number: int, request: bytes) -> float:
            due = start + number / rate
            await asyncio.sleep(due - loop.time())
            response = await method(request)
            latency = loop.time() - due
            if response.summary.stored != 1:
                raise BenchmarkError(f"a new reading was sent and not stored: {response.summary}")
            return latency

        try:
            latencies = await asyncio.gather(*(one(number, request) for number, request in enumerate(requests)))
        except grpc.aio.AioRpcError as error:
            raise BenchmarkError(described(error)) from None
        return list(latencies), stopwatch.stop()


async def ready(channel: grpc.aio.Channel) -> None:
    """Waits until a channel is connected."""
    await asyncio.wait_for(channel.channel_ready(), CONNECT_TIMEOUT_S)


def described(error: grpc.aio.AioRpcError) -> str:
    """A failed call in words."""
    return f"the service answered {error.code().name}: {error.details()}"
