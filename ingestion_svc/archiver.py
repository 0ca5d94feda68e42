"""Archives closed days while the service runs, in a process of its own, where `ENERGYFLEET_ARCHIVE_URL` says where.

A process of its own, because nothing else can be ended when a store does not answer, and because packing a day takes a
core for half a minute. Every worker may start one: the database lets one at a time.
"""

import asyncio
import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from typing import Any

import psycopg
import structlog
from psycopg import AsyncConnection

from ingestion_svc.failpoints import fail_points_from
from shared.archive.archive_errors import ArchiveError, ArchiverBusy
from shared.archive.archive_extra import require_extra
from shared.archive.archive_url import ArchiveUrl
from shared.background import BackgroundLoop
from shared.child import command_prefix
from shared.config import IngestionSettings
from shared.db.archive_days import ArchivedDay, WaitingDay, may_maintain, waiting_days
from shared.db.engine import connection_parameters
from shared.errors import reason_of
from shared.timestamps import Clock, system_clock

_log = structlog.get_logger()

ARGUMENT = "--archive"
"""Makes `python -m ingestion_svc` archive what waits, and end."""

INTERVAL_S = 3_600.0
"""A day closes once a day; what has changed since is archived again an hour later."""

RETRY_S = 300.0
"""After a failure: a store that is away for minutes is back by then, and an hour's log has a dozen tries at most."""

BUSY_S = 10.0
"""Between looks while another session seals or archives; sealing a day of a large fleet takes minutes."""

LOOK_TIMEOUT_S = 60.0
"""For what waits to be found."""

_ENDING_S = 5.0
"""That the process has to end in when it is asked to."""


class RoundFailed(ArchiveError):
    """What the process that archives said of why it ended."""


class Archiver(BackgroundLoop):
    """Runs rounds in the background, the first one at once. One that is broken off at the end loses nothing."""

    def __init__(
        self,
        parameters: Mapping[str, Any],
        settings: IngestionSettings,
        url: ArchiveUrl,
        clock: Clock,
        on_waiting: Callable[[int], None] = lambda days: None,
    ) -> None:
        self._parameters = dict(parameters)
        self._settings = settings
        self._url = url
        self._clock = clock
        self._on_waiting = on_waiting
        super().__init__("archive", self.round, INTERVAL_S, retry_s=RETRY_S, jittered=True, at_once=True)

    async def round(self) -> None:
        """One round. Tells how many days wait before and after it, also where it fails: with an ArchiveError, or the
        driver's errors."""
        while (waiting := await self._look()) is None:
            if await self.closes_within(BUSY_S):
                return
        if not waiting:
            return
        try:
            await self._run_process()
        finally:
            await self._look()

    async def _look(self) -> list[WaitingDay] | None:
        """What waits; None while another session seals or archives."""
        async with (
            asyncio.timeout(LOOK_TIMEOUT_S),
            await AsyncConnection.connect(**self._parameters, autocommit=True) as connection,
        ):
            waiting = await waiting_days(connection, str(self._url), self._clock(), self._settings.seal_after_days)
            self._on_waiting(len(waiting))
            return waiting if not waiting or await may_maintain(connection) else None

    async def _run_process(self) -> None:
        process = await asyncio.create_subprocess_exec(
            *command_prefix(),
            sys.executable,
            "-P",
            "-m",
            "ingestion_svc",
            ARGUMENT,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            env=os.environ | _environment(self._settings),
            start_new_session=True,
        )
        try:
            said, _ = await process.communicate()
        except asyncio.CancelledError:
            process.terminate()
            try:
                async with asyncio.timeout(_ENDING_S):
                    await process.wait()
            except TimeoutError:
                process.kill()
                await process.wait()
            raise
        if process.returncode:
            raise RoundFailed(said.decode().strip() or f"the process that archives ended with {process.returncode}")


def _environment(settings: IngestionSettings) -> dict[str, str]:
    """What the process needs of our settings, which need not be those of the environment."""
    named = ("database_url", "archive_url", "archive_timeout_s", "seal_after_days", "log_level")
    values = {f"ENERGYFLEET_{name.upper()}": str(getattr(settings, name)) for name in named}
    return values | {"ENERGYFLEET_SCHEMA": settings.database_schema}


async def archive_once(settings: IngestionSettings, application_name: str, clock: Clock = system_clock) -> None:
    """Archives what waits. Ends the process with a sentence on standard output where something fails."""
    try:
        await _archive(settings, application_name, clock)
    except ArchiverBusy:
        return
    except (ArchiveError, psycopg.Error, OSError) as error:
        failure = reason_of(error)
    else:
        return
    sys.stdout.write(f"{failure}\n")
    sys.stdout.flush()
    os._exit(1)  # a call of a store that does not answer would hold up an orderly end


async def _archive(settings: IngestionSettings, application_name: str, clock: Clock) -> None:
    require_extra()
    from shared.archive.archiving import archive  # where it is needed: the service itself starts without pyarrow
    from shared.archive.day_store import DayStore

    url = settings.archive
    assert url is not None
    parameters = connection_parameters(settings.require_database_url(), application_name, statement_timeout="10min")
    async with await AsyncConnection.connect(**parameters, autocommit=True) as connection:
        store = DayStore(url, settings.archive_timeout_s)
        pass_fail_point = fail_points_from(os.environ)
        await archive(connection, store, clock(), settings.seal_after_days, _log_archived, pass_fail_point)


def _log_archived(day: ArchivedDay, changed: bool) -> None:
    _log.info(
        "day_archived",
        kind=day.kind,
        day=day.day.isoformat(),
        file=f"{day.url}/{day.file}",
        readings=day.readings,
        bytes=day.bytes,
        again=changed,
    )
