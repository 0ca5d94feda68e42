"""Lists are counted in the bytes of a request, before it is parsed."""

import pytest
from energyfleet.v1 import analytics_service_pb2 as analytics
from energyfleet.v1 import ingestion_service_pb2 as ingestion
from energyfleet.v1.telemetry_pb2 import MeterReading, Telemetry, VehicleReading
from google.protobuf.message import DecodeError
from google.protobuf.timestamp_pb2 import Timestamp
from hypothesis import given
from hypothesis import strategies as st

from ingestion_svc.readings import MESSAGE_MAX_READINGS
from shared.config import MESSAGE_MAX_BYTES
from shared.device_ids import DEVICE_ID_MAX_LENGTH
from shared.list_limits import OTHER_FIELDS_MAX, NotAMessage, exceeded, list_limits
from shared.timestamps import TIMESTAMP_MAX_SECONDS

READINGS = list_limits(ingestion.ExchangeTelemetryRequest, readings=3)
FLEET = list_limits(analytics.ListVehiclePerformanceRequest, verdicts=2, vehicle_ids=3)

field = st.one_of(
    st.builds(lambda kwh: b"\x1a" + bytes([len(kwh)]) + kwh, st.sampled_from([b"", b"\x0a\x00", b"\x12\x02\x1a\x00"])),
    st.just(b"\x9a\x80\x00\x00"),  # an empty reading in a needlessly long form
    st.builds(
        lambda length: b"\x1a" + bytes([length | 0x80, 0]) + b"\x0a\x00" * (length // 2), st.sampled_from([0, 4])
    ),
    st.sampled_from([b"\x10\x05", b"\x0a\x00", b"\x22\x01\x1a", b"\x29" + b"\x1a" * 8, b"\x2d" + b"\x1a" * 4]),
)


@given(st.lists(field, max_size=12).map(b"".join) | st.binary(max_size=60))
def test_a_list_of_messages_is_refused_just_where_it_has_too_many(wire: bytes) -> None:
    try:
        parsed = ingestion.ExchangeTelemetryRequest.FromString(wire)
    except DecodeError:
        return
    try:
        limit = exceeded(wire, READINGS)
    except NotAMessage:
        assert len(parsed.readings) <= 3 or b"\x1b" in wire or any(byte & 7 in (3, 4) for byte in wire)
        return
    assert (limit is not None) == (len(parsed.readings) > 3)


@given(
    st.lists(
        st.one_of(
            st.sampled_from([b"\x10\x01", b"\x90\x00\x02", b"\x12\x00", b"\x12\x02\x01\x02", b"\x12\x01\x01"]),
            st.sampled_from([b"\x1a\x01a", b"\x1a\x00", b"\x20\x01"]),
            st.integers(0, 40).map(lambda length: b"\x12" + bytes([length]) + b"\x01" * length),
        ),
        max_size=12,
    ).map(b"".join)
)
def test_of_a_packed_list_at_most_ten_times_its_limit_is_ever_parsed(wire: bytes) -> None:
    parsed = analytics.ListVehiclePerformanceRequest.FromString(wire)
    limit = exceeded(wire, FLEET)
    if limit is None:
        assert len(parsed.verdicts) <= 20
        assert len(parsed.vehicle_ids) <= 3
    elif limit.field == "verdicts":
        assert len(parsed.verdicts) > 2
    else:
        assert len(parsed.vehicle_ids) > 3


@pytest.mark.parametrize("field", [b"\x10\x1a", b"\x22\x00\x10\x1a"], ids=["numbers", "bytes and numbers"])
def test_fields_without_end_that_look_like_elements_are_not_walked_to_their_end(field: bytes) -> None:
    with pytest.raises(NotAMessage):
        exceeded(field * (MESSAGE_MAX_BYTES // len(field)), READINGS)


def test_other_fields_as_many_as_a_request_may_have_beside_full_lists_are_fine() -> None:
    other = b"\x20\x1a" * OTHER_FIELDS_MAX
    full = analytics.ListVehiclePerformanceRequest(
        verdicts=[analytics.VERDICT_OK] * 2, vehicle_ids=["\x1a"] * 3
    ).SerializeToString()
    assert exceeded(other[2:] + full, FLEET) is None
    with pytest.raises(NotAMessage):
        exceeded(other * 2 + full, FLEET)


def test_the_message_limit_fits_as_many_of_the_largest_readings_as_a_message_may_have() -> None:
    longest_id = "x" * DEVICE_ID_MAX_LENGTH
    latest = Timestamp(seconds=TIMESTAMP_MAX_SECONDS, nanos=999_999_000)
    largest = max(
        (
            Telemetry(meter=MeterReading(meter_id=longest_id, kwh_consumed_ac=0.1, voltage=0.1, timestamp=latest)),
            Telemetry(
                vehicle=VehicleReading(
                    vehicle_id=longest_id, soc=0.1, kwh_delivered_dc=0.1, battery_temp=0.1, timestamp=latest
                )
            ),
        ),
        key=Telemetry.ByteSize,
    )
    request = ingestion.ExchangeTelemetryRequest(
        opening=ingestion.ExchangeOpening(meter_id=longest_id, vehicle_id=longest_id),
        sequence=2**64 - 1,
        readings=[largest] * MESSAGE_MAX_READINGS,
    )
    assert 0.9 * MESSAGE_MAX_BYTES < request.ByteSize() <= MESSAGE_MAX_BYTES


@pytest.mark.parametrize("wire", [b"\x0b" + b"\x1a\x00" * 9, b"\x0c" + b"\x1a\x00" * 9, b"\x80" * 11 + b"\x1a\x00" * 9])
def test_what_would_hide_a_list_is_no_message(wire: bytes) -> None:
    with pytest.raises(NotAMessage):
        exceeded(wire, READINGS)
