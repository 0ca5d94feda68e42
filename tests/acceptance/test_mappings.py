"""Mappings with a past: who fed whom may be said, and taken back, for any time; answers follow at once."""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import grpc
import pytest
from energyfleet.v1 import analytics_service_pb2 as analytics_wire
from energyfleet.v1 import ingestion_service_pb2 as wire
from hypothesis import HealthCheck, event, given, settings
from hypothesis import strategies as st

from shared.timestamps import US_PER_HOUR, US_PER_SECOND, proto_from_us
from tests.acceptance.test_against_model import check_mapping, check_performance, check_unmapping, code_of, span_of
from tests.builders import NOW_US, a_meter_reading, a_vehicle_reading
from tests.model import Model

if TYPE_CHECKING:  # in the stubs' types only
    from energyfleet.v1.analytics_service_pb2_grpc import AnalyticsServiceAsyncStub
    from energyfleet.v1.ingestion_service_pb2_grpc import IngestionServiceAsyncStub

_examples = itertools.count()

DEVICES = range(2)
PLACES = 9
STEP_US = 20 * 60 * US_PER_SECOND

devices = st.sampled_from(DEVICES)
instants = st.integers(0, PLACES - 1)
spans = st.one_of(st.tuples(instants, st.none()), st.lists(instants, min_size=2, max_size=2, unique=True).map(sorted))
orders = st.one_of(
    st.tuples(st.just("map"), devices, devices, spans),
    st.tuples(st.just("map"), devices, devices, spans),
    st.tuples(st.just("unmap"), devices, st.none(), spans),
)


def at_us(place: int) -> int:
    """The instant of a place: three an hour up to now, beside two midnights and on many an hour."""
    return NOW_US - (PLACES - 1 - place) * STEP_US


def span_us(span: tuple[int, int | None]) -> tuple[int, int | None]:
    return at_us(span[0]), None if span[1] is None else at_us(span[1])


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps=st.lists(orders, min_size=4, max_size=24))
async def test_answers_follow_whatever_is_mapped_and_unmapped(
    steps: list[tuple[str, int, int | None, tuple[int, int | None]]],
    ingest: IngestionServiceAsyncStub,
    ask: AnalyticsServiceAsyncStub,
) -> None:
    model = Model()
    prefix = f"p{next(_examples)}-"
    # Powers of two: the sum tells which readings are in it. On each place, where mappings begin and end, and beside.
    telemetry = [
        a_meter_reading(f"{prefix}m{meter}", ts_us=at_us(place) + beside, kwh_consumed_ac=2.0 ** (bit - 30))
        for bit, (meter, place, beside) in enumerate(itertools.product(DEVICES, range(PLACES), (0, 1)))
    ]
    model.send(telemetry)
    await ingest.IngestTelemetry(wire.IngestTelemetryRequest(readings=telemetry))

    for kind, vehicle, meter, span in steps:
        if kind == "map":
            await check_mapping(ingest, model, f"{prefix}v{vehicle}", f"{prefix}m{meter}", *span_us(span))
        else:
            await check_unmapping(ingest, model, f"{prefix}v{vehicle}", *span_us(span))
        await check_performance(ask, model, f"{prefix}v{vehicle}", at_us(0) - 1, NOW_US + 1)
    event(f"{len(model.mappings)} mappings")


def a_mapping(
    meter_id: str, from_h: float, until_h: float | None = None, vehicle_id: str = "vehicle-001"
) -> wire.MapVehicleRequest:
    """Times in hours from now, as in the functions below."""
    return wire.MapVehicleRequest(vehicle_id=vehicle_id, meter_id=meter_id, **times(from_h, until_h))


def an_unmapping(
    from_h: float, until_h: float | None = None, vehicle_id: str = "vehicle-001"
) -> wire.UnmapVehicleRequest:
    return wire.UnmapVehicleRequest(vehicle_id=vehicle_id, **times(from_h, until_h))


