"""Requests of a few kilobytes that hold millions of elements cost the services neither memory nor time."""

import asyncio
import gzip
import time
from collections.abc import Awaitable
from pathlib import Path
from typing import Any

import grpc
import psutil
import pytest
from energyfleet.v1 import analytics_service_pb2 as analytics
from energyfleet.v1 import ingestion_service_pb2 as ingestion
from energyfleet.v1.ingestion_service_pb2_grpc import IngestionServiceStub
from energyfleet.v1.telemetry_pb2 import Telemetry

from ingestion_svc.readings import MESSAGE_MAX_READINGS
from shared.config import MESSAGE_MAX_BYTES
from shared.db.embedded import EmbeddedServer
from shared.timestamps import system_clock
from tests.acceptance.conftest import Running
from tests.acceptance.processes import service_process
from tests.acceptance.test_ingestion_service import bad_fields
from tests.builders import a_meter_reading

pytestmark = pytest.mark.one_server

CALLS = 80

MEMORY_MAX_MIB = 250
"""Of a service that idles at 110 or so; with the requests of aborted calls kept it took gigabytes."""

GZIP = grpc.Compression.Gzip


def raw(channel: grpc.aio.Channel, method: str) -> Any:
    """The rpc for bytes as they are."""
    return channel.unary_unary(f"/energyfleet.v1.{method}", None, None)


async def code_of(call: Awaitable[Any]) -> grpc.StatusCode:
    try:
        await call
    except grpc.aio.AioRpcError as error:
        return error.code()
    return grpc.StatusCode.OK


def empty_readings(count: int) -> bytes:
    return b"\x0a\x00" * count


MESSAGES: dict[str, tuple[bytes, grpc.Compression, set[grpc.StatusCode]]] = {
    "as many as fit": (empty_readings(MESSAGE_MAX_BYTES // 2), GZIP, {grpc.StatusCode.INVALID_ARGUMENT}),
    "2.1 million": (empty_readings(2_100_000), GZIP, {grpc.StatusCode.RESOURCE_EXHAUSTED}),
    "fields that look like readings": (
        b"\x10\x0a" * (MESSAGE_MAX_BYTES // 2),
        GZIP,
        {grpc.StatusCode.INVALID_ARGUMENT},
    ),
    "one too many": (
        ingestion.IngestTelemetryRequest(readings=[a_meter_reading()] * (MESSAGE_MAX_READINGS + 1)).SerializeToString(),
        grpc.Compression.NoCompression,
        {grpc.StatusCode.INVALID_ARGUMENT},
    ),
    "readings that are refused": (
        ingestion.IngestTelemetryRequest(readings=[Telemetry()] * MESSAGE_MAX_READINGS).SerializeToString(),
        GZIP,
        {grpc.StatusCode.OK},
    ),
}


@pytest.mark.parametrize("message", MESSAGES)
async def test_messages_that_unpack_to_millions_cost_no_memory_and_a_good_client_nothing(
    postgres: EmbeddedServer, database: str, tmp_path: Path, message: str
) -> None:
    wire, compression, codes = MESSAGES[message]
    if compression is GZIP:
        assert len(gzip.compress(wire)) < 10_000
    async with service_process(
        "ingestion_svc", tmp_path, ENERGYFLEET_DATABASE_URL=postgres.url(database, role="energyfleet_ingestion")
    ) as running:
        service = psutil.Process(running.process.pid)
        peak = 0
        good: list[int] = []
        ended = asyncio.Event()

        async def watch() -> None:
            nonlocal peak
            while not ended.is_set():
                peak = max(peak, service.memory_info().rss)
                await asyncio.sleep(0.005)

        async def good_client() -> None:
            async with grpc.aio.insecure_channel(running.address) as channel:
                stub = IngestionServiceStub(channel)
                while not ended.is_set():
                    reading = a_meter_reading("good", ts_us=system_clock())
                    answer = await stub.IngestTelemetry(
                        ingestion.IngestTelemetryRequest(readings=[reading]), timeout=10
                    )
                    good.append(answer.summary.stored)

        beside = [asyncio.create_task(watch()), asyncio.create_task(good_client())]
        async with grpc.aio.insecure_channel(running.address) as channel:
            send = raw(channel, "IngestionService/IngestTelemetry")
            ends = [await code_of(send(wire, compression=compression)) for _ in range(CALLS // 2)]
            ends += await asyncio.gather(*(code_of(send(wire, compression=compression)) for _ in range(CALLS // 2)))
        ended.set()
        await asyncio.gather(*beside)

    assert set(ends) == codes
    assert good
    assert set(good) == {1}
    assert peak < MEMORY_MAX_MIB * 2**20


@pytest.mark.parametrize(
    ("method", "request_", "field"),
    [
        (
            "ListVehiclePerformance",
            analytics.ListVehiclePerformanceRequest(verdicts=[analytics.VERDICT_OK] * 1_190_000),
            "verdicts",
        ),
        (
            "ListVehiclePerformance",
            analytics.ListVehiclePerformanceRequest(verdicts=[analytics.VERDICT_OK] * 21),
            "verdicts",
        ),
        ("ListVehiclePerformance", analytics.ListVehiclePerformanceRequest(vehicle_ids=[""] * 590_000), "vehicle_ids"),
        ("ListMeterPerformance", analytics.ListMeterPerformanceRequest(meter_ids=[""] * 590_000), "meter_ids"),
        (
            "ListMeterPerformance",
            analytics.ListMeterPerformanceRequest(verdicts=[analytics.VERDICT_OK] * 1_190_000),
            "verdicts",
        ),
        ("ListDevices", analytics.ListDevicesRequest(states=[analytics.DEVICE_STATE_STALE] * 1_190_000), "states"),
        ("ListDevices", analytics.ListDevicesRequest(states=[analytics.DEVICE_STATE_STALE] * 21), "states"),
        ("BatchGetStatus", analytics.BatchGetStatusRequest(meter_ids=[""] * 590_000), "meter_ids"),
        ("BatchGetStatus", analytics.BatchGetStatusRequest(vehicle_ids=["v"] * 1_001), "vehicle_ids"),
    ],
    ids=lambda value: "" if isinstance(value, analytics.ListVehiclePerformanceRequest) else None,
)
async def test_lists_without_end_are_refused_and_hold_up_nobody(
    analytics_channel: grpc.aio.Channel, method: str, request_: Any, field: str
) -> None:
    wire = request_.SerializeToString()
    send = raw(analytics_channel, f"AnalyticsService/{method}")
    began = time.monotonic()
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await send(wire, compression=GZIP)

    assert time.monotonic() - began < 1.0
    assert raised.value.code() == grpc.StatusCode.INVALID_ARGUMENT
    assert bad_fields(raised.value) == {field}


@pytest.fixture
def analytics_channel(analytics: Running) -> grpc.aio.Channel:
    return analytics.channel
