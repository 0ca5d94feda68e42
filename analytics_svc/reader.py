"""Questions to a database that may be a replica: bounded, dated, and gone with whoever asked.

A question travels with a preamble in the same message, which tells the server how long the caller waits, and takes the
time up to which the answer is complete: `as_of`. The preamble's snapshot is never later than that of the question, so
all that was committed on the primary before `as_of` is in the answer. On a primary that is the instant at which the two
arrived, on a replica the newest heartbeat that it has replayed: see `ingestion_svc.heartbeat`.
"""

import asyncio
import itertools
import math
import os
import socket
from collections import OrderedDict
from collections.abc import Mapping
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
from analytics_svc.reader_sql import IS_PREPARED, PREAMBLE
from shared import deadline
from shared.db.engine import connection_parameters, database_errors
from shared.errors import DatabaseUnavailable, DeadlinePassed
from shared.timestamps import us_from_datetime

_log = structlog.get_logger()

Value = TypeVar("Value")
Other = TypeVar("Other")

NETWORK_GRACE_S = 1.0
"""Seconds beyond the server's own time limit after which the network, not the question, is taken to be at fault."""

CLOSE_TIMEOUT_S = 1.0
"""Seconds that cancelled questions have to end in when the service stops; most take milliseconds."""

CANCEL_TIMEOUT_S = 2.0
"""Seconds for a request to cancel, which is a connection of its own. The server's limit ends the question anyway."""

CANCEL_AGAIN_S = 0.1
"""Seconds after which a question that goes on is cancelled again: a request that overtakes its question is lost."""

PREPARED_MAX = 64
"""Statements that a session keeps prepared: one a question, and of some questions one for each span of days."""


@dataclass(frozen=True, slots=True)
class QueryResult(Generic[Value]):
    """What the database told, and up to when: all that was committed on the primary before `as_of_us` is in it."""

    value: Value
    as_of_us: int

    def replace(self, value: Other) -> "QueryResult[Other]":
        """The same answer in other words."""
        return QueryResult(value, self.as_of_us)


class _Session(AsyncConnection[Any]):
    """A connection, what the server has prepared for it, and how it is interrupted.

    The driver itself sees to it that whoever is cancelled in the middle of a statement leaves the connection idle, or
    closed: it asks the server to cancel, by `cancel_safe`, and then awaits the end.
    """

    def __init__(self, *arguments: Any, **more: Any) -> None:
        super().__init__(*arguments, **more)
        self._server_has: OrderedDict[Prepared, None] = OrderedDict()
        """The one that was used longest ago comes first."""
        self._cancelling: asyncio.Task[None] | None = None
        self._ended = asyncio.Event()

    async def prepare(self, statement: Prepared) -> None:
        """Makes sure that the statement is prepared. Raises the driver's errors; it may then be done again."""
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
        """Asks the server to cancel, and then again and again in a task, until it has ended what it does."""
        try:
            await super().cancel_safe(timeout=min(timeout, CANCEL_TIMEOUT_S))
        finally:
            self._ended.clear()
            self._cancelling = asyncio.create_task(self._cancel_again())

    async def stop_cancelling(self) -> None:
        """No request to cancel is under way any more when this returns: it would meet the next question."""
        self._ended.set()
        if self._cancelling is not None:
            await self._cancelling
            self._cancelling = None

    async def _cancel_again(self) -> None:
        while True:
            with suppress(TimeoutError):
                await asyncio.wait_for(self._ended.wait(), CANCEL_AGAIN_S)
                return
            try:
                await super().cancel_safe(timeout=CANCEL_TIMEOUT_S)
            except (psycopg.Error, OSError) as error:
                _log.warning("cancel_failed", error=str(error))

    async def _has(self, statement: Prepared) -> bool:
        """Asks the server itself: a request to cancel may come when all is done, and then nobody learns of that. To try
        and be refused would be no way: an error that comes while the driver cancels costs the connection."""
        cursor = await self.execute(IS_PREPARED, (statement.name,))
        return cursor.rowcount > 0

    def hang_up(self) -> None:
        """Ends the connection as a network does: whoever awaits it gets an error."""
        with suppress(psycopg.Error, OSError), socket.socket(fileno=os.dup(self.fileno())) as connection:
            connection.shutdown(socket.SHUT_RDWR)


