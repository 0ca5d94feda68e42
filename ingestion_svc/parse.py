"""Turns the mapping requests into questions, telling all of their violations at once."""

from dataclasses import dataclass

from energyfleet.v1 import ingestion_service_pb2 as wire

from ingestion_svc.decode import TimeBounds
from shared.device_ids import is_device_id
from shared.requests import Checks, place_of_page
from shared.timestamps import TIMESTAMP_MAX_SECONDS, US_PER_SECOND, iso_from_us

PAGE_DEFAULT = 100
PAGE_MAX = 1_000
"""Mappings in a page: some 100 KiB."""

_TOKEN_TIME_END_US = TIMESTAMP_MAX_SECONDS * US_PER_SECOND


@dataclass(frozen=True, slots=True)
class MappingOrder:
    """Which meter shall feed which vehicle from when on, in microseconds."""

    vehicle_id: str
    meter_id: str
    from_us: int


@dataclass(frozen=True, slots=True)
class MappingsQuestion:
    """Which mappings: those of a vehicle, of a meter (empty: of all), after a place, at most so many."""

    vehicle_id: str
    meter_id: str
    after: tuple[str, int]
    most: int


@dataclass(frozen=True, slots=True)
class Opening:
    """The devices behind an exchange; empty: none."""

    meter_id: str
    vehicle_id: str


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


def parse_map_vehicle(request: wire.MapVehicleRequest, now_us: int, bounds: TimeBounds) -> MappingOrder:
    """The order, from now on where no instant is given. Raises InvalidRequest."""
    checks = Checks()
    checks.device_id("vehicle_id", request.vehicle_id)
    checks.device_id("meter_id", request.meter_id)
    from_us = now_us
    if request.HasField("effective_from"):
        from_us = checks.time_us("effective_from", request.effective_from)
        if not (bounds.earliest_us <= from_us <= bounds.latest_us) and not checks.violations:
            checks.add(
                "effective_from",
                f"{iso_from_us(from_us)} is not within {iso_from_us(bounds.earliest_us)} (the retention floor)"
                f" to {iso_from_us(bounds.latest_us)} (5 minutes ahead of the server's clock)",
            )
    checks.raise_if_any()
    return MappingOrder(request.vehicle_id, request.meter_id, from_us)


def parse_list_mappings(request: wire.ListMappingsRequest) -> MappingsQuestion:
    """The question. Raises InvalidRequest."""
    checks = Checks()
    if request.vehicle_id:
        checks.device_id("vehicle_id", request.vehicle_id)
    if request.meter_id:
        checks.device_id("meter_id", request.meter_id)
    if not 0 <= request.page_size <= PAGE_MAX:
        checks.add("page_size", f"{request.page_size} is not within 1 to {PAGE_MAX}; 0 asks for {PAGE_DEFAULT}")
    after = ("", 0)
    if request.page_token:
        place = place_of_page(request.page_token, str, int)
        if place is None or not is_device_id(str(place[0])) or not 0 <= int(place[1]) < _TOKEN_TIME_END_US:
            checks.add("page_token", "not a next_page_token of this rpc")
        else:
            after = (str(place[0]), int(place[1]))
    checks.raise_if_any()
    return MappingsQuestion(request.vehicle_id, request.meter_id, after, request.page_size or PAGE_DEFAULT)
