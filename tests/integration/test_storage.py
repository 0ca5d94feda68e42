"""What readings take of the disk: counted where tables are small, near the truth where they are not."""

import asyncio
from collections.abc import Iterator
from contextlib import suppress
from datetime import date, timedelta
from functools import partial

import psycopg
import pytest
from psycopg import AsyncConnection

from ingestion_svc.maintenance import Sealing
from ingestion_svc.storage_metrics import StorageMetrics
from shared.db.device_kind import KINDS, METER, VEHICLE
from shared.db.embedded import EmbeddedServer
from shared.db.engine import connection_parameters
from shared.db.sealing import seal
from shared.db.storage import Storage, measure, measure_rollups
from shared.exporter import new_registry
from shared.timestamps import datetime_from_us, system_clock
from tests.sealed import seal_all

NOW_US = system_clock()
TODAY = datetime_from_us(NOW_US).date()
DEVICES, A_DAY = 40, 96

_READINGS = """
    INSERT INTO {device}_telemetry_history ({device}_key, ts, {energy})
    SELECT device, %(day)s::timestamp AT TIME ZONE 'UTC' + at * interval '15 minutes', 0.25
    FROM generate_series(1, %(devices)s) AS device, generate_series(0, %(a_day)s - 1) AS at
"""


@pytest.fixture
def owner(database_url: str) -> Iterator[psycopg.Connection[object]]:
    with psycopg.connect(database_url, autocommit=True) as connection:
        connection.execute("SET energyfleet.unsealed_until = '9999-12-31'")
        yield connection


@pytest.fixture
def maintenance_url(postgres: EmbeddedServer, database: str) -> str:
    return postgres.url(database, role="energyfleet_maintenance")


def store(owner: psycopg.Connection[object], ago: int, devices: int = DEVICES) -> None:
    """A day of both kinds, with a reading every 15 minutes of each device."""
    day = TODAY - timedelta(days=ago)
    for kind in KINDS:
        owner.execute("SELECT ensure_history_partition(%s, %s)", (kind.history, day))
        owner.execute(kind.render(_READINGS), {"day": day, "devices": devices, "a_day": A_DAY})


async def measured(url: str, exact_bytes: int | None = None) -> Storage:
    budget = {} if exact_bytes is None else {"exact_bytes": exact_bytes}
    async with await AsyncConnection.connect(**connection_parameters(url, "test"), autocommit=True) as connection:
        return await measure(connection, **budget)


async def test_days_readings_and_bytes_are_counted_open_and_sealed_apart(
    owner: psycopg.Connection[object], maintenance_url: str
) -> None:
    for ago in (1, 2, 3, 4, 5):
        store(owner, ago)
    await seal_all(maintenance_url)
    store(owner, 40, devices=1)  # came late and lies open
    found = await measured(maintenance_url)

    for kind in KINDS:
        opened, sealed = found.open(kind.name), found.sealed(kind.name)
        assert (opened.days, opened.readings) == (3, (2 * DEVICES + 1) * A_DAY)
        assert (sealed.days, sealed.readings) == (3, 3 * DEVICES * A_DAY)
        assert (opened.estimated, sealed.estimated) == (False, False)
        partitions = owner.execute(
            "SELECT sum(pg_total_relation_size(inhrelid)) FROM pg_inherits WHERE inhparent = %s::regclass",
            (kind.sealed,),
        )
        assert partitions.fetchone() == (sealed.bytes,)
        assert sealed.bytes / sealed.readings < opened.bytes / opened.readings / 4
        assert found.unsealed_days(kind.name, NOW_US, 2) == 1
        assert found.unsealed_days(kind.name, NOW_US, 40) == 0
        assert found.unsealed_days(kind.name, NOW_US, 0) == 0
    assert {month.first for month in found.months} == {
        (TODAY - timedelta(days=ago)).replace(day=1) for ago in (1, 2, 3, 4, 5, 40)
    }


async def test_what_is_not_counted_is_near_the_truth_and_says_so(
    owner: psycopg.Connection[object], maintenance_url: str
) -> None:
    for ago in (1, 3, 4, 5):
        store(owner, ago, devices=400)
    await seal_all(maintenance_url)
    never_analyzed = await measured(maintenance_url, exact_bytes=0)
    owner.execute("ANALYZE")
    found = await measured(maintenance_url, exact_bytes=0)

    for kind in KINDS:
        assert found.open(kind.name).readings == pytest.approx(400 * A_DAY, rel=0.02)
        assert found.sealed(kind.name).readings == pytest.approx(3 * 400 * A_DAY, rel=0.02)
        assert found.open(kind.name).estimated
        assert found.sealed(kind.name).estimated
        assert found.sealed(kind.name).days == 3
        assert never_analyzed.open(kind.name).readings == pytest.approx(400 * A_DAY, rel=0.5)
        assert never_analyzed.sealed(kind.name).readings == pytest.approx(3 * 400 * A_DAY, rel=0.5)


