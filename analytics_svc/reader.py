"""Questions to a database that may be a replica: limited in time, dated, and cancelled with their callers.

A question travels with a preamble in the same message. The preamble passes the caller's time limit to the server and
reads `as_of`, the time up to which the answer is complete. The two have one snapshot, taken after it, so that
everything that was committed on the primary before `as_of` is in the answer. On a primary `as_of` is the instant at
which the two arrived, on a replica the newest heartbeat that it has replayed: see `ingestion_svc.heartbeat`.

The pool of connections is our own, a semaphore and a list. `psycopg_pool` 3.3.3 was measured in its place:
- Python 3.11's `asyncio.wait_for`, which it waits with, can swallow a cancellation. Nine runs of 14,000 calls, most of
  them cancelled at random turns of the event loop, each lost one or more of 3 connections for good, and 3 % of the
  cancelled calls went on to an answer. Ours had neither; on 3.12 both held.
- A question takes 6 to 10 % more CPU time; 16 to 24 % more with what makes it hold on 3.11: connections put back in
  shielded tasks, and a look at `Task.cancelling()`.
- It connects in the background: while the database is away a caller waits out its time limit and learns no reason, 10 s
  instead of a few milliseconds.
"""

import asyncio
import itertools
import math
import os
import socket
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import date
from typing import Any, Generic, TypeVar

import psycopg
import structlog
from psycopg import AsyncClientCursor, AsyncConnection
from psycopg.pq import TransactionStatus
from psycopg.rows import namedtuple_row
from sqlalchemy import TextClause

from analytics_svc.prepared import Prepared
from analytics_svc.questions import Retention, Window
from analytics_svc.reader_sql import IS_PREPARED, PREAMBLE
from analytics_svc.readings_sql import OfReadings
from shared import deadline
from shared.background import is_set_within
from shared.db.engine import connection_parameters, database_errors
from shared.errors import DatabaseUnavailable, DeadlinePassed
from shared.logs import quietly
from shared.timestamps import TIMESTAMP_MIN_US, US_PER_DAY, datetime_from_us, us_from_datetime

_log = structlog.get_logger()

Value = TypeVar("Value")
Other = TypeVar("Other")

NETWORK_GRACE_S = 1.0
"""Seconds after the server's own time limit at which the network, not the question, is taken to be at fault."""

CLOSE_TIMEOUT_S = 1.0
"""Seconds for cancelled questions to end when the service stops; most take milliseconds."""

CANCEL_TIMEOUT_S = 2.0
"""Seconds for a cancel request, which is a connection of its own. The server's time limit ends the question anyway."""

CANCEL_AGAIN_S = 0.1
"""Seconds after which a question that still runs is cancelled again: a request that arrives before it has no effect."""

PREPARED_MAX = 64
"""Statements that a session keeps prepared: one for each question, for some questions one for each span of days."""


PLANNED_ONCE_MAX_US = 9 * US_PER_DAY
"""Windows up to this length, eight days and what is looked at before them, share the plan of their days. Longer ones
are planned each time: a plan that is kept takes memory for each of its days, and planning is little of their cost."""


@dataclass(frozen=True, slots=True)
class QueryResult(Generic[Value]):
    """An answer, and up to when it is complete: all that was committed on the primary before `as_of_us` is in it."""

    value: Value
    as_of_us: int
    retention: Retention
    """As the answer found it."""

    def replace(self, value: Other) -> "QueryResult[Other]":
        """Another value as of the same time."""
        return QueryResult(value, self.as_of_us, self.retention)

    def beside(self, *others: "QueryResult[Any]") -> "QueryResult[Value]":
        """The same value, which others are a part of."""
        every = [self, *others]
        return QueryResult(self.value, min(each.as_of_us for each in every), max(each.retention for each in every))


