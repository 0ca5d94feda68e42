"""The readings that are sent: a fleet that reports once a minute, all meters and vehicles in turn.

A span says which readings; their values follow from device and instant. The same span therefore gives the same
readings as gRPC messages and as rows of a COPY.
"""

import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from energyfleet.v1 import ingestion_service_pb2 as wire
from energyfleet.v1.telemetry_pb2 import MeterReading, Telemetry, VehicleReading

from shared.timestamps import EPOCH_2000_US, US_PER_SECOND, proto_from_us

PAIRS = 10_000
"""Meters, and as many vehicles."""

INTERVAL_US = 60 * US_PER_SECOND
"""A minute, as chargers report; sixty readings share one row of the hourly rollup."""

# PostgreSQL's binary COPY: a header, rows of (fields, then length and value of each), and an end mark.
_COPY_HEADER = b"PGCOPY\n\xff\r\n\0" + bytes(8)
_COPY_END = b"\xff\xff"
_METER_ROW = struct.Struct(">hiiiqidid")
_VEHICLE_ROW = struct.Struct(">hiiiqididid")


@dataclass(frozen=True)
class Span:
    """`count` readings in the order in which they are sent: from `first_us` on meter, vehicle, meter, vehicle ...
    through the whole fleet, then the same again a minute later."""

    first_us: int
    count: int
    pairs: int = PAIRS
    registers: bool = False
    """Each reading has what its device's register shows, not an interval's energy."""

    @property
    def instants(self) -> int:
        """Distinct timestamps."""
        return -(-self.count // (2 * self.pairs))

    def readings(self) -> Iterator[tuple[int, int]]:
        """Device and timestamp of each reading: device `2 * pair` is a pair's meter, the next one its vehicle."""
        devices = 2 * self.pairs
        for index in range(self.count):
            yield index % devices, self.first_us + index // devices * INTERVAL_US


def consecutive_spans(counts: Sequence[int], end_us: int, pairs: int = PAIRS) -> list[Span]:
    """Spans of so many readings each, one after the other, no timestamp in two of them, the last ending at `end_us`."""
    instants = [Span(0, count, pairs).instants for count in counts]
    first_us = end_us - (sum(instants) - 1) * INTERVAL_US
    spans = []
    for count, taken in zip(counts, instants, strict=True):
        spans.append(Span(first_us, count, pairs))
        first_us += taken * INTERVAL_US
    return spans


def meter_id(pair: int) -> str:
    """The meter of a pair, counted from 0."""
    return f"meter-{pair:05d}"


def vehicle_id(pair: int) -> str:
    """The vehicle of a pair, counted from 0."""
    return f"vehicle-{pair:05d}"


def kwh_consumed_ac(pair: int, ts_us: int) -> float:
    """About 7 kW, another value for each device and instant: equal values would compress in the WAL."""
    return 0.115 + pair % 97 * 1e-4 + ts_us // INTERVAL_US % 89 * 1e-5


def kwh_delivered_dc(pair: int, ts_us: int) -> float:
    """Ten percent less than was drawn."""
    return 0.9 * kwh_consumed_ac(pair, ts_us)


def register_kwh(pair: int, ts_us: int) -> float:
    """Of either side: it has risen for decades, at 7 kW."""
    return pair % 97 * 1e-4 + ts_us // INTERVAL_US % 10_000_000 * 0.115


def messages(span: Span, per_message: int) -> list[bytes]:
    """The span as serialized `StreamTelemetryRequest`s; those of `IngestTelemetry` have the same form."""
    found = []
    readings: list[Telemetry] = []
    for device, ts_us in span.readings():
        readings.append((register if span.registers else telemetry)(device, ts_us))
        if len(readings) == per_message:
            found.append(wire.StreamTelemetryRequest(readings=readings).SerializeToString())
            readings = []
    if readings:
        found.append(wire.StreamTelemetryRequest(readings=readings).SerializeToString())
    return found


def copy_rows(span: Span) -> tuple[bytes, bytes]:
    """The span as two binary COPYs, into the meters' and the vehicles' history; a pair's key is its number plus 1."""
    meters, vehicles = [_COPY_HEADER], [_COPY_HEADER]
    for device, ts_us in span.readings():
        pair = device // 2
        ts = ts_us - EPOCH_2000_US
        if device % 2 == 0:
            kwh = kwh_consumed_ac(pair, ts_us)
            meters.append(_METER_ROW.pack(4, 4, pair + 1, 8, ts, 8, kwh, 8, _voltage(pair)))
        else:
            kwh = kwh_delivered_dc(pair, ts_us)
            soc, temp = _soc(ts_us), _battery_temp(pair)
            vehicles.append(_VEHICLE_ROW.pack(5, 4, pair + 1, 8, ts, 8, kwh, 8, soc, 8, temp))
    return b"".join([*meters, _COPY_END]), b"".join([*vehicles, _COPY_END])


def telemetry(device: int, ts_us: int) -> Telemetry:
    """The reading of a device at an instant."""
    pair = device // 2
    timestamp = proto_from_us(ts_us)
    if device % 2 == 0:
        return Telemetry(
            meter=MeterReading(
                meter_id=meter_id(pair),
                kwh_consumed_ac=kwh_consumed_ac(pair, ts_us),
                voltage=_voltage(pair),
                timestamp=timestamp,
            )
        )
    return Telemetry(
        vehicle=VehicleReading(
            vehicle_id=vehicle_id(pair),
            soc=_soc(ts_us),
            kwh_delivered_dc=kwh_delivered_dc(pair, ts_us),
            battery_temp=_battery_temp(pair),
            timestamp=timestamp,
        )
    )


def register(device: int, ts_us: int) -> Telemetry:
    """The reading of a device at an instant, with its register."""
    reading = telemetry(device, ts_us)
    shown = register_kwh(device // 2, ts_us)
    if device % 2 == 0:
        reading.meter.ClearField("kwh_consumed_ac")
        reading.meter.register_kwh = shown
    else:
        reading.vehicle.ClearField("kwh_delivered_dc")
        reading.vehicle.register_kwh = shown
    return reading


def _voltage(pair: int) -> float:
    return 225.0 + pair % 101 * 0.1


def _soc(ts_us: int) -> float:
    return ts_us // INTERVAL_US % 1_000 / 10


def _battery_temp(pair: int) -> float:
    return 18.0 + pair % 150 * 0.1
