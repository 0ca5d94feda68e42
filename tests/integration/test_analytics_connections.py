"""What a question costs and survives: round trips, plans, cancelled callers, a database or a network that is away."""

import asyncio
import random
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import psycopg
import psycopg.conninfo
import pytest
from sqlalchemy import text

from analytics_svc.freshness import Found
from analytics_svc.queries import Queries
from analytics_svc.replica import ReplicaWatch
from shared import deadline
from shared.db.device_kind import VEHICLE
from shared.db.embedded import EmbeddedServer
from shared.errors import DatabaseUnavailable, DeadlinePassed
from shared.timestamps import US_PER_DAY, US_PER_HOUR, system_clock
from tests.integration.test_analytics_queries import MIDNIGHT_US, Rows, asking, totals_of

SESSION = text("SELECT pg_backend_pid() AS pid")


@pytest.fixture
def rows(database_url: str) -> Iterator[Rows]:
    with psycopg.connect(database_url, autocommit=True) as connection:
        yield Rows(connection)


@pytest.fixture
def reader_url(postgres: EmbeddedServer, database: str) -> str:
    """The test's database for the role that the service has in production."""
    return postgres.url(database, role="energyfleet_analytics")


async def test_a_question_is_one_round_trip_and_planned_once_for_the_days_of_a_short_window(
    rows: Rows, reader_url: str, tmp_path: Path
) -> None:
    rows.vehicle("car")
    async with asking(reader_url, pool_size=1) as queries:
        for hours in range(1, 21):  # more than the 5 after which the server keeps a plan, unless it is told otherwise
            await totals_of(queries, MIDNIGHT_US + hours * US_PER_HOUR, MIDNIGHT_US + US_PER_DAY)
            await totals_of(queries, MIDNIGHT_US - 30 * US_PER_DAY, MIDNIGHT_US + hours * US_PER_HOUR)
        [session] = queries.reader._idle
        cursor = await session.execute("SELECT name, generic_plans, custom_plans FROM pg_prepared_statements")
        planned = {name: (generic, custom) for name, generic, custom in await cursor.fetchall()}
        with (tmp_path / "trace").open("w+b") as trace:
            session.pgconn.trace(trace.fileno())
            await totals_of(queries, MIDNIGHT_US + US_PER_HOUR, MIDNIGHT_US + US_PER_DAY)
            session.pgconn.untrace()
            trace.seek(0)
            lines = (line.split(b"\t") for line in trace.read().splitlines())
            sent = [line[3] for line in lines if len(line) > 3 and line[1] == b"F"]
    assert planned == {"preamble": (35, 5), "question_0": (20, 0), "question_1": (0, 20)}
    assert [each.split()[0] for each in sent] == [b"Query"]
    assert b"BEGIN" not in sent[0]


async def _until_waiting_for_a_lock(rows: Rows, expected: int) -> set[int]:
    while True:
        found = rows.connection.execute(
            "SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
        ).fetchall()
        if len(found) == expected:
            return {pid for (pid,) in found}
        await asyncio.sleep(0.01)


def _sessions(rows: Rows) -> set[int]:
    found = rows.connection.execute(
        "SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND application_name = 'test'"
    )
    return {pid for (pid,) in found}


async def test_cancelled_callers_never_cost_a_connection(rows: Rows, database_url: str, reader_url: str) -> None:
    rows.vehicle("car")
    async with asking(reader_url, pool_size=3) as queries:
        with psycopg.connect(database_url) as lock:
            lock.execute("LOCK TABLE vehicles IN ACCESS EXCLUSIVE MODE")
            calls = [asyncio.create_task(queries.status(VEHICLE, "car")) for _ in range(50)]
            pids = await _until_waiting_for_a_lock(rows, 3)
            for call in calls:
                call.cancel()
            ends = await asyncio.gather(*calls, return_exceptions=True)
            assert all(isinstance(end, asyncio.CancelledError) for end in ends)
        answers = await asyncio.gather(*(queries.status(VEHICLE, "car") for _ in range(50)))
        assert [answer.value for answer in answers] == [Found(None, None)] * 50
        assert _sessions(rows) == pids


