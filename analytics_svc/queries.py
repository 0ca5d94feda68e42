"""The questions to the database, in one round trip each.

The planner sees the days of a window as constants: a plan for any window locks every partition, and to lock 400 days
costs more than the question. Of a short window the days are the only constants, so that one plan serves all windows of
the same days. What all questions have in common, such as `as_of`, is in `analytics_svc.reader`.
"""

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from analytics_svc.baseline_charges import baseline_window
from analytics_svc.baseline_queries import BaselineQueries, VehicleVersion, period_parameters
from analytics_svc.fleet_queries import FleetQueries, window_ends
from analytics_svc.freshness import ClockEvidence, DeviceStatus, Found, Refusal
from analytics_svc.queries_sql import (
    HOURS_SERIES,
    MAPPINGS_MAX,
    PERFORMANCE,
    PERFORMANCE_SERIES,
    REFUSALS_MAX,
    REPLICA_LAG,
    STATUSES,
)
from analytics_svc.questions import PerformanceQuestion, SeriesQuestion, Window
from analytics_svc.reader import QueryResult, Reader
from analytics_svc.readings_sql import OfReadings
from analytics_svc.series import buckets_of
from analytics_svc.span_tables import evidence_of, feedings_of, totals_of, vehicles_of
from analytics_svc.stretches import CompareLimits
from analytics_svc.totals import Bucket, Evidence, FleetTotals
from shared.db.device_kind import VEHICLE, DeviceKind
from shared.errors import UnknownDevice
from shared.timestamps import US_PER_HOUR, datetime_from_us, us_from_datetime, us_from_timedelta


class Queries:
    """Queries a database. Every method may raise DatabaseUnavailable, within about `timeout_s`, and DeadlinePassed."""

    def __init__(self, url: str, application_name: str, *, pool_size: int, timeout_s: float) -> None:
        self.reader = Reader(url, application_name, pool_size=pool_size, timeout_s=timeout_s)
        self.fleet = FleetQueries(self.reader)
        self.baselines = BaselineQueries(self.reader)

    async def performance(
        self, question: PerformanceQuestion, limits: CompareLimits
    ) -> QueryResult[tuple[FleetTotals, Evidence]]:
        """What the vehicle and its meters reported: totals of one vehicle. Raises UnknownDevice."""
        window = question.window
        asked = {"vehicle_id": question.vehicle_id, **period_parameters(baseline_window(window))}
        answer = await self._query_readings(PERFORMANCE, asked, window, US_PER_HOUR)
        if not answer.value:
            raise await self._unknown(question.vehicle_id)
        row = answer.value[0]
        version = VehicleVersion(question.vehicle_id, row.vehicle_key, row.baseline_version, row.baseline_mappings)
        baseline = await self.baselines.of_vehicle(window, answer.replace(version), limits)
        [vehicle] = vehicles_of(answer.value).values()
        totals, stretches = totals_of(window, [question.vehicle_id], [vehicle], limits)
        meter_ids = {each.meter_key: each.meter_id for each in answer.value if each.meter_key is not None}
        evidence = evidence_of(
            vehicle,
            stretches,
            first_vehicle_us=_us_or_none(row.first_vehicle_ts) if window.readings_since_us is None else None,
            first_meter_us=_us_or_none(row.first_meter_ts) if window.readings_since_us is None else None,
            feedings=feedings_of(vehicle.mappings, meter_ids)[-MAPPINGS_MAX:],
            vehicle_quality=row.vehicle_quality or {},
            meter_quality=row.meter_quality or {},
            values_left_out=row.values_left_out or {},
            baseline_sums=baseline.value,
            similar_vehicle_ids=row.similar_ids,
        )
        return answer.replace((totals, evidence)).beside(baseline)

    async def performance_series(self, question: SeriesQuestion) -> QueryResult[list[Bucket]]:
        """What the vehicle and its meters reported in each bucket. Raises UnknownDevice.

        Of whole hours, but for the first and the last one: from rollups.
        """
        buckets = question.buckets
        starts_us = [bucket.start_us for bucket in buckets]
        window = question.window
        asked: dict[str, object] = {"vehicle_id": question.vehicle_id}
        whole = all(start_us % US_PER_HOUR == 0 for start_us in starts_us[1:])
        if whole:
            answer = await self._query_readings(HOURS_SERIES, asked, window, US_PER_HOUR)
        else:
            asked["starts"] = [datetime_from_us(start_us) for start_us in starts_us]
            answer = await self._query_readings(PERFORMANCE_SERIES, asked, window)
        if not answer.value:
            raise await self._unknown(question.vehicle_id)
        found = buckets_of(window, starts_us, answer.value) if whole else [Bucket.of(row) for row in answer.value]
        return answer.replace(found)

    async def status(self, kind: DeviceKind, device_id: str) -> QueryResult[Found]:
        """What is known of the device. Raises UnknownDevice."""
        answer = await self.statuses(kind, [device_id])
        [found] = answer.value
        if not found.known:
            raise UnknownDevice(kind.name, device_id, found.similar_ids)
        return answer.replace(found)

    async def statuses(self, kind: DeviceKind, ids: list[str]) -> QueryResult[list[Found]]:
        """As `status` for each of the ids, in their order, known or not."""
        answer = await self.reader.ask(STATUSES[kind], {"ids": ids, "refusals_max": REFUSALS_MAX})
        return answer.replace([_found(kind, row) for row in answer.value])

    async def replica_lag_us(self) -> int:
        """The replication lag in microseconds; 0 of a primary."""
        answer = await self.reader.ask(REPLICA_LAG, {})
        return us_from_timedelta(answer.value[0].lag)

    async def close(self) -> None:
        """Waits a moment for questions that are being cancelled, then closes the connections."""
        await self.baselines.close()
        await self.reader.close()

    async def _unknown(self, vehicle_id: str) -> UnknownDevice:
        """The error for a vehicle that a question has not found."""
        answer = await self.statuses(VEHICLE, [vehicle_id])
        return UnknownDevice(VEHICLE.name, vehicle_id, answer.value[0].similar_ids)

    async def _query_readings(
        self, statement: OfReadings, parameters: Mapping[str, object], window: Window, before_us: int = 0
    ) -> QueryResult[list[Any]]:
        """The answer, from the days of a window and of some time before it."""
        asked = {**parameters, **window_ends(window)}
        return await self.reader.ask_of_days(statement, asked, window.start_us - before_us, window.end_us)


def _us_or_none(moment: datetime | None) -> int | None:
    return None if moment is None else us_from_datetime(moment)


def _found(kind: DeviceKind, row: Any) -> Found:
    refusals = tuple(Refusal(*each) for each in row.refusals or ())
    known = row.registered or bool(refusals)
    return Found(_status(kind, row), _clock_evidence(row), refusals, tuple(row.similar_ids), known)


def _status(kind: DeviceKind, row: Any) -> DeviceStatus | None:
    if row.ts is None:
        return None
    return DeviceStatus(us_from_datetime(row.ts), {name: getattr(row, name) for name in kind.measurements})


def _clock_evidence(row: Any) -> ClockEvidence | None:
    if row.late_readings is None:
        return None
    return ClockEvidence(row.newest_age_us, row.late_readings, row.future_readings, row.conflicting_readings)
