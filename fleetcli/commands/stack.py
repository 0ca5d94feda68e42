"""Everything on one machine: the database, its schema, and both services as child processes."""

import asyncio
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import IO, Any

from psycopg import AsyncConnection

from fleetcli.commands.command_errors import StackError
from shared.child import Child, ChildFailed
from shared.config import Settings
from shared.db.embedded import POLL_S, DirectoryInUse, EmbeddedServer, answers, shared_socket_dir, socket_url
from shared.db.engine import connection_parameters
from shared.db.migrate import DatabaseUnreachable, migrate, refusing_start, require_usable_database

DATABASE = "energyfleet"
"""The database's name on an embedded server."""

IN_USE_TIMEOUT_S = 60.0
"""Longer than `up` takes to start, even after a crash, and to stop, unless its grace period was configured."""

_WATCH_S = 0.5


@dataclass(frozen=True, slots=True)
class Database:
    """URLs of one database, for its owner, and for each service and for maintenance with the rights that they need."""

    owner_url: str
    ingestion_url: str
    analytics_url: str
    maintenance_url: str
    whereabouts: str
    """For people."""
    server: EmbeddedServer | None
    """None where another process started it."""


@contextmanager
def own_database(settings: Settings) -> Iterator[Database]:
    """The database that the settings name, or an embedded one that is started in their data directory.

    Raises StartRefused, and DirectoryInUse among them where another process has started one there.
    """
    if settings.database_url:
        url = settings.database_url
        yield Database(url, url, url, url, "the one that ENERGYFLEET_DATABASE_URL names", None)
        return
    with EmbeddedServer(settings.data_dir) as server:
        server.ensure_database(DATABASE)
        yield _embedded(settings, server.url, server)


@contextmanager
def database(settings: Settings) -> Iterator[Database]:
    """Like `own_database`, but beside a running `energyfleet up` it is the database that `up` started.

    Waits while `up` starts or stops. Raises StackError where `up` stops before the caller is done.
    """
    deadline = time.monotonic() + IN_USE_TIMEOUT_S
    socket_dir: Path | None = None
    while socket_dir is None or not answers(socket_dir):
        try:
            with own_database(settings) as used:
                yield used
            return
        except DirectoryInUse:
            if time.monotonic() > deadline:
                raise
        time.sleep(POLL_S)
        socket_dir = shared_socket_dir(settings.data_dir)
    try:
        yield _embedded(settings, partial(socket_url, socket_dir), None)
    except DatabaseUnreachable:
        if answers(socket_dir):
            raise
        raise StackError(
            f"The `energyfleet up` in {settings.data_dir} has stopped, and its database with it; run the command again."
        ) from None


def _embedded(settings: Settings, url: Callable[..., str], server: EmbeddedServer | None) -> Database:
    return Database(
        settings.in_schema(url(DATABASE)),
        settings.in_schema(url(DATABASE, role="energyfleet_ingestion")),
        settings.in_schema(url(DATABASE, role="energyfleet_analytics")),
        settings.in_schema(url(DATABASE, role="energyfleet_maintenance")),
        f"embedded PostgreSQL in {settings.data_dir}",
        server,
    )


@asynccontextmanager
async def connected(used: Database, application_name: str, **options: str) -> AsyncIterator[AsyncConnection[Any]]:
    """A connection to a usable database with the rights of maintenance, each statement a transaction.

    Raises StartRefused for what the server says.
    """
    await require_usable_database(used.owner_url, application_name)  # the role may be what is missing
    parameters = connection_parameters(used.maintenance_url, application_name, **options)
    with refusing_start("ENERGYFLEET_DATABASE_URL"):
        async with await AsyncConnection.connect(**parameters, autocommit=True) as connection:
            yield connection


@dataclass(frozen=True, slots=True)
class Stack:
    database: Database
    ingestion: Child
    analytics: Child
    ingestion_address: str
    analytics_address: str

    async def ended(self) -> str:
        """Waits until some part of it ends without having been asked to; a sentence that says which."""
        watches = [asyncio.create_task(child.ended()) for child in (self.ingestion, self.analytics)]
        if self.database.server is not None:
            watches.append(asyncio.create_task(_postgres_ended(self.database.server)))
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
    """The database, migrated and shared, and both services, ready. Stops the services and then the database.

    The services see `environment` and their database's URL; what they log goes to `log`, or to our standard error.
    Raises StackError or StartRefused where something does not start, and StackError where it does not stop well.
    """
    with own_database(settings) as used, tempfile.TemporaryDirectory(prefix="energyfleet-up-") as directory:
        migrate(used.owner_url)
        if used.server is not None:
            used.server.share()
        children: list[Child] = []
        try:
            for module, url in (("ingestion_svc", used.ingestion_url), ("analytics_svc", used.analytics_url)):
                its_environment = {**environment, "ENERGYFLEET_DATABASE_URL": url}
                children.append(await Child.start(module, its_environment, Path(directory), log))
            ingestion, analytics = children
            try:
                addresses = await ingestion.ready(), await analytics.ready()
            except ChildFailed as failure:
                raise StackError(str(failure)) from None
            yield Stack(used, ingestion, analytics, *addresses)
        finally:
            complaints = [each for each in await asyncio.gather(*(child.stop() for child in children)) if each]
        if complaints:
            raise StackError("; ".join(complaints))


async def _postgres_ended(server: EmbeddedServer) -> str:
    while not server.ended:  # noqa: ASYNC110 (a child that asyncio did not start sets no event)
        await asyncio.sleep(_WATCH_S)
    return "the embedded PostgreSQL ended by itself; server.log in its data directory says why"
