"""Ends a command's work on a signal: Ctrl-C, SIGTERM, or the terminal that closes."""

import asyncio
import signal
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

INTERRUPTED = 130
"""The exit code of a command that a signal stopped: 128 and the number of SIGINT."""

_ASKS_TO_STOP = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


async def run_until_asked_to_stop(work: Coroutine[Any, Any, None]) -> bool:
    """Runs `work` to its end, or cancels it on a signal and waits until it has cleaned up; whether a signal came.

    Each further signal cancels the clean-up in turn, as when Ctrl-C is pressed twice. Raises what `work` raises, unless
    a signal came first: Ctrl-C also reaches a starting PostgreSQL, whose failure is then expected.
    """
    loop = asyncio.get_running_loop()
    task = loop.create_task(work)
    asked = False

    # Not the loop's own handlers: those run only after a step that blocks, such as a start of PostgreSQL.
    def stop(_number: int, _frame: FrameType | None) -> None:
        nonlocal asked
        asked = True
        loop.call_soon_threadsafe(task.cancel)

    previous = {number: signal.signal(number, stop) for number in _ASKS_TO_STOP}
    try:
        await asyncio.wait([task])
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
    if asked:
        return True
    task.result()
    return False


@contextmanager
def noticing_signals() -> Iterator[Callable[[], bool]]:
    """Whether a signal has asked to stop, for work that looks for it between steps which are to be whole."""
    asked = False

    def stop(_number: int, _frame: FrameType | None) -> None:
        nonlocal asked
        asked = True

    previous = {number: signal.signal(number, stop) for number in _ASKS_TO_STOP}
    try:
        yield lambda: asked
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
