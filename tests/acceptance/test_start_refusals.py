"""What a database has against it ends the start of a service in one sentence and exit code 1."""

from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
from psycopg import sql

from shared.db.embedded import EmbeddedServer
from tests.acceptance.processes import refusal

pytestmark = pytest.mark.one_server

services = pytest.mark.parametrize("service", ["ingestion_svc", "analytics_svc"])


@pytest.fixture
def admin(postgres: EmbeddedServer, database: str) -> Iterator[psycopg.Connection]:
    """The server's superuser, beside two roles that may log in as the services do: by their names, password `right`."""
    with psycopg.connect(postgres.url(), autocommit=True) as connection:
        for group in ("ingestion", "analytics"):
            connection.execute(f"CREATE ROLE {group}_svc LOGIN PASSWORD 'right' IN ROLE energyfleet_{group}".encode())
        yield connection
        connection.execute("DROP ROLE ingestion_svc, analytics_svc")


async def said_on_refusing(postgres: EmbeddedServer, database: str, service: str, *arguments: str) -> str:
    url = postgres.url(database).replace("postgres@", f"{service}:wrong@", 1)
    said = await refusal(service, *arguments, ENERGYFLEET_DATABASE_URL=url)
    assert said.startswith("ENERGYFLEET_DATABASE_URL: ")
    assert len(said.splitlines()) == 1
    return said


@pytest.mark.parametrize("arguments", [(), ("--workers", "2")], ids=["alone", "workers"])
async def test_ingestion_needs_the_right_to_temporary_tables(
    postgres: EmbeddedServer, database: str, admin: psycopg.Connection, arguments: tuple[str, ...]
) -> None:
    admin.execute(sql.SQL("REVOKE TEMPORARY ON DATABASE {} FROM PUBLIC").format(sql.Identifier(database)))
    said = await said_on_refusing(postgres, database, "ingestion_svc", *arguments)
    assert said.endswith(f'permission denied to create temporary tables in database "{database}"')


async def test_ingestion_needs_a_connection_for_each_writer(
    postgres: EmbeddedServer, database: str, admin: psycopg.Connection
) -> None:
    admin.execute(sql.SQL("ALTER DATABASE {} CONNECTION LIMIT 1").format(sql.Identifier(database)))
    said = await said_on_refusing(postgres, database, "ingestion_svc")
    assert said.endswith(f'too many connections for database "{database}"')


@pytest.mark.usefixtures("admin")
async def test_analytics_needs_the_right_to_read_the_heartbeat(
    postgres: EmbeddedServer, database: str, database_url: str
) -> None:
    with psycopg.connect(database_url) as owner:
        owner.execute("REVOKE SELECT ON heartbeat FROM energyfleet_analytics")
    assert "permission denied for table heartbeat" in await said_on_refusing(postgres, database, "analytics_svc")


@services
async def test_a_service_needs_the_right_to_connect(
    postgres: EmbeddedServer, database: str, admin: psycopg.Connection, service: str
) -> None:
    admin.execute(sql.SQL("REVOKE CONNECT ON DATABASE {} FROM PUBLIC").format(sql.Identifier(database)))
    assert "User does not have CONNECT privilege." in await said_on_refusing(postgres, database, service)


@services
@pytest.mark.usefixtures("admin")
async def test_a_service_needs_the_right_to_read_the_revision_of_the_schema(
    postgres: EmbeddedServer, database: str, database_url: str, service: str
) -> None:
    with psycopg.connect(database_url) as owner:
        owner.execute("REVOKE SELECT ON alembic_version FROM energyfleet_ingestion, energyfleet_analytics")
    assert "permission denied for table alembic_version" in await said_on_refusing(postgres, database, service)


@services
async def test_a_service_needs_the_right_password(
    postgres: EmbeddedServer, database: str, admin: psycopg.Connection, service: str
) -> None:
    [name] = admin.execute("SELECT current_setting('hba_file')").fetchone() or (None,)
    file = Path(str(name))
    before = file.read_text()
    try:
        file.write_text(f"local all {service} scram-sha-256\n{before}")
        admin.execute("SELECT pg_reload_conf()")
        said = await said_on_refusing(postgres, database, service)
    finally:
        file.write_text(before)
        admin.execute("SELECT pg_reload_conf()")
    assert f'password authentication failed for user "{service}"' in said
