"""Brings the schema up to this version, and tells when it is not."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psycopg
from psycopg import AsyncConnection, Connection, errors
from sqlalchemy import create_engine, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.pool import NullPool
from sqlalchemy.schema import CreateSchema

from shared.db.engine import connection_parameters, require_safe_server
from shared.db.partitions import create_partitions_ahead
from shared.errors import DatabaseUnavailable, StartRefused, reason_of

if TYPE_CHECKING:  # see `_config`
    from alembic.config import Config

START_CHECK_TIMEOUT = "10s"
"""A database that hangs must not let a service hang with it."""

MIGRATIONS = Path(__file__).parent / "migrations"

_LOCK = "SELECT pg_advisory_lock(hashtextextended('energyfleet.migrate.' || current_setting('search_path'), 0))"
_MISSING_SCHEMA = """
    SELECT name FROM split_part(current_setting('search_path'), ',', 1) AS name WHERE to_regnamespace(name) IS NULL
"""
_INSTALLED = "SELECT version_num FROM alembic_version"
_ON_REPLICA = "SELECT pg_is_in_recovery()"
_GRANTS = (
    "SELECT grant_to_maintenance()",
    "SELECT grant_sealing_to_maintenance()",
    "SELECT grant_archive_to_maintenance()",
)
"""Whenever somebody migrates: the role may have been made since the last time."""


class SchemaUnknown(StartRefused):
    """The schema is at a revision that this version does not know: it has been migrated by a newer one."""

    def __init__(self, installed: str) -> None:
        super().__init__(
            f"the database's schema is at revision {installed}, which this version does not know:"
            " use the one that migrated it, or a newer one"
        )


class SchemaOutdated(StartRefused):
    """The schema is older than this version needs, or is not there at all."""

    def __init__(self, installed: str | None, needed: str, *, on_replica: bool) -> None:
        remedy = "run `energyfleet migrate`"
        if on_replica:
            remedy += " on its primary, for this is a replica, and let it catch up"
        super().__init__(
            f"the database's schema is {'missing' if installed is None else f'at revision {installed}'}"
            f" and revision {needed} is needed: {remedy}"
        )


def _config() -> "Config":
    from alembic.config import Config  # where it is needed: a service, which only looks, starts without Alembic

    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS))
    return config


def revisions() -> list[str]:
    """What this version knows, oldest first. The file of a migration begins with its revision."""
    return sorted(file.name.partition("_")[0] for file in (MIGRATIONS / "versions").glob("[0-9]*_*.py"))


def head() -> str:
    return revisions()[-1]


def migrate(url: str, role: str | None = None) -> str:
    """Brings the URL's schema to this version's revision and creates the coming days' partitions; returns the revision.

    With `role` as this role, to which then belongs what is made. Creates the schema itself only where there is none:
    the right to do so may be missing. Safe to repeat, and from several processes at once: the others wait for the
    first. Raises DatabaseUnreachable where there is no connection or the database refuses, for want of a right say;
    SchemaUnknown where a newer version has migrated it.
    """
    try:
        return _migrate(url, {} if role is None else {"role": role})
    except DBAPIError as error:
        raise DatabaseUnreachable(f"ENERGYFLEET_DATABASE_URL: {reason_of(error.orig or error)}") from error


def _migrate(url: str, options: Mapping[str, str]) -> str:
    from alembic import command
    from alembic.migration import MigrationContext

    parameters = connection_parameters(url, "energyfleet migrate", **options)

    def connect() -> Connection[Any]:
        return Connection.connect(**parameters)

    engine = create_engine("postgresql+psycopg://", creator=connect, poolclass=NullPool)
    with engine.connect() as connection:
        connection.execute(text(_LOCK))  # of the session: held until the connection closes
        if missing := connection.execute(text(_MISSING_SCHEMA)).scalar():
            connection.execute(CreateSchema(missing))
        connection.commit()
        for installed in MigrationContext.configure(connection).get_current_heads():
            if installed not in revisions():
                raise SchemaUnknown(installed)
        config = _config()
        config.attributes["connection"] = connection
        command.upgrade(config, "head")
        connection.commit()
        for grant in _GRANTS:
            connection.exec_driver_sql(grant)
        connection.commit()
        create_partitions_ahead(connection)
        connection.commit()
    return head()


class DatabaseUnreachable(StartRefused):
    """No connection to the database can be had, or it refuses what is needed."""


@contextmanager
def refusing_start(variable: str) -> Iterator[None]:
    """Turns what the database or the driver says meanwhile into DatabaseUnreachable; `variable` has its URL."""
    try:
        yield
    except DatabaseUnavailable as error:
        raise DatabaseUnreachable(f"{variable}: {error.reason or error}") from error
    except (psycopg.Error, OSError) as error:
        raise DatabaseUnreachable(f"{variable}: {reason_of(error)}") from error


async def require_usable_database(url: str, application_name: str, variable: str = "ENERGYFLEET_DATABASE_URL") -> None:
    """Raises what speaks against starting on a database: DatabaseUnreachable, UnsafeServer or SchemaOutdated.

    `variable` is what the URL was read from.
    """
    parameters = connection_parameters(url, application_name, variable, statement_timeout=START_CHECK_TIMEOUT)
    with refusing_start(variable):
        async with await AsyncConnection.connect(**parameters) as connection:
            await require_safe_server(connection)
            await require_current_schema(connection)


async def require_current_schema(connection: AsyncConnection[Any]) -> None:
    """SchemaOutdated where the schema is older than this version needs.

    A newer one is fine: what older versions read stays there, and what they may no longer write fails.
    """
    try:
        cursor = await connection.execute(_INSTALLED)
        row = await cursor.fetchone()
    except errors.UndefinedTable:
        await connection.rollback()
        row = None
    installed = row[0] if row else None
    if installed is None or (installed in revisions() and installed != head()):
        recovering = await (await connection.execute(_ON_REPLICA)).fetchone()
        raise SchemaOutdated(installed, head(), on_replica=recovering == (True,))
