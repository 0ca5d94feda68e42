"""Answers that their callers have not taken yet: how long each may wait, and how many bytes of them.

gRPC puts an answer into HTTP/2 and waits until the peer's window has room for it. A peer that opens none holds its
call, the answer, and every status behind the answer, for ever. Only the end of the call lets go of them: the peer is
then told CANCELLED, which no window holds up.

gRPC has no way to end a call from its handler, but it cancels one that nothing refers to any more. What does refer to
it is the task that runs the handler, and the task that this one was started from, which waits for the call's end; a
task factory notes which one that is. Two calls cannot be ended so, since gRPC's own loop refers to them as well: the
first one of all, and the one that was accepted last, until there is another one. Knows nothing else of gRPC.
"""

import asyncio
import contextvars
from collections import Counter
from collections.abc import Awaitable, Callable, Coroutine, Generator
from typing import Any
from weakref import WeakKeyDictionary

from shared.errors import LimitExceeded, SlowConsumer
from shared.memory import trim_memory

ANSWER_MAX_WAIT_S = 30.0
"""What a client gets to take an answer: longer than a radio's bad minute, shorter than anybody's patience."""

STATUS_MAX_WAIT_S = 5.0
"""What it gets after that to take the status that says so."""

WAITING_MAX_BYTES = 64 * 1024 * 1024
"""Of all answers that wait, in each process: half of what a service needs when it idles. Answers of a client that reads
wait for milliseconds; a thousand of the largest at once would pass."""

WAITING_MAX_BYTES_PER_PEER = WAITING_MAX_BYTES // 4
"""Of one connection: no one peer can be in the way of others, and a dashboard may ask for thirty full pages at once."""

MAKES_WAY_AFTER_S = 1.0
"""Where there is no room left, the answer that waits longest makes way, if it has waited for so long: a client that
reads has taken its answer by then."""

RETRY_AFTER_S = 1.0

WORTH_TRIMMING_BYTES = 4 * 1024 * 1024
"""When answers of so many bytes were let go of or refused, memory is given back: glibc would keep it, and several times
as much that was needed to make them."""

TRIM_AFTER_S = 5.0
"""gRPC frees in the background, and what comes meanwhile is given back in one go."""

_RUNS_A_HANDLER = "_handle_exceptions"
"""The name of gRPC's coroutine in which a handler runs."""

_waiting_for_the_end: "WeakKeyDictionary[asyncio.Task[Any], asyncio.Task[Any]]" = WeakKeyDictionary()
"""By the task that runs a handler, the task that started it and that ends with the call."""

_current: contextvars.ContextVar["Call | None"] = contextvars.ContextVar("call", default=None)


def note_calls(loop: asyncio.AbstractEventLoop) -> None:
    """From now on it is known of each call on this loop what has to be let go of to end it."""
    if loop.get_task_factory() is not _noting_factory:
        loop.set_task_factory(_noting_factory)


def _noting_factory(
    loop: asyncio.AbstractEventLoop, coroutine: Coroutine[Any, Any, Any] | Generator[Any, None, Any], **options: Any
) -> "asyncio.Task[Any]":
    task: asyncio.Task[Any] = asyncio.Task(coroutine, loop=loop, **options)
    if getattr(coroutine, "__name__", "") == _RUNS_A_HANDLER:
        starter = asyncio.current_task(loop)
        if starter is not None:
            _waiting_for_the_end[task] = starter
    return task


class Deliveries:
    """All answers of a process that wait to be taken."""

    def __init__(self) -> None:
        self._bytes = 0
        self._of_peer: Counter[str] = Counter()
        self._waiting: dict[Call, None] = {}
        """Calls with an answer that waits, the one that waits longest first."""
        self._freed = 0
        self._trimming = False

    def call(self, peer: str) -> "Call":
        """The call whose handler the current task runs. `peer` is its connection."""
        task = asyncio.current_task()
        assert task is not None
        call = Call(self, peer, task, _waiting_for_the_end.get(task))
        _current.set(call)
        return call

    @property
    def waiting_bytes(self) -> int:
        return self._bytes

    def admit(self, call: "Call", size: int) -> None:
        """Takes in an answer; LimitExceeded where there is no room and none can be made."""
        now = asyncio.get_running_loop().time()
        held = self._of_peer[call.peer]
        if held and held + size > WAITING_MAX_BYTES_PER_PEER:
            self._trim_for(size)
            raise LimitExceeded(
                f"answers of {held} bytes wait on this connection to be read; read them first", RETRY_AFTER_S
            )
        while self._bytes and self._bytes + size > WAITING_MAX_BYTES:
            longest = next(iter(self._waiting))
            if now - longest.waits_since < MAKES_WAY_AFTER_S:
                self._trim_for(size)
                raise LimitExceeded(f"answers of {self._bytes} bytes wait to be read", RETRY_AFTER_S)
            longest.end()
        self._bytes += size
        self._of_peer[call.peer] += size
        call.waits_since = now
        self._waiting[call] = None

    def release(self, call: "Call", size: int, *, taken: bool) -> None:
        self._waiting.pop(call, None)
        self._bytes -= size
        self._of_peer[call.peer] -= size
        if self._of_peer[call.peer] <= 0:
            del self._of_peer[call.peer]
        if not taken:
            self._trim_for(size)

    def _trim_for(self, size: int) -> None:
        """Gives memory back soon where so many bytes are worth it, with those before them."""
        self._freed += size
        if self._freed >= WORTH_TRIMMING_BYTES and not self._trimming:
            self._trimming = True
            asyncio.get_running_loop().call_later(TRIM_AFTER_S, self._trim)

    def _trim(self) -> None:
        self._freed, self._trimming = 0, False
        trim_memory()


