"""The archive in an object store: a real S3 server, and one that is away, slow, or answers half."""

import socket
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
from psycopg import AsyncConnection

from shared.archive.archive_check import check
from shared.archive.archive_errors import BadArchiveUrl, StoreFailed, StoreTooSlow
from shared.archive.archive_url import archive_url
from shared.archive.archiving import archive
from shared.archive.day_store import DayStore, file_of
from shared.db.archive_days import recorded
from shared.db.device_kind import METER
from shared.db.embedded import EmbeddedServer
from shared.db.engine import connection_parameters
from shared.timestamps import system_clock
from tests.archives import CREDENTIALS, a_row, bad_network, days_ago, in_database, s3_server, s3_url, store

pytestmark = pytest.mark.one_server

DAY = days_ago(5)


@pytest.fixture(scope="module")
def s3() -> Iterator[int]:
    with s3_server() as port:
        yield port


@pytest.fixture(autouse=True)
def _credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in CREDENTIALS.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr("shared.archive.day_store.CONNECT_TIMEOUT_S", 0.5)
    monkeypatch.setattr("shared.archive.day_store.ATTEMPTS", 1)


@pytest.fixture
async def ours(postgres: EmbeddedServer, database: str) -> AsyncIterator[AsyncConnection[Any]]:
    parameters = connection_parameters(postgres.url(database, role="energyfleet_ingestion"), "test")
    async with await AsyncConnection.connect(**parameters, autocommit=True) as mine:
        await store(mine, METER, DAY, {(f"m{at}", at): a_row(METER) for at in range(100)})
        yield mine


async def test_a_day_in_a_bucket_is_what_was_stored_and_is_found_when_it_is_cut(
    ours: AsyncConnection[Any], database_url: str, s3: int, tmp_path: Path
) -> None:
    bucket = DayStore(archive_url(s3_url(s3, "one")), 30)
    await bucket.put_aside(_a_file(tmp_path), "meter", DAY)  # as one that was killed has left it
    done = await archive(ours, bucket, system_clock(), 2)
    assert [day.url for day in done.days] == ["s3://fleet/one"]
    assert await bucket.files() == {done.days[0].file: done.days[0].bytes}
    assert len(in_database(database_url, METER, DAY)) == done.days[0].readings
    assert (await check(ours, bucket, system_clock(), 2)).problems == []

    aside = await bucket.put_aside(_a_file(tmp_path), "meter", DAY)
    await bucket.publish(aside, file_of("meter", DAY))
    [problem] = (await check(ours, bucket, system_clock(), 2)).problems
    assert problem.startswith(f"s3://fleet/one/kind=meter/day={DAY}/readings.parquet has 10 bytes instead of")


def _a_file(directory: Path) -> Path:
    file = directory / "file"
    file.write_bytes(b"0123456789")
    return file


async def test_a_store_that_is_away_is_told_in_time_and_the_day_waits(ours: AsyncConnection[Any], s3: int) -> None:
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        nobody = DayStore(archive_url(s3_url(bound.getsockname()[1], "away")), 30)
        with pytest.raises(StoreFailed, match=r"s3://fleet/away: .* failed: .*credentials"):
            await archive(ours, nobody, system_clock(), 2)
    assert await recorded(ours, "s3://fleet/away") == []
    assert len((await archive(ours, DayStore(archive_url(s3_url(s3, "away")), 30), system_clock(), 2)).days) == 1


async def test_a_store_that_does_not_answer_is_given_up_in_time(ours: AsyncConnection[Any], s3: int) -> None:
    async with bad_network(s3, None) as port:
        slow = DayStore(archive_url(s3_url(port, "slow")), 0.5)
        with pytest.raises(StoreTooSlow, match=r"longer than 0\.5 s; .* or raise ENERGYFLEET_ARCHIVE_TIMEOUT_S"):
            await archive(ours, slow, system_clock(), 2)
    assert await recorded(ours, "s3://fleet/slow") == []


@pytest.mark.parametrize("bytes_through", [0, 40, 700])
async def test_a_store_that_answers_half_leaves_nothing_that_counts(
    ours: AsyncConnection[Any], s3: int, bytes_through: int
) -> None:
    path = f"half-{bytes_through}"
    async with bad_network(s3, bytes_through) as port:
        with pytest.raises((StoreFailed, StoreTooSlow)):
            await archive(ours, DayStore(archive_url(s3_url(port, path)), 5), system_clock(), 2)
    assert await recorded(ours, f"s3://fleet/{path}") == []
    whole = DayStore(archive_url(s3_url(s3, path)), 30)
    assert await whole.files() == {}
    await archive(ours, whole, system_clock(), 2)
    assert (await check(ours, whole, system_clock(), 2)).problems == []


async def test_a_bucket_that_is_not_there_is_told_with_what_to_look_at(ours: AsyncConnection[Any], s3: int) -> None:
    url = archive_url(s3_url(s3, "x").replace("fleet", "nowhere", 1))
    with pytest.raises(StoreFailed, match=r"s3://nowhere/x: .* see that the place is there"):
        await archive(ours, DayStore(url, 30), system_clock(), 2)


async def test_an_unknown_option_is_named(s3: int) -> None:
    with pytest.raises(BadArchiveUrl, match="unknown option endpoint"):
        await DayStore(archive_url(f"s3://fleet/x?endpoint=127.0.0.1:{s3}"), 30).files()
