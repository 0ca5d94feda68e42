"""A whole fleet that comes back with a day of readings: beside days that are sealed, and beside days that are not."""

from collections.abc import Callable, Iterator
from statistics import median

from energyfleet.v1 import ingestion_service_pb2 as wire

from benchmarks import client, history
from benchmarks.figures import Figure, Goal
from benchmarks.harness import Harness
from benchmarks.history import WATT_HOURS
from benchmarks.readings import INTERVAL_US, Span, telemetry
from benchmarks.sealing import NEVER_SEALS, days_ago, seal_days
from shared.db.retention import us_from_day
from shared.timestamps import US_PER_DAY, system_clock

VEHICLES = 192
"""And as many meters: a round is the day of a third of them, 184,000 readings."""

ROUNDS = 3
DAYS_AGO = 5
PER_MESSAGE = 100
STREAMS = 32
"""Devices that send at a time, each its own day."""

VEHICLES_MIN = ROUNDS * STREAMS // 2

GOAL = Goal("at least", 0.5)


def measure(harness: Harness, *, vehicles: int, seed: int, tell: Callable[[str], None]) -> list[Figure]:
    """Rates of the same backlog, in turns through two services, and their ratio. The days before and after the one that
    is missing are stored in both databases; in one of them they are sealed."""
    tell(f"backlog: storing the days of {vehicles:,} vehicles and meters around the missing one, twice")
    rates: dict[str, list[float]] = {"open": [], "sealed": []}
    cpu: dict[str, float] = dict.fromkeys(rates, 0.0)
    with harness.database("backlog-open") as opened, harness.database("backlog-sealed") as sealed:
        for url in (opened, sealed):
            history.add_devices(url, vehicles, system_clock())
            history.store_days(url, days_ago(DAYS_AGO + 1, DAYS_AGO - 1), INTERVAL_US, WATT_HOURS, seed)
        seal_days(sealed, 2)
        for url in (opened, sealed):
            history.settle(url)
        with (
            harness.service("ingestion", "backlog-open", **NEVER_SEALS) as beside_open,
            harness.service("ingestion", "backlog-sealed", **NEVER_SEALS) as beside_sealed,
        ):
            targets = {"open": beside_open, "sealed": beside_sealed}
            newest = Span(system_clock() // INTERVAL_US * INTERVAL_US, 2 * vehicles, vehicles)
            for target in targets.values():
                harness.in_client(client.stream, target, newest, PER_MESSAGE, 2)
            day_us = us_from_day(days_ago(DAYS_AGO)[0])
            a_round = 2 * vehicles // ROUNDS // STREAMS * STREAMS
            for number in range(ROUNDS):
                devices = range(number * a_round, (number + 1) * a_round)
                messages = [*days_of(devices, day_us)]
                readings = len(devices) * (US_PER_DAY // INTERVAL_US)
                for name, target in targets.items():
                    tell(f"backlog beside {name} days: round {number + 1} of {ROUNDS}")
                    effort = harness.in_client(client.stream_messages, target, messages, readings, STREAMS)
                    rates[name].append(readings / effort.wall_s)
                    cpu[name] += effort.postgres_cpu_s / readings / ROUNDS * 1e6
    ratios = [after / before for before, after in zip(rates["open"], rates["sealed"], strict=True)]
    subject = f"a day of backlog, {vehicles:,} + {vehicles:,} devices"
    return [
        *(
            Figure(subject, f"beside {name} days", median(each), "/s", min(each), max(each))
            for name, each in rates.items()
        ),
        Figure(subject, "ratio of the two", median(ratios), "", min(ratios), max(ratios), GOAL),
        *(Figure(subject, f"PostgreSQL CPU a reading, {name}", each, "us") for name, each in cpu.items()),
    ]


def days_of(devices: range, day_us: int) -> Iterator[bytes]:
    """Messages with the day of each device, a reading a minute. Dealt out to STREAMS calls in turn, each call has the
    days of its devices one by one. The devices are a multiple of STREAMS."""
    instants = range(day_us + INTERVAL_US // 2, day_us + US_PER_DAY, INTERVAL_US)
    for first in range(devices.start, devices.stop, STREAMS):
        for begin in range(0, len(instants), PER_MESSAGE):
            for device in range(first, first + STREAMS):
                readings = [telemetry(device, ts_us) for ts_us in instants[begin : begin + PER_MESSAGE]]
                yield wire.StreamTelemetryRequest(readings=readings).SerializeToString()
