"""Turns requests into questions. Pure: the time is a parameter.

InvalidRequest has all of a request's violations."""

from collections.abc import Sequence
from enum import StrEnum
from itertools import pairwise
from typing import Any, TypeVar
from zoneinfo import ZoneInfo

from energyfleet.v1 import analytics_service_pb2 as wire

from analytics_svc.buckets import BUCKETS_MAX, bucket_edges, widened_to_days
from analytics_svc.questions import (
    Alignment,
    AskedWindow,
    DeviceOrder,
    DevicePage,
    DeviceQuestion,
    DeviceState,
    FleetPage,
    FleetQuestion,
    Granularity,
    MeterPage,
    MeterQuestion,
    Order,
    PerformanceQuestion,
    SeriesQuestion,
    SessionPage,
    SessionQuestion,
    StatusQuestion,
    Verdict,
    Window,
)
from shared.db.device_kind import METER, VEHICLE
from shared.requests import Checks, place_of_page
from shared.time_zones import ACCEPTED, time_zone
from shared.timestamps import TIMESTAMP_MAX_US, TIMESTAMP_MIN_US, US_PER_DAY, US_PER_HOUR, iso_from_us, us_from_proto

Name = TypeVar("Name", bound=StrEnum)

WINDOW_DEFAULT_US = US_PER_DAY
"""The trailing 24 hours: they hold a whole night's charge at any time of day."""

WINDOW_MAX_DAYS = 400
"""A year with its leap day and the month before it fit. However long ago they were."""

DAYS_DEFAULT_US = 30 * US_PER_DAY
"""A month, for a series of days: 24 hours are two of them."""

VERDICTS_MAX = 20
"""Verdicts that a filter can name: four times as many as there are, so that naming one twice is no mistake."""

STATES_MAX = 20
"""States that a filter can name: more than there are, likewise."""

METER_VERDICTS = tuple(verdict for verdict in Verdict if verdict is not Verdict.NO_METER)
"""Those that a meter may have."""

IDS_MAX = 1_000
"""Vehicles or meters that a request can name: as many as a page has."""

PAGE_DEFAULT = 100
PAGE_MAX = 1_000
"""Vehicles, meters or devices in a page: some 300 KiB; charging sessions: 600."""

SESSIONS_WINDOW_MAX_DAYS = 32
"""The longest month in any time zone. Every reading of the hours of charging is looked at: half a million of a device
that reports each second and charges four hours a day."""

STATUS_MAX_DEVICES = 1_000
"""Devices in a call for status: an answer of 150 KiB or so, and some ten milliseconds of the database."""

_UTC = ZoneInfo("UTC")


def parse_get_vehicle_performance(request: wire.GetVehiclePerformanceRequest, now_us: int) -> PerformanceQuestion:
    """The question, with the window's absent ends filled in. Raises InvalidRequest."""
    checks = Checks()
    checks.device_id("vehicle_id", request.vehicle_id)
    window = _window(request.window, now_us, checks)
    checks.raise_if_any()
    return PerformanceQuestion(request.vehicle_id, window)


def parse_list_vehicle_performance(request: wire.ListVehiclePerformanceRequest, now_us: int) -> FleetPage:
    """The question and which page of its answer. Raises InvalidRequest."""
    checks = Checks()
    asked, window = _aligned(request, now_us, checks)
    verdicts = _named("verdicts", request.verdicts, tuple(Verdict), wire.Verdict, VERDICTS_MAX, checks)
    _check_ids("vehicle_ids", request.vehicle_ids, checks)
    order = _choice("order", request.order, Order.RATIO, wire.PerformanceOrder, checks)
    place = _place(request.page_size, request.page_token, checks)
    checks.raise_if_any()
    question = FleetQuestion(asked, verdicts, frozenset(request.vehicle_ids), order)
    return FleetPage(question, window, request.page_size or PAGE_DEFAULT, place)


def parse_list_meter_performance(request: wire.ListMeterPerformanceRequest, now_us: int) -> MeterPage:
    """Likewise."""
    checks = Checks()
    asked, window = _aligned(request, now_us, checks)
    verdicts = _named("verdicts", request.verdicts, METER_VERDICTS, wire.Verdict, VERDICTS_MAX, checks)
    _check_ids("meter_ids", request.meter_ids, checks)
    order = _choice("order", request.order, Order.RATIO, wire.PerformanceOrder, checks)
    if order is Order.DROP:
        checks.add("order", f"{order} is of vehicles: a meter has no ratio that is normal for it")
    place = _place(request.page_size, request.page_token, checks)
    checks.raise_if_any()
    question = MeterQuestion(asked, verdicts, frozenset(request.meter_ids), order)
    return MeterPage(question, window, request.page_size or PAGE_DEFAULT, place)


