"""Verify finds exactly the rows that are not what history says, and mends them beside writers."""

import asyncio
import itertools
import math
import random
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any, NamedTuple

import psycopg
import pytest
from hypothesis import HealthCheck, event, example, given, settings
from hypothesis import strategies as st
from psycopg import AsyncConnection, errors

from ingestion_svc.decode import MeterRow, VehicleRow
from ingestion_svc.writer import Writer
from ingestion_svc.writer_sql import METERS, VEHICLES
from shared.db import verify
from shared.db.embedded import EmbeddedServer
from shared.db.engine import connection_parameters
from shared.db.verify import EVER_US, Check, Difference, checks, find, mend
from shared.timestamps import US_PER_DAY, US_PER_HOUR, US_PER_SECOND, datetime_from_us, us_from_datetime
from tests.acceptance.processes import until
from tests.builders import NOW_US
from tests.model import hour_start_us
from tests.verified import differences, mended

MIDNIGHT_US = NOW_US // US_PER_DAY * US_PER_DAY
FLOOR_DAY = datetime_from_us(MIDNIGHT_US).date()

SIDES = ("meter", "vehicle")
ENERGY = {"meter": "kwh_consumed_ac", "vehicle": "kwh_delivered_dc"}
MEASURED = {"meter": ("kwh_consumed_ac", "voltage"), "vehicle": ("kwh_delivered_dc", "soc", "battery_temp")}
SUMMED = {
    "meter": ("kwh_consumed_ac", "readings"),
    "vehicle": ("kwh_delivered_dc", "readings", "battery_temp_sum", "battery_temp_readings"),
}

Place = tuple[str, int | None]
"""A device's id and an hour, or None for its status."""


class Reading(NamedTuple):
    """What a device of either side reported."""

    side: str
    device: int
    ts_us: int
    kwh: float
    first: float | None
    """Volts or percent."""
    temp: float | None

    @property
    def device_id(self) -> str:
        return f"{self.side[0]}{self.device}"

    @property
    def values(self) -> tuple[float | None, ...]:
        return (self.kwh, self.first) if self.side == "meter" else (self.kwh, self.first, self.temp)


