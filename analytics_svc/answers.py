"""Builds the messages of the contract that analytics answers with."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from functools import cache
from typing import Any

from energyfleet.v1 import analytics_service_pb2 as wire
from energyfleet.v1.ingestion_service_pb2 import RejectionReason
from energyfleet.v1.telemetry_pb2 import MeterReading, VehicleReading
from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp

from analytics_svc.baseline import baselines
from analytics_svc.baseline_result import NO_BASELINE, Baseline
from analytics_svc.explanation import Finding, explain, findings_of
from analytics_svc.fleet_performance import FleetResult, GroupTotals, JudgedVehicle
from analytics_svc.freshness import DOUBTED, ClockEvidence, Found, Freshness, Refusal, freshness
from analytics_svc.performance import Compared, Judgement, Thresholds, efficiency_ratio, kwh_lost
from analytics_svc.questions import PerformanceQuestion, SeriesQuestion, Verdict, Window
from analytics_svc.reader import QueryResult
from analytics_svc.totals import Bucket, Evidence, Feeding, FleetTotals
from shared.db.device_kind import METER, VEHICLE, DeviceKind
from shared.db.session_registers_sql import SESSION
from shared.timestamps import proto_from_us, set_us

_READINGS: Mapping[DeviceKind, Callable[..., Any]] = {METER: MeterReading, VEHICLE: VehicleReading}


def performance_answer(
    question: PerformanceQuestion,
    answer: QueryResult[tuple[FleetTotals, Evidence]],
    judgement: Judgement,
    thresholds: Thresholds,
) -> wire.GetVehiclePerformanceResponse:
    found, evidence = answer.value
    totals = found.at(0)
    performance = judgement.of_totals(0, totals, found.comparison)
    meter_ids = sorted({each.meter_id for each in evidence.feedings})
    normal = baseline_of(found, evidence, judgement, thresholds)
    vehicle = JudgedVehicle(question.vehicle_id, totals, performance, meter_ids, normal)
    return wire.GetVehiclePerformanceResponse(
        **performance_fields(vehicle, thresholds, evidence),
        **window_fields(question.window),
        evidence=wire.PerformanceEvidence(
            first_vehicle_reading=timestamp_message(evidence.first_vehicle_us),
            last_vehicle_reading=timestamp_message(evidence.last_vehicle_us),
            first_meter_reading=timestamp_message(evidence.first_meter_us),
            last_meter_reading=timestamp_message(evidence.last_meter_us),
            hours_either=evidence.hours_either,
            hours_both=evidence.hours_both,
            mapping_count=totals.mappings,
            vehicle_quality=_quality_message(evidence.vehicle_quality),
            meter_quality=_quality_message(evidence.meter_quality),
            mappings=map(feeding_message, evidence.feedings),
            similar_vehicle_ids=evidence.similar_vehicle_ids,
        ),
        thresholds=thresholds_message(thresholds),
        as_of=proto_from_us(answer.as_of_us),
    )


def baseline_of(found: FleetTotals, evidence: Evidence, judgement: Judgement, thresholds: Thresholds) -> Baseline:
    """What is normal for the only vehicle that was found."""
    if evidence.baseline_sums is None:
        return NO_BASELINE
    return baselines(evidence.baseline_sums, found, judgement, thresholds).at(0)


def page_answer(
    result: FleetResult, page: Sequence[JudgedVehicle], next_page_token: str, thresholds: Thresholds
) -> wire.ListVehiclePerformanceResponse:
    totals = result.totals
    return wire.ListVehiclePerformanceResponse(
        **window_fields(result.window),
        vehicles=[
            wire.VehiclePerformance(**performance_fields(each, thresholds), mapping_count=each.totals.mappings)
            for each in page
        ],
        matched=len(result.positions),
        totals=wire.FleetTotals(
            vehicles=totals.vehicles,
            kwh_delivered_dc=totals.kwh_delivered_dc,
            kwh_consumed_ac=totals.kwh_consumed_ac,
            vehicle_readings=totals.vehicle_readings,
            meter_readings=totals.meter_readings,
            efficiency_ratio=result.efficiency_ratio,
            kwh_lost=result.kwh_lost,
            by_verdict=[_verdict_message(verdict, group) for verdict, group in result.by_verdict.items()],
            kwh_returned_dc=totals.kwh_returned_dc,
            kwh_returned_ac=totals.kwh_returned_ac,
            kwh_consumed_ac_idle=totals.kwh_consumed_ac_idle,
            kwh_delivered_dc_unmapped=totals.kwh_delivered_dc_unmapped,
        ),
        unknown_vehicle_ids=result.unknown_vehicle_ids,
        thresholds=thresholds_message(thresholds),
        next_page_token=next_page_token,
        as_of=proto_from_us(result.as_of_us),
    )


def series_answer(
    question: SeriesQuestion, window: Window, answer: QueryResult[list[Bucket]], thresholds: Thresholds
) -> wire.GetPerformanceSeriesResponse:
    return wire.GetPerformanceSeriesResponse(
        vehicle_id=question.vehicle_id,
        **window_fields(window),
        granularity=wire.SeriesGranularity.Value(question.granularity),
        time_zone=question.time_zone,
        buckets=[
            wire.PerformanceBucket(
                window=window_message(window),
                empty=each.vehicle_readings == 0 and each.meter_readings == 0,
                mapped=each.mapped,
                kwh_delivered_dc=each.kwh_delivered_dc,
                kwh_consumed_ac=each.kwh_consumed_ac,
                efficiency_ratio=efficiency_ratio(each.kwh_delivered_dc, each.kwh_consumed_ac, each.kwh_returned_ac),
                kwh_lost=kwh_lost(each.kwh_delivered_dc, each.kwh_consumed_ac),
                average_battery_temp=each.average_battery_temp,
                vehicle_readings=each.vehicle_readings,
                meter_readings=each.meter_readings,
                kwh_returned_dc=each.kwh_returned_dc,
                kwh_returned_ac=each.kwh_returned_ac,
            )
            for window, each in zip(question.buckets, answer.value, strict=True)
        ],
        thresholds=thresholds_message(thresholds),
        as_of=proto_from_us(answer.as_of_us),
    )


@cache
def thresholds_message(thresholds: Thresholds) -> wire.PerformanceThresholds:
    by_power = [
        wire.LimitByPower(from_kw=power_kw, low_efficiency_below=limit)
        for power_kw, limit in thresholds.low_efficiency_by_power
    ]
    return wire.PerformanceThresholds(**(asdict(thresholds) | {"low_efficiency_by_power": by_power}))


def status_fields(kind: DeviceKind, device_id: str, found: Found, now_us: int, stale_after_us: int) -> dict[str, Any]:
    """The fields of every message that has a device's status."""
    named = {f"{kind.name}_id": device_id}
    status = found.status
    age_us = None if status is None else status.age_us(now_us)
    its_freshness = freshness(age_us, stale_after_us) if found.known else Freshness.UNKNOWN_DEVICE
    fields: dict[str, Any] = {
        **named,
        "age": None if age_us is None else duration_message(age_us),
        "clock": clock_message(found.clock),
        "freshness": wire.Freshness.Value(its_freshness),
        "similar_ids": found.similar_ids,
    }
    for refusal in found.refusals:
        if refusal.reason == DOUBTED:
            fields["doubted_readings"] = refusal.count
            continue
        name = "omissions" if refusal.field.partition(".")[2] in kind.optional else "rejections"
        fields.setdefault(name, []).append(_refusal_message(refusal))
    if status is not None:
        fields["reading"] = _READINGS[kind](**named, **status.measurements, timestamp=proto_from_us(status.ts_us))
    return fields


