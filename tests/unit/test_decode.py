"""Which readings are rejected, and with which field and reason."""

import math
from collections.abc import Callable
from typing import Any

import pytest
from energyfleet.v1 import ingestion_service_pb2 as wire
from energyfleet.v1.telemetry_pb2 import MeterReading, Telemetry, VehicleReading
from google.protobuf.timestamp_pb2 import Timestamp
from hypothesis import given
from hypothesis import strategies as st

from ingestion_svc.decode import WireMessage, decode
from ingestion_svc.readings import REJECTIONS_MAX, MeterRow, RejectionReason, TimeBounds, VehicleRow
from ingestion_svc.receipt import Receipt
from shared.timestamps import US_PER_DAY, US_PER_SECOND, proto_from_us
from tests.builders import NOW_US, a_meter_reading, a_vehicle_reading

BOUNDS = TimeBounds.at(NOW_US, retention_days=400)
FIVE_MINUTES_US = 300 * US_PER_SECOND


@pytest.mark.parametrize(
    ("reading", "field", "reason"),
    [
        (Telemetry(), "reading", RejectionReason.MISSING),
        (Telemetry(meter=MeterReading()), "meter.meter_id", RejectionReason.MISSING),
        (a_meter_reading(meter_id="m" * 65), "meter.meter_id", RejectionReason.MALFORMED),
        (a_meter_reading(meter_id="meter-1 "), "meter.meter_id", RejectionReason.MALFORMED),
        (a_meter_reading(meter_id="meter-1\n"), "meter.meter_id", RejectionReason.MALFORMED),
        (a_meter_reading(meter_id="zähler"), "meter.meter_id", RejectionReason.MALFORMED),
        (a_meter_reading(kwh_consumed_ac=None), "meter.kwh_consumed_ac", RejectionReason.MISSING),
        (a_meter_reading(kwh_consumed_ac=-1000.0001), "meter.kwh_consumed_ac", RejectionReason.OUT_OF_RANGE),
        (a_meter_reading(kwh_consumed_ac=1_000_000.0001), "meter.kwh_consumed_ac", RejectionReason.OUT_OF_RANGE),
        (a_meter_reading(kwh_consumed_ac=math.nan), "meter.kwh_consumed_ac", RejectionReason.OUT_OF_RANGE),
        (a_meter_reading(kwh_consumed_ac=math.inf), "meter.kwh_consumed_ac", RejectionReason.OUT_OF_RANGE),
        (a_meter_reading(ts_us=None), "meter.timestamp", RejectionReason.MISSING),
        (a_meter_reading(ts_us=0), "meter.timestamp", RejectionReason.TOO_OLD),
        (a_meter_reading(ts_us=NOW_US + FIVE_MINUTES_US + 1), "meter.timestamp", RejectionReason.NOT_YET),
        (a_meter_reading(ts_us=NOW_US + US_PER_DAY), "meter.timestamp", RejectionReason.NOT_YET),
        (a_meter_reading(ts_us=NOW_US + US_PER_DAY + 1), "meter.timestamp", RejectionReason.IN_FUTURE),
        (a_meter_reading(ts_us=NOW_US - 400 * US_PER_DAY - 1), "meter.timestamp", RejectionReason.TOO_OLD),
        (a_meter_reading(timestamp=Timestamp(seconds=253_402_300_800)), "meter.timestamp", RejectionReason.MALFORMED),
        (a_meter_reading(timestamp=Timestamp(seconds=1, nanos=-1)), "meter.timestamp", RejectionReason.MALFORMED),
        (a_vehicle_reading(vehicle_id=""), "vehicle.vehicle_id", RejectionReason.MISSING),
        (a_vehicle_reading(vehicle_id=" a"), "vehicle.vehicle_id", RejectionReason.MALFORMED),
        (a_vehicle_reading(kwh_delivered_dc=None), "vehicle.kwh_delivered_dc", RejectionReason.MISSING),
        (a_vehicle_reading(kwh_delivered_dc=-1001), "vehicle.kwh_delivered_dc", RejectionReason.OUT_OF_RANGE),
        (a_vehicle_reading(kwh_delivered_dc=1_000_001), "vehicle.kwh_delivered_dc", RejectionReason.OUT_OF_RANGE),
        (a_vehicle_reading(ts_us=None), "vehicle.timestamp", RejectionReason.MISSING),
    ],
)
def test_a_bad_reading_is_rejected_with_its_field_and_reason_and_its_neighbours_are_kept(
    reading: Telemetry, field: str, reason: RejectionReason
) -> None:
    decoded = decode([a_meter_reading(), reading, a_vehicle_reading()], 10, BOUNDS)

    assert [(each.index, each.field, each.reason) for each in decoded.rejections] == [(11, field, reason)]
    assert decoded.rejections[0].description
    assert (decoded.meter_indexes, decoded.vehicle_indexes, decoded.rejected) == ([10], [12], 1)


