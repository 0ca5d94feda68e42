"""Hours of a fleet in memory: tables of them against a plain-Python model, and a bound on what is kept."""

import struct
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from analytics_svc import hour_cache
from analytics_svc.charging import NO_READING
from analytics_svc.hour_cache import DeviceTable, Hour, HourCache
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


@given(
    st.sets(st.integers(1, 9)),
    st.lists(st.tuples(reported, st.integers(0, US_PER_HOUR - 1)), min_size=1, max_size=64),
    st.booleans(),
)
def test_a_table_has_what_each_of_the_devices_asked_about_reported_hour_by_hour(
    keys: set[int], told: list[tuple[Reported, int]], of_vehicles: bool
) -> None:
    """Each hour's last readings came some time before its end, and what was measured in the first one is left out."""
    ours = sorted(keys)
    table = DeviceTable(np.array(ours, dtype=np.int32), len(told), ["battery_temp"] if of_vehicles else [])
    for number, (each, before_end_us) in enumerate(told):
        last_us = [US_PER_HOUR - before_end_us] * len(each)
        table.put(number, hour(each, of_vehicles=of_vehicles, last_us=last_us), START_US + number * US_PER_HOUR)
    table.carry_on()
    for place, key in enumerate(ours):
        last_us_so_far = NO_READING
        for number, (each, before_end_us) in enumerate(told):
            kwh, readings, _, _, returned = each.get(key, (0.0, 0, 0.0, 0, 0.0))
            assert table.side.kwh[number, place] == kwh + returned, "whatever flowed back is not taken off"
            assert table.side.kwh_returned[number, place] == returned
            assert table.side.readings[number, place] == readings
            if key in each:
                last_us_so_far = START_US + number * US_PER_HOUR - before_end_us
            assert table.side.last_us[number, place] == last_us_so_far
        assert len(table.averages) == of_vehicles
        inside = [each[key] for each, _ in told[1:] if key in each]
        for temps, temp_readings in table.averages:
            assert temps[place] == sum(each[2] for each in inside)
            assert temp_readings[place] == sum(each[3] for each in inside)


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
