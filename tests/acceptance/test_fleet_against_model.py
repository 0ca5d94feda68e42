"""Random histories, mappings and windows: one vehicle, the fleet and the series are what a plain-Python model says."""

from __future__ import annotations

import itertools
import math
from collections import Counter
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any
from zoneinfo import ZoneInfo

import grpc
import pytest
from energyfleet.v1 import analytics_service_pb2 as wire
from energyfleet.v1 import ingestion_service_pb2 as ingestion_wire
from google.protobuf.timestamp_pb2 import Timestamp
from hypothesis import HealthCheck, event, given, settings
from hypothesis import strategies as st

from shared.timestamps import US_PER_DAY, US_PER_HOUR, datetime_from_us, proto_from_us, us_from_proto
from tests.acceptance.test_against_model import close
from tests.ageing import Ageing
from tests.builders import NOW_US, a_meter_reading, a_vehicle_reading, us
from tests.model import Contradiction, Model, Performance, round_half_up

if TYPE_CHECKING:  # in the stubs' types only
    from energyfleet.v1.analytics_service_pb2_grpc import AnalyticsServiceAsyncStub
    from energyfleet.v1.ingestion_service_pb2_grpc import IngestionServiceAsyncStub

VEHICLES = METERS = range(3)
UNKNOWN_VEHICLE_ID = "never-heard-of"
VERDICTS = [name for name, number in wire.Verdict.items() if number]
LONG_US = 64 * US_PER_HOUR
"""Windows that are longer are put together in another way."""
GRID_US = US_PER_HOUR // 4
"""Clocks are changed, and days begin, on the quarters of an hour."""

_examples = itertools.count()

