"""Sealing beside writers, ended in the middle, twice at once, on a full disk, and with a wrong clock: nothing is lost,
nothing is there twice."""

import asyncio
import os
import random
import signal
import sys
from collections import defaultdict
from datetime import timedelta
from typing import Any

import psycopg
import pytest
from psycopg import AsyncConnection

from ingestion_svc.readings import MeterRow, Written
from ingestion_svc.writer import Writer
from ingestion_svc.writer_sql import METERS
from shared.db.device_kind import METER
from shared.db.embedded import EmbeddedServer
from shared.db.engine import connection_parameters
from shared.db.sealing import UNSEAL, seal
from shared.timestamps import US_PER_DAY, US_PER_MINUTE, datetime_from_us, system_clock
from tests.builders import NOW_US
from tests.integration.test_writer_appending import check
from tests.model import Values
from tests.sealed import seal_all
from tests.verified import differences

MIDNIGHT_US = NOW_US // US_PER_DAY * US_PER_DAY
DEVICES = 12
SEALER = """
import asyncio, os, sys
from ingestion_svc.failpoints import fail_points_from
from psycopg import AsyncConnection
from shared.db.engine import connection_parameters
from shared.db.sealing import seal
from shared.timestamps import system_clock

async def main():
    parameters = connection_parameters(sys.argv[1], "test")
    async with await AsyncConnection.connect(**parameters, autocommit=True) as connection:
        await seal(connection, system_clock(), 2, fail_points_from(os.environ), chunk_readings=40, drop_after_s=0)

asyncio.run(main())
"""


@pytest.fixture
def url(postgres: EmbeddedServer, database: str) -> str:
    return postgres.url(database, role="energyfleet_ingestion")


def a_writer(url: str) -> Writer[MeterRow]:
    return Writer(METERS, connection_parameters(url, "test"), 30, lambda place: None)


def some_days(seed: int) -> list[MeterRow]:
    """Of each device a reading every hour or so of three days, in quarters of a kWh."""
    numbers = random.Random(seed)
    return [
        MeterRow(f"m{device}-f", MIDNIGHT_US + minute * US_PER_MINUTE + device, numbers.randrange(1, 8) / 4, 230.0)
        for device in range(DEVICES)
        for minute in range(0, 3 * 1_440, 60)
    ]


def model_of(rows: list[MeterRow]) -> dict[str, dict[int, Values]]:
    model: dict[str, dict[int, Values]] = defaultdict(dict)
    for device_id, ts_us, *values in rows:
        model[device_id][ts_us] = tuple(values)
    return model


def check_stored(database_url: str, rows: list[MeterRow]) -> None:
    with psycopg.connect(database_url) as connection:
        check(connection, model_of(rows), "-f", METER)
        both = (
            "SELECT count(*) FROM meter_sealed_days JOIN meter_telemetry_history ON meter_key = device_key"
            " AND ts >= day::timestamp AT TIME ZONE 'UTC' AND ts < (day + 1)::timestamp AT TIME ZONE 'UTC'"
        )
        assert connection.execute(both).fetchone() == (0,)


async def test_readings_of_days_that_are_being_sealed_are_stored_once(url: str, database_url: str) -> None:
    """From two writers, in other orders, while one session seals all the time."""
    rows = some_days(1)
    writers, done = [a_writer(url) for _ in range(2)], asyncio.Event()

    async def write(number: int) -> None:
        mine = list(rows)
        random.Random(number).shuffle(mine)
        for start in range(0, len(mine), 37):
            await writers[number].write(mine[start : start + 37])

    async def seal_on() -> int:
        days = 0
        while not done.is_set():
            days += (await seal_all(url, 50)).days
        return days

    sealing = asyncio.create_task(seal_on())
    await asyncio.gather(write(0), write(1))
    done.set()
    assert await sealing > 0
    for writer in writers:
        await writer.close()
    check_stored(database_url, rows)
    assert await differences(database_url) == []
    await seal_all(url)
    check_stored(database_url, rows)
    assert await differences(database_url) == []


@pytest.mark.one_server
@pytest.mark.parametrize("place", ["sealing_begun:2", "chunk_sealed:3", "chunk_sealed:12", "sealed_day_dropped:1"])
async def test_sealing_that_is_killed_goes_on_where_it_was(url: str, database_url: str, place: str) -> None:
    rows = some_days(2)
    writer = a_writer(url)
    await writer.write(rows)
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", SEALER, url, env=os.environ | {"ENERGYFLEET_FAIL_POINTS": place}
    )
    assert await process.wait() == -signal.SIGKILL
    check_stored(database_url, rows)
    late = [MeterRow("m0-f", MIDNIGHT_US + 90 * US_PER_MINUTE, 0.25, None)]
    assert await writer.write([*late, *rows[:100]]) == Written(duplicates=list(range(1, 101)))
    await writer.close()
    check_stored(database_url, rows + late)
    await seal_all(url)
    check_stored(database_url, rows + late)
    assert await differences(database_url) == []
    with psycopg.connect(database_url) as connection:
        assert connection.execute("SELECT count(*) FROM meter_telemetry_history").fetchone() == (0,)


@pytest.mark.one_server
async def test_of_two_that_seal_at_once_one_does_and_the_other_leaves_it_to_him(url: str, database_url: str) -> None:
    rows = some_days(3)
    writer = a_writer(url)
    await writer.write(rows)
    await writer.close()
    one, other = await asyncio.gather(seal_all(url, 30), seal_all(url, 30))
    assert {one.days, other.days} == {0, 3 * DEVICES}
    check_stored(database_url, rows)


