"""The door: parses, asks, builds the answer."""

from energyfleet.v1 import analytics_service_pb2 as wire
from energyfleet.v1.analytics_service_pb2_grpc import AnalyticsServiceServicer
from energyfleet.v1.telemetry_pb2 import MeterReading, VehicleReading
from google.protobuf.duration_pb2 import Duration

from analytics_svc.parse import parse_get_meter_status, parse_get_vehicle_performance, parse_get_vehicle_status
from analytics_svc.performance import judge
from analytics_svc.queries import ClockEvidence, Queries
from shared.config import AnalyticsSettings
from shared.guard import Context
from shared.timestamps import Clock, proto_from_us


class AnalyticsServicer(AnalyticsServiceServicer):
    """The rpcs of `energyfleet.v1.AnalyticsService`; the contract is in its proto file."""

    def __init__(self, queries: Queries, limits: AnalyticsSettings, clock: Clock) -> None:
        self._queries = queries
        self._limits = limits
        self._clock = clock

    async def GetVehiclePerformance(
        self, request: wire.GetVehiclePerformanceRequest, context: Context
    ) -> wire.GetVehiclePerformanceResponse:
        question = parse_get_vehicle_performance(request, self._clock())
        totals = await self._queries.performance_totals(question)
        performance = judge(question.vehicle_id, totals, self._limits)
        return wire.GetVehiclePerformanceResponse(
            vehicle_id=question.vehicle_id,
            window=wire.TimeWindow(
                start=proto_from_us(question.window.start_us), end=proto_from_us(question.window.end_us)
            ),
            kwh_delivered_dc=totals.kwh_delivered_dc,
            kwh_consumed_ac=totals.kwh_consumed_ac,
            efficiency_ratio=performance.efficiency_ratio,
            kwh_lost=performance.kwh_lost,
            average_battery_temp=totals.average_battery_temp,
            vehicle_readings=totals.vehicle_readings,
            meter_readings=totals.meter_readings,
            coverage=performance.coverage,
            verdict=wire.Verdict.Value(performance.verdict),
            verdict_reason=performance.reason,
            alert=performance.alert,
        )

    async def GetVehicleStatus(
        self, request: wire.GetVehicleStatusRequest, context: Context
    ) -> wire.GetVehicleStatusResponse:
        vehicle_id = parse_get_vehicle_status(request)
        status, evidence = await self._queries.vehicle_status(vehicle_id)
        clock = _clock_message(evidence)
        if status is None:
            return wire.GetVehicleStatusResponse(vehicle_id=vehicle_id, clock=clock)
        reading = VehicleReading(
            vehicle_id=vehicle_id,
            soc=status.soc,
            kwh_delivered_dc=status.kwh_delivered_dc,
            battery_temp=status.battery_temp,
            timestamp=proto_from_us(status.ts_us),
        )
        return wire.GetVehicleStatusResponse(
            vehicle_id=vehicle_id, reading=reading, age=_duration(status.age_us(self._clock())), clock=clock
        )

    async def GetMeterStatus(
        self, request: wire.GetMeterStatusRequest, context: Context
    ) -> wire.GetMeterStatusResponse:
        meter_id = parse_get_meter_status(request)
        status, evidence = await self._queries.meter_status(meter_id)
        clock = _clock_message(evidence)
        if status is None:
            return wire.GetMeterStatusResponse(meter_id=meter_id, clock=clock)
        reading = MeterReading(
            meter_id=meter_id,
            kwh_consumed_ac=status.kwh_consumed_ac,
            voltage=status.voltage,
            timestamp=proto_from_us(status.ts_us),
        )
        return wire.GetMeterStatusResponse(
            meter_id=meter_id, reading=reading, age=_duration(status.age_us(self._clock())), clock=clock
        )


def _clock_message(evidence: ClockEvidence | None) -> wire.ClockEvidence | None:
    if evidence is None:
        return None
    age_us = evidence.newest_age_us
    return wire.ClockEvidence(
        newest_age_at_arrival=None if age_us is None else _duration(age_us),
        late_readings=evidence.late_readings,
        future_readings=evidence.future_readings,
        conflicting_readings=evidence.conflicting_readings,
    )


def _duration(us: int) -> Duration:
    duration = Duration()
    duration.FromMicroseconds(us)
    return duration
