"""Turns wire messages into rows and rejections. Pure: no clock, no database.

The bounds are those of `telemetry.proto`; of a reading that breaks several the first one is named.
"""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NoReturn

from energyfleet.v1.telemetry_pb2 import MeterReading, Telemetry, VehicleReading

from ingestion_svc.readings import (
    BATTERY_TEMP_MAX,
    BATTERY_TEMP_MIN,
    INTERVAL_MAX_KWH,
    INTERVAL_MIN_KWH,
    SOC_MAX,
    VOLTAGE_MAX,
    Decoded,
    MeterRow,
    Rejection,
    RejectionReason,
    TimeBounds,
    VehicleRow,
)
from shared.device_ids import DEVICE_ID_ACCEPTED, remembered_device_id
from shared.timestamps import TIMESTAMP_MAX_SECONDS, TIMESTAMP_MIN_SECONDS, US_PER_SECOND, iso_from_us, us_from_proto


class _Rejected(Exception):
    def __init__(self, path: str, reason: RejectionReason, description: str) -> None:
        self.path = path
        self.reason = reason
        self.description = description


class WireMessage:
    """The readings of one message as they came; see `readings.Message`."""

    def __init__(self, readings: Sequence[Telemetry]) -> None:
        self._readings = readings

    def __len__(self) -> int:
        return len(self._readings)

    def age_us(self, now_us: int) -> int:
        """How old the first reading says that it is, to the second; meaningless where its timestamp is."""
        return now_us - _side(self._readings[0]).timestamp.seconds * US_PER_SECOND

    def device_ids(self) -> Iterator[str]:
        for reading in self._readings:
            name = reading.meter.meter_id if reading.HasField("meter") else reading.vehicle.vehicle_id
            device_id = remembered_device_id(name)
            if device_id is not None:
                yield device_id

    def decode(self, part: slice, first_index: int, bounds: TimeBounds) -> Decoded:
        """Checks a part, whose first reading is the call's reading number `first_index`."""
        return decode(self._readings[part], first_index, bounds)


def _side(reading: Telemetry) -> MeterReading | VehicleReading:
    return reading.meter if reading.HasField("meter") else reading.vehicle


def decode(readings: Iterable[Telemetry], first_index: int, bounds: TimeBounds) -> Decoded:
    """Checks some readings, the first of which is the call's reading number `first_index`."""
    decoded = Decoded(arrived_us=bounds.now_us)
    earliest_us, latest_us = bounds
    add_meter, add_meter_index = decoded.meters.append, decoded.meter_indexes.append
    add_vehicle, add_vehicle_index = decoded.vehicles.append, decoded.vehicle_indexes.append
    for index, reading in enumerate(readings, first_index):
        try:
            if reading.HasField("meter"):
                add_meter(_meter_row(reading.meter, earliest_us, latest_us))
                add_meter_index(index)
            elif reading.HasField("vehicle"):
                add_vehicle(_vehicle_row(reading.vehicle, earliest_us, latest_us))
                add_vehicle_index(index)
            else:
                raise _Rejected("reading", RejectionReason.MISSING, "set one of meter and vehicle")
        except _Rejected as why:
            if why.reason == RejectionReason.IN_FUTURE:
                _note_future(decoded, reading)
            decoded.rejections.append(Rejection(index, why.path, why.reason, why.description))
    return decoded


def _note_future(decoded: Decoded, reading: Telemetry) -> None:
    if reading.HasField("meter"):
        decoded.future_meter_ids.append(reading.meter.meter_id)
    else:
        decoded.future_vehicle_ids.append(reading.vehicle.vehicle_id)


# Most readings pay for what is here and no more: presence is asked for where a value is 0 or energy flows back, a
# violation looked for where a bound fails, and each field is read once.

_new_row = tuple.__new__
"""What `MeterRow(...)` comes to, in half the time."""


def _meter_row(reading: MeterReading, earliest_us: int, latest_us: int) -> MeterRow:
    meter_id = remembered_device_id(reading.meter_id)
    if meter_id is None:
        _reject_id("meter.meter_id", reading.meter_id)
    kwh = reading.kwh_consumed_ac
    if not 0.0 < kwh <= INTERVAL_MAX_KWH:
        _require(reading, "meter", "kwh_consumed_ac", INTERVAL_MIN_KWH, INTERVAL_MAX_KWH, "kWh")
    voltage: float | None
    voltage = volts = reading.voltage
    if not 0.0 < volts <= VOLTAGE_MAX:
        voltage = _unless_absent(reading, "meter", "voltage", 0.0, VOLTAGE_MAX, "V")
    timestamp = reading.timestamp
    nanos = timestamp.nanos
    ts_us = timestamp.seconds * US_PER_SECOND + nanos // 1_000
    if not earliest_us <= ts_us <= latest_us or nanos % 1_000 or not 0 <= nanos < 1_000_000_000:
        _reject_timestamp(reading, "meter", earliest_us, latest_us)
    return _new_row(MeterRow, (meter_id, ts_us, kwh, voltage))


