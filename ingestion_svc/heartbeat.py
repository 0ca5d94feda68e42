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
from typing import Any

from psycopg import AsyncConnection

from ingestion_svc.upkeep_sql import BEAT
from shared.background import BackgroundLoop

INTERVAL_S = 1.0
"""How far behind a replica that keeps up may seem to be: little beside what it may lag, and cheap at a commit each."""

BEAT_TIMEOUT_S = 3.0
"""A beat takes a millisecond, and so does a connection. What takes longer would only be late."""


class Heartbeat(BackgroundLoop):
    """Beats in the background, and once more at the end: replicas then reach past the last commit."""

    def __init__(self, parameters: Mapping[str, Any], *, interval_s: float = INTERVAL_S) -> None:
        self._parameters = dict(parameters)
        self._connection: AsyncConnection[Any] | None = None
        super().__init__("heartbeat", self._beat, interval_s, at_once=True, last_round=True)

    async def close(self) -> None:
        await super().close()
        await self._disconnect()

    async def _beat(self) -> None:
        try:
            if self._connection is None:
                async with asyncio.timeout(BEAT_TIMEOUT_S):
                    self._connection = await AsyncConnection.connect(**self._parameters, autocommit=True)
            async with asyncio.timeout(BEAT_TIMEOUT_S):
                await self._connection.execute(BEAT)
        except BaseException:
            await self._disconnect()
            raise

    async def _disconnect(self) -> None:
        if self._connection is not None:
            await self._connection.close()
            self._connection = None
