"""Random sequences through the real servers give what a plain-Python model gives."""

from __future__ import annotations

import itertools
import math
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import grpc
import psycopg
import pytest
from energyfleet.v1 import analytics_service_pb2 as analytics_wire
from energyfleet.v1 import ingestion_service_pb2 as wire
from energyfleet.v1.telemetry_pb2 import MeterReading, Telemetry, VehicleReading
from google.protobuf.empty_pb2 import Empty
from hypothesis import HealthCheck, event, given, settings
from hypothesis import strategies as st
from psycopg import AsyncConnection

from shared.archive.archive_check import check
from shared.archive.archive_url import archive_url
from shared.archive.archiving import archive
from shared.archive.day_store import DayStore
from shared.config import SEAL_AFTER_DAYS
from shared.db.engine import connection_parameters
from shared.db.sealing import seal
from shared.timestamps import (
    US_PER_DAY,
    US_PER_HOUR,
    US_PER_SECOND,
    proto_from_us,
    system_clock,
    us_from_datetime,
    us_from_proto,
)
from tests.builders import NOW_US
from tests.model import Contradiction, Counts, Device, Model, Span
from tests.verified import differences

if TYPE_CHECKING:  # in the stubs' types only
    from collections.abc import AsyncIterator

    from energyfleet.v1.analytics_service_pb2_grpc import AnalyticsServiceAsyncStub
    from energyfleet.v1.ingestion_service_pb2_grpc import IngestionServiceAsyncStub

DEVICES = range(2)
_examples = itertools.count()

MIDNIGHT_US = NOW_US // US_PER_DAY * US_PER_DAY