@pytest.mark.parametrize(
    ("reading", "kept", "omitted"),
    [
        (a_meter_reading(voltage=-1), (1.5, None), ["meter.voltage"]),
        (a_meter_reading(voltage=2000.1), (1.5, None), ["meter.voltage"]),
        (a_meter_reading(voltage=math.nan), (1.5, None), ["meter.voltage"]),
        (a_vehicle_reading(soc=100.4), (1.35, None, 25.0), ["vehicle.soc"]),
        (a_vehicle_reading(soc=255), (1.35, None, 25.0), ["vehicle.soc"]),
        (a_vehicle_reading(soc=-0.2), (1.35, None, 25.0), ["vehicle.soc"]),
        (a_vehicle_reading(battery_temp=-127), (1.35, 50.0, None), ["vehicle.battery_temp"]),
        (a_vehicle_reading(battery_temp=215), (1.35, 50.0, None), ["vehicle.battery_temp"]),
        (
            a_vehicle_reading(soc=math.inf, battery_temp=-math.inf),
            (1.35, None, None),
            ["vehicle.soc", "vehicle.battery_temp"],
        ),
    ],
)
def test_a_bad_optional_value_costs_only_itself(
    reading: Telemetry, kept: tuple[float | None, ...], omitted: list[str]
) -> None:
    decoded = decode([a_meter_reading("meter-002"), reading], 10, BOUNDS)

    row: tuple[Any, ...] = [*decoded.meters, *decoded.vehicles][1]
    assert (decoded.rejected, row[2:-1]) == (0, kept)
    assert [(each.index, each.device_id, each.field) for each in decoded.omissions] == [
        (11, row[0], path) for path in omitted
    ]
    assert all(each.description for each in decoded.omissions)


@pytest.mark.parametrize(("nanos", "kept_us"), [(71_986_716, 71_986), (999, 0), (999_999_999, 999_999)])
def test_what_is_finer_than_a_microsecond_is_cut_off(nanos: int, kept_us: int) -> None:
    seconds = NOW_US // US_PER_SECOND
    timestamp = Timestamp(seconds=seconds, nanos=nanos)
    decoded = decode([a_meter_reading(timestamp=timestamp), a_vehicle_reading(timestamp=timestamp)], 0, BOUNDS)
    rows: list[Any] = [*decoded.meters, *decoded.vehicles]
    assert [row.ts_us for row in rows] == [seconds * US_PER_SECOND + kept_us] * 2


@pytest.mark.parametrize("kwh", [0.0, 4021.7, 1e9])
def test_a_register_stands_in_the_place_of_the_interval(kwh: float) -> None:
    timestamp = proto_from_us(NOW_US)
    meter = Telemetry(meter=MeterReading(meter_id="m", timestamp=timestamp, voltage=230, register_kwh=kwh))
    vehicle = Telemetry(vehicle=VehicleReading(vehicle_id="v", timestamp=timestamp, register_kwh=kwh))
    decoded = decode([meter, vehicle], 0, BOUNDS)
    assert decoded.meters == [MeterRow("m", NOW_US, None, 230.0, kwh)]
    assert decoded.vehicles == [VehicleRow("v", NOW_US, None, None, None, kwh)]


