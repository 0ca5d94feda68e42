"""The archive: what is in it is what was stored, to the last bit, and nothing is dropped that is not in it."""

import asyncio
import errno
import os
import random
import signal
from collections.abc import AsyncIterator
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import psycopg
import pyarrow.parquet as pq
import pytest
from psycopg import AsyncConnection

from ingestion_svc.maintenance import Maintenance
from shared.archive.archive_check import Checked, check, repair
from shared.archive.archive_errors import ArchiverBusy, NotWhatWasWritten, PackingFailed
from shared.archive.archive_url import archive_url
from shared.archive.archiving import Archived, archive
from shared.archive.day_file import DayWriter
from shared.archive.day_store import DayStore
from shared.config import ROLLUP_RETENTION_DAYS
from shared.db.archive_days import DaySnapshot, Device, may_maintain, recorded, waiting_days
from shared.db.device_kind import KINDS, METER, VEHICLE, DeviceKind
from shared.db.embedded import EmbeddedServer
from shared.db.engine import connection_parameters
from shared.db.retention import Maintained, maintain
from shared.db.sealing import seal
from shared.timestamps import US_PER_DAY, US_PER_SECOND, system_clock
from tests.archiver_process import run_archiver
from tests.archives import Row, a_row, days_ago, in_archive, in_database, store

DAY = days_ago(5)
RETENTION_DAYS = 40


@pytest.fixture
def ingestion_url(postgres: EmbeddedServer, database: str) -> str:
    return postgres.url(database, role="energyfleet_ingestion")


@pytest.fixture
async def ours(ingestion_url: str) -> AsyncIterator[AsyncConnection[Any]]:
    async with await AsyncConnection.connect(**connection_parameters(ingestion_url, "test"), autocommit=True) as mine:
        yield mine


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "archive"


@pytest.fixture
def place(root: Path) -> DayStore:
    return DayStore(archive_url(str(root)), 30)


async def archived(connection: AsyncConnection[Any], place: DayStore, **options: Any) -> Archived:
    return await archive(connection, place, system_clock(), 2, **options)


async def checked(connection: AsyncConnection[Any], place: DayStore) -> Checked:
    return await check(connection, place, system_clock(), 2)


async def maintained(connection: AsyncConnection[Any], place: DayStore) -> Maintained:
    return await maintain(connection, system_clock(), RETENTION_DAYS, ROLLUP_RETENTION_DAYS, str(place.url))


def some_rows(kind: DeviceKind, seed: int, devices: int = 9, readings: int = 40) -> dict[tuple[str, int], Row]:
    """With everything that a reading may be: the first and the last microsecond, nulls, and the oddest doubles."""
    print(f"seed {seed}")  # noqa: T201
    generator = random.Random(seed)
    odd = (0.0, -0.0, 5e-324, -1.5, 1e290, 0.1 + 0.2, float.fromhex("-0x1.00000ffffffffp-1"))

    def number(null: float) -> float | None:
        return None if generator.random() < null else generator.choice((*odd, generator.random()))

    rows: dict[tuple[str, int], Row] = {}
    for device in range(devices):
        times = [0, US_PER_DAY - 1, *(generator.randrange(US_PER_DAY) for _ in range(readings))]
        null = generator.choice((0.0, 0.3, 1.0))
        for at in times[: generator.choice((1, len(times)))]:
            values = [number(null) for _ in (*kind.measurements[1:], "sent_kwh")]
            counting = generator.choice((None, "doubted", "corrected")) if null else None
            rows[f"{kind.name}-{device * 7 % 10} é"[: 9 + device % 2], at] = (number(0) or 0.0, *values, counting)
    return rows


@pytest.mark.parametrize("row_group_readings", [1, 50, 100_000])
async def test_a_day_part_open_and_part_sealed_is_archived_to_the_last_bit(
    ours: AsyncConnection[Any], database_url: str, root: Path, place: DayStore, row_group_readings: int
) -> None:
    for seed, kind in enumerate(KINDS, row_group_readings):
        rows = some_rows(kind, seed)
        ids = sorted({device_id for device_id, _ in rows})
        await store(ours, kind, DAY, {key: row for key, row in rows.items() if key[0] in ids[::2]})
        await seal(ours, system_clock(), 2, drop_after_s=0)
        await store(ours, kind, DAY, {key: row for key, row in rows.items() if key[0] not in ids[::2]})
    before = {kind: in_database(database_url, kind, DAY) for kind in KINDS}
    done = await archived(ours, place, row_group_readings=row_group_readings)

    assert [(day.kind, day.readings) for day in done.days] == [(kind.name, len(before[kind])) for kind in KINDS]
    for kind in KINDS:
        assert in_archive(root, kind, DAY) == before[kind]
    assert (await checked(ours, place)).problems == []
    assert (await archived(ours, place)).days == []


