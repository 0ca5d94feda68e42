"""Loops that run in the background of a service, all with one policy.

A round that fails is logged with its reason, and the loop goes on: a failure that repeats is logged once, until a round
succeeds or fails in another way. What nobody foresaw is a defect and logged with its traceback; it does not end the
loop either.
"""

import asyncio
import random
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any

import psycopg
import structlog

from shared.errors import FleetError, reason_of

_log = structlog.get_logger()

JITTER = 0.1
"""The share of a pause by which it may be longer or shorter: processes that start together do not stay together."""

_FORESEEN = (psycopg.Error, OSError, FleetError)
"""What a round may fail with; TimeoutError is an OSError."""


class BackgroundLoop:
    """Calls `run_round` every `interval_s` seconds, in a task of its own.

    `name` begins the names of its log events. The first round comes at once, or else after an interval. The pause after
    a failure is `retry_s`, if that is shorter. `jittered` makes pauses differ by up to JITTER. Closing cancels the
    round that is under way, or with `last_round` awaits it and runs another one.
    """

    def __init__(
        self,
        name: str,
        run_round: Callable[[], Awaitable[object]],
        interval_s: float,
        *,
        retry_s: float | None = None,
        jittered: bool = False,
        at_once: bool = False,
        last_round: bool = False,
    ) -> None:
        self._name = name
        self._run_round = run_round
        self._interval_s = interval_s
        self._retry_s = interval_s if retry_s is None else min(retry_s, interval_s)
        self._jitter = JITTER if jittered else 0.0
        self._at_once = at_once
        self._last_round = last_round
        self._failing_with: type[BaseException] | None = None
        self._closing = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        self._task = asyncio.create_task(self._run())

    async def close(self) -> None:
        """Ends the loop. Does nothing where it has not begun."""
        self._closing.set()
        if self._task is None:
            return
        if not self._last_round:
            self._task.cancel()
        await asyncio.wait((self._task,))

    async def closes_within(self, seconds: float) -> bool:
        """Waits for so long, or until the loop is closed; whether it is. For a round that pauses."""
        return await is_set_within(self._closing, seconds)

    async def _run(self) -> None:
        pause_s = 0.0 if self._at_once else self._interval_s
        while not await self.closes_within(pause_s * self._factor()):
            pause_s = self._interval_s if await self._succeeds() else self._retry_s
        if self._last_round:
            await self._succeeds()

    def _factor(self) -> float:
        return random.uniform(1 - self._jitter, 1 + self._jitter)  # noqa: S311 (jitter protects nothing)

    async def _succeeds(self) -> bool:
        try:
            await self._run_round()
        except (Exception, asyncio.CancelledError) as error:
            task = asyncio.current_task()
            if task is not None and task.cancelling():  # and not a cancellation that the round let out
                raise
            self._log_failure(error)
            return False
        if self._failing_with is not None:
            self._failing_with = None
            _log.info(f"{self._name}_recovered")
        return True

    def _log_failure(self, error: BaseException) -> None:
        if type(error) is self._failing_with:
            return
        self._failing_with = type(error)
        if isinstance(error, _FORESEEN):
            _log.warning(f"{self._name}_failed", error=reason_of(error))
        else:
            _log.error(f"{self._name}_failed", exc_info=error)


async def is_set_within(event: asyncio.Event, seconds: float) -> bool:
    """Waits for so long, or until the event is set; whether it is. (`asyncio.wait_for` can lose a cancellation.)"""
    with suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await event.wait()
    return event.is_set()


def retrieve(task: asyncio.Future[Any]) -> None:
    """Takes note of how a task ended that nobody may be waiting for any more, or asyncio complains."""
    if not task.cancelled():
        task.exception()
