"""Which corrections are refused, with all that is wrong with them at once."""

import math
from typing import Any

import pytest
from energyfleet.v1 import ingestion_service_pb2 as wire
from google.protobuf.empty_pb2 import Empty
from google.protobuf.timestamp_pb2 import Timestamp

from ingestion_svc.correction_requests import parse_correct_reading, parse_list_corrections
from ingestion_svc.corrections import NEWEST
from shared.db.device_kind import METER, VEHICLE
from shared.errors import InvalidRequest
from shared.requests import page_token


def a_correction(**fields: Any) -> wire.CorrectReadingRequest:
    given: dict[str, Any] = {
        "meter_id": "meter-001",
        "timestamp": Timestamp(seconds=7, nanos=1_999),
        "voided": Empty(),
        "author": "Ada",
        "note": "a glitch, ticket 12",
    }
    given |= fields
    return wire.CorrectReadingRequest(**{name: value for name, value in given.items() if value is not None})


def violated(request: wire.CorrectReadingRequest | wire.ListCorrectionsRequest) -> list[str]:
    parse: Any = parse_correct_reading if isinstance(request, wire.CorrectReadingRequest) else parse_list_corrections
    with pytest.raises(InvalidRequest) as caught:
        parse(request)
    return [violation.field for violation in caught.value.violations]


def test_a_correction_voids_replaces_or_takes_back() -> None:
    order = parse_correct_reading(a_correction())
    assert (order.kind, order.device_id, order.ts_us, order.kwh, order.voided) == (
        METER,
        "meter-001",
        7_000_001,
        0,
        True,
    )
    order = parse_correct_reading(a_correction(meter_id=None, vehicle_id="v", voided=None, kwh=1.85))
    assert (order.kind, order.device_id, order.kwh, order.voided) == (VEHICLE, "v", 1.85, False)
    order = parse_correct_reading(a_correction(voided=None, as_sent=Empty()))
    assert (order.kwh, order.voided) == (None, False)


def test_everything_that_is_wrong_is_told_at_once() -> None:
    assert violated(wire.CorrectReadingRequest()) == ["device", "timestamp", "energy", "author", "note"]


@pytest.mark.parametrize("kwh", [-1000.1, 1_000_000.1, math.nan, math.inf])
def test_an_energy_that_no_reading_may_have_is_refused(kwh: float) -> None:
    assert violated(a_correction(voided=None, kwh=kwh)) == ["kwh"]


@pytest.mark.parametrize("text", ["", " ", "a\nb", "\0", "x" * 1_001])
def test_who_and_why_are_short_lines_of_text(text: str) -> None:
    assert violated(a_correction(author=text, note=text)) == ["author", "note"]


def test_a_page_of_corrections_begins_at_its_token() -> None:
    assert parse_list_corrections(wire.ListCorrectionsRequest()).before == NEWEST
    question = parse_list_corrections(
        wire.ListCorrectionsRequest(vehicle_id="v", page_token=page_token(12), page_size=7)
    )
    assert (question.device_kind, question.device_id, question.before, question.most) == ("vehicle", "v", 12, 7)
    for strange in (page_token("a"), page_token(1, 2), "?"):
        assert violated(wire.ListCorrectionsRequest(page_token=strange)) == ["page_token"]
    assert violated(wire.ListCorrectionsRequest(meter_id="", page_size=1_001)) == ["meter_id", "page_size"]
