"""`energyfleet replay --check`: what a file is taken for, and what would be sent of it."""

from dataclasses import dataclass, field

from energyfleet.v1.telemetry_pb2 import Telemetry

from fleetcli.commands.command_errors import BadInput, CommandError
from fleetcli.commands.console import complain, say
from fleetcli.commands.file_formats import Format
from fleetcli.commands.readings_file import time_us
from fleetcli.commands.recording import Recording
from shared.device_ids import DEVICE_ID_ACCEPTED, is_device_id
from shared.timestamps import iso_from_us

PROBLEMS_SHOWN = 10
"""Enough to see a pattern."""

DEVICES_COUNTED = 100_000
"""Ten times the fleet, and some 15 MB."""

_FORMAT_NAMES = {
    Format.CSV: "CSV",
    Format.NDJSON: "JSON, a reading a line",
    Format.JSON: "JSON, an array of readings",
    Format.PARQUET: "a day of the archive",
}


@dataclass(slots=True)
class _Seen:
    good: int = 0
    bad: int = 0
    meters: set[str] = field(default_factory=set)
    vehicles: set[str] = field(default_factory=set)

    def add(self, reading: Telemetry) -> None:
        self.good += 1
        ids = self.meters if reading.HasField("meter") else self.vehicles
        if len(ids) <= DEVICES_COUNTED:
            ids.add(reading.meter.meter_id or reading.vehicle.vehicle_id)


def check(recording: Recording) -> None:
    """Reads all of it and says what it is. CommandError unless every line could be sent, BadInput if none is there."""
    seen = _Seen()
    for line in recording.lines():
        problem = line.problem if line.reading is None else _refusal(line.reading)
        if problem:
            seen.bad += 1
            if seen.bad <= PROBLEMS_SHOWN:
                complain(f"{recording.name}:{line.number}: {problem}")
        elif line.reading is not None:
            recording.see(line)
            seen.add(line.reading)
    if seen.bad > PROBLEMS_SHOWN:
        complain(f"{recording.name}: and {seen.bad - PROBLEMS_SHOWN:,} more")
    if not seen.good and not seen.bad:
        raise BadInput(f"{recording.name}: no readings")
    _say_found(recording)
    span = ""
    if recording.oldest_us is not None and recording.newest_us is not None:
        span = f" from {iso_from_us(recording.oldest_us)} to {iso_from_us(recording.newest_us)}"
    say(
        f"{seen.good:,} good readings{span}, {seen.bad:,} bad lines;"
        f" {_counted(seen.meters)} meters and {_counted(seen.vehicles)} vehicles. Nothing was sent."
    )
    if seen.bad:
        raise CommandError(f"{seen.bad:,} of {seen.good + seen.bad:,} lines could not be sent")


def _refusal(reading: Telemetry) -> str:
    """Why no service would take a reading; empty where one could."""
    device_id = reading.meter.meter_id or reading.vehicle.vehicle_id
    if not is_device_id(device_id):
        return f"{device_id[:40]!r} is no device's id: {DEVICE_ID_ACCEPTED}"
    if time_us(reading) is None:
        return "no timestamp"
    has_energy = reading.meter.HasField("kwh_consumed_ac") or reading.vehicle.HasField("kwh_delivered_dc")
    has_register = reading.meter.HasField("register_kwh") or reading.vehicle.HasField("register_kwh")
    if has_energy and has_register:
        return "both the energy of an interval and a register: a reading has one of the two"
    return "" if has_energy or has_register else "no energy"


def _say_found(recording: Recording) -> None:
    findings = recording.findings
    between = f", {findings.delimiter!r} between cells" if findings.delimiter else ""
    sign = findings.numbers.sign if findings.numbers else None
    say(f"{recording.name}: {_FORMAT_NAMES[recording.form]}{between}{f', decimal sign {sign!r}' if sign else ''}")
    for name, column in findings.columns.items():
        say(f"  {name}: {column}")


def _counted(ids: set[str]) -> str:
    return f"{len(ids):,}" if len(ids) <= DEVICES_COUNTED else f"more than {DEVICES_COUNTED:,}"
