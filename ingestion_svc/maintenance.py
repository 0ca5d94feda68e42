"""Keeps partitions a week ahead, drops what retention no longer keeps and seals closed days, while the service runs.

Every worker may do so: the database lets one at a time. What `energyfleet maintain` does for cron is the same.
"""

import asyncio
from collections.abc import Callable, Mapping
from datetime import date
from typing import Any

import psycopg
import structlog
from psycopg import AsyncConnection

from ingestion_svc.failpoints import FailPoints
from ingestion_svc.storage_metrics import StorageMetrics
from shared.background import BackgroundLoop
from shared.db.retention import Maintained, days_ahead, days_held, maintain
from shared.db.sealing import WHEN_FULL, seal
from shared.db.storage import measure
from shared.timestamps import US_PER_DAY, Clock

_log = structlog.get_logger()

INTERVAL_S = 3_600.0
"""A partition that was in use is dropped an hour later; the week ahead leaves 168 tries."""

RETRY_S = 60.0
"""After a failure: soon enough to be through before the next hour, and too rarely to be in the way of recovery."""

ROUND_TIMEOUT_S = 60.0
"""The first round after a long pause drops some hundred partitions; they take milliseconds each."""


MEASURE_TIMEOUT_S = 60.0
"""It takes half a second, and a disk that is busy takes longer; nothing depends on it."""


class Sealing(BackgroundLoop):
    """Seals closed days, a chunk after the other, the first ones at once. A round takes as long as there is something
    to seal; one that is broken off goes on with the next one, here or in another worker. Then, also where sealing
    failed, it tells what is stored."""

    def __init__(
        self,
        parameters: Mapping[str, Any],
        seal_after_days: int,
        clock: Clock,
        pass_fail_point: FailPoints,
        metrics: StorageMetrics,
    ) -> None:
        self._parameters = dict(parameters)
        self._seal_after_days = seal_after_days
        self._clock = clock
        self._pass_fail_point = pass_fail_point
        self._metrics = metrics
        super().__init__("sealing", self.round, INTERVAL_S, retry_s=RETRY_S, jittered=True, at_once=True)

    async def round(self) -> None:
        """One round. Fails with the driver's errors."""
        async with await AsyncConnection.connect(**self._parameters, autocommit=True) as connection:
            try:
                done = await seal(connection, self._clock(), self._seal_after_days, self._pass_fail_point)
            except psycopg.Error:
                await self._measure(connection)
                raise
            if done.finished:
                self._metrics.sealing_finished(self._clock())
            await self._measure(connection)
        if done.days or done.dropped or done.in_use:
            _log.info("days_sealed", days=done.days, readings=done.readings, dropped=done.dropped, in_use=done.in_use)
        if done.disk_full:
            _log.error("sealing_stopped", reason=WHEN_FULL)

    async def _measure(self, connection: AsyncConnection[Any]) -> None:
        async with asyncio.timeout(MEASURE_TIMEOUT_S):
            self._metrics.measured(await measure(connection), self._clock(), self._seal_after_days)


class Maintenance(BackgroundLoop):
    """Runs rounds in the background, the first one at once. One that is broken off at the end loses nothing."""

    def __init__(
        self,
        parameters: Mapping[str, Any],
        retention_days: int,
        rollup_retention_days: int,
        clock: Clock,
        on_partitions_ahead: Callable[[int], None] = lambda days: None,
        archive_url: str | None = None,
        on_retention_held: Callable[[int], None] = lambda days: None,
    ) -> None:
        self.floor_us: int | None = None
        """The earliest timestamp that the database takes, in microseconds; None until it was asked."""
        self._parameters = dict(parameters)
        self._retention_days = retention_days
        self._rollup_retention_days = rollup_retention_days
        self._clock = clock
        self._on_partitions_ahead = on_partitions_ahead
        self._covered_day: int | None = None
        self._archive_url = archive_url
        self._on_retention_held = on_retention_held
        self._held_day: date | None = None
        super().__init__("maintenance", self.round, INTERVAL_S, retry_s=RETRY_S, jittered=True, at_once=True)

    async def round(self) -> None:
        """One round. Tells how many days ahead have partitions, also where it fails: with the driver's errors."""
        now_us = self._clock()
        try:
            async with (
                asyncio.timeout(ROUND_TIMEOUT_S),
                await AsyncConnection.connect(**self._parameters, autocommit=True) as connection,
            ):
                done = await maintain(
                    connection, now_us, self._retention_days, self._rollup_retention_days, self._archive_url
                )
                self.floor_us = done.floor_us
                self._covered_day = now_us // US_PER_DAY + await days_ahead(connection, now_us)
        finally:
            if self._covered_day is not None:
                self._on_partitions_ahead(max(self._covered_day - now_us // US_PER_DAY, -1))
        self._tell_held(done, now_us)
        if done.created or done.dropped or done.in_use:
            _log.info("partitions_maintained", created=done.created, dropped=done.dropped, in_use=done.in_use)

    def _tell_held(self, done: Maintained, now_us: int) -> None:
        """Tells of a day that only the archive keeps from being dropped, once."""
        if self._archive_url is None:
            return
        self._on_retention_held(days_held(done, now_us, self._retention_days))
        if done.held_day is not None and done.held_day != self._held_day:
            _log.warning("retention_held", day=done.held_day.isoformat(), archive_url=self._archive_url)
        self._held_day = done.held_day
