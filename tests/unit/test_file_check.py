"""`energyfleet replay --check`: how a file is read, what is wrong with it, and that nothing is sent."""

import io
import sys
from pathlib import Path

import pytest

from fleetcli.__main__ import main
from fleetcli.commands import file_check
from shared.device_ids import DEVICE_ID_ACCEPTED

AT = "2024-03-05T08:30:00Z"
DATA = Path(__file__).parents[1] / "data"


def checked(
    capsys: pytest.CaptureFixture[str], file: str | Path, *options: str, nobody: str = "127.0.0.1:1"
) -> tuple[object, list[str], list[str]]:
    """The exit code and the lines of both outputs. No service is there."""
    try:
        main(["replay", str(file), "--check", "--ingestion", nobody, *options])
        code: object = 0
    except SystemExit as ended:
        code = ended.code
    said = capsys.readouterr()
    assert "Traceback" not in said.err
    return code, said.out.splitlines(), said.err.splitlines()


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "day.csv"


def test_it_says_how_a_file_is_read_and_sends_nothing(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file.write_text(
        "Charger;Zeit;Energy [Wh];Note\n"
        "m-1;05.03.2024 09:15;905,5;\n"
        "m-2;05.03.2024 09:15;1160;\n"
        "m-1;05.03.2024 09:30;0;\n"
    )
    code, out, err = checked(capsys, file, "--columns", "timestamp=zeit", "--time-zone", "Europe/Berlin")
    assert code == 0
    assert out == [
        f"{file}: CSV, ';' between cells, decimal sign ','",
        "  timestamp: 'Zeit', Europe/Berlin where no offset is given",
        "  meterId: 'Charger'",
        "  energy: 'Energy [Wh]', in Wh",
        "3 good readings from 2024-03-05T08:15:00Z to 2024-03-05T08:30:00Z, 0 bad lines; 2 meters and 0 vehicles."
        " Nothing was sent.",
    ]
    assert err == [f"{file}: not read: 'Note'"]


@pytest.mark.parametrize(
    ("name", "readings"), [("fast-charge-1min.csv", "20 good readings"), ("charge-point-15min.csv", "14 good readings")]
)
def test_recorded_charges_are_good(name: str, readings: str, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = checked(capsys, DATA / name)
    assert (code, err) == (0, [])
    assert out[-1].startswith(readings)


def test_bad_lines_are_counted_and_the_first_ones_told(
    file: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(file_check, "PROBLEMS_SHOWN", 4)
    rows = ["m-1;;1", f"ä;{AT};1", f"m-1;{AT};", f"m-1;{AT};1", f"m-1;{AT};1.234,5", "x", "x", "x"]
    file.write_text("\n".join(["meterId;timestamp;kwh", *rows]))
    code, out, err = checked(capsys, file)
    assert code == 1
    assert err == [
        f"{file}:2: no timestamp",
        f"{file}:3: 'ä' is no device's id: {DEVICE_ID_ACCEPTED}",
        f"{file}:4: no energy",
        f"{file}:6: energy: '1.234,5' is no number: thousands separators are not read",
        f"{file}: and 3 more",
        "7 of 8 lines could not be sent",
    ]
    assert out[-1] == f"1 good readings from {AT} to {AT}, 7 bad lines; 1 meters and 0 vehicles. Nothing was sent."


def test_a_register_stands_in_the_place_of_energy(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = file.with_suffix(".ndjson")
    lines = [
        f'{{"meter": {{"meterId": "m-1", "timestamp": "{AT}", "registerKwh": 0}}}}',
        f'{{"vehicle": {{"vehicleId": "v-1", "timestamp": "{AT}", "registerKwh": 4021.7}}}}',
        f'{{"vehicle": {{"vehicleId": "v-1", "timestamp": "{AT}"}}}}',
    ]
    file.write_text("\n".join(lines))
    code, out, err = checked(capsys, file)
    assert (code, err[0]) == (1, f"{file}:3: no energy")
    assert out[-1].startswith("2 good readings")


def test_a_reading_has_energy_or_a_register_and_not_both(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = (f"m-1;;{AT};4021,931;", f";ev-1;{AT};;1,5", f"m-1;;{AT};4021,931;1,5", f"m-1;;{AT};;")
    file.write_text("\n".join(["meter;vin;time;Zählerstand;energy", *rows]))
    code, out, err = checked(capsys, file, "--columns", "registerKwh=Zählerstand,energy=energy")
    assert code == 1
    assert err == [
        f"{file}:4: both the energy of an interval and a register: a reading has one of the two",
        f"{file}:5: no energy",
        "2 of 4 lines could not be sent",
    ]
    assert "  registerKwh: 'Zählerstand', in kWh" in out
    assert out[-1] == f"2 good readings from {AT} to {AT}, 2 bad lines; 1 meters and 1 vehicles. Nothing was sent."


def test_devices_are_counted_up_to_a_limit(
    file: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(file_check, "DEVICES_COUNTED", 2)
    file.write_text("\n".join(["vin,time,kwh", *(f"ev-{n},{AT},1" for n in range(9))]))
    assert checked(capsys, file)[1][-1].endswith("0 meters and more than 2 vehicles. Nothing was sent.")


def test_json_has_no_delimiter_and_in_an_array_readings_are_counted(
    file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = file.with_suffix(".json")
    file.write_text(f'[{{"vin": "ev-1", "at": "{AT}", "kwh": 1}},\n {{"vin": "ev-1", "at": "noon", "kwh": 1}}]')
    code, out, err = checked(capsys, file, "--columns", "timestamp=at")
    assert out[:2] == [f"{file}: JSON, an array of readings", "  timestamp: 'at'"]
    assert (code, err[0]) == (1, f"{file}:2: timestamp: 'noon' is no time such as 2026-02-09T10:00:00Z")


def test_standard_input_is_checked_too(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    given = io.BytesIO(f"time|kwh\n{AT}|1\n".encode())
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BufferedReader(given)))
    code, out, _ = checked(capsys, "-", "--meter", "m-1")
    assert (code, out[0]) == (0, "standard input: CSV, '|' between cells")


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "no readings"),
        (b"time,kwh,meter\n", "no readings"),
        (b"time;kwh\n", "line 1, which should name the columns: no meterId or vehicleId"),
        (b"PAR1rest", "Parquet is not read"),
    ],
)
def test_a_file_that_has_no_readings_is_bad(
    content: bytes, said: str, file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file.write_bytes(content)
    code, out, err = checked(capsys, file)
    assert (code, out, len(err)) == (1, [], 1)
    assert err[0].startswith(f"{file}: {said}")
