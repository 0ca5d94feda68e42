"""Connections to PostgreSQL, all with the same limits, and what must be true of a server before it is trusted."""

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from functools import wraps
from typing import Any, ParamSpec, TypeVar

import psycopg
import structlog
from psycopg import AsyncConnection
from psycopg.conninfo import conninfo_to_dict
from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from shared.background import retrieve
from shared.config import ConfigError
from shared.errors import DatabaseUnavailable, StartRefused
from shared.logs import quietly

_log = structlog.get_logger()

Answer = TypeVar("Answer")
P = ParamSpec("P")

POSTGRES_MIN_VERSION = 150_000

# `statement_timeout` cannot help on a dead network: TCP has to notice.
_NETWORK = {
    "connect_timeout": 5,
    "keepalives_idle": 5,
    "keepalives_interval": 2,
    "keepalives_count": 3,
    "tcp_user_timeout": 10_000,
}

_OPTIONS = {
    "search_path": "public,pg_temp",  # where the URL names no schema; those of `Settings` do
    "timezone": "UTC",
    "jit": "off",  # compiling costs more than any question here takes
    "synchronous_commit": "on",  # what is acked is on disk
    "client_connection_check_interval": "5s",  # a backend that waits for a lock notices that we are gone
    "idle_in_transaction_session_timeout": "60s",
}

_OUR_MISTAKES = ("22", "23", "42")
"""SQLSTATE classes of a statement that is wrong: data exception, integrity violation, syntax or access rule."""


class UnsafeServer(StartRefused):
    """The PostgreSQL server cannot keep the promise that what is acked is durable, or is too old."""


def connection_parameters(
    url: str, application_name: str, variable: str = "ENERGYFLEET_DATABASE_URL", **options: str
) -> dict[str, Any]:
    """psycopg's parameters for a `postgresql://` URL, with server settings (`statement_timeout="5s"`) added to ours.

    What the URL says wins: of the network, and of the schema. ConfigError, naming the variable, when it is no URL of
    PostgreSQL.
    """
    plain = url.replace("postgresql+psycopg://", "postgresql://", 1)
    try:
        if "://" not in plain:  # conninfo's other form: `Settings.in_schema` cannot add to it
            raise psycopg.ProgrammingError
        asked = conninfo_to_dict(plain)
    except psycopg.ProgrammingError:
        raise ConfigError(f"{variable}: not a URL of the form postgresql://user@host/name") from None
    settings = " ".join(f"-c {name}={value}" for name, value in (_OPTIONS | options).items())
    return (
        _NETWORK
        | asked
        | {"application_name": application_name, "options": f"{settings} {asked.get('options') or ''}".strip()}
    )


def make_engine(url: str, application_name: str, *, pool_size: int, **options: str) -> AsyncEngine:
    """A bounded pool of connections, checked before each use. Opens none by itself."""
    parameters = connection_parameters(url, application_name, **options)

    async def connect() -> AsyncConnection[Any]:
        return await AsyncConnection.connect(**parameters)

    return create_async_engine(
        "postgresql+psycopg://",
        async_creator=connect,
        pool_size=pool_size,
        max_overflow=0,
        pool_timeout=5,
        pool_pre_ping=True,
    )


@asynccontextmanager
async def database_errors() -> AsyncIterator[None]:
    """Turns the driver's errors into DatabaseUnavailable and logs what the server said; our mistakes pass through."""
    try:
        yield
    except (DBAPIError, PoolTimeout, psycopg.Error, OSError) as error:
        sqlstate = getattr(getattr(error, "orig", error), "sqlstate", None)
        if sqlstate is not None and sqlstate.startswith(_OUR_MISTAKES):
            raise
        quietly(_log.warning, "database_failed", key=sqlstate, error=str(error), sqlstate=sqlstate)
        raise DatabaseUnavailable(sqlstate) from error


async def answers(url: str, application_name: str, timeout_s: float) -> bool:
    """Whether a new connection can be had and answers, within a time."""
    parameters = connection_parameters(url, application_name, statement_timeout=f"{int(timeout_s * 1_000)}ms")
    parameters["connect_timeout"] = max(2, int(timeout_s))
    try:
        async with (
            asyncio.timeout(timeout_s),
            await AsyncConnection.connect(**parameters, autocommit=True) as connection,
        ):
            await connection.execute("SELECT 1")
    except (psycopg.Error, OSError):  # TimeoutError is an OSError
        return False
    return True


async def require_safe_server(connection: AsyncConnection[Any]) -> None:
    """UnsafeServer where the server is older than 15, or would lose commits with the power."""
    version = connection.info.server_version
    if version < POSTGRES_MIN_VERSION:
        raise UnsafeServer(f"PostgreSQL {version // 10_000} is too old: 15 or newer is needed")
    for setting in ("fsync", "full_page_writes"):
        cursor = await connection.execute("SELECT current_setting(%s)", (setting,))
        row = await cursor.fetchone()
        if row != ("on",):
            raise UnsafeServer(f"PostgreSQL runs with {setting} off and would lose acked readings with the power")


_unfinished: set[asyncio.Future[Any]] = set()


def shielded(work: Callable[P, Coroutine[Any, Any, Answer]]) -> Callable[P, Coroutine[Any, Any, Answer]]:
    """Makes work on the database go on to its end even when its caller is cancelled, and fail with our errors.

    A gRPC cancellation in the middle of a pool's bookkeeping loses connections (psycopg #1208, #1345).
    """

    @wraps(work)
    async def awaited(*arguments: P.args, **named: P.kwargs) -> Answer:
        task = asyncio.ensure_future(work(*arguments, **named))
        _unfinished.add(task)  # the event loop itself holds tasks weakly
        task.add_done_callback(_unfinished.discard)
        task.add_done_callback(retrieve)
        async with database_errors():
            return await asyncio.shield(task)

    return awaited
