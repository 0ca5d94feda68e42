"""`energyfleet migrate --roles`: what each login can do, by TCP and with its password, and what it cannot."""

import shutil
import socket
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import grpc
import psycopg
import pytest
import uvloop
from energyfleet.v1 import analytics_service_pb2 as analytics_wire
from energyfleet.v1 import ingestion_service_pb2 as ingestion_wire
from energyfleet.v1.analytics_service_pb2_grpc import AnalyticsServiceStub
from energyfleet.v1.ingestion_service_pb2_grpc import IngestionServiceStub
from google.protobuf.empty_pb2 import Empty

import analytics_svc.__main__
import ingestion_svc.__main__
from shared.config import AnalyticsSettings, IngestionSettings, Settings
from shared.db.embedded import EmbeddedServer
from shared.db.migrate import head, migrate
from shared.db.roles import LOGINS, OWNER, PowerfulRoles, make_roles, read_passwords
from shared.timestamps import US_PER_DAY, US_PER_SECOND, proto_from_us, system_clock
from tests.acceptance.test_cli_up import an_environment, energyfleet
from tests.builders import a_meter_reading, a_vehicle_reading
from tests.conftest import POSTGRES_15_BIN_DIR, TEST_SETTINGS
from tests.replicas import as_login

DATABASE = "energyfleet"
SERVICES = ("ingestion_svc", "analytics_svc", "maintenance_svc")
PARTITION = f"meter_telemetry_history_{datetime.now(UTC) + timedelta(days=1):%Y%m%d}"

HBA = """
local all all trust
host all all 127.0.0.1/32 scram-sha-256
"""

OF_NOBODY = (
    "CREATE ROLE mine",
    "CREATE DATABASE mine",
    "ALTER ROLE postgres PASSWORD 'mine'",
    "ALTER DATABASE postgres RENAME TO mine",
    "ALTER SYSTEM SET fsync = off",
    "SELECT rolpassword FROM pg_authid",
    "SELECT pg_read_file('PG_VERSION')",
    "COPY (SELECT 1) TO PROGRAM 'true'",
    "SELECT lo_create(0)",
    "SELECT lo_creat(0)",
    "SELECT lo_from_bytea(0, 'mine')",
)
"""What not even the owner may do."""

OF_THE_OWNER = (
    "CREATE TABLE mine (a integer)",
    "CREATE SCHEMA mine",
    "CREATE FUNCTION mine() RETURNS integer LANGUAGE sql RETURN 1",
    "CREATE EXTENSION citext",
    "SET ROLE energyfleet_owner",
    "ALTER DATABASE energyfleet SET fsync = off",
    "DROP DATABASE energyfleet",
    "DROP TABLE meters",
    "DROP VIEW meter_energy_hourly",
    f"DROP TABLE {PARTITION}",
    "ALTER TABLE meters ADD COLUMN mine integer",
    "ALTER FUNCTION ensure_history_partition SECURITY INVOKER",
    "CREATE INDEX mine ON meters (meter_id)",
    "CREATE TRIGGER mine AFTER INSERT ON meters EXECUTE FUNCTION suppress_redundant_updates_trigger()",
    "TRUNCATE meter_telemetry_history",
    "TRUNCATE meter_closed_hours",
    "DO $$ BEGIN LOCK TABLE meters IN ACCESS EXCLUSIVE MODE; END $$",
    f"SELECT FROM {PARTITION}",
    "DELETE FROM meter_telemetry_history",
    "UPDATE meter_telemetry_history SET ts = now()",
    "UPDATE meter_telemetry_history SET voltage = 1",
    "DELETE FROM meters",
    "UPDATE meters SET meter_id = 'mine'",
    "UPDATE corrections SET author = 'mine'",
    "DELETE FROM corrections",
    "UPDATE mapping_changes SET note = NULL",
    "DELETE FROM mapping_changes",
    "INSERT INTO mapping_changes (changed_at) VALUES ('2020-01-01')",
    "UPDATE retention SET floor_day = '2099-01-01'",
    "UPDATE alembic_version SET version_num = 'mine'",
    "DELETE FROM meter_clock_evidence",
    "DELETE FROM archived_days",
    "SELECT grant_to_maintenance()",
    "SELECT grant_archive_to_maintenance()",
)
"""What only the owner may do."""

