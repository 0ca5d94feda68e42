"""The heartbeat that replicas are dated by."""

import asyncio
from collections.abc import Iterator
from datetime import datetime

import psycopg
import pytest

from ingestion_svc.heartbeat import Heartbeat
from shared.db.embedded import EmbeddedServer
from shared.db.engine import connection_parameters


@pytest.fixture
def connection(database_url: str) -> Iterator[psycopg.Connection]:
    with psycopg.connect(database_url, autocommit=True) as connected:
        yield connected


@pytest.fixture
def heartbeat(postgres: EmbeddedServer, database: str) -> Heartbeat:
    url = postgres.url(database, role="energyfleet_ingestion")
    return Heartbeat(connection_parameters(url, "heartbeat"), interval_s=0.01)


def beat_at(connection: psycopg.Connection) -> datetime:
    [at] = connection.execute("SELECT beat_at FROM heartbeat").fetchone() or (None,)
    assert isinstance(at, datetime)
    return at


def clock(connection: psycopg.Connection) -> datetime:
    [now] = connection.execute("SELECT clock_timestamp()").fetchone() or (None,)
    assert isinstance(now, datetime)
    return now


async def beats(connection: psycopg.Connection) -> None:
    """Waits for a beat that is later than now."""
    now = clock(connection)
    async with asyncio.timeout(10):
        while beat_at(connection) <= now:
            await asyncio.sleep(0.005)


async def test_it_beats_again_after_its_session_was_killed_and_a_last_time_when_it_is_closed(
    connection: psycopg.Connection, heartbeat: Heartbeat
) -> None:
    heartbeat.start()
    await beats(connection)
    killed = connection.execute(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
        " WHERE application_name = 'heartbeat' AND datname = current_database()"
    ).fetchall()
    assert killed == [(True,)]
    await beats(connection)
    before_close = clock(connection)
    await heartbeat.close()
    assert before_close < beat_at(connection) <= clock(connection)
