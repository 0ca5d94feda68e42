"""Requests about mappings become orders; what is wrong with a request is told in one go."""

import pytest
from energyfleet.v1 import ingestion_service_pb2 as wire
from google.protobuf.timestamp_pb2 import Timestamp

from ingestion_svc.mapping_lists import MappingChangesQuestion
from ingestion_svc.mapping_requests import parse_list_mapping_changes, parse_map_vehicle, parse_unmap_vehicle
from ingestion_svc.mappings import Mapping, UnmappingOrder
from ingestion_svc.readings import FUTURE_SKEW_US, TimeBounds
from shared.errors import InvalidRequest
from shared.requests import PLACE_NUMBER_MAX, page_token
from shared.timestamps import US_PER_DAY, US_PER_HOUR, proto_from_us
from tests.builders import NOW_US

BOUNDS = TimeBounds(NOW_US - 400 * US_PER_DAY, NOW_US + FUTURE_SKEW_US)

REQUESTS = [
    pytest.param(wire.MapVehicleRequest(vehicle_id="car", meter_id="meter"), id="map"),
    pytest.param(wire.UnmapVehicleRequest(vehicle_id="car"), id="unmap"),
]

Request = wire.MapVehicleRequest | wire.UnmapVehicleRequest


def parsed(request: Request) -> Mapping | UnmappingOrder:
    if isinstance(request, wire.MapVehicleRequest):
        return parse_map_vehicle(request, BOUNDS).wanted
    return parse_unmap_vehicle(request, BOUNDS)


def asked(request: Request, start: Timestamp | None, end: Timestamp | None) -> Mapping | UnmappingOrder:
    filled = type(request)(effective_from=start, effective_until=end)
    filled.MergeFrom(request)  # type: ignore[arg-type]  # of the same kind
    return parsed(filled)


def violated(request: Request, start: Timestamp | None = None, end: Timestamp | None = None) -> dict[str, str]:
    with pytest.raises(InvalidRequest) as caught:
        asked(request, start, end)
    return {violation.field: violation.description for violation in caught.value.violations}


@pytest.mark.parametrize("request_", REQUESTS)
def test_what_is_absent_is_now_and_for_good(request_: Request) -> None:
    order = parsed(request_)
    assert (order.vehicle_id, order.from_us, order.until_us) == ("car", NOW_US, None)


@pytest.mark.parametrize("request_", REQUESTS)
def test_a_span_reaches_from_the_retention_floor_to_five_minutes_ahead(request_: Request) -> None:
    order = asked(request_, proto_from_us(BOUNDS.earliest_us), proto_from_us(BOUNDS.latest_us))
    assert (order.from_us, order.until_us) == (BOUNDS.earliest_us, BOUNDS.latest_us)
    beyond = violated(request_, proto_from_us(BOUNDS.earliest_us - 1), proto_from_us(BOUNDS.latest_us + 1))
    assert set(beyond) == {"effective_from", "effective_until"}
    assert all("the retention floor" in description for description in beyond.values())


@pytest.mark.parametrize("request_", REQUESTS)
def test_a_span_of_a_microsecond_is_taken_and_an_empty_one_is_not(request_: Request) -> None:
    start_us = NOW_US - US_PER_HOUR
    assert asked(request_, proto_from_us(start_us), proto_from_us(start_us + 1)).until_us == start_us + 1
    for end_us in (start_us, start_us - 1):
        assert set(violated(request_, proto_from_us(start_us), proto_from_us(end_us))) == {"effective_until"}
    told = violated(request_, None, proto_from_us(NOW_US))
    assert told == {
        "effective_until": "2026-02-10T00:30:00Z does not lie after effective_from 2026-02-10T00:30:00Z, which is now"
    }


def test_all_violations_are_told_at_once() -> None:
    malformed, far = Timestamp(seconds=NOW_US // 1_000_000, nanos=-1), Timestamp(seconds=2**62)
    told = violated(wire.MapVehicleRequest(vehicle_id="a ", note=" "), malformed, far)
    assert set(told) == {"vehicle_id", "meter_id", "effective_from", "effective_until", "note"}
    told = violated(wire.UnmapVehicleRequest(note="a\nb"), proto_from_us(BOUNDS.latest_us + 1), far)
    assert set(told) == {"vehicle_id", "effective_from", "effective_until", "note"}


def test_a_note_has_up_to_a_thousand_characters() -> None:
    for request in (wire.MapVehicleRequest(vehicle_id="car", meter_id="m"), wire.UnmapVehicleRequest(vehicle_id="car")):
        request.note = "ö" * 1_000
        assert asked(request, None, None).from_us == NOW_US
        request.note += "ö"
        assert set(violated(request)) == {"note"}


def test_a_page_of_changes_begins_at_its_token() -> None:
    assert parse_list_mapping_changes(wire.ListMappingChangesRequest()).before == PLACE_NUMBER_MAX
    request = wire.ListMappingChangesRequest(vehicle_id="v", meter_id="m", page_size=7, page_token=page_token(12))
    assert parse_list_mapping_changes(request) == MappingChangesQuestion("v", "m", 12, 7)
    wrong = wire.ListMappingChangesRequest(vehicle_id=" ", meter_id=" ", page_size=1_001, page_token=page_token("a"))
    with pytest.raises(InvalidRequest) as caught:
        parse_list_mapping_changes(wrong)
    assert [each.field for each in caught.value.violations] == ["vehicle_id", "meter_id", "page_size", "page_token"]


@pytest.mark.parametrize(
    ("mode", "join"),
    [(wire.MAPPING_MODE_UNSPECIFIED, False), (wire.MAPPING_MODE_REPLACE, False), (wire.MAPPING_MODE_JOIN, True)],
)
def test_a_meter_joins_others_where_it_is_said(mode: wire.MappingMode.ValueType, join: bool) -> None:
    request = wire.MapVehicleRequest(vehicle_id="car", meter_id="meter", mode=mode)
    assert parse_map_vehicle(request, BOUNDS).join is join


def test_a_mode_of_another_version_is_refused_rather_than_guessed() -> None:
    request = wire.MapVehicleRequest(vehicle_id="car", meter_id="meter")
    request.mode = 3  # type: ignore[assignment]  # of another version
    assert violated(request) == {"mode": "3 is none of MAPPING_MODE_REPLACE, MAPPING_MODE_JOIN"}


def test_an_unmapping_may_name_one_meter() -> None:
    assert parse_unmap_vehicle(wire.UnmapVehicleRequest(vehicle_id="car"), BOUNDS).meter_id == ""
    named = wire.UnmapVehicleRequest(vehicle_id="car", meter_id="meter")
    assert parse_unmap_vehicle(named, BOUNDS).meter_id == "meter"
    assert set(violated(wire.UnmapVehicleRequest(vehicle_id="car", meter_id=" "))) == {"meter_id"}
