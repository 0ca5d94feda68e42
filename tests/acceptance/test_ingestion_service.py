"""The ingestion service as a client meets it: wrong input, stopping, health."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import TYPE_CHECKING, Any, cast

import grpc
import pytest
from energyfleet.v1 import ingestion_service_pb2 as wire
from energyfleet.v1.telemetry_pb2 import Telemetry
from google.protobuf.timestamp_pb2 import Timestamp
from google.rpc import error_details_pb2, status_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

import ingestion_svc.__main__
from ingestion_svc.readings import MESSAGE_MAX_READINGS
from shared.config import MESSAGE_MAX_BYTES, IngestionSettings
from shared.db.embedded import EmbeddedServer
from shared.requests import page_token
from shared.status import STATUS_DETAILS_KEY
from shared.timestamps import US_PER_DAY, US_PER_HOUR, US_PER_SECOND, proto_from_us
from tests.acceptance.conftest import Running
from tests.builders import NOW_US, a_meter_reading, a_vehicle_reading, clock

if TYPE_CHECKING:  # in the stubs' types only
    from energyfleet.v1.ingestion_service_pb2_grpc import IngestionServiceAsyncStub

pytestmark = pytest.mark.one_server

NAME = "energyfleet.v1.IngestionService"


def details(error: grpc.aio.AioRpcError) -> status_pb2.Status | None:
    """The google.rpc.Status of an error, None where it has none."""
    for key, value in cast("Any", error.trailing_metadata() or ()):
        if key == STATUS_DETAILS_KEY:
            return status_pb2.Status.FromString(value)
    return None


def bad_fields(error: grpc.aio.AioRpcError) -> set[str]:
    status = details(error)
    assert status is not None
    bad_request = error_details_pb2.BadRequest()
    assert status.details[0].Unpack(bad_request)
    assert all(violation.description for violation in bad_request.field_violations)
    return {violation.field for violation in bad_request.field_violations}


async def test_bad_readings_are_listed_by_index_over_the_whole_stream(ingest: IngestionServiceAsyncStub) -> None:
    call = ingest.StreamTelemetry(None)
    await call.write(wire.StreamTelemetryRequest(readings=[a_meter_reading(), Telemetry()]))
    await call.write(wire.StreamTelemetryRequest())
    await call.write(
        wire.StreamTelemetryRequest(readings=[a_vehicle_reading(), a_vehicle_reading(kwh_delivered_dc=None)])
    )
    await call.done_writing()
    summary = (await call).summary

    assert (summary.received, summary.stored, summary.rejected) == (4, 2, 2)
    assert [(each.index, each.field) for each in summary.rejections] == [
        (1, "reading"),
        (3, "vehicle.kwh_delivered_dc"),
    ]


async def test_a_conflict_keeps_the_first_values_and_is_told(ingest: IngestionServiceAsyncStub) -> None:
    await ingest.IngestTelemetry(wire.IngestTelemetryRequest(readings=[a_meter_reading(kwh_consumed_ac=1)]))
    answer = await ingest.IngestTelemetry(
        wire.IngestTelemetryRequest(
            readings=[
                a_vehicle_reading(),
                a_meter_reading(kwh_consumed_ac=2),
                a_meter_reading(kwh_consumed_ac=1),
                a_meter_reading(kwh_consumed_ac=1, voltage=None),
            ]
        )
    )

    assert (answer.summary.stored, answer.summary.duplicate, answer.summary.conflicting) == (1, 1, 2)
    assert [(each.index, each.device_id, each.timestamp) for each in answer.summary.conflicts] == [
        (1, "meter-001", proto_from_us(NOW_US)),
        (3, "meter-001", proto_from_us(NOW_US)),
    ]
    first, other = answer.summary.conflicts
    assert first.stored == other.stored == a_meter_reading(kwh_consumed_ac=1)
    assert (first.sent, other.sent) == (
        a_meter_reading(kwh_consumed_ac=2),
        a_meter_reading(kwh_consumed_ac=1, voltage=None),
    )


async def test_an_empty_call_is_fine(ingest: IngestionServiceAsyncStub) -> None:
    assert (await ingest.IngestTelemetry(wire.IngestTelemetryRequest())).summary == wire.IngestionSummary()
    call = ingest.StreamTelemetry(None)
    await call.done_writing()
    assert (await call).summary == wire.IngestionSummary()


async def test_too_many_readings_in_a_message_are_refused_with_the_limit(ingest: IngestionServiceAsyncStub) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await ingest.IngestTelemetry(wire.IngestTelemetryRequest(readings=[Telemetry()] * (MESSAGE_MAX_READINGS + 1)))

    assert raised.value.code() == grpc.StatusCode.INVALID_ARGUMENT
    assert bad_fields(raised.value) == {"readings"}
    assert f"{MESSAGE_MAX_READINGS:,}" in (raised.value.details() or "")


@pytest.mark.parametrize("method", ["IngestTelemetry", "StreamTelemetry", "MapVehicle", "ListMappings"])
async def test_bytes_that_are_no_message_are_an_invalid_argument(ingestion: Running, method: str) -> None:
    path = f"/{NAME}/{method}"
    nonsense = b"\xff\xff\xff"
    call: Awaitable[Any]
    if method == "StreamTelemetry":
        call = ingestion.channel.stream_unary(path, None, None)(iter([nonsense]))
    else:
        call = ingestion.channel.unary_unary(path, None, None)(nonsense)
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await call

    assert raised.value.code() == grpc.StatusCode.INVALID_ARGUMENT


async def test_a_message_over_the_limit_is_resource_exhausted_and_not_to_be_retried(ingestion: Running) -> None:
    send = ingestion.channel.unary_unary(f"/{NAME}/IngestTelemetry", None, None)
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await send(bytes(MESSAGE_MAX_BYTES + 1))

    assert raised.value.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
    assert details(raised.value) is None


async def test_an_unknown_method_is_unimplemented(ingestion: Running) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await ingestion.channel.unary_unary(f"/{NAME}/DropTables", None, None)(b"")

    assert raised.value.code() == grpc.StatusCode.UNIMPLEMENTED


async def test_a_defect_is_internal_and_tells_nothing(
    ingest: IngestionServiceAsyncStub, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> None:
        raise KeyError("a secret")

    monkeypatch.setattr("ingestion_svc.decode.decode", broken)
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await ingest.IngestTelemetry(wire.IngestTelemetryRequest(readings=[a_meter_reading()]))

    assert raised.value.code() == grpc.StatusCode.INTERNAL
    assert raised.value.details() == "internal error"


@pytest.mark.parametrize(
    ("request_", "fields"),
    [
        (wire.MapVehicleRequest(), {"vehicle_id", "meter_id"}),
        (wire.MapVehicleRequest(vehicle_id="a ", meter_id="m" * 65), {"vehicle_id", "meter_id"}),
        (
            wire.MapVehicleRequest(
                vehicle_id="", meter_id="m", effective_from=Timestamp(seconds=NOW_US // US_PER_SECOND, nanos=-1)
            ),
            {"vehicle_id", "effective_from"},
        ),
        (
            wire.MapVehicleRequest(
                vehicle_id="v", meter_id="m", effective_from=proto_from_us(NOW_US + 301 * US_PER_SECOND)
            ),
            {"effective_from"},
        ),
        (
            wire.MapVehicleRequest(
                vehicle_id="v", meter_id="m", effective_from=proto_from_us(NOW_US - 401 * US_PER_DAY)
            ),
            {"effective_from"},
        ),
    ],
)
async def test_a_mapping_request_is_told_all_its_violations(
    ingest: IngestionServiceAsyncStub, request_: wire.MapVehicleRequest, fields: set[str]
) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await ingest.MapVehicle(request_)

    assert raised.value.code() == grpc.StatusCode.INVALID_ARGUMENT
    assert bad_fields(raised.value) == fields


@pytest.mark.parametrize(
    ("request_", "field"),
    [
        (wire.ListMappingsRequest(vehicle_id="/a "), "vehicle_id"),
        (wire.ListMappingsRequest(meter_id="/a "), "meter_id"),
        (wire.ListMappingsRequest(page_size=1001), "page_size"),
        (wire.ListMappingsRequest(page_size=-1), "page_size"),
        (wire.ListMappingsRequest(page_token="?"), "page_token"),
        (wire.ListMappingsRequest(page_token=page_token("v", 1)), "page_token"),
        (wire.ListMappingsRequest(page_token=page_token("v", 2**62, "m")), "page_token"),
        (wire.ListMappingsRequest(page_token=page_token("", 1, "m")), "page_token"),
        (wire.ListMappingsRequest(page_token=page_token("v", 1, "")), "page_token"),
    ],
)
async def test_a_listing_request_is_told_its_violations(
    ingest: IngestionServiceAsyncStub, request_: wire.ListMappingsRequest, field: str
) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await ingest.ListMappings(request_)

    assert raised.value.code() == grpc.StatusCode.INVALID_ARGUMENT
    assert bad_fields(raised.value) == {field}


async def test_a_mapping_that_contradicts_names_what_it_collides_with(ingest: IngestionServiceAsyncStub) -> None:
    def request(meter_id: str, hours_ago: int) -> wire.MapVehicleRequest:
        return wire.MapVehicleRequest(
            vehicle_id="vehicle-001", meter_id=meter_id, effective_from=proto_from_us(NOW_US - hours_ago * US_PER_HOUR)
        )

    await ingest.MapVehicle(request("meter-001", 10))
    answer = await ingest.MapVehicle(request("meter-002", 5))
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await ingest.MapVehicle(request("meter-003", 7))

    assert [(each.meter_id, each.effective_until) for each in answer.closed] == [
        ("meter-001", proto_from_us(NOW_US - 5 * US_PER_HOUR))
    ]
    assert raised.value.code() == grpc.StatusCode.FAILED_PRECONDITION
    assert "vehicle-001 is fed by meter-001" in (raised.value.details() or "")


async def test_pages_of_mappings_add_up_to_all_of_them(ingest: IngestionServiceAsyncStub) -> None:
    for number in range(7):
        await ingest.MapVehicle(wire.MapVehicleRequest(vehicle_id=f"v{number}", meter_id=f"m{number}"))
    listed: list[str] = []
    token = ""
    while True:
        page = await ingest.ListMappings(wire.ListMappingsRequest(page_size=3, page_token=token))
        listed += [each.vehicle_id for each in page.mappings]
        token = page.next_page_token
        if not token:
            break
        assert len(page.mappings) == 3

    assert listed == [f"v{number}" for number in range(7)]
    by_meter = await ingest.ListMappings(wire.ListMappingsRequest(meter_id="m4"))
    assert [each.vehicle_id for each in by_meter.mappings] == ["v4"]


async def test_a_stopping_service_answers_open_streams_with_what_is_committed(
    ingestion: Running, ingest: IngestionServiceAsyncStub
) -> None:
    call = ingest.StreamTelemetry(None)
    await call.write(wire.StreamTelemetryRequest(readings=[a_meter_reading()]))
    health = health_pb2_grpc.HealthStub(ingestion.channel)
    seen = await ingest.IngestTelemetry(wire.IngestTelemetryRequest(readings=[a_vehicle_reading()]))
    watch = health.Watch(health_pb2.HealthCheckRequest(service=NAME))
    states = [(await watch.read()).status]
    draining = asyncio.ensure_future(ingestion.service.drain())
    summary = (await asyncio.wait_for(call, 4)).summary
    states.append((await watch.read()).status)
    watch.cancel()
    await draining

    assert seen.summary.stored == 1
    assert (summary.received, summary.stored) == (1, 1)
    assert states == [health_pb2.HealthCheckResponse.SERVING, health_pb2.HealthCheckResponse.NOT_SERVING]


async def test_cancelled_calls_leave_nothing_behind(ingestion: Running, ingest: IngestionServiceAsyncStub) -> None:
    async def tasks() -> int:
        await ingest.IngestTelemetry(wire.IngestTelemetryRequest(readings=[a_meter_reading()]))
        return len(asyncio.all_tasks())

    before = await tasks()
    for _ in range(100):
        call = ingest.StreamTelemetry(None)
        await call.write(wire.StreamTelemetryRequest(readings=[a_meter_reading()]))
        call.cancel()
    async with asyncio.timeout(10):
        while await tasks() > before:
            await asyncio.sleep(0.01)


async def test_reflection_lists_the_service(ingestion: Running) -> None:
    stub = reflection_pb2_grpc.ServerReflectionStub(ingestion.channel)
    call = stub.ServerReflectionInfo(iter([reflection_pb2.ServerReflectionRequest(list_services="")]))
    answer = await call.read()
    call.cancel()

    assert NAME in {service.name for service in answer.list_services_response.service}


@pytest.mark.one_server
async def test_reflection_can_be_switched_off(postgres: EmbeddedServer, database: str) -> None:
    settings = IngestionSettings(
        database_url=postgres.url(database), ingestion_address="127.0.0.1:0", reflection=False, shutdown_grace_s=1
    )
    async with (
        ingestion_svc.__main__.serving(settings, clock) as (_, address),
        grpc.aio.insecure_channel(address) as channel,
    ):
        call = reflection_pb2_grpc.ServerReflectionStub(channel).ServerReflectionInfo(
            iter([reflection_pb2.ServerReflectionRequest(list_services="")])
        )
        assert await call.code() is grpc.StatusCode.UNIMPLEMENTED
