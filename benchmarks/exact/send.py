"""Sends a plan: streams and calls at the same time, a connection each, wave by wave. Runs in a process of its own."""

import asyncio
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING

import grpc
from energyfleet.v1 import ingestion_service_pb2 as wire
from energyfleet.v1.ingestion_service_pb2_grpc import IngestionServiceStub
from energyfleet.v1.telemetry_pb2 import Telemetry

from benchmarks.client import CONNECT_TIMEOUT_S, BenchmarkError, Target, described
from benchmarks.cpu import connected_children
from benchmarks.exact.fleet import Mapping, Message, Plan, Reading
from benchmarks.exact.model import Counts
from benchmarks.load import OWN_CONNECTION
from benchmarks.readings import meter_id, vehicle_id
from fleetcli.client.errors import ClientError
from fleetcli.client.uplink import Uplink
from shared.timestamps import US_PER_SECOND, proto_from_us

if TYPE_CHECKING:  # in the stubs' types only
    from energyfleet.v1.ingestion_service_pb2_grpc import IngestionServiceAsyncStub

PATIENCE_S = 30.0
"""What the service may be away at most: nobody stops it."""


@dataclass(frozen=True)
class Sent:
    """What the service said of all readings, and how long it took from the first one, in seconds."""

    counts: Counts
    elapsed_s: float
    messages: int
    workers: int
    """Processes of the service that the connections were spread over; 0 where it has no workers."""


def send(target: Target, plan: Plan) -> Sent:
    """Sends everything and waits until all of it is acknowledged. BenchmarkError when the service fails."""
    try:
        return asyncio.run(_send(target, plan))
    except grpc.aio.AioRpcError as error:
        raise BenchmarkError(described(error)) from None
    except ClientError as error:
        raise BenchmarkError(str(error)) from None


async def _send(target: Target, plan: Plan) -> Sent:
    address, counts, messages, mappings = target.address, Counts(), 0, plan.mappings()
    async with AsyncExitStack() as stack:
        channels = [
            await stack.enter_async_context(grpc.aio.insecure_channel(address, OWN_CONNECTION))
            for _ in range(plan.streams)
        ]
        await asyncio.wait_for(asyncio.gather(*(each.channel_ready() for each in channels)), CONNECT_TIMEOUT_S)
        workers = len(connected_children(target.service_pid, int(address.rpartition(":")[2])))
        uplinks = [
            await stack.enter_async_context(Uplink(channel, address, patience_s=PATIENCE_S))
            for channel in channels[: plan.exchanges]
        ]
        stubs = [IngestionServiceStub(channel) for channel in channels[plan.exchanges :]]
        loop = asyncio.get_running_loop()
        begun = loop.time()
        for number, lots in enumerate(plan.messages()):
            messages += sum(map(len, lots))
            mapping = [
                _map(stub, [each for each in mappings if each.wave == number and each.pair % plan.calls == share])
                for share, stub in enumerate(stubs)
            ]
            exchanging = [_exchange(*each) for each in zip(uplinks, lots[: plan.exchanges], strict=True)]
            calling = [_call(*each) for each in zip(stubs, lots[plan.exchanges :], strict=True)]
            summaries = asyncio.gather(*calling)
            await asyncio.gather(summaries, *mapping, *exchanging)
            for summary in summaries.result():
                _add(counts, summary)
        elapsed_s = loop.time() - begun
    for uplink in uplinks:
        _add(counts, uplink.totals)
    return Sent(counts, elapsed_s, messages, workers)


async def _map(stub: "IngestionServiceAsyncStub", mappings: list[Mapping]) -> None:
    for each in mappings:
        request = wire.MapVehicleRequest(
            vehicle_id=vehicle_id(each.vehicle),
            meter_id=meter_id(each.meter),
            effective_from=proto_from_us(each.from_us),
        )
        await stub.MapVehicle(request)


async def _exchange(uplink: Uplink, messages: list[Message]) -> None:
    for message in messages:
        request = wire.ExchangeTelemetryRequest()
        for reading in message:
            fill(request.readings.add(), reading)
        await uplink.send(request)
    await uplink.flush()


async def _call(stub: "IngestionServiceAsyncStub", messages: list[Message]) -> wire.IngestionSummary:
    call = stub.StreamTelemetry(None)
    for message in messages:
        request = wire.StreamTelemetryRequest()
        for reading in message:
            fill(request.readings.add(), reading)
        await call.write(request)
    await call.done_writing()
    return (await call).summary


def fill(telemetry: Telemetry, reading: Reading) -> None:
    """Writes a reading into a message of the contract."""
    if reading.device % 2 == 0:
        meter = telemetry.meter
        meter.meter_id = meter_id(reading.device // 2)
        kwh, voltage = reading.values
        meter.kwh_consumed_ac = kwh or 0.0
        if voltage is not None:
            meter.voltage = voltage
        timestamp = meter.timestamp
    else:
        vehicle = telemetry.vehicle
        vehicle.vehicle_id = vehicle_id(reading.device // 2)
        kwh, soc, battery_temp = reading.values
        vehicle.kwh_delivered_dc = kwh or 0.0
        if soc is not None:
            vehicle.soc = soc
        if battery_temp is not None:
            vehicle.battery_temp = battery_temp
        timestamp = vehicle.timestamp
    timestamp.seconds = reading.ts_us // US_PER_SECOND
    timestamp.nanos = reading.ts_us % US_PER_SECOND * 1_000 + reading.extra_ns


def _add(counts: Counts, summary: wire.IngestionSummary) -> None:
    counts.received += summary.received
    counts.stored += summary.stored
    counts.duplicate += summary.duplicate
    counts.conflicting += summary.conflicting
    counts.rejected += summary.rejected
