"""Turns the correction requests into orders and questions, telling all of their violations at once."""

from energyfleet.v1 import ingestion_service_pb2 as wire

from ingestion_svc.corrections import NEWEST, CorrectionOrder, CorrectionsQuestion
from ingestion_svc.notes import check_line
from ingestion_svc.readings import INTERVAL_MAX_KWH, INTERVAL_MIN_KWH
from shared.db.device_kind import METER, VEHICLE
from shared.requests import Checks, place_of_page

AUTHOR_MAX_LENGTH = 100
"""Characters."""

PAGE_DEFAULT = 100
PAGE_MAX = 1_000
"""Corrections in a page: a megabyte of the longest notes."""


def parse_correct_reading(request: wire.CorrectReadingRequest) -> CorrectionOrder:
    """The order. Raises InvalidRequest."""
    checks = Checks()
    device_id = request.vehicle_id if request.WhichOneof("device") == "vehicle_id" else request.meter_id
    checks.device_id(request.WhichOneof("device") or "device", device_id)
    ts_us = 0
    if request.HasField("timestamp"):
        ts_us = checks.time_us("timestamp", request.timestamp)
    else:
        checks.add("timestamp", "required: the timestamp of the reading")
    energy = request.WhichOneof("energy")
    if energy is None:
        checks.add("energy", "required: set one of voided, kwh and as_sent")
    elif energy == "kwh" and not INTERVAL_MIN_KWH <= request.kwh <= INTERVAL_MAX_KWH:
        checks.add("kwh", f"{request.kwh!r} is not within {INTERVAL_MIN_KWH:.15g} to {INTERVAL_MAX_KWH:.15g} kWh")
    check_line(checks, "author", request.author, AUTHOR_MAX_LENGTH, required=True)
    check_line(checks, "note", request.note, required=True)
    checks.raise_if_any()
    return CorrectionOrder(
        VEHICLE if request.WhichOneof("device") == "vehicle_id" else METER,
        device_id,
        ts_us,
        {"voided": 0.0, "kwh": request.kwh}.get(energy or ""),
        energy == "voided",
        request.author,
        request.note,
    )


def parse_list_corrections(request: wire.ListCorrectionsRequest) -> CorrectionsQuestion:
    """The question. Raises InvalidRequest."""
    checks = Checks()
    device = request.WhichOneof("device")
    device_id = request.vehicle_id if device == "vehicle_id" else request.meter_id
    if device:
        checks.device_id(device, device_id)
    if not 0 <= request.page_size <= PAGE_MAX:
        checks.add("page_size", f"{request.page_size} is not within 1 to {PAGE_MAX:,}; 0 asks for {PAGE_DEFAULT}")
    place = place_of_page(request.page_token, int) if request.page_token else [NEWEST]
    if place is None:
        checks.add("page_token", "not a next_page_token of this rpc")
    checks.raise_if_any()
    kind = VEHICLE if device == "vehicle_id" else METER
    return CorrectionsQuestion(kind.name, device_id, int(place[0]) if place else 0, request.page_size or PAGE_DEFAULT)
