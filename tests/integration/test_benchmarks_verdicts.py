"""The database answers as the benchmark of verdicts does without one."""

import random
from collections.abc import Iterable
from itertools import islice
from math import isclose

import pytest

from analytics_svc.__main__ import thresholds
from analytics_svc.performance import judge
from analytics_svc.questions import PerformanceQuestion, Verdict
from analytics_svc.span_tables import totals_of
from benchmarks.verdicts.devices import Readings
from benchmarks.verdicts.visible import Pair, Reported, last_day
from benchmarks.verdicts.year import YEAR_START_US, YEAR_US
from ingestion_svc.readings import MeterRow, VehicleRow
from ingestion_svc.writer_sql import METERS, VEHICLES
from shared.config import AnalyticsSettings
from shared.db.embedded import EmbeddedServer
from shared.timestamps import US_PER_DAY, US_PER_MINUTE
from tests.integration.test_analytics_queries import Rows, asking, rows
from tests.integration.test_writer import writing

pytestmark = pytest.mark.one_server

__all__ = ["rows"]

SEED = 1
LIMITS = thresholds(AnalyticsSettings())
ASKS = 6
BATCH = 500
"""Readings that are written at a time."""


def some_pairs() -> list[Pair]:
    """Of seldom readings: two that have one meter and three that have several, healthy and worn."""
    found: list[Pair] = []
    for worn in (False, True):
        pairs = [Pair.of(SEED, worn, number) for number in range(60)]
        quiet = [each for each in pairs if min(d.cadence_us for d in (each.vehicle, *each.meters)) >= 5 * US_PER_MINUTE]
        for moves, count in ((False, 2), (True, 3)):
            found += islice((each for each in quiet if (len(each.year.mappings) > 1) == moves), count)
    return found


def insert_mappings(rows: Rows, name: str, pair: Pair, reported: Reported) -> None:
    vehicle = rows.vehicle(name)
    meters = [rows.meter(f"{name}-{meter}") for meter in (0, 1)]
    for mapping in pair.year.mappings:
        if mapping.since_us < reported.window.end_us and mapping.until_us > reported.window.start_us:
            rows.mapping(vehicle, meters[mapping.meter], mapping.since_us, mapping.until_us)


def shuffled(readings: Readings, dice: random.Random) -> list[tuple[int, float]]:
    every = list(zip(readings.ts_us.tolist(), readings.kwh.tolist(), strict=True))
    return dice.sample(every, len(every))


def same(found: Iterable[float | None], expected: Iterable[float | None]) -> bool:
    """Whether numbers differ by no more than the order of addition does."""
    return all(
        one == other or (one is not None and other is not None and isclose(one, other, rel_tol=1e-9, abs_tol=1e-9))
        for one, other in zip(found, expected, strict=True)
    )


async def test_the_database_gives_the_same_verdicts_and_compares_the_same_sums(
    rows: Rows, postgres: EmbeddedServer, database: str
) -> None:
    dice = random.Random(SEED)
    asked: dict[str, Reported] = {}
    vehicle_rows: list[VehicleRow] = []
    meter_rows: list[MeterRow] = []
    for pair in some_pairs():
        for ask in range(ASKS):
            name = ".".join(map(str, (*pair.seed, ask)))
            reported = pair.reported(last_day(YEAR_START_US + dice.randrange(10 * US_PER_DAY, YEAR_US)))
            asked[name] = reported
            insert_mappings(rows, name, pair, reported)
            vehicle_rows += [VehicleRow(name, *its, None, None) for its in shuffled(reported.vehicle, dice)]
            for meter, readings in reported.meters.items():
                meter_rows += [MeterRow(f"{name}-{meter}", *its, None) for its in shuffled(readings, dice)]
    url = postgres.url(database, role="energyfleet_ingestion")
    async with writing(url, VEHICLES) as vehicles, writing(url, METERS) as meters:
        for start in range(0, len(vehicle_rows), BATCH):
            await vehicles.write(vehicle_rows[start : start + BATCH])
        for start in range(0, len(meter_rows), BATCH):
            await meters.write(meter_rows[start : start + BATCH])

    verdicts: set[Verdict] = set()
    async with asking(postgres.url(database, role="energyfleet_analytics")) as queries:
        for name, reported in asked.items():
            question = PerformanceQuestion(name, reported.window)
            totals, _ = (await queries.performance(question, LIMITS.comparing)).value
            expected, _ = totals_of(reported.window, [name], [reported.hours()], LIMITS.comparing)
            assert same(totals.at(0), expected.at(0)), name
            performance, of_simulation = judge(totals, LIMITS).at(0, totals), judge(expected, LIMITS).at(0, expected)
            verdicts.add(performance.verdict)
            assert performance.reason is of_simulation.reason, name
            assert same(performance.compared or (), of_simulation.compared or ()), name
            assert same([performance.coverage], [of_simulation.coverage]), name
            assert performance.aside.keys() == of_simulation.aside.keys(), name
            for found, expected_aside in zip(performance.aside.values(), of_simulation.aside.values(), strict=True):
                assert same(found, expected_aside), name
    print(f"{len(asked)} answers over {len(vehicle_rows)} and {len(meter_rows)} readings, seed {SEED}: {verdicts}")  # noqa: T201
    assert {Verdict.OK, Verdict.LOW_EFFICIENCY, Verdict.NO_METER, Verdict.INSUFFICIENT_DATA} <= verdicts