def _vehicle_row(reading: VehicleReading, earliest_us: int, latest_us: int) -> VehicleRow:
    vehicle_id = remembered_device_id(reading.vehicle_id)
    if vehicle_id is None:
        _reject_id("vehicle.vehicle_id", reading.vehicle_id)
    kwh = reading.kwh_delivered_dc
    if not 0.0 < kwh <= INTERVAL_MAX_KWH:
        _require(reading, "vehicle", "kwh_delivered_dc", INTERVAL_MIN_KWH, INTERVAL_MAX_KWH, "kWh")
    soc: float | None
    soc = percent = reading.soc
    if not 0.0 < percent <= SOC_MAX:
        soc = _unless_absent(reading, "vehicle", "soc", 0.0, SOC_MAX, "%")
    temp: float | None
    temp = celsius = reading.battery_temp
    if celsius == 0.0 or not BATTERY_TEMP_MIN <= celsius <= BATTERY_TEMP_MAX:
        temp = _unless_absent(reading, "vehicle", "battery_temp", BATTERY_TEMP_MIN, BATTERY_TEMP_MAX, "°C")
    timestamp = reading.timestamp
    nanos = timestamp.nanos
    ts_us = timestamp.seconds * US_PER_SECOND + nanos // 1_000
    if not earliest_us <= ts_us <= latest_us or nanos % 1_000 or not 0 <= nanos < 1_000_000_000:
        _reject_timestamp(reading, "vehicle", earliest_us, latest_us)
    return _new_row(VehicleRow, (vehicle_id, ts_us, kwh, soc, temp))


def _require(
    reading: MeterReading | VehicleReading, side: str, name: Any, least: float, most: float, unit: str
) -> None:
    if _unless_absent(reading, side, name, least, most, unit) is None:
        raise _Rejected(f"{side}.{name}", RejectionReason.MISSING, f"required: {least:g} to {most:g} {unit}")


def _unless_absent(
    reading: MeterReading | VehicleReading, side: str, name: Any, least: float, most: float, unit: str
) -> float | None:
    if not reading.HasField(name):
        return None
    value: float = getattr(reading, name)
    if not least <= value <= most:
        raise _Rejected(
            f"{side}.{name}", RejectionReason.OUT_OF_RANGE, f"{value!r} is not within {least:g} to {most:g} {unit}"
        )
    return value


def _reject_id(path: str, device_id: str) -> NoReturn:
    if not device_id:
        raise _Rejected(path, RejectionReason.MISSING, f"required: {DEVICE_ID_ACCEPTED}")
    raise _Rejected(path, RejectionReason.MALFORMED, f"{device_id[:80]!r} is not an id: {DEVICE_ID_ACCEPTED}")


def _reject_timestamp(reading: MeterReading | VehicleReading, side: str, earliest_us: int, latest_us: int) -> NoReturn:
    path = f"{side}.timestamp"
    if not reading.HasField("timestamp"):
        raise _Rejected(path, RejectionReason.MISSING, "required: the end of the reading's interval, UTC")
    seconds, nanos = reading.timestamp.seconds, reading.timestamp.nanos
    if not (TIMESTAMP_MIN_SECONDS <= seconds <= TIMESTAMP_MAX_SECONDS and 0 <= nanos < 1_000_000_000):
        raise _Rejected(
            path,
            RejectionReason.MALFORMED,
            f"seconds={seconds} nanos={nanos} is no timestamp between the years 1 and 9999",
        )
    if nanos % 1_000:
        raise _Rejected(
            path, RejectionReason.TOO_PRECISE, f"{nanos} ns are finer than a microsecond; send whole microseconds"
        )
    ts_us = us_from_proto(reading.timestamp)
    if ts_us > latest_us:
        raise _Rejected(
            path,
            RejectionReason.IN_FUTURE,
            f"{iso_from_us(ts_us)} is ahead of the server's clock; at most {iso_from_us(latest_us)} is accepted",
        )
    raise _Rejected(
        path, RejectionReason.TOO_OLD, f"{iso_from_us(ts_us)} is before the retention floor {iso_from_us(earliest_us)}"
    )
