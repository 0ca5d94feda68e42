"""Rows of values as readings: those of a table, and flat JSON objects."""

import csv
import re
from collections.abc import Sequence

from energyfleet.v1.telemetry_pb2 import MeterReading, Telemetry, VehicleReading

from fleetcli.commands.file_cells import BadLine, Literal, Numbers, Unit, timestamp
from fleetcli.commands.file_columns import (
    DATE,
    ENERGY,
    REGISTER,
    Dialect,
    Findings,
    Layout,
    find,
    layout_of,
    meaning,
    shown,
)

DELIMITERS = ";\t|,"
"""The comma last: in files with another delimiter it stands in numbers and in words."""

_OF_METER = ("kwhConsumedAc", "voltage")
_OF_VEHICLE = ("kwhDeliveredDc", "soc", "batteryTemp")
_ABSENT = frozenset({"", "null", "NULL", "n/a", "N/A", "\\N"})
"""How files say that there is no value."""

_IDS = frozenset({"meterId", "vehicleId"})

_TIME_OF_DAY = re.compile(r"\d\d?:")


class Rows:
    """Makes readings of rows with this layout. A cell that is empty is absent."""

    def __init__(self, layout: Layout, dialect: Dialect, numbers: Numbers) -> None:
        self._places = tuple(layout.places.items())
        self._layout = layout
        self._dialect = dialect
        self._numbers = numbers

    def reading(self, cells: Sequence[object]) -> Telemetry:
        row = {name: cell for name, place in self._places if (cell := _cell(name, cells[place])) not in _ABSENT}
        if not row.keys() & _IDS:  # a device may be called NULL
            row |= {name: cell for name, place in self._places if name in _IDS and (cell := _cell(name, cells[place]))}
        meter_id = row.get("meterId", self._dialect.meter_id)
        vehicle_id = row.get("vehicleId", self._dialect.vehicle_id)
        if (meter_id is None) == (vehicle_id is None):
            raise BadLine("a row is one reading: fill in either meterId or vehicleId")
        device_id = meter_id or vehicle_id or ""
        own, others = (_OF_METER, _OF_VEHICLE) if vehicle_id is None else (_OF_VEHICLE, _OF_METER)
        strangers = [name for name in others if name in row]
        if strangers:
            raise BadLine(f"{', '.join(strangers)} cannot belong to a reading of {device_id[:40]!r}")
        values = {name: self._number(name, row[name]) for name in (*own, REGISTER) if name in row}
        if ENERGY in row:
            values[own[0]] = self._number(ENERGY, row[ENERGY])
        time = row.get("timestamp")
        if time and DATE in row and _TIME_OF_DAY.match(time):
            time = f"{row[DATE]} {time}"
        at = timestamp(time, self._layout.zone) if time else None
        try:
            if vehicle_id is None:
                return Telemetry(
                    meter=MeterReading(
                        meter_id=device_id,
                        timestamp=at,
                        kwh_consumed_ac=values.get("kwhConsumedAc"),
                        voltage=values.get("voltage"),
                        register_kwh=values.get(REGISTER),
                    )
                )
            return Telemetry(
                vehicle=VehicleReading(
                    vehicle_id=device_id,
                    timestamp=at,
                    kwh_delivered_dc=values.get("kwhDeliveredDc"),
                    soc=values.get("soc"),
                    battery_temp=values.get("batteryTemp"),
                    register_kwh=values.get(REGISTER),
                )
            )
        except UnicodeEncodeError:
            raise BadLine("the device's id is no Unicode text") from None

    def _number(self, name: str, cell: str) -> float:
        return self._numbers.value(name, cell, self._layout.units.get(name, Unit.KWH), large=name == REGISTER)


def _cell(name: str, cell: object) -> str:
    if isinstance(cell, Literal):
        return cell
    if isinstance(cell, str):
        return cell.strip()
    if cell is None:
        return ""
    raise BadLine(f"{name}: neither a number nor text")


class Table:
    """Makes readings of lines. The first names the columns, unless they are said by number and it is a reading itself.

    BadLine where the first line is not enough to read the others.
    """

    def __init__(self, first: str, dialect: Dialect, findings: Findings) -> None:
        self._delimiter = findings.delimiter = dialect.delimiter or _sniffed_delimiter(first, dialect)
        header = [cell.strip() for cell in _cells(first, self._delimiter)]
        self._width = len(header)
        numbers = findings.numbers = Numbers(dialect.decimal, commas_rare=self._delimiter == ",")
        layout, self.first_is_reading = _by_number(header, dialect, numbers), True
        if layout is None:
            lost = [column for column in dialect.columns.values() if find(column, header) is None]
            if lost:
                raise BadLine(f"--columns says {lost[0][:40]!r}, and there is {shown(header)}")
            layout, self.first_is_reading = layout_of(header, dialect), False
        findings.add(layout)
        self._rows = Rows(layout, dialect, numbers)

    def reading(self, text: str) -> Telemetry:
        cells = _cells(text, self._delimiter)
        if len(cells) != self._width:
            raise BadLine(f"{len(cells)} cells in a table of {self._width} columns")
        return self._rows.reading(cells)


def _by_number(cells: list[str], dialect: Dialect, numbers: Numbers) -> Layout | None:
    """The layout of a table whose first line is a reading; None where it is not."""
    if not dialect.columns or not all(column.isdecimal() for column in dialect.columns.values()):
        return None
    try:
        layout = layout_of([str(place + 1) for place in range(len(cells))], dialect)
        Rows(layout, dialect, numbers).reading(cells)
    except BadLine:
        return None
    return layout


def _cells(text: str, delimiter: str) -> list[str]:
    try:
        return next(csv.reader([text], strict=True, delimiter=delimiter, skipinitialspace=True))
    except csv.Error as error:
        raise BadLine(f"not a line of CSV: {str(error).partition(' - ')[0]}") from None


def _sniffed_delimiter(header: str, dialect: Dialect) -> str:
    """The delimiter that makes most of the header known columns; the first of DELIMITERS where none does."""

    def known(delimiter: str) -> int:
        try:
            cells = [cell.strip() for cell in _cells(header, delimiter)]
        except BadLine:
            return 0
        said = sum(find(column, cells) is not None for column in dialect.columns.values())
        return said + len({meaning(cell)[0] for cell in cells} - {""})

    return max([each for each in DELIMITERS if each in header] or [","], key=known)
