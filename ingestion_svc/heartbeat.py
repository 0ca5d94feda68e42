"""The heartbeat: a row that ingestion writes the primary's time into, about once a second.

On a replica it is the proof of how far the answers reach. Whatever was acknowledged before `beat_at` has its commit in
the write-ahead log before that of the beat, and a replica replays the log in its order: who sees the beat sees all of
that, in the same snapshot, by reading one row and with no right but to read it. PostgreSQL's own figures say less.
`pg_last_xact_replay_timestamp()` stands still while nobody writes, may run ahead of the snapshot of the statement that
asks, and next to nothing else says whether what was received is all there is. Without ingestion the beat stands still:
what can be proved then stands still as well, and `as_of` says so.

Every worker beats, each over a connection of its own: a beat must not wait behind readings, or a replica of a busy
primary would seem to lag.
"""

import asyncio
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

import psycopg
import structlog
from psycopg import AsyncConnection

from ingestion_svc.upkeep_sql import BEAT

_log = structlog.get_logger()

INTERVAL_S = 1.0
"""How far behind a replica that keeps up may seem to be: little beside what it may lag, and cheap at a commit each."""

BEAT_TIMEOUT_S = 3.0
"""A beat takes a millisecond. One that takes longer would only be late."""


class Heartbeat:
    """Beats in the background, and once more at the end: replicas then reach past the last commit."""

    def __init__(self, parameters: Mapping[str, Any], *, interval_s: float = INTERVAL_S) -> None:
        self._parameters = dict(parameters)
        self._interval_s = interval_s
        self._closing = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begins, in the running event loop."""
        self._task = asyncio.create_task(self._run())

    async def close(self) -> None:
        """Beats a last time, where the database lets us."""
        self._closing.set()
        if self._task is not None:
            await self._task

    async def _run(self) -> None:
        told = False
        while True:
            try:
                async with asyncio.timeout(BEAT_TIMEOUT_S):
                    connection = await AsyncConnection.connect(**self._parameters, autocommit=True)
                async with connection:
                    told = False
                    await self._beat_over(connection)
            except (psycopg.Error, OSError) as error:  # TimeoutError is an OSError
                if not told:
                    _log.warning("heartbeat_failed", error=str(error) or type(error).__name__)
                told = True
            if self._closing.is_set():
                return
            await self._pause()

    async def _beat_over(self, connection: AsyncConnection[Any]) -> None:
        """Beats until the service closes, or until the connection fails."""
        while True:
            last = self._closing.is_set()
            async with asyncio.timeout(BEAT_TIMEOUT_S):
                await connection.execute(BEAT)
            if last:
                return
            await self._pause()

    async def _pause(self) -> None:
        with suppress(TimeoutError):
            await asyncio.wait_for(self._closing.wait(), self._interval_s)