# A quiet midnight, and those around which clocks are changed: in Europe in spring and autumn, in New York, and by half
# an hour on Lord Howe Island.
anchors = st.sampled_from(
    [us(f"{day}T00:00:00Z") for day in ("2026-02-09", "2025-03-30", "2025-10-26", "2025-11-02", "2025-10-05")]
)
zones = st.sampled_from(
    ["", "Europe/Berlin", "America/New_York", "Asia/Kolkata", "Australia/Lord_Howe", "America/St_Johns"]
)
# From the anchor, so that readings, mappings and windows meet: on the hours and beside them, and within them.
offsets = st.one_of(
    st.builds(lambda hour, beside: hour * US_PER_HOUR + beside, st.integers(-8, 8), st.sampled_from([-1, 0, 0, 1])),
    st.integers(-8 * 6, 8 * 6).map(lambda tenth: tenth * US_PER_HOUR // 6),
)
numbers = st.sampled_from(VEHICLES)
# Of parts of a kWh that have no rounding: sums are the same in any order, and on the same side of every limit.
PARTS = 1_024
kwh = st.integers(-PARTS, 2 * PARTS).map(lambda parts: parts / PARTS)
temperatures = st.none() | st.floats(-40, 80)


@dataclass(frozen=True)
class Charging:
    """Both sides report every half an hour, the vehicle so much less; a meter may keep its last hour to itself, or be
    stuck. It may be mapped by the start."""

    vehicle: int
    meter: int
    start: int
    hours: int
    ratio: float
    silent_hours: int
    stuck: bool
    mapped: bool


chargings = st.builds(
    Charging,
    numbers,
    numbers,
    offsets,
    st.integers(1, 12),
    st.sampled_from([0.2, 0.8, 0.85, 0.9, 1.0, 1.1]),
    st.integers(0, 2),
    st.sampled_from([False, False, False, True]),
    st.booleans(),
)
single = st.tuples(st.sampled_from(["meter", "vehicle"]), numbers, offsets, kwh, temperatures)
maps = st.tuples(numbers, numbers, offsets, st.booleans())
windows = (
    st.tuples(offsets, offsets)
    .map(sorted)
    .filter(lambda window: window[0] < window[1])
    .flatmap(lambda window: st.sampled_from([window, window, [window[0] - LONG_US, window[1]]]))
)


@dataclass(frozen=True)
class Happened:
    """What happened around an anchor, and what is asked about it."""

    anchor_us: int
    maps: list[tuple[int, int, int, bool]]
    """Vehicle, meter, from when on, and whether the meter joins others."""
    chargings: list[Charging]
    singles: list[tuple[str, int, int, float, float | None]]
    windows: list[list[int]]
    at_edges: set[tuple[str, int]]
    """Which devices report at each of the instants above and just after it."""
    zone: str
    verdicts: set[str]
    by_loss: bool
    page_size: int
    named: bool
    alignment: wire.WindowAlignment.ValueType
    aged: Aged


@dataclass(frozen=True)
class Aged:
    """What becomes of the days then."""

    sealing_steps: int | None
    """Steps of sealing after which it is ended; None: all days are sealed."""
    floor_day: int | None
    """The first day of which readings are kept, from the anchor."""
    dropped: bool
    """The readings before it are gone."""


aged = st.builds(
    Aged,
    st.sampled_from([0, 1, 3, 8, 20, None, None]),
    st.sampled_from([None, None, None, -2, -1, 0, 0, 1]),
    st.booleans(),
)


happenings = st.builds(
    Happened,
    anchors,
    st.lists(maps, max_size=7),
    st.lists(chargings, max_size=5),
    st.lists(single, max_size=12),
    st.lists(windows, min_size=1, max_size=3),
    st.sets(st.tuples(st.sampled_from(["meter", "vehicle"]), numbers)),
    zones,
    st.sets(st.sampled_from(VERDICTS), max_size=3),
    st.booleans(),
    st.integers(1, 4),
    st.booleans(),
    st.sampled_from(wire.WindowAlignment.values()),
    aged,
)


@pytest.mark.timeout(600)
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(happened=happenings)
async def test_every_question_of_performance_is_answered_as_the_model_does(
    happened: Happened, ingest: IngestionServiceAsyncStub, ask: AnalyticsServiceAsyncStub, ageing: Ageing
) -> None:
    model, prefix = Model(), f"f{next(_examples)}-"
    await let_happen(happened, ingest, model, prefix, ageing)
    let_age(happened.aged, happened.anchor_us, ageing, model)
    for start, end in happened.windows:
        start_us, end_us = happened.anchor_us + start, happened.anchor_us + end
        for number in VEHICLES:
            vehicle_id = f"{prefix}v{number}"
            if model.known(vehicle_id):
                await check_one(ask, model, vehicle_id, start_us, end_us)
                for granularity in (wire.SERIES_GRANULARITY_HOUR, wire.SERIES_GRANULARITY_DAY):
                    await check_series(ask, model, vehicle_id, start_us, end_us, granularity, happened.zone)
        await check_fleet(ask, model, prefix, happened, start_us, end_us)


async def let_happen(
    happened: Happened, ingest: IngestionServiceAsyncStub, model: Model, prefix: str, ageing: Ageing
) -> None:
    """Through the real service, and into the model; days are sealed meanwhile."""
    ageing.renew()
    mapped = [(each.vehicle, each.meter, each.start, True) for each in happened.chargings if each.mapped]
    for vehicle, meter, at, join in [*happened.maps, *mapped]:
        vehicle_id, meter_id, from_us = f"{prefix}v{vehicle}", f"{prefix}m{meter}", happened.anchor_us + at
        await map_or_be_refused(ingest, model, vehicle_id, meter_id, from_us, join=join)
    telemetry = []
    edges = sorted({at for _, _, at, _ in happened.maps} | {at for window in happened.windows for at in window})
    at_edges = [
        (side, number, at + after, (100 + place) / PARTS, None)
        for side, number in happened.at_edges
        for place, at in enumerate(edges)
        for after in (0, 1)
    ]
    for side, number, at, energy, temperature in [*happened.singles, *at_edges]:
        ts_us = happened.anchor_us + at
        if side == "meter":
            telemetry.append(a_meter_reading(f"{prefix}m{number}", ts_us, energy))
        else:
            telemetry.append(a_vehicle_reading(f"{prefix}v{number}", ts_us, energy, battery_temp=temperature))
    for each in happened.chargings:
        for half in range(1, 2 * each.hours + 1):
            ts_us = happened.anchor_us + each.start + half * US_PER_HOUR // 2
            drawn = 1 + half / 8
            delivered = round(drawn * each.ratio * PARTS) / PARTS
            telemetry.append(a_vehicle_reading(f"{prefix}v{each.vehicle}", ts_us, delivered))
            if half <= 2 * (each.hours - each.silent_hours):
                telemetry.append(a_meter_reading(f"{prefix}m{each.meter}", ts_us, 0.0 if each.stuck else drawn))
    half = len(telemetry) // 2
    for some in (telemetry[:half], telemetry[half:]):
        if some:
            await ingest.IngestTelemetry(ingestion_wire.IngestTelemetryRequest(readings=some))
        await ageing.seal(happened.aged.sealing_steps)
    model.send(telemetry)


async def map_or_be_refused(
    ingest: IngestionServiceAsyncStub, model: Model, vehicle_id: str, meter_id: str, from_us: int, *, join: bool
) -> None:
    """Through the real service, and into the model; the two contradict it alike."""
    request = ingestion_wire.MapVehicleRequest(
        vehicle_id=vehicle_id, meter_id=meter_id, effective_from=proto_from_us(from_us)
    )
    request.mode = ingestion_wire.MAPPING_MODE_JOIN if join else ingestion_wire.MAPPING_MODE_REPLACE
    try:
        model.map(vehicle_id, meter_id, from_us, join=join)
    except Contradiction:
        with pytest.raises(grpc.aio.AioRpcError):
            await ingest.MapVehicle(request)
    else:
        await ingest.MapVehicle(request)


def let_age(aged: Aged, anchor_us: int, ageing: Ageing, model: Model) -> None:
    """The retention floor passes."""
    if aged.floor_day is not None:
        model.kept_since_us = anchor_us + aged.floor_day * US_PER_DAY
        ageing.drop_before(model.kept_since_us, readings=aged.dropped)


def check_window(answer: Any, model: Model, start_us: int, end_us: int) -> tuple[int, int]:
    """The window that was looked at, and what is said of it."""
    looked_at = model.looked_at(start_us, end_us)
    assert answer.window == window_of(*looked_at)
    assert answer.window_aligned == (looked_at != (start_us, end_us))
    kept_since_us = model.kept_since_us if looked_at[0] < model.kept_since_us else None
    assert instant(present(answer, "readings_since")) == kept_since_us
    return looked_at


def window_of(start_us: int, end_us: int) -> wire.TimeWindow:
    return wire.TimeWindow(start=proto_from_us(start_us), end=proto_from_us(end_us))


def present(message: Any, name: str) -> Any:
    return getattr(message, name) if message.HasField(name) else None


def instant(timestamp: Timestamp | None) -> int | None:
    return None if timestamp is None else us_from_proto(timestamp)


def check_numbers(answer: Any, expected: Performance) -> None:
    """Of one vehicle, wherever they are told: energy and temperature within rounding, everything else exactly."""
    assert close(present(answer, "kwh_delivered_dc"), expected.dc)
    assert close(present(answer, "kwh_consumed_ac"), expected.ac)
    assert close(present(answer, "average_battery_temp"), expected.temp)
    assert close(present(answer, "kwh_lost"), expected.lost)
    assert close(present(answer, "kwh_returned_dc"), expected.returned_dc)
    assert close(present(answer, "kwh_returned_ac"), expected.returned_ac)
    ratio = present(answer, "efficiency_ratio")
    assert (ratio is None) == (expected.ratio is None)
    assert ratio is None or expected.ratio is None or math.isclose(ratio, expected.ratio, rel_tol=1e-9)
    assert (answer.vehicle_readings, answer.meter_readings) == (expected.vehicle_readings, expected.meter_readings)


def check_judged(answer: Any, expected: Performance) -> None:
    """What is compared, the verdict, and what is left out."""
    assert wire.Verdict.Name(answer.verdict) == expected.verdict
    assert close(present(answer, "coverage"), expected.coverage)
    assert close(present(answer, "kwh_consumed_ac_idle"), expected.idle)
    assert close(present(answer, "kwh_delivered_dc_unmapped"), expected.unmapped)
    assert answer.HasField("comparison") == (expected.compared is not None)
    if expected.compared is None:
        return
    told = answer.comparison
    for name in ("kwh_delivered_dc", "kwh_consumed_ac", "efficiency_ratio", "mean_power_kw", "low_efficiency_below"):
        assert close(getattr(told, name), getattr(expected.compared, name)), name
    assert close(told.kwh_lost, expected.compared.kwh_lost)
    assert close(told.efficiency_ratio_at_least, expected.compared.at_least)
    assert close(told.efficiency_ratio_at_most, expected.compared.at_most)


def findings_of_list(answer: wire.GetVehiclePerformanceResponse) -> list[wire.Finding]:
    """The findings that a list has, too; it does not say since when."""
    alone = (wire.FINDING_KIND_DOUBTED_READINGS, wire.FINDING_KIND_ID_DIFFERS_IN_CASE)
    found = [each for each in answer.findings if each.kind not in alone]
    for each in found:
        each.ClearField("since")
    return found


async def check_one(
    ask: AnalyticsServiceAsyncStub, model: Model, vehicle_id: str, start_us: int, end_us: int
) -> wire.GetVehiclePerformanceResponse:
    window = window_of(start_us, end_us)
    answer = await ask.GetVehiclePerformance(wire.GetVehiclePerformanceRequest(vehicle_id=vehicle_id, window=window))
    expected = model.performance(vehicle_id, *check_window(answer, model, start_us, end_us))
    check_numbers(answer, expected)
    check_judged(answer, expected)
    compared_us = [(instant(each.start), instant(each.end)) for each in answer.comparison.spans]
    assert compared_us == (expected.judged.compared_us if expected.compared else [])
    evidence = answer.evidence
    assert (evidence.hours_either, evidence.hours_both) == (expected.hours_either, expected.hours_both)
    for side, ends in (("vehicle", expected.vehicle_ends), ("meter", expected.meter_ends)):
        told = [instant(present(evidence, f"{which}_{side}_reading")) for which in ("first", "last")]
        assert told == list(ends or (None, None))
    assert evidence.mapping_count == len(expected.feedings)
    assert [
        (each.meter_id, instant(each.window.start), instant(each.window.end), each.meter_readings)
        for each in evidence.mappings
    ] == [(meter, start, end, readings) for meter, start, end, _, readings, _ in expected.feedings]
    assert all(
        close(present(each, "kwh_consumed_ac"), feeding[3]) and close(present(each, "kwh_returned_ac"), feeding[5])
        for each, feeding in zip(evidence.mappings, expected.feedings, strict=True)
    )
    return answer


async def check_series(
    ask: AnalyticsServiceAsyncStub,
    model: Model,
    vehicle_id: str,
    start_us: int,
    end_us: int,
    granularity: wire.SeriesGranularity.ValueType,
    zone: str,
) -> None:
    answer = await ask.GetPerformanceSeries(
        wire.GetPerformanceSeriesRequest(
            vehicle_id=vehicle_id, window=window_of(start_us, end_us), granularity=granularity, time_zone=zone
        )
    )
    assert answer.time_zone == (zone or "UTC")
    start_us, end_us = check_window(answer, model, start_us, end_us)
    starts = [us_from_proto(each.window.start) for each in answer.buckets]
    ends = [us_from_proto(each.window.end) for each in answer.buckets]
    assert [start_us, *ends] == [*starts, end_us]
    in_days = granularity == wire.SERIES_GRANULARITY_DAY
    edges = [
        at_us
        for at_us in range(-(-(start_us + 1) // GRID_US) * GRID_US, end_us, GRID_US)
        if name_of(at_us - 1, zone, in_days) != name_of(at_us, zone, in_days)
    ]
    if answer.HasField("readings_since"):
        nearest = {round_half_up(at_us, US_PER_HOUR) for at_us in edges}
        edges = sorted(at_us for at_us in nearest if start_us < at_us < end_us)
    assert starts[1:] == edges
    for each, bucket_start_us, bucket_end_us in zip(answer.buckets, starts, ends, strict=True):
        expected = model.performance(vehicle_id, bucket_start_us, bucket_end_us)
        check_numbers(each, expected)
        assert each.empty == (expected.vehicle_readings == expected.meter_readings == 0)
        assert each.mapped == expected.mapped


def name_of(at_us: int, zone: str, in_days: bool) -> object:
    """The day, or the hour, that a clock on the wall shows; after a change an hour is another one."""
    wall: datetime = datetime_from_us(at_us).astimezone(ZoneInfo(zone or "UTC"))
    return wall.date() if in_days else (wall.date(), wall.hour, wall.utcoffset())


async def check_fleet(
    ask: AnalyticsServiceAsyncStub, model: Model, prefix: str, happened: Happened, start_us: int, end_us: int
) -> None:
    known = [f"{prefix}v{number}" for number in VEHICLES if model.known(f"{prefix}v{number}")]
    request = wire.ListVehiclePerformanceRequest(
        window=window_of(start_us, end_us),
        verdicts=[wire.Verdict.Value(verdict) for verdict in happened.verdicts],
        vehicle_ids=[f"{prefix}v{number}" for number in VEHICLES] + [UNKNOWN_VEHICLE_ID] if happened.named else [],
        order=wire.PERFORMANCE_ORDER_KWH_LOST if happened.by_loss else wire.PERFORMANCE_ORDER_RATIO,
        page_size=happened.page_size if happened.named else 1_000,
        alignment=happened.alignment,
        time_zone=happened.zone if happened.alignment == wire.WINDOW_ALIGNMENT_DAY else "",
    )
    pages = [await ask.ListVehiclePerformance(request)]
    while pages[-1].next_page_token:
        request.page_token = pages[-1].next_page_token
        pages.append(await ask.ListVehiclePerformance(request))
    assert all(len(page.vehicles) == request.page_size for page in pages[:-1])
    first = pages[0]
    rows = [row for page in pages for row in page.vehicles]
    for page in pages:
        assert (page.window, page.matched, page.totals) == (first.window, len(rows), first.totals)

    looked_at = check_window(first, model, *widened(happened, start_us, end_us))
    expected = {vehicle_id: model.performance(vehicle_id, *looked_at) for vehicle_id in known}
    ours = {row.vehicle_id: row for row in rows if row.vehicle_id.startswith(prefix)}
    assert set(ours) == {
        vehicle_id
        for vehicle_id, each in expected.items()
        if not happened.verdicts or each.verdict in happened.verdicts
    }
    for vehicle_id, row in ours.items():
        event(wire.Verdict.Name(row.verdict))
        check_numbers(row, expected[vehicle_id])
        check_judged(row, expected[vehicle_id])
        one = await check_one(ask, model, vehicle_id, *looked_at)
        assert row.mapping_count == one.evidence.mapping_count
        for name in ("coverage", "verdict", "verdict_reason", "alert"):
            assert getattr(row, name) == getattr(one, name), name
        for name in ("baseline_ratio", "ratio_change"):
            assert close(present(row, name), present(one, name)), name
        del one.comparison.spans[:]
        assert row.comparison == one.comparison
        assert list(row.findings) == findings_of_list(one)
    check_order(rows, by="kwh_lost" if happened.by_loss else "efficiency_ratio")
    if happened.named:
        check_totals(first, expected)
        assert list(first.unknown_vehicle_ids) == sorted(
            {UNKNOWN_VEHICLE_ID, *(f"{prefix}v{number}" for number in VEHICLES)} - set(known)
        )


def widened(happened: Happened, start_us: int, end_us: int) -> tuple[int, int]:
    match happened.alignment:
        case wire.WINDOW_ALIGNMENT_EXACT:
            return start_us, end_us
        case wire.WINDOW_ALIGNMENT_DAY:

            def begins(at_us: int) -> bool:
                return name_of(at_us - 1, happened.zone, True) != name_of(at_us, happened.zone, True)

            start_us, end_us = start_us // GRID_US * GRID_US, -(-end_us // GRID_US) * GRID_US
            while not begins(start_us):
                start_us -= GRID_US
            while not begins(end_us):
                end_us += GRID_US
            return start_us, end_us
    return start_us // US_PER_HOUR * US_PER_HOUR, -(-end_us // US_PER_HOUR) * US_PER_HOUR


def check_order(rows: list[wire.VehiclePerformance], *, by: str) -> None:
    """By kwh_lost the highest first, by others the lowest; those of which nothing is told last."""

    def place(row: wire.VehiclePerformance) -> tuple[bool, float, str]:
        of: Any = row if by == "ratio_change" else row.comparison
        told = row.HasField("ratio_change" if by == "ratio_change" else "comparison")
        return not told, (getattr(of, by) if told else 0.0) * (-1 if by == "kwh_lost" else 1), row.vehicle_id

    assert [row.vehicle_id for row in rows] == [row.vehicle_id for row in sorted(rows, key=place)]


def check_totals(answer: wire.ListVehiclePerformanceResponse, expected: dict[str, Performance]) -> None:
    def total(name: str, among: list[Performance]) -> float | None:
        present_ones = [getattr(each, name) for each in among if getattr(each, name) is not None]
        return math.fsum(present_ones) if present_ones else None

    everybody, totals = list(expected.values()), answer.totals
    assert totals.vehicles == len(everybody)
    assert totals.vehicle_readings == sum(each.vehicle_readings for each in everybody)
    assert totals.meter_readings == sum(each.meter_readings for each in everybody)
    assert close(present(totals, "kwh_delivered_dc"), total("dc", everybody))
    assert close(present(totals, "kwh_consumed_ac"), total("ac", everybody))
    assert close(present(totals, "kwh_returned_dc"), total("returned_dc", everybody))
    assert close(present(totals, "kwh_returned_ac"), total("returned_ac", everybody))
    assert close(present(totals, "kwh_consumed_ac_idle"), total("idle", everybody))
    assert close(present(totals, "kwh_delivered_dc_unmapped"), total("unmapped", everybody))
    judged = [each for each in everybody if each.verdict in ("VERDICT_OK", "VERDICT_LOW_EFFICIENCY")]
    healthy = [each.compared for each in judged if each.compared is not None]
    dc, ac = (math.fsum(each[at] for each in healthy) for at in (0, 1))
    assert close(present(totals, "efficiency_ratio"), dc / ac if healthy else None)
    assert close(present(totals, "kwh_lost"), ac - dc if healthy else None)
    counted = Counter(each.verdict for each in everybody)
    assert [(wire.Verdict.Name(each.verdict), each.vehicles) for each in totals.by_verdict] == [
        (verdict, counted[verdict]) for verdict in VERDICTS
    ]
    for each in totals.by_verdict:
        among = [one for one in everybody if one.verdict == wire.Verdict.Name(each.verdict)]
        assert close(present(each, "kwh_delivered_dc"), total("dc", among))
        assert close(present(each, "kwh_consumed_ac"), total("ac", among))
        assert close(present(each, "kwh_returned_dc"), total("returned_dc", among))
        assert close(present(each, "kwh_returned_ac"), total("returned_ac", among))


def test_the_anchors_are_within_what_is_kept() -> None:
    assert us("2025-03-29T00:00:00Z") > NOW_US - 400 * 24 * US_PER_HOUR