def times(from_h: float, until_h: float | None) -> dict[str, Any]:
    ends = {"effective_from": from_h, "effective_until": until_h}
    return {name: proto_from_us(NOW_US + round(h * US_PER_HOUR)) for name, h in ends.items() if h is not None}


def in_hours(mappings: Iterable[wire.Mapping]) -> list[tuple[str, float, float | None]]:
    def hours(us: int) -> float:
        return (us - NOW_US) / US_PER_HOUR

    return [
        (span.meter_id, hours(span.from_us), None if span.until_us is None else hours(span.until_us))
        for span in map(span_of, mappings)
    ]


async def listed(ingest: IngestionServiceAsyncStub, vehicle_id: str = "vehicle-001") -> list[Any]:
    answer = await ingest.ListMappings(wire.ListMappingsRequest(vehicle_id=vehicle_id))
    return in_hours(answer.mappings)


async def refused(call: grpc.aio.UnaryUnaryCall[Any, Any]) -> str:
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await call
    assert raised.value.code() == grpc.StatusCode.FAILED_PRECONDITION
    return raised.value.details() or ""


async def test_the_past_of_a_vehicle_is_corrected_and_its_performance_follows(
    ingest: IngestionServiceAsyncStub, ask: AnalyticsServiceAsyncStub
) -> None:
    async def drawn() -> float | None:
        answer = await ask.GetVehiclePerformance(analytics_wire.GetVehiclePerformanceRequest(vehicle_id="vehicle-001"))
        return answer.kwh_consumed_ac if answer.HasField("kwh_consumed_ac") else None

    hours = range(-8, 1)
    await ingest.IngestTelemetry(
        wire.IngestTelemetryRequest(
            readings=[
                *(a_vehicle_reading(ts_us=NOW_US + h * US_PER_HOUR) for h in hours),
                *(a_meter_reading("one", NOW_US + h * US_PER_HOUR, 1.0) for h in hours),
                *(a_meter_reading("ten", NOW_US + h * US_PER_HOUR, 10.0) for h in hours),
            ]
        )
    )
    assert await drawn() is None
    await ingest.MapVehicle(a_mapping("one", -8))
    assert await drawn() == 8.0
    # It was at the other meter from six hours ago until three hours ago.
    removed = (await ingest.UnmapVehicle(an_unmapping(-6, -3))).removed
    assert in_hours(removed) == [("one", -6, -3)]
    assert await drawn() == 5.0
    await ingest.MapVehicle(a_mapping("ten", -6, -3))
    assert await drawn() == 35.0
    assert await listed(ingest) == [("one", -8, -6), ("ten", -6, -3), ("one", -3, None)]
    # And it left an hour ago.
    assert in_hours((await ingest.UnmapVehicle(an_unmapping(-1))).removed) == [("one", -1, None)]
    assert await drawn() == 34.0


async def test_unmapping_without_an_instant_is_from_now_on_and_may_be_repeated(
    ingest: IngestionServiceAsyncStub,
) -> None:
    await ingest.MapVehicle(a_mapping("meter-001", -1))
    for removed in ([("meter-001", 0, None)], []):
        answer = await ingest.UnmapVehicle(wire.UnmapVehicleRequest(vehicle_id="vehicle-001"))
        assert in_hours(answer.removed) == removed
        assert await listed(ingest) == [("meter-001", -1, 0)]
    again = await ingest.MapVehicle(a_mapping("meter-001", -1))
    assert in_hours([again.mapping]) == [("meter-001", -1, 0)]
    await ingest.MapVehicle(a_mapping("meter-001", 0))
    assert await listed(ingest) == [("meter-001", -1, 0), ("meter-001", 0, None)]


