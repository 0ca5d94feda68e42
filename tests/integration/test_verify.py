"""Verify finds exactly the rows that are not what history says, and repairs them beside writers."""

import asyncio
import random
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any

import psycopg
import pytest
from hypothesis import HealthCheck, event, example, given, settings
from hypothesis import strategies as st
from psycopg import AsyncConnection, errors

from ingestion_svc.readings import MeterRow, VehicleRow
from ingestion_svc.writer import Writer
from ingestion_svc.writer_sql import METERS, VEHICLES
from shared.db import verification
from shared.db.embedded import EmbeddedServer
from shared.db.engine import connection_parameters
from shared.db.verification import EVER_US, Check, Difference, checks, find, repair_rows
from shared.timestamps import US_PER_HOUR, US_PER_SECOND, us_from_datetime
from tests.acceptance.processes import until
from tests.builders import NOW_US
from tests.damage import FLOOR_DAY, MIDNIGHT_US, NOBODY, SIDES, Reading, Truth, damage, damages, readings
from tests.model import hour_start_us
from tests.sealed import seal_all
from tests.verified import checks_of_stored, differences, repaired


@pytest.fixture
def owner(database_url: str) -> Iterator[psycopg.Connection[Any]]:
    options = "-c timezone=UTC -c synchronous_commit=off"
    with psycopg.connect(database_url, autocommit=True, options=options) as connection:
        yield connection


@pytest.fixture
def ingestion_url(postgres: EmbeddedServer, database: str) -> str:
    return postgres.url(database, role="energyfleet_ingestion")


@pytest.fixture
def maintenance_url(postgres: EmbeddedServer, database: str) -> str:
    return postgres.url(database, role="energyfleet_maintenance")


async def write(url: str, sent: list[Reading]) -> None:
    parameters = connection_parameters(url, "test")
    meters = [MeterRow(e.device_id, e.ts_us, e.kwh, e.first) for e in sent if e.side == "meter"]
    vehicles = [VehicleRow(e.device_id, e.ts_us, e.kwh, e.first, e.temp) for e in sent if e.side == "vehicle"]
    for target, rows in (METERS, meters), (VEHICLES, vehicles):
        if rows:
            writer: Writer[Any] = Writer(target, parameters, 30, lambda place: None)
            await writer.write(rows)
            await writer.close()


def begin_anew(owner: psycopg.Connection[Any]) -> None:
    """Nothing but four devices of each side, of which the last never reports."""
    for side in SIDES:
        for table in ("telemetry_history", "sealed_days", "current_status", "closed_hours"):
            owner.execute(f"DELETE FROM {side}_{table}")
        owner.execute(
            f"INSERT INTO {side}s ({side}_id) SELECT '{side[0]}' || n FROM generate_series(0, 3) AS n"
            " ON CONFLICT DO NOTHING"
        )
    owner.execute("UPDATE retention SET floor_day = '0001-01-01'")


