"""The questions to the database: one statement and one round trip each.

History is read from its covering primary keys alone, and of its partitions only those that the window touches. For the
latter the planner has to see the window: a plan for any window (`generic`) locks every partition, and 400 days of them
cost more than the question. A gRPC cancellation never reaches a connection: see `_ask`.
"""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import structlog
from sqlalchemy import Row, TextClause, text
from sqlalchemy.ext.asyncio import AsyncEngine

from analytics_svc.parse import PerformanceQuestion
from analytics_svc.performance import Totals
from shared.db.engine import database_errors, make_engine, to_its_end
from shared.errors import DatabaseUnavailable, UnknownDevice
from shared.timestamps import datetime_from_us, us_from_datetime

_log = structlog.get_logger()

NETWORK_GRACE_S = 1.0
"""Seconds beyond the server's own time limit after which the network, not the question, is taken to be at fault."""

CLOSE_TIMEOUT_S = 1.0
"""Seconds that abandoned questions have to end in when the service stops; most take milliseconds."""

# One row, or none for a vehicle never heard of. The hour of a reading is `(h, h + 1 h]`, hence the microsecond.
# Scalar subqueries and the fence OFFSET 0 leave the planner no other way than one index scan per mapping and day.
PERFORMANCE_TOTALS = text("""
WITH vehicle AS (
    SELECT vehicle_key FROM vehicles WHERE vehicle_id = :vehicle_id
),
mapped AS (
    SELECT meter_key, effective_from, effective_until
    FROM vehicle_meter_map
    WHERE vehicle_key = (SELECT vehicle_key FROM vehicle)
      AND effective_from < :window_end
      AND (effective_until IS NULL OR effective_until > :window_start)
),
delivered AS (
    SELECT date_bin('1 hour', ts - interval '1 microsecond', timestamptz 'epoch') AS hour_start,
           sum(kwh_delivered_dc) AS kwh,
           count(*) AS readings,
           sum(battery_temp) AS battery_temp_sum,
           count(battery_temp) AS battery_temp_readings
    FROM vehicle_telemetry_history
    WHERE vehicle_key = (SELECT vehicle_key FROM vehicle)
      AND ts > :window_start AND ts <= :window_end
    GROUP BY hour_start
),
consumed AS (
    SELECT date_bin('1 hour', fed.ts - interval '1 microsecond', timestamptz 'epoch') AS hour_start,
           sum(fed.kwh_consumed_ac) AS kwh,
           count(*) AS readings
    FROM mapped CROSS JOIN LATERAL (
        SELECT ts, kwh_consumed_ac
        FROM meter_telemetry_history
        WHERE meter_key = mapped.meter_key
          AND ts > :window_start AND ts <= :window_end
          AND ts > mapped.effective_from AND ts <= coalesce(mapped.effective_until, timestamptz 'infinity')
        OFFSET 0
    ) AS fed
    GROUP BY hour_start
),
hours AS (
    SELECT delivered.kwh AS kwh_delivered_dc, consumed.kwh AS kwh_consumed_ac,
           delivered.readings AS vehicle_readings, consumed.readings AS meter_readings,
           battery_temp_sum, battery_temp_readings
    FROM delivered FULL JOIN consumed USING (hour_start)
)
SELECT (SELECT count(*) FROM mapped) AS mappings,
       sum(kwh_delivered_dc) AS kwh_delivered_dc,
       sum(kwh_consumed_ac) AS kwh_consumed_ac,
       sum(battery_temp_sum) / CAST(nullif(sum(battery_temp_readings), 0) AS double precision) AS average_battery_temp,
       CAST(coalesce(sum(vehicle_readings), 0) AS bigint) AS vehicle_readings,
       CAST(coalesce(sum(meter_readings), 0) AS bigint) AS meter_readings,
       count(*) FILTER (WHERE vehicle_readings > 0 OR meter_readings > 0) AS hours_either,
       count(*) FILTER (WHERE vehicle_readings > 0 AND meter_readings > 0) AS hours_both
FROM vehicle LEFT JOIN hours ON true
GROUP BY vehicle.vehicle_key
""")

# One row, or none for a vehicle never heard of; ts is null where it has sent no reading, and late_readings where
# nothing was written down of its clock.
VEHICLE_STATUS = text("""
SELECT status.ts, status.kwh_delivered_dc, status.soc, status.battery_temp,
       newest_age_us, late_readings, future_readings, conflicting_readings
FROM vehicles LEFT JOIN vehicle_current_status AS status USING (vehicle_key)
     LEFT JOIN vehicle_clock_evidence USING (vehicle_key)
WHERE vehicles.vehicle_id = :vehicle_id
""")

# As for vehicles.
METER_STATUS = text("""
SELECT status.ts, status.kwh_consumed_ac, status.voltage,
       newest_age_us, late_readings, future_readings, conflicting_readings
FROM meters LEFT JOIN meter_current_status AS status USING (meter_key)
     LEFT JOIN meter_clock_evidence USING (meter_key)
WHERE meters.meter_id = :meter_id
""")

# Whether the database answers at all.
PING = text("SELECT 1")


