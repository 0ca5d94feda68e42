"""Limits of power by device: what the file says, and whom each of its lines is about."""

from pathlib import Path

import pytest

from shared.config import ConfigError, IngestionSettings
from shared.power_limits import PowerLimits


def read(tmp_path: Path, text: str | bytes) -> PowerLimits:
    file = tmp_path / "limits"
    file.write_bytes(text.encode() if isinstance(text, str) else text)
    return IngestionSettings(power_max_kw=500, power_min_interval_s=900, power_limits_file=file).power_limits


def test_the_id_counts_before_the_longest_beginning_and_that_before_the_limit_of_all(tmp_path: Path) -> None:
    limits = read(
        tmp_path,
        "# wall boxes\n\nmeter 22 home-*\nmeter 11.5 home-west-*\nmeter 3.7  home-west-1 a\nvehicle 250 *\n"
        "meter 150 DE*ABC*E1\n",
    )
    of_meter = {
        device_id: limits.max_kw_of("meter", device_id)
        for device_id in ("home-west-1 a", "home-west-1", "home-east", "home-", "home", "DE*ABC*E1", "DE*ABC*E12")
    }
    assert of_meter == {
        "home-west-1 a": 3.7,
        "home-west-1": 11.5,
        "home-east": 22,
        "home-": 22,
        "home": 500,
        "DE*ABC*E1": 150,
        "DE*ABC*E12": 500,
    }
    assert limits.max_kw_of("vehicle", "home-east") == 250


def test_an_id_has_inner_spaces_and_hashes(tmp_path: Path) -> None:
    limits = read(tmp_path, "meter 22 wall box#1\nmeter 11 #2\nmeter 7 depot *\nmeter 3 #*\n")
    ids = ("wall box#1", "#2", "depot #5", "# 5", "wall box#2")
    assert [limits.max_kw_of("meter", device_id) for device_id in ids] == [22, 11, 7, 3, 500]


def test_a_comment_may_be_long_and_in_any_language(tmp_path: Path) -> None:
    limits = read(tmp_path, f"\ufeff# Säulen am Busbahnhof, {'ü' * 2_500}\r\n  # 充電\nmeter 22 a\n#{'-' * 2_001}")
    assert limits.by_id == {("meter", "a"): 22}


def test_a_line_as_long_as_lines_may_be_is_one(tmp_path: Path) -> None:
    long = f"meter 22{' ' * 991}a"
    assert read(tmp_path, f"{long}\n{long}").by_id == {("meter", "a"): 22}
    with pytest.raises(ConfigError, match="line 2: expected"):
        read(tmp_path, f"{long}\nmeter")
    with pytest.raises(ConfigError, match="line 2: a line has up to"):
        read(tmp_path, f"{long}\n {long}")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("meter 22 a\nmeter 22", "line 2: expected meter or vehicle, kW, and an id"),
        ("charger 22 a", "line 1: expected meter or vehicle"),
        ("meter many a", "line 1: 'many' is no power in kW greater than 0"),
        ("meter 0 a", "line 1: '0' is no power"),
        ("meter inf a", "line 1: 'inf' is no power"),
        ("meter nan a", "line 1: 'nan' is no power"),
        ("meter 1e7 a", "line 1: '1e7' is no power in kW greater than 0 and up to 1,000,000"),
        ("meter 22 a\nmeter 22 a\nvehicle 11 a\nmeter 11 a", "line 4: meter a has another limit already"),
        (f"meter 22 {'a' * 65}", "line 1: an id has up to 64 characters"),
        (f"# {'a' * 2_000}\nmeter 22 {'a' * 2_000}", "line 2: a line has up to 1,000 characters"),
        (f"meter 22 a{' ' * 1_000}\n", "line 1: a line has up to 1,000 characters"),
        (f"#{'-' * 999}\n{'#' * 5_000}\nmeter 22", "line 3: expected meter or vehicle"),
        ("\n" * 100_001, "line 100001: there are at most 100,000 lines"),
        ("#\nmeter 22 a # wall box", "line 2: ' #' begins a comment, which needs a line of its own"),
        ("meter 22 a # Säule", "line 1: ' #' begins a comment"),
        ("meter 22 a\t#1", "line 1: ' #' begins a comment"),
        ("meter 22 # wall box", "line 1: ' #' begins a comment"),
        ("meter 22 #", "line 1: ' #' begins a comment"),
        ("meter 22 home-* # wall boxes*", "line 1: ' #' begins a comment"),
        ("meter 22 a\tb", "line 1: 'a\\tb' is no id: 1 to 64 characters of printable ASCII"),
        ("# ü\nmeter 22 säule", "line 2: 'ä' is not ASCII: only comments may have it"),
        ("meter \uff12\uff12 a", "line 1: '\uff12' is not ASCII"),
        ("meter\xa022 a", "line 1: '\\xa0' is not ASCII"),
        ("\n充電 22 a", "line 2: '充' is not ASCII"),
        ("meter 22 a\n\ufeffmeter 22 b", "line 2: '\\ufeff' is not ASCII"),
        (b"meter 22 a\nmeter 22 s\xe4ule", "line 2: not UTF-8 text"),
        (b"#\n# S\xe4ule\n", "line 2: not UTF-8 text"),
        (b"#" * 3_000 + b"\xe4\n", "line 1: not UTF-8 text"),
        ("meter 22 a\n".encode("utf-16"), "line 1: not UTF-8 text"),
    ],
)
def test_a_line_that_is_no_limit_is_named(tmp_path: Path, text: str | bytes, said: str) -> None:
    with pytest.raises(ConfigError) as raised:
        read(tmp_path, text)
    assert str(raised.value).startswith(f"ENERGYFLEET_POWER_LIMITS_FILE: {tmp_path}")
    assert said in str(raised.value)


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="No such file"):
        IngestionSettings(power_limits_file=tmp_path / "limits").power_limits  # noqa: B018 (reads the file)
