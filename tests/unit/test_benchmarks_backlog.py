"""The backlog of the benchmarks is what devices send that come back: each its own day, in order."""

from energyfleet.v1.ingestion_service_pb2 import StreamTelemetryRequest

from benchmarks.backlog import PER_MESSAGE, STREAMS, days_of
from shared.timestamps import US_PER_DAY, us_from_proto


def test_each_call_sends_the_days_of_its_devices_one_by_one() -> None:
    day_us = 20_000 * US_PER_DAY
    messages = [StreamTelemetryRequest.FromString(each) for each in days_of(range(STREAMS, 3 * STREAMS), day_us)]
    seen: dict[str, list[int]] = {}
    for call in range(STREAMS):
        ids = []
        for message in messages[call::STREAMS]:
            assert len(message.readings) <= PER_MESSAGE
            for reading in message.readings:
                side = reading.meter if reading.HasField("meter") else reading.vehicle
                device_id = reading.meter.meter_id or reading.vehicle.vehicle_id
                ids.append(device_id)
                seen.setdefault(device_id, []).append(us_from_proto(side.timestamp))
        assert ids == sorted(ids)
        assert len(set(ids)) == 2
    assert len(seen) == 2 * STREAMS
    for instants in seen.values():
        assert len(instants) == 1_440
        assert instants == sorted(instants)
        assert {instant // US_PER_DAY for instant in instants} == {20_000}
