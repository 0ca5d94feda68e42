"""What a batch leaves in the database, whoever else writes and whatever the database says."""

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta

import psycopg
import pytest

from ingestion_svc import known_devices
from ingestion_svc.readings import AnyRow, MeterRow, VehicleRow, Written
from ingestion_svc.writer import Writer
from ingestion_svc.writer_sql import METERS, VEHICLES, Target
from shared.db.embedded import EmbeddedServer
from shared.db.engine import connection_parameters
from shared.errors import DatabaseUnavailable
from shared.timestamps import US_PER_DAY, US_PER_HOUR, US_PER_SECOND, datetime_from_us, us_from_datetime
from tests.builders import NOW_US


@pytest.fixture(params=["careful", "appending"], autouse=True)
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Both ways of writing must give the same; here even a single reading may be appended."""
    monkeypatch.setattr(known_devices, "APPEND_MIN_READINGS", 1 if request.param == "appending" else 10**9)
    return str(request.param)


@pytest.fixture
def ingestion_url(postgres: EmbeddedServer, database: str) -> str:
    return postgres.url(database, role="energyfleet_ingestion")


@asynccontextmanager
async def writing(url: str, target: Target[AnyRow], timeout_s: float = 30) -> AsyncIterator[Writer[AnyRow]]:
    writer = Writer(target, connection_parameters(url, "test"), timeout_s, lambda place: None)
    try:
        yield writer
    finally:
        await writer.close()


def meter_rows(count: int, devices: int = 10) -> list[MeterRow]:
    return [
        MeterRow(f"m{at % devices}", NOW_US - at // devices * 60 * US_PER_SECOND, 0.5 + at % 64 / 8, 230.0)
        for at in range(count)
    ]


def totals(url: str) -> tuple[int, float, int, float]:
    with psycopg.connect(url) as connection:
        history = connection.execute("SELECT count(*), sum(kwh_consumed_ac) FROM meter_telemetry_history").fetchone()
        hourly = connection.execute("SELECT sum(readings), sum(kwh_consumed_ac) FROM meter_energy_hourly").fetchone()
        assert history is not None
        assert hourly is not None
        return (*history, *hourly)


async def test_rows_that_only_the_database_refuses_are_found_among_many(ingestion_url: str, database_url: str) -> None:
    with psycopg.connect(database_url) as connection:
        connection.execute("ALTER TABLE meter_telemetry_history ADD CONSTRAINT odd CHECK (kwh_consumed_ac <> 13)")
    rows = meter_rows(1_000)
    bad = [0, 17, 499, 500, 999]
    for position in bad:
        rows[position] = rows[position]._replace(kwh_consumed_ac=13.0)
    async with writing(ingestion_url, METERS) as writer:
        written = await writer.write(rows)

    assert written == Written(refused=bad)
    assert totals(database_url)[0] == 995


async def test_the_same_day_from_two_writers_at_once_in_other_orders_counts_once(
    ingestion_url: str, database_url: str
) -> None:
    rows = meter_rows(3_000)
    dice = random.Random(7)

    async def replay() -> int:
        duplicates = 0
        async with writing(ingestion_url, METERS) as writer:
            for _ in range(3):
                shuffled = dice.sample(rows, len(rows))
                for start in range(0, len(rows), 500):
                    batch = shuffled[start : start + 500]
                    while True:
                        try:
                            written = await writer.write(batch)
                            break
                        except DatabaseUnavailable:  # a deadlock is retried by the lane
                            continue
                    assert not written.conflicts
                    duplicates += len(written.duplicates)
        return duplicates

    duplicates = sum(await asyncio.gather(replay(), replay()))

    assert duplicates == 5 * len(rows)
    total = sum(row.kwh_consumed_ac or 0.0 for row in rows)
    readings, kwh, hourly_readings, hourly_kwh = totals(database_url)
    assert (readings, hourly_readings) == (3_000, 3_000)
    assert [kwh, hourly_kwh] == pytest.approx([total, total], rel=1e-9)


async def test_a_repeat_inside_a_batch_is_a_duplicate_or_a_conflict_with_the_first(ingestion_url: str) -> None:
    row = MeterRow("m", NOW_US, 1.0, 230.0)
    other = row._replace(voltage=None)
    async with writing(ingestion_url, METERS) as writer:
        stays = (1.0, 230.0, None)
        assert await writer.write([row, row, other]) == Written([1], [2], stored={2: stays})
        assert await writer.write([other, row, other]) == Written([1], [0, 2], stored={0: stays, 2: stays})


async def test_absent_values_are_stored_as_absent(ingestion_url: str, database_url: str) -> None:
    rows = [
        VehicleRow("v", NOW_US - at, 1.0, soc, temp)
        for at, (soc, temp) in enumerate([(None, None), (0.0, None), (None, 0.0), (0.0, 0.0)])
    ]
    async with writing(ingestion_url, VEHICLES) as writer:
        await writer.write(rows)

    with psycopg.connect(database_url) as connection:
        stored = connection.execute("SELECT soc, battery_temp FROM vehicle_telemetry_history ORDER BY ts DESC")
        assert stored.fetchall() == [(None, None), (0.0, None), (None, 0.0), (0.0, 0.0)]
        hourly = connection.execute("SELECT battery_temp_sum, battery_temp_readings FROM vehicle_energy_hourly")
        assert hourly.fetchall() == [(0.0, 2)]


async def test_a_reading_on_the_hour_belongs_to_the_hour_that_ends(ingestion_url: str, database_url: str) -> None:
    hour_us = NOW_US // US_PER_HOUR * US_PER_HOUR
    async with writing(ingestion_url, METERS) as writer:
        await writer.write([MeterRow("m", hour_us, 1.0, None), MeterRow("m", hour_us + 1, 2.0, None)])

    with psycopg.connect(database_url) as connection:
        rows = connection.execute("SELECT hour_start, kwh_consumed_ac FROM meter_energy_hourly ORDER BY 1").fetchall()
    hour = datetime_from_us(hour_us)
    assert rows == [(hour - timedelta(hours=1), 1.0), (hour, 2.0)]


async def test_an_hour_tells_its_last_reading_whatever_comes_late(ingestion_url: str, database_url: str) -> None:
    hour_us = NOW_US // US_PER_HOUR * US_PER_HOUR

    async def last_minutes_after(*minutes: int) -> list[int]:
        """When the last reading of each hour came, in minutes from `hour_us` on, once readings of these are written."""
        rows = [MeterRow("m", hour_us + minute * 60 * US_PER_SECOND, 1.0, None) for minute in minutes]
        await writer.write(rows)
        with psycopg.connect(database_url) as connection:
            stored = connection.execute("SELECT last_ts FROM meter_energy_hourly ORDER BY hour_start").fetchall()
        return [(us_from_datetime(last_ts) - hour_us) // (60 * US_PER_SECOND) for (last_ts,) in stored]

    async with writing(ingestion_url, METERS) as writer:
        assert await last_minutes_after(5) == [5]
        assert await last_minutes_after(20) == [20]
        assert await last_minutes_after(65) == [20, 65], "closed with the newest reading of the status"
        assert await last_minutes_after(10) == [20, 65], "a late reading before the last one"
        assert await last_minutes_after(50) == [50, 65], "a late reading after the last one"
        assert await last_minutes_after(50, 5, 65) == [50, 65], "duplicates"
        assert await last_minutes_after(60, 66, 119, 121, 150, 185) == [60, 119, 150, 185]
        assert await last_minutes_after(-10, -5, 55, 130, 170) == [-5, 60, 119, 170, 185]


async def test_a_partition_that_was_dropped_is_made_again(ingestion_url: str, database_url: str) -> None:
    old = MeterRow("m", NOW_US - 40 * US_PER_DAY, 1.0, None)
    async with writing(ingestion_url, METERS) as writer:
        await writer.write([old])
        with psycopg.connect(database_url) as connection:
            connection.execute(f"DROP TABLE meter_telemetry_history_{datetime_from_us(old.ts_us):%Y%m%d}")
        assert await writer.write([old]) == Written()


async def test_a_server_that_became_read_only_is_left_and_tried_again(
    ingestion_url: str, database_url: str, database: str
) -> None:
    rows = meter_rows(10)
    async with writing(ingestion_url, METERS) as writer:
        await writer.write(rows[:5])
        with psycopg.connect(database_url, autocommit=True) as connection:
            connection.execute(f"ALTER DATABASE {database} SET default_transaction_read_only = on")
            await writer.close()
            with pytest.raises(DatabaseUnavailable):
                await writer.write(rows)
            connection.execute("SET default_transaction_read_only = off")
            connection.execute(f"ALTER DATABASE {database} RESET default_transaction_read_only")

        assert await writer.write(rows) == Written(duplicates=[0, 1, 2, 3, 4])


async def test_what_the_database_refuses_while_connecting_keeps_its_sqlstate_and_reason(
    ingestion_url: str, database: str, database_url: str
) -> None:
    with psycopg.connect(database_url, autocommit=True) as owner:
        owner.execute(f"REVOKE TEMPORARY ON DATABASE {database} FROM PUBLIC, energyfleet_ingestion")
    async with writing(ingestion_url, METERS) as writer:
        with pytest.raises(DatabaseUnavailable) as raised:
            await writer.connect()

    assert raised.value.sqlstate == "42501"
    assert raised.value.reason.startswith("permission denied to create temporary tables")
    assert str(raised.value) == "the database is unavailable"


async def test_a_locked_table_is_given_up_after_the_timeout_and_leaves_no_session_behind(
    ingestion_url: str, database_url: str
) -> None:
    async with writing(ingestion_url, METERS, timeout_s=0.2) as writer:
        with psycopg.connect(database_url) as connection:
            connection.execute("LOCK TABLE meter_closed_hours")
            with pytest.raises(DatabaseUnavailable):
                await writer.write(meter_rows(1))
        async with asyncio.timeout(10):
            while True:
                with psycopg.connect(database_url) as connection:
                    sessions = connection.execute(
                        "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'test'"
                    ).fetchone()
                if sessions == (0,):
                    break
                await asyncio.sleep(0.05)


async def test_the_keys_that_a_writer_remembers_are_bounded(
    ingestion_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(known_devices, "DEVICE_KEYS_MAX", 10)
    async with writing(ingestion_url, METERS) as writer:
        for _ in range(2):
            for start in range(0, 50, 5):
                await writer.write([MeterRow(f"m{start + at}", NOW_US, 1.0, None) for at in range(5)])
                assert len(writer._devices) <= 10


async def test_days_that_the_database_keeps_no_more_cost_their_own_rows_only(
    ingestion_url: str, database_url: str
) -> None:
    with psycopg.connect(database_url) as connection:
        connection.execute("""
            CREATE OR REPLACE FUNCTION ensure_history_partition(parent text, day date) RETURNS boolean
            LANGUAGE plpgsql AS $$ BEGIN
                IF day < '2026-01-01' THEN
                    RAISE EXCEPTION 'before the floor' USING ERRCODE = 'datetime_field_overflow';
                END IF;
                RETURN false;
            END $$
        """)
        day = f"{datetime_from_us(NOW_US):%Y%m%d}"
        connection.execute(
            f"CREATE TABLE IF NOT EXISTS meter_telemetry_history_{day} PARTITION OF meter_telemetry_history"
            " FOR VALUES FROM ('2026-02-10 00:00:00+00') TO ('2026-02-11 00:00:00+00')"
        )
    rows = meter_rows(20)
    rows[3] = rows[3]._replace(ts_us=NOW_US - 100 * US_PER_DAY)
    async with writing(ingestion_url, METERS) as writer:
        assert await writer.write(rows) == Written(refused=[3])
    assert totals(database_url)[0] == 19


@pytest.mark.parametrize("kind", ["meter", "vehicle"])
async def test_each_hour_of_a_batch_gets_a_mark_that_it_never_had_and_no_other_hour(
    ingestion_url: str, database_url: str, kind: str
) -> None:
    hour_us = NOW_US // US_PER_HOUR * US_PER_HOUR
    marks: dict[int, str] = {}

    async def changed_by(*minutes: int) -> set[int]:
        """Hours from `hour_us` on whose marks a batch with readings at these minutes changed."""
        times = [hour_us + minute * 60 * US_PER_SECOND for minute in minutes]
        if kind == "meter":
            await meters.write([MeterRow("m", ts_us, 1.0, None) for ts_us in times])
        else:
            await vehicles.write([VehicleRow("v", ts_us, 1.0, None, None) for ts_us in times])
        before = dict(marks)
        with psycopg.connect(database_url) as connection:
            for hour_start, mark in connection.execute(f"SELECT hour_start, mark FROM {kind}_hour_changes"):
                marks[(us_from_datetime(hour_start) - hour_us) // US_PER_HOUR] = mark
        return {hour for hour, mark in marks.items() if before.get(hour) != mark}

    async with writing(ingestion_url, METERS) as meters, writing(ingestion_url, VEHICLES) as vehicles:
        assert await changed_by(10) == {0}
        assert await changed_by(11, 12) == {0}
        assert await changed_by(59, 60, 61) == {0, 1}
        assert await changed_by(62) == {1}, "what closed the hour before does not change it"
        assert await changed_by(-1, 63) == {-1, 1}
        assert await changed_by(11, 60, 64) == {0, 1}, "a repeated reading may do so as well"
