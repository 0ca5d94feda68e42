"""Numbers and times in files: exact, and refused where they could mean two things."""

from decimal import Decimal
from zoneinfo import ZoneInfo

import pytest

from fleetcli.commands.file_cells import Unit
from fleetcli.commands.file_columns import Dialect
from tests.recorded_files import AT, BERLIN, a_meters, lines_of, problems_of, readings_of


def of_numbers(*cells: str, delimiter: str = ";", dialect: Dialect | None = None) -> list[object]:
    """What is read of cells, each a meter's energy in a row of its own: a number, or the problem."""
    quoted = [f'"{cell}"' if delimiter in cell else cell for cell in cells]
    file = "\n".join(
        delimiter.join(row) for row in [("meterId", "timestamp", "kwh"), *(("m-1", AT, c) for c in quoted)]
    )
    return [line.reading.meter.kwh_consumed_ac if line.reading else line.problem for line in lines_of(file, dialect)]


@pytest.mark.parametrize(
    ("wh", "kwh"),
    [
        ("905", 0.905),
        ("0", 0.0),
        ("1e3", 1.0),
        ("-19", -0.019),
        ("0.1", 0.0001),
        ("123456789.123456789", 123456.789123456789),
        ("1.1E+2", 0.11),
    ],
)
def test_wh_are_shifted_in_decimal(wh: str, kwh: float) -> None:
    assert of_numbers(wh, dialect=Dialect(unit=Unit.WH)) == [kwh]


def test_wh_that_binary_division_would_bend_are_exact() -> None:
    """Every whole number of Wh up to a day of 11 kW, in kWh to the last bit."""
    cells = [str(wh) for wh in range(0, 264_000, 7)]
    read = of_numbers(*cells, dialect=Dialect(unit=Unit.WH))
    assert read == [float(Decimal(cell) / 1_000) for cell in cells]


def test_what_is_no_number_in_kwh_is_none_in_wh() -> None:
    infinite, *said = of_numbers("inf", "1e99999", "12 Wh", dialect=Dialect(unit=Unit.WH))
    assert infinite == float("inf")
    assert said == ["energy: '1e99999' is no number", "energy: '12 Wh' is no number"]


@pytest.mark.parametrize(
    "cell", ["1.234,5", "1,234.5", "1.234.567", "1 234,5", "1'234.5", "1,234,567.25", "1\u202f234"]
)
@pytest.mark.parametrize("delimiter", ";,")
def test_thousands_separators_are_refused(cell: str, delimiter: str) -> None:
    (said,) = of_numbers(cell, delimiter=delimiter)
    assert said == f"energy: {cell!r} is no number: thousands separators are not read"


def test_a_file_has_one_decimal_sign() -> None:
    first, second, third = of_numbers("0,85", "1.234", "7")
    assert (first, third) == (0.85, 7.0)
    assert str(second).startswith("energy: '1.234' in a file whose decimal sign is ','")
    assert of_numbers("0.85", "1,234")[0] == 0.85
    assert "say --decimal" in str(of_numbers("0.85", "1,234")[1])
    assert of_numbers("1,234", dialect=Dialect(decimal=",")) == [1.234]


def test_a_quoted_comma_that_may_group_thousands_is_refused_until_it_is_said() -> None:
    (said,) = of_numbers("1,234", delimiter=",")
    assert "'1,234' may have three decimals or be in thousands: say --decimal , if it has decimals" in str(said)
    for unmistakable, number in (("1,85", 1.85), ("0,905", 0.905), ("1234,567", 1234.567)):
        assert of_numbers(unmistakable, "1,234", delimiter=",") == [number, 1.234]
    assert of_numbers("1,234", delimiter=",", dialect=Dialect(decimal=",")) == [1.234]
    assert "--decimal" in str(of_numbers("1,234", delimiter=",", dialect=Dialect(decimal="."))[0])


