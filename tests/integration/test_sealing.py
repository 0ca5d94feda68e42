"""Sealed days: what was stored is what is read, to the last bit, however often a day is sealed and opened again."""

from collections.abc import AsyncIterator
from datetime import date, timedelta
from typing import Any

import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from psycopg import AsyncConnection

from shared.db.device_kind import KINDS, METER, DeviceKind
from shared.db.embedded import EmbeddedServer
from shared.db.engine import connection_parameters
from shared.db.sealing import UNSEAL, Sealed, seal
from shared.timestamps import US_PER_DAY, datetime_from_us, system_clock

TODAY = date.fromordinal(date(1970, 1, 1).toordinal() + system_clock() // US_PER_DAY)
DAY = TODAY - timedelta(days=5)
DAY_US = (DAY - date(1970, 1, 1)).days * US_PER_DAY

numbers = st.none() | st.floats(allow_nan=False, allow_infinity=False) | st.sampled_from([0.0, -0.0, 5e-324])
energies = st.floats(-1e290, 1e290) | st.sampled_from([0.0, -0.0, 5e-324])
readings = st.dictionaries(
    st.tuples(st.integers(1, 4), st.integers(0, US_PER_DAY - 1) | st.sampled_from([0, 1, US_PER_DAY - 1])),
    st.tuples(
        energies, numbers, numbers, numbers, numbers, st.sampled_from([None, None, "doubted", "baseline", "corrected"])
    ),
    max_size=60,
)


@pytest.fixture
async def ours(postgres: EmbeddedServer, database: str) -> AsyncIterator[AsyncConnection[Any]]:
    url = postgres.url(database, role="energyfleet_ingestion")
    async with await AsyncConnection.connect(**connection_parameters(url, "test"), autocommit=True) as mine:
        yield mine


async def sealed(connection: AsyncConnection[Any], chunk_readings: int = 20_000) -> Sealed:
    return await seal(connection, system_clock(), 2, chunk_readings=chunk_readings, drop_after_s=0)


def bits(rows: list[Any]) -> list[Any]:
    """Rows in which doubles are told apart by their bits."""
    return [tuple(each.hex() if isinstance(each, float) else each for each in row) for row in rows]


async def stored(connection: AsyncConnection[Any], kind: DeviceKind) -> list[Any]:
    query = "SELECT {device}_key, day, ts, {measurements}, sent_kwh, counting FROM {device}_readings ORDER BY 1, 3"
    return bits(await (await connection.execute(kind.render(query), binary=True)).fetchall())


async def store(connection: AsyncConnection[Any], kind: DeviceKind, rows: dict[Any, Any]) -> None:
    await connection.execute("SELECT ensure_history_partition(%s, %s)", (kind.history, DAY))
    columns = (f"{kind.name}_key", "ts", *kind.measurements, "sent_kwh", "counting")
    holes = ", ".join(["%s"] * len(columns))
    async with connection.transaction(), connection.cursor() as cursor:
        await connection.execute("SET LOCAL energyfleet.unsealed_until = '9999-12-31'")
        await cursor.executemany(
            f"INSERT INTO {kind.history} ({', '.join(columns)}) VALUES ({holes})",
            [
                (key, datetime_from_us(DAY_US + at), *values[: len(kind.measurements)], *values[-2:])
                for (key, at), values in rows.items()
            ],
        )


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(rows=readings, chunk=st.sampled_from([1, 20, 20_000]))
async def test_what_is_sealed_and_opened_again_is_what_was_stored_to_the_last_bit(
    rows: dict[Any, Any], chunk: int, ours: AsyncConnection[Any], database_url: str
) -> None:
    with psycopg.connect(database_url) as owner:
        for kind in KINDS:
            owner.execute(f"TRUNCATE {kind.history}, {kind.sealed}")
    for kind in KINDS:
        await store(ours, kind, rows)
        before = await stored(ours, kind)
        assert len(before) == len(rows)
        await sealed(ours, chunk)
        assert await stored(ours, kind) == before
        history = f"SELECT count(*) FROM {kind.history}"
        assert await (await ours.execute(history)).fetchone() == (0,)
        await ours.execute("SELECT ensure_history_partition(%s, %s)", (kind.history, DAY))
        keys = sorted({key for key, _ in rows})
        found = await ours.execute(
            UNSEAL[kind.name],
            {"keys": keys, "first_days": [DAY] * len(keys), "last_days": [DAY] * len(keys), "unsealed_until": DAY},
        )
        assert sorted(await found.fetchall()) == [(key, DAY) for key in keys]
        assert await (await ours.execute(history)).fetchone() == (len(rows),)
        assert await stored(ours, kind) == before


async def test_a_day_is_sealed_in_chunks_of_whole_devices_and_its_partition_goes(ours: AsyncConnection[Any]) -> None:
    rows = {(key, at * 1_000_000): (0.25, 230.0, None, None, None, None) for key in range(1, 8) for at in range(10)}
    await store(ours, METER, rows)
    done = await sealed(ours, chunk_readings=15)
    assert (done.days, done.readings) == (7, 70)
    assert f"{METER.history}_{DAY:%Y%m%d}" in done.dropped
    assert done.in_use == []
    sums = "SELECT count(*), sum(readings), sum(kwh), min(first_ts), max(last_ts) FROM meter_sealed_days"
    assert await (await ours.execute(sums)).fetchone() == (
        7,
        70,
        17.5,
        datetime_from_us(DAY_US),
        datetime_from_us(DAY_US + 9_000_000),
    )
