"""PostgreSQL servers for the suite: the embedded 18, and a 15 where its programs are on the machine."""

import itertools
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
from psycopg import sql

from shared.db.embedded import EmbeddedServer
from shared.db.migrate import migrate

POSTGRES_15_BIN_DIR = Path("/usr/lib/postgresql/15/bin")

TEST_SETTINGS = {"shared_buffers": "64MB", "max_connections": "80"}

_database_numbers = itertools.count()


def pytest_report_header() -> str:
    fifteen = POSTGRES_15_BIN_DIR if POSTGRES_15_BIN_DIR.exists() else "absent, its runs are skipped"
    return f"PostgreSQL: embedded 18; 15: {fifteen}"


@pytest.fixture(autouse=True)
def _environment_of_its_own() -> Iterator[None]:
    """No test sees the developer's settings, or those that a command set in another test."""
    before = dict(os.environ)
    for name in before:
        if name.startswith("ENERGYFLEET_"):
            del os.environ[name]
    yield
    os.environ.clear()
    os.environ.update(before)


@pytest.fixture(scope="session", params=["postgres-18", "postgres-15"])
def postgres(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedServer]:
    """A running server with a migrated database named `template`, shared by the session."""
    bin_dir = None
    if request.param == "postgres-15":
        if not POSTGRES_15_BIN_DIR.exists():
            pytest.skip(f"no PostgreSQL 15 in {POSTGRES_15_BIN_DIR}")
        bin_dir = POSTGRES_15_BIN_DIR
    data_dir = tmp_path_factory.mktemp(request.param)
    with EmbeddedServer(data_dir, bin_dir=bin_dir, settings=TEST_SETTINGS) as server:
        server.ensure_database("template")
        migrate(server.url("template"))
        yield server
    shutil.rmtree(data_dir)


@pytest.fixture
def database(postgres: EmbeddedServer) -> Iterator[str]:
    """The name of a migrated, empty database of this test's own."""
    name = f"test_{next(_database_numbers)}"
    with psycopg.connect(postgres.url(), autocommit=True) as connection:
        connection.execute(sql.SQL("CREATE DATABASE {} TEMPLATE template").format(sql.Identifier(name)))
        yield name
        connection.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(name)))


@pytest.fixture
def database_url(postgres: EmbeddedServer, database: str) -> str:
    """The URL of this test's database, for its owner."""
    return postgres.url(database)