OF_OTHERS = {
    "ingestion_svc": (
        "SELECT FROM meter_energy_hourly",
        "SELECT FROM vehicle_energy_hourly",
        "DELETE FROM meter_current_status",
        "DELETE FROM heartbeat",
    ),
    "analytics_svc": (
        "CREATE TEMPORARY TABLE mine (a integer)",
        "SELECT FROM corrections",
        "SELECT FROM mapping_changes",
        "SELECT FROM meter_closed_hours",
        "SELECT FROM meters FOR SHARE",
        "SELECT nextval('meters_meter_key_seq')",
        "SELECT pg_advisory_lock(1)",
        "SELECT pg_try_advisory_xact_lock_shared(1, 1)",
        "SELECT ensure_history_partition('meter_telemetry_history', DATE '2025-06-01')",
        "SELECT move_retention_floor(now(), 400)",
        "SELECT drop_oldest_history_partition('meter_telemetry_history')",
        "SELECT move_archived_retention_floor(now(), 400, NULL)",
        "SELECT drop_oldest_archived('meter_telemetry_history', NULL)",
        "UPDATE archived_days SET version = ''",
    ),
    "maintenance_svc": (
        "CREATE TEMPORARY TABLE mine (a integer)",
        "SELECT pg_advisory_lock(1)",
        "SELECT FROM vehicle_meter_map",
        "INSERT INTO vehicle_meter_map VALUES (1, 1, now())",
        "UPDATE vehicle_meter_map SET effective_until = now()",
        "DELETE FROM vehicle_meter_map",
        "SELECT FROM corrections",
        "SELECT FROM mapping_changes",
        "SELECT FROM meter_refusals",
        "SELECT FROM meter_clock_evidence",
        "INSERT INTO meters (meter_id) VALUES ('mine')",
        "INSERT INTO meter_telemetry_history (meter_key, ts, kwh_consumed_ac) VALUES (1, now(), 1)",
        "UPDATE meter_current_status SET voltage = 1",
        "INSERT INTO heartbeat (beat_at) VALUES (now())",
    ),
}
"""What another one may do."""


@dataclass
class Deployed:
    """A server whose roles were made for three databases, in each of them in another way."""

    server: EmbeddedServer
    port: int
    secrets: Path
    said: str
    """By the command that made them for `DATABASE`, run by the superuser."""

    def url(self, login: str, database: str = DATABASE, password: str | None = None) -> str:
        return f"postgresql://{login}:{password or 'of-' + login}@127.0.0.1:{self.port}/{database}"

    def connect(self, login: str, database: str = DATABASE, password: str | None = None) -> psycopg.Connection[Any]:
        return psycopg.connect(self.url(login, database, password), autocommit=True)

    def make_roles(self, directory: Path, database: str = DATABASE) -> str:
        """What the command says, to standard output and error, run by the superuser."""
        environment = an_environment(directory, DATABASE_URL=self.server.url(database), SECRETS_DIR=str(self.secrets))
        made = energyfleet("migrate", "--roles", "--own-server", environment=environment)
        assert made.returncode == 0, made.stderr
        return made.stdout + made.stderr


def owners(connection: psycopg.Connection[Any], schema: str) -> set[str]:
    """To whom belong the schema and its tables, views, sequences, indexes and functions, but for extensions."""
    found = connection.execute(
        "SELECT nspowner FROM pg_namespace WHERE nspname = %(schema)s AND nspname <> 'public'"
        " UNION SELECT relowner FROM pg_class WHERE relnamespace = %(schema)s::regnamespace"
        " UNION SELECT proowner FROM pg_proc WHERE pronamespace = %(schema)s::regnamespace",
        {"schema": schema},
    )
    names = connection.execute(
        "SELECT rolname FROM pg_roles WHERE oid = ANY(%s)", ([oid for (oid,) in found.fetchall()],)
    )
    return {name for (name,) in names}


