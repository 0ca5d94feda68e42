"""Recorded telemetry: which lines are readings, what is said of the others, and how readings move in time."""

import io
from pathlib import Path

import pytest
from energyfleet.v1.ingestion_service_pb2 import (
    ConflictingReading,
    ExchangeTelemetryResponse,
    IngestionSummary,
    RejectedReading,
)
from energyfleet.v1.telemetry_pb2 import MeterReading, Telemetry
from google.protobuf.timestamp_pb2 import Timestamp
from hypothesis import given
from hypothesis import strategies as st
from typer import BadParameter

from fleetcli.commands import replay
from fleetcli.commands.command_errors import BadInput
from fleetcli.commands.file_columns import COLUMNS
from fleetcli.commands.file_formats import Format, format_of
from fleetcli.commands.readings_file import LINE_MAX_BYTES, Line, move, time_us
from fleetcli.commands.recording import Recording

DATA = Path(__file__).parents[1] / "data"
HEADER = ",".join(COLUMNS)
GOOD = "m-1,,2024-03-05T08:30:00Z,0.5,230,,,,"


def lines_of(text: str | bytes, form: Format = Format.CSV) -> list[Line]:
    raw = text.encode() if isinstance(text, str) else text
    return list(Recording("a file", io.BytesIO(raw), form).lines())


def the_problem(row: str) -> str:
    """What is said of a row of a CSV file with all columns."""
    (line,) = lines_of(f"{HEADER}\n{row}\n")
    assert line.reading is None
    return line.problem


def a_reading(timestamp: str = "2024-03-05T08:30:00Z") -> Telemetry:
    reading = Telemetry()
    reading.meter.meter_id = "m-1"
    reading.meter.timestamp.FromJsonString(timestamp)
    return reading


def a_recording(text: str, form: Format = Format.CSV) -> Recording:
    return Recording("a file", io.BytesIO(text.encode()), form)


def test_a_row_is_a_meters_or_a_vehicles_reading() -> None:
    meter, vehicle = lines_of(f"{HEADER}\n{GOOD}\n,ev-1,2024-03-05T08:30:00.5Z,,,0.45,61.5,-3,\n")
    assert (meter.number, vehicle.number) == (2, 3)
    assert meter.reading is not None
    assert (meter.reading.meter.meter_id, meter.reading.meter.kwh_consumed_ac) == ("m-1", 0.5)
    assert meter.reading.meter.voltage == 230.0
    assert vehicle.reading is not None
    taken = vehicle.reading.vehicle
    assert (taken.vehicle_id, taken.kwh_delivered_dc, taken.soc, taken.battery_temp) == ("ev-1", 0.45, 61.5, -3.0)
    assert taken.timestamp.nanos == 500_000_000


def test_an_empty_cell_is_absent_and_a_zero_is_not() -> None:
    absent, zero = lines_of(f"{HEADER}\nm-1,,,,,,,,\nm-1,,,0,,,,,\n")
    assert absent.reading is not None
    assert zero.reading is not None
    assert not absent.reading.meter.HasField("kwh_consumed_ac")
    assert not absent.reading.meter.HasField("timestamp")
    assert zero.reading.meter.HasField("kwh_consumed_ac")
    assert not zero.reading.meter.HasField("voltage")


def test_a_row_may_have_a_register_in_the_place_of_energy() -> None:
    meter, vehicle = lines_of(f"{HEADER}\nm-1,,2024-03-05T08:30:00Z,,230,,,,4021.931\n,ev-1,,,,,61.5,,0\n")
    assert meter.reading is not None
    assert vehicle.reading is not None
    assert meter.reading.meter.register_kwh == 4021.931
    assert not meter.reading.meter.HasField("kwh_consumed_ac")
    assert vehicle.reading.vehicle.HasField("register_kwh")
    assert not vehicle.reading.vehicle.HasField("kwh_delivered_dc")


def test_columns_may_come_in_any_order_and_be_fewer() -> None:
    (line,) = lines_of("kwhDeliveredDc,timestamp,vehicleId\n1.25,2024-03-05T08:30:00Z,ev-1\n")
    assert line.reading is not None
    assert line.reading.vehicle.kwh_delivered_dc == 1.25


