"""Keeps partitions a week ahead and drops what retention no longer keeps, while the service runs.

Every worker may do so: the database lets one at a time. What `energyfleet maintain` does for cron is the same.
"""

import asyncio
import random
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any

import psycopg
import structlog
from psycopg import AsyncConnection

from shared.db.retention import days_ahead, maintain
from shared.timestamps import US_PER_DAY, Clock

_log = structlog.get_logger()

INTERVAL_S = 3_600.0
"""A partition that was in use is dropped an hour later; the week ahead leaves 168 tries."""

RETRY_S = 60.0
"""After a failure: soon enough to be through before the next hour, and too rarely to be in the way of recovery."""

ROUND_TIMEOUT_S = 60.0
"""The first round after a long pause drops some hundred partitions; they take milliseconds each."""


class Maintenance:
    """Runs rounds in the background, the first one at once. A failed round is logged and tried again."""

    def __init__(
        self,
        parameters: Mapping[str, Any],
        retention_days: int,
        clock: Clock,
        on_partitions_ahead: Callable[[int], None] = lambda days: None,
        *,
        interval_s: float = INTERVAL_S,
        retry_s: float = RETRY_S,
    ) -> None:
        self.floor_us: int | None = None
        """The earliest timestamp that the database takes, in microseconds; None until it was asked."""
        self._parameters = dict(parameters)
        self._retention_days = retention_days
        self._clock = clock
        self._on_partitions_ahead = on_partitions_ahead
        self._interval_s = interval_s
        self._retry_s = retry_s
        self._covered_day: int | None = None
        self._closing = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begins, in the running event loop."""
        self._task = asyncio.create_task(self._run())

    async def close(self) -> None:
        """Ends; a round that is under way is broken off, which loses nothing."""
        self._closing.set()
        if self._task is not None:
            self._task.cancel()
            with suppress(asyncio.CancelledError):
                await self._task

    async def round(self) -> bool:
        """One round; whether it succeeded. Tells how many days ahead have partitions, also where it failed."""
        now_us = self._clock()
        try:
            async with (
                asyncio.timeout(ROUND_TIMEOUT_S),
                await AsyncConnection.connect(**self._parameters, autocommit=True) as connection,
            ):
                done = await maintain(connection, now_us, self._retention_days)
                self._covered_day = now_us // US_PER_DAY + await days_ahead(connection, now_us)
        except (psycopg.Error, OSError) as error:  # TimeoutError is an OSError
            _log.warning("maintenance_failed", error=str(error) or type(error).__name__)
            self._tell(now_us)
            return False
        self.floor_us = done.floor_us
        self._tell(now_us)
        if done.created or done.dropped or done.in_use:
            _log.info("partitions_maintained", created=done.created, dropped=done.dropped, in_use=done.in_use)
        return True

    def _tell(self, now_us: int) -> None:
        if self._covered_day is not None:
            self._on_partitions_ahead(max(self._covered_day - now_us // US_PER_DAY, -1))

    async def _run(self) -> None:
        while not self._closing.is_set():
            try:
                succeeded = await self.round()
            except Exception as error:  # a defect here must not end what keeps the service able to store
                _log.error("maintenance_failed", exc_info=error)
                succeeded = False
            pause_s = self._interval_s if succeeded else min(self._retry_s, self._interval_s)
            await asyncio.sleep(pause_s * random.uniform(0.9, 1.1))  # noqa: S311 (jitter protects nothing)