@dataclass(frozen=True, slots=True)
class VehicleStatus:
    """A vehicle's newest reading: kWh, percent, degrees Celsius. None: not measured."""

    ts_us: int
    kwh_delivered_dc: float
    soc: float | None
    battery_temp: float | None

    def age_us(self, now_us: int) -> int:
        """Microseconds since the reading; negative when the device's clock is ahead."""
        return now_us - self.ts_us


@dataclass(frozen=True, slots=True)
class MeterStatus:
    """A meter's newest reading: kWh, volts. None: not measured."""

    ts_us: int
    kwh_consumed_ac: float
    voltage: float | None

    def age_us(self, now_us: int) -> int:
        """Microseconds since the reading; negative when the device's clock is ahead."""
        return now_us - self.ts_us


@dataclass(frozen=True, slots=True)
class ClockEvidence:
    """What a device's readings say of its clock: counts of readings, and how old the newest was when it arrived."""

    newest_age_us: int | None
    """Microseconds; negative when the device's clock is ahead, None where only rejected readings came."""
    late_readings: int
    future_readings: int
    conflicting_readings: int


class Queries:
    """Asks a database. Every method may raise DatabaseUnavailable, within about `timeout_s`."""

    def __init__(self, url: str, application_name: str, *, pool_size: int, timeout_s: float) -> None:
        engine = make_engine(
            url,
            application_name,
            pool_size=pool_size,
            statement_timeout=f"{int(timeout_s * 1_000)}ms",
            plan_cache_mode="force_custom_plan",
            default_transaction_read_only="on",
        )
        # A single statement needs no BEGIN and no ROLLBACK around it: two round trips less.
        self.engine: AsyncEngine = engine.execution_options(isolation_level="AUTOCOMMIT")
        self._pool_size = pool_size
        self._free = asyncio.Semaphore(pool_size)
        self._timeout_s = timeout_s

    async def performance_totals(self, question: PerformanceQuestion) -> Totals:
        """What the vehicle and its meters reported. Raises UnknownDevice."""
        row = await self._ask(
            PERFORMANCE_TOTALS,
            {
                "vehicle_id": question.vehicle_id,
                "window_start": datetime_from_us(question.window.start_us),
                "window_end": datetime_from_us(question.window.end_us),
            },
        )
        if row is None:
            raise UnknownDevice("vehicle", question.vehicle_id)
        return Totals(**row._asdict())

    async def vehicle_status(self, vehicle_id: str) -> tuple[VehicleStatus | None, ClockEvidence | None]:
        """The vehicle's newest reading and its clock's evidence, None where there is none. Raises UnknownDevice."""
        row = await self._ask(VEHICLE_STATUS, {"vehicle_id": vehicle_id})
        if row is None:
            raise UnknownDevice("vehicle", vehicle_id)
        status = (
            None
            if row.ts is None
            else VehicleStatus(us_from_datetime(row.ts), row.kwh_delivered_dc, row.soc, row.battery_temp)
        )
        return status, _clock_evidence(row)

    async def meter_status(self, meter_id: str) -> tuple[MeterStatus | None, ClockEvidence | None]:
        """The meter's newest reading and its clock's evidence, None where there is none. Raises UnknownDevice."""
        row = await self._ask(METER_STATUS, {"meter_id": meter_id})
        if row is None:
            raise UnknownDevice("meter", meter_id)
        status = None if row.ts is None else MeterStatus(us_from_datetime(row.ts), row.kwh_consumed_ac, row.voltage)
        return status, _clock_evidence(row)

    async def database_answers(self) -> bool:
        """Whether the database answers, within about `timeout_s`."""
        try:
            await self._ask(PING, {})
        except DatabaseUnavailable:
            return False
        return True

    async def close(self) -> None:
        """Waits a moment for questions that nobody awaits any more, then closes the connections."""
        try:
            async with asyncio.timeout(CLOSE_TIMEOUT_S):
                for _ in range(self._pool_size):
                    await self._free.acquire()
        except TimeoutError:
            _log.warning("questions_cut_off")
        await self.engine.dispose()

    async def _ask(self, statement: TextClause, parameters: Mapping[str, object]) -> Row[Any] | None:
        """The answer's only row, if it has one. Cancelling is safe at any point.

        Callers wait here, where a cancellation costs nothing, until a connection is free. From then on the question
        goes on to its end whatever happens to its caller, so that no connection is ever left in the middle of one.
        """
        try:
            async with asyncio.timeout(self._timeout_s):
                await self._free.acquire()
                return await to_its_end(self._answer(statement, parameters))
        except TimeoutError:
            _log.warning("database_slow", timeout_s=self._timeout_s)
            raise DatabaseUnavailable from None

    async def _answer(self, statement: TextClause, parameters: Mapping[str, object]) -> Row[Any] | None:
        try:
            async with (
                asyncio.timeout(self._timeout_s + NETWORK_GRACE_S),
                database_errors(),
                self.engine.connect() as connection,
            ):
                return (await connection.execute(statement, parameters)).one_or_none()
        finally:
            self._free.release()


def _clock_evidence(row: Row[Any]) -> ClockEvidence | None:
    if row.late_readings is None:
        return None
    return ClockEvidence(row.newest_age_us, row.late_readings, row.future_readings, row.conflicting_readings)
