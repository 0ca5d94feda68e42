"""The question about the whole fleet in plain SQL: what rollups save against the raw rows that they are made from."""

import math
import time
from statistics import median
from typing import Any, LiteralString

import psycopg

from benchmarks.client import BenchmarkError
from benchmarks.figures import Figure
from benchmarks.history import Stored
from shared.timestamps import US_PER_DAY, datetime_from_us

ROUNDS = 5
"""Of both, in turn, after one that does not count."""

# Energy on both sides of each vehicle, every mapping valid throughout the window.
_RAW: LiteralString = """
WITH delivered AS (
    SELECT vehicle_key, sum(kwh_delivered_dc) AS kwh, count(*) AS readings
    FROM vehicle_telemetry_history WHERE ts > %(start)s AND ts <= %(end)s GROUP BY vehicle_key
), consumed AS (
    SELECT meter_key, sum(kwh_consumed_ac) AS kwh, count(*) AS readings
    FROM meter_telemetry_history WHERE ts > %(start)s AND ts <= %(end)s GROUP BY meter_key
)
SELECT vehicle_id, delivered.kwh, consumed.kwh, delivered.readings, consumed.readings
FROM vehicles JOIN vehicle_meter_map USING (vehicle_key)
     JOIN delivered USING (vehicle_key) JOIN consumed USING (meter_key)
ORDER BY vehicle_id
"""
# The same, with hours that lie wholly within the window.
_ROLLUPS: LiteralString = """
WITH delivered AS (
    SELECT vehicle_key, sum(kwh_delivered_dc) AS kwh, sum(readings) AS readings
    FROM vehicle_energy_hourly WHERE hour_start >= %(start)s AND hour_start < %(end)s GROUP BY vehicle_key
), consumed AS (
    SELECT meter_key, sum(kwh_consumed_ac) AS kwh, sum(readings) AS readings
    FROM meter_energy_hourly WHERE hour_start >= %(start)s AND hour_start < %(end)s GROUP BY meter_key
)
SELECT vehicle_id, delivered.kwh, consumed.kwh, delivered.readings, consumed.readings
FROM vehicles JOIN vehicle_meter_map USING (vehicle_key)
     JOIN delivered USING (vehicle_key) JOIN consumed USING (meter_key)
ORDER BY vehicle_id
"""


def measure(url: str, stored: Stored) -> list[Figure]:
    """Milliseconds of both over 24 hours, medians. BenchmarkError when they do not answer the same."""
    window = {"start": datetime_from_us(stored.end_us - US_PER_DAY), "end": datetime_from_us(stored.end_us)}
    raw_ms: list[float] = []
    rollups_ms: list[float] = []
    with psycopg.connect(url, autocommit=True, options="-c jit=off -c timezone=UTC") as connection:
        for _ in range(1 + ROUNDS):
            raw, took_ms = _ask(connection, _RAW, window)
            raw_ms.append(took_ms)
            rollups, took_ms = _ask(connection, _ROLLUPS, window)
            rollups_ms.append(took_ms)
    require_same(raw, rollups, stored.pairs)
    raw_ms, rollups_ms = raw_ms[1:], rollups_ms[1:]
    subject = f"24 h of {stored.pairs:,} vehicles in plain SQL"
    ratio = median(raw_ms) / median(rollups_ms)
    return [
        Figure(subject, "from raw rows", median(raw_ms), "ms", min(raw_ms), max(raw_ms)),
        Figure(subject, "from hourly rollups", median(rollups_ms), "ms", min(rollups_ms), max(rollups_ms)),
        Figure(subject, "ratio of the two", ratio, ""),
    ]


def _ask(
    connection: psycopg.Connection[Any], statement: LiteralString, window: dict[str, Any]
) -> tuple[list[tuple[Any, ...]], float]:
    begun = time.perf_counter()
    rows = connection.execute(statement, window).fetchall()
    return rows, (time.perf_counter() - begun) * 1e3


def require_same(raw: list[tuple[Any, ...]], rollups: list[tuple[Any, ...]], vehicles: int) -> None:
    """BenchmarkError where two answers, (id, kWh, kWh, readings, readings) of each vehicle, are not of so many vehicles
    or differ by more than the order of additions may."""
    if not len(raw) == len(rollups) == vehicles:
        raise BenchmarkError(f"{vehicles:,} vehicles: raw rows know {len(raw):,} of them, rollups {len(rollups):,}")
    for one, other in zip(raw, rollups, strict=True):
        sums_close = all(math.isclose(one[at], other[at], rel_tol=1e-9) for at in (1, 2))
        if not sums_close or (one[0], *one[3:]) != (other[0], *other[3:]):
            raise BenchmarkError(f"raw rows say {one}, rollups {other}")