def window_fields(window: Window) -> dict[str, Any]:
    """The fields of every message that says which window was looked at."""
    return {
        "window": window_message(window),
        "window_aligned": window.aligned,
        "readings_since": timestamp_message(window.readings_since_us),
    }


def window_message(window: Window) -> wire.TimeWindow:
    message = wire.TimeWindow()
    set_us(message.start, window.start_us)
    set_us(message.end, window.end_us)
    return message


def feeding_message(feeding: Feeding) -> wire.FeedingInterval:
    return wire.FeedingInterval(
        meter_id=feeding.meter_id,
        window=window_message(Window(feeding.since_us, feeding.until_us)),
        kwh_consumed_ac=feeding.kwh_consumed_ac,
        meter_readings=feeding.meter_readings,
        kwh_returned_ac=feeding.kwh_returned_ac,
    )


def duration_message(us: int) -> Duration:
    duration = Duration()
    duration.FromMicroseconds(us)
    return duration


def clock_message(evidence: ClockEvidence | None) -> wire.ClockEvidence | None:
    if evidence is None:
        return None
    age_us = evidence.newest_age_us
    return wire.ClockEvidence(
        newest_age_at_arrival=None if age_us is None else duration_message(age_us),
        late_readings=evidence.late_readings,
        future_readings=evidence.future_readings,
        conflicting_readings=evidence.conflicting_readings,
    )


