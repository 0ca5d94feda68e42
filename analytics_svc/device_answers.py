"""Builds the messages of the list of devices."""

from energyfleet.v1 import analytics_service_pb2 as wire
from google.protobuf.duration_pb2 import Duration

from analytics_svc.answers import clock_message, duration_message, timestamp_message
from analytics_svc.device_list import FRESHNESS_OF, DeviceResult, or_none
from shared.timestamps import proto_from_us


def device_page_answer(
    result: DeviceResult, its: tuple[int, int], next_page_token: str, stale_after: Duration
) -> wire.ListDevicesResponse:
    """The devices from one place of the result up to another."""
    start, end = its
    return wire.ListDevicesResponse(
        devices=[_device_message(result, place) for place in range(start, min(end, len(result.found)))],
        matched=len(result.found),
        by_state=[
            wire.DeviceStateCount(state=wire.DeviceState.Value(state), vehicles=vehicles, meters=meters)
            for state, (vehicles, meters) in result.counts.items()
        ],
        stale_after=stale_after,
        next_page_token=next_page_token,
        as_of=proto_from_us(result.as_of_us),
    )


def _device_message(result: DeviceResult, place: int) -> wire.ListedDevice:
    found = result.found
    states = [state for state, which in result.states.items() if which.item(place)]
    [freshness] = [FRESHNESS_OF[state] for state in states if state in FRESHNESS_OF]
    newest_us = or_none(found.newest_us.item(place))
    message = wire.ListedDevice(
        newest_reading=timestamp_message(newest_us),
        age=None if newest_us is None else duration_message(result.now_us - newest_us),
        freshness=wire.Freshness.Value(freshness),
        clock=clock_message(found.clock_evidence(place)),
        rejected_readings=found.rejected_readings.item(place),
        omitted_values=found.omitted_values.item(place),
        last_refused=timestamp_message(or_none(found.last_refused_us.item(place))),
        doubted_readings=found.doubted_readings.item(place),
        states=[wire.DeviceState.Value(state) for state in states],
    )
    if found.vehicle.item(place):
        message.vehicle_id = found.ids[place]
    else:
        message.meter_id = found.ids[place]
    return message