@pytest.fixture(scope="module", params=["postgres-18", "postgres-15"])
def deployed(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployed]:
    if request.param == "postgres-15" and not POSTGRES_15_BIN_DIR.exists():
        pytest.skip(f"no PostgreSQL 15 in {POSTGRES_15_BIN_DIR}")
    directory = tmp_path_factory.mktemp(request.param)
    (directory / "pg_hba.conf").write_text(HBA)
    secrets = directory / "secrets"
    secrets.mkdir()
    for login in LOGINS:
        (secrets / login.password_file).write_text(f"of-{login.name}\n")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    settings = TEST_SETTINGS | {
        "hba_file": str(directory / "pg_hba.conf"),
        "listen_addresses": "127.0.0.1",
        "log_statement": "all",
    }
    bin_dir = POSTGRES_15_BIN_DIR if request.param == "postgres-15" else None
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("PGPORT", str(port))  # of the server, and of all that ask it by its socket
        with EmbeddedServer(directory / "server", bin_dir=bin_dir, settings=settings) as server:
            with psycopg.connect(server.url(), autocommit=True) as superuser:
                superuser.execute("CREATE ROLE energyfleet_ingestion")
                superuser.execute("CREATE ROLE energyfleet_analytics")
                superuser.execute("CREATE ROLE somebody LOGIN")
                superuser.execute("CREATE ROLE admin LOGIN CREATEROLE CREATEDB")
                superuser.execute("GRANT energyfleet_ingestion, energyfleet_analytics TO admin WITH ADMIN OPTION")
                for database, owner in (("older", "somebody"), ("managed", "admin"), (DATABASE, "postgres")):
                    superuser.execute(f"CREATE DATABASE {database} OWNER {owner}")
            assert migrate(as_login(server.url("older"), "somebody")) == head()  # who can make no role
            in_north = Settings(ENERGYFLEET_SCHEMA="north").in_schema(as_login(server.url("managed"), "admin"))
            assert make_roles(in_north, {}).made == [OWNER, "energyfleet_maintenance"]
            assert migrate(in_north, OWNER) == head()
            made = Deployed(server, port, secrets, "")
            made.said = made.make_roles(directory)
            yield made
    shutil.rmtree(directory)


@pytest.mark.one_server
def test_it_says_what_it_made(deployed: Deployed) -> None:
    assert deployed.said.splitlines() == [
        *(f"made {name}" for name in SERVICES),
        *(f"set the password of {login.name}" for login in LOGINS),
        f"The schema is at revision {head()} and belongs to energyfleet_owner.",
    ]


@pytest.mark.parametrize("login", [OWNER, *SERVICES])
def test_a_login_may_not_do_what_it_has_no_need_of(deployed: Deployed, login: str) -> None:
    statements = [*OF_NOBODY]
    if login != OWNER:
        statements += [*OF_THE_OWNER, *OF_OTHERS[login]]
    with deployed.connect(login) as connection:
        assert [each for each in statements if not is_refused(connection, each)] == []


def test_analytics_may_write_to_nothing(deployed: Deployed) -> None:
    with deployed.connect("analytics_svc") as connection:
        tables = connection.execute(
            "SELECT relname, (SELECT attname FROM pg_attribute WHERE attrelid = pg_class.oid AND attnum = 1)"
            " FROM pg_class WHERE relnamespace = 'public'::regnamespace AND relkind IN ('r', 'p')"
        ).fetchall()
        statements = [
            statement
            for table, column in tables
            for statement in (
                f"INSERT INTO {table} DEFAULT VALUES",
                f"UPDATE {table} SET {column} = DEFAULT",
                f"DELETE FROM {table}",
                f"DO $$ BEGIN LOCK TABLE {table} IN ROW EXCLUSIVE MODE; END $$",
            )
        ]
        assert len(statements) > 100
        assert [each for each in statements if not is_refused(connection, each)] == []


def is_refused(connection: psycopg.Connection[Any], statement: str) -> bool:
    try:
        connection.execute(statement)
    except psycopg.errors.InsufficientPrivilege:
        return True
    return False


@pytest.mark.parametrize("login", [OWNER, *SERVICES])
def test_a_login_gets_into_its_database_alone_and_with_its_password_alone(deployed: Deployed, login: str) -> None:
    deployed.connect(login).close()
    for database in ("postgres", "template1"):
        with pytest.raises(psycopg.OperationalError, match="permission denied for database"):
            deployed.connect(login, database)
    with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
        deployed.connect(login, password="of-postgres")


