"""Requests of the contract, built from plain values. Times are in microseconds."""

from collections.abc import Sequence

from energyfleet.v1.analytics_service_pb2 import (
    GetPerformanceSeriesRequest,
    GetVehiclePerformanceRequest,
    ListVehiclePerformanceRequest,
    PerformanceOrder,
    SeriesGranularity,
    TimeWindow,
    Verdict,
)
from energyfleet.v1.ingestion_service_pb2 import MapVehicleRequest, UnmapVehicleRequest
from google.protobuf.timestamp_pb2 import Timestamp

from shared.timestamps import proto_from_us


def mapping_request(
    vehicle_id: str, meter_id: str, from_us: int | None, until_us: int | None = None
) -> MapVehicleRequest:
    """Registers a mapping from an instant (None: now) until another (None: no end)."""
    return MapVehicleRequest(
        vehicle_id=vehicle_id,
        meter_id=meter_id,
        effective_from=_timestamp(from_us),
        effective_until=_timestamp(until_us),
    )


def unmapping_request(vehicle_id: str, from_us: int | None, until_us: int | None) -> UnmapVehicleRequest:
    """Removes what is mapped from an instant until another, as in `mapping_request`."""
    return UnmapVehicleRequest(
        vehicle_id=vehicle_id,
        effective_from=_timestamp(from_us),
        effective_until=_timestamp(until_us),
    )


def performance_request(vehicle_id: str, start_us: int | None, end_us: int | None) -> GetVehiclePerformanceRequest:
    """Asks about a window; the service chooses an end that is None."""
    return GetVehiclePerformanceRequest(vehicle_id=vehicle_id, window=_window(start_us, end_us))


def fleet_request(
    start_us: int | None, end_us: int | None, verdicts: Sequence[str], vehicle_ids: Sequence[str], order: str
) -> ListVehiclePerformanceRequest:
    """Asks about the fleet: verdicts and order by the contract's names, `LOW_EFFICIENCY` and `KWH_LOST`."""
    return ListVehiclePerformanceRequest(
        window=_window(start_us, end_us),
        verdicts=[Verdict.Value(f"VERDICT_{verdict}") for verdict in verdicts],
        vehicle_ids=vehicle_ids,
        order=PerformanceOrder.Value(f"PERFORMANCE_ORDER_{order}"),
    )


def series_request(
    vehicle_id: str, start_us: int | None, end_us: int | None, granularity: str, time_zone: str
) -> GetPerformanceSeriesRequest:
    """Asks about a vehicle over time: the granularity by the contract's name, `HOUR` or `DAY`."""
    return GetPerformanceSeriesRequest(
        vehicle_id=vehicle_id,
        window=_window(start_us, end_us),
        granularity=SeriesGranularity.Value(f"SERIES_GRANULARITY_{granularity}"),
        time_zone=time_zone,
    )


def _window(start_us: int | None, end_us: int | None) -> TimeWindow | None:
    if start_us is None and end_us is None:
        return None
    return TimeWindow(start=_timestamp(start_us), end=_timestamp(end_us))


def _timestamp(us: int | None) -> Timestamp | None:
    return None if us is None else proto_from_us(us)
