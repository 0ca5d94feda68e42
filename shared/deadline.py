"""Until when the answer to the call that is being served can be of use, for whatever is done on the call's behalf.

It goes with the call's task, so that no rpc, and no question that an rpc asks, has to hand it on or can forget to.
"""

import asyncio
from contextvars import ContextVar

_ends_at: ContextVar[float | None] = ContextVar("ends_at", default=None)


def set_time_remaining(seconds: float | None) -> None:
    """Says how long the caller waits, from now on; None: as long as it takes."""
    _ends_at.set(None if seconds is None else asyncio.get_running_loop().time() + seconds)


def ends_at() -> float | None:
    """When the caller stops waiting, in the event loop's time; None: never, or there is no caller."""
    return _ends_at.get()
