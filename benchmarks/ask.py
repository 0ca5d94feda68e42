"""Asks analytics and takes the time. Runs in a process of its own, as `client` does.

An answer that is not the whole of what is stored is an error: nothing is faster than a wrong answer.
"""

import asyncio
import time
from collections.abc import Callable, Sequence
from itertools import cycle
from typing import Any

import grpc
from energyfleet.v1.analytics_service_pb2 import (
    VERDICT_OK,
    GetVehiclePerformanceRequest,
    ListDevicesRequest,
    ListMeterPerformanceRequest,
    ListVehiclePerformanceRequest,
)
from energyfleet.v1.analytics_service_pb2_grpc import AnalyticsServiceStub
from google.protobuf.message import Message

from benchmarks.client import BenchmarkError, Effort, Stopwatch, Target, described, ready


def performance(
    target: Target,
    requests: Sequence[GetVehiclePerformanceRequest],
    readings_each_side: int,
    seconds: float | None = None,
) -> tuple[list[float], Effort]:
    """Asks one question after the other, or again and again for so many seconds, and returns latencies in seconds.

    BenchmarkError when an answer is not based on so many readings of each side, with the verdict OK.
    """
    return asyncio.run(_performance(target, requests, readings_each_side, seconds))


async def _performance(
    target: Target, requests: Sequence[GetVehiclePerformanceRequest], readings_each_side: int, seconds: float | None
) -> tuple[list[float], Effort]:
    async with grpc.aio.insecure_channel(target.address) as channel:
        await ready(channel)
        stub = AnalyticsServiceStub(channel)
        latencies: list[float] = []
        stopwatch = Stopwatch(target)
        end = time.perf_counter() + (seconds or 0)
        for request in requests if seconds is None else cycle(requests):
            asked = time.perf_counter()
            if seconds is not None and asked > end:
                break
            try:
                answer = await stub.GetVehiclePerformance(request)
            except grpc.aio.AioRpcError as error:
                raise BenchmarkError(described(error)) from None
            latencies.append(time.perf_counter() - asked)
            expected = (readings_each_side, readings_each_side, VERDICT_OK)
            if (answer.vehicle_readings, answer.meter_readings, answer.verdict) != expected:
                raise BenchmarkError(f"expected {readings_each_side} readings of each side and OK: {answer}")
        return latencies, stopwatch.stop()


def fleet(
    target: Target, request: ListVehiclePerformanceRequest, calls: int, vehicles: int, readings: int
) -> tuple[list[float], Effort]:
    """Asks for the first page so often, one after the other, and returns latencies in seconds. BenchmarkError when its
    totals are not of so many vehicles with so many readings each, on each side."""
    expected = vehicles, vehicles * readings, vehicles * readings
    return asyncio.run(_first_pages(target, "ListVehiclePerformance", request, calls, _vehicles_counted, expected))


def meters(
    target: Target, request: ListMeterPerformanceRequest, calls: int, meters: int, readings: int
) -> tuple[list[float], Effort]:
    """The same by meter: each has so many readings while it fed a vehicle, and none otherwise."""
    expected = meters, meters * readings, 0
    return asyncio.run(_first_pages(target, "ListMeterPerformance", request, calls, _meters_counted, expected))


def devices(target: Target, request: ListDevicesRequest, calls: int, pairs: int) -> tuple[list[float], Effort]:
    """The same of all devices: so many vehicles, and as many meters."""
    return asyncio.run(_first_pages(target, "ListDevices", request, calls, _devices_counted, (2 * pairs,)))


def again(target: Target, rpc: str, request: Message, calls: int) -> list[float]:
    """Asks so often, one call after the other, and returns latencies in seconds. BenchmarkError when the first answer
    is not each further one, but for `as_of`."""
    return asyncio.run(_again(target, rpc, request, calls))


async def _again(target: Target, rpc: str, request: Any, calls: int) -> list[float]:
    async with grpc.aio.insecure_channel(target.address) as channel:
        await ready(channel)
        call = getattr(AnalyticsServiceStub(channel), rpc)
        latencies: list[float] = []
        try:
            first = await call(request)
            first.ClearField("as_of")
            for _ in range(calls):
                asked = time.perf_counter()
                answer = await call(request)
                latencies.append(time.perf_counter() - asked)
                answer.ClearField("as_of")
                if answer != first:
                    raise BenchmarkError(f"{rpc} answers differently when it is asked again")
        except grpc.aio.AioRpcError as error:
            raise BenchmarkError(described(error)) from None
        return latencies


def _vehicles_counted(answer: Any) -> tuple[int, ...]:
    return answer.totals.vehicles, answer.totals.vehicle_readings, answer.totals.meter_readings


def _meters_counted(answer: Any) -> tuple[int, ...]:
    return answer.totals.meters, answer.totals.meter_readings, answer.totals.meter_readings_unmapped


def _devices_counted(answer: Any) -> tuple[int, ...]:
    return (answer.matched,)


async def _first_pages(
    target: Target,
    rpc: str,
    request: Message,
    calls: int,
    counted: Callable[[Any], tuple[int, ...]],
    expected: tuple[int, ...],
) -> tuple[list[float], Effort]:
    async with grpc.aio.insecure_channel(target.address) as channel:
        await ready(channel)
        stub = AnalyticsServiceStub(channel)
        latencies = []
        stopwatch = Stopwatch(target)
        for _ in range(calls):
            asked = time.perf_counter()
            try:
                answer = await getattr(stub, rpc)(request)
            except grpc.aio.AioRpcError as error:
                raise BenchmarkError(described(error)) from None
            latencies.append(time.perf_counter() - asked)
            if counted(answer) != expected:
                raise BenchmarkError(f"{rpc}: expected {expected}: {counted(answer)}")
        return latencies, stopwatch.stop()


def fleet_pages(target: Target, request: ListVehiclePerformanceRequest, vehicles: int) -> float:
    """Asks for all pages and returns how long that took, in seconds. BenchmarkError when they do not have so many
    vehicles, each once."""
    return asyncio.run(_fleet_pages(target, request, vehicles))


async def _fleet_pages(target: Target, request: ListVehiclePerformanceRequest, vehicles: int) -> float:
    async with grpc.aio.insecure_channel(target.address) as channel:
        await ready(channel)
        stub = AnalyticsServiceStub(channel)
        seen: set[str] = set()
        begun = time.perf_counter()
        try:
            while True:
                answer = await stub.ListVehiclePerformance(request)
                seen.update(each.vehicle_id for each in answer.vehicles)
                if not answer.next_page_token:
                    break
                request.page_token = answer.next_page_token
        except grpc.aio.AioRpcError as error:
            raise BenchmarkError(described(error)) from None
        elapsed_s = time.perf_counter() - begun
    if len(seen) != vehicles:
        raise BenchmarkError(f"the pages have {len(seen):,} vehicles of {vehicles:,}")
    return elapsed_s
