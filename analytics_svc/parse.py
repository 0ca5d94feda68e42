"""Turns requests into questions, telling all of a request's violations at once. Pure: the time is a parameter."""

from dataclasses import dataclass

from energyfleet.v1 import analytics_service_pb2 as wire

from shared.requests import Checks
from shared.timestamps import TIMESTAMP_MIN_SECONDS, US_PER_DAY, US_PER_SECOND, iso_from_us

WINDOW_DEFAULT_US = US_PER_DAY
"""The trailing 24 hours: a night's charge is whole in them, whatever time of day somebody asks."""

WINDOW_MAX_DAYS = 400
"""As far as history goes back by default. A year with its leap day and the month before it fit."""

_EARLIEST_US = TIMESTAMP_MIN_SECONDS * US_PER_SECOND


@dataclass(frozen=True, slots=True)
class Window:
    """A span of time in microseconds, `start_us < ts_us <= end_us`, never empty."""

    start_us: int
    end_us: int


@dataclass(frozen=True, slots=True)
class PerformanceQuestion:
    """How efficiently did this vehicle charge within this window?"""

    vehicle_id: str
    window: Window


def parse_get_vehicle_performance(request: wire.GetVehiclePerformanceRequest, now_us: int) -> PerformanceQuestion:
    """The question, with the window's absent ends filled in. Raises InvalidRequest."""
    checks = Checks()
    checks.device_id("vehicle_id", request.vehicle_id)
    window = _window(request.window, now_us, checks)
    checks.raise_if_any()
    return PerformanceQuestion(request.vehicle_id, window)


def parse_get_vehicle_status(request: wire.GetVehicleStatusRequest) -> str:
    """The id of the vehicle that is asked about. Raises InvalidRequest."""
    return _only_id("vehicle_id", request.vehicle_id)


def parse_get_meter_status(request: wire.GetMeterStatusRequest) -> str:
    """The id of the meter that is asked about. Raises InvalidRequest."""
    return _only_id("meter_id", request.meter_id)


def _only_id(field: str, device_id: str) -> str:
    checks = Checks()
    checks.device_id(field, device_id)
    checks.raise_if_any()
    return device_id


def _window(asked: wire.TimeWindow, now_us: int, checks: Checks) -> Window:
    """The window, or any window at all where a violation was noted. An absent window reads as one with no ends."""
    noted = len(checks.violations)
    asked_start_us = checks.time_us("window.start", asked.start) if asked.HasField("start") else None
    end_us = checks.time_us("window.end", asked.end) if asked.HasField("end") else now_us
    start_us = max(end_us - WINDOW_DEFAULT_US, _EARLIEST_US) if asked_start_us is None else asked_start_us
    if len(checks.violations) == noted:
        if start_us >= end_us:
            end = iso_from_us(end_us) + ("" if asked.HasField("end") else ", which is now")
            checks.add("window", f"the start {iso_from_us(start_us)} does not lie before the end {end}")
        elif end_us - start_us > WINDOW_MAX_DAYS * US_PER_DAY:
            checks.add(
                "window",
                f"{iso_from_us(start_us)} to {iso_from_us(end_us)} is longer than {WINDOW_MAX_DAYS} days",
            )
    return Window(start_us, end_us)
