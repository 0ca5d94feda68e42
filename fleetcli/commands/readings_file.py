"""Recorded telemetry as lines: CSV or newline-delimited JSON, each line a reading or a reason why it is none."""

import csv
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import StrEnum
from itertools import chain
from typing import BinaryIO

from energyfleet.v1.telemetry_pb2 import MeterReading, Telemetry, VehicleReading
from google.protobuf import json_format
from google.protobuf.timestamp_pb2 import Timestamp

from fleetcli.commands.command_errors import BadInput
from shared.timestamps import US_PER_SECOND

LINE_MAX_BYTES = 64 * 1024
"""A reading takes 200 bytes. A longer line is a file of another kind, and must not fill the memory."""

COLUMNS = ("meterId", "vehicleId", "timestamp", "kwhConsumedAc", "voltage", "kwhDeliveredDc", "soc", "batteryTemp")
"""The contract's JSON names, both sides in one table; a file may leave out what it does not have."""

_OF_METER = ("kwhConsumedAc", "voltage")
_OF_VEHICLE = ("kwhDeliveredDc", "soc", "batteryTemp")
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?|[+-]?(nan|inf|infinity)", re.IGNORECASE | re.ASCII)


class Format(StrEnum):
    CSV = "csv"
    NDJSON = "ndjson"


_FORMAT_OF_SUFFIX = {".csv": Format.CSV, ".ndjson": Format.NDJSON, ".jsonl": Format.NDJSON, ".json": Format.NDJSON}


@dataclass(frozen=True, slots=True)
class Line:
    """A line by its number, counted from 1: its reading, or what is wrong with it."""

    number: int
    reading: Telemetry | None
    problem: str = ""


class _BadLine(Exception):
    """The message says what is wrong."""


def format_of(suffix: str, beginning: bytes) -> Format:
    """By a file name's suffix, else by how the file begins."""
    named = _FORMAT_OF_SUFFIX.get(suffix.lower())
    if named is not None:
        return named
    return Format.NDJSON if beginning.removeprefix(b"\xef\xbb\xbf").lstrip().startswith(b"{") else Format.CSV


def read_lines(source: BinaryIO, form: Format) -> Iterator[Line]:
    """Every line that is not blank, in bounded memory. BadInput where a CSV file has no usable header."""
    texts = _texts(source)
    parse: Callable[[str], Telemetry] = _from_json
    if form is Format.CSV:
        first = next(texts, None)
        if first is None:
            return
        parse = _Table(_header(*first)).reading
    for number, text in texts:
        try:
            if isinstance(text, _BadLine):
                raise text
            yield Line(number, parse(text))
        except _BadLine as why:
            yield Line(number, None, str(why))


def time_us(reading: Telemetry) -> int | None:
    """When a reading was taken, in microseconds rounded down; None where it does not say."""
    side = _side(reading)
    if side is None or not side.HasField("timestamp"):
        return None
    return side.timestamp.seconds * US_PER_SECOND + side.timestamp.nanos // 1_000


def move(reading: Telemetry, by_us: int) -> None:
    """Moves a reading in time by whole microseconds; what is finer stays as it is."""
    us = time_us(reading)
    side = _side(reading)
    if us is None or side is None:
        return
    seconds, rest_us = divmod(us + by_us, US_PER_SECOND)
    side.timestamp.nanos = rest_us * 1_000 + side.timestamp.nanos % 1_000
    side.timestamp.seconds = seconds


def _side(reading: Telemetry) -> MeterReading | VehicleReading | None:
    match reading.WhichOneof("reading"):
        case "meter":
            return reading.meter
        case "vehicle":
            return reading.vehicle
        case None:
            return None


