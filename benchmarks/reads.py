"""The questions of the read benchmarks: 24 hours of one vehicle, and of the whole fleet, asked over gRPC."""

import random
from pathlib import Path

from energyfleet.v1.analytics_service_pb2 import (
    GetVehiclePerformanceRequest,
    ListDevicesRequest,
    ListMeterPerformanceRequest,
    ListVehiclePerformanceRequest,
    TimeWindow,
)

from benchmarks import ask, plans
from benchmarks.client import Target
from benchmarks.figures import Figure, Goal, percentile
from benchmarks.harness import Harness
from benchmarks.history import Stored
from benchmarks.readings import vehicle_id
from shared.timestamps import US_PER_DAY, datetime_from_us, proto_from_us

WARM_UP_CALLS = 200
FLEET_WARM_UP_CALLS = 3
FLEET_CALLS = 30

PAGE_SIZE = 1_000
"""The largest: a page that nobody has to wait for is not what is measured."""

SEED = 20_260_209

GOALS = {50: Goal("below", 5), 99: Goal("below", 15)}

FLEET_VEHICLES = 10_000
FLEET_GOAL = Goal("below", 150)
"""For so many vehicles."""


def one_vehicle(harness: Harness, target: Target, stored: Stored, calls: int, subject: str) -> list[Figure]:
    """GetVehiclePerformance, one question at a time, each about a vehicle picked at random."""
    asked = questions(stored, WARM_UP_CALLS + calls)
    harness.in_client(ask.performance, target, asked[:WARM_UP_CALLS], stored.a_day)
    latencies, effort = harness.in_client(ask.performance, target, asked[WARM_UP_CALLS:], stored.a_day)
    return [
        *latency_figures(subject, latencies),
        Figure(subject, "PostgreSQL CPU per call", effort.postgres_cpu_s / calls * 1e6, "us"),
        Figure(subject, "service CPU per call", effort.service_cpu_s / calls * 1e6, "us"),
    ]


def latency_figures(subject: str, latencies_s: list[float]) -> list[Figure]:
    """Of GetVehiclePerformance, in milliseconds."""
    in_ms = [latency * 1e3 for latency in latencies_s]
    return [
        Figure(subject, "p50", percentile(in_ms, 50), "ms", goal=GOALS[50]),
        Figure(subject, "p99", percentile(in_ms, 99), "ms", goal=GOALS[99]),
        Figure(subject, "slowest", max(in_ms), "ms"),
    ]


def whole_fleet(harness: Harness, target: Target, stored: Stored, subject: str) -> list[Figure]:
    """ListVehiclePerformance: the first page with its totals, one question at a time, and all pages of one question.

    The first question to a service that has just started finds none of the hours in its memory."""
    request = fleet_question(stored)
    warm_up, _ = harness.in_client(ask.fleet, target, request, FLEET_WARM_UP_CALLS, stored.pairs, stored.a_day)
    latencies, effort = harness.in_client(ask.fleet, target, request, FLEET_CALLS, stored.pairs, stored.a_day)
    pages_s = harness.in_client(ask.fleet_pages, target, request, stored.pairs)
    in_ms = [latency * 1e3 for latency in latencies]
    goal = FLEET_GOAL if stored.pairs == FLEET_VEHICLES else None
    return [
        Figure(subject, "p50, first page and totals", percentile(in_ms, 50), "ms", goal=goal),
        Figure(subject, "slowest", max(in_ms), "ms"),
        Figure(subject, "first question after the start", warm_up[0] * 1e3, "ms"),
        Figure(subject, f"all pages of {PAGE_SIZE:,}", pages_s * 1e3, "ms"),
        Figure(subject, "PostgreSQL CPU per call", effort.postgres_cpu_s / FLEET_CALLS * 1e3, "ms"),
        Figure(subject, "service CPU per call", effort.service_cpu_s / FLEET_CALLS * 1e3, "ms"),
    ]


def other_lists(harness: Harness, target: Target, stored: Stored, told: str) -> list[Figure]:
    """ListMeterPerformance over the same 24 hours and ListDevices: the first page, one question at a time."""
    by_meter = ListMeterPerformanceRequest(window=_window(stored), page_size=PAGE_SIZE)
    of_devices = ListDevicesRequest(page_size=PAGE_SIZE)
    figures = []
    for rpc, asked in (
        ("ListMeterPerformance", lambda calls: (ask.meters, target, by_meter, calls, stored.pairs, stored.a_day)),
        ("ListDevices", lambda calls: (ask.devices, target, of_devices, calls, stored.pairs)),
    ):
        harness.in_client(*asked(FLEET_WARM_UP_CALLS))
        latencies, effort = harness.in_client(*asked(FLEET_CALLS))
        subject = f"{rpc}, {told}"
        figures += [
            Figure(subject, "p50, first page and totals", percentile([each * 1e3 for each in latencies], 50), "ms"),
            Figure(subject, "PostgreSQL CPU per call", effort.postgres_cpu_s / FLEET_CALLS * 1e3, "ms"),
            Figure(subject, "service CPU per call", effort.service_cpu_s / FLEET_CALLS * 1e3, "ms"),
        ]
    return figures


def save_plans(harness: Harness, database: str, stored: Stored, directory: Path, name: str) -> list[Path]:
    """Asks both questions once and saves the plans that PostgreSQL ran. BenchmarkError when one is not as it should be:
    history from its covering index alone, and of its partitions only those of the window."""
    window = datetime_from_us(stored.end_us - US_PER_DAY), datetime_from_us(stored.end_us)
    url = harness.server.url(database)
    with plans.logged(url, harness.server.log_file) as log, harness.service("analytics", database) as target:
        log.since()  # what the service asks when it starts
        harness.in_client(ask.performance, target, questions(stored, 1), stored.a_day)
        one = plans.save(directory, f"GetVehiclePerformance-{name}", log.since(), *window)
        harness.in_client(ask.fleet, target, fleet_question(stored), 1, stored.pairs, stored.a_day)
        return [one, plans.save(directory, f"ListVehiclePerformance-{name}", log.since(), *window)]


def questions(stored: Stored, count: int) -> list[GetVehiclePerformanceRequest]:
    """Of GetVehiclePerformance: the last 24 hours that are stored, of a vehicle picked at random each."""
    window, picked = _window(stored), random.Random(SEED)
    return [
        GetVehiclePerformanceRequest(vehicle_id=vehicle_id(picked.randrange(stored.pairs)), window=window)
        for _ in range(count)
    ]


def fleet_question(stored: Stored) -> ListVehiclePerformanceRequest:
    """Of ListVehiclePerformance: the same 24 hours of every vehicle, the worst first."""
    return ListVehiclePerformanceRequest(window=_window(stored), page_size=PAGE_SIZE)


def _window(stored: Stored) -> TimeWindow:
    return TimeWindow(start=proto_from_us(stored.end_us - US_PER_DAY), end=proto_from_us(stored.end_us))
