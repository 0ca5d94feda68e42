"""The schema: what the migrations make."""

import multiprocessing
import re
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from datetime import UTC, datetime, timedelta

import psycopg
import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import create_engine
from sqlalchemy.pool import NullPool

from ingestion_svc.mappings_sql import LOCK
from shared.config import Settings
from shared.db.embedded import EmbeddedServer
from shared.db.engine import connection_parameters
from shared.db.migrate import (
    MIGRATIONS,
    SchemaOutdated,
    SchemaUnknown,
    head,
    migrate,
    require_usable_database,
    revisions,
)
from shared.db.partitions import DAYS_AHEAD, HISTORY_TABLES
from shared.db.tables import metadata


def in_schema(url: str, schema: str) -> str:
    return Settings(ENERGYFLEET_SCHEMA=schema).in_schema(url)


def test_the_tables_are_what_the_migrations_make(database_url: str) -> None:
    engine = create_engine("postgresql+psycopg://", creator=lambda: psycopg.connect(database_url), poolclass=NullPool)
    with engine.connect() as connection:
        differences = compare_metadata(MigrationContext.configure(connection), metadata)

    assert [each for each in differences if not re.search(r"history_\d{8}|sealed_days_\d{6}", str(each))] == []


def test_files_are_named_for_their_revisions_in_the_order_in_which_these_follow_each_other() -> None:
    scripts = [script.revision for script in ScriptDirectory(str(MIGRATIONS)).walk_revisions()]
    assert scripts[::-1] == revisions()
    assert head() == scripts[0]


@pytest.mark.parametrize(
    "schemas",
    [
        pytest.param(["public"] * 3, id="one", marks=pytest.mark.one_server),
        pytest.param(["north", "user", "public"], id="three"),
    ],
)
def test_migrations_at_once_make_each_schema_once(postgres: EmbeddedServer, database: str, schemas: list[str]) -> None:
    fresh = f"{database}_fresh"
    urls = [in_schema(postgres.url(fresh), schema) for schema in schemas]
    with psycopg.connect(postgres.url(), autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {fresh}")
        try:
            with ProcessPoolExecutor(len(urls), multiprocessing.get_context("spawn")) as pool:
                reached = list(pool.map(migrate, urls))
        finally:
            connection.execute(f"DROP DATABASE {fresh} WITH (FORCE)")

    assert reached == [head()] * 3


def test_fleets_of_two_schemas_do_not_wait_for_each_other(database_url: str) -> None:
    urls = [in_schema(database_url, schema) for schema in ("north", "south")]
    held = ("SELECT ensure_history_partition('meter_telemetry_history', DATE '2025-06-01')", str(LOCK))
    for url in urls:
        migrate(url)
    north, south = (connection_parameters(url, "test", lock_timeout="100ms") for url in urls)
    with psycopg.connect(**north) as first, psycopg.connect(**south) as second:
        for connection in (first, second):
            for statement in held:
                connection.execute(statement)


def test_functions_with_their_owners_rights_look_nowhere_but_in_their_schema(database_url: str) -> None:
    migrate(in_schema(database_url, "north"))
    with psycopg.connect(database_url) as connection:
        paths = connection.execute(
            "SELECT pronamespace::regnamespace::text, setting"
            " FROM pg_proc CROSS JOIN unnest(proconfig) AS setting WHERE prosecdef AND setting ~ '^search_path='"
        ).fetchall()
    expected = [(schema, f"search_path={schema},pg_temp") for schema in ("north", "public")]
    assert sorted(paths) == [each for each in expected for _ in range(15)]


def test_mappings_are_exclusive_wherever_the_extension_is(database_url: str) -> None:
    with psycopg.connect(database_url, autocommit=True) as owner:
        owner.execute("DROP EXTENSION btree_gist CASCADE")
        owner.execute("CREATE SCHEMA elsewhere")
        owner.execute("CREATE EXTENSION btree_gist SCHEMA elsewhere")
    url = in_schema(database_url, "north")
    migrate(url)
    with psycopg.connect(url, autocommit=True) as owner:
        owner.execute("INSERT INTO meters (meter_id) VALUES ('m'), ('n')")
        owner.execute("INSERT INTO vehicles (vehicle_id) VALUES ('v'), ('w')")
        mapping = (
            "INSERT INTO vehicle_meter_map SELECT vehicle_key, meter_key, now() FROM vehicles, meters"
            " WHERE (vehicle_id, meter_id) = (%s, %s)"
        )
        owner.execute(mapping, ("v", "m"))
        owner.execute(mapping, ("v", "n"))
        for vehicle_id in ("w", "v"):
            with pytest.raises(psycopg.errors.ExclusionViolation):
                owner.execute(mapping, (vehicle_id, "m"))


def test_migrating_creates_the_coming_weeks_partitions_and_may_be_repeated(database_url: str) -> None:
    migrate(database_url)
    today = datetime.now(UTC).date()
    with psycopg.connect(database_url) as connection:
        names = {name for (name,) in connection.execute("SELECT relname FROM pg_class WHERE relispartition")}

    for table in HISTORY_TABLES:
        for day in range(-1, DAYS_AHEAD + 1):
            assert f"{table}_{today + timedelta(days=day):%Y%m%d}" in names


async def test_a_service_refuses_a_schema_that_is_missing_and_says_which_command_mends_it(
    postgres: EmbeddedServer, database: str
) -> None:
    with pytest.raises(SchemaOutdated, match=r"missing.*energyfleet migrate"):
        await require_usable_database(postgres.url("postgres"), "test")


async def test_a_service_refuses_an_older_schema_and_takes_a_newer_one(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    installed = head()
    monkeypatch.setattr("shared.db.migrate.head", lambda: "9998")
    with pytest.raises(SchemaOutdated, match=f"at revision {installed} and revision 9998 is needed"):
        await require_usable_database(database_url, "test")
    monkeypatch.undo()
    with psycopg.connect(database_url) as connection:
        connection.execute("UPDATE alembic_version SET version_num = '9999'")
    await require_usable_database(database_url, "test")


def test_migrating_leaves_a_newer_schema_alone_and_says_so(database_url: str) -> None:
    with psycopg.connect(database_url) as connection:
        connection.execute("UPDATE alembic_version SET version_num = '9999'")
    with pytest.raises(SchemaUnknown, match="at revision 9999, which this version does not know"):
        migrate(database_url)


def test_two_sessions_that_need_the_same_partition_get_one(database_url: str) -> None:
    def ensure(_: int) -> bool:
        with psycopg.connect(database_url) as connection:
            row = connection.execute(
                "SELECT ensure_history_partition('meter_telemetry_history', DATE '2025-06-01')"
            ).fetchone()
            assert row is not None
            return bool(row[0])

    with ThreadPoolExecutor(4) as pool:
        assert sorted(pool.map(ensure, range(8))) == [False] * 7 + [True]


def test_only_history_has_partitions_made(database_url: str) -> None:
    with (
        psycopg.connect(database_url) as connection,
        pytest.raises(psycopg.errors.InvalidParameterValue, match="not a history table"),
    ):
        connection.execute("SELECT ensure_history_partition('meters', DATE '2025-06-01')")