def test_wh_that_may_be_in_thousands_are_refused_until_it_is_said() -> None:
    """A German spreadsheet of whole Wh writes 1160 as 1.160, and no comma would ever tell."""
    (said,) = of_numbers("1.160", dialect=Dialect(unit=Unit.WH))
    assert "'1.160' may have three decimals or be in thousands: say --decimal ." in str(said)
    assert of_numbers("1.160") == [1.16], "three decimals of kWh are what a meter shows"
    assert of_numbers("905,5", "1,160", dialect=Dialect(unit=Unit.WH)) == [0.9055, 0.00116]
    assert of_numbers("1.160", dialect=Dialect(unit=Unit.WH, decimal=".")) == [0.00116]


def test_a_register_that_may_be_in_thousands_is_refused_until_it_is_said() -> None:
    """4.021 is a new meter's register or an old one's in whole kWh, and no comma would ever tell."""
    header = "meterId;timestamp;register;voltage"
    ((_, said),) = problems_of(f"{header}\nm-1;{AT};4.021;\n")
    assert said.startswith("registerKwh: '4.021' may have three decimals or be in thousands: say --decimal . if it has")
    expected = [a_meters(None, register_kwh=4.021)]
    assert readings_of(f"{header}\nm-1;{AT};4.021;\n", Dialect(decimal=".")) == expected
    *_, after = readings_of(f"{header}\nm-1;{AT};4020.5;\nm-1;{AT};4.021;\n")
    assert [after] == expected, "the file's first number has told the sign"
    assert readings_of(f'{{"meterId": "m-1", "timestamp": "{AT}", "register": 4.021}}') == expected


def test_values_that_are_not_there_are_written_in_many_ways() -> None:
    header = "meterId,vehicleId,timestamp,energy,voltage"
    file = "\n".join([header, *(f"m-1,{none},{AT},1,{none}" for none in ("", "NULL", "null", "N/A", "\\N"))])
    assert readings_of(file) == [a_meters(1.0)] * 5


def of_times(*cells: str, zone: str | None = None, header: str = "timestamp") -> list[str]:
    """What is read of cells, each a reading's time: the instant, or the problem."""
    file = "\n".join([f"meterId;{header};kwh", *(f"m-1;{cell};1" for cell in cells)])
    lines = lines_of(file, Dialect(zone=ZoneInfo(zone) if zone else None))
    return [line.reading.meter.timestamp.ToJsonString() if line.reading else line.problem for line in lines]


@pytest.mark.parametrize(
    ("cell", "instant"),
    [
        ("2024-03-05T08:30:00.071986716Z", "2024-03-05T08:30:00.071986716Z"),
        ("2024-03-05 08:30:00+01:00", "2024-03-05T07:30:00Z"),
        ("2024-03-05T08:30:00-0330", "2024-03-05T12:00:00Z"),
        ("2024-03-05 08:30:00 +01", "2024-03-05T07:30:00Z"),
        ("2024-03-05t08:30:00z", "2024-03-05T08:30:00Z"),
        ("2024-03-05 08:30 UTC", "2024-03-05T08:30:00Z"),
        ("5.3.2024 8:30 UTC", "2024-03-05T08:30:00Z"),
        ("2024-02-29 24:00:00Z", "2024-03-01T00:00:00Z"),
        ("1709627400", AT),
        ("1709627400.5", "2024-03-05T08:30:00.500Z"),
        ("1709627400123", "2024-03-05T08:30:00.123Z"),
        ("1709627400123456", "2024-03-05T08:30:00.123456Z"),
        ("1709627400123456789", "2024-03-05T08:30:00.123456789Z"),
    ],
)
def test_times_that_say_their_offset_or_are_unix_times_are_instants(cell: str, instant: str) -> None:
    assert of_times(cell) == [instant]
    assert of_times(cell, zone="Asia/Tokyo") == [instant], "a zone is for times that say nothing"


@pytest.mark.parametrize(
    "cell",
    [
        "03/05/2024 08:30",  # March or May?
        "2024-03-05",
        "08:30",
        "45356.354",  # a spreadsheet's day
        "2024030508",  # ten digits, but a date
        "20240305083000",
        "170962740012",
        "1.7096274E+09",
        "-1709627400",
        "2024-03-05T08:30:00.1234567891Z",
        "2024-03-05T08:30:00+24:00",
        "2024-03/05 08:30Z",
    ],
)
def test_what_is_no_time_without_guessing_is_refused(cell: str) -> None:
    assert of_times(cell, zone="Europe/Berlin") == [f"timestamp: {cell!r} is no time such as 2026-02-09T10:00:00Z"]