def parse_list_devices(request: wire.ListDevicesRequest) -> DevicePage:
    """Likewise."""
    checks = Checks()
    if request.kind not in wire.DeviceKind.values():
        checks.add("kind", f"{request.kind} is none of {', '.join(wire.DeviceKind.keys())}")
    states = _named("states", request.states, tuple(DeviceState), wire.DeviceState, STATES_MAX, checks)
    order = _choice("order", request.order, DeviceOrder.FRESHNESS, wire.DeviceOrder, checks)
    place = _place(request.page_size, request.page_token, checks)
    checks.raise_if_any()
    kind = {wire.DEVICE_KIND_VEHICLE: VEHICLE, wire.DEVICE_KIND_METER: METER}.get(request.kind)
    return DevicePage(DeviceQuestion(kind, states, order), request.page_size or PAGE_DEFAULT, place)


def parse_list_charging_sessions(request: wire.ListChargingSessionsRequest, now_us: int) -> SessionPage:
    """Likewise."""
    checks = Checks()
    field = request.WhichOneof("device")
    if field is None:
        checks.add("device", "required: either vehicle_id or meter_id")
    else:
        checks.device_id(field, getattr(request, field))
    window = _window(request.window, now_us, checks, max_days=SESSIONS_WINDOW_MAX_DAYS)
    place = _place(request.page_size, request.page_token, checks)
    checks.raise_if_any()
    question = SessionQuestion(_asked(request.window), request.vehicle_id, request.meter_id)
    return SessionPage(question, window, request.page_size or PAGE_DEFAULT, place)


def parse_get_performance_series(request: wire.GetPerformanceSeriesRequest, now_us: int) -> SeriesQuestion:
    """The question, with the window cut into buckets. Raises InvalidRequest."""
    checks = Checks()
    checks.device_id("vehicle_id", request.vehicle_id)
    if request.granularity not in wire.SeriesGranularity.values():
        checks.add("granularity", f"{request.granularity} is none of {', '.join(Granularity)}")
    in_days = request.granularity == wire.SERIES_GRANULARITY_DAY
    window = _window(request.window, now_us, checks, default_us=DAYS_DEFAULT_US if in_days else WINDOW_DEFAULT_US)
    zone = _time_zone(request.time_zone or "UTC", checks)
    checks.raise_if_any()
    granularity = Granularity.DAY if in_days else Granularity.HOUR
    try:
        edges = bucket_edges(window.start_us, window.end_us, granularity, zone)
    except OverflowError:
        checks.add("window", "too close to the years 1 or 9999 for another time zone")
        edges = []
    if len(edges) - 1 > BUCKETS_MAX:
        checks.add(
            "window",
            f"{iso_from_us(window.start_us)} to {iso_from_us(window.end_us)} reaches into more than {BUCKETS_MAX:,}"
            " hours; ask for days, or for less",
        )
    checks.raise_if_any()
    buckets = [Window(start_us, end_us) for start_us, end_us in pairwise(edges)]
    return SeriesQuestion(request.vehicle_id, granularity, zone.key, buckets)


def require_device_id(field: str, device_id: str) -> None:
    """Raises InvalidRequest where the field of that name has no well-formed id."""
    checks = Checks()
    checks.device_id(field, device_id)
    checks.raise_if_any()


def parse_batch_get_status(request: wire.BatchGetStatusRequest) -> StatusQuestion:
    checks = Checks()
    question = StatusQuestion(list(request.vehicle_ids), list(request.meter_ids))
    devices = len(question.vehicle_ids) + len(question.meter_ids)
    if devices > STATUS_MAX_DEVICES:
        checks.add("vehicle_ids, meter_ids", f"{devices:,} devices in a call; at most {STATUS_MAX_DEVICES:,}")
    checks.device_ids("vehicle_ids", question.vehicle_ids)
    checks.device_ids("meter_ids", question.meter_ids)
    checks.raise_if_any()
    return question


def _named(
    field: str, asked: Sequence[int], accepted: Sequence[Name], enum: Any, most: int, checks: Checks
) -> frozenset[Name]:
    """The values of an enum of the contract, by their names, that a filter has."""
    by_number = {int(enum.Value(name)): name for name in accepted}
    if len(asked) > most:
        checks.add(field, f"{len(asked):,} {field}; at most {most}")
    elif strange := {*asked}.difference(by_number):
        checks.add(field, f"{min(strange)} is none of {', '.join(accepted)}")
    return frozenset(by_number[number] for number in asked if number in by_number)


