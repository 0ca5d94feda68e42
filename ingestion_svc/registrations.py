"""How many new devices are registered: so many an hour, and so many in all.

A device whose certificate names it is registered in any case: the authority has counted it. Everybody else, a gateway
above all, could fill the database with ids that nobody has.
"""

import time
from collections.abc import Awaitable, Callable

from shared.errors import LimitExceeded

COUNTED_AGAIN_S = 60.0
"""Seconds between two counts of what is registered, which take 10 ms for 200,000; other processes register, too."""

FULL_RETRY_AFTER_S = 3_600.0
"""Until somebody has looked."""

SECONDS_PER_HOUR = 3_600.0


class Registrations:
    """What may still be registered of one kind of device, `meter` or `vehicle`. Starts with an hour's number."""

    def __init__(self, kind: str, per_hour: int, most: int, now_s: Callable[[], float] = time.monotonic) -> None:
        self.kind = kind
        self._per_hour = per_hour
        self._most = most
        self._now_s = now_s
        self._left = float(per_hour)
        self._left_at_s = now_s()
        self._registered = 0
        self._counted_at_s: float | None = None

    async def admit(self, new: int, count: Callable[[], Awaitable[int]]) -> None:
        """Takes so many new devices off what is left, all of them or, with LimitExceeded, none.

        `count` tells how many are registered.
        """
        if not new:
            return
        now_s = self._now_s()
        if self._counted_at_s is None or now_s > self._counted_at_s + COUNTED_AGAIN_S:
            self._registered = await count()
            self._counted_at_s = now_s
        if self._registered + new > self._most:
            raise LimitExceeded(
                f"{self._registered:,} {self.kind}s are registered, and no more than {self._most:,} are;"
                " a certificate that names its device counts as none",
                FULL_RETRY_AFTER_S,
            )
        per_s = self._per_hour / SECONDS_PER_HOUR
        left = min(float(self._per_hour), self._left + (now_s - self._left_at_s) * per_s)
        if new > left and left < self._per_hour:  # what is more than an hour's number passes when nothing was taken
            raise LimitExceeded(
                f"{self._per_hour:,} new {self.kind}s an hour are registered and no more", (new - left) / per_s
            )
        self._left, self._left_at_s = left - new, now_s
        self._registered += new
