"""Makes the roles of a database: its owner, a group for each part of the fleet, and logins in these.

What the groups may do with tables and functions is granted by the migrations. Here is what belongs to the server and to
the database as a whole. No password reaches the server: what does is a SCRAM verifier, which libpq makes.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from psycopg import Connection, sql

from shared.db.engine import connection_parameters
from shared.db.migrate import refusing_start
from shared.db.roles_sql import (
    CLOSE_DATABASE,
    CLOSE_OTHER_DATABASES,
    CLOSE_PUBLIC_FUNCTIONS,
    CLOSE_SCHEMAS,
    FOUND,
    GRANT_DATABASE,
    HAND_OVER,
    JOIN_OWNER,
    LOCK,
    OPEN_DATABASES,
    OWN_DATABASE,
    POWERFUL,
)
from shared.errors import StartRefused

OWNER = "energyfleet_owner"

GROUPS = (OWNER, "energyfleet_ingestion", "energyfleet_analytics", "energyfleet_maintenance")
"""Whoever is in one may do what it may."""


@dataclass(frozen=True, slots=True)
class Login:
    """A role that logs in, with a password of its own, and is in one group."""

    name: str
    group: str
    password_file: str
    """Its name within the folder of passwords."""


LOGINS = (
    Login(OWNER, OWNER, "owner_password"),
    Login("ingestion_svc", "energyfleet_ingestion", "ingestion_password"),
    Login("analytics_svc", "energyfleet_analytics", "analytics_password"),
    Login("maintenance_svc", "energyfleet_maintenance", "maintenance_password"),
)


@dataclass(frozen=True, slots=True)
class RolesMade:
    """What was done, for people."""

    made: list[str]
    """Roles that were missing."""
    with_password: list[str]
    """Logins whose password was set."""
    without_password: list[Login]
    """Logins that are not there, or cannot log in, because there is no password for them."""
    left: list[Login]
    """Logins that are as they were, because there is no password for them."""
    open_databases: list[str]
    """Other databases of the server that any role may connect to."""


class UnusablePassword(StartRefused):
    """A file of a password cannot be read, or has none."""


class PowerfulRoles(StartRefused):
    """Roles that have the names of ours may do more than any of ours."""

    def __init__(self, names: list[str]) -> None:
        super().__init__(
            f"{', '.join(names)}: a superuser, or may make roles or databases, replicate or pass row security; take"
            " these attributes away first (ALTER ROLE)"
        )


def read_passwords(directory: Path) -> dict[str, str]:
    """The passwords by login, of those that have a file. UnusablePassword where one cannot be read or is not a line."""
    passwords = {}
    for login in LOGINS:
        file = directory / login.password_file
        try:
            password = file.read_text().rstrip("\r\n")
        except FileNotFoundError:
            continue
        except (OSError, UnicodeDecodeError) as error:
            raise UnusablePassword(f"{file}: {getattr(error, 'strerror', None) or 'not UTF-8'}") from None
        if not password or not password.isprintable():
            raise UnusablePassword(f"{file}: expected a password, a line of printable characters")
        passwords[login.name] = password
    return passwords


def make_roles(url: str, passwords: Mapping[str, str], *, own_server: bool = False) -> RolesMade:
    """Makes what is missing of the roles, sets the passwords of logins, and gives the database and the schema, with all
    that was migrated there, to the owner; takes from PUBLIC what it has in the database. All in one transaction.

    Who connects is a superuser, or may make roles and databases and owns the database. With `own_server` nobody but
    who is granted it may connect to any other database of the server. Safe to repeat. Raises DatabaseUnreachable where
    there is no connection or the database refuses, for want of a right say, and PowerfulRoles.
    """
    parameters = connection_parameters(url, "energyfleet migrate --roles")
    with refusing_start("ENERGYFLEET_DATABASE_URL"), Connection.connect(**parameters) as connection:
        return _make_roles(connection, passwords, own_server=own_server)


def _make_roles(connection: Connection[Any], passwords: Mapping[str, str], *, own_server: bool) -> RolesMade:
    connection.execute(LOCK)
    names = [*GROUPS, *(login.name for login in LOGINS)]
    if powerful := [name for (name,) in connection.execute(POWERFUL, {"names": names})]:
        raise PowerfulRoles(powerful)
    may_log_in = dict(connection.execute(FOUND, {"names": names}).fetchall())
    wanted = [*GROUPS, *(login.name for login in LOGINS if login.name in passwords)]
    made = [name for name in dict.fromkeys(wanted) if name not in may_log_in]
    for name in made:
        connection.execute(sql.SQL("CREATE ROLE {} NOLOGIN").format(sql.Identifier(name)))
    for login in LOGINS:
        if login.name in passwords:
            _let_in(connection, login, passwords[login.name])
    superuser = connection.info.parameter_status("is_superuser") == "on"
    if not superuser:
        connection.execute(JOIN_OWNER)
    connection.execute(HAND_OVER)
    connection.execute(OWN_DATABASE)
    if superuser:
        connection.execute(CLOSE_PUBLIC_FUNCTIONS)
        if own_server:
            connection.execute(CLOSE_OTHER_DATABASES)
    else:
        connection.execute(sql.SQL("SET LOCAL ROLE {}").format(sql.Identifier(OWNER)))
    for statement in (CLOSE_SCHEMAS, CLOSE_DATABASE, GRANT_DATABASE):
        connection.execute(statement)
    others = [login for login in LOGINS if login.name not in passwords]
    return RolesMade(
        made=made,
        with_password=[login.name for login in LOGINS if login.name in passwords],
        without_password=[login for login in others if not may_log_in.get(login.name)],
        left=[login for login in others if may_log_in.get(login.name)],
        open_databases=[name for (name,) in connection.execute(OPEN_DATABASES)],
    )


def _let_in(connection: Connection[Any], login: Login, password: str) -> None:
    """Sets a login's password and puts it into its group. Statements may be logged: they have the verifier alone."""
    verifier = connection.pgconn.encrypt_password(password.encode(), login.name.encode(), b"scram-sha-256").decode()
    name = sql.Identifier(login.name)
    connection.execute(sql.SQL("ALTER ROLE {} LOGIN PASSWORD {}").format(name, sql.Literal(verifier)))
    if login.group != login.name:
        connection.execute(sql.SQL("GRANT {} TO {}").format(sql.Identifier(login.group), name))
