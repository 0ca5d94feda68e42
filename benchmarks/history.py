"""A day of history, made by PostgreSQL itself: rows as the ingestion service would have stored them, in hours less."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import LiteralString

import psycopg

from benchmarks.client import BenchmarkError
from benchmarks.readings import INTERVAL_US
from shared.timestamps import US_PER_DAY, datetime_from_us

INSTANTS = US_PER_DAY // INTERVAL_US
"""Readings of a device in the day: what a question of 24 hours meets on each side, however many devices there are."""

ROWS_MIN = 2 * INSTANTS

_PREPARE: Sequence[LiteralString] = (
    """
    INSERT INTO meters (meter_id)
    SELECT 'meter-' || to_char(pair, 'FM00000') FROM generate_series(0, %(pairs)s - 1) AS pair
    """,
    """
    INSERT INTO vehicles (vehicle_id)
    SELECT 'vehicle-' || to_char(pair, 'FM00000') FROM generate_series(0, %(pairs)s - 1) AS pair
    """,
    """
    INSERT INTO vehicle_meter_map (vehicle_key, meter_key, effective_from)
    SELECT vehicle_key, meter_key, %(start)s
    FROM vehicles JOIN meters ON substr(vehicle_id, 9) = substr(meter_id, 7)
    """,
    """
    SELECT ensure_history_partition(parent, CAST(day AS date))
    FROM unnest(ARRAY['meter_telemetry_history', 'vehicle_telemetry_history']) AS parent,
        generate_series(date_trunc('day', %(start)s), %(end)s, interval '1 day') AS day
    """,
)

# Instant by instant through all devices, as readings arrive: the index grows, and splits its pages, as it would.
_LOAD_METERS: LiteralString = """
INSERT INTO meter_telemetry_history (meter_key, ts, kwh_consumed_ac, voltage)
SELECT meter_key, ts, 0.115 + meter_key %% 97 * 1e-4, 225.0 + meter_key %% 101 * 0.1
FROM generate_series(%(start)s + interval '1 minute', %(end)s, interval '1 minute') AS ts, meters
"""
_LOAD_VEHICLES: LiteralString = """
INSERT INTO vehicle_telemetry_history (vehicle_key, ts, kwh_delivered_dc, soc, battery_temp)
SELECT vehicle_key, ts, 0.9 * (0.115 + vehicle_key %% 97 * 1e-4), 50.0, 18.0 + vehicle_key %% 150 * 0.1
FROM generate_series(%(start)s + interval '1 minute', %(end)s, interval '1 minute') AS ts, vehicles
"""
_FINISH: Sequence[LiteralString] = ("VACUUM (FREEZE, ANALYZE)", "CHECKPOINT")


@dataclass(frozen=True)
class StoredDay:
    """What was stored: `pairs` meters and vehicles, each with a reading a minute in `(start_us, end_us]`."""

    pairs: int
    start_us: int
    end_us: int

    @property
    def rows(self) -> int:
        """Rows of both histories together."""
        return 2 * self.pairs * INSTANTS


def load(url: str, rows: int, end_us: int) -> StoredDay:
    """Fills an empty, migrated database with so many rows or a few less: as many pairs as that gives whole days of.

    `end_us` is a whole minute. BenchmarkError where the rows are too few for one pair's day.
    """
    if rows < ROWS_MIN:
        raise BenchmarkError(f"{rows:,} rows are less than the day of one pair, {ROWS_MIN:,}")
    day = StoredDay(rows // ROWS_MIN, end_us - US_PER_DAY, end_us)
    parameters = {
        "pairs": day.pairs,
        "start": datetime_from_us(day.start_us),
        "end": datetime_from_us(day.end_us),
    }
    _run(url, _PREPARE, parameters)
    _run(url, ("ANALYZE",))
    with ThreadPoolExecutor(2) as both:
        for done in [both.submit(_run, url, (load,), parameters) for load in (_LOAD_METERS, _LOAD_VEHICLES)]:
            done.result()
    _run(url, _FINISH)
    return day


def _run(url: str, statements: Sequence[LiteralString], parameters: dict[str, object] | None = None) -> None:
    with psycopg.connect(url, autocommit=True, options="-c synchronous_commit=off -c timezone=UTC") as connection:
        for statement in statements:
            connection.execute(statement, parameters)
