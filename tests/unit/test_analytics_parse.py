"""Requests become questions; what is wrong with a request is told in one go."""

from datetime import datetime
from typing import Any

import pytest
from energyfleet.v1 import analytics_service_pb2 as wire
from google.protobuf.timestamp_pb2 import Timestamp
from hypothesis import given
from hypothesis import strategies as st

from analytics_svc import parse
from analytics_svc.questions import (
    Alignment,
    AskedWindow,
    DeviceOrder,
    DevicePage,
    DeviceQuestion,
    DeviceState,
    FleetPage,
    FleetQuestion,
    MeterQuestion,
    Order,
    SeriesQuestion,
    StatusQuestion,
    Window,
)
from shared.db.device_kind import METER
from shared.device_ids import DEVICE_ID_ACCEPTED
from shared.errors import InvalidRequest
from shared.requests import IDS_TOLD_MAX
from shared.timestamps import (
    TIMESTAMP_MAX_SECONDS,
    TIMESTAMP_MIN_SECONDS,
    US_PER_DAY,
    US_PER_HOUR,
    US_PER_SECOND,
    datetime_from_us,
    proto_from_us,
    us_from_datetime,
    us_from_proto,
)

NOW_US = 1_770_631_200_123_456
"""2026-02-09T10:00:00.123456Z."""

NOON_US = NOW_US - 123_456 + 2 * US_PER_HOUR


def a_request(
    *, vehicle_id: str = "car-1", start: Timestamp | None = None, end: Timestamp | None = None, window: bool = True
) -> wire.GetVehiclePerformanceRequest:
    asked = wire.TimeWindow(start=start, end=end) if window else None
    return wire.GetVehiclePerformanceRequest(vehicle_id=vehicle_id, window=asked)


def window_of(request: wire.GetVehiclePerformanceRequest) -> Window:
    return parse.parse_get_vehicle_performance(request, NOW_US).window


def violated(request: wire.GetVehiclePerformanceRequest) -> list[str]:
    with pytest.raises(InvalidRequest) as caught:
        parse.parse_get_vehicle_performance(request, NOW_US)
    return [violation.field for violation in caught.value.violations]


@pytest.mark.parametrize("request_", [a_request(window=False), a_request()], ids=["absent", "without ends"])
def test_an_absent_window_is_the_24_hours_up_to_now(request_: wire.GetVehiclePerformanceRequest) -> None:
    assert window_of(request_) == Window(NOW_US - US_PER_DAY, NOW_US)


def test_an_end_alone_is_the_24_hours_up_to_it() -> None:
    end_us = NOW_US - 7 * US_PER_DAY
    assert window_of(a_request(end=proto_from_us(end_us))) == Window(end_us - US_PER_DAY, end_us)


def test_a_start_alone_reaches_up_to_now() -> None:
    start_us = NOW_US - US_PER_HOUR
    assert window_of(a_request(start=proto_from_us(start_us))) == Window(start_us, NOW_US)


def test_both_ends_are_taken_as_they_are_and_may_lie_ahead_of_the_clock() -> None:
    request = a_request(start=proto_from_us(NOW_US), end=proto_from_us(NOW_US + 1))
    assert window_of(request) == Window(NOW_US, NOW_US + 1)


def test_the_epoch_is_an_instant_and_not_an_absent_one() -> None:
    assert window_of(a_request(end=Timestamp())) == Window(-US_PER_DAY, 0)


def test_400_days_are_answered_and_a_microsecond_more_is_not() -> None:
    longest_us = parse.WINDOW_MAX_DAYS * US_PER_DAY
    assert parse.WINDOW_MAX_DAYS == 400
    assert window_of(a_request(start=proto_from_us(NOW_US - longest_us))) == Window(NOW_US - longest_us, NOW_US)
    assert violated(a_request(start=proto_from_us(NOW_US - longest_us - 1))) == ["window"]


