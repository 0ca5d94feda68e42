"""Requests of the contract, built from plain values. Times are in microseconds."""

from collections.abc import Sequence
from typing import Any

from energyfleet.v1.analytics_service_pb2 import (
    DeviceKind,
    DeviceOrder,
    DeviceState,
    GetPerformanceSeriesRequest,
    ListChargingSessionsRequest,
    ListDevicesRequest,
    ListMeterPerformanceRequest,
    ListVehiclePerformanceRequest,
    PerformanceOrder,
    SeriesGranularity,
    TimeWindow,
    Verdict,
    WindowAlignment,
)
from google.protobuf.timestamp_pb2 import Timestamp

from shared.timestamps import proto_from_us


def fleet_request(
    window: TimeWindow | None, aligned: tuple[str, str], verdicts: Sequence[str], vehicle_ids: Sequence[str], order: str
) -> ListVehiclePerformanceRequest:
    """Asks about the fleet: alignment with its time zone, verdicts and order by the contract's names, such as `DAY`,
    `LOW_EFFICIENCY` and `KWH_LOST`."""
    fields = _list_fields(window, aligned, verdicts, order)
    return ListVehiclePerformanceRequest(vehicle_ids=vehicle_ids, **fields)


def meters_request(
    window: TimeWindow | None, aligned: tuple[str, str], verdicts: Sequence[str], meter_ids: Sequence[str], order: str
) -> ListMeterPerformanceRequest:
    """Asks about meters; likewise."""
    return ListMeterPerformanceRequest(meter_ids=meter_ids, **_list_fields(window, aligned, verdicts, order))


def _list_fields(
    window: TimeWindow | None, aligned: tuple[str, str], verdicts: Sequence[str], order: str
) -> dict[str, Any]:
    alignment, time_zone = aligned
    return {
        "window": window,
        "alignment": WindowAlignment.Value(f"WINDOW_ALIGNMENT_{alignment}"),
        "time_zone": time_zone,
        "verdicts": [Verdict.Value(f"VERDICT_{verdict}") for verdict in verdicts],
        "order": PerformanceOrder.Value(f"PERFORMANCE_ORDER_{order}"),
    }


def devices_request(kind: str, states: Sequence[str], order: str) -> ListDevicesRequest:
    """Asks for devices by the contract's names: `METER`, `VEHICLE` or `UNSPECIFIED`, `STALE` and `FRESHNESS`."""
    return ListDevicesRequest(
        kind=DeviceKind.Value(f"DEVICE_KIND_{kind}"),
        states=[DeviceState.Value(f"DEVICE_STATE_{state}") for state in states],
        order=DeviceOrder.Value(f"DEVICE_ORDER_{order}"),
    )


def series_request(
    vehicle_id: str, start_us: int | None, end_us: int | None, granularity: str, time_zone: str
) -> GetPerformanceSeriesRequest:
    """Asks about a vehicle over time: the granularity by the contract's name, `HOUR` or `DAY`."""
    return GetPerformanceSeriesRequest(
        vehicle_id=vehicle_id,
        window=window(start_us, end_us),
        granularity=SeriesGranularity.Value(f"SERIES_GRANULARITY_{granularity}"),
        time_zone=time_zone,
    )


def sessions_request(
    vehicle_id: str | None, meter_id: str | None, start_us: int | None, end_us: int | None
) -> ListChargingSessionsRequest:
    """Asks about the sessions of a vehicle, or of what a meter fed; one of the two is None."""
    request = ListChargingSessionsRequest(window=window(start_us, end_us))
    if vehicle_id is not None:
        request.vehicle_id = vehicle_id
    if meter_id is not None:
        request.meter_id = meter_id
    return request


def window(start_us: int | None, end_us: int | None) -> TimeWindow | None:
    if start_us is None and end_us is None:
        return None
    return TimeWindow(start=timestamp(start_us), end=timestamp(end_us))


def timestamp(us: int | None) -> Timestamp | None:
    return None if us is None else proto_from_us(us)