def test_blank_lines_count_as_lines_and_a_byte_order_mark_does_not_matter() -> None:
    (line,) = lines_of(f"\ufeff{HEADER}\r\n\r\n  \r\n{GOOD}\r\n")
    assert line.number == 4
    assert line.reading is not None


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ("m-1,,2024-03-05T08:30:00Z,0.5,230,,,", "8 cells in a table of 9 columns"),
        (",,2024-03-05T08:30:00Z,0.5,,,,,", "either meterId or vehicleId"),
        ("m-1,ev-1,2024-03-05T08:30:00Z,0.5,,,,,", "either meterId or vehicleId"),
        ("m-1,,2024-03-05T08:30:00Z,0.5,,0.4,,,", "kwhDeliveredDc cannot belong to a reading of 'm-1'"),
        (",ev-1,2024-03-05T08:30:00Z,,230,0.4,,,", "voltage cannot belong to a reading of 'ev-1'"),
        ("m-1,,2024-03-05T08:30:00Z,half,,,,,", "kwhConsumedAc: 'half' is no number"),
        ("m-1,,2024-03-05T08:30:00Z,1_0,,,,,", "kwhConsumedAc: '1_0' is no number"),
        (
            "m-1,,2024-03-05T08:30:00,0.5,,,,,",
            "timestamp: '2024-03-05T08:30:00' has no offset from UTC: say --time-zone",
        ),
        ("m-1,,yesterday,0.5,,,,,", "timestamp: 'yesterday' is no time"),
        ('"m-1,,2024-03-05T08:30:00Z,0.5,,,,,', "not a line of CSV"),
    ],
)
def test_a_row_that_is_no_reading_says_why(row: str, said: str) -> None:
    assert said in the_problem(row)


def test_a_bad_line_costs_its_neighbours_nothing() -> None:
    lines = lines_of(f'{HEADER}\n{GOOD}\n"open quote\n{GOOD}\n'.encode() + b"\xff\xfe\n" + f"{GOOD}\n".encode())
    assert [(line.number, line.reading is not None) for line in lines] == [
        (2, True),
        (3, False),
        (4, True),
        (5, False),
        (6, True),
    ]


def test_an_endless_line_is_reported_and_passed_over() -> None:
    lines = lines_of(f"{HEADER}\n{'x' * 3 * LINE_MAX_BYTES}\n{GOOD}\n")
    assert [(line.number, line.reading is None) for line in lines] == [(2, True), (3, False)]
    assert f"longer than {LINE_MAX_BYTES:,} bytes" in lines[0].problem


@pytest.mark.parametrize(
    ("header", "said"),
    [
        (
            "meterId,timestamp,kw",
            "line 1.*: no kwhConsumedAc or kwhDeliveredDc or registerKwh among 'meterId', 'timestamp', 'kw': say --col",
        ),
        ("meterId,timestamp,kwh,meterId", "each of 'meterId', 'meterId' may be meterId"),
        ("meterId,kwhConsumedAc", ": no timestamp among "),
        ("timestamp,kwhConsumedAc", ": no meterId or vehicleId "),
    ],
)
def test_a_table_without_a_usable_header_is_refused_whole(header: str, said: str) -> None:
    with pytest.raises(BadInput, match=said):
        lines_of(f"{header}\n{GOOD}\n")


def test_json_lines_are_the_contracts_form() -> None:
    lines = lines_of((DATA / "mixed.ndjson").read_bytes(), Format.NDJSON)
    assert [line.number for line in lines] == [1, 2, 4, 5, 6]
    assert [line.number for line in lines if line.reading is None] == [4]
    assert lines[1].reading is not None
    assert lines[1].reading.vehicle.timestamp.nanos == 1_000


@pytest.mark.parametrize(
    "text", ['{"meter": {"meterID": "m"}}', '{"meter": {"voltage": "high"}}', "[" * 60_000, '"', "{"]
)
def test_a_line_that_is_no_reading_in_json_says_why(text: str) -> None:
    (line,) = lines_of(text, Format.NDJSON)
    assert line.reading is None
    assert line.problem
    assert "\n" not in line.problem


@given(st.binary(max_size=200), st.sampled_from([Format.CSV, Format.NDJSON]))
def test_no_bytes_whatsoever_break_the_reader(junk: bytes, form: Format) -> None:
    first = HEADER.encode() + b"\n" if form is Format.CSV else b""
    last = GOOD if form is Format.CSV else '{"meter": {"meterId": "m-1"}}'
    lines = lines_of(first + junk.replace(b"\r", b"") + b"\n" + last.encode(), form)
    assert lines[-1].reading is not None
    assert lines[-1].reading.meter.meter_id == "m-1"


@pytest.mark.parametrize(
    ("suffix", "beginning", "form"),
    [
        (".csv", b"{", Format.CSV),
        (".ndjson", b"meterId", Format.NDJSON),
        (".JSONL", b"", Format.NDJSON),
        ("", b'\n  {"meter"', Format.NDJSON),
        ("", b"\xef\xbb\xbf{", Format.NDJSON),
        ("", b"\xef\xbb\xbf [", Format.JSON),
        (".json", b"[", Format.JSON),
        (".json", b"{", Format.NDJSON),
        (".json", b'{"readings": [', Format.JSON),
        ("", "{".encode("utf-16"), Format.NDJSON),
        (".tsv", b"[", Format.CSV),
        (".txt", b"meterId,timestamp", Format.CSV),
    ],
)
def test_the_format_is_told_by_the_name_or_else_by_the_beginning(suffix: str, beginning: bytes, form: Format) -> None:
    assert format_of(suffix, beginning) is form


