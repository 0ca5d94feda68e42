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

from ingestion_svc.mappings import METERS_MAX
from shared.timestamps import US_PER_HOUR, US_PER_SECOND, proto_from_us
from tests.acceptance.test_against_model import check_mapping, check_performance, check_unmapping, code_of, span_of
from tests.builders import NOW_US, a_meter_reading, a_vehicle_reading
from tests.model import Model, Span

if TYPE_CHECKING:  # in the stubs' types only
    from energyfleet.v1.analytics_service_pb2_grpc import AnalyticsServiceAsyncStub
    from energyfleet.v1.ingestion_service_pb2_grpc import IngestionServiceAsyncStub

pytestmark = pytest.mark.one_server

_examples = itertools.count()

VEHICLES = range(2)
METERS = range(3)
PLACES = 9
STEP_US = 20 * 60 * US_PER_SECOND

vehicles = st.sampled_from(VEHICLES)
meters = st.sampled_from(METERS)
instants = st.integers(0, PLACES - 1)
spans = st.one_of(st.tuples(instants, st.none()), st.lists(instants, min_size=2, max_size=2, unique=True).map(sorted))
orders = st.one_of(
    st.tuples(st.just("replace"), vehicles, meters, spans),
    st.tuples(st.just("join"), vehicles, meters, spans),
    st.tuples(st.just("unmap"), vehicles, st.none() | meters, spans),
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
    # Powers of 1.12: the sum tells which readings are in it. On each place, where mappings begin and end, and beside.
    telemetry = [
        a_meter_reading(f"{prefix}m{meter}", ts_us=at_us(place) + beside, kwh_consumed_ac=1.12**number)
        for number, (meter, place, beside) in enumerate(itertools.product(METERS, range(PLACES), (0, 1)))
    ]
    model.send(telemetry)
    await ingest.IngestTelemetry(wire.IngestTelemetryRequest(readings=telemetry))

    for kind, vehicle, meter, span in steps:
        vehicle_id, meter_id = f"{prefix}v{vehicle}", "" if meter is None else f"{prefix}m{meter}"
        if kind == "unmap":
            await check_unmapping(ingest, model, vehicle_id, *span_us(span), meter_id=meter_id)
        else:
            await check_mapping(ingest, model, vehicle_id, meter_id, *span_us(span), join=kind == "join")
        await check_performance(ask, model, vehicle_id, at_us(0) - 1, NOW_US + 1)
    for vehicle in VEHICLES:
        await check_changes(ingest, model, f"{prefix}v{vehicle}")
    event(f"{len(model.mappings)} mappings")


async def check_changes(ingest: IngestionServiceAsyncStub, model: Model, vehicle_id: str) -> None:
    """Its changes, one after the other, make what is registered now."""
    answer = await ingest.ListMappingChanges(wire.ListMappingChangesRequest(vehicle_id=vehicle_id, page_size=1_000))
    registered: set[Span] = set()
    parted = None
    for change in reversed(answer.changes):
        before = span_of(change.before) if change.HasField("before") else None
        assert before is None or before == parted or before in registered
        parted = before
        registered -= {before}
        registered |= {span_of(change.after)} if change.HasField("after") else set()
    assert registered == {span for span in model.mappings if span.vehicle_id == vehicle_id}


def a_mapping(
    meter_id: str, from_h: float, until_h: float | None = None, vehicle_id: str = "vehicle-001"
) -> wire.MapVehicleRequest:
    """Times in hours from now, as in the functions below."""
    return wire.MapVehicleRequest(vehicle_id=vehicle_id, meter_id=meter_id, **times(from_h, until_h))


def a_joining(
    meter_id: str, from_h: float, until_h: float | None = None, vehicle_id: str = "vehicle-001"
) -> wire.MapVehicleRequest:
    joining = a_mapping(meter_id, from_h, until_h, vehicle_id)
    joining.mode = wire.MAPPING_MODE_JOIN
    return joining


def an_unmapping(
    from_h: float, until_h: float | None = None, vehicle_id: str = "vehicle-001", meter_id: str = ""
) -> wire.UnmapVehicleRequest:
    return wire.UnmapVehicleRequest(vehicle_id=vehicle_id, meter_id=meter_id, **times(from_h, until_h))


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


async def test_joined_meters_feed_a_vehicle_together_and_answers_about_the_past_follow(
    ingest: IngestionServiceAsyncStub, ask: AnalyticsServiceAsyncStub
) -> None:
    async def drawn() -> float:
        answer = await ask.GetVehiclePerformance(analytics_wire.GetVehiclePerformanceRequest(vehicle_id="vehicle-001"))
        return answer.kwh_consumed_ac

    await ingest.IngestTelemetry(
        wire.IngestTelemetryRequest(
            readings=[
                a_meter_reading(meter_id, NOW_US + h * US_PER_HOUR, kwh)
                for meter_id, kwh in (("one", 1.0), ("ten", 10.0), ("hundred", 100.0))
                for h in range(-8, 1)
            ]
        )
    )
    await ingest.MapVehicle(a_mapping("one", -8))
    for _ in range(2):  # the same again changes nothing
        assert not (await ingest.MapVehicle(a_joining("ten", -5))).closed
        assert await drawn() == 8 + 50
    # For two hours of the past there was a third.
    await ingest.MapVehicle(a_joining("hundred", -7, -5))
    assert await drawn() == 8 + 50 + 200
    assert await listed(ingest) == [("one", -8, None), ("hundred", -7, -5), ("ten", -5, None)]
    # It began earlier after all.
    await ingest.MapVehicle(a_joining("ten", -6))
    assert await drawn() == 8 + 60 + 200
    assert await listed(ingest) == [("one", -8, None), ("hundred", -7, -5), ("ten", -6, None)]
    # Only the named meter leaves.
    assert in_hours((await ingest.UnmapVehicle(an_unmapping(-2, meter_id="one"))).removed) == [("one", -2, None)]
    assert await drawn() == 6 + 60 + 200
    assert not (await ingest.UnmapVehicle(an_unmapping(-2, meter_id="never-heard-of"))).removed
    # And then all of them.
    removed = (await ingest.UnmapVehicle(an_unmapping(-8, 0))).removed
    assert in_hours(removed) == [("one", -8, -2), ("hundred", -7, -5), ("ten", -6, 0)]
    assert await drawn() == 0


async def test_a_replacing_meter_ends_all_that_joined_earlier_also_where_it_feeds_already(
    ingest: IngestionServiceAsyncStub,
) -> None:
    for meter_id in ("L1", "L2", "L3"):
        await ingest.MapVehicle(a_joining(meter_id, -8))
    answer = await ingest.MapVehicle(a_mapping("L2", -4))
    assert in_hours([answer.mapping]) == [("L2", -8, None)]
    assert in_hours(answer.closed) == [("L1", -8, -4), ("L3", -8, -4)]
    await ingest.MapVehicle(a_joining("L1", -4))
    await ingest.MapVehicle(a_joining("L3", -3))
    assert "L3 from" in await refused(ingest.MapVehicle(a_mapping("new", -3)))
    # An hour later it is fine, and calls that come again late change nothing.
    closed = (await ingest.MapVehicle(a_mapping("new", -2))).closed
    assert in_hours(closed) == [("L2", -8, -2), ("L1", -4, -2), ("L3", -3, -2)]
    for late in (a_joining("L3", -8), a_joining("L1", -4), a_mapping("new", -2)):
        assert not (await ingest.MapVehicle(late)).closed
    assert await listed(ingest) == [
        ("L1", -8, -4),
        ("L2", -8, -2),
        ("L3", -8, -4),
        ("L1", -4, -2),
        ("L3", -3, -2),
        ("new", -2, None),
    ]


async def test_a_joined_meter_is_taken_from_the_vehicle_that_it_feeds(ingest: IngestionServiceAsyncStub) -> None:
    await ingest.MapVehicle(a_mapping("meter-001", -8))
    await ingest.MapVehicle(a_mapping("meter-002", -8, vehicle_id="vehicle-002"))
    told = await refused(ingest.MapVehicle(a_joining("meter-002", -8)))
    assert told.endswith("vehicle-002 is fed by meter-002 from 2026-02-09T16:30:00Z on")
    answer = await ingest.MapVehicle(a_joining("meter-002", -4))
    assert in_hours(answer.closed) == [("meter-002", -8, -4)]
    assert await listed(ingest, "vehicle-002") == [("meter-002", -8, -4)]
    # For a span nothing may be registered of the meter, though the vehicle has others then.
    await refused(ingest.MapVehicle(a_joining("meter-002", -5, -3)))
    assert await listed(ingest) == [("meter-001", -8, None), ("meter-002", -4, None)]


async def test_a_hundred_meters_may_feed_a_vehicle_at_a_time(ingest: IngestionServiceAsyncStub) -> None:
    for number in range(METERS_MAX):
        await ingest.MapVehicle(a_joining(f"meter-{number}", -8))
    told = await refused(ingest.MapVehicle(a_joining("one-more", -4, -3)))
    assert told.startswith("vehicle-001 is fed by 100 meters then: vehicle-001 is fed by meter-0 from ")
    assert told.endswith("; and 97 more")
    assert not (await ingest.MapVehicle(a_joining("meter-7", -4))).closed  # it is one of them
    assert len((await ingest.MapVehicle(a_mapping("one-more", -4))).closed) == METERS_MAX


async def test_three_one_phase_meters_count_as_their_sum(
    ingest: IngestionServiceAsyncStub, ask: AnalyticsServiceAsyncStub
) -> None:
    """0.5 kWh a quarter of an hour and phase, 1.35 into the battery: 270 % of one meter, 90 % of three."""
    phases = ("L1", "L2", "L3")
    for meter_id in phases:
        await ingest.MapVehicle(a_joining(meter_id, -8))
    quarters = [NOW_US - n * US_PER_HOUR // 4 for n in range(8)]
    await ingest.IngestTelemetry(
        wire.IngestTelemetryRequest(
            readings=[
                *(a_meter_reading(meter_id, ts_us, 0.5) for meter_id in phases for ts_us in quarters),
                *(a_vehicle_reading("vehicle-001", ts_us, 1.35) for ts_us in quarters),
            ]
        )
    )
    one = await ask.GetVehiclePerformance(analytics_wire.GetVehiclePerformanceRequest(vehicle_id="vehicle-001"))
    [row] = (await ask.ListVehiclePerformance(analytics_wire.ListVehiclePerformanceRequest())).vehicles
    series = await ask.GetPerformanceSeries(analytics_wire.GetPerformanceSeriesRequest(vehicle_id="vehicle-001"))
    for each in (one, row):
        assert each.verdict == analytics_wire.VERDICT_OK
        assert each.kwh_consumed_ac == 12.0
        assert each.efficiency_ratio == pytest.approx(0.9, rel=1e-9)
        assert (each.meter_readings, each.vehicle_readings, each.coverage) == (24, 8, 1.0)
    assert sum(bucket.kwh_consumed_ac for bucket in series.buckets) == 12.0
    assert one.evidence.mapping_count == 3
    assert [(each.meter_id, each.kwh_consumed_ac, each.meter_readings) for each in one.evidence.mappings] == [
        (meter_id, 4.0, 8) for meter_id in phases
    ]
    await ingest.MapVehicle(a_mapping("L2", -8 + 1 / 3600))  # one alone, from a second later on
    alone = await ask.GetVehiclePerformance(analytics_wire.GetVehiclePerformanceRequest(vehicle_id="vehicle-001"))
    assert alone.verdict == analytics_wire.VERDICT_IMPLAUSIBLE
    assert "270.0 %" in alone.verdict_reason


async def test_pages_of_mappings_divide_meters_that_joined_at_the_same_instant(
    ingest: IngestionServiceAsyncStub,
) -> None:
    for number in range(7):
        await ingest.MapVehicle(a_joining(f"meter-{number}", -8))
    listed, token = [], ""
    for length in (3, 3, 1):
        page = await ingest.ListMappings(wire.ListMappingsRequest(page_size=3, page_token=token))
        assert len(page.mappings) == length
        listed += [each.meter_id for each in page.mappings]
        token = page.next_page_token
    assert (listed, token) == ([f"meter-{number}" for number in range(7)], "")
