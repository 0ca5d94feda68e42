"""The rpcs: each parses its request, runs its queries and builds the answer."""

import asyncio
import time
from collections import defaultdict
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from typing import Any, TypeVar

from energyfleet.v1 import analytics_service_pb2 as wire
from energyfleet.v1.analytics_service_pb2_grpc import AnalyticsServiceServicer

from analytics_svc.answers import duration_message, page_answer, performance_answer, series_answer, status_fields
from analytics_svc.baseline import baselines
from analytics_svc.baseline_charges import Sums
from analytics_svc.buckets import looked_at
from analytics_svc.device_answers import device_page_answer
from analytics_svc.device_list import DeviceResult, device_result
from analytics_svc.device_queries import all_devices
from analytics_svc.fleet_performance import FleetResult, fleet_result
from analytics_svc.freshness import Found
from analytics_svc.meter_answers import meter_page_answer
from analytics_svc.meter_performance import MeterResult, meter_result
from analytics_svc.meter_queries import MeterQueries
from analytics_svc.page_cache import PageCache, Result
from analytics_svc.parse import (
    IDS_MAX,
    STATES_MAX,
    STATUS_MAX_DEVICES,
    VERDICTS_MAX,
    parse_batch_get_status,
    parse_get_performance_series,
    parse_get_vehicle_performance,
    parse_list_charging_sessions,
    parse_list_devices,
    parse_list_meter_performance,
    parse_list_vehicle_performance,
    require_device_id,
)
from analytics_svc.performance import Thresholds
from analytics_svc.queries import Queries
from analytics_svc.questions import DevicePage, FleetPage, MeterPage, SessionPage, Window
from analytics_svc.reader import QueryResult
from analytics_svc.session_answers import meter_session, sessions_answer, vehicle_session
from analytics_svc.session_queries import SessionQueries
from analytics_svc.session_result import ChargingSession, SessionResult
from analytics_svc.sessions import PAUSE_US, SessionRules
from shared.db.device_kind import METER, VEHICLE, DeviceKind
from shared.interceptor import Context, ListLimits
from shared.list_limits import list_limits
from shared.requests import page_token
from shared.timestamps import Clock, proto_from_us

Page = TypeVar("Page", FleetPage, MeterPage, DevicePage, SessionPage)
Answered = TypeVar("Answered", bound=Result)

