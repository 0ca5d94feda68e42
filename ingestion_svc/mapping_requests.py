"""Turns the mapping requests into questions, telling all of their violations at once."""

from energyfleet.v1 import ingestion_service_pb2 as wire
from google.protobuf.timestamp_pb2 import Timestamp

from ingestion_svc.devices import Opening
from ingestion_svc.mapping_lists import MappingChangesQuestion, MappingsQuestion
from ingestion_svc.mappings import Mapping, MappingOrder, UnmappingOrder
from ingestion_svc.notes import check_line
from ingestion_svc.readings import TimeBounds
from shared.device_ids import is_device_id
from shared.requests import PLACE_NUMBER_MAX, Checks, place_of_page
from shared.timestamps import TIMESTAMP_MAX_SECONDS, US_PER_SECOND, iso_from_us

PAGE_DEFAULT = 100
PAGE_MAX = 1_000
"""Mappings, or changes of them, in a page: some 300 KiB, or 2 MiB with the longest notes in ASCII."""

_TOKEN_TIME_END_US = TIMESTAMP_MAX_SECONDS * US_PER_SECOND


def parse_opening(opening: wire.ExchangeOpening, *, first: bool) -> Opening:
    """The devices whose newest timestamps are asked for. Raises InvalidRequest."""
    checks = Checks()
    if not first:
        checks.add("opening", "belongs into the first request of a stream")
    if opening.meter_id:
        checks.device_id("opening.meter_id", opening.meter_id)
    if opening.vehicle_id:
        checks.device_id("opening.vehicle_id", opening.vehicle_id)
    checks.raise_if_any()
    return Opening(opening.meter_id, opening.vehicle_id)


def parse_map_vehicle(request: wire.MapVehicleRequest, bounds: TimeBounds) -> MappingOrder:
    """The order, from now on where no instant is given. Raises InvalidRequest."""
    checks = Checks()
    checks.device_id("vehicle_id", request.vehicle_id)
    checks.device_id("meter_id", request.meter_id)
    from_us, until_us = _span(request, bounds, checks)
    if request.mode not in wire.MappingMode.values():
        checks.add("mode", f"{request.mode} is none of {', '.join(wire.MappingMode.keys()[1:])}")
    check_line(checks, "note", request.note)
    checks.raise_if_any()
    wanted = Mapping(request.vehicle_id, request.meter_id, from_us, until_us)
    return MappingOrder(wanted, request.mode == wire.MAPPING_MODE_JOIN, request.note)


def parse_unmap_vehicle(request: wire.UnmapVehicleRequest, bounds: TimeBounds) -> UnmappingOrder:
    """The order, from now on where no instant is given. Raises InvalidRequest."""
    checks = Checks()
    checks.device_id("vehicle_id", request.vehicle_id)
    if request.meter_id:
        checks.device_id("meter_id", request.meter_id)
    from_us, until_us = _span(request, bounds, checks)
    check_line(checks, "note", request.note)
    checks.raise_if_any()
    return UnmappingOrder(request.vehicle_id, request.meter_id, from_us, until_us, request.note)


def _span(
    request: wire.MapVehicleRequest | wire.UnmapVehicleRequest, bounds: TimeBounds, checks: Checks
) -> tuple[int, int | None]:
    """The start, now where it is absent, and the end where there is one; anything where a violation was noted."""
    noted = len(checks.violations)
    from_us, until_us = bounds.now_us, None
    if request.HasField("effective_from"):
        from_us = _instant("effective_from", request.effective_from, bounds, checks)
    if request.HasField("effective_until"):
        until_us = _instant("effective_until", request.effective_until, bounds, checks)
        if until_us <= from_us and len(checks.violations) == noted:
            start = iso_from_us(from_us) + ("" if request.HasField("effective_from") else ", which is now")
            checks.add("effective_until", f"{iso_from_us(until_us)} does not lie after effective_from {start}")
    return from_us, until_us


def _instant(field: str, timestamp: Timestamp, bounds: TimeBounds, checks: Checks) -> int:
    noted = len(checks.violations)
    us = checks.time_us(field, timestamp)
    if len(checks.violations) == noted and not bounds.earliest_us <= us <= bounds.latest_us:
        checks.add(
            field,
            f"{iso_from_us(us)} is not within {iso_from_us(bounds.earliest_us)} (the retention floor)"
            f" to {iso_from_us(bounds.latest_us)} (5 minutes ahead of the server's clock)",
        )
    return us


def parse_list_mappings(request: wire.ListMappingsRequest) -> MappingsQuestion:
    """The question. Raises InvalidRequest."""
    checks = Checks()
    _page(request, checks)
    after = ("", 0, "")
    if request.page_token:
        vehicle_id, us, meter_id = place_of_page(request.page_token, str, int, str) or after
        after = (str(vehicle_id), int(us), str(meter_id))
        if not (is_device_id(after[0]) and is_device_id(after[2]) and 0 <= after[1] < _TOKEN_TIME_END_US):
            checks.add("page_token", "not a next_page_token of this rpc")
    checks.raise_if_any()
    return MappingsQuestion(request.vehicle_id, request.meter_id, after, request.page_size or PAGE_DEFAULT)


def parse_list_mapping_changes(request: wire.ListMappingChangesRequest) -> MappingChangesQuestion:
    """The question. Raises InvalidRequest."""
    checks = Checks()
    _page(request, checks)
    place = place_of_page(request.page_token, int) if request.page_token else [PLACE_NUMBER_MAX]
    if place is None:
        checks.add("page_token", "not a next_page_token of this rpc")
    checks.raise_if_any()
    before = int(place[0]) if place else 0
    return MappingChangesQuestion(request.vehicle_id, request.meter_id, before, request.page_size or PAGE_DEFAULT)


def _page(request: wire.ListMappingsRequest | wire.ListMappingChangesRequest, checks: Checks) -> None:
    """Notes what is wrong with the ids and the size of a page."""
    if request.vehicle_id:
        checks.device_id("vehicle_id", request.vehicle_id)
    if request.meter_id:
        checks.device_id("meter_id", request.meter_id)
    if not 0 <= request.page_size <= PAGE_MAX:
        checks.add("page_size", f"{request.page_size} is not within 1 to {PAGE_MAX}; 0 asks for {PAGE_DEFAULT}")
