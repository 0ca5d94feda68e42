"""Charging sessions of what the field sends: where they begin and end, what lies in none, and what is refused."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import grpc
import pytest
from energyfleet.v1 import analytics_service_pb2 as wire
from energyfleet.v1.analytics_service_pb2_grpc import AnalyticsServiceStub
from energyfleet.v1.ingestion_service_pb2 import MapVehicleRequest

import analytics_svc.__main__
from analytics_svc import session_queries
from shared.config import AnalyticsSettings
from shared.db.embedded import EmbeddedServer
from shared.timestamps import US_PER_DAY, US_PER_MINUTE, proto_from_us, us_from_proto
from tests.acceptance.field_cases import send
from tests.acceptance.test_against_model import code_of
from tests.acceptance.test_ingestion_service import bad_fields
from tests.acceptance.test_verdict_cases import DAY_US, METER, VEHICLE, at, every, meter, standby_but, vehicle
from tests.builders import NOW_US, a_meter_reading, a_vehicle_reading, clock

if TYPE_CHECKING:  # in the stubs' types only
    from energyfleet.v1.analytics_service_pb2_grpc import AnalyticsServiceAsyncStub
    from energyfleet.v1.ingestion_service_pb2_grpc import IngestionServiceAsyncStub

pytestmark = pytest.mark.one_server

Answer = wire.ListChargingSessionsResponse


async def map_(
    ingest: IngestionServiceAsyncStub, from_us: int, vehicle_id: str = VEHICLE, meter_id: str = METER, **more: Any
) -> None:
    request = MapVehicleRequest(vehicle_id=vehicle_id, meter_id=meter_id, effective_from=proto_from_us(from_us), **more)
    await ingest.MapVehicle(request)


@pytest.fixture
async def mapped(ingest: IngestionServiceAsyncStub) -> None:
    await map_(ingest, DAY_US - 10 * US_PER_DAY)


def asked(start_us: int = DAY_US, end_us: int = DAY_US + US_PER_DAY, **more: Any) -> wire.ListChargingSessionsRequest:
    window = wire.TimeWindow(start=proto_from_us(start_us), end=proto_from_us(end_us))
    device = {} if "meter_id" in more else {"vehicle_id": VEHICLE}
    return wire.ListChargingSessionsRequest(**{"window": window, **device, **more})


def times(answer: Answer) -> list[tuple[int, int]]:
    return [(us_from_proto(each.window.start), us_from_proto(each.window.end)) for each in answer.sessions]


def clocks(*pairs: tuple[str, str]) -> list[tuple[int, int]]:
    return [(at(start), at(end)) for start, end in pairs]


@pytest.mark.usefixtures("mapped")
async def test_a_session_begins_and_ends_with_charging_and_standby_lies_outside(
    ingest: IngestionServiceAsyncStub, ask: AnalyticsServiceAsyncStub
) -> None:
    await send(ingest, *standby_but("18:00", "20:00", 15, 0.0075, 1.85))
    await send(ingest, *vehicle(15, 1.665, "18:00", "20:00", battery_temp=31.0))
    for number, ts_us in enumerate(every(15, at("18:00"), at("20:00"))):
        assert (await send(ingest, a_vehicle_reading("other", ts_us, soc=40.0 + number))).stored == 1

    answer = await ask.ListChargingSessions(asked())
    assert times(answer) == clocks(("18:00", "20:00"))
    [session] = answer.sessions
    assert not session.open
    assert not session.begins_before_window
    assert us_from_proto(session.charged_until) == at("20:00")
    assert session.performance.verdict == wire.VERDICT_OK
    assert session.performance.comparison.efficiency_ratio == pytest.approx(0.9)
    assert session.performance.average_battery_temp == pytest.approx(31.0)
    assert session.highest_power_kw == pytest.approx(6.66)
    assert session.mean_power_kw == pytest.approx(6.66)
    assert (session.soc_at_start, session.soc_at_end) == (50.0, 50.0)
    assert [(each.meter_id, each.meter_readings) for each in session.meters] == [(METER, 8)]
    assert answer.kwh_consumed_ac_outside == pytest.approx(0.66)
    assert not answer.HasField("kwh_delivered_dc_outside")
    assert answer.session_pause.ToMicroseconds() == 15 * US_PER_MINUTE


@pytest.mark.usefixtures("mapped")
@pytest.mark.parametrize("late", ["22:03", "31:30"])  # in the next morning
async def test_a_report_after_the_charge_belongs_to_it_and_does_not_reach_back_over_a_silent_day(
    late: str, ingest: IngestionServiceAsyncStub, ask: AnalyticsServiceAsyncStub
) -> None:
    await send(ingest, a_vehicle_reading(ts_us=at("02:00", -1), kwh_delivered_dc=0.0))
    await send(ingest, *meter(1, 0.1233, "18:00", "22:00", -1))
    await send(ingest, a_vehicle_reading(ts_us=at(late, -1), kwh_delivered_dc=26.6))

    answer = await ask.ListChargingSessions(asked(at("00:00", -1)))
    assert times(answer) == [(at("18:00", -1), at(late, -1))]
    [session] = answer.sessions
    assert us_from_proto(session.charged_until) == at("22:00", -1)
    assert session.performance.kwh_delivered_dc == pytest.approx(26.6)
    assert not session.HasField("highest_power_kw")
    assert session.mean_power_kw == pytest.approx(26.6 / 4, rel=0.01)


@pytest.mark.usefixtures("mapped")
async def test_an_outage_in_one_piece_belongs_to_the_evening_in_which_it_is_reported(
    ingest: IngestionServiceAsyncStub, ask: AnalyticsServiceAsyncStub
) -> None:
    await send(ingest, a_meter_reading(ts_us=at("17:45", -3), kwh_consumed_ac=0.01))
    for day in (-3, -2, -1):
        await send(ingest, *vehicle(15, 2.25, "18:00", "20:00", day))
    await send(ingest, a_meter_reading(ts_us=at("18:15"), kwh_consumed_ac=61.85), *meter(15, 1.85, "18:15", "20:00"))
    await send(ingest, *vehicle(15, 1.665, "18:00", "20:00"))

    answer = await ask.ListChargingSessions(asked(at("00:00", -3)))
    assert times(answer) == [(at("18:00", day), at("20:00", day)) for day in (-3, -2, -1, 0)]
    drawn = [each.performance.kwh_consumed_ac for each in answer.sessions]
    assert drawn == pytest.approx([0, 0, 0, 61.85 + 7 * 1.85])
    verdicts = [each.performance.verdict for each in answer.sessions]
    assert wire.VERDICT_LOW_EFFICIENCY not in verdicts


@pytest.mark.usefixtures("mapped")
@pytest.mark.parametrize(("pause", "sessions"), [(15, 1), (16, 2)])
async def test_a_pause_of_a_quarter_of_an_hour_is_within_a_session_and_a_longer_one_ends_it(
    pause: int, sessions: int, ingest: IngestionServiceAsyncStub, ask: AnalyticsServiceAsyncStub
) -> None:
    resumed = at("18:30") + pause * US_PER_MINUTE
    charging = {*every(1, at("18:00"), at("18:30")), *every(1, resumed, at("20:00"))}
    for ts_us in every(1, at("17:30"), at("20:30")):
        kwh = 0.12 if ts_us in charging else 0.0
        await send(ingest, a_meter_reading(ts_us=ts_us, kwh_consumed_ac=kwh))
        await send(ingest, a_vehicle_reading(ts_us=ts_us, kwh_delivered_dc=kwh))

    answer = await ask.ListChargingSessions(asked())
    if sessions == 1:
        assert times(answer) == clocks(("18:00", "20:00"))
    else:
        assert times(answer) == [(at("18:00"), at("18:30")), (resumed, at("20:00"))]


@pytest.mark.usefixtures("mapped")
async def test_a_device_s_own_interval_is_no_pause_where_it_is_longer(
    ingest: IngestionServiceAsyncStub, ask: AnalyticsServiceAsyncStub
) -> None:
    energies = dict.fromkeys(range(18, 24), 7.4) | {20: 0.02}
    for hour in range(12, 25):
        await send(ingest, a_meter_reading(ts_us=at(f"{hour}:00"), kwh_consumed_ac=energies.get(hour, 0.02)))

    assert times(await ask.ListChargingSessions(asked())) == clocks(("17:00", "23:00"))


@pytest.mark.usefixtures("mapped")
async def test_a_car_that_is_silent_between_two_charges_has_two_sessions(
    ingest: IngestionServiceAsyncStub, ask: AnalyticsServiceAsyncStub
) -> None:
    await send(ingest, *vehicle(1, 0.11, "10:00", "11:00"), *vehicle(1, 0.11, "11:40", "12:00"))

    assert times(await ask.ListChargingSessions(asked())) == clocks(("10:00", "11:00"), ("11:40", "12:00"))


@pytest.mark.usefixtures("mapped")
async def test_sessions_that_a_window_cuts_say_so(
    ingest: IngestionServiceAsyncStub, ask: AnalyticsServiceAsyncStub
) -> None:
    await send(ingest, *meter(1, 0.12, "18:00", "20:00"))
    await send(ingest, *vehicle(1, 0.2, "18:00", "18:20"), *vehicle(1, 0.11, "18:20", "20:00"))

    [session] = (await ask.ListChargingSessions(asked(at("18:30"), at("19:00")))).sessions
    assert session.highest_power_kw == pytest.approx(6.6)
    assert (us_from_proto(session.window.start), us_from_proto(session.window.end)) == (at("18:30"), at("19:00"))
    assert session.begins_before_window
    assert session.open
    for end, is_open in (("20:00", True), ("20:15", True), ("20:16", False)):
        [session] = (await ask.ListChargingSessions(asked(at("17:00"), at(end)))).sessions
        assert not session.begins_before_window
        assert session.open == is_open


async def test_a_vehicle_that_is_moved_within_a_session_has_both_meters(
    ingest: IngestionServiceAsyncStub, ask: AnalyticsServiceAsyncStub
) -> None:
    await map_(ingest, at("00:00"))
    await map_(ingest, at("19:00"), meter_id="meter-2")
    await send(ingest, *vehicle(5, 0.5, "18:00", "20:00"))
    await send(ingest, *meter(5, 0.55, "18:00", "19:00"), *meter(5, 0.55, "19:00", "20:00", meter_id="meter-2"))
    await send(ingest, *meter(5, 0.7, "19:00", "21:00"))

    [session] = (await ask.ListChargingSessions(asked())).sessions
    assert us_from_proto(session.window.end) == at("20:00")
    assert [each.meter_id for each in session.meters] == [METER, "meter-2"]
    assert session.performance.kwh_consumed_ac == pytest.approx(24 * 0.55)
    # What the first meter drew after the vehicle had left is a session of its own.
    answer = await ask.ListChargingSessions(asked(meter_id=METER))
    fed, alone = answer.sessions
    assert fed == session
    assert alone.vehicle_id == ""
    assert (us_from_proto(alone.window.start), us_from_proto(alone.window.end)) == (at("19:00"), at("21:00"))
    assert alone.performance.kwh_consumed_ac == pytest.approx(24 * 0.7)
    assert alone.performance.verdict == wire.VERDICT_INSUFFICIENT_DATA
    assert [(each.meter_id, each.meter_readings) for each in alone.meters] == [(METER, 24)]
    assert not answer.HasField("kwh_consumed_ac_outside")


async def test_a_meter_tells_of_a_vehicle_from_its_mapping_on(
    ingest: IngestionServiceAsyncStub, ask: AnalyticsServiceAsyncStub
) -> None:
    await map_(ingest, at("18:30"))
    await send(ingest, *meter(60, 7.4, "16:00", "20:00"), a_vehicle_reading(ts_us=at("16:00"), kwh_delivered_dc=0.0))

    answer = await ask.ListChargingSessions(asked())
    assert times(answer) == clocks(("18:30", "20:00"))
    assert answer.sessions[0].performance.kwh_consumed_ac == pytest.approx(14.8)
    [before, its] = (await ask.ListChargingSessions(asked(meter_id=METER))).sessions
    assert (before.vehicle_id, its) == ("", answer.sessions[0])
    assert (us_from_proto(before.window.start), us_from_proto(before.window.end)) == (at("16:00"), at("18:00"))


async def test_charging_without_a_meter_is_a_session(
    ingest: IngestionServiceAsyncStub, ask: AnalyticsServiceAsyncStub
) -> None:
    await send(ingest, *vehicle(5, 4.1667, "12:00", "12:30"))
    [session] = (await ask.ListChargingSessions(asked())).sessions
    assert session.performance.verdict == wire.VERDICT_NO_METER
    assert not session.meters


@pytest.mark.usefixtures("mapped")
async def test_energy_that_flows_back_is_no_charging(
    ingest: IngestionServiceAsyncStub, ask: AnalyticsServiceAsyncStub
) -> None:
    await send(ingest, *meter(15, 2.5, "12:00", "14:00"), *meter(15, -1.8, "18:00", "20:00"))
    await send(ingest, *vehicle(15, 2.3, "12:00", "14:00"), *vehicle(15, -2.0, "18:00", "20:00"))

    answer = await ask.ListChargingSessions(asked())
    assert [end_us for _, end_us in times(answer)] == [at("14:00")]
    assert answer.kwh_delivered_dc_outside == pytest.approx(-16.0)


@pytest.mark.usefixtures("mapped")
async def test_late_and_repeated_readings_change_their_own_session_only(
    ingest: IngestionServiceAsyncStub, ask: AnalyticsServiceAsyncStub
) -> None:
    sent = [*meter(5, 0.55, "08:00", "10:00"), *meter(5, 0.55, "18:00", "20:00"), *vehicle(5, 0.5, "08:00", "10:00")]
    evening = vehicle(5, 0.5, "18:00", "20:00")
    await send(ingest, *sent, *evening[:3], *evening[5:])
    before = await ask.ListChargingSessions(asked())
    assert (await send(ingest, *sent, *evening[:3])).duplicate == len(sent) + 3
    again = await ask.ListChargingSessions(asked())
    assert list(again.sessions) == list(before.sessions)

    assert (await send(ingest, *evening[3:5])).stored == 2
    after = await ask.ListChargingSessions(asked())
    assert after.sessions[0] == before.sessions[0]
    assert times(after) == times(before)
    assert after.sessions[1].performance.kwh_delivered_dc == pytest.approx(24 * 0.5)
    assert before.sessions[1].performance.kwh_delivered_dc == pytest.approx(22 * 0.5)


@pytest.mark.usefixtures("mapped")
async def test_pages_are_parts_of_one_result_whatever_arrives_meanwhile(
    ingest: IngestionServiceAsyncStub, ask: AnalyticsServiceAsyncStub
) -> None:
    for hour in (6, 10, 14):
        await send(ingest, *vehicle(5, 0.5, f"{hour}:00", f"{hour + 1}:00"))
    whole = await ask.ListChargingSessions(asked())
    first = await ask.ListChargingSessions(asked(page_size=2))
    await send(ingest, *vehicle(5, 0.5, "02:00", "03:00"))

    second = await ask.ListChargingSessions(asked(page_size=5, page_token=first.next_page_token))
    assert [*first.sessions, *second.sessions] == list(whole.sessions)
    assert (second.matched, second.as_of, second.next_page_token) == (3, first.as_of, "")
    for other in (asked(end_us=at("23:00")), asked(meter_id=METER), asked(vehicle_id="vehicle-002")):
        other.page_token = first.next_page_token
        with pytest.raises(grpc.aio.AioRpcError) as raised:
            await ask.ListChargingSessions(other)
        assert raised.value.code() == grpc.StatusCode.INVALID_ARGUMENT
        assert bad_fields(raised.value) == {"page_token"}


@pytest.mark.parametrize(
    ("request_", "fields"),
    [
        (wire.ListChargingSessionsRequest(), {"device"}),
        (wire.ListChargingSessionsRequest(vehicle_id=""), {"vehicle_id"}),
        (wire.ListChargingSessionsRequest(meter_id=" m", page_size=1_001), {"meter_id", "page_size"}),
        (wire.ListChargingSessionsRequest(meter_id="m", page_size=-1, page_token="?"), {"page_size", "page_token"}),
        (asked(DAY_US - 32 * US_PER_DAY - 1, DAY_US), {"window"}),
        (asked(DAY_US, DAY_US), {"window"}),
    ],
)
async def test_what_a_request_may_not_have_is_told_by_its_field(
    request_: wire.ListChargingSessionsRequest, fields: set[str], ask: AnalyticsServiceAsyncStub
) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await ask.ListChargingSessions(request_)
    assert raised.value.code() == grpc.StatusCode.INVALID_ARGUMENT
    assert bad_fields(raised.value) == fields


@pytest.mark.usefixtures("mapped")
async def test_an_unknown_device_is_not_found_and_similar_ones_are_named(ask: AnalyticsServiceAsyncStub) -> None:
    for device, similar in (
        (wire.ListChargingSessionsRequest(vehicle_id=VEHICLE.upper()), VEHICLE),
        (wire.ListChargingSessionsRequest(meter_id=METER.upper()), METER),
    ):
        with pytest.raises(grpc.aio.AioRpcError) as raised:
            await ask.ListChargingSessions(device)
        assert raised.value.code() == grpc.StatusCode.NOT_FOUND
        assert f"; {similar} is known" in str(raised.value.details())
    known = await ask.ListChargingSessions(wire.ListChargingSessionsRequest(meter_id=METER))
    assert (known.matched, known.next_page_token) == (0, "")


@pytest.mark.usefixtures("mapped")
async def test_more_sessions_or_vehicles_than_an_answer_holds_ask_for_a_shorter_window(
    ingest: IngestionServiceAsyncStub, ask: AnalyticsServiceAsyncStub, monkeypatch: pytest.MonkeyPatch
) -> None:
    await send(ingest, *vehicle(5, 0.5, "06:00", "07:00"), *vehicle(5, 0.5, "10:00", "11:00"))
    assert (session_queries.SESSIONS_MAX, session_queries.METER_VEHICLES_MAX) == (1_000, 50)
    monkeypatch.setattr(session_queries, "SESSIONS_MAX", 1)
    assert await code_of(ask.ListChargingSessions(asked())) == grpc.StatusCode.INVALID_ARGUMENT
    assert len((await ask.ListChargingSessions(asked(end_us=at("08:00")))).sessions) == 1
    monkeypatch.setattr(session_queries, "METER_VEHICLES_MAX", 0)
    assert await code_of(ask.ListChargingSessions(asked(meter_id=METER))) == grpc.StatusCode.INVALID_ARGUMENT


@pytest.mark.usefixtures("mapped")
async def test_how_long_a_pause_may_be_is_configured(
    ingest: IngestionServiceAsyncStub, postgres: EmbeddedServer, database: str
) -> None:
    await send(ingest, *vehicle(5, 0.5, "06:00", "07:00"), *vehicle(5, 0.5, "07:40", "09:00"))
    settings = AnalyticsSettings(
        database_url=postgres.url(database, role="energyfleet_analytics"),
        analytics_address="127.0.0.1:0",
        session_pause_minutes=60,
    )
    async with (
        analytics_svc.__main__.serving(settings, clock) as (_, address),
        grpc.aio.insecure_channel(address) as channel,
    ):
        answer = await AnalyticsServiceStub(channel).ListChargingSessions(asked())
    assert len(answer.sessions) == 1
    assert answer.session_pause.seconds == 3_600


async def test_an_absent_window_is_the_last_24_hours(
    ingest: IngestionServiceAsyncStub, ask: AnalyticsServiceAsyncStub
) -> None:
    await send(ingest, *vehicle(5, 0.5, "23:00", "24:15"))
    answer = await ask.ListChargingSessions(wire.ListChargingSessionsRequest(vehicle_id=VEHICLE))
    assert us_from_proto(answer.window.end) == NOW_US == us_from_proto(answer.window.start) + US_PER_DAY
    assert [each.open for each in answer.sessions] == [True]


@pytest.mark.usefixtures("mapped")
@pytest.mark.parametrize(("start", "end"), [("0001-01-01", "0001-01-02"), ("9999-12-30", "9999-12-31")])
async def test_windows_at_both_ends_of_time_are_answered(start: str, end: str, ask: AnalyticsServiceAsyncStub) -> None:
    for request in (asked(), asked(meter_id=METER)):
        request.window.start.FromJsonString(f"{start}T00:00:00Z")
        request.window.end.FromJsonString(f"{end}T00:00:00Z")
        assert (await ask.ListChargingSessions(request)).matched == 0