def _texts(source: BinaryIO) -> Iterator[tuple[int, "str | _BadLine"]]:
    """Lines that are not blank, with their numbers, without their ends."""
    number = 0
    while raw := source.readline(LINE_MAX_BYTES):
        number += 1
        if len(raw) == LINE_MAX_BYTES and not raw.endswith(b"\n"):
            while (rest := source.readline(LINE_MAX_BYTES)) and not rest.endswith(b"\n"):
                pass
            yield number, _BadLine(f"longer than {LINE_MAX_BYTES:,} bytes")
            continue
        try:
            text = raw.decode("utf-8-sig" if number == 1 else "utf-8").strip()
        except UnicodeDecodeError:
            yield number, _BadLine("not UTF-8 text")
            continue
        if text:
            yield number, text


def _from_json(text: str) -> Telemetry:
    try:
        return json_format.Parse(text, Telemetry())
    except json_format.ParseError as error:
        raise _BadLine(" ".join(str(error).split())[:200]) from None


def _header(number: int, text: "str | _BadLine") -> list[str]:
    expected = f"the first line must name columns out of {','.join(COLUMNS)}"
    if isinstance(text, _BadLine):
        raise BadInput(f"line {number} is {text}: {expected}")
    names = [name.strip() for name in _cells(text)]
    unknown = [name for name in names if name not in COLUMNS]
    if unknown:
        raise BadInput(f"line {number}: {', '.join(map(repr, unknown))} is no column: {expected}")
    if len(set(names)) < len(names):
        raise BadInput(f"line {number}: a column is named twice")
    if "timestamp" not in names or not {"meterId", "vehicleId"} & set(names):
        raise BadInput(f"line {number}: timestamp and one of meterId and vehicleId are needed: {expected}")
    return names


def _cells(text: str) -> list[str]:
    try:
        return next(csv.reader([text], strict=True))
    except csv.Error as error:
        raise _BadLine(f"not a line of CSV: {error}") from None


class _Table:
    """Makes readings of rows with these columns. A cell that is empty is absent."""

    def __init__(self, columns: list[str]) -> None:
        self._columns = columns

    def reading(self, text: str) -> Telemetry:
        cells = _cells(text)
        if len(cells) != len(self._columns):
            raise _BadLine(f"{len(cells)} cells in a table of {len(self._columns)} columns")
        row = {name: cell.strip() for name, cell in zip(self._columns, cells, strict=True) if cell.strip()}
        meter_id, vehicle_id = row.get("meterId"), row.get("vehicleId")
        if (meter_id is None) == (vehicle_id is None):
            raise _BadLine("a row is one reading: fill in either meterId or vehicleId")
        strangers = [name for name in (_OF_VEHICLE if meter_id else _OF_METER) if name in row]
        if strangers:
            raise _BadLine(f"{', '.join(strangers)} cannot belong to a reading of {meter_id or vehicle_id}")
        values = {name: _number(name, row[name]) for name in chain(_OF_METER, _OF_VEHICLE) if name in row}
        timestamp = _timestamp(row["timestamp"]) if "timestamp" in row else None
        if vehicle_id is None:
            return Telemetry(
                meter=MeterReading(
                    meter_id=row["meterId"],
                    timestamp=timestamp,
                    kwh_consumed_ac=values.get("kwhConsumedAc"),
                    voltage=values.get("voltage"),
                )
            )
        return Telemetry(
            vehicle=VehicleReading(
                vehicle_id=row["vehicleId"],
                timestamp=timestamp,
                kwh_delivered_dc=values.get("kwhDeliveredDc"),
                soc=values.get("soc"),
                battery_temp=values.get("batteryTemp"),
            )
        )


def _number(name: str, cell: str) -> float:
    if not _NUMBER.fullmatch(cell):
        raise _BadLine(f"{name}: {cell[:40]!r} is no number")
    return float(cell)


def _timestamp(cell: str) -> Timestamp:
    timestamp = Timestamp()
    try:
        timestamp.FromJsonString(cell)
    except ValueError:
        raise _BadLine(f"timestamp: {cell[:40]!r} is no time such as 2026-02-09T10:00:00Z") from None
    return timestamp
