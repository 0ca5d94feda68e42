"""Builds the messages about meters."""

from collections.abc import Sequence

from energyfleet.v1 import analytics_service_pb2 as wire

from analytics_svc.answers import comparison_message, finding_message, thresholds_message, window_fields
from analytics_svc.judged_meter import JudgedMeter
from analytics_svc.meter_explanation import explain_meter, meter_findings_of
from analytics_svc.meter_performance import MeterResult
from analytics_svc.performance import Thresholds
from shared.timestamps import proto_from_us


def meter_page_answer(
    result: MeterResult, page: Sequence[JudgedMeter], next_page_token: str, thresholds: Thresholds
) -> wire.ListMeterPerformanceResponse:
    totals = result.totals
    return wire.ListMeterPerformanceResponse(
        **window_fields(result.window),
        meters=[_meter_message(each, thresholds) for each in page],
        matched=len(result.positions),
        totals=wire.MeterTotals(
            meters=totals.meters,
            kwh_consumed_ac=totals.kwh_consumed_ac,
            kwh_consumed_ac_unmapped=totals.kwh_unmapped,
            meter_readings=totals.readings,
            meter_readings_unmapped=totals.readings_unmapped,
            by_verdict=[
                wire.MeterVerdictTotals(
                    verdict=wire.Verdict.Value(verdict), meters=group.meters, kwh_consumed_ac=group.kwh_consumed_ac
                )
                for verdict, group in result.by_verdict.items()
            ],
        ),
        unknown_meter_ids=result.unknown_meter_ids,
        thresholds=thresholds_message(thresholds),
        next_page_token=next_page_token,
        as_of=proto_from_us(result.as_of_us),
    )


def _meter_message(meter: JudgedMeter, thresholds: Thresholds) -> wire.MeterPerformance:
    totals, performance = meter.totals, meter.performance
    explanation = explain_meter(meter, thresholds)
    return wire.MeterPerformance(
        meter_id=meter.meter_id,
        vehicle_ids=meter.vehicles.ids,
        vehicle_count=meter.vehicles.count,
        mapping_count=totals.mappings,
        shared_with=meter.shared_with.ids,
        kwh_consumed_ac=totals.kwh_consumed_ac,
        kwh_returned_ac=totals.kwh_returned_ac,
        kwh_consumed_ac_unmapped=meter.kwh_unmapped,
        kwh_delivered_dc=totals.kwh_delivered_dc,
        kwh_returned_dc=totals.kwh_returned_dc,
        efficiency_ratio=performance.efficiency_ratio,
        kwh_lost=performance.kwh_lost,
        meter_readings=totals.meter_readings,
        meter_readings_unmapped=meter.readings_unmapped,
        vehicle_readings=totals.vehicle_readings,
        coverage=performance.coverage,
        verdict=wire.Verdict.Value(performance.verdict),
        verdict_reason=explanation.reason,
        alert=explanation.alert,
        comparison=comparison_message(performance.compared, None),
        kwh_consumed_ac_idle=totals.kwh_consumed_ac_idle,
        findings=map(finding_message, meter_findings_of(meter)),
    )