class _Session(AsyncConnection[Any]):
    """A connection, the statements that the server has prepared for it, and how a running one is cancelled.

    When a task is cancelled in the middle of a statement, the driver leaves the connection idle or closed: it asks the
    server to cancel, by `cancel_safe`, and then awaits the end of the statement.
    """

    def __init__(self, *arguments: Any, **more: Any) -> None:
        super().__init__(*arguments, **more)
        self._server_has: OrderedDict[Prepared, None] = OrderedDict()
        """Least recently used first."""
        self._cancelling: asyncio.Task[None] | None = None
        self._ended = asyncio.Event()

    async def prepare(self, statement: Prepared) -> None:
        """Makes sure that the server has prepared the statement. Raises the driver's errors; may be called again."""
        if statement not in self._server_has:
            if not await self._has(statement):
                await self.execute(statement.prepare)
            self._server_has[statement] = None
        self._server_has.move_to_end(statement)
        if len(self._server_has) > PREPARED_MAX:
            oldest = next(iter(self._server_has))
            if await self._has(oldest):
                await self.execute(f"DEALLOCATE {oldest.name}")
            del self._server_has[oldest]

    async def cancel_safe(self, *, timeout: float = CANCEL_TIMEOUT_S) -> None:
        """Asks the server to cancel, and repeats that in a task until `stop_cancelling`."""
        try:
            await super().cancel_safe(timeout=min(timeout, CANCEL_TIMEOUT_S))
        finally:
            self._ended.clear()
            self._cancelling = asyncio.create_task(self._cancel_again())

    async def stop_cancelling(self) -> None:
        """Ends the repeated requests. None is under way when this returns: it would cancel the next question."""
        self._ended.set()
        if self._cancelling is not None:
            await self._cancelling
            self._cancelling = None

    async def _cancel_again(self) -> None:
        while not await is_set_within(self._ended, CANCEL_AGAIN_S):
            try:
                await super().cancel_safe(timeout=CANCEL_TIMEOUT_S)
            except (psycopg.Error, OSError) as error:
                quietly(_log.warning, "cancel_failed", error=str(error))

    async def _has(self, statement: Prepared) -> bool:
        """Whether the server has prepared the statement, which it may have although our task was cancelled. Preparing
        it again to see whether that fails is no alternative: an error while the driver cancels costs the connection."""
        cursor = await self.execute(IS_PREPARED, (statement.name,))
        return cursor.rowcount > 0

    def hang_up(self) -> None:
        """Breaks the connection as a network would: the task that awaits it gets an error."""
        with suppress(psycopg.Error, OSError), socket.socket(fileno=os.dup(self.fileno())) as connection:
            connection.shutdown(socket.SHUT_RDWR)


