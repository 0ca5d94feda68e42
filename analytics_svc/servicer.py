"""The rpcs: each parses its request, runs its queries and builds the answer."""

import asyncio
import time
from dataclasses import replace
from typing import Any

from energyfleet.v1 import analytics_service_pb2 as wire
from energyfleet.v1.analytics_service_pb2_grpc import AnalyticsServiceServicer

from analytics_svc.answers import duration_message, page_answer, performance_answer, series_answer, status_fields
from analytics_svc.fleet_performance import FleetResult, fleet_result
from analytics_svc.freshness import Found
from analytics_svc.page_cache import RESULTS_MAX_SESSIONS, RESULTS_MAX_VEHICLES, PageCache
from analytics_svc.parse import (
    STATUS_MAX_DEVICES,
    VEHICLE_IDS_MAX,
    VERDICTS_MAX,
    parse_batch_get_status,
    parse_get_performance_series,
    parse_get_vehicle_performance,
    parse_list_charging_sessions,
    parse_list_vehicle_performance,
    require_device_id,
)
from analytics_svc.performance import Thresholds
from analytics_svc.queries import Queries
from analytics_svc.questions import FleetQuestion, SessionQuestion, Window
from analytics_svc.session_answers import meter_session, sessions_answer, vehicle_session
from analytics_svc.session_queries import SessionQueries
from analytics_svc.session_result import ChargingSession, SessionResult
from analytics_svc.sessions import PAUSE_US, SessionRules
from shared.db.device_kind import METER, VEHICLE, DeviceKind
from shared.interceptor import Context, ListLimits
from shared.list_limits import list_limits
from shared.requests import page_token
from shared.timestamps import Clock, proto_from_us

LIST_LIMITS: ListLimits = {
    "ListVehiclePerformance": list_limits(
        wire.ListVehiclePerformanceRequest, verdicts=VERDICTS_MAX, vehicle_ids=VEHICLE_IDS_MAX
    ),
    "BatchGetStatus": list_limits(
        wire.BatchGetStatusRequest, vehicle_ids=STATUS_MAX_DEVICES, meter_ids=STATUS_MAX_DEVICES
    ),
}


