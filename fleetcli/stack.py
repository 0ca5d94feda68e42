"""Everything on one machine: the database, its schema, and both services as child processes."""

import asyncio
import os
import tempfile
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import psycopg
from psycopg import sql
from sqlalchemy.exc import DBAPIError

from fleetcli.child import Child
from fleetcli.errors import StackError
from shared.config import Settings
from shared.db.embedded import EmbeddedServer
from shared.db.migrate import migrate

DATABASE = "energyfleet"
"""The database's name on an embedded server."""

_WATCH_S = 0.5


@dataclass(frozen=True, slots=True)
class Database:
    """URLs of one database, for its owner and for each service with the rights that it needs."""

    owner_url: str
    ingestion_url: str
    analytics_url: str
    whereabouts: str
    """For people."""
    server: EmbeddedServer | None
    """None where the database is somebody else's."""


@contextmanager
def database(settings: Settings) -> Iterator[Database]:
    """The database that the settings name, or an embedded one in their data directory. Raises StartRefused."""
    if settings.database_url:
        url = settings.database_url
        yield Database(url, url, url, "the one that ENERGYFLEET_DATABASE_URL names", None)
        return
    with EmbeddedServer(settings.data_dir) as server:
        _create_database(server)
        yield Database(
            server.url(DATABASE),
            server.url(DATABASE, role="energyfleet_ingestion"),
            server.url(DATABASE, role="energyfleet_analytics"),
            f"embedded PostgreSQL in {settings.data_dir}",
            server,
        )


def migrated(url: str) -> str:
    """Brings a database's schema up to date and returns its revision; StackError where the database refuses."""
    try:
        return migrate(url)
    except DBAPIError as error:
        raise StackError(f"the database cannot be migrated: {' '.join(str(error.orig).split())}") from error


def _create_database(server: EmbeddedServer) -> None:
    with psycopg.connect(server.url(), autocommit=True) as connection:
        known = connection.execute("SELECT FROM pg_database WHERE datname = %s", (DATABASE,)).fetchone()
        if known is None:
            connection.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(DATABASE)))


@dataclass(frozen=True, slots=True)
class Stack:
    """What runs."""

    database: Database
    ingestion: Child
    analytics: Child
    ingestion_address: str
    analytics_address: str

    async def ended(self) -> str:
        """Waits until some part of it ends without having been asked to; a sentence that says which."""
        watches = [asyncio.create_task(child.ended()) for child in (self.ingestion, self.analytics)]
        if self.database.server is not None:
            watches.append(asyncio.create_task(_postgres_ended(self.database.server.pid)))
        try:
            done, _ = await asyncio.wait(watches, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for watch in watches:
                watch.cancel()
        return done.pop().result()


@asynccontextmanager
async def running(
    settings: Settings, environment: Mapping[str, str], log: IO[bytes] | None = None
) -> AsyncIterator[Stack]:
    """The database, migrated, and both services, ready. Stops the services and then the database at the end.

    The services see `environment` and their database's URL; what they log goes to `log`, or to our standard error.
    Raises StackError or StartRefused where something does not start, and StackError where it does not stop well.
    """
    with database(settings) as used, tempfile.TemporaryDirectory(prefix="energyfleet-up-") as directory:
        migrated(used.owner_url)
        children: list[Child] = []
        try:
            for module, url in (("ingestion_svc", used.ingestion_url), ("analytics_svc", used.analytics_url)):
                its_environment = {**environment, "ENERGYFLEET_DATABASE_URL": url}
                children.append(await Child.start(module, its_environment, Path(directory), log))
            ingestion, analytics = children
            yield Stack(used, ingestion, analytics, await ingestion.ready(), await analytics.ready())
        finally:
            complaints = [each for each in await asyncio.gather(*(child.stop() for child in children)) if each]
        if complaints:
            raise StackError("; ".join(complaints))


async def _postgres_ended(pid: int) -> str:
    """Waits until a child of ours that asyncio knows nothing of has ended, and leaves it to its owner to reap."""
    while True:
        await asyncio.sleep(_WATCH_S)
        if _has_ended(pid):
            return "the embedded PostgreSQL ended by itself; server.log in its data directory says why"


def _has_ended(pid: int) -> bool:
    # macOS has waitid from Python 3.13 on; before, only the services tell of a database that is gone.
    return hasattr(os, "waitid") and os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None
