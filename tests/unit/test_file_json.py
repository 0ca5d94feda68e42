"""Readings in JSON: flat or in the contract's form, by line or in an array."""

import io
from collections.abc import Iterator

import pytest

from fleetcli.commands.file_cells import Unit
from fleetcli.commands.file_columns import Dialect
from fleetcli.commands.file_formats import Format
from fleetcli.commands.file_json import ELEMENT_MAX
from fleetcli.commands.recording import Recording
from tests.recorded_files import BERLIN, a_meters, a_vehicles, problems_of, readings_of

FLAT_METER = '{"meterId": "m-1", "kwhConsumedAc": 1.5, "voltage": 230, "timestamp": "2024-03-05T08:30:00Z"}'
FLAT_VEHICLE = (
    '{"vehicleId": "ev-1", "soc": 61.5, "kwhDeliveredDc": 1.25, "batteryTemp": -3, "timestamp": "2024-03-05T08:30:00Z"}'
)
CONTRACTS = '{"meter": {"meterId": "m-1", "kwhConsumedAc": 1.5, "voltage": 230, "timestamp": "2024-03-05T08:30:00Z"}}'
METER, VEHICLE = a_meters(1.5, voltage=230), a_vehicles(1.25, soc=61.5, battery_temp=-3)


@pytest.mark.parametrize(
    "file",
    [
        f"{FLAT_METER}\n{FLAT_VEHICLE}\n{CONTRACTS}\n",
        f"[{FLAT_METER},{FLAT_VEHICLE},{CONTRACTS}]",
        f"\ufeff [\n  {FLAT_METER},\n  {FLAT_VEHICLE},\n  {CONTRACTS}\n]\n",
        f"[{FLAT_METER}]\n[{FLAT_VEHICLE}, {CONTRACTS}]\n",
        f'{{"readings": [{FLAT_METER}, {FLAT_VEHICLE}, {CONTRACTS}]}}',
    ],
)
def test_json_may_be_flat_or_in_the_contracts_form_by_line_or_in_an_array(file: str) -> None:
    assert readings_of(file) == [METER, VEHICLE, METER]


def test_what_options_say_is_true_of_json_too() -> None:
    said = Dialect(unit=Unit.WH, zone=BERLIN, columns={"timestamp": "at"}, vehicle_id="ev-1")
    assert readings_of('{"at": "2024-03-05 09:30", "energy": 905, "x": [1]}', said) == [a_vehicles(0.905)]
    wh = Dialect(unit=Unit.WH)
    assert readings_of(CONTRACTS.replace("1.5", "905"), wh) == [a_meters(0.905, voltage=230)]
    assert readings_of(FLAT_METER.replace("1.5", "905"), wh) == [a_meters(0.905, voltage=230)]
    ((_, said_of_both),) = problems_of(CONTRACTS, Dialect(meter_id="m-1"))
    assert "--meter and --vehicle are for what names no device" in said_of_both


def test_a_register_is_read_in_either_form_and_in_the_unit_that_is_said() -> None:
    flat_meter = FLAT_METER.replace('"kwhConsumedAc": 1.5', '"kwhConsumedAc": null, "registerKwh": 4021')
    flat_vehicle = FLAT_VEHICLE.replace('"kwhDeliveredDc": 1.25', '"Meter Reading": "4021"')
    contracts = CONTRACTS.replace('"kwhConsumedAc": 1.5', '"registerKwh": 4021')
    file = f"[{flat_meter}, {flat_vehicle}, {contracts}]"
    for unit, kwh in ((None, 4021), (Unit.WH, 4.021)):
        meter = a_meters(None, voltage=230, register_kwh=kwh)
        vehicle = a_vehicles(None, soc=61.5, battery_temp=-3, register_kwh=kwh)
        assert readings_of(file, Dialect(unit=unit)) == [meter, vehicle, meter]