@pytest.mark.one_server
async def test_a_device_of_86_400_readings_and_one_of_a_single_one_lie_in_groups_that_are_told_apart(
    ours: AsyncConnection[Any], database_url: str, root: Path, place: DayStore
) -> None:
    await store(ours, METER, DAY, {("single", 7): a_row(METER), ("other", 7): a_row(METER)})
    await ours.execute("INSERT INTO meters (meter_id) VALUES ('each-second')")
    await ours.execute(
        "INSERT INTO meter_telemetry_history (meter_key, ts, kwh_consumed_ac)"
        " SELECT meter_key, %s::date::timestamptz + at * interval '1 second', 0.001"
        " FROM meters, generate_series(0, 86399) AS at WHERE meter_id = 'each-second'",
        (DAY,),
    )
    done = await archived(ours, place, row_group_readings=10_000)

    assert [day.readings for day in done.days] == [86_402]
    assert in_archive(root, METER, DAY) == in_database(database_url, METER, DAY)
    metadata = pq.ParquetFile(root / done.days[0].file).metadata
    groups = [metadata.row_group(at) for at in range(metadata.num_row_groups)]
    spans = [(each.column(0).statistics.min, each.column(0).statistics.max, each.num_rows) for each in groups]
    assert spans == [("each-second", "each-second", 86_400), ("other", "single", 2)]
    assert {group.column(0).compression for group in groups} == {"ZSTD"}
    assert "DELTA_BINARY_PACKED" in groups[0].column(1).encodings
    assert "RLE_DICTIONARY" in groups[0].column(2).encodings
    assert done.days[0].bytes < 86_402


async def test_days_that_are_not_closed_stay(ours: AsyncConnection[Any], place: DayStore) -> None:
    for days in (4, 3, 2, 1, 0):
        await store(ours, METER, days_ago(days), {("m", 7): a_row(METER)})
    done = await archive(ours, place, system_clock(), 0)
    assert [day.day for day in done.days] == [days_ago(4), days_ago(3)]
    assert (await archive(ours, place, system_clock(), 3)).days == []


