"""Turns wire messages into rows and rejections. Pure: no clock, no database.

The bounds are those of `telemetry.proto`; of a reading's violations the first one is told.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, NamedTuple, NoReturn

from energyfleet.v1 import ingestion_service_pb2 as wire
from energyfleet.v1.telemetry_pb2 import MeterReading, Telemetry, VehicleReading

from shared.device_ids import DEVICE_ID_ACCEPTED, remembered_device_id
from shared.timestamps import (
    TIMESTAMP_MAX_SECONDS,
    TIMESTAMP_MIN_SECONDS,
    US_PER_DAY,
    US_PER_SECOND,
    iso_from_us,
    us_from_proto,
)

INTERVAL_MAX_KWH = 1_000.0
"""One reading's energy. A megawatt charger takes an hour for it; more is a register sent as an interval."""

VOLTAGE_MAX = 2_000.0
"""Volts. Above the 1,500 V of the largest direct-current systems."""

SOC_MAX = 100.0
"""Percent."""

BATTERY_TEMP_MIN, BATTERY_TEMP_MAX = -60.0, 150.0
"""Degrees Celsius: below any winter, above a burning cell's neighbour."""

FUTURE_SKEW_US = 5 * 60 * US_PER_SECOND
"""How far a device's clock may be ahead of ours. More would pin its current status for as long."""

REJECTIONS_MAX = 100
"""Rejections and conflicts that an answer lists, each; the counts are whole. 100 show any pattern within 20 KiB."""


class MeterRow(NamedTuple):
    """A meter's reading, checked. Energy in kWh, voltage in volts or None, time in microseconds."""

    meter_id: str
    ts_us: int
    kwh_consumed_ac: float
    voltage: float | None


class VehicleRow(NamedTuple):
    """A vehicle's reading, checked. Energy in kWh, soc in percent or None, battery_temp in °C or None."""

    vehicle_id: str
    ts_us: int
    kwh_delivered_dc: float
    soc: float | None
    battery_temp: float | None


class TimeBounds(NamedTuple):
    """The timestamps that are accepted, in microseconds, both ends included."""

    earliest_us: int
    latest_us: int

    @property
    def now_us(self) -> int:
        """When the readings arrived."""
        return self.latest_us - FUTURE_SKEW_US

    @classmethod
    def at(cls, now_us: int, retention_days: int, floor_us: int | None = None) -> "TimeBounds":
        """What is accepted now: back to the retention floor, ahead by the skew that clocks are allowed.

        `floor_us` is the database's own floor, where it is known: what lies before it is dropped and would be refused
        there, whatever our setting says.
        """
        earliest_us = now_us - retention_days * US_PER_DAY
        if floor_us is not None and floor_us > earliest_us:
            earliest_us = floor_us
        return cls(earliest_us, now_us + FUTURE_SKEW_US)


@dataclass(frozen=True, slots=True)
class Rejection:
    """Why the reading at `index` of a call was not stored. `field` is a path from `Telemetry`."""

    index: int
    field: str
    reason: wire.RejectionReason.ValueType
    description: str

    @classmethod
    def by_database(cls, index: int) -> "Rejection":
        """For a reading that looked right and that the database alone refused; our log has its reason."""
        return cls(index, "reading", wire.REJECTION_REASON_REFUSED_BY_DATABASE, "the database refused this reading")


@dataclass(slots=True)
class Decoded:
    """The readings of one message: rows with the index of each in the call, and what was rejected."""

    meters: list[MeterRow] = field(default_factory=list)
    meter_indexes: list[int] = field(default_factory=list)
    vehicles: list[VehicleRow] = field(default_factory=list)
    vehicle_indexes: list[int] = field(default_factory=list)
    rejected: int = 0
    rejections: list[Rejection] = field(default_factory=list)
    """The first REJECTIONS_MAX."""
    future_meter_ids: list[str] = field(default_factory=list)
    """Of each reading that was rejected for being in the future: evidence of its device's clock."""
    future_vehicle_ids: list[str] = field(default_factory=list)
    arrived_us: int = 0
    """The server's clock when the message came."""


class _Rejected(Exception):
    def __init__(self, path: str, reason: wire.RejectionReason.ValueType, description: str) -> None:
        self.path = path
        self.reason = reason
        self.description = description


