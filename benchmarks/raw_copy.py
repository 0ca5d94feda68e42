"""The floor: COPY of the same rows straight into a history that is partitioned and indexed like ours.

One connection, one transaction, rows packed beforehand. Nothing is validated, no device is looked up, a repeated
reading would fail all of them, and no status and no rollup is kept: nobody can store rows for less.
"""

import time
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from psycopg import Connection, sql

from benchmarks.cpu import cpu_seconds
from benchmarks.readings import INTERVAL_US, Span, copy_rows
from shared.timestamps import datetime_from_us

_TABLES = {"raw_meter_history": "meter_telemetry_history", "raw_vehicle_history": "vehicle_telemetry_history"}
_LIKE_OURS = "CREATE TABLE {} (LIKE {} INCLUDING ALL) PARTITION BY RANGE (ts)"
_PARTITION = "CREATE TABLE {} PARTITION OF {} FOR VALUES FROM ({}) TO ({})"
_COPY_METERS = "COPY raw_meter_history (meter_key, ts, kwh_consumed_ac, voltage) FROM STDIN (FORMAT binary)"
_COPY_VEHICLES = (
    "COPY raw_vehicle_history (vehicle_key, ts, kwh_delivered_dc, soc, battery_temp) FROM STDIN (FORMAT binary)"
)


@dataclass(frozen=True)
class RawEffort:
    """Seconds on the clock and of PostgreSQL's processor time."""

    wall_s: float
    postgres_cpu_s: float


def create_tables(connection: Connection[Any], first_us: int, last_us: int) -> None:
    """Creates the two tables beside ours, with a partition for each UTC day from one time to another."""
    day, last = datetime_from_us(first_us - INTERVAL_US).date(), datetime_from_us(last_us).date()
    for table, ours in _TABLES.items():
        connection.execute(sql.SQL(_LIKE_OURS).format(sql.Identifier(table), sql.Identifier(ours)))
    while day <= last:
        for table in _TABLES:
            name, tomorrow = f"{table}_{day:%Y%m%d}", day + timedelta(days=1)
            bounds = sql.Literal(f"{day} 00:00Z"), sql.Literal(f"{tomorrow} 00:00Z")
            connection.execute(sql.SQL(_PARTITION).format(sql.Identifier(name), sql.Identifier(table), *bounds))
        day += timedelta(days=1)


def copy(connection: Connection[Any], span: Span, postgres_pid: int) -> RawEffort:
    """Copies a span's readings and commits."""
    meters, vehicles = copy_rows(span)
    cpu, started = cpu_seconds(postgres_pid), time.perf_counter()
    with connection.transaction(), connection.cursor() as cursor:
        for statement, rows in ((_COPY_METERS, meters), (_COPY_VEHICLES, vehicles)):
            with cursor.copy(statement) as copying:
                copying.write(rows)
    return RawEffort(time.perf_counter() - started, cpu_seconds(postgres_pid) - cpu)
