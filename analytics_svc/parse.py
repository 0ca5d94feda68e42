"""Turns requests into questions. Pure: the time is a parameter.

InvalidRequest has all of a request's violations."""

from itertools import pairwise
from zoneinfo import ZoneInfo

from energyfleet.v1 import analytics_service_pb2 as wire

from analytics_svc.buckets import BUCKETS_MAX, bucket_edges
from analytics_svc.questions import (
    FleetPage,
    FleetQuestion,
    Granularity,
    Order,
    PerformanceQuestion,
    SeriesQuestion,
    SessionPage,
    SessionQuestion,
    StatusQuestion,
    Verdict,
    Window,
)
from shared.requests import Checks, place_of_page
from shared.timestamps import TIMESTAMP_MAX_US, TIMESTAMP_MIN_US, US_PER_DAY, US_PER_HOUR, iso_from_us, us_from_proto

WINDOW_DEFAULT_US = US_PER_DAY
"""The trailing 24 hours: they hold a whole night's charge at any time of day."""

WINDOW_MAX_DAYS = 400
"""As far as history goes back by default. A year with its leap day and the month before it fit."""

FLEET_WINDOW_MAX_DAYS = 32
"""The longest month in any time zone, widened to hours in UTC: 15 million rollups of a fleet of 10,000."""

DAYS_DEFAULT_US = 30 * US_PER_DAY
"""A month, for a series of days: 24 hours are two of them."""

VERDICTS_MAX = 20
"""Verdicts that a filter can name: four times as many as there are, so that naming one twice is no mistake."""

VEHICLE_IDS_MAX = 1_000
"""Vehicles that a request can name: as many as a page has."""

PAGE_DEFAULT = 100
PAGE_MAX = 1_000
"""Vehicles in a page, or sessions: some 300 KiB, or 600."""

SESSIONS_WINDOW_MAX_DAYS = 32
"""The longest month in any time zone. Every reading of the hours of charging is looked at: half a million of a device
that reports each second and charges four hours a day."""

STATUS_MAX_DEVICES = 1_000
"""Devices in a call for status: an answer of 150 KiB or so, and some ten milliseconds of the database."""


def parse_get_vehicle_performance(request: wire.GetVehiclePerformanceRequest, now_us: int) -> PerformanceQuestion:
    """The question, with the window's absent ends filled in. Raises InvalidRequest."""
    checks = Checks()
    checks.device_id("vehicle_id", request.vehicle_id)
    window = _window(request.window, now_us, checks)
    checks.raise_if_any()
    return PerformanceQuestion(request.vehicle_id, window)


def parse_list_vehicle_performance(request: wire.ListVehiclePerformanceRequest, now_us: int) -> FleetPage:
    checks = Checks()
    window = _window(request.window, now_us, checks, to_hours=True, max_days=FLEET_WINDOW_MAX_DAYS)
    if len(request.verdicts) > VERDICTS_MAX:
        checks.add("verdicts", f"{len(request.verdicts):,} verdicts; at most {VERDICTS_MAX}")
    elif strange := {*request.verdicts}.difference(wire.Verdict.Value(verdict) for verdict in Verdict):
        checks.add("verdicts", f"{min(strange)} is none of {', '.join(Verdict)}")
    if len(request.vehicle_ids) > VEHICLE_IDS_MAX:
        checks.add("vehicle_ids", f"{len(request.vehicle_ids):,} ids; at most {VEHICLE_IDS_MAX:,}")
    else:
        checks.device_ids("vehicle_ids", request.vehicle_ids)
    if request.order not in wire.PerformanceOrder.values():
        checks.add("order", f"{request.order} is none of {', '.join(Order)}")
    place = _place(request.page_size, request.page_token, checks)
    checks.raise_if_any()
    question = FleetQuestion(
        *_asked_ends(request.window),
        frozenset(Verdict(wire.Verdict.Name(verdict)) for verdict in request.verdicts),
        frozenset(request.vehicle_ids),
        Order(wire.PerformanceOrder.Name(request.order or wire.PERFORMANCE_ORDER_RATIO)),
    )
    return FleetPage(question, window, request.page_size or PAGE_DEFAULT, place)


def parse_list_charging_sessions(request: wire.ListChargingSessionsRequest, now_us: int) -> SessionPage:
    checks = Checks()
    field = request.WhichOneof("device")
    if field is None:
        checks.add("device", "required: either vehicle_id or meter_id")
    else:
        checks.device_id(field, getattr(request, field))
    window = _window(request.window, now_us, checks, max_days=SESSIONS_WINDOW_MAX_DAYS)
    place = _place(request.page_size, request.page_token, checks)
    checks.raise_if_any()
    question = SessionQuestion(request.vehicle_id, request.meter_id, *_asked_ends(request.window))
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


def _place(page_size: int, page_token: str, checks: Checks) -> tuple[str, int] | None:
    """The name of a result and where in it a page begins; None for a first page, and where a violation was noted."""
    if not 0 <= page_size <= PAGE_MAX:
        checks.add("page_size", f"{page_size} is not within 1 to {PAGE_MAX:,}; 0 asks for {PAGE_DEFAULT}")
    place = place_of_page(page_token, str, int) if page_token else None
    if page_token and place is None:
        checks.add("page_token", "not a next_page_token of this rpc")
    return None if place is None else (str(place[0]), int(place[1]))


def _asked_ends(window: wire.TimeWindow) -> tuple[int | None, int | None]:
    """The ends that a request has."""
    return (
        us_from_proto(window.start) if window.HasField("start") else None,
        us_from_proto(window.end) if window.HasField("end") else None,
    )


def _time_zone(key: str, checks: Checks) -> ZoneInfo:
    """The time zone, or UTC where a violation was noted."""
    try:
        return ZoneInfo(key)
    except (KeyError, ValueError, OSError):  # for no such file, a malformed name, and the name of a folder
        checks.add("time_zone", f"{key[:80]!r} is no IANA time zone such as 'Europe/Berlin'")
        return ZoneInfo("UTC")


def _window(
    asked: wire.TimeWindow,
    now_us: int,
    checks: Checks,
    *,
    default_us: int = WINDOW_DEFAULT_US,
    to_hours: bool = False,
    max_days: int = WINDOW_MAX_DAYS,
) -> Window:
    """The window, or any window at all where a violation was noted. An absent window is like one without ends.

    `default_us` long where its start is absent; `to_hours` widens it to whole hours in UTC.
    """
    noted = len(checks.violations)
    asked_start_us = checks.time_us("window.start", asked.start) if asked.HasField("start") else None
    asked_end_us = checks.time_us("window.end", asked.end) if asked.HasField("end") else now_us
    end_us = -(-asked_end_us // US_PER_HOUR) * US_PER_HOUR if to_hours else asked_end_us
    start_us = max(end_us - default_us, TIMESTAMP_MIN_US) if asked_start_us is None else asked_start_us
    if len(checks.violations) == noted and start_us >= asked_end_us:
        end = iso_from_us(asked_end_us) + ("" if asked.HasField("end") else ", which is now")
        checks.add("window", f"the start {iso_from_us(start_us)} does not lie before the end {end}")
    if to_hours:
        start_us = start_us // US_PER_HOUR * US_PER_HOUR
    if end_us > TIMESTAMP_MAX_US:
        checks.add("window.end", "the full hour after it lies beyond the year 9999")
    if len(checks.violations) == noted and end_us - start_us > max_days * US_PER_DAY:
        checks.add("window", f"{iso_from_us(start_us)} to {iso_from_us(end_us)} is longer than {max_days} days")
    return Window(start_us, end_us)