def age_us(reading: Telemetry, now_us: int) -> int:
    """How old a reading says that it is, to the second; meaningless where its timestamp is."""
    side = reading.meter if reading.HasField("meter") else reading.vehicle
    return now_us - side.timestamp.seconds * US_PER_SECOND


def decode(readings: Iterable[Telemetry], first_index: int, bounds: TimeBounds) -> Decoded:
    """Checks the readings of a message whose first one is the call's reading number `first_index`."""
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
                raise _Rejected("reading", wire.REJECTION_REASON_MISSING, "set one of meter and vehicle")
        except _Rejected as why:
            decoded.rejected += 1
            if why.reason == wire.REJECTION_REASON_IN_FUTURE:
                _note_future(decoded, reading)
            if len(decoded.rejections) < REJECTIONS_MAX:
                decoded.rejections.append(Rejection(index, why.path, why.reason, why.description))
    return decoded


def _note_future(decoded: Decoded, reading: Telemetry) -> None:
    if reading.HasField("meter"):
        decoded.future_meter_ids.append(reading.meter.meter_id)
    else:
        decoded.future_vehicle_ids.append(reading.vehicle.vehicle_id)


# Most readings pay for what is here and no more: presence is asked for where a value is 0 alone, a violation looked for
# where a bound fails, and each field is read once.

_new_row = tuple.__new__
"""What `MeterRow(...)` comes to, in half the time."""


def _meter_row(reading: MeterReading, earliest_us: int, latest_us: int) -> MeterRow:
    meter_id = remembered_device_id(reading.meter_id)
    if meter_id is None:
        _reject_id("meter.meter_id", reading.meter_id)
    kwh = reading.kwh_consumed_ac
    if not 0.0 < kwh <= INTERVAL_MAX_KWH:
        _require(reading, "meter", "kwh_consumed_ac", 0.0, INTERVAL_MAX_KWH, "kWh")
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
        _require(reading, "vehicle", "kwh_delivered_dc", 0.0, INTERVAL_MAX_KWH, "kWh")
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
        raise _Rejected(f"{side}.{name}", wire.REJECTION_REASON_MISSING, f"required: {least:g} to {most:g} {unit}")


def _unless_absent(
    reading: MeterReading | VehicleReading, side: str, name: Any, least: float, most: float, unit: str
) -> float | None:
    if not reading.HasField(name):
        return None
    value: float = getattr(reading, name)
    if not least <= value <= most:
        raise _Rejected(
            f"{side}.{name}",
            wire.REJECTION_REASON_OUT_OF_RANGE,
            f"{value!r} is not within {least:g} to {most:g} {unit}",
        )
    return value


def _reject_id(path: str, device_id: str) -> NoReturn:
    if not device_id:
        raise _Rejected(path, wire.REJECTION_REASON_MISSING, f"required: {DEVICE_ID_ACCEPTED}")
    raise _Rejected(path, wire.REJECTION_REASON_MALFORMED, f"{device_id[:80]!r} is not an id: {DEVICE_ID_ACCEPTED}")


def _reject_timestamp(reading: MeterReading | VehicleReading, side: str, earliest_us: int, latest_us: int) -> NoReturn:
    path = f"{side}.timestamp"
    if not reading.HasField("timestamp"):
        raise _Rejected(path, wire.REJECTION_REASON_MISSING, "required: the end of the reading's interval, UTC")
    seconds, nanos = reading.timestamp.seconds, reading.timestamp.nanos
    if not (TIMESTAMP_MIN_SECONDS <= seconds <= TIMESTAMP_MAX_SECONDS and 0 <= nanos < 1_000_000_000):
        raise _Rejected(
            path,
            wire.REJECTION_REASON_MALFORMED,
            f"seconds={seconds} nanos={nanos} is no timestamp between the years 1 and 9999",
        )
    if nanos % 1_000:
        raise _Rejected(
            path, wire.REJECTION_REASON_TOO_PRECISE, f"{nanos} ns are finer than a microsecond; send whole microseconds"
        )
    ts_us = us_from_proto(reading.timestamp)
    if ts_us > latest_us:
        raise _Rejected(
            path,
            wire.REJECTION_REASON_IN_FUTURE,
            f"{iso_from_us(ts_us)} is ahead of the server's clock; at most {iso_from_us(latest_us)} is accepted",
        )
    raise _Rejected(
        path,
        wire.REJECTION_REASON_TOO_OLD,
        f"{iso_from_us(ts_us)} is before the retention floor {iso_from_us(earliest_us)}",
    )