@pytest.mark.parametrize("cancellations", [1, 3], ids=["once", "and again as they clean up"])
async def test_calls_cancelled_at_any_turn_of_the_event_loop_end_and_leave_the_pool_whole(
    rows: Rows, reader_url: str, cancellations: int
) -> None:
    """Alone and in crowds, where a connection goes from one call to the next. Cancelling a call again costs its
    connection, but not its place in the pool."""
    nap = text("SELECT pg_sleep(0.001)")
    long_nap = text("SELECT pg_backend_pid() AS pid FROM pg_sleep(0.1)")
    chance = random.Random(cancellations)

    async def cancelled_calls(queries: Queries, crowd: int) -> None:
        async def cancelled_call() -> None:
            call = asyncio.create_task(queries.reader.ask(nap, {}))
            turns, cancelled = chance.randrange(chance.choice((5, 60, 300))), False
            for _ in range(cancellations):
                for _ in range(turns):
                    await asyncio.sleep(0)
                cancelled = call.cancel() or cancelled
                turns = chance.randrange(4)
            end = (await asyncio.gather(call, return_exceptions=True))[0]
            assert isinstance(end, asyncio.CancelledError) or not cancelled

        await asyncio.gather(*(cancelled_call() for _ in range(crowd)))

    async def pids(queries: Queries) -> set[int]:
        answers = await asyncio.gather(*(queries.reader.ask(long_nap, {}) for _ in range(3)))
        return {answer.value[0].pid for answer in answers}

    async with asking(reader_url, pool_size=3) as queries:
        before, tasks = await pids(queries), asyncio.all_tasks()
        for crowd in (*[1] * 300, *[30] * 30):
            await cancelled_calls(queries, crowd)
        assert asyncio.all_tasks() == tasks
        after = await pids(queries)
        assert len(after) == 3
        assert after == before or cancellations > 1
        while _sessions(rows) != after:  # one that was closed takes a moment to end
            await asyncio.sleep(0.01)


async def test_a_request_to_cancel_never_meets_the_next_question(reader_url: str) -> None:
    nap, next_question = text("SELECT pg_sleep(0.002)"), text("SELECT 7 AS seven")
    async with asking(reader_url, pool_size=1) as queries:
        first = await queries.reader.ask(SESSION, {})
        for turns in range(300):
            call = asyncio.create_task(queries.reader.ask(nap, {}))
            for _ in range(turns % 60):
                await asyncio.sleep(0)
            call.cancel()
            assert (await queries.reader.ask(next_question, {})).value == [(7,)]
        assert (await queries.reader.ask(SESSION, {})).value == first.value