@pytest.mark.one_server
async def test_where_the_disk_is_full_nothing_is_sealed_or_lost_and_it_goes_on_when_there_is_room(
    url: str, database_url: str
) -> None:
    rows = some_days(4)
    writer = a_writer(url)
    await writer.write(rows)
    await writer.close()
    with psycopg.connect(database_url, autocommit=True) as owner:
        owner.execute(
            "CREATE FUNCTION disk_full() RETURNS trigger LANGUAGE plpgsql AS"
            " $$BEGIN RAISE 'could not extend file' USING ERRCODE = '53100'; END$$"
        )
        owner.execute(
            "CREATE TRIGGER disk_full BEFORE INSERT ON meter_sealed_days FOR EACH ROW"
            " WHEN (NEW.device_key > 5) EXECUTE FUNCTION disk_full()"
        )
        assert (await seal_all(url, 30)).disk_full
        check_stored(database_url, rows)
        assert owner.execute("SELECT count(*) FROM meter_sealed_days").fetchone() == (4,)  # whole chunks
        owner.execute("DROP TRIGGER disk_full ON meter_sealed_days")
    assert (await seal_all(url)).days == 3 * DEVICES - 4
    check_stored(database_url, rows)


@pytest.mark.one_server
async def test_a_clock_that_is_set_back_or_ahead_neither_opens_nor_seals_too_early(url: str, database_url: str) -> None:
    def sealed_before() -> Any:
        with psycopg.connect(database_url) as connection:
            row = connection.execute("SELECT sealed_before FROM retention").fetchone()
            assert row is not None
            return row[0]

    now_us, day = system_clock(), datetime_from_us(system_clock()).date()
    async with await AsyncConnection.connect(**connection_parameters(url, "test"), autocommit=True) as ours:
        for clock_us, days, before in (
            (now_us - 7 * US_PER_DAY, 2, day - timedelta(days=9)),
            (now_us + 300 * US_PER_DAY, 2, day - timedelta(days=2)),
            (now_us - US_PER_DAY, 2, day - timedelta(days=2)),
            (now_us, 5, day - timedelta(days=2)),
            (now_us + 300 * US_PER_DAY, 1, day - timedelta(days=2)),
        ):
            await seal(ours, clock_us, days)
            assert sealed_before() == before


@pytest.mark.one_server
@pytest.mark.parametrize("count", [1, 86_400])
async def test_a_device_with_one_reading_a_day_and_one_with_one_each_second_are_sealed(
    url: str, database_url: str, count: int
) -> None:
    rows = [MeterRow("m0-f", MIDNIGHT_US + (at + 1) * 1_000_000, 0.25, None) for at in range(count)]
    writer = a_writer(url)
    for start in range(0, count, 20_000):
        await writer.write(rows[start : start + 20_000])
    done = await seal_all(url)
    assert (done.days, done.readings) == (1 + (count > 1), count)
    with psycopg.connect(database_url) as connection:
        sums = "SELECT count(DISTINCT ts), sum(kwh_consumed_ac), max(ts) FROM meter_readings"
        assert connection.execute(sums).fetchone() == (count, count / 4, datetime_from_us(rows[-1].ts_us))
    assert (await writer.write(rows[-1:])).duplicates == [0]
    await writer.close()


async def test_the_hour_before_midnight_is_added_up_with_the_reading_that_is_stamped_midnight(
    url: str, database_url: str
) -> None:
    """It belongs to the day that begins, which is sealed; what comes late changes what counts in the hour before."""

    def register(minute: int, kwh: float) -> MeterRow:
        return MeterRow("m0-f", MIDNIGHT_US + (1_440 + minute) * US_PER_MINUTE, None, None, kwh)

    rows = [register(-60, 10.0), register(-30, 20.0), register(0, 30.0), register(60, 40.0)]
    writer = a_writer(url)
    await writer.write(rows)
    await seal_all(url)
    late = register(-50, 15.0)
    await writer.write([late])
    check_stored(database_url, [*rows, late])
    await writer.close()
    assert await differences(database_url) == []


async def test_whoever_does_not_look_for_sealed_readings_stores_none_beside_them(url: str, database_url: str) -> None:
    writer = a_writer(url)
    await writer.write(some_days(5))
    await writer.close()
    await seal_all(url)
    day = datetime_from_us(MIDNIGHT_US).date()
    with psycopg.connect(url, autocommit=True) as somebody:
        somebody.execute("SELECT ensure_history_partition('meter_telemetry_history', %s)", (day,))
        insert = "INSERT INTO meter_telemetry_history (meter_key, ts, kwh_consumed_ac) VALUES (1, %s, 1)"
        with pytest.raises(psycopg.DatabaseError, match="may be sealed") as refused:
            somebody.execute(insert, (datetime_from_us(MIDNIGHT_US + 1),))
        assert refused.value.sqlstate == "EF001"
        with somebody.transaction():
            asked = {"keys": [1], "first_days": [day], "last_days": [day], "unsealed_until": day}
            assert somebody.execute(UNSEAL["meter"], asked).fetchall() == [(1, day)]
            somebody.execute(insert, (datetime_from_us(MIDNIGHT_US + 2),))
