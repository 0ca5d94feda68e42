"""Answers from a real streaming replica, under the roles of `compose.yaml`: dated, and honest when it lags."""

import asyncio
import shutil
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager

import grpc
import psycopg
import pytest
from energyfleet.v1 import analytics_service_pb2 as wire
from energyfleet.v1 import ingestion_service_pb2 as ingestion_wire
from energyfleet.v1.analytics_service_pb2_grpc import AnalyticsServiceStub
from energyfleet.v1.ingestion_service_pb2_grpc import IngestionServiceStub
from google.protobuf.timestamp_pb2 import Timestamp
from grpc_health.v1 import health_pb2
from psycopg import sql
from sqlalchemy import text

import analytics_svc.__main__
import ingestion_svc.__main__
from analytics_svc.queries import Queries
from analytics_svc.reader import Reader
from ingestion_svc.heartbeat import Heartbeat
from shared.config import AnalyticsSettings, IngestionSettings
from shared.db.embedded import EmbeddedServer
from shared.db.engine import connection_parameters
from shared.db.migrate import SchemaOutdated, migrate, require_usable_database
from shared.errors import DatabaseUnavailable
from shared.timestamps import system_clock, us_from_proto
from tests.acceptance.test_analytics_faults import health_becomes
from tests.builders import a_vehicle_reading
from tests.conftest import POSTGRES_15_BIN_DIR
from tests.replicas import DATABASE, as_login, deployed_server, replica_of

SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING

LAG_MAX_S = 2.0
"""More than the second between two beats."""


@pytest.fixture(scope="module", params=["postgres-18", "postgres-15"])
def primary(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedServer]:
    """A migrated primary with the roles of production."""
    if request.param == "postgres-15" and not POSTGRES_15_BIN_DIR.exists():
        pytest.skip(f"no PostgreSQL 15 in {POSTGRES_15_BIN_DIR}")
    data_dir = tmp_path_factory.mktemp(request.param)
    with deployed_server(data_dir, POSTGRES_15_BIN_DIR if request.param == "postgres-15" else None) as server:
        migrate(as_login(server.url(DATABASE), "energyfleet_owner"))
        yield server
    shutil.rmtree(data_dir)


@pytest.fixture(scope="module")
def replica(primary: EmbeddedServer) -> Iterator[EmbeddedServer]:
    data_dir = primary.data_dir.parent / "replica"
    with replica_of(primary, data_dir) as server:
        yield server


@pytest.fixture
def replica_url(replica: EmbeddedServer) -> str:
    return as_login(replica.url(DATABASE), "analytics_svc")


@pytest.fixture
def admin(replica: EmbeddedServer) -> Iterator[psycopg.Connection]:
    """The replica for its superuser."""
    with psycopg.connect(replica.url(DATABASE), autocommit=True) as connection:
        yield connection


@asynccontextmanager
async def ingesting(primary: EmbeddedServer) -> AsyncIterator[grpc.aio.Channel]:
    settings = IngestionSettings(
        database_url=as_login(primary.url(DATABASE), "ingestion_svc"), ingestion_address="127.0.0.1:0"
    )
    async with ingestion_svc.__main__.serving(settings) as (_, address), grpc.aio.insecure_channel(address) as channel:
        yield channel


@asynccontextmanager
async def answering(replica_url: str) -> AsyncIterator[grpc.aio.Channel]:
    settings = AnalyticsSettings(
        database_url="postgresql://nobody@/nowhere",
        analytics_database_url=replica_url,
        replica_lag_max_s=LAG_MAX_S,
        analytics_address="127.0.0.1:0",
        health_interval_s=0.05,
    )
    async with analytics_svc.__main__.serving(settings) as (_, address), grpc.aio.insecure_channel(address) as channel:
        yield channel


async def acknowledged(channel: grpc.aio.Channel) -> tuple[Timestamp, int]:
    """Sends a reading of `car` through ingestion; its timestamp, and when it was known to be committed."""
    reading = a_vehicle_reading("car", system_clock())
    answer = await IngestionServiceStub(channel).IngestTelemetry(
        ingestion_wire.IngestTelemetryRequest(readings=[reading])
    )
    assert answer.summary.stored == 1
    return reading.vehicle.timestamp, system_clock()


async def status(channel: grpc.aio.Channel) -> wire.GetVehicleStatusResponse:
    return await AnalyticsServiceStub(channel).GetVehicleStatus(wire.GetVehicleStatusRequest(vehicle_id="car"))