@pytest.mark.parametrize("start_us", [NOW_US, NOW_US + 1])
def test_a_start_that_is_not_before_the_end_is_refused(start_us: int) -> None:
    assert violated(a_request(start=proto_from_us(start_us), end=proto_from_us(NOW_US))) == ["window"]


def test_a_start_ahead_of_the_clock_is_refused_with_the_clock_named() -> None:
    with pytest.raises(InvalidRequest, match=r"before the end 2026-02-09T10:00:00.123456Z, which is now"):
        parse.parse_get_vehicle_performance(a_request(start=proto_from_us(NOW_US + US_PER_HOUR)), NOW_US)


@pytest.mark.parametrize(
    "malformed",
    [
        Timestamp(seconds=1, nanos=-1_000),
        Timestamp(seconds=1, nanos=1_000_000_000),
        Timestamp(seconds=TIMESTAMP_MIN_SECONDS - 1),
        Timestamp(seconds=TIMESTAMP_MAX_SECONDS + 1),
        Timestamp(seconds=2**63 - 1),
        Timestamp(seconds=-(2**63)),
    ],
    ids=str,
)
def test_what_is_no_timestamp_is_refused_at_either_end(malformed: Timestamp) -> None:
    assert violated(a_request(start=malformed)) == ["window.start"]
    assert violated(a_request(end=malformed)) == ["window.end"]


@pytest.mark.parametrize("vehicle_id", ["", "x" * 65, " car", "car ", "cär", "car-1\n", "car\x7f"])
def test_an_absent_or_malformed_vehicle_id_is_refused(vehicle_id: str) -> None:
    assert violated(a_request(vehicle_id=vehicle_id)) == ["vehicle_id"]


def test_all_violations_are_told_at_once() -> None:
    request = a_request(vehicle_id="", start=Timestamp(nanos=-1), end=Timestamp(seconds=2**62))
    assert violated(request) == ["vehicle_id", "window.start", "window.end"]
    backwards = a_request(vehicle_id=" ", start=proto_from_us(2), end=proto_from_us(1))
    assert violated(backwards) == ["vehicle_id", "window"]


def test_a_status_is_asked_for_by_a_well_formed_id() -> None:
    parse.require_device_id("meter_id", "EVSE:1.a_B-2")
    for malformed in ("", "x" * 65, " a"):
        with pytest.raises(InvalidRequest) as caught:
            parse.require_device_id("meter_id", malformed)
        assert [violation.field for violation in caught.value.violations] == ["meter_id"]


def a_batch(vehicles: list[str], meters: list[str]) -> wire.BatchGetStatusRequest:
    return wire.BatchGetStatusRequest(vehicle_ids=vehicles, meter_ids=meters)


def violations_of(request: wire.BatchGetStatusRequest) -> dict[str, str]:
    with pytest.raises(InvalidRequest) as caught:
        parse.parse_batch_get_status(request)
    return {violation.field: violation.description for violation in caught.value.violations}


def test_a_batch_is_asked_for_in_its_order_and_as_often_as_it_names_a_device() -> None:
    question = parse.parse_batch_get_status(a_batch(["b", "a", "b"], ["m"]))
    assert (question.vehicle_ids, question.meter_ids) == (["b", "a", "b"], ["m"])
    assert parse.parse_batch_get_status(a_batch([], [])) == StatusQuestion([], [])


def test_a_batch_has_1000_devices_at_most_vehicles_and_meters_together() -> None:
    assert parse.STATUS_MAX_DEVICES == 1_000
    assert len(parse.parse_batch_get_status(a_batch(["v"] * 999, ["m"])).vehicle_ids) == 999
    told = violations_of(a_batch(["v"] * 999, ["m"] * 2))
    assert told == {"vehicle_ids, meter_ids": "1,001 devices in a call; at most 1,000"}


