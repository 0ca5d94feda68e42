"""Turns wire messages into rows and rejections. Pure: no clock, no database.

The bounds are those of `telemetry.proto`; of a reading that breaks several the first one is named. An optional value
that is out of bounds costs only itself.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NoReturn

from energyfleet.v1.telemetry_pb2 import MeterReading, Telemetry, VehicleReading

from ingestion_svc.readings import (
    BATTERY_TEMP_MAX,
    BATTERY_TEMP_MIN,
    FUTURE_SKEW_US,
    INTERVAL_MAX_KWH,
    INTERVAL_MIN_KWH,
    NOT_YET_MAX_US,
    REGISTER_MAX_KWH,
    SOC_MAX,
    VOLTAGE_MAX,
    Decoded,
    MeterRow,
    Omission,
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
            device_id = remembered_device_id(_device_id(reading))
            if device_id is not None:
                yield device_id

    def decode(self, part: slice, first_index: int, bounds: TimeBounds) -> Decoded:
        """Checks a part, whose first reading is the call's reading number `first_index`."""
        return decode(self._readings[part], first_index, bounds)


def _side(reading: Telemetry) -> MeterReading | VehicleReading:
    return reading.meter if reading.HasField("meter") else reading.vehicle


def _device_id(reading: Telemetry) -> str:
    return reading.meter.meter_id if reading.HasField("meter") else reading.vehicle.vehicle_id


def decode(readings: Iterable[Telemetry], first_index: int, bounds: TimeBounds) -> Decoded:
    """Checks some readings, the first of which is the call's reading number `first_index`."""
    decoded = Decoded(arrived_us=bounds.now_us)
    earliest_us, latest_us = bounds
    add_meter, add_meter_index = decoded.meters.append, decoded.meter_indexes.append
    add_vehicle, add_vehicle_index = decoded.vehicles.append, decoded.vehicle_indexes.append
    omit = decoded.omissions.append
    for index, reading in enumerate(readings, first_index):
        try:
            if reading.HasField("meter"):
                add_meter(_meter_row(reading.meter, index, earliest_us, latest_us, omit))
                add_meter_index(index)
            elif reading.HasField("vehicle"):
                add_vehicle(_vehicle_row(reading.vehicle, index, earliest_us, latest_us, omit))
                add_vehicle_index(index)
            else:
                raise _Rejected("reading", RejectionReason.MISSING, "set one of meter and vehicle")
        except _Rejected as why:
            device_id = remembered_device_id(_device_id(reading)) or ""
            decoded.rejections.append(Rejection(index, why.path, why.reason, why.description, device_id))
    return decoded


# Most readings pay for what is here and no more: presence is asked for where a value is 0 or energy flows back, a
# violation looked for where a bound fails, and each field is read once. What is optional comes last: a rejected reading
# has no omissions.

_new_row = tuple.__new__
"""What `MeterRow(...)` comes to, in half the time."""


def _meter_row(
    reading: MeterReading, index: int, earliest_us: int, latest_us: int, omit: Callable[[Omission], None]
) -> MeterRow:
    meter_id = remembered_device_id(reading.meter_id)
    if meter_id is None:
        _reject_id("meter.meter_id", reading.meter_id)
    kwh: float | None
    register: float | None = None
    kwh = reading.kwh_consumed_ac
    if not 0.0 < kwh <= INTERVAL_MAX_KWH or reading.HasField("register_kwh"):
        kwh, register = _energy(reading, "meter", "kwh_consumed_ac")
    timestamp = reading.timestamp
    nanos = timestamp.nanos
    ts_us = timestamp.seconds * US_PER_SECOND + nanos // 1_000
    if not earliest_us <= ts_us <= latest_us or not 0 <= nanos < 1_000_000_000:
        _reject_timestamp(reading, "meter", earliest_us, latest_us)
    voltage: float | None
    voltage = volts = reading.voltage
    if not 0.0 < volts <= VOLTAGE_MAX:
        voltage = _unless_omitted(reading, index, meter_id, "meter.voltage", 0.0, VOLTAGE_MAX, "V", omit)
    return _new_row(MeterRow, (meter_id, ts_us, kwh, voltage, register))