def test_each_login_can_do_its_work(deployed: Deployed, tmp_path: Path) -> None:
    uvloop.run(ingest_and_ask(deployed))  # a test that is a coroutine would have a server of its own
    with deployed.connect(OWNER) as owner:
        assert owners(owner, "public") == {OWNER}
        owner.execute("UPDATE meter_closed_hours SET kwh = 7")
        owner.execute("UPDATE vehicle_current_status SET hour_kwh = 7, soc = 7")
        owner.execute(
            "UPDATE vehicle_telemetry_history SET (kwh_delivered_dc, sent_kwh, counting) = (0, 0.9, 'doubted')"
            " WHERE ts = (SELECT ts FROM vehicle_current_status)"
        )
        owner.execute("DELETE FROM meter_current_status")
    maintenance = an_environment(tmp_path, DATABASE_URL=deployed.url("maintenance_svc"), RETENTION_DAYS="45")
    repaired = energyfleet("verify", "--repair", environment=maintenance)
    assert repaired.returncode == 0, repaired.stderr
    told = repaired.stdout.splitlines()[-1]
    assert all(
        f"{kind}_{what}" in told for kind in ("meter", "vehicle") for what in ("current_status", "energy_hourly")
    )
    assert "1 row of vehicle_telemetry_history" in told
    maintained = energyfleet("maintain", environment=maintenance)
    assert "0 partitions created, 2 dropped" in maintained.stdout, maintained.stderr
    archived = energyfleet("archive", "--to", str(tmp_path / "archive"), environment=maintenance)
    assert (archived.returncode, archived.stderr) == (0, "")


async def ingest_and_ask(deployed: Deployed) -> None:
    """Maps a pair, sends what both report, in a day without a partition too, corrects a reading, and asks."""
    of_ingestion = IngestionSettings(database_url=deployed.url("ingestion_svc"), ingestion_address="127.0.0.1:0")
    of_analytics = AnalyticsSettings(database_url=deployed.url("analytics_svc"), analytics_address="127.0.0.1:0")
    end_us = system_clock()
    times = [end_us - 50 * US_PER_DAY, *(end_us - at * 60 * US_PER_SECOND for at in range(3))]
    async with (
        ingestion_svc.__main__.serving(of_ingestion) as (_, ingestion_address),
        analytics_svc.__main__.serving(of_analytics) as (_, analytics_address),
        grpc.aio.insecure_channel(ingestion_address) as to_ingestion,
        grpc.aio.insecure_channel(analytics_address) as to_analytics,
    ):
        ingest, ask = IngestionServiceStub(to_ingestion), AnalyticsServiceStub(to_analytics)
        mapping = ingestion_wire.MapVehicleRequest(
            vehicle_id="car", meter_id="box", effective_from=proto_from_us(end_us - US_PER_DAY)
        )
        await ingest.MapVehicle(mapping)
        readings = [a_vehicle_reading("car", ts_us, 0.9) for ts_us in times]
        readings += [a_meter_reading("box", ts_us, 1.0) for ts_us in times]
        answer = await ingest.IngestTelemetry(ingestion_wire.IngestTelemetryRequest(readings=readings))
        assert answer.summary.stored == len(readings)
        correction = ingestion_wire.CorrectReadingRequest(
            meter_id="box", timestamp=proto_from_us(times[1]), voided=Empty(), author="me", note="a test"
        )
        await ingest.CorrectReading(correction)
        told = await ask.GetVehiclePerformance(analytics_wire.GetVehiclePerformanceRequest(vehicle_id="car"))
        assert (told.kwh_delivered_dc, told.kwh_consumed_ac) == pytest.approx((2.7, 2.0))
        assert (await ask.GetMeterStatus(analytics_wire.GetMeterStatusRequest(meter_id="box"))).meter_id == "box"
        assert len((await ask.ListDevices(analytics_wire.ListDevicesRequest())).devices) == 2