@pytest.mark.parametrize(
    ("register", "kwh", "field", "reason"),
    [
        (1.0, 1.0, "meter.kwh_consumed_ac", RejectionReason.MALFORMED),
        (0.0, 0.0, "meter.kwh_consumed_ac", RejectionReason.MALFORMED),
        (-0.1, None, "meter.register_kwh", RejectionReason.OUT_OF_RANGE),
        (1.1e9, None, "meter.register_kwh", RejectionReason.OUT_OF_RANGE),
        (math.nan, None, "meter.register_kwh", RejectionReason.OUT_OF_RANGE),
    ],
)
def test_a_reading_has_either_an_energy_or_a_register(
    register: float, kwh: float | None, field: str, reason: RejectionReason
) -> None:
    reading = a_meter_reading(kwh_consumed_ac=kwh)
    reading.meter.register_kwh = register
    assert [(each.field, each.reason) for each in decode([reading], 0, BOUNDS).rejections] == [(field, reason)]


def test_nothing_is_omitted_of_a_rejected_reading() -> None:
    decoded = decode(
        [a_vehicle_reading(soc=255, ts_us=0), a_vehicle_reading(soc=255, kwh_delivered_dc=None)], 0, BOUNDS
    )
    assert (decoded.rejected, decoded.omissions) == (2, [])


def test_a_rejection_names_the_device_where_there_is_an_id() -> None:
    decoded = decode([a_vehicle_reading(ts_us=0), a_vehicle_reading("a ", ts_us=0)], 0, BOUNDS)
    assert [each.device_id for each in decoded.rejections] == ["vehicle-001", ""]


@pytest.mark.parametrize(
    "reading",
    [
        a_meter_reading(meter_id="A-z.0_9:" + "x" * 56, kwh_consumed_ac=0, voltage=0),
        a_meter_reading(kwh_consumed_ac=1000, voltage=2000, ts_us=NOW_US + FIVE_MINUTES_US),
        a_meter_reading(voltage=None, ts_us=NOW_US - 400 * US_PER_DAY),
        a_vehicle_reading(kwh_delivered_dc=0, soc=0, battery_temp=-60),
        a_vehicle_reading(kwh_delivered_dc=1000, soc=100, battery_temp=150),
        a_vehicle_reading(soc=None, battery_temp=None),
        a_meter_reading(kwh_consumed_ac=-1000),
        a_vehicle_reading(kwh_delivered_dc=-1000),
    ],
)
def test_a_reading_on_the_bounds_is_kept(reading: Telemetry) -> None:
    assert decode([reading], 0, BOUNDS).rejected == 0


@given(
    meter_id=st.from_regex(r"[A-Za-z0-9._:-]{1,64}", fullmatch=True),
    ts_us=st.integers(BOUNDS.earliest_us, BOUNDS.latest_us),
    kwh=st.floats(-1000, 1000),
    voltage=st.none() | st.floats(0, 2000),
    soc=st.none() | st.floats(0, 100),
    temp=st.none() | st.floats(-60, 150),
)
def test_values_come_through_unchanged_and_absent_ones_stay_absent(
    meter_id: str, ts_us: int, kwh: float, voltage: float | None, soc: float | None, temp: float | None
) -> None:
    decoded = decode(
        [a_meter_reading(meter_id, ts_us, kwh, voltage), a_vehicle_reading(meter_id, ts_us, kwh, soc, temp)], 0, BOUNDS
    )

    assert decoded.meters == [MeterRow(meter_id, ts_us, kwh, voltage, None)]
    assert decoded.vehicles == [VehicleRow(meter_id, ts_us, kwh, soc, temp)]


def test_only_the_first_rejections_are_listed_but_all_are_counted() -> None:
    receipt = Receipt()
    for start in (100, 0):
        receipt.receive(decode([Telemetry()] * REJECTIONS_MAX, start, BOUNDS))

    assert receipt.rejected == 2 * REJECTIONS_MAX
    assert [each.index for each in receipt.rejections] == list(range(REJECTIONS_MAX))


def test_the_reasons_are_those_of_the_contract() -> None:
    unused = (wire.REJECTION_REASON_UNSPECIFIED, wire.REJECTION_REASON_TOO_PRECISE)
    assert list(RejectionReason) == [name for name, number in wire.RejectionReason.items() if number not in unused]


@pytest.mark.parametrize("a_reading", [a_meter_reading, a_vehicle_reading])
def test_a_readings_age_is_told_to_the_second(a_reading: Callable[..., Telemetry]) -> None:
    assert WireMessage([a_reading(ts_us=NOW_US - 90 * US_PER_SECOND)]).age_us(NOW_US) == 90 * US_PER_SECOND