def _quality_message(counts: Mapping[str, int]) -> wire.QualityCounts | None:
    if not counts:
        return None
    return wire.QualityCounts(
        doubted_readings=counts.get("doubted", 0) + counts.get(SESSION, 0),
        register_baselines=counts.get("baseline", 0),
        register_resets=counts.get("reset", 0),
        register_jumps=counts.get("jump", 0),
        corrected_readings=counts.get("corrected", 0),
        session_registers=counts.get(SESSION, 0),
    )


def _refusal_message(refusal: Refusal) -> wire.Refusal:
    known = dict(RejectionReason.items())  # a newer ingestion may have others
    return wire.Refusal(
        field=refusal.field,
        reason=known.get(refusal.reason, RejectionReason.REJECTION_REASON_UNSPECIFIED),
        count=refusal.count,
        last_at=proto_from_us(refusal.last_us),
        last_description=refusal.last_description,
    )


def performance_fields(
    vehicle: JudgedVehicle, thresholds: Thresholds, evidence: Evidence | None = None
) -> dict[str, Any]:
    vehicle_id, totals, performance, meter_ids, baseline = vehicle
    explanation = explain(vehicle_id, meter_ids, totals, performance, thresholds, baseline)
    return {
        "vehicle_id": vehicle_id,
        "kwh_delivered_dc": totals.kwh_delivered_dc,
        "kwh_consumed_ac": totals.kwh_consumed_ac,
        "efficiency_ratio": performance.efficiency_ratio,
        "kwh_lost": performance.kwh_lost,
        "average_battery_temp": totals.average_battery_temp,
        "vehicle_readings": totals.vehicle_readings,
        "meter_readings": totals.meter_readings,
        "coverage": performance.coverage,
        "verdict": wire.Verdict.Value(performance.verdict),
        "verdict_reason": explanation.reason,
        "alert": explanation.alert,
        "kwh_returned_dc": totals.kwh_returned_dc,
        "kwh_returned_ac": totals.kwh_returned_ac,
        "comparison": comparison_message(performance.compared, evidence),
        "kwh_consumed_ac_idle": totals.kwh_consumed_ac_idle,
        "kwh_delivered_dc_unmapped": totals.kwh_delivered_dc_unmapped,
        "findings": map(finding_message, findings_of(totals, performance, evidence, baseline)),
        "baseline_ratio": baseline.ratio,
        "ratio_change": baseline.change,
    }


def comparison_message(compared: Compared | None, evidence: Evidence | None) -> wire.Comparison | None:
    if compared is None:
        return None
    return wire.Comparison(
        kwh_delivered_dc=compared.kwh_delivered_dc,
        kwh_consumed_ac=compared.kwh_consumed_ac,
        efficiency_ratio=compared.efficiency_ratio,
        kwh_lost=compared.kwh_lost,
        mean_power_kw=compared.mean_power_kw,
        low_efficiency_below=compared.low_efficiency_below,
        efficiency_ratio_at_least=compared.at_least,
        efficiency_ratio_at_most=compared.at_most,
        spans=[window_message(Window(*each)) for each in evidence.compared_us] if evidence else (),
    )


def finding_message(finding: Finding) -> wire.Finding:
    return wire.Finding(
        kind=wire.FindingKind.Value(finding.kind),
        kwh=finding.kwh,
        readings=finding.readings,
        hours_apart=finding.hours_apart,
        baseline_ratio=finding.baseline_ratio,
        ratio_change=finding.ratio_change,
        since=timestamp_message(finding.since_us),
        text=finding.text,
    )


def _verdict_message(verdict: Verdict, group: GroupTotals) -> wire.VerdictTotals:
    return wire.VerdictTotals(
        verdict=wire.Verdict.Value(verdict),
        vehicles=group.vehicles,
        kwh_delivered_dc=group.kwh_delivered_dc,
        kwh_consumed_ac=group.kwh_consumed_ac,
        kwh_returned_dc=group.kwh_returned_dc,
        kwh_returned_ac=group.kwh_returned_ac,
    )


def timestamp_message(us: int | None) -> Timestamp | None:
    return None if us is None else proto_from_us(us)