instants = st.one_of(
    st.integers(-8, 3).map(lambda n: MIDNIGHT_US + n * US_PER_HOUR // 6),
    st.builds(
        lambda hour, beside: MIDNIGHT_US + hour * US_PER_HOUR + beside,
        st.integers(-2, 0),
        st.sampled_from([-1, 0, 1]),
    ),
)
readings = st.builds(
    Reading,
    side=st.sampled_from(SIDES),
    device=st.integers(0, 2),
    ts_us=instants,
    kwh=st.sampled_from([0.0, 0.1, 1.5]) | st.floats(0, 1000),
    first=st.sampled_from([None, 0.0, 50.0]),
    temp=st.none() | st.sampled_from([-20.1, 20.1]) | st.floats(-60, 150),
)

NOBODY = 99
"""A key that no device has."""

# A number that picks a row among those that there are, and what psql does to it.
_at = st.integers(0, 50)
_side = st.sampled_from(SIDES)
_wrong = st.sampled_from([math.nan, math.inf, 0.0, 1e-300, 13.0])
damages = st.one_of(
    st.tuples(st.just("scale"), _side, _at, st.sampled_from([1 + 1e-12, 1 + 1e-7, 2.0])),
    st.tuples(st.just("sum"), _side, _at, _wrong),
    st.tuples(st.just("temperatures"), st.just("vehicle"), _at, _wrong),
    st.tuples(st.just("count"), _side, _at, st.integers(-1, 1)),
    st.tuples(st.just("temperature count"), st.just("vehicle"), _at, st.integers(-1, 1)),
    st.tuples(st.just("move"), _side, _at, st.sampled_from([US_PER_HOUR // 2, 50 * US_PER_HOUR])),
    st.tuples(st.just("delete hour"), _side, _at, st.none()),
    st.tuples(st.just("surplus hour"), _side, st.sampled_from([1, 2, NOBODY]), st.integers(-3, 3)),
    st.tuples(st.just("status"), _side, _at, _wrong),
    st.tuples(st.just("status unmeasured"), _side, _at, st.none()),
    st.tuples(st.just("status time"), _side, _at, st.sampled_from([-1, 1, -2 * US_PER_DAY])),
    st.tuples(st.just("delete status"), _side, _at, st.none()),
    st.tuples(st.just("surplus status"), _side, st.sampled_from([1, 2, NOBODY]), st.integers(-30, 3)),
)

DAMAGES = {
    "scale": "UPDATE {s}_energy_hourly SET {energy} = {energy} * %(by)s WHERE ctid = %(row)s",
    "sum": "UPDATE {s}_energy_hourly SET {energy} = %(by)s WHERE ctid = %(row)s",
    "temperatures": "UPDATE {s}_energy_hourly SET battery_temp_sum = %(by)s WHERE ctid = %(row)s",
    "count": "UPDATE {s}_energy_hourly SET readings = readings + %(by)s WHERE ctid = %(row)s",
    "temperature count": (
        "UPDATE {s}_energy_hourly SET battery_temp_readings = battery_temp_readings + %(by)s WHERE ctid = %(row)s"
    ),
    "move": ("UPDATE {s}_energy_hourly SET hour_start = hour_start + %(by)s * interval '1 us' WHERE ctid = %(row)s"),
    "delete hour": "DELETE FROM {s}_energy_hourly WHERE ctid = %(row)s",
    "surplus hour": (
        "INSERT INTO {s}_energy_hourly ({s}_key, hour_start, {summed})"
        " VALUES (%(at)s, %(midnight)s + %(by)s * interval '1 h', {ones}) ON CONFLICT DO NOTHING"
    ),
    "status": "UPDATE {s}_current_status SET {energy} = %(by)s WHERE ctid = %(row)s",
    "status unmeasured": "UPDATE {s}_current_status SET {first} = NULL WHERE ctid = %(row)s",
    "status time": "UPDATE {s}_current_status SET ts = ts + %(by)s * interval '1 us' WHERE ctid = %(row)s",
    "delete status": "DELETE FROM {s}_current_status WHERE ctid = %(row)s",
    "surplus status": (
        "INSERT INTO {s}_current_status ({s}_key, ts, {energy})"
        " VALUES (%(at)s, %(midnight)s + %(by)s * interval '1 h', 1) ON CONFLICT DO NOTHING"
    ),
}


def damage(owner: psycopg.Connection[Any], what: str, side: str, at: int, by: float | None) -> None:
    """Does what a person with psql might; nothing where there is no row to do it to."""
    table, time = (f"{side}_current_status", "ts") if "status" in what else (f"{side}_energy_hourly", "hour_start")
    rows = owner.execute(f"SELECT ctid FROM {table} ORDER BY {side}_key, {time}").fetchall()
    if rows or "surplus" in what:
        statement = DAMAGES[what].format(
            s=side,
            energy=ENERGY[side],
            first=MEASURED[side][1],
            summed=", ".join(SUMMED[side]),
            ones=", ".join("1" for _ in SUMMED[side]),
        )
        row = rows[at % len(rows)][0] if rows else None
        owner.execute(statement, {"row": row, "at": at, "by": by, "midnight": datetime_from_us(MIDNIGHT_US)})


class Truth:
    """What the tables must hold, from the readings that history has, in plain Python."""

    def __init__(self, sent: list[Reading], floor_us: int | None) -> None:
        self.floor_us = floor_us
        history: dict[tuple[str, str, int], Reading] = {}
        for each in sent:
            history.setdefault((each.side, each.device_id, each.ts_us), each)
        kept = [each for each in history.values() if floor_us is None or each.ts_us >= floor_us]
        self.hours = {
            side: {
                place: list(of_hour)
                for place, of_hour in itertools.groupby(
                    sorted((each for each in kept if each.side == side), key=_hour), key=_hour
                )
                if self.judged(place[1])
            }
            for side in SIDES
        }
        self.newest = {
            side: {each.device_id: each for each in sorted(kept, key=lambda each: each.ts_us) if each.side == side}
            for side in SIDES
        }

    def judged(self, hour_us: int) -> bool:
        return self.floor_us is None or hour_us >= self.floor_us

    def differs(self, owner: psycopg.Connection[Any]) -> dict[str, set[Place]]:
        """The places, by table, at which the tables hold something else."""
        return {f"{side}_energy_hourly": self._wrong_hours(owner, side) for side in SIDES} | {
            f"{side}_current_status": self._wrong_status(owner, side) for side in SIDES
        }

    def _wrong_hours(self, owner: psycopg.Connection[Any], side: str) -> set[Place]:
        stored = {
            (device_id, us_from_datetime(hour)): values
            for device_id, hour, *values in owner.execute(
                f"SELECT coalesce({side}_id, {side}_key::text), hour_start, {', '.join(SUMMED[side])}"
                f" FROM {side}_energy_hourly LEFT JOIN {side}s USING ({side}_key)"
            )
            if self.judged(us_from_datetime(hour))
        }
        due = self.hours[side]
        return {
            place
            for place in stored.keys() | due.keys()
            if place not in stored or place not in due or not _same(stored[place], due[place])
        }

    def _wrong_status(self, owner: psycopg.Connection[Any], side: str) -> set[Place]:
        stored = {
            device_id: (us_from_datetime(ts), tuple(values))
            for device_id, ts, *values in owner.execute(
                f"SELECT coalesce({side}_id, {side}_key::text), ts, {', '.join(MEASURED[side])}"
                f" FROM {side}_current_status LEFT JOIN {side}s USING ({side}_key)"
            )
        }
        due = {device_id: (each.ts_us, each.values) for device_id, each in self.newest[side].items()}
        dropped = {
            device_id
            for device_id, (ts_us, _) in stored.items()
            if device_id not in due and self.floor_us is not None and ts_us < self.floor_us
        }
        return {
            (device_id, None)
            for device_id in (stored.keys() | due.keys()) - dropped
            if stored.get(device_id) != due.get(device_id)
        }


def _hour(reading: Reading) -> tuple[str, int]:
    return reading.device_id, hour_start_us(reading.ts_us)


def _same(stored: list[Any], of_hour: list[Reading]) -> bool:
    temps = [each.temp for each in of_hour if each.temp is not None]
    kwh, count, *of_temps = stored
    due = math.fsum(each.kwh for each in of_hour)
    if count != len(of_hour) or not abs(kwh - due) <= 1e-9 * max(due, 1e-290):
        return False
    magnitudes = math.fsum(abs(temp) for temp in temps)
    return not of_temps or (
        of_temps[1] == len(temps) and bool(abs(of_temps[0] - math.fsum(temps)) <= 1e-9 * max(magnitudes, 1e-290))
    )


@pytest.fixture
def owner(database_url: str) -> Iterator[psycopg.Connection[Any]]:
    options = "-c timezone=UTC -c synchronous_commit=off"
    with psycopg.connect(database_url, autocommit=True, options=options) as connection:
        yield connection


@pytest.fixture
def ingestion_url(postgres: EmbeddedServer, database: str) -> str:
    return postgres.url(database, role="energyfleet_ingestion")


async def write(url: str, sent: list[Reading]) -> None:
    parameters = connection_parameters(url, "test")
    meters, vehicles = (Writer(target, parameters, 30, lambda place: None) for target in (METERS, VEHICLES))
    await meters.write([MeterRow(e.device_id, e.ts_us, e.kwh, e.first) for e in sent if e.side == "meter"])
    await vehicles.write(
        [VehicleRow(e.device_id, e.ts_us, e.kwh, e.first, e.temp) for e in sent if e.side == "vehicle"]
    )
    await meters.close()
    await vehicles.close()


def begin_anew(owner: psycopg.Connection[Any]) -> None:
    """Nothing but four devices of each side, of which the last never reports."""
    for side in SIDES:
        for table in ("telemetry_history", "current_status", "energy_hourly"):
            owner.execute(f"DELETE FROM {side}_{table}")
        owner.execute(
            f"INSERT INTO {side}s ({side}_id) SELECT '{side[0]}' || n FROM generate_series(0, 3) AS n"
            " ON CONFLICT DO NOTHING"
        )
    owner.execute("UPDATE retention SET floor_day = '0001-01-01'")


@pytest.mark.timeout(300)
@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    sent=st.lists(readings, min_size=3, max_size=25),
    damaged=st.lists(damages, min_size=1, max_size=6),
    dropped=st.booleans(),
)
@example(
    sent=[],
    damaged=[(what, side, NOBODY, 1) for what in ("surplus hour", "surplus status") for side in SIDES],
    dropped=False,
)
async def test_exactly_what_was_damaged_is_found_and_mended(
    sent: list[Reading],
    damaged: list[tuple[str, str, int, Any]],
    dropped: bool,
    owner: psycopg.Connection[Any],
    ingestion_url: str,
    database_url: str,
) -> None:
    begin_anew(owner)
    half = len(sent) // 2
    for some in (sent[:half], sent[half:]):
        await write(ingestion_url, some)
    if dropped:
        owner.execute("UPDATE retention SET floor_day = %s", (FLOOR_DAY,))
        for side in SIDES:
            owner.execute(f"DELETE FROM {side}_telemetry_history WHERE ts < %s", (FLOOR_DAY,))
    truth = Truth(sent, MIDNIGHT_US if dropped else None)
    assert await differences(database_url) == []

    for each in damaged:
        damage(owner, *each)
    wrong = truth.differs(owner)
    event(f"rows that differ: {min(sum(len(places) for places in wrong.values()), 4)}")
    told = []
    async with connected(database_url) as connection:
        for check in await checks(connection, *EVER_US):
            if found := await find(connection, check):
                assert repr(await mend(connection, found, check)) == repr(found)  # NaN is not equal to itself
            told += found
    assert {
        table: sorted((each.device_id or str(each.device_key), each.hour_us) for each in told if each.table == table)
        for table in wrong
    } == {table: sorted(places) for table, places in wrong.items()}
    assert await differences(database_url) == []
    assert not any(truth.differs(owner).values())


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
    owner: psycopg.Connection[Any], ingestion_url: str, database_url: str
) -> None:
    await write(ingestion_url, [a_reading(0)])
    owner.execute("DELETE FROM meter_energy_hourly")
    writer = Midway(ingestion_url)
    async with connected(database_url) as connection:
        check, found = await only_hour(connection)
        writing = asyncio.create_task(writer.write([MeterRow("m0", a_reading(1).ts_us, 0.25, None)]))
        await writer.there.wait()
        mending = asyncio.create_task(mend(connection, found, check))
        await until(lambda: owner.execute("SELECT FROM pg_locks WHERE NOT granted").fetchall())
        writer.go_on.set()
        await writing
        (difference,) = await mending
    await writer.close()

    assert difference.stored == {"kwh_consumed_ac": 0.25, "readings": 1}
    assert difference.history == {"kwh_consumed_ac": 1.75, "readings": 2}
    assert await differences(database_url) == []


async def test_mending_does_not_wait_for_a_writer_that_has_yet_to_add_to_rollups(
    owner: psycopg.Connection[Any], ingestion_url: str, database_url: str
) -> None:
    await write(ingestion_url, [a_reading(0)])
    owner.execute("UPDATE meter_energy_hourly SET readings = 7")
    key = owner.execute("SELECT meter_key FROM meters").fetchall()[0][0]
    history, hours = METERS.pack_appends([(key, [MeterRow("m0", a_reading(1).ts_us, 0.25, None)])])
    async with connected(database_url) as connection, connected(ingestion_url) as writer:
        await writer.execute(METERS.create_staging)
        check, found = await only_hour(connection)
        async with writer.transaction(), writer.cursor() as cursor:
            async with cursor.copy(METERS.copy_to_history) as copy:
                await copy.write(history)
            assert len(await mend(connection, found, check)) == 1
            async with cursor.copy(METERS.copy_to_staged_hours) as copy:
                await copy.write(hours)
            await cursor.execute(METERS.add_hours)

    assert await differences(database_url) == []


async def test_damage_is_mended_while_writers_go_on(
    owner: psycopg.Connection[Any], ingestion_url: str, database_url: str
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
        "meter_energy_hourly": "DELETE FROM meter_energy_hourly WHERE meter_key % 3 = 0",
        "meter_current_status": "UPDATE meter_current_status SET ts = ts - interval '1 day' WHERE meter_key % 3 = 1",
    }
    async with connected(database_url) as vandal, asyncio.TaskGroup() as group:
        writers = [group.create_task(go_on_writing()) for _ in range(2)]
        for _ in range(5):
            for table, statement in damaging.items():
                await vandal.execute(f"LOCK TABLE {table} IN SHARE ROW EXCLUSIVE MODE; {statement}")
            assert len(await mended(database_url)) > 40
        done.set()

    assert await differences(database_url) == []
    counted = 160 + sum(each.result() for each in writers)
    assert owner.execute("SELECT sum(readings) FROM meter_energy_hourly").fetchone() == (counted,)


async def test_a_table_that_others_keep_for_themselves_is_not_waited_for_for_ever(
    owner: psycopg.Connection[Any], ingestion_url: str, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(verify, "_MEND_TRIES", 2)
    monkeypatch.setattr(verify, "_MEND_PAUSE_S", 0.01)
    monkeypatch.setattr(verify, "_LIMIT_LOCK_WAIT", "SET LOCAL lock_timeout = '20ms'")
    await write(ingestion_url, [a_reading(0)])
    owner.execute("DELETE FROM meter_energy_hourly")
    with psycopg.connect(database_url) as other:
        other.execute("LOCK TABLE meter_energy_hourly IN ROW EXCLUSIVE MODE")
        with pytest.raises(errors.LockNotAvailable):
            await mended(database_url)
    assert len(await mended(database_url)) == 1


async def test_hours_that_the_retention_floor_passes_meanwhile_are_not_judged(
    owner: psycopg.Connection[Any], ingestion_url: str, database_url: str
) -> None:
    await write(ingestion_url, [a_reading(-60), a_reading(0)])
    async with connected(database_url) as connection:
        todo = [each for each in await checks(connection, *EVER_US) if each.hour_us is not None]
        owner.execute("DELETE FROM meter_telemetry_history WHERE ts < %s", (FLOOR_DAY,))
        before = [difference for check in todo for difference in await find(connection, check)]
        owner.execute("UPDATE retention SET floor_day = %s", (FLOOR_DAY,))
        after = [difference for check in todo for difference in await find(connection, check)]
    assert (len(before), after) == (1, [])


async def test_only_hours_within_the_span_are_looked_at(
    owner: psycopg.Connection[Any], ingestion_url: str, database_url: str
) -> None:
    midnight = (MIDNIGHT_US - NOW_US) // (60 * US_PER_SECOND)
    await write(ingestion_url, [a_reading(midnight + minute) for minute in (-60, -59, 0, 1)])
    owner.execute("UPDATE meter_energy_hourly SET readings = readings + 1")
    hours = {}
    async with connected(database_url) as connection:
        for start, end in ((-2, -1), (-1, 0), (0, 1), (1, 2)):
            span = (MIDNIGHT_US + each * US_PER_HOUR for each in (start, end))
            hours[start] = [
                len(await find(connection, each)) for each in await checks(connection, *span) if each.hour_us
            ]
    assert hours == {-2: [1], -1: [1], 0: [1], 1: [0]}
