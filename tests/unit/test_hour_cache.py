"""Hours of a fleet in memory: sums against a plain-Python model, and a bound on what is kept."""

import struct
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from analytics_svc import hour_cache
from analytics_svc.hour_cache import Hour, HourCache, Sums
from shared.timestamps import US_PER_HOUR

Reported = dict[int, tuple[float, int, float, int, float]]
"""By key: energy, readings, of vehicles the sum of temperatures and how many there were, and what flowed back."""

START_US = 9 * US_PER_HOUR
"""The hour's, since 2000 as PostgreSQL counts."""

reported = st.dictionaries(
    st.integers(1, 9),
    st.tuples(
        st.integers(0, 2_000).map(lambda wh: wh / 8),
        st.integers(1, 2**31 - 1),
        st.integers(-400, 400).map(lambda tenths: tenths / 8),
        st.integers(0, 60),
        st.sampled_from([0.0, 0.0, 0.125, 7.5]),
    ),
)


def packed(form: str, numbers: list[float] | list[int]) -> bytes:
    return struct.pack(f">{len(numbers)}{form}", *numbers)


def hour(told: Reported, version: str = "", *, of_vehicles: bool = True, last_us: Sequence[int] = ()) -> Hour:
    """As the database tells it: column by column, in no order. `last_us` are the last readings', from its start on."""
    values = list(told.values())
    kwh, readings, temps, temp_readings = (
        packed(form, [each[column] for each in values]) for column, form in enumerate("didi")
    )
    returned = {key: each[4] for key, each in told.items() if each[4]}
    returned_columns = packed("i", list(returned)), packed("d", list(returned.values()))
    averages = (temps, temp_readings) if of_vehicles else ()
    last_ts = packed("q", [START_US + since_us for since_us in last_us or [1] * len(told)])
    return Hour.of((None, version, packed("i", list(told)), kwh, readings, last_ts, *returned_columns, *averages))


@given(st.sets(st.integers(1, 9)), st.lists(reported, max_size=64), st.booleans())
def test_sums_are_those_of_the_devices_asked_about_hour_by_hour(
    keys: set[int], told: list[Reported], of_vehicles: bool
) -> None:
    ours = sorted(keys)
    sums = Sums(np.array(ours, dtype=np.int32), ["battery_temp"] if of_vehicles else [])
    sums.add([hour(each, of_vehicles=of_vehicles) for each in told])
    for place, key in enumerate(ours):
        its = [each.get(key) for each in told]
        present = [each for each in its if each is not None]
        assert sums.kwh[place] == sum(each[0] for each in present)
        assert sums.readings[place] == sum(each[1] for each in present)
        assert sums.kwh_returned[place] == sum(each[4] for each in present)
        for temps, temp_readings in sums.averages:
            assert temps[place] == sum(each[2] for each in present)
            assert temp_readings[place] == sum(each[3] for each in present)
        assert int(sums.hours[place]) == int("0" + "".join("01"[each is not None] for each in its), 2)


def test_an_hour_tells_how_long_before_its_end_each_device_reported_last() -> None:
    told = dict.fromkeys((7, 3, 5), (1.0, 1, 20.0, 1, 0.0))
    found = hour(told, last_us=[1, US_PER_HOUR, US_PER_HOUR - 1])
    assert dict(zip(found.keys.tolist(), found.until_end_us.tolist(), strict=True)) == {3: 0, 5: 1, 7: US_PER_HOUR - 1}


def test_what_was_asked_for_last_is_kept_and_no_more_than_fits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hour_cache, "ROWS_MAX", 6)
    kept = HourCache()
    two, three = (dict.fromkeys(range(count), (1.0, 1, 20.0, 1, 0.0)) for count in (2, 3))
    kept.keep({at: hour(two, "first") for at in (1, 2, 3)})
    kept.keep({1: hour(two, "second")})
    assert {at: each.version for at, each in kept.of(range(5)).items()} == {1: "second", 2: "first", 3: "first"}
    kept.keep({4: hour(three)})  # 2 and 3 were asked for before 1
    assert kept.of(range(5)).keys() == {1, 4}
    kept.keep({5: hour({})})
    assert kept.of(range(6)).keys() == {1, 4, 5}
    kept.keep({6: hour(dict.fromkeys(range(7), (1.0, 1, 20.0, 1, 0.0)))})
    assert kept.of(range(7)) == {}