# Few places, so that readings meet: around midnight, on and beside the hours, and a few far away.
times = st.one_of(
    st.integers(-8, 3).map(lambda n: MIDNIGHT_US + n * US_PER_HOUR // 6),
    st.builds(
        lambda hour, beside: MIDNIGHT_US + hour * US_PER_HOUR + beside, st.integers(-2, 0), st.sampled_from([-1, 0, 1])
    ),
    st.sampled_from([NOW_US, NOW_US + 300 * US_PER_SECOND, NOW_US - 30 * US_PER_DAY]),
)
bad_times = st.sampled_from(
    [NOW_US + 301 * US_PER_SECOND, NOW_US + US_PER_DAY, NOW_US + US_PER_DAY + 1, NOW_US - 401 * US_PER_DAY, 0]
)
# Down to a watt-hour: what is left of a sum after something large no longer counts has an error of some 1e-13 kWh.
kwh = st.one_of(st.sampled_from([0.0, 1.5, -1.5, -0.019]), st.floats(0.001, 1000))
device_numbers = st.sampled_from(DEVICES)


@st.composite
def readings(draw: st.DrawFn) -> tuple[str, int, dict[str, Any]]:
    """(side, device number, fields): one in ten is wrong in some way."""
    side = draw(st.sampled_from(["meter", "vehicle"]))
    wrong = draw(st.sampled_from([None] * 18 + ["time", "energy", "absent"]))
    energy = {"energy": -1_000.5, "absent": None}.get(wrong or "", draw(kwh))
    timestamp = proto_from_us(draw(bad_times if wrong == "time" else times))
    timestamp.nanos += draw(st.sampled_from([0, 0, 999]))
    fields: dict[str, Any] = {"timestamp": timestamp}
    if side == "meter":
        fields |= {"kwh_consumed_ac": energy, "voltage": draw(st.sampled_from([None, 0.0, 230.0, -0.1, 6553.5]))}
    else:
        fields |= {
            "kwh_delivered_dc": energy,
            "soc": draw(st.sampled_from([None, 50.0, 255.0, math.nan])),
            "battery_temp": draw(st.none() | st.floats(-60, 150) | st.just(-127.0)),
        }
    if not wrong and draw(st.integers(0, 3)) == 0:
        fields["kwh_consumed_ac" if side == "meter" else "kwh_delivered_dc"] = None
        fields["register_kwh"] = draw(st.sampled_from([0.0, 7.5, 4021.7, 4021.81, 4100.0, 9e5]))
    return side, draw(device_numbers), {name: value for name, value in fields.items() if value is not None}


sends = st.tuples(st.sampled_from(["unary", "stream"]), st.lists(readings(), max_size=20))
# Energies that rise as a session's register, so far apart that corrections meet some.
rises = st.tuples(
    st.just("rise"),
    st.tuples(
        st.sampled_from(["meter", "vehicle"]),
        device_numbers,
        st.integers(-10, -6).map(lambda n: MIDNIGHT_US + n * US_PER_HOUR // 6),
        st.permutations(range(1, 11)),
    ),
)
windows = st.lists(times, min_size=2, max_size=2, unique=True).map(sorted)
spans = st.one_of(st.tuples(times, st.none()), windows)
maps = st.tuples(st.just("map"), st.tuples(device_numbers, device_numbers, spans, st.booleans()))
corrections = st.tuples(
    st.just("correct"),
    st.tuples(st.sampled_from(["meter", "vehicle"]), device_numbers, times, st.sampled_from(["void", "as sent", 2.5])),
)
seals = st.tuples(st.just("seal"), st.sampled_from([1, 20, 20_000]))
"""All days that are here are old enough for the database, whose clock is right."""
archives = st.tuples(st.just("archive"), st.none())
unmaps = st.tuples(st.just("unmap"), st.tuples(device_numbers, spans, st.none() | device_numbers))


def message(prefix: str, side: str, number: int, fields: dict[str, Any]) -> Telemetry:
    if side == "meter":
        return Telemetry(meter=MeterReading(meter_id=f"{prefix}m{number}", **fields))
    return Telemetry(vehicle=VehicleReading(vehicle_id=f"{prefix}v{number}", **fields))


@pytest.fixture
async def verified(database_url: str) -> AsyncIterator[None]:
    """After the test: rollups and current status of all that it sent are what history says."""
    yield
    assert await differences(database_url) == []


@pytest.fixture
async def maintenance(database_url: str) -> AsyncIterator[AsyncConnection[Any]]:
    """The session that seals and archives."""
    async with await AsyncConnection.connect(**connection_parameters(database_url, "test"), autocommit=True) as session:
        yield session


@pytest.mark.usefixtures("verified")
@pytest.mark.timeout(600)
@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    steps=st.lists(
        st.one_of(sends, sends, rises, maps, unmaps, corrections, corrections, seals, archives), min_size=1, max_size=12
    ),
    asked=st.lists(windows, min_size=1, max_size=4),
)
async def test_history_status_rollups_and_performance_are_what_was_sent(
    steps: list[tuple[str, Any]],
    asked: list[list[int]],
    ingest: IngestionServiceAsyncStub,
    ask: AnalyticsServiceAsyncStub,
    maintenance: AsyncConnection[Any],
    tmp_path: Path,
    database_url: str,
) -> None:
    model = Model()
    place = DayStore(archive_url(str(tmp_path)), 30)
    prefix = f"x{next(_examples)}-"
    for kind, what in steps:
        if kind == "map":
            vehicle, meter, span, join = what
            await check_mapping(ingest, model, f"{prefix}v{vehicle}", f"{prefix}m{meter}", *span, join=join)
        elif kind == "unmap":
            vehicle, span, meter = what
            meter_id = "" if meter is None else f"{prefix}m{meter}"
            await check_unmapping(ingest, model, f"{prefix}v{vehicle}", *span, meter_id=meter_id)
        elif kind == "correct":
            await check_correction(ingest, model, prefix, *what)
        elif kind == "seal":
            await seal(maintenance, system_clock(), SEAL_AFTER_DAYS, chunk_readings=what, drop_after_s=0)
        elif kind == "archive":
            await archive(maintenance, place, system_clock(), SEAL_AFTER_DAYS)
        elif kind == "rise":
            side, number, start_us, order = what
            energy = "kwh_consumed_ac" if side == "meter" else "kwh_delivered_dc"
            for steps_since in order:
                ts_us = start_us + steps_since * US_PER_HOUR // 6
                telemetry = [
                    message(prefix, side, number, {"timestamp": proto_from_us(ts_us), energy: 1.5 * steps_since})
                ]
                assert counts(await send(ingest, "unary", telemetry)) == model.send(telemetry)
        else:
            telemetry = [message(prefix, *each) for each in what]
            assert counts(await send(ingest, kind, telemetry)) == model.send(telemetry)

    if any(kind == "archive" for kind, _ in steps):
        await archive(maintenance, place, system_clock(), SEAL_AFTER_DAYS)
        assert (await check(maintenance, place, system_clock(), SEAL_AFTER_DAYS)).problems == []
    with psycopg.connect(database_url) as connection:
        for number in DEVICES:
            check_stored(connection, model, ("meter", f"{prefix}m{number}"))
            check_stored(connection, model, ("vehicle", f"{prefix}v{number}"))
    for start_us, end_us in [*asked, [NOW_US - US_PER_DAY, NOW_US]]:
        for number in DEVICES:
            await check_performance(ask, model, f"{prefix}v{number}", start_us, end_us)


async def send(ingest: IngestionServiceAsyncStub, kind: str, telemetry: list[Telemetry]) -> wire.IngestionSummary:
    if kind == "unary":
        return (await ingest.IngestTelemetry(wire.IngestTelemetryRequest(readings=telemetry))).summary
    call = ingest.StreamTelemetry(None)
    for start in range(0, len(telemetry), 7):
        await call.write(wire.StreamTelemetryRequest(readings=telemetry[start : start + 7]))
    await call.done_writing()
    return (await call).summary


def counts(summary: wire.IngestionSummary) -> Counts:
    assert len(summary.rejections) == summary.rejected
    assert len(summary.conflicts) == summary.conflicting
    assert len(summary.omissions) == summary.omitted_values
    return Counts(
        summary.received,
        summary.stored,
        summary.duplicate,
        summary.conflicting,
        summary.rejected,
        summary.not_yet,
        summary.omitted_values,
    )


async def check_mapping(
    ingest: IngestionServiceAsyncStub,
    model: Model,
    vehicle_id: str,
    meter_id: str,
    from_us: int,
    until_us: int | None,
    *,
    join: bool,
) -> None:
    request = wire.MapVehicleRequest(
        vehicle_id=vehicle_id,
        meter_id=meter_id,
        effective_from=proto_from_us(from_us),
        effective_until=None if until_us is None else proto_from_us(until_us),
        mode=wire.MAPPING_MODE_JOIN if join else wire.MAPPING_MODE_UNSPECIFIED,
    )
    try:
        closed = model.map(vehicle_id, meter_id, from_us, until_us, join=join)
    except Contradiction:
        event("mapping contradicts")
        assert await code_of(ingest.MapVehicle(request)) == grpc.StatusCode.FAILED_PRECONDITION
    else:
        event(f"mapping taken, {len(closed)} closed")
        assert [span_of(each) for each in (await ingest.MapVehicle(request)).closed] == closed
    await check_mappings(ingest, model, vehicle_id)


async def check_unmapping(
    ingest: IngestionServiceAsyncStub,
    model: Model,
    vehicle_id: str,
    from_us: int,
    until_us: int | None,
    *,
    meter_id: str,
) -> None:
    request = wire.UnmapVehicleRequest(
        vehicle_id=vehicle_id,
        effective_from=proto_from_us(from_us),
        effective_until=None if until_us is None else proto_from_us(until_us),
        meter_id=meter_id,
    )
    if not model.knows(vehicle_id):
        assert await code_of(ingest.UnmapVehicle(request)) == grpc.StatusCode.NOT_FOUND
        return
    try:
        removed = model.unmap(vehicle_id, from_us, until_us, meter_id)
    except Contradiction:
        event("unmapping contradicts")
        assert await code_of(ingest.UnmapVehicle(request)) == grpc.StatusCode.FAILED_PRECONDITION
    else:
        event("unmapping takes away" if removed else "unmapping finds nothing")
        assert [span_of(each) for each in (await ingest.UnmapVehicle(request)).removed] == removed
    await check_mappings(ingest, model, vehicle_id)


async def check_correction(
    ingest: IngestionServiceAsyncStub, model: Model, prefix: str, side: str, number: int, ts_us: int, energy: Any
) -> None:
    device = (side, f"{prefix}{side[0]}{number}")
    wanted: dict[str, Any] = {"void": {"voided": Empty()}, "as sent": {"as_sent": Empty()}}.get(energy, {"kwh": energy})
    wanted[f"{side}_id"] = device[1]
    request = wire.CorrectReadingRequest(timestamp=proto_from_us(ts_us), author="operator", note="a test", **wanted)
    counted = model.counted(device).get(ts_us)
    if not model.correct(device, ts_us, {"void": 0.0, "as sent": None}.get(energy, energy)):
        event("correction of nothing")
        assert await code_of(ingest.CorrectReading(request)) == grpc.StatusCode.NOT_FOUND
        return
    event("correction")
    correction = (await ingest.CorrectReading(request)).correction
    [now, *_] = model.counted(device)[ts_us]
    if energy != "as sent" or correction.author:
        assert (correction.kwh, correction.voided) == (now, energy == "void")
    assert (await ingest.CorrectReading(request)).correction == correction
    if correction.author and counted is not None and counted[0] != now:
        assert correction.kwh_before == counted[0]


async def check_mappings(ingest: IngestionServiceAsyncStub, model: Model, vehicle_id: str) -> None:
    listed = await ingest.ListMappings(wire.ListMappingsRequest(vehicle_id=vehicle_id))
    assert [span_of(each) for each in listed.mappings] == sorted(
        (span for span in model.mappings if span.vehicle_id == vehicle_id), key=Span.place
    )


def span_of(mapping: wire.Mapping) -> Span:
    until_us = us_from_proto(mapping.effective_until) if mapping.HasField("effective_until") else None
    return Span(mapping.vehicle_id, mapping.meter_id, us_from_proto(mapping.effective_from), until_us)


async def code_of(call: grpc.aio.UnaryUnaryCall[Any, Any]) -> grpc.StatusCode:
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await call
    return raised.value.code()


COLUMNS = {
    "meter": "kwh_consumed_ac, voltage, register_kwh",
    "vehicle": "kwh_delivered_dc, soc, battery_temp, register_kwh",
}


def check_stored(connection: psycopg.Connection[Any], model: Model, device: Device) -> None:
    side, device_id = device
    source = f"JOIN {side}s USING ({side}_key) WHERE {side}_id = '{device_id}'"
    history = connection.execute(f"SELECT ts, {COLUMNS[side]} FROM {side}_readings {source} ORDER BY ts").fetchall()
    assert [(us_from_datetime(ts), tuple(values)) for ts, *values in history] == sorted(model.counted(device).items())

    status = connection.execute(f"SELECT ts, {COLUMNS[side]} FROM {side}_current_status {source}").fetchall()
    newest = model.newest(device)
    assert [(us_from_datetime(ts), tuple(values)) for ts, *values in status] == ([newest] if newest else [])

    energy = COLUMNS[side].split(",")[0]
    returned = energy.replace("consumed", "returned").replace("delivered", "returned")
    rollups: dict[int, tuple[float, float, int, int]] = {
        us_of(hour): (kwh, back, readings, us_of(last_ts))
        for hour, kwh, back, readings, last_ts in connection.execute(
            f"SELECT hour_start, {energy}, {returned}, readings, last_ts FROM {side}_energy_hourly {source}"
        )
    }
    expected = model.hourly(device)
    assert {hour: rollup[2:] for hour, rollup in rollups.items()} == {
        hour: rollup[2:] for hour, rollup in expected.items()
    }
    assert all(close(rollups[hour][0], kwh) for hour, (kwh, *_) in expected.items())
    assert all(close(rollups[hour][1], back) for hour, (_, back, *_) in expected.items())


def us_of(moment: datetime) -> int:
    return us_from_datetime(moment)


async def check_performance(
    ask: AnalyticsServiceAsyncStub, model: Model, vehicle_id: str, start_us: int, end_us: int
) -> None:
    request = analytics_wire.GetVehiclePerformanceRequest(
        vehicle_id=vehicle_id,
        window=analytics_wire.TimeWindow(start=proto_from_us(start_us), end=proto_from_us(end_us)),
    )
    if not model.knows(vehicle_id):
        # A contradicted mapping registers nothing, so the vehicle stays unheard of.
        assert await code_of(ask.GetVehiclePerformance(request)) == grpc.StatusCode.NOT_FOUND
        return
    answer = await ask.GetVehiclePerformance(request)
    expected = model.performance(vehicle_id, start_us, end_us)
    assert close(present(answer, "kwh_delivered_dc"), expected.dc)
    assert close(present(answer, "kwh_consumed_ac"), expected.ac)
    assert close(present(answer, "kwh_returned_dc"), expected.returned_dc)
    assert close(present(answer, "kwh_returned_ac"), expected.returned_ac)
    assert close(present(answer, "average_battery_temp"), expected.temp)
    assert close(present(answer, "kwh_delivered_dc_unmapped"), expected.unmapped)
    assert (answer.vehicle_readings, answer.meter_readings) == (expected.vehicle_readings, expected.meter_readings)
    assert (answer.verdict == analytics_wire.VERDICT_NO_METER) == (not expected.mapped)
    ratio = present(answer, "efficiency_ratio")
    assert (ratio is None) == (expected.ratio is None)
    if ratio is not None and expected.ac is not None:
        assert close(ratio * expected.ac, expected.dc)  # where little is left of two large sums, a quotient tells less


def present(answer: analytics_wire.GetVehiclePerformanceResponse, name: Any) -> float | None:
    return getattr(answer, name) if answer.HasField(name) else None


def close(one: float | None, other: float | None) -> bool:
    if one is None or other is None:
        return one is other
    return math.isclose(one, other, rel_tol=1e-9, abs_tol=1e-9)