@pytest.mark.timeout(300)
@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    sent=st.lists(readings, min_size=3, max_size=25),
    damaged=st.lists(damages, min_size=1, max_size=6),
    dropped=st.booleans(),
    sealed=st.booleans(),
)
@example(
    sent=[],
    damaged=[(what, side, NOBODY, 1) for what in ("surplus hour", "surplus status") for side in SIDES],
    dropped=False,
    sealed=False,
)
@example(
    sent=[Reading("meter", 0, ts_us, 1.0, None, None) for ts_us in (MIDNIGHT_US - 1, MIDNIGHT_US, MIDNIGHT_US + 1)],
    damaged=[("move", "meter", 0, US_PER_HOUR // 2)] * 2,
    dropped=False,
    sealed=False,
)
@example(
    sent=[Reading("meter", 0, MIDNIGHT_US + 1, 5.0, None, None)],
    damaged=[("surplus hour", "meter", 1, 0)],
    dropped=False,
    sealed=False,
)
@example(
    sent=[Reading(side, 0, MIDNIGHT_US + 1, 5.0, None, None) for side in SIDES],
    damaged=[("status", side, 0, 13.0) for side in SIDES],
    dropped=False,
    sealed=False,
)
async def test_exactly_what_was_damaged_is_found_and_mended(
    sent: list[Reading],
    damaged: list[tuple[str, str, int, Any]],
    dropped: bool,
    sealed: bool,
    owner: psycopg.Connection[Any],
    ingestion_url: str,
    maintenance_url: str,
) -> None:
    begin_anew(owner)
    half = len(sent) // 2
    for some in (sent[:half], sent[half:]):
        await write(ingestion_url, some)
        if sealed:
            await seal_all(ingestion_url)
    if dropped:
        owner.execute("UPDATE retention SET floor_day = %s", (FLOOR_DAY,))
        for side in SIDES:
            owner.execute(f"DELETE FROM {side}_telemetry_history WHERE ts < %s", (FLOOR_DAY,))
            owner.execute(f"DELETE FROM {side}_sealed_days WHERE day < %s", (FLOOR_DAY,))
    truth = Truth(sent, MIDNIGHT_US if dropped else None)
    assert await differences(maintenance_url) == []

    for each in damaged:
        damage(owner, *each)
    wrong = truth.differs(owner)
    event(f"rows that differ: {min(sum(len(places) for places in wrong.values()), 4)}")
    told = await differences(maintenance_url, everywhere=True)
    async with connected(maintenance_url) as connection:
        for check in await checks_of_stored(connection):
            if found := await find(connection, check):
                assert repr(await repair_rows(connection, found, check)) == repr(found)  # NaN is not equal to itself
    assert {
        table: sorted((each.device_id or str(each.device_key), each.hour_us) for each in told if each.table == table)
        for table in wrong
    } == {table: sorted(places) for table, places in wrong.items()}
    assert await differences(maintenance_url) == []
    assert not any(truth.differs(owner).values())
    for side in SIDES:
        in_both = (
            f"SELECT device_key, hour_start FROM {side}_closed_hours JOIN {side}_current_status USING (hour_start)"
            f" WHERE device_key = {side}_key AND hour_start >= (SELECT floor_day FROM retention)"
        )
        assert owner.execute(in_both).fetchall() == []


@asynccontextmanager
async def connected(url: str) -> AsyncIterator[AsyncConnection[Any]]:
    async with await AsyncConnection.connect(**connection_parameters(url, "test"), autocommit=True) as connection:
        yield connection


def a_reading(minute: int, device: int = 0, kwh: float = 1.5) -> Reading:
    return Reading("meter", device, NOW_US + minute * 60 * US_PER_SECOND, kwh, 230.0, None)


async def only_hour(connection: AsyncConnection[Any]) -> tuple[Check, list[Difference]]:
    """The meters' hour that now is, and what differs in it."""
    (check,) = [
        each
        for each in await checks(connection, *EVER_US)
        if each.derived.table == "meter_energy_hourly" and each.hour_us == hour_start_us(NOW_US)
    ]
    return check, await find(connection, check)


class Midway(Writer[MeterRow]):
    """Stays in its transaction, everything written and nothing committed, until it is told to go on."""

    def __init__(self, url: str) -> None:
        super().__init__(METERS, connection_parameters(url, "test"), 30, lambda place: None)
        self.there = asyncio.Event()
        self.go_on = asyncio.Event()

    async def _merge(self, *arguments: Any) -> Any:
        merged = await super()._merge(*arguments)
        self.there.set()
        await self.go_on.wait()
        return merged


async def test_mending_waits_for_a_writer_and_counts_what_it_commits(
    owner: psycopg.Connection[Any], ingestion_url: str, maintenance_url: str
) -> None:
    await write(ingestion_url, [a_reading(0)])
    owner.execute("UPDATE meter_current_status SET hour_readings = 0, hour_kwh = 0")
    writer = Midway(ingestion_url)
    async with connected(maintenance_url) as connection:
        check, found = await only_hour(connection)
        writing = asyncio.create_task(writer.write([MeterRow("m0", a_reading(1).ts_us, 0.25, None)]))
        await writer.there.wait()
        repairing = asyncio.create_task(repair_rows(connection, found, check))
        await until(lambda: owner.execute("SELECT FROM pg_locks WHERE NOT granted").fetchall())
        writer.go_on.set()
        await writing
        (difference,) = await repairing
    await writer.close()

    last = {"last_ts": "2026-02-10 00:31:00+00"}
    assert difference.stored == {"kwh_consumed_ac": 0.25, "kwh_returned_ac": 0.0, "readings": 1} | last
    assert difference.history == {"kwh_consumed_ac": 1.75, "kwh_returned_ac": 0.0, "readings": 2} | last
    assert await differences(maintenance_url) == []


async def test_what_counts_is_held_against_what_was_sent(
    owner: psycopg.Connection[Any], ingestion_url: str, maintenance_url: str
) -> None:
    registers = [(0, None, 10.0), (15, None, 11.5), (30, None, 4.0), (90, 2.0, None), (105, 300.0, None)]
    rows = [
        MeterRow("m0", NOW_US + minutes * 60 * US_PER_SECOND, kwh, None, shown) for minutes, kwh, shown in registers
    ]
    writer = Writer(METERS, connection_parameters(ingestion_url, "test"), 30, lambda place: None)
    await writer.write(rows)
    await writer.close()
    assert await differences(maintenance_url) == []
    before = owner.execute("SELECT * FROM meter_telemetry_history ORDER BY ts").fetchall()
    owner.execute("UPDATE meter_telemetry_history SET kwh_consumed_ac = kwh_consumed_ac + 1 WHERE kwh_consumed_ac <> 2")
    owner.execute(
        "UPDATE meter_telemetry_history SET counting = 'doubted', sent_kwh = 2, kwh_consumed_ac = 0"
        " WHERE kwh_consumed_ac = 2"
    )

    assert {each.table for each in await differences(maintenance_url)} >= {"meter_telemetry_history"}
    await repaired(maintenance_url)
    assert await differences(maintenance_url) == []
    assert owner.execute("SELECT * FROM meter_telemetry_history ORDER BY ts").fetchall() == before


async def test_readers_are_told_of_the_hour_whose_last_reading_a_mended_status_tells(
    owner: psycopg.Connection[Any], ingestion_url: str, maintenance_url: str
) -> None:
    await write(ingestion_url, [a_reading(-60), a_reading(0)])
    owner.execute("UPDATE meter_current_status SET ts = ts - interval '1 us'")
    owner.execute("DELETE FROM meter_hour_changes")

    assert [each.table for each in await differences(maintenance_url)] == [
        "meter_current_status",
        "meter_energy_hourly",
    ]
    assert [each.table for each in await repaired(maintenance_url)] == ["meter_current_status"]
    assert await differences(maintenance_url) == []
    changed = owner.execute("SELECT hour_start FROM meter_hour_changes").fetchall()
    assert [us_from_datetime(hour) for (hour,) in changed] == [hour_start_us(NOW_US)]


async def test_a_status_whose_hour_is_not_its_reading_s_is_found_and_mended(
    owner: psycopg.Connection[Any], ingestion_url: str, maintenance_url: str
) -> None:
    await write(ingestion_url, [a_reading(-60), a_reading(0)])
    before = owner.execute("SELECT * FROM meter_energy_hourly ORDER BY hour_start").fetchall()
    owner.execute("UPDATE meter_current_status SET hour_start = hour_start - interval '1 hour'")

    assert "meter_current_status" in {each.table for each in await repaired(maintenance_url)}
    assert await differences(maintenance_url) == []
    assert owner.execute("SELECT * FROM meter_energy_hourly ORDER BY hour_start").fetchall() == before


async def test_damage_is_mended_while_writers_go_on(
    owner: psycopg.Connection[Any], ingestion_url: str, maintenance_url: str, database_url: str
) -> None:
    dice = random.Random(3)
    done = asyncio.Event()

    async def go_on_writing() -> int:
        written = 0
        writer = Writer(METERS, connection_parameters(ingestion_url, "test"), 30, lambda place: None)
        while not done.is_set():
            rows = [
                MeterRow(f"m{dice.randrange(40)}", NOW_US - dice.randrange(3 * US_PER_HOUR), 0.5, None)
                for _ in range(20)
            ]
            outcome = await writer.write(rows)
            written += len(rows) - len(outcome.duplicates)
            assert len((await writer.write(rows)).duplicates) == len(rows)
        await writer.close()
        return written

    await write(ingestion_url, [a_reading(-60 * hour, device) for hour in range(4) for device in range(40)])
    damaging = {
        "meter_closed_hours": "DELETE FROM meter_closed_hours WHERE device_key % 3 = 0",
        "meter_current_status": "UPDATE meter_current_status SET ts = ts - interval '1 day' WHERE meter_key % 3 = 1",
    }
    async with connected(database_url) as vandal, asyncio.TaskGroup() as group:
        writers = [group.create_task(go_on_writing()) for _ in range(2)]
        for _ in range(5):
            for table, statement in damaging.items():
                await vandal.execute(f"LOCK TABLE {table} IN EXCLUSIVE MODE; {statement}")
            assert len(await repaired(maintenance_url)) > 40
        done.set()

    assert await differences(maintenance_url) == []
    counted = 160 + sum(each.result() for each in writers)
    assert owner.execute("SELECT sum(readings) FROM meter_energy_hourly").fetchone() == (counted,)


async def test_a_table_that_others_keep_for_themselves_is_not_waited_for_for_ever(
    owner: psycopg.Connection[Any],
    ingestion_url: str,
    maintenance_url: str,
    database_url: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(verification, "_REPAIR_TRIES", 2)
    monkeypatch.setattr(verification, "_REPAIR_PAUSE_S", 0.01)
    monkeypatch.setattr(verification, "_LIMIT_LOCK_WAIT", "SET LOCAL lock_timeout = '20ms'")
    await write(ingestion_url, [a_reading(0)])
    owner.execute("UPDATE meter_current_status SET hour_kwh = 0")
    with psycopg.connect(database_url) as other:
        other.execute("LOCK TABLE meter_closed_hours IN ROW EXCLUSIVE MODE")
        with pytest.raises(errors.LockNotAvailable):
            await repaired(maintenance_url)
    assert len(await repaired(maintenance_url)) == 1


async def test_hours_that_the_retention_floor_passes_meanwhile_are_not_judged(
    owner: psycopg.Connection[Any], ingestion_url: str, maintenance_url: str
) -> None:
    await write(ingestion_url, [a_reading(-60), a_reading(0)])
    async with connected(maintenance_url) as connection:
        todo = [each for each in await checks(connection, *EVER_US) if each.hour_us is not None]
        owner.execute("DELETE FROM meter_telemetry_history WHERE ts < %s", (FLOOR_DAY,))
        before = [difference for check in todo for difference in await find(connection, check)]
        owner.execute("UPDATE retention SET floor_day = %s", (FLOOR_DAY,))
        after = [difference for check in todo for difference in await find(connection, check)]
    assert (len(before), after) == (1, [])


async def test_only_hours_within_the_span_are_looked_at(
    owner: psycopg.Connection[Any], ingestion_url: str, maintenance_url: str
) -> None:
    midnight = (MIDNIGHT_US - NOW_US) // (60 * US_PER_SECOND)
    await write(ingestion_url, [a_reading(midnight + minute) for minute in (-60, -59, 0, 1)])
    owner.execute("UPDATE meter_closed_hours SET readings = readings + 1")
    owner.execute("UPDATE meter_current_status SET hour_readings = hour_readings + 1")
    hours = {}
    async with connected(maintenance_url) as connection:
        for start, end in ((-2, -1), (-1, 0), (0, 1), (1, 2)):
            span = MIDNIGHT_US + start * US_PER_HOUR, MIDNIGHT_US + end * US_PER_HOUR
            hours[start] = [
                len(await find(connection, each))
                for each in await checks(connection, *span)
                if each.derived.table == "meter_energy_hourly"
            ]
    assert hours == {-2: [1], -1: [1], 0: [1], 1: [0]}


@pytest.mark.parametrize(
    "damage",
    [
        "kwh = kwh + 0.5",
        "readings = readings + 1",
        "last_ts = last_ts + interval '1 s'",
        "gaps_us[1] = gaps_us[1] + 1, gaps_us[2] = gaps_us[2] - 1",
        "kwh_consumed_ac[1] = 7",
    ],
)
async def test_a_sealed_day_that_is_not_what_it_says_is_found_and_opened(
    damage: str, owner: psycopg.Connection[Any], ingestion_url: str, maintenance_url: str
) -> None:
    await write(ingestion_url, [a_reading(minute) for minute in (0, 1, 2)])
    await seal_all(ingestion_url)
    assert await differences(maintenance_url) == []
    owner.execute(f"UPDATE meter_sealed_days SET {damage}")
    assert "meter_sealed_days" in {each.table for each in await differences(maintenance_url)}
    await repaired(maintenance_url)
    assert await differences(maintenance_url) == []


async def test_readings_beside_a_sealed_day_of_their_device_are_found(
    owner: psycopg.Connection[Any], ingestion_url: str, maintenance_url: str
) -> None:
    await write(ingestion_url, [a_reading(minute) for minute in (0, 1, 2)])
    await seal_all(ingestion_url)
    await write(ingestion_url, [a_reading(0, device=1)])
    owner.execute("SET energyfleet.unsealed_until = 'infinity'")
    owner.execute(
        "INSERT INTO meter_telemetry_history (meter_key, ts, kwh_consumed_ac)"
        " SELECT device_key, last_ts + interval '1 min', 1 FROM meter_sealed_days"
    )
    assert "meter_sealed_days" in {each.table for each in await differences(maintenance_url)}
