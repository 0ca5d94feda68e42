"""Watches the replication lag of the database that analytics reads, for the health service."""

from collections.abc import Awaitable, Callable

import structlog

from shared.errors import DatabaseUnavailable
from shared.timestamps import US_PER_SECOND

_log = structlog.get_logger()


LagCheck = Callable[[], Awaitable[int]]
"""Returns the replication lag in microseconds, 0 of a primary. Raises DatabaseUnavailable."""


class ReplicaWatch:
    """Checks that the database answers and that its replication lag is small enough, and reports the lag to metrics.

    Queries still work when the check fails; `as_of`, the watermark of each answer, shows how stale they are. Clients
    that watch health go to another replica.
    """

    def __init__(self, lag_us: LagCheck, lag_max_s: float, on_lag: Callable[[float], None]) -> None:
        self._lag_us = lag_us
        self._lag_max_s = lag_max_s
        self._on_lag = on_lag
        self._behind = False

    async def fit_to_serve(self) -> bool:
        """Whether the database answers and its lag is at most `lag_max_s`."""
        try:
            lag_s = await self._lag_us() / US_PER_SECOND
        except DatabaseUnavailable:
            return False
        self._on_lag(lag_s)
        behind = lag_s > self._lag_max_s
        if behind != self._behind:
            _log.warning("replica_behind" if behind else "replica_caught_up", lag_s=lag_s, lag_max_s=self._lag_max_s)
            self._behind = behind
        return not behind
