"""The questions to the database, in one round trip each.

The planner has to see the window: a plan for any window (`generic`) locks every partition, and 400 days of them cost
more than the question. A gRPC cancellation never reaches a connection: see `_ask`.
"""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import structlog
from sqlalchemy import Row, TextClause
from sqlalchemy.ext.asyncio import AsyncEngine

from analytics_svc.parse import FleetQuestion, PerformanceQuestion, SeriesQuestion, Window
from analytics_svc.performance import Totals
from analytics_svc.queries_sql import (
    FLEET_CONSUMED,
    FLEET_DELIVERED,
    METER_STATUSES,
    PERFORMANCE,
    PERFORMANCE_SERIES,
    PING,
    VEHICLE_STATUSES,
)
from shared.db.engine import database_errors, make_engine, to_its_end
from shared.errors import DatabaseUnavailable, UnknownDevice
from shared.timestamps import US_PER_HOUR, datetime_from_us, us_from_datetime

_log = structlog.get_logger()

NETWORK_GRACE_S = 1.0
"""Seconds beyond the server's own time limit after which the network, not the question, is taken to be at fault."""

CLOSE_TIMEOUT_S = 1.0
"""Seconds that abandoned questions have to end in when the service stops; most take milliseconds."""

SLICE_VEHICLES = 1_000
"""Vehicles of a fleet that are gone through before other calls have their turn: some 2 ms."""

MAPPINGS_MAX = 100
"""Mappings that are told one by one: a charger that is moved every day of a season."""


@dataclass(frozen=True, slots=True)
class Feeding:
    """A meter fed the vehicle within `since_us < t <= until_us`: energy in kWh, None without a reading."""

    meter_id: str
    since_us: int
    until_us: int
    kwh_consumed_ac: float | None
    meter_readings: int


@dataclass(frozen=True, slots=True)
class Evidence:
    """What a vehicle's totals rest on: timestamps in microseconds, None where a side sent no reading."""

    first_vehicle_us: int | None
    last_vehicle_us: int | None
    first_meter_us: int | None
    last_meter_us: int | None
    feedings: Sequence[Feeding]
    """By start; the last MAPPINGS_MAX."""


@dataclass(frozen=True, slots=True)
class Bucket:
    """What was reported within a bucket of a series. Units and absence are those of Totals."""

    window: Window
    mapped: bool
    kwh_delivered_dc: float | None
    kwh_consumed_ac: float | None
    average_battery_temp: float | None
    vehicle_readings: int
    meter_readings: int


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


