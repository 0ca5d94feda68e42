"""Random charges, late reports and mappings: sessions are what a plain-Python model says, and judged alike."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest
from energyfleet.v1 import analytics_service_pb2 as wire
from energyfleet.v1 import ingestion_service_pb2 as ingestion_wire
from hypothesis import HealthCheck, event, given, settings
from hypothesis import strategies as st

from analytics_svc.sessions import PAUSE_US
from shared.timestamps import US_PER_DAY, US_PER_HOUR, US_PER_MINUTE, US_PER_SECOND, us_from_proto
from tests import session_model
from tests.acceptance.test_against_model import close
from tests.acceptance.test_fleet_against_model import Aged, aged, check_window, instant, let_age, present, window_of
from tests.ageing import Ageing
from tests.builders import NOW_US, a_meter_reading, a_vehicle_reading
from tests.model import Contradiction, Model

if TYPE_CHECKING:  # in the stubs' types only
    from energyfleet.v1.analytics_service_pb2_grpc import AnalyticsServiceAsyncStub
    from energyfleet.v1.ingestion_service_pb2_grpc import IngestionServiceAsyncStub

VEHICLES = METERS = range(2)
ANCHOR_US = NOW_US // US_PER_DAY * US_PER_DAY - US_PER_DAY
PARTS = 1_024
"""Of a kWh, without rounding."""

_examples = itertools.count()

numbers = st.sampled_from(VEHICLES)
offsets = st.one_of(
    st.builds(lambda hour, beside: hour * US_PER_HOUR + beside, st.integers(-10, 18), st.sampled_from([-1, 0, 0, 1])),
    st.integers(-60, 108).map(lambda tenth: tenth * US_PER_HOUR // 6),
    st.integers(-10 * 3600, 18 * 3600).map(lambda second: second * US_PER_SECOND + 71),
)


@dataclass(frozen=True)
class Charge:
    """A device charges, or stands by, and reports; or one that is silent meanwhile reports all of it once."""

    side: str
    number: int
    start: int
    minutes: int
    kw: float
    every_s: int
    jitter: int
    report: str
    late_minutes: int


charges = st.builds(
    Charge,
    st.sampled_from(["meter", "vehicle"]),
    numbers,
    offsets,
    st.sampled_from([3, 10, 20, 45, 75, 120, 300]),
    st.sampled_from([0.0, 0.06, 0.15, 0.25, 1.4, 7.4, 11.0, -3.0]),
    st.sampled_from([20, 60, 300, 900, 1_800, 3_600]),
    st.sampled_from([0, 0, 1, 250_000]),
    st.sampled_from(["regular", "regular", "regular", "once", "with a gap", "every other"]),
    st.sampled_from([0, 1, 10, 14, 15, 16, 40, 100, 600]),
)
pairs = st.builds(
    lambda charge, ratio, every_s, report, shift: [
        charge,
        Charge(
            "vehicle" if charge.side == "meter" else "meter",
            charge.number,
            charge.start + shift * US_PER_MINUTE,
            charge.minutes,
            charge.kw * ratio,
            every_s,
            0,
            report,
            charge.late_minutes,
        ),
    ],
    charges,
    st.sampled_from([0.5, 0.9, 1.0]),
    st.sampled_from([20, 60, 300, 900, 3_600]),
    st.sampled_from(["regular", "regular", "once", "with a gap"]),
    st.sampled_from([0, 0, 0, 1, -7, 20]),
)
single = st.tuples(
    st.sampled_from(["meter", "vehicle"]), numbers, offsets, st.integers(-200, 8 * PARTS).map(lambda n: n / PARTS)
)
maps = st.tuples(numbers, numbers, offsets, st.booleans())
windows = st.tuples(offsets, offsets).map(sorted).filter(lambda ends: ends[0] < ends[1])


@dataclass(frozen=True)
class Happened:
    maps: list[tuple[int, int, int, bool]]
    charges: list[list[Charge]]
    singles: list[tuple[str, int, int, float]]
    windows: list[list[int]]
    aged: Aged


happenings = st.builds(
    Happened,
    st.lists(maps, max_size=5),
    st.lists(pairs | charges.map(lambda charge: [charge]), min_size=1, max_size=5),
    st.lists(single, max_size=6),
    st.lists(windows, min_size=1, max_size=2).map(lambda some: [*some, [-12 * US_PER_HOUR, 24 * US_PER_HOUR]]),
    aged,
)


def readings_of(charge: Charge) -> dict[int, float]:
    """The energies of its readings, by their time from the anchor."""
    every_us = charge.every_s * US_PER_SECOND
    lasts_us = charge.minutes * US_PER_MINUTE
    count = max(lasts_us // every_us, 1)
    kwh = round(charge.kw * charge.every_s / 3_600 * PARTS * 64) / PARTS / 64
    times = [charge.start + number * every_us + number % 3 * charge.jitter for number in range(1, count + 1)]
    if charge.report == "once":
        return {charge.start + lasts_us + charge.late_minutes * US_PER_MINUTE: kwh * count}
    if charge.report == "every other":
        return dict.fromkeys(times[1::2], kwh * 2)
    if charge.report == "with a gap" and count > 3:
        first, last = count // 3, 2 * count // 3
        kept = {ts: kwh for number, ts in enumerate(times) if not first <= number < last}
        kept[times[last]] = kwh * (last - first + 1)
        return kept
    return dict.fromkeys(times, kwh)


async def let_happen(
    happened: Happened, ingest: IngestionServiceAsyncStub, model: Model, prefix: str, ageing: Ageing
) -> None:
    """Through the real service, and into the model; days are sealed meanwhile."""
    ageing.renew()
    for vehicle, meter, at, join in happened.maps:
        vehicle_id, meter_id = f"{prefix}v{vehicle}", f"{prefix}m{meter}"
        request = ingestion_wire.MapVehicleRequest(vehicle_id=vehicle_id, meter_id=meter_id)
        request.effective_from.FromMicroseconds(ANCHOR_US + at)
        request.mode = ingestion_wire.MAPPING_MODE_JOIN if join else ingestion_wire.MAPPING_MODE_REPLACE
        try:
            model.map(vehicle_id, meter_id, ANCHOR_US + at, join=join)
        except Contradiction:
            continue
        await ingest.MapVehicle(request)
    sent: dict[tuple[str, int, int], float] = {}
    for charge in itertools.chain.from_iterable(happened.charges):
        sent |= {(charge.side, charge.number, at): kwh for at, kwh in readings_of(charge).items()}
    sent |= {(side, number, at): kwh for side, number, at, kwh in happened.singles}
    telemetry = [
        a_meter_reading(f"{prefix}m{number}", ANCHOR_US + at, kwh)
        if side == "meter"
        else a_vehicle_reading(f"{prefix}v{number}", ANCHOR_US + at, kwh, soc=at // US_PER_MINUTE % 100)
        for (side, number, at), kwh in sent.items()
    ]
    half = min(-(-len(telemetry) // 2), 5_000)
    for start in range(0, len(telemetry), half):
        some = telemetry[start : start + half]
        await ingest.IngestTelemetry(ingestion_wire.IngestTelemetryRequest(readings=some))
        await ageing.seal(happened.aged.sealing_steps)
    model.send(telemetry)


@pytest.mark.timeout(900)
@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(happened=happenings)
async def test_sessions_are_what_the_model_says_and_add_up_with_what_lies_outside(
    happened: Happened, ingest: IngestionServiceAsyncStub, ask: AnalyticsServiceAsyncStub, ageing: Ageing
) -> None:
    model, prefix = Model(), f"s{next(_examples)}-"
    await let_happen(happened, ingest, model, prefix, ageing)
    let_age(happened.aged, ANCHOR_US, ageing, model)
    for start, end in happened.windows:
        start_us, end_us = ANCHOR_US + start, ANCHOR_US + end
        for number in VEHICLES:
            if model.knows(f"{prefix}v{number}"):
                await check_vehicle(ask, model, f"{prefix}v{number}", start_us, end_us)
        for number in METERS:
            meter_id = f"{prefix}m{number}"
            if model.history.get(("meter", meter_id)) or any(each.meter_id == meter_id for each in model.mappings):
                await check_meter(ask, model, meter_id, start_us, end_us)


async def all_sessions(
    ask: AnalyticsServiceAsyncStub, start_us: int, end_us: int, page_size: int = 2, **device: str
) -> tuple[wire.ListChargingSessionsResponse, list[wire.ChargingSession]]:
    request = wire.ListChargingSessionsRequest(window=window_of(start_us, end_us), page_size=page_size, **device)
    found: list[wire.ChargingSession] = []
    first = None
    while True:
        answer = await ask.ListChargingSessions(request)
        first = first or answer
        found += answer.sessions
        assert answer.matched == first.matched
        request.page_token = answer.next_page_token
        if not answer.next_page_token:
            assert len(found) == first.matched
            return first, found


def of_wire(session: wire.ChargingSession) -> tuple[Any, ...]:
    return (
        us_from_proto(session.window.start),
        us_from_proto(session.window.end),
        instant(present(session, "charged_until")),
        session.begins_before_window,
        session.open,
    )


def of_model(session: session_model.Session) -> tuple[Any, ...]:
    charged_us = session.charged_until_us if session.charged_until_us > session.begin_us else None
    return session.begin_us, session.end_us, charged_us, session.begins_before, session.open


async def check_vehicle(
    ask: AnalyticsServiceAsyncStub, model: Model, vehicle_id: str, start_us: int, end_us: int
) -> None:
    answer, sessions = await all_sessions(ask, start_us, end_us, vehicle_id=vehicle_id)
    start_us, end_us = check_window(answer, model, start_us, end_us)
    expected = session_model.vehicle_sessions(model, vehicle_id, start_us, end_us, PAUSE_US)
    assert [of_wire(each) for each in sessions] == [of_model(each) for each in expected]
    event(f"{min(len(sessions), 4)} sessions")
    total_dc, total_ac = [], []
    last_us = start_us
    for session, its in zip(sessions, expected, strict=True):
        assert session.vehicle_id == vehicle_id
        assert last_us <= its.begin_us < its.end_us <= end_us
        last_us = its.end_us
        assert close(present(session, "highest_power_kw"), its.highest_kw)
        one = await ask.GetVehiclePerformance(
            wire.GetVehiclePerformanceRequest(vehicle_id=vehicle_id, window=session.window)
        )
        check_alike(session, one)
        sums = model.performance(vehicle_id, its.begin_us, its.end_us)
        assert close(present(session.performance, "kwh_delivered_dc"), sums.dc)
        assert close(present(session.performance, "kwh_consumed_ac"), sums.ac)
        assert list(session.meters) == list(one.evidence.mappings)
        check_charge_state(session, model, vehicle_id, its)
        total_dc.append(sums.dc)
        total_ac.append(sums.ac)
    whole = model.performance(vehicle_id, start_us, end_us)
    assert close(together(total_dc, present(answer, "kwh_delivered_dc_outside")), whole.dc)
    assert close(together(total_ac, present(answer, "kwh_consumed_ac_outside")), whole.ac)


def check_alike(session: wire.ChargingSession, one: wire.GetVehiclePerformanceResponse) -> None:
    """A session's performance is what the single answer about its window is."""
    told = session.performance
    assert told.mapping_count == one.evidence.mapping_count
    for name in (field.name for field in told.DESCRIPTOR.fields if field.name != "mapping_count"):
        if name in ("kwh_delivered_dc", "kwh_consumed_ac", "efficiency_ratio", "kwh_lost"):
            assert close(present(told, name), present(one, name)), name
        else:
            assert getattr(told, name) == getattr(one, name), name


