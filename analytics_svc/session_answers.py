"""Builds the messages that charging sessions are answered with."""

from collections.abc import Sequence

from energyfleet.v1 import analytics_service_pb2 as wire

from analytics_svc.answers import (
    baseline_of,
    duration_message,
    feeding_message,
    performance_fields,
    thresholds_message,
    window_fields,
    window_message,
)
from analytics_svc.fleet_performance import JudgedVehicle
from analytics_svc.meter_explanation import NO_VEHICLE
from analytics_svc.performance import Judgement, Thresholds, VerdictReason
from analytics_svc.session_result import ChargingSession, SessionResult
from analytics_svc.totals import Evidence, FleetTotals
from shared.timestamps import proto_from_us

METERS_MAX = 20
"""Of a session that are told one by one: three phases at each of six places."""


def sessions_answer(
    result: SessionResult,
    page: Sequence[wire.ChargingSession],
    next_page_token: str,
    pause_us: int,
    thresholds: Thresholds,
) -> wire.ListChargingSessionsResponse:
    return wire.ListChargingSessionsResponse(
        **window_fields(result.window),
        sessions=page,
        matched=len(result.positions),
        kwh_delivered_dc_outside=result.kwh_delivered_dc_outside,
        kwh_consumed_ac_outside=result.kwh_consumed_ac_outside,
        session_pause=duration_message(pause_us),
        thresholds=thresholds_message(thresholds),
        next_page_token=next_page_token,
        as_of=proto_from_us(result.as_of_us),
    )


def vehicle_session(
    session: ChargingSession, found: FleetTotals, evidence: Evidence, judgement: Judgement, thresholds: Thresholds
) -> wire.ChargingSession:
    """A vehicle's session, with the verdict about it."""
    feedings, details = session.feedings, session.details
    assert details is not None
    totals = found.at(0)
    performance = judgement.of_totals(0, totals, found.comparison)
    meter_ids = sorted({each.meter_id for each in feedings})
    normal = baseline_of(found, evidence, judgement, thresholds)
    vehicle = JudgedVehicle(session.vehicle_id, totals, performance, meter_ids, normal)
    message = _session(session)
    message.performance.CopyFrom(
        wire.VehiclePerformance(**performance_fields(vehicle, thresholds, evidence), mapping_count=totals.mappings)
    )
    for name in ("soc_at_start", "soc_at_end"):
        if (soc := getattr(details, name)) is not None:
            setattr(message, name, soc)
    return message


def meter_session(session: ChargingSession) -> wire.ChargingSession:
    """A session of a meter that was mapped to no vehicle."""
    message = _session(session)
    [feeding] = session.feedings
    message.performance.CopyFrom(
        wire.VehiclePerformance(
            kwh_consumed_ac=feeding.kwh_consumed_ac,
            kwh_returned_ac=feeding.kwh_returned_ac,
            meter_readings=feeding.meter_readings,
            verdict=wire.Verdict.Value(VerdictReason.FED_NO_VEHICLE.verdict),
            verdict_reason=NO_VEHICLE,
        )
    )
    return message


def _session(session: ChargingSession) -> wire.ChargingSession:
    span = session.span
    charged = span.charged_until_us > span.begin_us
    return wire.ChargingSession(
        vehicle_id=session.vehicle_id,
        window=window_message(session.window),
        charged_until=proto_from_us(span.charged_until_us) if charged else None,
        begins_before_window=span.begins_before,
        open=span.open,
        meters=map(feeding_message, session.feedings[-METERS_MAX:]),
        highest_power_kw=span.highest_kw,
        mean_power_kw=session.mean_power_kw,
    )
