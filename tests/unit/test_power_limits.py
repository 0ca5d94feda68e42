"""Limits of power by device: what the file says, and whom each of its lines is about."""

from pathlib import Path

import pytest

from shared.config import ConfigError, IngestionSettings
from shared.power_limits import PowerLimits


def read(tmp_path: Path, text: str) -> PowerLimits:
    file = tmp_path / "limits"
    file.write_text(text)
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
        (f"meter 22 {'a' * 2_000}", "line 1: an id has up to 64 characters"),
        ("\n" * 100_001, "line 100001: there are at most 100,000 lines"),
        ("meter 22 ü", "is not ASCII text, as ids are"),
    ],
)
def test_a_line_that_is_no_limit_is_named(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(ConfigError) as raised:
        read(tmp_path, text)
    assert str(raised.value).startswith(f"ENERGYFLEET_POWER_LIMITS_FILE: {tmp_path}")
    assert said in str(raised.value)


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="No such file"):
        IngestionSettings(power_limits_file=tmp_path / "limits").power_limits  # noqa: B018 (reads the file)