def check_charge_state(
    session: wire.ChargingSession, model: Model, vehicle_id: str, its: session_model.Session
) -> None:
    sent = {
        ts_us: values[1]
        for ts_us, values in sorted(model.counted(("vehicle", vehicle_id)).items())
        if its.begin_us < ts_us <= its.end_us
    }
    states = list(sent.values())
    assert present(session, "soc_at_start") == (states[0] if states else None)
    assert present(session, "soc_at_end") == (states[-1] if states else None)


async def check_meter(ask: AnalyticsServiceAsyncStub, model: Model, meter_id: str, start_us: int, end_us: int) -> None:
    answer, sessions = await all_sessions(ask, start_us, end_us, meter_id=meter_id)
    start_us, end_us = check_window(answer, model, start_us, end_us)
    alone = [each for each in sessions if not each.vehicle_id]
    expected = session_model.meter_sessions(model, meter_id, start_us, end_us, PAUSE_US)
    assert [of_wire(each) for each in alone] == [of_model(each) for each in expected]
    mapped = [each for each in model.mappings if each.meter_id == meter_id]
    drawn: list[float | None] = []
    for vehicle_id in {each.vehicle_id for each in mapped}:
        _, its = await all_sessions(ask, start_us, end_us, page_size=0, vehicle_id=vehicle_id)
        fed = [
            session
            for session in its
            if any(
                span.vehicle_id == vehicle_id
                and span.within(us_from_proto(session.window.start), us_from_proto(session.window.end))
                for span in mapped
            )
        ]
        assert [each for each in sessions if each.vehicle_id == vehicle_id] == fed
    for session in sessions:
        drawn += [present(each, "kwh_consumed_ac") for each in session.meters if each.meter_id == meter_id]
    assert [us_from_proto(each.window.start) for each in sessions] == sorted(
        us_from_proto(each.window.start) for each in sessions
    )
    counted = model.counted(("meter", meter_id))
    within = [values[0] or 0.0 for ts_us, values in counted.items() if start_us < ts_us <= end_us]
    assert close(together(drawn, present(answer, "kwh_consumed_ac_outside")), math.fsum(within) if within else None)


def together(energies: list[float | None], outside: float | None) -> float | None:
    known = [each for each in [*energies, outside] if each is not None]
    return math.fsum(known) if known else None