async def test_a_session_keeps_no_more_statements_than_it_may(
    rows: Rows, reader_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Questions about other days are other statements; answers stay right when these have to be prepared again."""
    monkeypatch.setattr("analytics_svc.reader.PREPARED_MAX", 5)
    car = rows.vehicle("car")
    rows.delivered(car, *((MIDNIGHT_US + day * US_PER_DAY + 1, float(day)) for day in range(10)))
    kept = text("SELECT count(*) FROM pg_prepared_statements")
    async with asking(reader_url, pool_size=1) as queries:
        for day in (*range(10), 9, *range(10), 0, *range(8, -1, -1)):
            start_us = MIDNIGHT_US + day * US_PER_DAY
            totals = await totals_of(queries, start_us, start_us + 5)
            assert (totals.vehicle_readings, totals.kwh_delivered_dc) == (1, float(day))
            [(count,)] = (await queries.reader.ask(kept, {})).value
            assert 3 <= count <= 5


@pytest.mark.parametrize("times_before", range(8))
async def test_a_question_that_failed_at_any_time_can_be_asked_again(
    rows: Rows, database_url: str, reader_url: str, times_before: int
) -> None:
    """Also while it was being prepared, and after five times, when the server might keep a plan."""
    rows.vehicle("car")
    async with asking(reader_url, pool_size=1) as queries:
        for _ in range(times_before):
            await queries.status(VEHICLE, "car")
        with psycopg.connect(database_url) as lock:
            lock.execute("LOCK TABLE vehicles IN ACCESS EXCLUSIVE MODE")
            call = asyncio.create_task(queries.status(VEHICLE, "car"))
            pids = await _until_waiting_for_a_lock(rows, 1)
            call.cancel()
            await _until_waiting_for_a_lock(rows, 0)
        for _ in range(8):
            assert (await queries.status(VEHICLE, "car")).value == Found(None, None)
        assert _sessions(rows) == pids


async def test_a_request_to_cancel_that_overtakes_its_question_is_repeated(
    rows: Rows, reader_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    cancelled: list[psycopg.AsyncConnection[Any]] = []
    cancel_safe = psycopg.AsyncConnection.cancel_safe

    async def lost_at_first(connection: psycopg.AsyncConnection[Any], *, timeout: float) -> None:
        cancelled.append(connection)
        if len(cancelled) > 1:
            await cancel_safe(connection, timeout=timeout)

    monkeypatch.setattr(psycopg.AsyncConnection, "cancel_safe", lost_at_first)
    async with asking(reader_url, pool_size=1) as queries:
        call = asyncio.create_task(queries.reader.ask(text("SELECT pg_sleep(10)"), {}))
        asleep = "SELECT FROM pg_stat_activity WHERE datname = current_database() AND wait_event = 'PgSleep'"
        while rows.connection.execute(asleep).fetchone() is None:
            await asyncio.sleep(0.01)
        call.cancel()
        async with asyncio.timeout(5):
            await queries.reader.ask(SESSION, {})
    assert len(cancelled) == 2


async def test_a_question_that_the_server_ends_as_its_caller_leaves_costs_no_connection(
    rows: Rows, reader_url: str
) -> None:
    """Also when this process is busy and notices late."""
    async with asking(reader_url, pool_size=1) as queries:
        first = await queries.reader.ask(SESSION, {})
        deadline.set_time_remaining(0.5)
        call = asyncio.create_task(queries.reader.ask(text("SELECT pg_sleep(10)"), {}))
        deadline.set_time_remaining(None)
        asleep = "SELECT FROM pg_stat_activity WHERE datname = current_database() AND wait_event = 'PgSleep'"
        while rows.connection.execute(asleep).fetchone() is None:
            await asyncio.sleep(0.01)
        while rows.connection.execute(asleep).fetchone() is not None:
            pass  # without a turn for the event loop
        with pytest.raises(DeadlinePassed):
            await call
        assert (await queries.reader.ask(SESSION, {})).value == first.value


async def test_the_server_knows_how_long_the_caller_waits(reader_url: str) -> None:
    """So that a question ends in time even if this process dies before it can cancel it."""
    timeout_ms = text("SELECT CAST(setting AS integer) AS ms FROM pg_settings WHERE name = 'statement_timeout'")

    async def timeout_seen_ms(time_remaining_s: float | None) -> int:
        deadline.set_time_remaining(time_remaining_s)
        [(ms,)] = (await queries.reader.ask(timeout_ms, {})).value
        return int(ms)

    async with asking(reader_url, pool_size=1, timeout_s=10.0) as queries:
        assert 1_000 < await timeout_seen_ms(2.0) <= 2_001
        assert 9_000 < await timeout_seen_ms(None) <= 10_001
        assert 9_000 < await timeout_seen_ms(60.0) <= 10_001
        with pytest.raises(DeadlinePassed):
            await timeout_seen_ms(0.0)
        assert 9_000 < await timeout_seen_ms(None) <= 10_001
        [session] = queries.reader._idle
        assert await (await session.execute(timeout_ms.text)).fetchone() == (10_000,)


async def test_answers_of_a_primary_are_dated_between_question_and_answer(rows: Rows, reader_url: str) -> None:
    rows.vehicle("car")
    async with asking(reader_url) as queries:
        asked_us = system_clock()
        answer = await queries.status(VEHICLE, "car")
        assert asked_us <= answer.as_of_us <= system_clock()
        assert await queries.replica_lag_us() == 0


async def test_a_database_that_does_not_answer_in_time_is_unavailable_and_then_recovers(
    rows: Rows, database_url: str, reader_url: str
) -> None:
    rows.vehicle("car")
    async with asking(reader_url, pool_size=2, timeout_s=0.2) as queries:
        with psycopg.connect(database_url) as lock:
            lock.execute("LOCK TABLE vehicles IN ACCESS EXCLUSIVE MODE")
            async with asyncio.timeout(2):
                ends = await asyncio.gather(
                    *(queries.status(VEHICLE, "car") for _ in range(10)), return_exceptions=True
                )
            assert [type(end) for end in ends] == [DatabaseUnavailable] * 10
        while True:
            try:
                assert (await queries.status(VEHICLE, "car")).value == Found(None, None)
                return
            except DatabaseUnavailable:
                await asyncio.sleep(0.01)


@asynccontextmanager
async def freezable(url: str, thawed: asyncio.Event) -> AsyncIterator[str]:
    """A URL of the same database over a network that forwards while `thawed` is set, or else holds all back."""
    asked = psycopg.conninfo.conninfo_to_dict(url)

    async def forward(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        try:
            with suppress(ConnectionError):
                while some := await source.read(65_536):
                    await thawed.wait()
                    sink.write(some)
        finally:
            sink.close()

    async def connect(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        server_reader, server_writer = await asyncio.open_unix_connection(f"{asked['host']}/.s.PGSQL.5432")
        await asyncio.gather(forward(reader, server_writer), forward(server_reader, writer))

    async with await asyncio.start_server(connect, "127.0.0.1", 0) as network:
        port = network.sockets[0].getsockname()[1]
        yield f"postgresql://{asked['user']}@127.0.0.1:{port}/{asked['dbname']}"


@pytest.mark.parametrize("warm", [True, False], ids=["in the middle of a session", "before the first session"])
async def test_a_network_that_swallows_everything_is_noticed_in_time_and_survived(
    rows: Rows, database_url: str, warm: bool
) -> None:
    rows.vehicle("car")
    thawed = asyncio.Event()
    async with freezable(database_url, thawed) as url, asking(url, pool_size=2, timeout_s=0.2) as queries:
        if warm:
            thawed.set()
            assert (await queries.status(VEHICLE, "car")).value == Found(None, None)
            thawed.clear()
        async with asyncio.timeout(2):
            ends = await asyncio.gather(*(queries.status(VEHICLE, "car") for _ in range(5)), return_exceptions=True)
            assert [type(end) for end in ends] == [DatabaseUnavailable] * 5
            with pytest.raises(DatabaseUnavailable):
                await queries.replica_lag_us()
        thawed.set()
        while True:
            with suppress(DatabaseUnavailable):  # each look takes its time
                await queries.replica_lag_us()
                break
        answers = await asyncio.gather(*(queries.status(VEHICLE, "car") for _ in range(5)))
        assert [answer.value for answer in answers] == [Found(None, None)] * 5


async def test_a_session_killed_between_two_questions_is_replaced_unnoticed(rows: Rows, reader_url: str) -> None:
    rows.vehicle("car")
    kill = "SELECT pg_terminate_backend(pid) FROM unnest(%s::int[]) AS pid"
    async with asking(reader_url) as queries:
        assert (await queries.status(VEHICLE, "car")).value == Found(None, None)
        rows.connection.execute(kill, (list(_sessions(rows)),))
        assert (await queries.status(VEHICLE, "car")).value == Found(None, None)


async def test_a_database_that_is_away_is_not_fit_to_serve(postgres: EmbeddedServer, reader_url: str) -> None:
    async with asking(reader_url) as queries:
        assert await ReplicaWatch(queries.replica_lag_us, 1.0, lambda lag_s: None).fit_to_serve()
    async with asking(postgres.url("no_such_database")) as elsewhere:
        assert not await ReplicaWatch(elsewhere.replica_lag_us, 1.0, lambda lag_s: None).fit_to_serve()