def test_what_somebody_else_has_migrated_goes_to_the_owner(deployed: Deployed) -> None:
    """His database was migrated when there was no group for maintenance."""
    may_read = "SELECT has_table_privilege('energyfleet_maintenance', 'meters', 'SELECT')"
    with psycopg.connect(deployed.server.url("older"), autocommit=True) as superuser:
        superuser.execute("CREATE TABLE of_another (a integer)")
        assert owners(superuser, "public") == {"somebody", "postgres"}
        assert superuser.execute(may_read).fetchone() == (False,)
        make_roles(deployed.server.url("older"), {})
        migrate(deployed.server.url("older"), OWNER)
        assert owners(superuser, "public") == {OWNER, "postgres"}
    with deployed.connect("maintenance_svc", "older") as maintenance:
        maintenance.execute("SELECT FROM meters")
        maintenance.execute("SELECT ensure_history_partition('meter_telemetry_history', DATE '2026-06-01')")


def test_who_may_only_make_roles_makes_them_too(deployed: Deployed) -> None:
    with psycopg.connect(deployed.server.url("managed")) as superuser:
        assert owners(superuser, "north") == {OWNER}
        database = "SELECT datdba::regrole::text FROM pg_database WHERE datname = 'managed'"
        assert superuser.execute(database).fetchone() == (OWNER,)
    with psycopg.connect(deployed.url("maintenance_svc", "managed")) as maintenance:
        maintenance.execute("SELECT FROM north.meters")
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            maintenance.execute("CREATE TABLE north.mine (a integer)")


@pytest.mark.one_server
def test_again_it_sets_the_passwords_that_there_are_and_changes_nothing_else(
    deployed: Deployed, tmp_path: Path
) -> None:
    rights = (
        "SELECT array_agg(pg_class::text ORDER BY oid) FROM"
        " (SELECT oid, relname, relowner, relacl FROM pg_class WHERE relnamespace = 'public'::regnamespace) AS pg_class"
        " UNION ALL SELECT array_agg((datname, datdba, datacl)::text ORDER BY oid) FROM pg_database"
        " UNION ALL SELECT array_agg(pg_roles::text ORDER BY oid) FROM pg_roles"
        " UNION ALL SELECT array_agg((roleid, member)::text ORDER BY roleid, member) FROM pg_auth_members"
    )
    files = {login.name: deployed.secrets / login.password_file for login in LOGINS}
    files["ingestion_svc"].write_text("another")
    files["analytics_svc"].rename(tmp_path / "aside")
    try:
        with psycopg.connect(deployed.server.url(DATABASE), autocommit=True) as superuser:
            before = superuser.execute(rights).fetchall()
            said = deployed.make_roles(tmp_path)
            assert superuser.execute(rights).fetchall() == before
        assert f"analytics_svc keeps its password: {files['analytics_svc']} is missing.\n" in said
        assert "set the password of ingestion_svc\n" in said
        assert "made" not in said
        deployed.connect("ingestion_svc", password="another").close()
        deployed.connect("analytics_svc").close()
        with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
            deployed.connect("ingestion_svc")
    finally:
        (tmp_path / "aside").rename(files["analytics_svc"])
        files["ingestion_svc"].write_text("of-ingestion_svc\n")
        make_roles(deployed.server.url(DATABASE), read_passwords(deployed.secrets))


@pytest.mark.one_server
def test_no_password_gets_into_the_servers_log(deployed: Deployed) -> None:
    log = deployed.server.log_file.read_text()
    assert log.count('ALTER ROLE "ingestion_svc" LOGIN PASSWORD \'SCRAM-SHA-256$') >= 1
    assert "of-ingestion_svc" not in log


@pytest.mark.one_server
def test_a_role_that_may_do_more_than_ours_is_refused(deployed: Deployed) -> None:
    with psycopg.connect(deployed.server.url(), autocommit=True) as superuser:
        superuser.execute("ALTER ROLE analytics_svc BYPASSRLS")
        try:
            with pytest.raises(PowerfulRoles, match=r"^analytics_svc: .* take these attributes away first"):
                make_roles(deployed.server.url(DATABASE), {})
        finally:
            superuser.execute("ALTER ROLE analytics_svc NOBYPASSRLS")