async def status_as_of(channel: grpc.aio.Channel, committed_us: int) -> wire.GetVehicleStatusResponse:
    """The first answer that is dated past an instant."""
    async with asyncio.timeout(20):
        while True:
            answer = await status(channel)
            assert us_from_proto(answer.as_of) <= system_clock()
            if us_from_proto(answer.as_of) > committed_us:
                return answer
            await asyncio.sleep(0.01)


async def test_a_replica_answers_what_was_committed_and_does_not_serve_while_it_lags(
    primary: EmbeddedServer, replica_url: str, admin: psycopg.Connection
) -> None:
    async with ingesting(primary) as ingestion:
        await acknowledged(ingestion)
        await reaches(replica_url, system_clock())
        async with answering(replica_url) as analytics:
            await health_becomes(analytics, SERVING)
            before, committed_us = await acknowledged(ingestion)
            assert (await status_as_of(analytics, committed_us)).reading.timestamp == before

            admin.execute("SELECT pg_wal_replay_pause()")
            while admin.execute("SELECT pg_get_wal_replay_pause_state()").fetchone() != ("paused",):
                await asyncio.sleep(0.01)
            while_paused, committed_us = await acknowledged(ingestion)
            async with asyncio.timeout(20):
                await health_becomes(analytics, NOT_SERVING)
            answer = await status(analytics)
            assert answer.reading.timestamp == before
            assert us_from_proto(answer.as_of) < committed_us

            admin.execute("SELECT pg_wal_replay_resume()")
            async with asyncio.timeout(20):
                await health_becomes(analytics, SERVING)
            assert (await status_as_of(analytics, committed_us)).reading.timestamp == while_paused


async def reaches(replica_url: str, instant_us: int) -> None:
    """Waits until answers from the replica are dated past an instant."""
    reader = Reader(replica_url, "test", pool_size=1, timeout_s=10)
    async with asyncio.timeout(20):
        while (await reader.ask(text("SELECT 1"), {})).as_of_us <= instant_us:
            await asyncio.sleep(0.01)
    await reader.close()


async def test_all_that_was_committed_before_as_of_is_in_the_answer(primary: EmbeddedServer, replica_url: str) -> None:
    """On the replica as on the primary, with a commit and a beat at every moment."""
    owner_url = as_login(primary.url(DATABASE), "energyfleet_owner")
    committed_us: list[int] = []  # when the transaction of that number was known to be committed
    reached = asyncio.Event()

    async def commit() -> None:
        async with await psycopg.AsyncConnection.connect(owner_url, autocommit=True) as connection:
            while not reached.is_set():
                await connection.execute("INSERT INTO meters (meter_id) VALUES (%s)", (f"n-{len(committed_us)}",))
                committed_us.append(system_clock())

    count = text("SELECT count(*) AS n FROM meters WHERE meter_id LIKE 'n-%'")
    heartbeat = Heartbeat(connection_parameters(owner_url, "test"), interval_s=0.001)
    readers = [Reader(url, "test", pool_size=1, timeout_s=10) for url in (owner_url, replica_url)]
    heartbeat.start()
    committing = asyncio.create_task(commit())
    try:
        for _ in range(150):
            for reader in readers:
                answer = await reader.ask(count, {})
                [(told,)] = answer.value
                missing = [n for n, at_us in enumerate(committed_us) if n >= told and at_us < answer.as_of_us]
                assert not missing
    finally:
        reached.set()
        await committing
        await heartbeat.close()
        for reader in readers:
            await reader.close()
    assert len(committed_us) > 150


async def test_charging_sessions_are_answered_from_a_replica(primary: EmbeddedServer, replica_url: str) -> None:
    async with ingesting(primary) as ingestion, answering(replica_url) as analytics:
        last, committed_us = await acknowledged(ingestion)
        await reaches(replica_url, committed_us)
        asked = wire.ListChargingSessionsRequest(vehicle_id="car")
        answer = await AnalyticsServiceStub(analytics).ListChargingSessions(asked)
        assert answer.sessions[-1].window.end == last
        assert answer.sessions[-1].open
        assert us_from_proto(answer.as_of) >= committed_us