async def test_a_day_that_changed_is_archived_again_and_its_neighbours_are_not(
    ours: AsyncConnection[Any], database_url: str, root: Path, place: DayStore
) -> None:
    for days in (7, 6, 5):
        await store(ours, VEHICLE, days_ago(days), {("v", US_PER_DAY // 2): a_row(VEHICLE)})
    await archived(ours, place)
    await store(ours, VEHICLE, days_ago(6), {("w", US_PER_SECOND): a_row(VEHICLE)})
    told: list[Any] = []
    await archived(ours, place, on_archived=lambda day, changed: told.append((day.day, day.readings, changed)))
    assert told == [(days_ago(6), 2, True)]
    assert in_archive(root, VEHICLE, days_ago(6)) == in_database(database_url, VEHICLE, days_ago(6))


async def test_the_reading_of_midnight_belongs_to_the_day_that_begins(
    ours: AsyncConnection[Any], root: Path, place: DayStore
) -> None:
    await store(ours, METER, DAY, {("m", US_PER_DAY // 2): a_row(METER)})
    await archived(ours, place)
    await store(ours, METER, DAY, {("m", 0): a_row(METER)})  # its hour ends there and begins the day before
    assert [day.readings for day in (await archived(ours, place)).days] == [2]
    assert len(in_archive(root, METER, DAY)) == 2


async def test_a_day_that_changes_while_it_is_archived_is_archived_as_it_was_and_then_again(
    ours: AsyncConnection[Any], ingestion_url: str, database_url: str, root: Path, place: DayStore
) -> None:
    await store(ours, METER, DAY, {(f"m{at}", 7): a_row(METER) for at in range(5)})
    before = in_database(database_url, METER, DAY)
    places: list[str] = []

    def change(place: str) -> None:
        places.append(place)
        if place == "day_written" and places.count(place) == 1:
            with psycopg.connect(ingestion_url, autocommit=True) as another:
                another.execute("SET energyfleet.unsealed_until = '9999-12-31'")
                another.execute(
                    "INSERT INTO meter_telemetry_history (meter_key, ts, kwh_consumed_ac) SELECT meter_key, %s, 1"
                    " FROM meters",
                    (DAY,),
                )
                another.execute("INSERT INTO meter_hour_changes VALUES (%s, 1, gen_random_uuid())", (DAY,))

    await archived(ours, place, pass_fail_point=change)
    assert in_archive(root, METER, DAY) == before
    assert len((await checked(ours, place)).problems) == 1
    await archived(ours, place)
    assert in_archive(root, METER, DAY) == in_database(database_url, METER, DAY) != before


async def test_a_day_that_changes_while_it_is_read_is_archived_as_it_was_at_one_instant(
    ours: AsyncConnection[Any], database_url: str, root: Path, place: DayStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    await store(ours, METER, DAY, {(f"m{at}", 7): a_row(METER) for at in range(5)})
    before = in_database(database_url, METER, DAY)
    devices_of = DaySnapshot.devices

    async def and_change(snapshot: DaySnapshot) -> list[Device]:
        found = await devices_of(snapshot)
        if len(found) == len(before):
            async with await AsyncConnection.connect(database_url, autocommit=True) as another:
                await store(another, METER, DAY, {("m3", 8): a_row(METER), ("n", 8): a_row(METER)}, may_be_new=False)
        return found

    monkeypatch.setattr(DaySnapshot, "devices", and_change)
    await archived(ours, place)
    assert in_archive(root, METER, DAY) == before
    assert [day.readings for day in (await archived(ours, place)).days] == [7]


async def test_a_partition_that_is_in_use_is_dropped_later_without_being_archived_again(
    ours: AsyncConnection[Any], database_url: str, place: DayStore
) -> None:
    day = days_ago(RETENTION_DAYS).replace(day=1) - timedelta(days=1)  # of the month before the floor's
    await store(ours, METER, day, {("m", 7): a_row(METER)})
    await archived(ours, place)
    with psycopg.connect(database_url) as reader:
        reader.execute("SELECT count(*) FROM meter_telemetry_history")  # holds its lock until it ends
        assert (await maintained(ours, place)).in_use == ["meter_telemetry_history"]
    assert await waiting(ours, place) == []
    assert (await maintained(ours, place)).dropped == [f"meter_telemetry_history_{day:%Y%m%d}"]


async def test_two_at_once_archive_each_day_once(ingestion_url: str, ours: AsyncConnection[Any], root: Path) -> None:
    for days in (8, 7, 6, 5):
        await store(ours, METER, days_ago(days), {("m", 7): a_row(METER)})

    async def one() -> list[date]:
        parameters = connection_parameters(ingestion_url, "test")
        async with await AsyncConnection.connect(**parameters, autocommit=True) as mine:
            done = await archived(mine, DayStore(archive_url(str(root)), 30))
            return [day.day for day in done.days]

    archived_days = await asyncio.gather(one(), one())
    assert sorted(len(each) for each in archived_days) == [0, 4]


async def test_whoever_waits_too_long_for_another_session_is_told(
    ingestion_url: str, ours: AsyncConnection[Any], place: DayStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shared.archive.archiving.BUSY_TIMEOUT_S", 0.3)
    parameters = connection_parameters(ingestion_url, "test")
    async with await AsyncConnection.connect(**parameters, autocommit=True) as another:
        assert await may_maintain(another)
        with pytest.raises(ArchiverBusy, match="run the command again"):
            await archived(ours, place)


async def test_what_reads_back_otherwise_does_not_count(
    ours: AsyncConnection[Any], root: Path, place: DayStore
) -> None:
    await store(ours, METER, DAY, {("m", 7): a_row(METER)})

    def damage(passed: str) -> None:
        if passed == "put_aside":
            [aside] = (root / ".aside").iterdir()
            aside.write_bytes(aside.read_bytes()[:-1])

    with pytest.raises(NotWhatWasWritten, match="does not count as archived"):
        await archived(ours, place, pass_fail_point=damage)
    assert await recorded(ours, str(place.url)) == []
    assert list(root.glob("kind=*")) == []
    await archived(ours, place)
    assert list((root / ".aside").iterdir()) == []


@pytest.mark.one_server
async def test_killed_between_any_two_steps_it_goes_on_and_no_reader_sees_a_day_twice(
    ours: AsyncConnection[Any], ingestion_url: str, database_url: str, root: Path, place: DayStore
) -> None:
    days = [days_ago(days) for days in (10, 9, 8, 7)]
    for seed, day in enumerate(days):
        await store(ours, METER, day, some_rows(METER, seed, readings=5))
    assert run_archiver(ingestion_url, str(root), "") == 0
    for day in days:
        await store(ours, METER, day, {("late", 99): a_row(METER)})
    versions = {day: in_archive(root, METER, day) for day in days}

    for at in ("day_written:2", "put_aside:1", "renamed:1", "recorded:1"):
        assert run_archiver(ingestion_url, str(root), at) == -signal.SIGKILL
        for day in days:  # the one version or the other, whole and once
            assert in_archive(root, METER, day) in (versions[day], in_database(database_url, METER, day))
        for each in await recorded(ours, str(place.url)):
            assert each.readings in (len(versions[each.day]), len(versions[each.day]) + 1)
    assert len((await checked(ours, place)).problems) == len(await waiting(ours, place)) > 0
    assert run_archiver(ingestion_url, str(root), "") == 0
    assert (await checked(ours, place)).problems == []
    for day in days:
        assert in_archive(root, METER, day) == in_database(database_url, METER, day)


async def waiting(connection: AsyncConnection[Any], place: DayStore) -> list[date]:
    return [each.day for each in await waiting_days(connection, str(place.url), system_clock(), 2)]


async def test_a_full_disk_is_told_with_where_and_the_day_waits(
    ours: AsyncConnection[Any], place: DayStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    await store(ours, METER, DAY, {("m", 7): a_row(METER)})

    def fill(writer: DayWriter, table: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as full:
        full.setattr(DayWriter, "write", fill)
        with pytest.raises(PackingFailed, match=r"energyfleet-archive-.*: .*No space left on device; .*TMPDIR"):
            await archived(ours, place)
    assert await waiting(ours, place) == [DAY]
    assert len((await archived(ours, place)).days) == 1


async def test_files_that_were_cut_changed_removed_or_added_are_named_with_what_to_do(
    ours: AsyncConnection[Any], root: Path, place: DayStore
) -> None:
    days = [days_ago(days) for days in (9, 8, 7, 6)]
    for day in days:
        await store(ours, METER, day, {(f"m{at}", at): a_row(METER) for at in range(50)})
    await archived(ours, place)
    files = [root / f"kind=meter/day={day}/readings.parquet" for day in days]
    files[0].write_bytes(files[0].read_bytes()[:-10])
    changed = bytearray(files[1].read_bytes())
    changed[100] ^= 1
    files[1].write_bytes(changed)
    files[2].unlink()
    files[3].with_name("copy.parquet").write_bytes(files[3].read_bytes())

    found = await checked(ours, place)
    told = dict(zip(("cut", "changed", "missing", "added"), found.problems, strict=True))
    assert "it was cut short" in told["cut"]
    assert "was changed: its SHA-256" in told["changed"]
    assert "is missing; the database has the day: `energyfleet archive --check --repair`" in told["missing"]
    assert f"{files[3].with_name('copy.parquet')} is not recorded" in told["added"]
    for file, problem in zip(files, found.problems, strict=False):
        assert str(file.parent) in problem

    await repair(ours, found)
    assert await waiting(ours, place) == days[:3]
    await archived(ours, place)
    assert len((await checked(ours, place)).problems) == 1


async def test_retention_waits_for_the_archive_and_drops_nothing_that_is_not_there_as_it_is(
    ours: AsyncConnection[Any], database_url: str, place: DayStore
) -> None:
    days = [days_ago(days) for days in (43, 42, 41)]
    for day in days:
        await store(ours, METER, day, {("m", 7): a_row(METER)})
    done = await maintained(ours, place)
    assert (done.held_day, done.dropped, done.floor_day) == (days[0], [], days[0])

    await archived(ours, place)
    await store(ours, METER, days[1], {("m", 8): a_row(METER)})
    done = await maintained(ours, place)
    assert (done.held_day, done.floor_day) == (days[1], days[1])
    assert done.dropped == [f"meter_telemetry_history_{days[0]:%Y%m%d}"]
    assert await waiting(ours, place) == [days[1]]  # and no other for the marks that went with the day before

    await archived(ours, place)
    done = await maintained(ours, place)
    assert (done.held_day, done.floor_day) == (None, days_ago(RETENTION_DAYS))
    assert len(in_database(database_url, METER, days[1])) == 0
    assert (await checked(ours, place)).problems == []


async def test_a_reading_that_comes_between_the_floor_and_the_drop_holds_its_day(
    ours: AsyncConnection[Any], place: DayStore
) -> None:
    day = days_ago(45)
    await store(ours, METER, day, {("m", 7): a_row(METER)})
    await archived(ours, place)
    await ours.execute("SELECT move_archived_retention_floor(now(), %s, %s)", (RETENTION_DAYS, str(place.url)))
    await store(ours, METER, day, {("m", 8): a_row(METER)}, may_be_new=False)  # from whoever knew the partition
    done = await maintained(ours, place)
    assert (done.held_day, done.dropped) == (day, [])
    await archived(ours, place)
    done = await maintained(ours, place)
    assert (done.held_day, done.dropped) == (None, [f"meter_telemetry_history_{day:%Y%m%d}"])


async def test_a_month_of_sealed_days_goes_when_all_of_them_are_archived_as_they_are(
    ours: AsyncConnection[Any], place: DayStore, root: Path
) -> None:
    first = days_ago(80).replace(day=1)
    days = [first, first + timedelta(days=3)]
    for day in days:
        await store(ours, METER, day, {("m", 0): a_row(METER), ("n", 7): a_row(METER)})
    await seal(ours, system_clock(), 2, drop_after_s=0)
    assert (await maintained(ours, place)).held_day == days[0]
    await archived(ours, place)
    assert (await maintained(ours, place)).dropped == [f"meter_sealed_days_{first:%Y%m}"]
    assert [len(in_archive(root, METER, day)) for day in days] == [2, 2]
    assert await waiting(ours, place) == []


async def test_sealed_days_wait_too_and_without_an_archive_nothing_does(
    ours: AsyncConnection[Any], place: DayStore
) -> None:
    await store(ours, VEHICLE, days_ago(45), {("v", 7): a_row(VEHICLE)})
    await seal(ours, system_clock(), 2, drop_after_s=0)
    assert (await maintained(ours, place)).held_day == days_ago(45)
    done = await maintain(ours, system_clock(), RETENTION_DAYS, ROLLUP_RETENTION_DAYS)
    assert (done.held_day, done.floor_day) == (None, days_ago(RETENTION_DAYS))


async def test_the_archive_is_another_one_elsewhere(
    ours: AsyncConnection[Any], place: DayStore, tmp_path: Path
) -> None:
    await store(ours, METER, DAY, {("m", 7): a_row(METER)})
    await archived(ours, place)
    elsewhere = DayStore(archive_url(str(tmp_path / "elsewhere")), 30)
    assert [day.day for day in (await archived(ours, elsewhere)).days] == [DAY]
    assert (await checked(ours, place)).problems == []


async def test_a_day_that_was_dropped_in_part_does_not_take_the_place_of_the_whole(
    ours: AsyncConnection[Any], database_url: str, root: Path, place: DayStore
) -> None:
    await store(ours, METER, days_ago(45), {("a", 7): a_row(METER)})
    await seal(ours, system_clock(), 2, drop_after_s=0)
    await store(ours, METER, days_ago(45), {("b", 7): a_row(METER), ("c", 7): a_row(METER)})
    await archived(ours, place)
    await store(ours, METER, days_ago(45), {("b", 8): a_row(METER)})
    await maintain(ours, system_clock(), RETENTION_DAYS, ROLLUP_RETENTION_DAYS)  # by somebody who knows of no archive
    assert len(in_database(database_url, METER, days_ago(45))) == 1
    done = await archived(ours, place)
    assert (len(done.days), [each.day for each in done.left]) == (0, [days_ago(45)])
    assert len(in_archive(root, METER, days_ago(45))) == 3


async def test_the_service_tells_once_which_day_the_archive_holds_and_how_many_more(
    ours: AsyncConnection[Any], ingestion_url: str, place: DayStore, capsys: pytest.CaptureFixture[str]
) -> None:
    await store(ours, METER, days_ago(RETENTION_DAYS + 3), {("m", 7): a_row(METER)})
    held: list[int] = []
    maintenance = Maintenance(
        connection_parameters(ingestion_url, "test"),
        RETENTION_DAYS,
        ROLLUP_RETENTION_DAYS,
        system_clock,
        archive_url=str(place.url),
        on_retention_held=held.append,
    )
    await maintenance.round()
    await maintenance.round()
    assert held == [3, 3]
    assert capsys.readouterr().out.count("retention_held") == 1
    await archived(ours, place)
    await maintenance.round()
    assert held == [3, 3, 0]