async def test_a_database_without_readings_has_no_months(maintenance_url: str) -> None:
    found = await measured(maintenance_url)
    assert found.months == []
    assert found.open("meter").readings == found.sealed("vehicle").bytes == 0


async def test_rollups_of_the_last_whole_day_are_what_a_day_adds(
    owner: psycopg.Connection[object], maintenance_url: str
) -> None:
    add = """
        INSERT INTO {device}_closed_hours (device_key, hour_start, last_ts, {totals})
        SELECT 1, hour, hour, {numbers} FROM generate_series(%s::date - 3, %s::date - 1 / 24, interval '1 hour') AS hour
    """
    for kind in KINDS:
        numbers = {METER: "1, 0, 4", VEHICLE: "1, 0, 4, 80, 4"}[kind]
        owner.execute(kind.render(add.replace("{numbers}", numbers)), (TODAY, TODAY))
    owner.execute("VACUUM ANALYZE")
    async with await AsyncConnection.connect(
        **connection_parameters(maintenance_url, "test"), autocommit=True
    ) as connection:
        found = await measure_rollups(connection, NOW_US)
    for kind in KINDS:
        assert found[kind.name].bytes_a_day == pytest.approx(found[kind.name].bytes * 24 / 72, rel=0.05)


async def test_days_count_as_archived_where_the_file_is_what_the_day_is(
    owner: psycopg.Connection[object], maintenance_url: str
) -> None:
    store(owner, 3)
    assert [month.archived_days for month in (await measured(maintenance_url)).months] == [0, 0]
    day = TODAY - timedelta(days=3)
    before: date = day.replace(day=1) - timedelta(days=1)
    for kind, of, url, version in (
        ("meter", day, "a", "v"),
        ("meter", day, "b", "v"),
        ("meter", before, "a", "v"),
        ("vehicle", day, "a", ""),
    ):
        owner.execute(
            "INSERT INTO archived_days (kind, day, url, version, file, readings, kwh, kwh_returned, first_ts, last_ts,"
            " bytes, sha256) VALUES (%s, %s, %s, %s, 'f', 1, 0, 0, now(), now(), 1, '')",
            (kind, of, url, version),
        )
    found = {(month.kind, month.first): month.archived_days for month in (await measured(maintenance_url)).months}
    assert found == {
        ("meter", before.replace(day=1)): 1,
        ("meter", day.replace(day=1)): 1,
        ("vehicle", day.replace(day=1)): 0,
    }


@pytest.mark.parametrize("error", [psycopg.errors.DiskFull, psycopg.errors.QueryCanceled])
async def test_the_service_s_sealing_tells_what_is_stored_and_what_waits(
    owner: psycopg.Connection[object],
    postgres: EmbeddedServer,
    database: str,
    error: type[psycopg.Error],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("ingestion_svc.maintenance.seal", partial(seal, drop_after_s=0))
    for ago in (1, 3, 4):
        store(owner, ago)
    registry = new_registry()
    parameters = connection_parameters(postgres.url(database, role="energyfleet_ingestion"), "test")

    def fail(place: str) -> None:
        if place == "chunk_sealed":
            raise error

    def told(name: str, **labels: str) -> float | None:
        return registry.get_sample_value(f"energyfleet_ingestion_{name}", labels)

    metrics = StorageMetrics(registry)
    failing = Sealing(parameters, 2, lambda: NOW_US, fail, metrics)
    with suppress(psycopg.errors.QueryCanceled):
        await failing.round()
    assert [told("unsealed_days", kind=kind.name) for kind in KINDS] == [1, 2]
    assert told("sealing_finished_timestamp_seconds") is None

    sealing = Sealing(parameters, 2, lambda: NOW_US, lambda place: None, metrics)
    async with asyncio.timeout(30):
        while told("sealing_finished_timestamp_seconds") is None:  # the session of the round before may not have ended
            await sealing.round()
    assert told("sealing_finished_timestamp_seconds") == NOW_US / 1e6
    for kind in KINDS:
        assert told("unsealed_days", kind=kind.name) == 0
        for state, days in (("open", 1), ("sealed", 2)):
            labels = {"kind": kind.name, "state": state}
            assert told("history_days", **labels) == days
            assert told("history_readings", **labels) == days * DEVICES * A_DAY
            assert (told("history_bytes", **labels) or 0) > 8_192