class Reader:
    """Asks over a bounded pool of connections that cannot write."""

    def __init__(self, url: str, application_name: str, *, pool_size: int, timeout_s: float) -> None:
        self._parameters = connection_parameters(
            url,
            application_name,
            statement_timeout=f"{int(timeout_s * 1_000)}ms",
            # What is large comes as two statements at a time: on two cores workers cost more than they do.
            max_parallel_workers_per_gather="0",
            default_transaction_read_only="on",
        )
        self._pool_size = pool_size
        self._free = asyncio.Semaphore(pool_size)
        self._idle: list[_Session] = []
        self._closed = False
        self._timeout_s = timeout_s
        self._preamble = Prepared.named("preamble", PREAMBLE)
        self._numbers = itertools.count()
        self._prepared: OrderedDict[tuple[TextClause, tuple[date, ...]], Prepared] = OrderedDict()

    async def ask(
        self, statement: TextClause, parameters: Mapping[str, object], planned_for: Mapping[str, date] | None = None
    ) -> QueryResult[list[Any]]:
        """The answer's rows, with columns as attributes.

        The planner sees all values, each time anew. With `planned_for` it sees those alone and plans once for any
        others, which spares more than a small question costs. They must leave it no choice that the others decide.

        Raises DeadlinePassed when the caller waits no longer, and DatabaseUnavailable, within about `timeout_s`.

        Cancelling is safe at any point: where a question is under way the server is asked to make it short, and the
        connection is not left in the middle of one.
        """
        loop = asyncio.get_running_loop()
        ends_at, caller_leaves_at = loop.time() + self._timeout_s, deadline.ends_at()
        in_haste = caller_leaves_at is not None and caller_leaves_at < ends_at
        question = _Question(
            (self._preamble, self._named(statement, planned_for)), parameters, min(ends_at, caller_leaves_at or ends_at)
        )
        try:
            if self._free.locked():
                async with asyncio.timeout_at(question.ends_at):
                    await self._free.acquire()
            else:
                await self._free.acquire()
            try:
                return await self._answer(question)
            finally:
                self._free.release()
        except (TimeoutError, _OutOfTime):
            if in_haste:
                raise DeadlinePassed from None
            _log.warning("database_slow", timeout_s=self._timeout_s)
            raise DatabaseUnavailable from None

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
                    # Ended since the question before, as by a restart of the server, or met by that one's time limit,
                    # which passed just as it ended. Asking again changes nothing.
            try:
                async with asyncio.timeout_at(question.ends_at):
                    session = await self.connect()
            except TimeoutError:
                raise _OutOfTime from None
            return await self._put(question, session)

    async def _put(self, question: "_Question", session: _Session) -> QueryResult[list[Any]]:
        """The answer. The session is idle afterwards, or closed after anything but an answer, the end of its time, or
        cancelling. Raises the driver's errors, or _OutOfTime."""
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
        """Keeps a session that is usable and idle for the next question, and closes another."""
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
    """A question has no answer by the time at which its caller waits no longer."""


@dataclass(frozen=True, slots=True)
class _Question:
    """A statement and until when its answer can be of use."""

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
        [(as_of, *_)] = await cursor.fetchall()
        cursor.nextset()
        return QueryResult(await cursor.fetchall(), us_from_datetime(as_of))

    @property
    def has_time(self) -> bool:
        return asyncio.get_running_loop().time() < self.ends_at

    def _timeout_ms(self) -> int:
        """What is left of the caller's time, rounded up: the caller, who has it to the microsecond, is always first."""
        left_s = self.ends_at - asyncio.get_running_loop().time()
        return max(0, math.ceil(left_s * 1_000)) + 1