def test_numbers_of_json_may_be_text_and_absent_ones_null() -> None:
    file = '{"vehicleId": 17, "timestamp": 1709627400123, "kwhDeliveredDc": "1,25", "soc": null}'
    assert readings_of(file) == [a_vehicles(1.25, "2024-03-05T08:30:00.123Z", "17")]
    said = Dialect(decimal=",")
    assert readings_of(FLAT_METER, said) == [METER], "a number of JSON has a point, whatever text has"


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("[1]", "a reading is a JSON object"),
        ("17", "a reading is a JSON object"),
        (
            "{",
            "not JSON, or not all of it in one line: Expecting property name enclosed in double quotes at character 2",
        ),
        ("{}", "no timestamp, no meterId or vehicleId (or else --meter ID or --vehicle ID), no kwhConsumedAc or kwh"),
        (FLAT_METER.replace("1.5", "true"), "kwhConsumedAc: neither a number nor text"),
        (FLAT_METER.replace("1.5", "[1.5]"), "kwhConsumedAc: neither a number nor text"),
        (FLAT_METER.replace("m-1", "\\ud800"), "the device's id is no Unicode text"),
        (FLAT_METER.replace("voltage", "soc"), "soc cannot belong to a reading of 'm-1'"),
        (FLAT_METER.replace("}", ', "vehicleId": "ev-1"}'), "fill in either meterId or vehicleId"),
        ('{"a":' * 9_000 + "1", "not a reading: JSON within JSON without end"),
    ],
)
def test_a_line_of_json_that_is_no_reading_says_why(line: str, said: str) -> None:
    lines = list(Recording("a file", io.BytesIO(f"{line}\n{FLAT_METER}\n".encode()), Format.NDJSON).lines())
    assert said in lines[0].problem
    assert lines[1].reading == METER


@pytest.mark.parametrize(
    ("file", "problems"),
    [
        (f"[{FLAT_METER}, 17, {FLAT_METER}]", {2: "a reading is a JSON object"}),
        (f"[{FLAT_METER}, {{]", {2: "from '{]' on it is no array of readings"}),
        (f"[{FLAT_METER} {FLAT_METER}]", {2: """from '{"meterId": "m-1", "kwhCons"""}),
        (f"[{FLAT_METER},", {2: "the file ends within its array"}),
        (f"[{FLAT_METER}", {2: "the file ends within its array"}),
        (f"[{FLAT_METER}]]", {2: "from ']' on it is no array of readings"}),
        (f"[{FLAT_METER}] and more", {2: "from 'and more' on it is no array of readings"}),
        (f"[{FLAT_METER}, {'[' * 60_000}", {2: "on it is no array of readings"}),
        ("[]", {}),
        ("[", {1: "the file ends within its array"}),
    ],
)
def test_an_array_is_read_as_far_as_it_is_json(file: str, problems: dict[int, str]) -> None:
    found = dict(problems_of(file))
    assert found.keys() == problems.keys()
    assert all(said in found[number] for number, said in problems.items())


class Endless(io.RawIOBase):
    """An array without end; counts the bytes that were read of it."""

    def __init__(self, elements: Iterator[bytes]) -> None:
        self._elements = elements
        self.read_bytes = 0

    def read(self, size: int = -1) -> bytes:
        text = b""
        while len(text) < size:
            text += next(self._elements)
        self.read_bytes += len(text)
        return text


def test_an_array_without_end_is_read_piece_by_piece() -> None:
    def elements() -> Iterator[bytes]:
        yield b"["
        while True:
            yield f"{FLAT_METER},\n".encode()

    source = Endless(elements())
    lines = Recording("a file", source, Format.JSON).lines()  # type: ignore[arg-type]  # of which only read() is used
    for _ in range(10_000):
        assert next(lines).reading == METER
    assert source.read_bytes < 10_000 * (len(FLAT_METER) + 2) + 10 * ELEMENT_MAX


def test_an_element_without_end_is_given_up() -> None:
    def elements() -> Iterator[bytes]:
        yield b'["'
        while True:
            yield b"x" * 1_000

    source = Endless(elements())
    (line,) = Recording("a file", source, Format.JSON).lines()  # type: ignore[arg-type]  # of which only read() is used
    assert "the rest is not read" in line.problem
    assert source.read_bytes < 10 * ELEMENT_MAX