class AnalyticsServicer(AnalyticsServiceServicer):
    """The rpcs of `energyfleet.v1.AnalyticsService`; the contract is in its proto file."""

    def __init__(
        self,
        queries: Queries,
        thresholds: Thresholds,
        stale_after_us: int,
        clock: Clock,
        session_pause_us: int = PAUSE_US,
    ) -> None:
        self._queries = queries
        self._thresholds = thresholds
        self._clock = clock
        self._fleets: PageCache[FleetQuestion, FleetResult] = PageCache(
            time.monotonic, RESULTS_MAX_VEHICLES, "another window, other verdicts, ids or order"
        )
        self._sessions: PageCache[SessionQuestion, SessionResult] = PageCache(
            time.monotonic, RESULTS_MAX_SESSIONS, "another device or window"
        )
        self._session_pause_us = session_pause_us
        self._session_queries = SessionQueries(queries.reader, SessionRules(session_pause_us, thresholds.standby_kw))
        self._stale_after_us = stale_after_us
        self._stale_after = duration_message(stale_after_us)

    async def GetVehiclePerformance(
        self, request: wire.GetVehiclePerformanceRequest, context: Context
    ) -> wire.GetVehiclePerformanceResponse:
        question = parse_get_vehicle_performance(request, self._clock())
        answer = await self._queries.performance(question, self._thresholds.comparing)
        judgement = await self._queries.fleet.judged(question.window, answer.value[0], self._thresholds)
        return performance_answer(question, answer, judgement, self._thresholds)

    async def ListVehiclePerformance(
        self, request: wire.ListVehiclePerformanceRequest, context: Context
    ) -> wire.ListVehiclePerformanceResponse:
        page = parse_list_vehicle_performance(request, self._clock())
        name, start = page.place or ("", 0)
        if page.place:
            result = self._fleets.find(name, page.question, start)
        else:
            result = await self._judged(page.question, page.window)
        end = start + page.size
        more = end < len(result.positions)
        if more and not page.place:
            name = self._fleets.keep(page.question, result)
        return page_answer(result, result.page(start, end), page_token(name, end) if more else "", self._thresholds)

    async def _judged(self, question: FleetQuestion, window: Window) -> FleetResult:
        fleet = self._queries.fleet
        found = await fleet.totals(window, question.vehicle_ids, self._thresholds.comparing)
        judgement = await fleet.judged(window, found.value, self._thresholds)
        result = await fleet_result(question, window, found, judgement)
        return replace(result, meters_of=await fleet.meters_of(window, result.low_efficiency_ids))

    async def GetPerformanceSeries(
        self, request: wire.GetPerformanceSeriesRequest, context: Context
    ) -> wire.GetPerformanceSeriesResponse:
        question = parse_get_performance_series(request, self._clock())
        return series_answer(question, await self._queries.performance_series(question), self._thresholds)

    async def ListChargingSessions(
        self, request: wire.ListChargingSessionsRequest, context: Context
    ) -> wire.ListChargingSessionsResponse:
        page = parse_list_charging_sessions(request, self._clock())
        name, start = page.place or ("", 0)
        if page.place:
            result = self._sessions.find(name, page.question, start)
        elif page.question.vehicle_id:
            result = (await self._session_queries.of_vehicle(page.window, page.question.vehicle_id)).value
        else:
            result = (await self._session_queries.of_meter(page.window, page.question.meter_id)).value
        end = start + page.size
        more = end < len(result)
        if more and not page.place:
            name = self._sessions.keep(page.question, result)
        sessions = [await self._session(each) for each in result.sessions[start:end]]
        token = page_token(name, end) if more else ""
        return sessions_answer(result, sessions, token, self._session_pause_us, self._thresholds)

    async def _session(self, session: ChargingSession) -> wire.ChargingSession:
        """A session, judged as GetVehiclePerformance does."""
        if session.hours is None:
            return meter_session(session)
        found, evidence = session.totals(self._thresholds.comparing)
        judgement = await self._queries.fleet.judged(session.window, found, self._thresholds)
        await asyncio.sleep(0)
        return vehicle_session(session, found, evidence, judgement, self._thresholds)

    async def GetVehicleStatus(
        self, request: wire.GetVehicleStatusRequest, context: Context
    ) -> wire.GetVehicleStatusResponse:
        return wire.GetVehicleStatusResponse(**await self._asked_status(VEHICLE, request.vehicle_id))

    async def GetMeterStatus(
        self, request: wire.GetMeterStatusRequest, context: Context
    ) -> wire.GetMeterStatusResponse:
        return wire.GetMeterStatusResponse(**await self._asked_status(METER, request.meter_id))

    async def BatchGetStatus(
        self, request: wire.BatchGetStatusRequest, context: Context
    ) -> wire.BatchGetStatusResponse:
        question = parse_batch_get_status(request)
        vehicles, meters = await asyncio.gather(
            self._queries.statuses(VEHICLE, question.vehicle_ids), self._queries.statuses(METER, question.meter_ids)
        )
        return wire.BatchGetStatusResponse(
            vehicles=[
                wire.VehicleStatus(**self._status(VEHICLE, vehicle_id, found))
                for vehicle_id, found in zip(question.vehicle_ids, vehicles.value, strict=True)
            ],
            meters=[
                wire.MeterStatus(**self._status(METER, meter_id, found))
                for meter_id, found in zip(question.meter_ids, meters.value, strict=True)
            ],
            stale_after=self._stale_after,
            as_of=proto_from_us(min(vehicles.as_of_us, meters.as_of_us)),
        )

    async def _asked_status(self, kind: DeviceKind, device_id: str) -> dict[str, Any]:
        require_device_id(f"{kind.name}_id", device_id)
        answer = await self._queries.status(kind, device_id)
        status = self._status(kind, device_id, answer.value)
        return {**status, "stale_after": self._stale_after, "as_of": proto_from_us(answer.as_of_us)}

    def _status(self, kind: DeviceKind, device_id: str, found: Found) -> dict[str, Any]:
        return status_fields(kind, device_id, found, self._clock(), self._stale_after_us)
