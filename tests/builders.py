"""Readings with everything right, of which a test says only what it is about."""

from datetime import datetime
from typing import Any

from energyfleet.v1.telemetry_pb2 import MeterReading, Telemetry, VehicleReading
from google.protobuf.timestamp_pb2 import Timestamp

from shared.timestamps import proto_from_us, us_from_datetime

NOW_US = us_from_datetime(datetime.fromisoformat("2026-02-10T00:30:00Z"))
"""What the clock of the services under test says: half an hour after a midnight."""

UNUSUAL_IDS = (
    "DE*ABC*E123456*1",
    "a+b=c|d@e#f/g~h(i)",
    "m=1",
    "a  b",
    "-x",
    "--help",
    "..",
    "/",
    "100%",
    "%s",
    "%(ids)s",
    "%41",
    "it's",
    '"quoted"',
    "back\\slash",
    "'; DROP TABLE vehicles; --",
    ":vehicle_id",
    "$1",
    "$x^2$",
    "$(x)",
    "`x`",
    "{0}",
    "{a,b}",
    "NULL",
    "[bold]",
    "[/]",
    ":smile:",
    "<b>&amp;</b>",
    "=cmd()",
    "1e3",
    "is fed by",
    "\\" * 64,
    '"' * 64,
    "".join(map(chr, range(ord("!"), ord("_") + 1))),
    "".join(map(chr, range(ord("`"), ord("~") + 1))),
)
"""Ids that formats, shells, statements and markup could take for something else, with every character that ids have."""


def clock() -> int:
    """Stands still."""
    return NOW_US


def us(text: str) -> int:
    """Microseconds of an RFC 3339 time."""
    return us_from_datetime(datetime.fromisoformat(text))


def a_meter_reading(
    meter_id: str = "meter-001",
    ts_us: int | None = NOW_US,
    kwh_consumed_ac: float | None = 1.5,
    voltage: float | None = 230.0,
    timestamp: Timestamp | None = None,
) -> Telemetry:
    """A meter's reading; None leaves a field absent."""
    return Telemetry(
        meter=MeterReading(
            meter_id=meter_id,
            **_present(kwh_consumed_ac=kwh_consumed_ac, voltage=voltage, timestamp=_timestamp(ts_us, timestamp)),
        )
    )


def a_vehicle_reading(
    vehicle_id: str = "vehicle-001",
    ts_us: int | None = NOW_US,
    kwh_delivered_dc: float | None = 1.35,
    soc: float | None = 50.0,
    battery_temp: float | None = 25.0,
    timestamp: Timestamp | None = None,
) -> Telemetry:
    """A vehicle's reading; None leaves a field absent."""
    return Telemetry(
        vehicle=VehicleReading(
            vehicle_id=vehicle_id,
            **_present(
                kwh_delivered_dc=kwh_delivered_dc,
                soc=soc,
                battery_temp=battery_temp,
                timestamp=_timestamp(ts_us, timestamp),
            ),
        )
    )


def _timestamp(ts_us: int | None, timestamp: Timestamp | None) -> Timestamp | None:
    return timestamp if timestamp is not None or ts_us is None else proto_from_us(ts_us)


def _present(**fields: Any) -> dict[str, Any]:
    return {name: value for name, value in fields.items() if value is not None}