def test_wrong_ids_of_a_batch_are_told_by_position_the_first_few_and_the_count_of_the_others() -> None:
    told = violations_of(a_batch(["v", "", "v", "v "], ["m", "x" * 65]))
    assert list(told) == ["vehicle_ids[1]", "vehicle_ids[3]", "meter_ids[1]"]
    assert told["vehicle_ids[3]"] == f"'v ' is not an id: {DEVICE_ID_ACCEPTED}"
    told = violations_of(a_batch(["é"] * 9, [" "] * 1_000))
    assert len(told) == 1 + 2 * (IDS_TOLD_MAX + 1)
    assert told["vehicle_ids"] == "4 more are not ids"
    assert told["meter_ids"] == "995 more are not ids"


_instants = st.none() | st.builds(
    Timestamp,
    seconds=st.integers(-(2**63), 2**63 - 1)
    | st.integers(TIMESTAMP_MIN_SECONDS, TIMESTAMP_MIN_SECONDS + 100_000)
    | st.integers(NOW_US // US_PER_SECOND - 500 * 86_400, NOW_US // US_PER_SECOND + 500 * 86_400),
    nanos=st.integers(-(2**31), 2**31 - 1) | st.integers(0, 999_999).map(lambda us: us * 1_000),
)


@given(start=_instants, end=_instants)
def test_any_window_is_either_refused_or_one_that_the_database_can_be_asked_for(
    start: Timestamp | None, end: Timestamp | None
) -> None:
    try:
        window = window_of(a_request(start=start, end=end))
    except InvalidRequest:
        return
    assert 0 < window.end_us - window.start_us <= parse.WINDOW_MAX_DAYS * US_PER_DAY
    assert datetime_from_us(window.start_us) < datetime_from_us(window.end_us)
    if start is not None:
        assert window.start_us == us_from_proto(start)
    if end is not None:
        assert window.end_us == us_from_proto(end)


ASKED = AskedWindow(None, None, Alignment.HOUR, "UTC")


def page_of(**fields: Any) -> FleetPage:
    return parse.parse_list_vehicle_performance(wire.ListVehiclePerformanceRequest(**fields), NOW_US)


def list_violations(**fields: Any) -> list[str]:
    with pytest.raises(InvalidRequest) as caught:
        page_of(**fields)
    return [violation.field for violation in caught.value.violations]


def test_a_fleet_s_window_is_the_running_hour_and_the_23_before_it() -> None:
    assert page_of().window == Window(NOON_US - 25 * US_PER_HOUR, NOON_US - US_PER_HOUR)


def test_a_fleet_s_window_is_widened_to_whole_hours_in_utc() -> None:
    def widened(start_us: int, end_us: int) -> Window:
        return page_of(window=wire.TimeWindow(start=proto_from_us(start_us), end=proto_from_us(end_us))).window

    assert widened(NOON_US, NOON_US + 1) == Window(NOON_US, NOON_US + US_PER_HOUR)
    assert widened(NOON_US - 1, NOON_US) == Window(NOON_US - US_PER_HOUR, NOON_US)
    assert widened(NOON_US - US_PER_HOUR, NOON_US) == Window(NOON_US - US_PER_HOUR, NOON_US)


def test_a_fleet_is_asked_about_for_400_days_at_most() -> None:
    end = proto_from_us(NOON_US)
    longest_us = parse.WINDOW_MAX_DAYS * US_PER_DAY
    assert page_of(window=wire.TimeWindow(start=proto_from_us(NOON_US - longest_us), end=end))
    assert list_violations(window=wire.TimeWindow(start=proto_from_us(NOON_US - longest_us - 1), end=end)) == ["window"]
    assert list_violations(window=wire.TimeWindow(start=end, end=end)) == ["window"]
    last = Timestamp(seconds=TIMESTAMP_MAX_SECONDS)
    assert list_violations(window=wire.TimeWindow(end=last)) == ["window.end"]


def test_a_fleet_s_window_may_be_exact() -> None:
    asked = wire.TimeWindow(start=proto_from_us(NOON_US - 7), end=proto_from_us(NOON_US + 3))
    exact = wire.WINDOW_ALIGNMENT_EXACT
    assert page_of(window=asked, alignment=exact).window == Window(NOON_US - 7, NOON_US + 3)
    assert page_of(alignment=exact).window == Window(NOW_US - US_PER_DAY, NOW_US)


@pytest.mark.parametrize(
    ("zone", "start", "end", "begins", "ends"),
    [
        ("", "2026-03-28T10:00Z", "2026-03-29T00:00Z", "2026-03-28T00:00Z", "2026-03-29T00:00Z"),
        ("", "2026-03-28T00:00Z", "2026-03-29T00:00:00.000001Z", "2026-03-28T00:00Z", "2026-03-30T00:00Z"),
        # a day of 23 hours
        ("Europe/Berlin", "2026-03-29T09:00Z", "2026-03-29T10:00Z", "2026-03-28T23:00Z", "2026-03-29T22:00Z"),
        ("Asia/Kathmandu", "2026-03-28T18:15Z", "2026-03-28T18:16Z", "2026-03-28T18:15Z", "2026-03-29T18:15Z"),
        ("Asia/Kathmandu", "2026-03-28T18:14Z", "2026-03-28T18:15Z", "2026-03-27T18:15Z", "2026-03-28T18:15Z"),
    ],
)
def test_a_fleet_s_window_may_be_of_days_of_a_time_zone(
    zone: str, start: str, end: str, begins: str, ends: str
) -> None:
    start_us, end_us, begins_us, ends_us = (
        us_from_datetime(datetime.fromisoformat(each)) for each in (start, end, begins, ends)
    )
    asked = wire.TimeWindow(start=proto_from_us(start_us), end=proto_from_us(end_us))
    page = page_of(window=asked, alignment=wire.WINDOW_ALIGNMENT_DAY, time_zone=zone)
    assert page.window == Window(begins_us, ends_us)
    of_its_end = page_of(window=wire.TimeWindow(end=asked.end), alignment=wire.WINDOW_ALIGNMENT_DAY, time_zone=zone)
    assert of_its_end.window.end_us == ends_us


def test_an_alignment_that_is_none_and_a_zone_without_days_are_refused() -> None:
    assert list_violations(alignment=9) == ["alignment"]
    assert list_violations(time_zone="Europe/Berlin") == ["time_zone"]
    assert list_violations(alignment=wire.WINDOW_ALIGNMENT_DAY, time_zone="Mars/Olympus") == ["time_zone"]
    first = wire.TimeWindow(end=Timestamp(seconds=TIMESTAMP_MIN_SECONDS + 7))
    assert list_violations(window=first, alignment=wire.WINDOW_ALIGNMENT_DAY, time_zone="Asia/Tokyo") == ["window"]


def test_a_list_without_wishes_is_the_whole_fleet_by_ratio_in_pages_of_100() -> None:
    page = page_of()
    assert page.question == FleetQuestion(ASKED, frozenset(), frozenset(), Order.RATIO)
    assert (page.size, page.place) == (100, None)


def test_questions_that_mean_the_same_are_one_question() -> None:
    verdicts = [wire.VERDICT_OK, wire.VERDICT_NO_METER]
    one = page_of(verdicts=verdicts, vehicle_ids=["a", "b", "a"], page_size=1)
    other = page_of(verdicts=verdicts[::-1], vehicle_ids=["b", "a"], order=wire.PERFORMANCE_ORDER_RATIO)
    assert one.question == other.question
    assert one.question != page_of(verdicts=verdicts, vehicle_ids=["a"]).question


def test_all_violations_of_a_list_are_told_at_once() -> None:
    fields = {"verdicts": [0], "vehicle_ids": ["a", "b "], "order": 9, "page_size": -1, "page_token": "?"}
    assert list_violations(**fields) == ["verdicts", "vehicle_ids[1]", "order", "page_size", "page_token"]
    assert list_violations(verdicts=[6], page_size=1_001) == ["verdicts", "page_size"]
    assert page_of(page_size=1_000, vehicle_ids=[f"v{n}" for n in range(1_000)]).size == 1_000
    assert list_violations(vehicle_ids=[f"v{n}" for n in range(1_001)]) == ["vehicle_ids"]
    assert len(list_violations(vehicle_ids=["é"] * 1_000)) == IDS_TOLD_MAX + 1


def meter_violations(**fields: Any) -> dict[str, str]:
    with pytest.raises(InvalidRequest) as caught:
        parse.parse_list_meter_performance(wire.ListMeterPerformanceRequest(**fields), NOW_US)
    return {violation.field: violation.description for violation in caught.value.violations}


def test_a_list_of_meters_is_asked_for_as_one_of_vehicles_is() -> None:
    page = parse.parse_list_meter_performance(wire.ListMeterPerformanceRequest(meter_ids=["b", "a", "b"]), NOW_US)
    assert page.question == MeterQuestion(ASKED, frozenset(), frozenset({"a", "b"}), Order.RATIO)
    assert (page.window, page.size, page.place) == (page_of().window, 100, None)
    fields = {"verdicts": [0], "meter_ids": ["a", "b "], "order": 9, "page_size": -1, "page_token": "?"}
    assert list(meter_violations(**fields)) == ["verdicts", "meter_ids[1]", "order", "page_size", "page_token"]
    end = proto_from_us(NOON_US)
    assert list(meter_violations(window=wire.TimeWindow(start=end, end=end))) == ["window"]
    assert list(meter_violations(meter_ids=[f"m{n}" for n in range(1_001)])) == ["meter_ids"]


def test_meters_have_no_order_by_a_drop() -> None:
    assert page_of(order=wire.PERFORMANCE_ORDER_DROP).question.order is Order.DROP
    assert meter_violations(order=wire.PERFORMANCE_ORDER_DROP) == {
        "order": "PERFORMANCE_ORDER_DROP is of vehicles: a meter has no ratio that is normal for it"
    }


def test_a_meter_never_lacks_a_meter() -> None:
    assert meter_violations(verdicts=[wire.VERDICT_OK, wire.VERDICT_NO_METER]) == {
        "verdicts": "5 is none of VERDICT_OK, VERDICT_LOW_EFFICIENCY, VERDICT_IMPLAUSIBLE, VERDICT_INSUFFICIENT_DATA"
    }


def device_violations(**fields: Any) -> dict[str, str]:
    with pytest.raises(InvalidRequest) as caught:
        parse.parse_list_devices(wire.ListDevicesRequest(**fields))
    return {violation.field: violation.description for violation in caught.value.violations}


def test_a_list_of_devices_is_of_all_by_freshness_unless_asked_otherwise() -> None:
    page = parse.parse_list_devices(wire.ListDevicesRequest())
    assert page == DevicePage(DeviceQuestion(None, frozenset(), DeviceOrder.FRESHNESS), 100, None)
    chosen = wire.ListDevicesRequest(
        kind=wire.DEVICE_KIND_METER,
        states=[wire.DEVICE_STATE_STALE, wire.DEVICE_STATE_STALE],
        order=wire.DEVICE_ORDER_CLOCK,
        page_size=7,
    )
    assert parse.parse_list_devices(chosen) == DevicePage(
        DeviceQuestion(METER, frozenset({DeviceState.STALE}), DeviceOrder.CLOCK), 7, None
    )


def test_all_violations_of_a_list_of_devices_are_told_with_what_is_accepted() -> None:
    found = device_violations(kind=3, states=[7], order=5, page_size=1_001, page_token="?")
    assert list(found) == ["kind", "states", "order", "page_size", "page_token"]
    assert found["kind"] == "3 is none of DEVICE_KIND_UNSPECIFIED, DEVICE_KIND_VEHICLE, DEVICE_KIND_METER"
    assert found["states"] == f"7 is none of {', '.join(DeviceState)}"
    assert found["order"] == f"5 is none of {', '.join(DeviceOrder)}"
    assert device_violations(states=[1] * 21) == {"states": "21 states; at most 20"}


def series_of(**fields: Any) -> SeriesQuestion:
    request = wire.GetPerformanceSeriesRequest(**({"vehicle_id": "car-1"} | fields))
    return parse.parse_get_performance_series(request, NOW_US)


def series_violations(**fields: Any) -> list[str]:
    with pytest.raises(InvalidRequest) as caught:
        series_of(**fields)
    return [violation.field for violation in caught.value.violations]


def test_a_series_is_24_hours_by_the_hour_or_30_days_by_the_day() -> None:
    hours = series_of()
    assert (hours.time_zone, len(hours.buckets)) == ("UTC", 25)
    assert (hours.buckets[0].start_us, hours.buckets[-1].end_us) == (NOW_US - US_PER_DAY, NOW_US)
    days = series_of(granularity=wire.SERIES_GRANULARITY_DAY, time_zone="Europe/Berlin")
    assert (days.time_zone, len(days.buckets)) == ("Europe/Berlin", 31)
    assert days.buckets[0].start_us == NOW_US - 30 * US_PER_DAY


def test_a_series_has_a_thousand_buckets_at_most() -> None:
    end_us = NOON_US
    assert len(series_of(window=hours_before(end_us, 1_000)).buckets) == 1_000
    assert series_violations(window=hours_before(end_us, 1_001)) == ["window"]
    assert series_violations(window=hours_before(end_us, 24 * 400)) == ["window"]
    assert len(series_of(window=hours_before(end_us, 24 * 400), granularity=wire.SERIES_GRANULARITY_DAY).buckets) == 401


def hours_before(end_us: int, hours: int) -> wire.TimeWindow:
    return wire.TimeWindow(start=proto_from_us(end_us - hours * US_PER_HOUR), end=proto_from_us(end_us))


@pytest.mark.parametrize(
    "zone",
    [
        *("Mars/Olympus", "Europe", "europe/berlin", "../UTC", "/etc/passwd", "a\0b", "x" * 5_000, "CET "),
        *("localtime", "posixrules", "right/UTC", "posix/Europe/Berlin", "Factory", "leapseconds", "zone.tab"),
    ],
)
def test_what_is_no_time_zone_is_refused(zone: str) -> None:
    assert series_violations(time_zone=zone, granularity=7, vehicle_id="") == ["vehicle_id", "granularity", "time_zone"]
    assert list_violations(time_zone=zone, alignment=wire.WINDOW_ALIGNMENT_DAY) == ["time_zone"]


@pytest.mark.parametrize("zone", ["Europe/Berlin", "UTC", "Etc/UTC", "Etc/GMT+1", "US/Pacific", "CET", "Asia/Calcutta"])
def test_places_and_their_aliases_and_offsets_are_time_zones(zone: str) -> None:
    assert series_of(time_zone=zone).time_zone == zone


def test_a_refused_time_zone_is_told_with_what_is_accepted() -> None:
    with pytest.raises(
        InvalidRequest, match=r"^time_zone: 'localtime' is no IANA time zone; accepted: .*Europe/Berlin"
    ):
        series_of(time_zone="localtime")


@pytest.mark.parametrize(
    ("seconds", "zone"), [(TIMESTAMP_MIN_SECONDS + 3_600, "America/New_York"), (TIMESTAMP_MAX_SECONDS, "Asia/Tokyo")]
)
def test_a_series_at_the_ends_of_time_is_refused_where_the_zone_has_no_year_for_it(seconds: int, zone: str) -> None:
    window = wire.TimeWindow(end=Timestamp(seconds=seconds))
    assert series_violations(window=window, time_zone=zone) == ["window"]
    assert series_violations(window=window, time_zone=zone, granularity=wire.SERIES_GRANULARITY_DAY) == ["window"]