@given(st.integers(-62_135_596_800, 253_402_300_799), st.integers(0, 999_999_999), st.integers(-(10**17), 10**17))
def test_readings_move_by_exact_microseconds(seconds: int, nanos: int, by_us: int) -> None:
    reading = Telemetry()
    reading.meter.timestamp.CopyFrom(Timestamp(seconds=seconds, nanos=nanos))
    move(reading, by_us)
    moved = reading.meter.timestamp
    assert moved.seconds * 10**9 + moved.nanos == seconds * 10**9 + nanos + by_us * 1_000
    assert 0 <= moved.nanos < 10**9


def test_a_reading_without_a_time_stays_without_one() -> None:
    for reading in (Telemetry(), Telemetry(meter=MeterReading(meter_id="m-1"))):
        unmoved = Telemetry.FromString(reading.SerializeToString())
        move(reading, 1_000_000)
        assert reading == unmoved
        assert time_us(reading) is None


def test_a_survey_finds_the_oldest_and_the_newest_reading_in_any_order() -> None:
    times = ("08:31:00.000001Z", "08:30:00Z", "08:33:00+01:00", "08:30:30Z")
    recording = a_recording(HEADER + "\n" + "".join(f"m-1,,2024-03-05T{time},1,,,,,\n" for time in times) + "bad\n")
    recording.survey()
    assert recording.oldest_us == time_us(a_reading("2024-03-05T07:33:00Z"))
    assert recording.newest_us == time_us(a_reading("2024-03-05T08:31:00.000001Z"))
    assert len(list(recording.lines())) == 5, "it goes back to the beginning"


def test_each_reading_knows_its_line_and_bad_lines_are_told(capsys: pytest.CaptureFixture[str]) -> None:
    tally = replay.Tally()
    recording = a_recording(f"{HEADER}\n{GOOD}\nbad\n\n{GOOD}\n{GOOD}\n")
    ((request, numbers),) = replay._requests(recording, tally)
    assert (len(request.readings), list(numbers), tally.bad) == (3, [2, 5, 6], 1)
    assert capsys.readouterr().err == "a file:3: 1 cells in a table of 9 columns\n"


def test_long_recordings_go_out_in_requests(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(replay, "READINGS_PER_MESSAGE", 3)
    recording = a_recording(f"{HEADER}\n" + f"{GOOD}\n" * 7)
    numbers = [list(numbers) for _, numbers in replay._requests(recording, replay.Tally())]
    assert numbers == [[2, 3, 4], [5, 6, 7], [8]]


@pytest.mark.parametrize(
    ("text", "pair"),
    [
        ("ev-1=m-1", ("ev-1", "m-1")),
        ("=cmd()=m-1", ("=cmd()", "m-1")),
        ("ev-1=m-1=", ("ev-1", "m-1=")),
        ("ev-1= =m-1", None),
        (f"ev=1={'m' * 64}", ("ev=1", "m" * 64)),
        (f"ev=1={'m' * 62}", None),
        ("ev-1==m-1", None),
    ],
)
def test_a_pair_is_divided_where_nothing_else_leaves_an_id_on_each_side(
    text: str, pair: tuple[str, str] | None
) -> None:
    if pair is None:
        with pytest.raises(BadParameter):
            replay._pair(text)
    else:
        assert replay._pair(text) == pair


def test_what_is_refused_is_told_with_its_line_and_what_is_settled_forgotten(
    capsys: pytest.CaptureFixture[str],
) -> None:
    report = replay.Report("a file")
    report.expect(1, [2, 3])
    report.expect(2, [5, 8])
    summary = IngestionSummary(rejections=[RejectedReading(sequence=2, index=1, field="meter.voltage")])
    report.answered(ExchangeTelemetryResponse(committed_sequence=2, summary=summary))
    assert capsys.readouterr().err.startswith("a file:8: meter.voltage ")
    assert (report.told, report._numbers) == (1, {})


def test_a_conflict_shows_what_is_stored_to_the_last_digit(capsys: pytest.CaptureFixture[str]) -> None:
    report = replay.Report("a file")
    report.expect(1, [2])
    stored = Telemetry(meter=MeterReading(meter_id="m-1", register_kwh=1234567.8901, voltage=230, kwh_consumed_ac=0.1))
    summary = IngestionSummary(conflicts=[ConflictingReading(sequence=1, device_id="m-1", stored=stored)])
    report.answered(ExchangeTelemetryResponse(committed_sequence=1, summary=summary))
    assert capsys.readouterr().err == (
        "a file:2: m-1 has other values stored for this time, which stay:"
        " kwh_consumed_ac 0.1, voltage 230.0, register_kwh 1234567.8901\n"
    )