class Call:
    """One call, from the start of its handler until the peer has taken its last answer and its status."""

    __slots__ = (
        "__weakref__",
        "_bytes",
        "_closing",
        "_deliveries",
        "_handling",
        "_limit",
        "_over",
        "_reading",
        "_writing",
        "answered",
        "peer",
        "waits_since",
    )

    def __init__(
        self, deliveries: Deliveries, peer: str, handling: "asyncio.Task[Any]", closing: "asyncio.Task[Any] | None"
    ) -> None:
        self.peer = peer
        self.answered = False
        """Whether one of several answers was taken."""
        self.waits_since = 0.0
        self._deliveries = deliveries
        self._handling: asyncio.Task[Any] | None = handling
        self._closing = closing
        self._reading: asyncio.Task[Any] | None = None
        self._writing: asyncio.Task[Any] | None = None
        """The tasks, the handler's or others, in which requests are read and an answer is being written."""
        self._bytes = 0
        self._limit: asyncio.TimerHandle | None = None
        self._over = False
        (closing or handling).add_done_callback(self._ended)

    def reads_here(self) -> None:
        """Says that the current task reads the requests."""
        if not self._over:
            self._reading = asyncio.current_task()

    def leave(self, size: int, within_s: float | None = None) -> None:
        """Says that the last answer, of so many bytes, and the status are left to gRPC now: from here on the call is
        ended when it is not over in time, ANSWER_MAX_WAIT_S unless said otherwise.

        Raises LimitExceeded where too many bytes wait already.
        """
        if size:
            self._deliveries.admit(self, size)
            self._bytes += size
        if not self._over and self._limit is None:
            wait_s = ANSWER_MAX_WAIT_S if within_s is None else within_s
            self._limit = asyncio.get_running_loop().call_later(wait_s, self.end)

    async def write(self, write: Callable[[Any], Awaitable[None]], answer: Any, size: int) -> None:
        """One of several answers, of so many bytes. SlowConsumer where it was not taken within ANSWER_MAX_WAIT_S,
        LimitExceeded where too many bytes wait already."""
        self._deliveries.admit(self, size)
        self._bytes += size
        self._writing = asyncio.current_task() if not self._over else None
        try:
            async with asyncio.timeout(ANSWER_MAX_WAIT_S):
                await write(answer)
        except TimeoutError:
            raise SlowConsumer(ANSWER_MAX_WAIT_S) from None  # and gRPC holds it until the call is over
        finally:
            self._writing = None
        self.answered = True
        if not self._over:
            self._bytes -= size
            self._deliveries.release(self, size, taken=True)

    def end(self) -> None:
        """Ends the call without its caller, who is told CANCELLED."""
        for task in (self._closing, self._reading, self._writing, self._handling):
            if task is not None:
                task.cancel()
        self._settle(taken=False)

    def _ended(self, _: object) -> None:
        self._settle(taken=True)

    def _settle(self, *, taken: bool) -> None:
        if self._over:
            return
        self._over = True
        if self._limit is not None:
            self._limit.cancel()
        # Each of them refers to us, by its context: we would live until the garbage collector comes, which is rarely
        # here, and gRPC's call with us.
        self._limit = self._handling = self._closing = self._reading = self._writing = None
        if self._bytes:
            self._deliveries.release(self, self._bytes, taken=taken)


def current() -> Call:
    """The call on whose behalf the current task runs."""
    call = _current.get()
    assert call is not None, "no call is being served"
    return call
