"""Tables of ids to make certificates for."""

import pytest

from fleetcli.authority.refusals import CertificateRefused
from fleetcli.authority.subject_table import read_subjects
from fleetcli.authority.subjects import subject


def problems(content: bytes) -> list[str]:
    with pytest.raises(CertificateRefused) as raised:
        read_subjects(content, "ids.csv")
    return [*raised.value.problems]


def test_each_line_is_a_certificate() -> None:
    content = b'\xef\xbb\xbfMeter_ID,vehicle_id,name,role\r\nm-1,"v,1",,\r\n\r\n,bus-*,depot,gateway reader\r\n'
    assert read_subjects(content, "ids.csv") == [
        subject(["m-1"], ["v,1"], []),
        subject([], ["bus-*"], ["gateway", "reader"], "depot"),
    ]
    assert read_subjects(b"vehicle_id;meter_id\nv;m\n", "ids.csv") == [subject(["m"], ["v"], [])]


def test_every_bad_line_is_told_by_its_number_and_field() -> None:
    told = problems(b'meter_id,vehicle_id,role\nm,,\n m2,,\n,,\n\nm3,"v\n4",root\nm,,\nx,y\n')
    assert [each.split(": ")[:2] for each in told] == [
        ["ids.csv, line 3", "meter_id"],
        ["ids.csv, line 4", "meter_id"],
        ["ids.csv, line 6", "vehicle_id"],
        ["ids.csv, line 6", "role"],
        ["ids.csv, line 8", "name"],
        ["ids.csv, line 9", "2 cells"],
    ]
    assert "'m' is that of line 2" in told[4]
    assert all("expected" in each for each in told)


@pytest.mark.parametrize(
    ("content", "line", "why"),
    [
        (b"", 1, "no column of ids"),
        (b"meter,vehicle\nm,v\n", 1, "'meter' is no column"),
        (b"meter_id,meter_id\nm,v\n", 1, "a column twice"),
        (b"name\nx\n", 1, "no column of ids"),
        (b"meter_id\nm\n\xff\n", 3, "not UTF-8"),
        (b'meter_id\nm\n"x\n', 3, "not a line of CSV"),
    ],
)
def test_what_is_no_table_of_ids_is_refused_by_its_line(content: bytes, line: int, why: str) -> None:
    [told] = problems(content)
    assert told.startswith(f"ids.csv, line {line}: {why}")


def test_a_table_without_a_line_is_refused() -> None:
    assert problems(b"meter_id\n") == ["ids.csv: no line but the first: expected one for each certificate"]
