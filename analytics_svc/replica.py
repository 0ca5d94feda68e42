"""Whether the database that answers are taken from is there and close enough to its primary."""

from collections.abc import Awaitable, Callable

import structlog

from shared.errors import DatabaseUnavailable
from shared.timestamps import US_PER_SECOND

_log = structlog.get_logger()


LagCheck = Callable[[], Awaitable[int]]
"""Gives the microseconds that the database lags behind its primary, 0 for a primary. Raises DatabaseUnavailable."""


class ReplicaWatch:
    """Looks at the database for health, and tells metrics what the lag was. A primary is a replica that never lags.

    Questions are answered whatever it says, each with its `as_of`: a caller that did not ask for our health is better
    served with an old answer that is dated than with none, and others are sent to a better replica by theirs.
    """

    def __init__(self, lag_us: LagCheck, lag_max_s: float, on_lag: Callable[[float], None]) -> None:
        self._lag_us = lag_us
        self._lag_max_s = lag_max_s
        self._on_lag = on_lag
        self._behind = False

    async def fit_to_serve(self) -> bool:
        """Whether the database answers and lags no further behind than it may."""
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
