"""The history of the benchmarks is stored as ingestion would have stored it."""

import asyncio

import psycopg
import pytest

from benchmarks.history import FULL_PRECISION, WATT_HOURS, Stored, Values, add_devices, extend, full_hour, store_days
from benchmarks.sealing import days_ago, seal_days
from shared.timestamps import US_PER_HOUR, system_clock
from tests.verified import differences


@pytest.mark.one_server
async def test_rollups_and_status_are_what_history_says_also_after_days_were_added(database_url: str) -> None:
    stored = Stored(pairs=3, interval_us=US_PER_HOUR // 4, end_us=full_hour(system_clock()))
    for days in (1, 3):
        stored = extend(database_url, stored, days)
        assert stored.rows == 2 * 3 * days * 96
        assert await differences(database_url) == []


@pytest.mark.one_server
@pytest.mark.parametrize(("values", "resolved"), [(WATT_HOURS, True), (FULL_PRECISION, False)], ids=["Wh", "full"])
def test_whole_days_have_each_reading_in_its_day_and_their_rollups(
    values: Values, resolved: bool, database_url: str
) -> None:
    add_devices(database_url, 3, system_clock())
    store_days(database_url, days_ago(4, 3), US_PER_HOUR // 4, values, seed=7)

    with psycopg.connect(database_url, autocommit=True) as owner:
        is_wh = "kwh_consumed_ac::text ~ '^[0-9][.]?[0-9]{0,3}$'"
        counted = f"SELECT count(*), count(*) FILTER (WHERE {is_wh}) FROM meter_readings"
        [(stored, of_watt_hours)] = owner.execute(counted).fetchall()
        days = owner.execute("SELECT DISTINCT day FROM vehicle_readings ORDER BY day").fetchall()
    assert stored == 2 * 3 * 96
    assert (of_watt_hours == stored) is resolved
    assert [day for (day,) in days] == days_ago(4, 3)
    assert {each.table for each in asyncio.run(differences(database_url))} <= {
        "meter_current_status",
        "vehicle_current_status",
    }
    assert seal_days(database_url, 2).readings == 2 * 2 * 3 * 96