def _check_ids(field: str, device_ids: Sequence[str], checks: Checks) -> None:
    if len(device_ids) > IDS_MAX:
        checks.add(field, f"{len(device_ids):,} ids; at most {IDS_MAX:,}")
    else:
        checks.device_ids(field, device_ids)


def _choice(field: str, asked: int, usual: Name, enum: Any, checks: Checks) -> Name:
    """The value of an enum of the contract, by its name; 0: the usual one."""
    by_number = {int(enum.Value(name)): name for name in type(usual)}
    if asked and asked not in by_number:
        checks.add(field, f"{asked} is none of {', '.join(type(usual))}")
    return by_number.get(asked, usual)


def _place(page_size: int, token: str, checks: Checks) -> tuple[str, int] | None:
    """Where a page of a list begins; None: at its beginning."""
    if not 0 <= page_size <= PAGE_MAX:
        checks.add("page_size", f"{page_size} is not within 1 to {PAGE_MAX:,}; 0 asks for {PAGE_DEFAULT}")
    if not token:
        return None
    place = place_of_page(token, str, int)
    if place is None:
        checks.add("page_token", "not a next_page_token of this rpc")
        return None
    return str(place[0]), int(place[1])


def _aligned(
    request: wire.ListVehiclePerformanceRequest | wire.ListMeterPerformanceRequest, now_us: int, checks: Checks
) -> tuple[AskedWindow, Window]:
    """The window as it was asked for, and as it is looked at."""
    alignment = _choice("alignment", request.alignment, Alignment.HOUR, wire.WindowAlignment, checks)
    if request.time_zone and alignment is not Alignment.DAY:
        checks.add("time_zone", f"days of a time zone are asked for with {Alignment.DAY}")
    zone = _time_zone(request.time_zone or "UTC", checks)
    window = _window(request.window, now_us, checks, alignment=alignment, zone=zone)
    return _asked(request.window, alignment, zone), window


def _asked(window: wire.TimeWindow, alignment: Alignment = Alignment.EXACT, zone: ZoneInfo = _UTC) -> AskedWindow:
    return AskedWindow(
        us_from_proto(window.start) if window.HasField("start") else None,
        us_from_proto(window.end) if window.HasField("end") else None,
        alignment,
        zone.key,
    )


def _time_zone(key: str, checks: Checks) -> ZoneInfo:
    """The time zone, or UTC where a violation was noted."""
    zone = time_zone(key)
    if zone is None:
        checks.add("time_zone", f"{key[:80]!r} is no IANA time zone; accepted: {ACCEPTED}")
    return zone or _UTC


def _window(
    asked: wire.TimeWindow,
    now_us: int,
    checks: Checks,
    *,
    default_us: int = WINDOW_DEFAULT_US,
    alignment: Alignment = Alignment.EXACT,
    zone: ZoneInfo = _UTC,
    max_days: int = WINDOW_MAX_DAYS,
) -> Window:
    """The window, or any window at all where a violation was noted. An absent window is like one without ends.

    `default_us` long where its start is absent, but of days the one in which it ends.
    """
    noted = len(checks.violations)
    asked_start_us = checks.time_us("window.start", asked.start) if asked.HasField("start") else None
    asked_end_us = checks.time_us("window.end", asked.end) if asked.HasField("end") else now_us
    end_us = -(-asked_end_us // US_PER_HOUR) * US_PER_HOUR if alignment is Alignment.HOUR else asked_end_us
    default_us = 1 if alignment is Alignment.DAY else default_us
    start_us = max(end_us - default_us, TIMESTAMP_MIN_US) if asked_start_us is None else asked_start_us
    if len(checks.violations) == noted and start_us >= asked_end_us:
        end = iso_from_us(asked_end_us) + ("" if asked.HasField("end") else ", which is now")
        checks.add("window", f"the start {iso_from_us(start_us)} does not lie before the end {end}")
    if alignment is Alignment.HOUR:
        start_us = start_us // US_PER_HOUR * US_PER_HOUR
    if alignment is Alignment.DAY and len(checks.violations) == noted:
        try:
            start_us, end_us = widened_to_days(start_us, end_us, zone)
        except OverflowError:
            checks.add("window", "too close to the years 1 or 9999 for another time zone")
    if end_us > TIMESTAMP_MAX_US:
        checks.add("window.end", "the full hour after it lies beyond the year 9999")
    if len(checks.violations) == noted and end_us - start_us > max_days * US_PER_DAY:
        checks.add("window", f"{iso_from_us(start_us)} to {iso_from_us(end_us)} is longer than {max_days} days")
    return Window(start_us, end_us)
