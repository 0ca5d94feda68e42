"""Builds the messages of the contract that ingestion answers with."""

from dataclasses import asdict
from typing import Any

from energyfleet.v1 import ingestion_service_pb2 as wire
from energyfleet.v1.telemetry_pb2 import MeterReading, Telemetry, VehicleReading

from ingestion_svc.corrections import Correction
from ingestion_svc.mapping_lists import MappingChange
from ingestion_svc.mappings import ChangeRecord, Mapping
from ingestion_svc.readings import Conflict, MeterRow, Rejection, Summary, VehicleRow
from shared.timestamps import proto_from_us


def summary_message(summary: Summary) -> wire.IngestionSummary:
    return wire.IngestionSummary(
        received=summary.received,
        stored=summary.stored,
        duplicate=summary.duplicate,
        conflicting=summary.conflicting,
        rejected=summary.rejected,
        rejections=[_rejection_message(each) for each in summary.rejections],
        conflicts=[_conflict_message(each) for each in summary.conflicts],
        not_yet=summary.not_yet,
        omitted_values=summary.omitted,
        doubted=summary.doubted,
        omissions=[wire.OmittedValue(**asdict(each)) for each in summary.omissions],
    )


def opened_message(meter_us: int | None, vehicle_us: int | None) -> wire.ExchangeTelemetryResponse:
    """The newest committed timestamps of the devices behind an exchange, None where there is none."""
    return wire.ExchangeTelemetryResponse(
        opened=wire.ExchangeOpened(
            newest_meter_timestamp=None if meter_us is None else proto_from_us(meter_us),
            newest_vehicle_timestamp=None if vehicle_us is None else proto_from_us(vehicle_us),
        )
    )


def mapping_message(mapping: Mapping) -> wire.Mapping:
    return wire.Mapping(
        vehicle_id=mapping.vehicle_id,
        meter_id=mapping.meter_id,
        effective_from=proto_from_us(mapping.from_us),
        effective_until=None if mapping.until_us is None else proto_from_us(mapping.until_us),
        registered=None if mapping.registered is None else _record_message(mapping.registered),
        ended=None if mapping.ended is None else _record_message(mapping.ended),
    )


def mapping_change_message(change: MappingChange) -> wire.MappingChange:
    return wire.MappingChange(
        before=None if change.before is None else mapping_message(change.before),
        after=None if change.after is None else mapping_message(change.after),
        record=_record_message(change.record),
    )


def correction_message(correction: Correction) -> wire.Correction:
    named: dict[str, Any] = {f"{correction.device_kind}_id": correction.device_id}
    return wire.Correction(
        **named,
        timestamp=proto_from_us(correction.ts_us),
        sent_kwh=correction.sent_kwh,
        kwh_before=correction.kwh_before,
        kwh=correction.kwh,
        voided=correction.voided,
        author=correction.author,
        note=correction.note,
        corrected_at=proto_from_us(correction.corrected_us),
        identity=correction.identity,
    )


def _record_message(record: ChangeRecord) -> wire.ChangeRecord:
    return wire.ChangeRecord(identity=record.identity, changed_at=proto_from_us(record.changed_us), note=record.note)


def _rejection_message(rejection: Rejection) -> wire.RejectedReading:
    return wire.RejectedReading(
        index=rejection.index,
        field=rejection.field,
        reason=wire.RejectionReason.Value(rejection.reason),
        description=rejection.description,
        sequence=rejection.sequence,
        device_id=rejection.device_id,
    )


def _conflict_message(conflict: Conflict) -> wire.ConflictingReading:
    return wire.ConflictingReading(
        index=conflict.index,
        device_id=conflict.sent[0],
        timestamp=proto_from_us(conflict.sent.ts_us),
        sequence=conflict.sequence,
        sent=_telemetry(conflict.sent),
        stored=_telemetry(conflict.stored),
    )


def _telemetry(row: MeterRow | VehicleRow) -> Telemetry:
    device_id, ts_us, *_ = row
    values: dict[str, Any] = {"timestamp": proto_from_us(ts_us), **dict(zip(row._fields[2:], row[2:], strict=True))}
    if isinstance(row, MeterRow):
        return Telemetry(meter=MeterReading(meter_id=device_id, **values))
    return Telemetry(vehicle=VehicleReading(vehicle_id=device_id, **values))