class Reader:
    """Asks over a bounded pool of connections that cannot write."""

    def __init__(self, url: str, application_name: str, *, pool_size: int, timeout_s: float) -> None:
        self._parameters = connection_parameters(
            url,
            application_name,
            statement_timeout=f"{int(timeout_s * 1_000)}ms",
            # Large questions are two or three statements at a time: on two cores workers cost more than they save.
            max_parallel_workers_per_gather="0",
            default_transaction_read_only="on",
            default_transaction_isolation="repeatable\\ read",  # one snapshot for the preamble and the question
        )
        self._pool_size = pool_size
        self._free = asyncio.Semaphore(pool_size)
        self._idle: list[_Session] = []
        self._closed = False
        self._timeout_s = timeout_s
        self._preamble = Prepared.named("preamble", PREAMBLE)
        self._numbers = itertools.count()
        self._prepared: OrderedDict[tuple[TextClause, tuple[date, ...]], Prepared] = OrderedDict()
        self.retention = Retention()
        """As the last answer found it: a guess for the next one."""

    async def ask(
        self, statement: TextClause, parameters: Mapping[str, object], planned_for: Mapping[str, date] | None = None
    ) -> QueryResult[list[Any]]:
        """The answer's rows, with columns as attributes.

        The server makes a plan for each question's values. With `planned_for` it sees only those and keeps its plan for
        all other values, which saves more than a small question costs; the best plan must not depend on the others.

        Raises DeadlinePassed at the caller's deadline, and DatabaseUnavailable within about `timeout_s`.

        The task may be cancelled at any point: the server is then asked to cancel the question, and the connection is
        left idle or closed.
        """
        loop = asyncio.get_running_loop()
        ends_at, caller_ends_at = loop.time() + self._timeout_s, deadline.ends_at()
        caller_is_first = caller_ends_at is not None and caller_ends_at < ends_at
        question = _Question(
            (self._preamble, self._named(statement, planned_for)), parameters, min(ends_at, caller_ends_at or ends_at)
        )
        try:
            if self._free.locked():
                async with asyncio.timeout_at(question.ends_at):
                    await self._free.acquire()
            else:
                await self._free.acquire()
            try:
                answer = await self._answer(question)
                self.retention = answer.retention
                return answer
            finally:
                self._free.release()
        except (TimeoutError, _OutOfTime):
            if caller_is_first:
                raise DeadlinePassed from None
            quietly(_log.warning, "database_slow", timeout_s=self._timeout_s)
            raise DatabaseUnavailable from None

    async def ask_of_days(
        self,
        statement: OfReadings,
        parameters: Mapping[str, object],
        start_us: int,
        end_us: int,
        *,
        planned_once: bool = True,
    ) -> QueryResult[list[Any]]:
        """Asks of readings from one time to another: `first_day` and `last_day` are constants of the plan, where it is
        made once for all windows of these days."""
        days: dict[str, date] = {
            "first_day": datetime_from_us(max(start_us, TIMESTAMP_MIN_US)).date(),
            "last_day": datetime_from_us(end_us).date(),
        }
        planned_for = days if planned_once and end_us - start_us <= PLANNED_ONCE_MAX_US else None
        asked = {**parameters, **days}
        if days["first_day"] >= self.retention.open_since:
            answer = await self.ask(statement.open, asked, planned_for)
            if days["first_day"] >= answer.retention.open_since:
                return answer
        return await self.ask(statement.all, asked, planned_for)

    async def ask_as_kept(
        self, window: Window, ask: Callable[[Window], Awaitable[QueryResult[Value]]]
    ) -> tuple[Window, QueryResult[Value]]:
        """Asks about a window as it is looked at, see `Retention`; again where the retention floor has moved."""
        looked_at = self.retention.looked_at(window)
        while True:
            answer = await ask(looked_at)
            wanted = answer.retention.looked_at(window)
            if wanted == looked_at:
                return looked_at, answer
            looked_at = wanted

    async def close(self) -> None:
        """Waits a moment for questions that are being cancelled, then closes the connections."""
        try:
            async with asyncio.timeout(CLOSE_TIMEOUT_S):
                for _ in range(self._pool_size):
                    await self._free.acquire()
        except TimeoutError:
            _log.warning("questions_cut_off")
        self._closed = True
        while self._idle:
            await self._idle.pop().close()

    async def connect(self) -> _Session:
        """A new connection like those that questions are asked over. Raises the driver's errors."""
        return await _Session.connect(
            **self._parameters,
            autocommit=True,
            prepare_threshold=None,  # or the driver counts how often it meets a text with these very values
            cursor_factory=AsyncClientCursor,
            row_factory=namedtuple_row,
        )

    def _named(self, statement: TextClause, planned_for: Mapping[str, date] | None) -> Prepared:
        key = statement, tuple((planned_for or {}).values())
        if key not in self._prepared:
            self._prepared[key] = Prepared.named(f"question_{next(self._numbers)}", statement, planned_for)
            if len(self._prepared) > PREPARED_MAX:
                self._prepared.popitem(last=False)
        self._prepared.move_to_end(key)
        return self._prepared[key]

    async def _answer(self, question: "_Question") -> QueryResult[list[Any]]:
        async with database_errors():
            if self._idle:
                session = self._idle.pop()
                try:
                    return await self._put(question, session)
                except psycopg.OperationalError as error:
                    if not (session.broken or isinstance(error, psycopg.errors.QueryCanceled)):
                        raise
                    # The session ended after its last question, as when the server restarts, or that question's time
                    # limit passed just as it ended and cancelled this one. Questions only read: ask again.
            try:
                async with asyncio.timeout_at(question.ends_at):
                    session = await self.connect()
            except TimeoutError:
                raise _OutOfTime from None
            return await self._put(question, session)

    async def _put(self, question: "_Question", session: _Session) -> QueryResult[list[Any]]:
        """The answer. Afterwards the session is kept, if it is idle after an answer, the end of the question's time or
        a cancellation; else it is closed. Raises the driver's errors, or _OutOfTime."""
        usable = False
        hang_up = asyncio.get_running_loop().call_at(question.ends_at + NETWORK_GRACE_S, session.hang_up)
        try:
            answer = await question.put(session)
            usable = True
            return answer
        except (_OutOfTime, asyncio.CancelledError):
            usable = True
            raise
        except psycopg.OperationalError as error:
            if question.has_time:
                raise
            usable = isinstance(error, psycopg.errors.QueryCanceled)
            raise _OutOfTime from None
        finally:
            hang_up.cancel()
            await self._let_go(session, usable)

    async def _let_go(self, session: _Session, usable: bool) -> None:
        """Keeps a session that is usable and idle for the next question, and closes any other."""
        keep = False
        try:
            await session.stop_cancelling()
            keep = usable and not self._closed and session.info.transaction_status is TransactionStatus.IDLE
        finally:
            if keep:
                self._idle.append(session)
            else:
                await session.close()


class _OutOfTime(Exception):
    """A question has no answer by the end of its time."""


@dataclass(frozen=True, slots=True)
class _Question:
    """The preamble and a statement, and until when its answer is of use, in the event loop's time."""

    statements: tuple[Prepared, Prepared]
    parameters: Mapping[str, object]
    ends_at: float

    async def put(self, session: _Session) -> QueryResult[list[Any]]:
        """The answer. Raises the driver's errors, or _OutOfTime."""
        if not self.has_time:
            raise _OutOfTime
        for each in self.statements:
            await session.prepare(each)
        preamble, asked = self.statements
        cursor = await session.execute(
            f"{preamble.execute}; {asked.execute}",
            {**self.parameters, "timeout_ms": str(self._timeout_ms()), "plans": asked.plans},
        )
        [(as_of, floor_day, sealed_before, *_)] = await cursor.fetchall()
        cursor.nextset()
        retention = Retention(floor_day, sealed_before)
        return QueryResult(await cursor.fetchall(), us_from_datetime(as_of), retention)

    @property
    def has_time(self) -> bool:
        return asyncio.get_running_loop().time() < self.ends_at

    def _timeout_ms(self) -> int:
        """The time left, rounded up: the caller's own timer, exact to the microsecond, always fires first."""
        left_s = self.ends_at - asyncio.get_running_loop().time()
        return max(0, math.ceil(left_s * 1_000)) + 1