LIST_LIMITS: ListLimits = {
    "ListVehiclePerformance": list_limits(
        wire.ListVehiclePerformanceRequest, verdicts=VERDICTS_MAX, vehicle_ids=IDS_MAX
    ),
    "ListMeterPerformance": list_limits(wire.ListMeterPerformanceRequest, verdicts=VERDICTS_MAX, meter_ids=IDS_MAX),
    "ListDevices": list_limits(wire.ListDevicesRequest, states=STATES_MAX),
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
        self._queries, self._reader = queries, queries.reader
        self._meters = MeterQueries(queries.reader, queries.fleet)
        self._sessions = SessionQueries(queries.reader, SessionRules(session_pause_us, thresholds.standby_kw))
        self._session_pause_us = session_pause_us
        self._thresholds, self._limits = thresholds, thresholds.comparing
        self._clock = clock
        self._page_cache = PageCache(time.monotonic)
        self._stale_after_us = stale_after_us
        self._stale_after = duration_message(stale_after_us)

    async def GetVehiclePerformance(
        self, request: wire.GetVehiclePerformanceRequest, context: Context
    ) -> wire.GetVehiclePerformanceResponse:
        asked = parse_get_vehicle_performance(request, self._clock())
        window, answer = await self._reader.ask_as_kept(
            asked.window, lambda window: self._queries.performance(replace(asked, window=window), self._limits)
        )
        question = replace(asked, window=window)
        judgement = await self._queries.fleet.judged(question.window, answer.value[0], self._thresholds)
        return performance_answer(question, answer, judgement, self._thresholds)

    async def ListVehiclePerformance(
        self, request: wire.ListVehiclePerformanceRequest, context: Context
    ) -> wire.ListVehiclePerformanceResponse:
        page = parse_list_vehicle_performance(request, self._clock())
        result, its, token = await self._page(page, self._judged)
        return page_answer(result, result.page(*its), token, self._thresholds)

    async def _judged(self, page: FleetPage) -> FleetResult:
        fleet, vehicle_ids = self._queries.fleet, page.question.vehicle_ids
        window, found = await self._reader.ask_as_kept(
            page.window, lambda window: fleet.totals(window, vehicle_ids, self._limits)
        )
        judgement = await fleet.judged(window, found.value, self._thresholds)
        normal = await self._normal(page, window, found.value.vehicle_ids)
        its = baselines(normal.value, found.value, judgement, self._thresholds)
        found = found.beside(normal)
        result = await fleet_result(page.question, window, found, judgement, its)
        return replace(result, meters_of=await fleet.meters_of(window, result.low_efficiency_ids))

    async def _normal(self, page: FleetPage, window: Window, vehicle_ids: Sequence[str]) -> QueryResult[Sums]:
        """What the vehicles that were found charged on the 28 days before."""
        if page.question.vehicle_ids:
            return await self._queries.baselines.of_vehicles(window, vehicle_ids, self._limits)
        keys = await self._queries.fleet.keys_of(vehicle_ids)
        return await self._queries.baselines.of_fleet(window, keys, self._limits)

    async def ListMeterPerformance(
        self, request: wire.ListMeterPerformanceRequest, context: Context
    ) -> wire.ListMeterPerformanceResponse:
        page = parse_list_meter_performance(request, self._clock())
        result, its, token = await self._page(page, self._judged_meters)
        return meter_page_answer(result, result.page(*its), token, self._thresholds)

    async def _judged_meters(self, page: MeterPage) -> MeterResult:
        meters, meter_ids = self._meters, page.question.meter_ids
        window, found = await self._reader.ask_as_kept(
            page.window, lambda window: meters.totals(window, meter_ids, self._limits)
        )
        judgement = await meters.judged(window, found.value, self._thresholds)
        return meter_result(page.question, window, found, judgement)

    async def _page(
        self, page: Page, first: Callable[[Page], Awaitable[Answered]]
    ) -> tuple[Answered, tuple[int, int], str]:
        """The result that a page is a part of, from where to where in it, and the token of the next page."""
        name, start = page.place or ("", 0)
        result: Answered = self._page_cache.find(name, page.question, start) if page.place else await first(page)
        end = start + page.size
        more = end < len(result.positions)
        if more and not page.place:
            name = self._page_cache.keep(page.question, result)
        return result, (start, end), page_token(name, end) if more else ""

    async def GetPerformanceSeries(
        self, request: wire.GetPerformanceSeriesRequest, context: Context
    ) -> wire.GetPerformanceSeriesResponse:
        asked = parse_get_performance_series(request, self._clock())
        window, answer = await self._reader.ask_as_kept(
            asked.window, lambda window: self._queries.performance_series(looked_at(asked, window))
        )
        return series_answer(looked_at(asked, window), window, answer, self._thresholds)

    async def ListChargingSessions(
        self, request: wire.ListChargingSessionsRequest, context: Context
    ) -> wire.ListChargingSessionsResponse:
        page = parse_list_charging_sessions(request, self._clock())
        result, (start, end), token = await self._page(page, self._found_sessions)
        sessions = [await self._session(each) for each in result.sessions[start:end]]
        return sessions_answer(result, sessions, token, self._session_pause_us, self._thresholds)

    async def _found_sessions(self, page: SessionPage) -> SessionResult:
        sessions, question = self._sessions, page.question
        _, answer = await self._reader.ask_as_kept(
            page.window,
            lambda window: (
                sessions.of_vehicle(window, question.vehicle_id)
                if question.vehicle_id
                else sessions.of_meter(window, question.meter_id)
            ),
        )
        return await self._beside_baselines(answer.value)

    async def _beside_baselines(self, result: SessionResult) -> SessionResult:
        """The sessions, with what their vehicles charged on the 28 days before each."""
        windows: dict[str, list[Window]] = defaultdict(list)
        for session in result.sessions:
            if session.vehicle_id:
                windows[session.vehicle_id].append(session.window)
        found = await self._queries.baselines.of_windows(windows, self._limits)
        sessions = [
            replace(each, baseline_sums=found.get((each.vehicle_id, each.window.start_us))) for each in result.sessions
        ]
        return replace(result, sessions=sessions)

    async def _session(self, session: ChargingSession) -> wire.ChargingSession:
        """A session, judged as GetVehiclePerformance does."""
        if session.hours is None:
            return meter_session(session)
        found, evidence = session.totals(self._limits)
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

    async def ListDevices(self, request: wire.ListDevicesRequest, context: Context) -> wire.ListDevicesResponse:
        result, its, token = await self._page(parse_list_devices(request), self._listed)
        return device_page_answer(result, its, token, self._stale_after)

    async def _listed(self, page: DevicePage) -> DeviceResult:
        found = await all_devices(self._queries.reader, page.question)
        return device_result(page.question, found.value, self._clock(), self._stale_after_us, found.as_of_us)

    async def _asked_status(self, kind: DeviceKind, device_id: str) -> dict[str, Any]:
        require_device_id(f"{kind.name}_id", device_id)
        answer = await self._queries.status(kind, device_id)
        status = self._status(kind, device_id, answer.value)
        return {**status, "stale_after": self._stale_after, "as_of": proto_from_us(answer.as_of_us)}

    def _status(self, kind: DeviceKind, device_id: str, found: Found) -> dict[str, Any]:
        return status_fields(kind, device_id, found, self._clock(), self._stale_after_us)
