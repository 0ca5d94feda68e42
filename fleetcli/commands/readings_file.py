"""Recorded telemetry as lines of CSV or JSON, or as a JSON array: each a reading, or a reason why it is none."""

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from itertools import chain
from typing import BinaryIO

from energyfleet.v1.telemetry_pb2 import MeterReading, Telemetry, VehicleReading

from fleetcli.commands.command_errors import BadInput
from fleetcli.commands.file_cells import BadLine
from fleetcli.commands.file_columns import Dialect, Findings
from fleetcli.commands.file_formats import Format
from fleetcli.commands.file_json import JsonReadings, array_elements
from fleetcli.commands.file_rows import Table
from shared.timestamps import US_PER_SECOND

LINE_MAX_BYTES = 64 * 1024
"""A reading takes 200 bytes. A longer line is a file of another kind, and must not fill the memory."""

_EXCELS_DELIMITER = re.compile(r"sep=([,;|\t])", re.IGNORECASE)
"""A line before the header, by which Excel is told the delimiter."""

_Text = tuple[int, str | BadLine]


@dataclass(frozen=True, slots=True)
class Line:
    """A line, or a reading of an array, by its number, from 1: its reading, or what is wrong with it."""

    number: int
    reading: Telemetry | None
    problem: str = ""


def read_lines(source: BinaryIO, form: Format, dialect: Dialect, findings: Findings) -> Iterator[Line]:
    """Every line that is not blank, or every reading of an array, in bounded memory.

    BadInput where a table's first line does not name its columns.
    """
    parse: Callable[[str], Telemetry]
    if form is Format.CSV:
        texts = _texts(source, not_utf8="latin-1")
        first = next(texts, None)
        if first is not None and isinstance(first[1], str) and (excels := _EXCELS_DELIMITER.fullmatch(first[1])):
            dialect = replace(dialect, delimiter=dialect.delimiter or excels[1])
            first = next(texts, None)
        if first is None:
            return
        table = _table(*first, dialect, findings)
        if table.first_is_reading:
            texts = chain([first], texts)
        parse = table.reading
    else:
        texts = array_elements(source) if form is Format.JSON else _texts(source)
        parse = JsonReadings(dialect, findings).reading
    for number, text in texts:
        try:
            if isinstance(text, BadLine):
                raise text
            yield Line(number, parse(text))
        except BadLine as why:
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


def _texts(source: BinaryIO, not_utf8: str | None = None) -> Iterator[_Text]:
    """Lines that are not blank, with their numbers, without their ends; `not_utf8` decodes what is not UTF-8."""
    number = 0
    while raw := source.readline(LINE_MAX_BYTES):
        number += 1
        if len(raw) == LINE_MAX_BYTES and not raw.endswith(b"\n"):
            while (rest := source.readline(LINE_MAX_BYTES)) and not rest.endswith(b"\n"):
                pass
            yield number, BadLine(f"longer than {LINE_MAX_BYTES:,} bytes")
            continue
        try:
            text = raw.decode("utf-8-sig" if number == 1 else "utf-8")
        except UnicodeDecodeError:
            if not_utf8 is None:
                yield number, BadLine("not UTF-8 text")
                continue
            text = raw.decode(not_utf8)
        if text.strip():
            yield number, text.strip(" \r\n")  # a tab may be the end of an empty cell


def _table(number: int, text: str | BadLine, dialect: Dialect, findings: Findings) -> Table:
    try:
        if isinstance(text, BadLine):
            raise text
        return Table(text, dialect, findings)
    except BadLine as why:
        raise BadInput(f"line {number}, which should name the columns: {why}") from None
