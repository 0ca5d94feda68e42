"""Files of readings for tests: what is read of them, and readings to compare with."""

import io
from zoneinfo import ZoneInfo

from energyfleet.v1.telemetry_pb2 import Telemetry

from fleetcli.commands.file_columns import Dialect
from fleetcli.commands.file_formats import format_of, is_utf16
from fleetcli.commands.readings_file import Line
from fleetcli.commands.recording import Recording

BERLIN = ZoneInfo("Europe/Berlin")
AT = "2024-03-05T08:30:00Z"


def lines_of(file: str | bytes, dialect: Dialect | None = None) -> list[Line]:
    """The lines of a file whose name says nothing."""
    raw = file.encode() if isinstance(file, str) else file
    recording = Recording("a file", io.BytesIO(raw), format_of("", raw), dialect or Dialect(), is_utf16(raw))
    return list(recording.lines())


def readings_of(file: str | bytes, dialect: Dialect | None = None) -> list[Telemetry]:
    """The readings of a file in which every line is one."""
    lines = lines_of(file, dialect)
    assert [line.problem for line in lines if line.problem] == []
    return [line.reading for line in lines if line.reading is not None]


def problems_of(file: str | bytes, dialect: Dialect | None = None) -> list[tuple[int, str]]:
    return [(line.number, line.problem) for line in lines_of(file, dialect) if line.reading is None]


def a_meters(kwh: float | None, at: str = AT, meter_id: str = "m-1", **measured: float) -> Telemetry:
    reading = Telemetry()
    reading.meter.meter_id = meter_id
    reading.meter.timestamp.FromJsonString(at)
    if kwh is not None:
        reading.meter.kwh_consumed_ac = kwh
    for name, value in measured.items():
        setattr(reading.meter, name, value)
    return reading


def a_vehicles(kwh: float | None, at: str = AT, vehicle_id: str = "ev-1", **measured: float) -> Telemetry:
    reading = Telemetry()
    reading.vehicle.vehicle_id = vehicle_id
    reading.vehicle.timestamp.FromJsonString(at)
    if kwh is not None:
        reading.vehicle.kwh_delivered_dc = kwh
    for name, value in measured.items():
        setattr(reading.vehicle, name, value)
    return reading