async def test_a_mapping_unmapped_from_its_own_start_is_no_more_and_its_vehicle_stays_known(
    ingest: IngestionServiceAsyncStub, ask: AnalyticsServiceAsyncStub
) -> None:
    await ingest.MapVehicle(a_mapping("meter-001", -1))
    removed = (await ingest.UnmapVehicle(an_unmapping(-1))).removed
    assert in_hours(removed) == [("meter-001", -1, None)]
    assert await listed(ingest) == []
    assert not (await ingest.UnmapVehicle(an_unmapping(-1))).removed
    answer = await ask.GetVehiclePerformance(analytics_wire.GetVehiclePerformanceRequest(vehicle_id="vehicle-001"))
    assert answer.verdict == analytics_wire.VERDICT_NO_METER
    await ingest.MapVehicle(a_mapping("meter-001", -1, vehicle_id="vehicle-002"))


async def test_what_a_mapping_contradicts_is_named_three_of_it_at_most(ingest: IngestionServiceAsyncStub) -> None:
    for hours in range(5):
        await ingest.MapVehicle(a_mapping(f"meter-{hours}", hours - 5))
    told = await refused(ingest.MapVehicle(a_mapping("meter-x", -4.5, -0.5)))
    assert told == (
        "vehicle-001 is fed by meter-x from 2026-02-09T20:00:00Z until 2026-02-10T00:00:00Z"
        " contradicts what is registered:"
        " vehicle-001 is fed by meter-0 from 2026-02-09T19:30:00Z until 2026-02-09T20:30:00Z;"
        " vehicle-001 is fed by meter-1 from 2026-02-09T20:30:00Z until 2026-02-09T21:30:00Z;"
        " vehicle-001 is fed by meter-2 from 2026-02-09T21:30:00Z until 2026-02-09T22:30:00Z; and 2 more"
    )
    told = await refused(ingest.UnmapVehicle(an_unmapping(-2.5)))
    assert told == (
        "vehicle-001 without a meter from 2026-02-09T22:00:00Z on contradicts what is registered to begin later:"
        " vehicle-001 is fed by meter-3 from 2026-02-09T22:30:00Z until 2026-02-09T23:30:00Z;"
        " vehicle-001 is fed by meter-4 from 2026-02-09T23:30:00Z on"
    )
    assert "meter-0" in await refused(ingest.MapVehicle(a_mapping("meter-0", -4.5, vehicle_id="vehicle-002")))
    assert len(await listed(ingest)) == 5
    assert await listed(ingest, "vehicle-002") == []


async def test_a_span_is_mapped_where_both_devices_are_free_and_changes_no_neighbour(
    ingest: IngestionServiceAsyncStub,
) -> None:
    await ingest.MapVehicle(a_mapping("meter-001", -8, -6))
    await ingest.MapVehicle(a_mapping("meter-002", -2))
    answer = await ingest.MapVehicle(a_mapping("meter-003", -6, -2))
    assert in_hours([answer.mapping]) == [("meter-003", -6, -2)]
    assert not answer.closed
    covered = await ingest.MapVehicle(a_mapping("meter-003", -5, -3))
    assert in_hours([covered.mapping]) == [("meter-003", -6, -2)]
    await refused(ingest.MapVehicle(a_mapping("meter-003", -7, -3)))
    await refused(ingest.MapVehicle(a_mapping("meter-003", -3, -1, vehicle_id="vehicle-002")))
    assert await listed(ingest) == [("meter-001", -8, -6), ("meter-003", -6, -2), ("meter-002", -2, None)]


async def test_a_vehicle_never_heard_of_cannot_be_unmapped(ingest: IngestionServiceAsyncStub) -> None:
    await ingest.MapVehicle(a_mapping("meter-001", -1))
    assert await code_of(ingest.UnmapVehicle(an_unmapping(-1, vehicle_id="meter-001"))) == grpc.StatusCode.NOT_FOUND
    await ingest.IngestTelemetry(wire.IngestTelemetryRequest(readings=[a_vehicle_reading("vehicle-002")]))
    assert not (await ingest.UnmapVehicle(an_unmapping(-1, vehicle_id="vehicle-002"))).removed