def _vehicle_row(
    reading: VehicleReading, index: int, earliest_us: int, latest_us: int, omit: Callable[[Omission], None]
) -> VehicleRow:
    vehicle_id = remembered_device_id(reading.vehicle_id)
    if vehicle_id is None:
        _reject_id("vehicle.vehicle_id", reading.vehicle_id)
    kwh: float | None
    register: float | None = None
    kwh = reading.kwh_delivered_dc
    if not 0.0 < kwh <= INTERVAL_MAX_KWH or reading.HasField("register_kwh"):
        kwh, register = _energy(reading, "vehicle", "kwh_delivered_dc")
    timestamp = reading.timestamp
    nanos = timestamp.nanos
    ts_us = timestamp.seconds * US_PER_SECOND + nanos // 1_000
    if not earliest_us <= ts_us <= latest_us or not 0 <= nanos < 1_000_000_000:
        _reject_timestamp(reading, "vehicle", earliest_us, latest_us)
    soc: float | None
    soc = percent = reading.soc
    if not 0.0 < percent <= SOC_MAX:
        soc = _unless_omitted(reading, index, vehicle_id, "vehicle.soc", 0.0, SOC_MAX, "%", omit)
    temp: float | None
    temp = celsius = reading.battery_temp
    if celsius == 0.0 or not BATTERY_TEMP_MIN <= celsius <= BATTERY_TEMP_MAX:
        temp = _unless_omitted(
            reading, index, vehicle_id, "vehicle.battery_temp", BATTERY_TEMP_MIN, BATTERY_TEMP_MAX, "°C", omit
        )
    return _new_row(VehicleRow, (vehicle_id, ts_us, kwh, soc, temp, register))


def _energy(reading: MeterReading | VehicleReading, side: str, name: Any) -> tuple[float | None, float | None]:
    """The energy of the interval or what the register shows: one of the two, and None for the other."""
    path = f"{side}.{name}"
    if reading.HasField("register_kwh"):
        if reading.HasField(name):
            raise _Rejected(path, RejectionReason.MALFORMED, "set either this or register_kwh, not both")
        why = _violation(reading.register_kwh, 0.0, REGISTER_MAX_KWH, "kWh")
        if why:
            raise _Rejected(f"{side}.register_kwh", RejectionReason.OUT_OF_RANGE, why)
        return None, reading.register_kwh
    accepted = f"{INTERVAL_MIN_KWH:.15g} to {INTERVAL_MAX_KWH:.15g} kWh"
    if not reading.HasField(name):
        raise _Rejected(path, RejectionReason.MISSING, f"required: {accepted}, or register_kwh")
    kwh: float = getattr(reading, name)
    why = _violation(kwh, INTERVAL_MIN_KWH, INTERVAL_MAX_KWH, "kWh")
    if why:
        raise _Rejected(path, RejectionReason.OUT_OF_RANGE, why)
    return kwh, None


def _unless_omitted(
    reading: MeterReading | VehicleReading,
    index: int,
    device_id: str,
    path: str,
    least: float,
    most: float,
    unit: str,
    omit: Callable[[Omission], None],
) -> float | None:
    """An optional value; None where it is absent, or omitted for being out of bounds."""
    name: Any = path.partition(".")[2]
    if not reading.HasField(name):
        return None
    value: float = getattr(reading, name)
    why = _violation(value, least, most, unit)
    if not why:
        return value
    omit(Omission(index, device_id, path, why))
    return None


def _violation(value: float, least: float, most: float, unit: str) -> str:
    return "" if least <= value <= most else f"{value!r} is not within {least:.15g} to {most:.15g} {unit}"


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
    ts_us = us_from_proto(reading.timestamp)
    if ts_us > latest_us - FUTURE_SKEW_US + NOT_YET_MAX_US:
        raise _Rejected(
            path, RejectionReason.IN_FUTURE, f"{iso_from_us(ts_us)} is more than a day ahead of the server's clock"
        )
    if ts_us > latest_us:
        raise _Rejected(
            path,
            RejectionReason.NOT_YET,
            f"{iso_from_us(ts_us)} is ahead of the server's clock; at most {iso_from_us(latest_us)} is accepted now,"
            f" and this from {iso_from_us(ts_us - FUTURE_SKEW_US)} on",
        )
    raise _Rejected(
        path, RejectionReason.TOO_OLD, f"{iso_from_us(ts_us)} is before the retention floor {iso_from_us(earliest_us)}"
    )
