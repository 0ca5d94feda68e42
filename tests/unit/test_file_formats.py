"""Files that are none of readings: each is named, with what to do."""

import io
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fleetcli.commands.command_errors import BadInput
from fleetcli.commands.file_columns import Dialect
from fleetcli.commands.file_formats import check_readable, format_of, is_utf16
from fleetcli.commands.recording import Recording, opened
from tests.recorded_files import a_meters


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"\x1f\x8b\x08rest", "gzip is not read: unpack it first, as in `gunzip -c FILE | energyfleet replay -`"),
        (b"PK\x03\x04rest", "a ZIP archive or a workbook (xlsx, ods) is not read: unpack it, or save the sheet as CSV"),
        (b"PAR1rest", "Parquet is not read: save it as CSV first"),
        (b"\xd0\xcf\x11\xe0rest", "a workbook (xls) is not read: save it as CSV first"),
        (b"<?xml version='1.0'?>", "XML or HTML is not read: save it as CSV first"),
        ("time,kwh".encode("utf-16-le"), "not text, or UTF-16 without its byte order mark: save it as UTF-8 first"),
        ("time,kwh".encode("utf-32"), "UTF-32 is not read: save it as UTF-8 first"),
        (b"hello world\n", "line 1, which should name the columns: no timestamp, no meterId or vehicleId"),
        (b"vehicle,p_grid_w,eta_acdc\n", " among 'vehicle', 'p_grid_w', 'eta_acdc': say --columns NAME=COLUMN,..."),
    ],
)
def test_what_is_no_file_of_readings_is_said_in_one_sentence(content: bytes, said: str, tmp_path: Path) -> None:
    file = tmp_path / "day.csv"
    file.write_bytes(content)
    with pytest.raises(BadInput) as refused, opened(str(file), None, Dialect(), False) as recording:
        list(recording.lines())
    (line,) = str(refused.value).splitlines()
    assert line.startswith(f"{file}: ")
    assert said in line


BEGINNINGS = [
    b"",
    b"meterId;time;kwh\n",
    b'{"meterId": "m-1", ',
    b'[{"vin": "ev-1", "kwh": 1}, ',
    "time\tkwh\n".encode("utf-16"),
]


@given(st.sampled_from(BEGINNINGS), st.binary(max_size=200), st.sampled_from(["", ".csv", ".json"]))
def test_no_bytes_whatsoever_are_a_file_without_an_answer(beginning: bytes, junk: bytes, suffix: str) -> None:
    """Each line is a reading or has a problem of one line, or the file is refused in one."""
    raw = beginning + junk
    said = []
    try:
        check_readable(raw)
        recording = Recording("a file", io.BytesIO(raw), format_of(suffix, raw), utf16=is_utf16(raw))
        said = [line.problem for line in recording.lines() if line.reading is None]
    except BadInput as why:
        said = [str(why)]
    assert all(each and len(each.splitlines()) == 1 for each in said)


def test_a_pipe_of_utf_16_is_read_twice_where_that_is_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    text = "meter;time;kwh\nm-1;2024-03-05T08:30:00Z;1,5\n"
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(text.encode("utf-16"))))
    with opened("-", None, Dialect(), True) as recording:
        recording.survey()
        (line,) = recording.lines()
    assert line.reading == a_meters(1.5)