async def test_a_replica_that_lacks_nothing_does_not_lag_and_one_that_is_cut_off_does(
    primary: EmbeddedServer, replica_url: str, admin: psycopg.Connection
) -> None:
    """No ingestion runs, so that the heartbeat grows old."""
    queries = Queries(replica_url, "test", pool_size=1, timeout_s=10)

    async def lag_becomes(*, present: bool) -> None:
        async with asyncio.timeout(20):
            while (await queries.replica_lag_us() > 0) is not present:
                await asyncio.sleep(0.01)

    await lag_becomes(present=False)
    [connected] = admin.execute("SHOW primary_conninfo").fetchone() or ("",)
    admin.execute("ALTER SYSTEM SET primary_conninfo = ''")
    admin.execute("SELECT pg_reload_conf()")
    await lag_becomes(present=True)
    admin.execute(sql.SQL("ALTER SYSTEM SET primary_conninfo = {}").format(connected))
    admin.execute("SELECT pg_reload_conf()")
    await lag_becomes(present=False)
    await queries.close()


async def test_a_question_that_replay_had_to_break_off_may_be_asked_again(
    primary: EmbeddedServer, replica_url: str, admin: psycopg.Connection
) -> None:
    admin.execute("ALTER SYSTEM SET max_standby_streaming_delay = 0")
    admin.execute("SELECT pg_reload_conf()")
    reader = Reader(replica_url, "test of conflicts", pool_size=1, timeout_s=20)
    slow = asyncio.create_task(reader.ask(text("SELECT count(*), pg_sleep(20) FROM vehicles"), {}))
    asleep = "SELECT FROM pg_stat_activity WHERE application_name = 'test of conflicts' AND wait_event = 'PgSleep'"
    while admin.execute(asleep).fetchone() is None:
        await asyncio.sleep(0.01)
    with psycopg.connect(as_login(primary.url(DATABASE), "energyfleet_owner")) as connection:
        connection.execute("LOCK TABLE vehicles IN ACCESS EXCLUSIVE MODE")
        connection.execute("SELECT pg_current_xact_id()")
    with pytest.raises(DatabaseUnavailable) as unavailable:
        await slow
    assert unavailable.value.sqlstate == "40001"
    assert (await reader.ask(text("SELECT 7 AS seven"), {})).value == [(7,)]
    await reader.close()
    admin.execute("ALTER SYSTEM RESET max_standby_streaming_delay")
    admin.execute("SELECT pg_reload_conf()")


async def test_a_replica_is_usable_and_one_without_the_schema_says_where_to_migrate(
    replica_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    await require_usable_database(replica_url, "test")
    monkeypatch.setattr("shared.db.migrate.head", lambda: "9998")
    with pytest.raises(SchemaOutdated, match="run `energyfleet migrate` on its primary, for this is a replica"):
        await require_usable_database(replica_url, "test")


def test_the_role_of_analytics_can_write_nothing(primary: EmbeddedServer) -> None:
    """Not even where it takes back that its sessions are for reading only."""
    with psycopg.connect(as_login(primary.url(DATABASE), "analytics_svc"), autocommit=True) as connection:
        writable = connection.execute(
            "SELECT oid::regclass FROM pg_class WHERE relnamespace = 'public'::regnamespace AND CASE relkind"
            " WHEN 'S' THEN has_sequence_privilege(oid, 'USAGE, UPDATE') WHEN 'i' THEN false ELSE"
            " has_table_privilege(oid, 'INSERT, UPDATE, DELETE, TRUNCATE, REFERENCES, TRIGGER')"
            " OR has_any_column_privilege(oid, 'INSERT, UPDATE, REFERENCES') END"
        ).fetchall()
        callable_as_owner = connection.execute(
            "SELECT oid::regprocedure FROM pg_proc WHERE pronamespace = 'public'::regnamespace AND prosecdef"
            " AND has_function_privilege(oid, 'EXECUTE')"
        ).fetchall()
        rights = connection.execute(
            "SELECT has_schema_privilege('public', 'CREATE'), has_database_privilege(current_database(), 'CREATE'),"
            " has_database_privilege(current_database(), 'TEMPORARY'), pg_has_role('energyfleet_owner', 'MEMBER'),"
            " rolsuper OR rolcreatedb OR rolcreaterole OR rolreplication OR rolbypassrls"
            " FROM pg_roles WHERE rolname = current_user"
        ).fetchone()
    assert (writable, callable_as_owner) == ([], [])
    assert rights == (False,) * 5