@pytest.mark.parametrize(
    "cell",
    [
        "2023-02-29 08:30Z",
        "2024-13-01 08:30Z",
        "31.4.2024 08:30",
        "2024-03-05 24:00:01Z",
        "2024-03-05 08:60Z",
        "9999-12-31 24:00Z",
    ],
)
def test_what_no_calendar_and_no_clock_shows_is_refused(cell: str) -> None:
    assert of_times(cell, zone="UTC") == [f"timestamp: {cell!r} is not in the calendar or on the clock"]


def test_the_day_may_have_a_column_of_its_own() -> None:
    expected = [a_meters(1.0, "2024-03-05T08:30:00Z"), a_meters(1.0, "2024-03-06T00:00:00Z")]
    file = "meter;Date;Time;kWh\nm-1;05.03.2024;09:30;1\nm-1;2024-03-06;01:00:00;1\n"
    assert readings_of(file, Dialect(zone=BERLIN)) == expected
    file = file.replace("Date;Time", "Datum;Zeit")
    assert readings_of(file, Dialect(zone=BERLIN, columns={"date": "Datum", "timestamp": "Zeit"})) == expected
    assert readings_of(f"meter,date,kwh\nm-1,{AT},1\n") == [a_meters(1.0)]
    assert readings_of(f"meter,date,time,kwh\nm-1,1999-01-01,{AT},1\n") == [a_meters(1.0)]
    assert problems_of("meter,date,time,kwh\nm-1,,08:30Z,1\n") == [
        (2, "timestamp: '08:30Z' is no time such as 2026-02-09T10:00:00Z")
    ]


def test_times_without_an_offset_need_a_zone() -> None:
    (said,) = of_times("2024-03-05 08:30:00")
    assert said == (
        "timestamp: '2024-03-05 08:30:00' has no offset from UTC: say --time-zone, as in --time-zone Europe/Berlin"
    )
    assert of_times("2024-03-05 08:30:00", "2024-07-05 08:30:00", zone="Europe/Berlin") == [
        "2024-03-05T07:30:00Z",
        "2024-07-05T06:30:00Z",
    ]
    assert of_times("2024-03-05 08:30:00", zone="Asia/Kolkata") == ["2024-03-05T03:00:00Z"]
    assert of_times("2024-03-05 08:30:00", header="utc_timestamp") == [AT]
    assert of_times("2024-03-05 08:30:00", header="Time (UTC)", zone="Europe/Berlin") == ["2024-03-05T07:30:00Z"]


def test_the_hour_that_a_clock_change_leaves_out_is_refused_line_by_line() -> None:
    before, within, last, after = of_times(
        "2024-03-31 01:59:59", "2024-03-31 02:00", "2024-03-31 02:59:59", "2024-03-31 03:00", zone="Europe/Berlin"
    )
    assert (before, after) == ("2024-03-31T00:59:59Z", "2024-03-31T01:00:00Z")
    assert within == (
        "timestamp: '2024-03-31 02:00' was never on the clocks of Europe/Berlin: they were set forward over it"
    )
    assert "'2024-03-31 02:59:59' was never" in last


def test_the_hour_that_a_clock_change_repeats_is_refused_line_by_line() -> None:
    before, within, last, after = of_times(
        "2024-10-27 01:59:59", "2024-10-27 02:00", "2024-10-27 02:59:59", "2024-10-27 03:00", zone="Europe/Berlin"
    )
    assert (before, after) == ("2024-10-26T23:59:59Z", "2024-10-27T02:00:00Z")
    assert "'2024-10-27 02:00' was on the clocks of Europe/Berlin twice" in within
    assert "write it with its offset" in last
    assert of_times("2024-10-27 02:30+02:00", "2024-10-27 02:30+01:00", zone="Europe/Berlin") == [
        "2024-10-27T00:30:00Z",
        "2024-10-27T01:30:00Z",
    ]
