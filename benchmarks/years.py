"""What sealed days cost: 24 hours of now beside two months of them, and questions that reach into them."""

import asyncio
import random
from collections.abc import Callable, Sequence
from statistics import median

import psycopg
from energyfleet.v1.analytics_service_pb2 import (
    SERIES_GRANULARITY_DAY,
    GetPerformanceSeriesRequest,
    GetVehiclePerformanceRequest,
    ListChargingSessionsRequest,
    TimeWindow,
)
from google.protobuf.message import Message
from psycopg import AsyncConnection

from benchmarks import ask, history
from benchmarks.client import Target
from benchmarks.figures import Figure, Goal, percentile
from benchmarks.harness import Harness
from benchmarks.history import Stored
from benchmarks.readings import INTERVAL_US, vehicle_id
from benchmarks.reads import SEED
from shared.config import SEAL_AFTER_DAYS
from shared.db.sealing import Sealed, seal
from shared.timestamps import US_PER_DAY, proto_from_us, system_clock

PAIRS = 5
OPEN_DAYS, SEALED_DAYS = 2, 60
ROUNDS, CALLS = 20, 100
YEAR_DAYS = 367
YEAR_CALLS = 20

BESIDE_GOAL = Goal("below", 1.15)
"""Of 24 hours beside sealed days against the same without any."""


def measure(harness: Harness, *, tell: Callable[[str], None]) -> list[Figure]:
    """Both in one run; the questions of now in turn, so that what else the machine does meets both alike."""
    return [*_beside_sealed_days(harness, tell), *_within_sealed_days(harness, tell)]


def _beside_sealed_days(harness: Harness, tell: Callable[[str], None]) -> list[Figure]:
    stored = Stored(PAIRS, INTERVAL_US, history.full_hour(system_clock()))
    with harness.database("few") as few, harness.database("many") as many:
        tell(f"years: storing {OPEN_DAYS} days, and {OPEN_DAYS + SEALED_DAYS} days to seal")
        history.extend(few, stored, OPEN_DAYS)
        history.extend(many, stored, OPEN_DAYS + SEALED_DAYS)
        sealed = _seal(harness, "many")
        tell(f"years: {sealed.days:,} days of devices sealed, asking")
        picked = random.Random(SEED)
        medians: list[dict[str, float]] = []
        with harness.service("analytics", "few") as first, harness.service("analytics", "many") as second:
            services = [("few", first), ("many", second)]
            for _ in range(ROUNDS + 1):
                asked = [_performance(vehicle_id(picked.randrange(PAIRS)), stored.end_us) for _ in range(CALLS)]
                services.reverse()
                round_ms = {}
                for name, target in services:
                    latencies, _ = harness.in_client(ask.performance, target, asked, stored.a_day)
                    round_ms[name] = percentile([each * 1e3 for each in latencies], 50)
                medians.append(round_ms)
    del medians[0]  # warming up
    subject = f"24 h of now, {OPEN_DAYS} days open"
    return [
        Figure(subject, "p50, median of rounds", median(each["few"] for each in medians), "ms"),
        Figure(subject, f"beside {SEALED_DAYS} sealed days", median(each["many"] for each in medians), "ms"),
        Figure(subject, "ratio", median(each["many"] / each["few"] for each in medians), "", goal=BESIDE_GOAL),
    ]


def _within_sealed_days(harness: Harness, tell: Callable[[str], None]) -> list[Figure]:
    end_us = history.full_hour(system_clock())
    before_us = end_us - 40 * US_PER_DAY
    questions: dict[str, tuple[str, Message]] = {
        "a year by day": (
            "GetPerformanceSeries",
            GetPerformanceSeriesRequest(
                vehicle_id=vehicle_id(0),
                window=_window(end_us - 365 * US_PER_DAY, end_us),
                granularity=SERIES_GRANULARITY_DAY,
            ),
        ),
        "24 h, 40 days ago": ("GetVehiclePerformance", _performance(vehicle_id(0), before_us + 17 * 60_000_000 + 1)),
        "a month, 40 days ago": (
            "ListChargingSessions",
            ListChargingSessionsRequest(
                vehicle_id=vehicle_id(0), window=_window(before_us - 31 * US_PER_DAY, before_us), page_size=1_000
            ),
        ),
    }
    medians: list[Sequence[float]] = []
    with harness.database("year") as url:
        tell(f"years: storing {YEAR_DAYS} days of a vehicle that charges by night")
        stored = Stored(1, INTERVAL_US, end_us)
        history.extend(url, stored, YEAR_DAYS)
        history.charge_by_night(url)
        for sealed in (False, True):
            if sealed:
                _seal(harness, "year")
                with psycopg.connect(url, autocommit=True) as owner:
                    owner.execute("VACUUM ANALYZE")
            tell("years: asking" + (" of sealed days" if sealed else ""))
            with harness.service("analytics", "year") as target:
                medians.append([_median_ms(harness, target, *each) for each in questions.values()])
    return [
        Figure(f"{rpc}, {told}", f"p50, days {state}", ms, "ms")
        for number, (told, (rpc, _)) in enumerate(questions.items())
        for state, ms in zip(("open", "sealed"), (each[number] for each in medians), strict=True)
    ]


def _median_ms(harness: Harness, target: Target, rpc: str, request: Message) -> float:
    latencies = harness.in_client(ask.again, target, rpc, request, YEAR_CALLS)
    return percentile([each * 1e3 for each in latencies], 50)


def _performance(vehicle: str, end_us: int) -> GetVehiclePerformanceRequest:
    return GetVehiclePerformanceRequest(vehicle_id=vehicle, window=_window(end_us - US_PER_DAY, end_us))


def _window(start_us: int, end_us: int) -> TimeWindow:
    return TimeWindow(start=proto_from_us(start_us), end=proto_from_us(end_us))


def _seal(harness: Harness, database: str) -> Sealed:
    async def sealing() -> Sealed:
        url = harness.server.url(database, role="energyfleet_ingestion")
        async with await AsyncConnection.connect(url, autocommit=True) as connection:
            return await seal(connection, system_clock(), SEAL_AFTER_DAYS, chunk_readings=200_000)

    return asyncio.run(sealing())
