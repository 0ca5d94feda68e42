"""Readings in JSON: in the contract's form or flat, one a line or in an array."""

import codecs
import json
import re
from collections.abc import Iterator
from typing import Any, BinaryIO

from energyfleet.v1.telemetry_pb2 import MeterReading, Telemetry, VehicleReading
from google.protobuf import json_format

from fleetcli.commands.file_cells import BadLine, Literal, Numbers, Unit
from fleetcli.commands.file_columns import Dialect, Findings, layout_of
from fleetcli.commands.file_rows import Rows

ELEMENT_MAX = 64 * 1024
"""Characters that an array's reading may have for certain; that much is read ahead."""

_CHUNK_BYTES = 4 * ELEMENT_MAX

_LAYOUTS_MAX = 1_000
"""Objects of so many different keys are remembered; a file has a handful."""

_CONTRACTS_FORM = re.compile(r'\s*\{\s*"(?:meter|vehicle)"\s*:\s*\{')
_SPACE = re.compile(r"\s*")
_COMMA = re.compile(",")
_CLOSING = re.compile(r"\]\s*\}?")
_OPENING = re.compile(r'\s*(?:\{\s*"readings"\s*:\s*)?\[')
"""Of an array, or of an IngestTelemetryRequest, which has one."""

_BREAKS_OFF = "the file ends within its array"

_DECODER = json.JSONDecoder(parse_float=Literal, parse_int=Literal, parse_constant=Literal)


def is_array(beginning: str) -> bool:
    return _OPENING.match(beginning) is not None


class JsonReadings:
    """Makes readings of JSON texts."""

    def __init__(self, dialect: Dialect, findings: Findings) -> None:
        self._dialect = dialect
        self._findings = findings
        self._numbers = findings.numbers = Numbers(dialect.decimal, commas_rare=True)
        self._rows: dict[tuple[str, ...], Rows] = {}

    def reading(self, text: str) -> Telemetry:
        if _CONTRACTS_FORM.match(text):
            return self._contracts(text)
        try:
            value = _DECODER.decode(text)
        except json.JSONDecodeError as error:
            raise BadLine(
                f"not JSON, or not all of it in one line: {error.msg} at character {error.pos + 1:,}"
            ) from None
        except RecursionError:
            raise BadLine("not a reading: JSON within JSON without end") from None
        if not isinstance(value, dict):
            raise BadLine("a reading is a JSON object: {...}")
        keys = tuple(value)
        rows = self._rows.get(keys)
        if rows is None:
            layout = layout_of(keys, self._dialect)
            self._findings.add(layout)
            if len(self._rows) >= _LAYOUTS_MAX:
                self._rows.clear()
            rows = self._rows[keys] = Rows(layout, self._dialect, self._numbers)
        return rows.reading(list(value.values()))

    def _contracts(self, text: str) -> Telemetry:
        if self._dialect.meter_id or self._dialect.vehicle_id:
            raise BadLine(
                "--meter and --vehicle are for what names no device, and a reading in the contract's form does"
            )
        try:
            reading = json_format.Parse(text, Telemetry())
        except json_format.ParseError as error:
            raise BadLine(" ".join(str(error).split())[:200]) from None
        if self._dialect.unit is Unit.WH:
            self._convert(reading.meter, "kwh_consumed_ac", "register_kwh")
            self._convert(reading.vehicle, "kwh_delivered_dc", "register_kwh")
        return reading

    def _convert(self, side: MeterReading | VehicleReading, *names: Any) -> None:
        """What is there of these fields, from Wh to kWh."""
        for name in names:
            if side.HasField(name):
                setattr(side, name, self._numbers.value("energy", Literal(repr(getattr(side, name))), Unit.WH))


def array_elements(source: BinaryIO) -> Iterator[tuple[int, str | BadLine]]:
    """The texts of an array's elements, counted from 1, or of several arrays one after another; in bounded memory.

    What is no JSON ends it: where the next reading would begin cannot be told.
    """
    decode = codecs.getincrementaldecoder("utf-8-sig")("replace").decode
    text, at, ended = "", 0, False
    number, within, first = 0, False, False

    def read_ahead() -> None:
        """Passes over space, until an element's length is there or the file ends."""
        nonlocal text, at, ended
        while True:
            at = _SPACE.match(text, at).end()  # type: ignore[union-attr]  # it matches anything
            if ended or len(text) - at >= ELEMENT_MAX:
                return
            chunk = source.read(_CHUNK_BYTES)
            ended = not chunk
            text, at = text[at:] + decode(chunk, ended), 0

    while True:
        read_ahead()
        if at == len(text):
            if within:
                yield number + 1, BadLine(_BREAKS_OFF)
            return
        if within and text[at] == "]":
            at = _CLOSING.match(text, at).end()  # type: ignore[union-attr]  # it matches the bracket
            within = False
            continue
        try:
            if not within:
                at = _expect(_OPENING, text, at)
                within = first = True
                continue
            if not first:
                at = _expect(_COMMA, text, at)
                read_ahead()
            _, end = _DECODER.raw_decode(text, at)
        except (ValueError, RecursionError):
            wrong = f"from {text[at : at + 40]!r} on it is no array of readings of up to {ELEMENT_MAX:,} characters"
            yield number + 1, BadLine(f"{wrong}; the rest is not read" if at < len(text) else _BREAKS_OFF)
            return
        number += 1
        yield number, text[at:end]
        at, first = end, False


def _expect(pattern: re.Pattern[str], text: str, at: int) -> int:
    match = pattern.match(text, at)
    if match is None:
        raise ValueError
    return match.end()