FoundVehicle = tuple[VehicleStatus | None, ClockEvidence | None]
FoundMeter = tuple[MeterStatus | None, ClockEvidence | None]
"""A known device's newest reading and its clock's evidence, None where there is none."""


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

    async def performance(self, question: PerformanceQuestion) -> tuple[Totals, Evidence]:
        """What the vehicle and its meters reported. Raises UnknownDevice."""
        parameters = {"vehicle_id": question.vehicle_id, "mappings_max": MAPPINGS_MAX}
        row = await self._ask(PERFORMANCE, parameters | _ends(question.window))
        if row is None:
            raise UnknownDevice("vehicle", question.vehicle_id)
        feedings = [
            Feeding(meter_id, us_from_datetime(since), us_from_datetime(until), kwh, readings)
            for meter_id, since, until, kwh, readings in zip(
                row.meter_ids, row.since, row.until, row.kwh, row.readings, strict=True
            )
        ]
        evidence = Evidence(
            first_vehicle_us=_us_or_none(row.first_vehicle_ts),
            last_vehicle_us=_us_or_none(row.last_vehicle_ts),
            first_meter_us=_us_or_none(row.first_meter_ts),
            last_meter_us=_us_or_none(row.last_meter_ts),
            feedings=feedings,
        )
        return Totals._make(row[: len(Totals._fields)]), evidence

    async def fleet_totals(self, question: FleetQuestion, window: Window) -> list[tuple[str, Totals]]:
        """What the vehicles and their meters reported within a window from hour to hour; in no order."""
        hours = [datetime_from_us(hour_us) for hour_us in range(window.start_us, window.end_us, US_PER_HOUR)]
        ids = {"every": not question.vehicle_ids, "vehicle_ids": list(question.vehicle_ids)}
        parameters = {"hours": hours, "no_hour": "0" * len(hours)} | ids | _ends(window)
        delivered, consumed = await asyncio.gather(
            self._ask_all(FLEET_DELIVERED, parameters), self._ask_all(FLEET_CONSUMED, parameters)
        )
        of_meters: dict[int, tuple[Any, ...]] = {row[0]: tuple(row[1:]) for row in consumed}
        unmapped = (0, None, 0, "0")
        totals: list[tuple[str, Totals]] = []
        for row in delivered:
            vehicle_key, vehicle_id, dc, temperature, vehicle_readings, vehicle_bits = tuple(row)
            mappings, ac, meter_readings, meter_bits = of_meters.get(vehicle_key, unmapped)
            vehicle_hours, meter_hours = int(vehicle_bits, 2), int(meter_bits, 2)
            either, both = vehicle_hours | meter_hours, vehicle_hours & meter_hours
            hours_reported = either.bit_count(), both.bit_count()
            totals.append(
                (vehicle_id, Totals(mappings, dc, ac, temperature, vehicle_readings, meter_readings, *hours_reported))
            )
            if len(totals) % SLICE_VEHICLES == 0:
                await asyncio.sleep(0)
        return totals

    async def performance_series(self, question: SeriesQuestion) -> list[Bucket]:
        """What the vehicle and its meters reported in each bucket. Raises UnknownDevice."""
        buckets = question.buckets
        parameters = {
            "vehicle_id": question.vehicle_id,
            "starts": [datetime_from_us(bucket.start_us) for bucket in buckets],
        }
        ends = _ends(Window(buckets[0].start_us, buckets[-1].end_us))
        rows = await self._ask_all(PERFORMANCE_SERIES, parameters | ends)
        if not rows:
            raise UnknownDevice("vehicle", question.vehicle_id)
        return [Bucket(bucket, *tuple(row)) for bucket, row in zip(buckets, rows, strict=True)]

    async def vehicle_status(self, vehicle_id: str) -> FoundVehicle:
        """The vehicle's newest reading and its clock's evidence, None where there is none. Raises UnknownDevice."""
        (found,) = await self.vehicle_statuses([vehicle_id])
        if found is None:
            raise UnknownDevice("vehicle", vehicle_id)
        return found

    async def meter_status(self, meter_id: str) -> FoundMeter:
        """The meter's newest reading and its clock's evidence, None where there is none. Raises UnknownDevice."""
        (found,) = await self.meter_statuses([meter_id])
        if found is None:
            raise UnknownDevice("meter", meter_id)
        return found

    async def vehicle_statuses(self, vehicle_ids: list[str]) -> list[FoundVehicle | None]:
        """As `vehicle_status` for each of the ids, in their order; None for one never heard of."""
        if not vehicle_ids:
            return []
        rows = await self._ask_all(VEHICLE_STATUSES, {"vehicle_ids": vehicle_ids})
        return [(_vehicle_status(row), _clock_evidence(row)) if row.known else None for row in rows]

    async def meter_statuses(self, meter_ids: list[str]) -> list[FoundMeter | None]:
        """As `meter_status` for each of the ids, in their order; None for one never heard of."""
        if not meter_ids:
            return []
        rows = await self._ask_all(METER_STATUSES, {"meter_ids": meter_ids})
        return [(_meter_status(row), _clock_evidence(row)) if row.known else None for row in rows]

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
        """The answer's only row, if it has one."""
        rows = await self._ask_all(statement, parameters)
        assert len(rows) <= 1
        return rows[0] if rows else None

    async def _ask_all(self, statement: TextClause, parameters: Mapping[str, object]) -> Sequence[Row[Any]]:
        """The answer's rows. Cancelling is safe at any point.

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

    async def _answer(self, statement: TextClause, parameters: Mapping[str, object]) -> Sequence[Row[Any]]:
        try:
            async with (
                asyncio.timeout(self._timeout_s + NETWORK_GRACE_S),
                database_errors(),
                self.engine.connect() as connection,
            ):
                return (await connection.execute(statement, parameters)).all()
        finally:
            self._free.release()


def _us_or_none(moment: datetime | None) -> int | None:
    return None if moment is None else us_from_datetime(moment)


def _ends(window: Window) -> dict[str, object]:
    return {"window_start": datetime_from_us(window.start_us), "window_end": datetime_from_us(window.end_us)}


def _vehicle_status(row: Row[Any]) -> VehicleStatus | None:
    if row.ts is None:
        return None
    return VehicleStatus(us_from_datetime(row.ts), row.kwh_delivered_dc, row.soc, row.battery_temp)


def _meter_status(row: Row[Any]) -> MeterStatus | None:
    return None if row.ts is None else MeterStatus(us_from_datetime(row.ts), row.kwh_consumed_ac, row.voltage)


def _clock_evidence(row: Row[Any]) -> ClockEvidence | None:
    if row.late_readings is None:
        return None
    return ClockEvidence(row.newest_age_us, row.late_readings, row.future_readings, row.conflicting_readings)
