"""Questions to a database that may be a replica: bounded, dated, and gone with whoever asked.

A question travels with an opening in the same message, which tells the server how long the caller waits, and takes the
time up to which the answer is complete: `as_of`. The opening's snapshot is never later than that of the question, so
all that was committed on the primary before `as_of` is in the answer. On a primary that is the instant at which the two
arrived, on a replica the newest heartbeat that it has replayed: see `shared.db.heartbeat`.
"""

import asyncio
import itertools
import math
from collections import OrderedDict
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from datetime import date
from typing import Any, Generic, TypeVar

import psycopg
import structlog
from psycopg import AsyncClientCursor, AsyncConnection
from psycopg.pq import TransactionStatus
from psycopg.rows import namedtuple_row
from sqlalchemy import TextClause, text
from sqlalchemy.dialects.postgresql.base import PGDialect

from shared import deadline
from shared.db.engine import connection_parameters, database_errors, to_its_end
from shared.errors import DatabaseUnavailable, DeadlinePassed
from shared.timestamps import us_from_datetime

_log = structlog.get_logger()

Told = TypeVar("Told")
Other = TypeVar("Other")

NETWORK_GRACE_S = 1.0
"""Seconds beyond the server's own time limit after which the network, not the question, is taken to be at fault."""

CLOSE_TIMEOUT_S = 1.0
"""Seconds that abandoned questions have to end in when the service stops; most take milliseconds."""

CANCEL_TIMEOUT_S = 2.0
"""Seconds for a request to cancel, which is a connection of its own. The server's limit ends the question anyway."""

CANCEL_AGAIN_S = 0.1
"""Seconds after which a question that goes on is cancelled again: a request that overtakes its question is lost."""

PREPARED_MAX = 64
"""Statements that a session keeps prepared: one a question, and of some questions one for each span of days."""

# Said before each question in the same message, which is one transaction: afterwards the settings are what they were.
# `now()` is the beginning of the transaction, hence before both snapshots. No pipeline: in one the driver goes through
# the event loop twice as often.
_OPENING = text("""
SELECT CASE WHEN pg_is_in_recovery() THEN (SELECT beat_at FROM heartbeat) ELSE now() END AS as_of,
       set_config('statement_timeout', :timeout_ms, true) AS timeout_ms,
       set_config('plan_cache_mode', :plans, true) AS plans
""")
_PLANNED_EACH_TIME = "force_custom_plan"
_PLANNED_ONCE = "force_generic_plan"

_NUMBERED = PGDialect(paramstyle="numeric_dollar")  # type: ignore[no-untyped-call]  # it has no types


@dataclass(frozen=True, slots=True)
class Answer(Generic[Told]):
    """What the database told, and up to when: all that was committed on the primary before `as_of_us` is in it."""

    told: Told
    as_of_us: int

    def but(self, told: Other) -> "Answer[Other]":
        """The same answer in other words."""
        return Answer(told, self.as_of_us)


@dataclass(frozen=True, slots=True)
class Prepared:
    """A statement as the server is told to prepare it, once in a session, and then to execute it after the opening.

    Preparing spares parsing: a fifth of what a small question costs. The driver's own preparing loses count of what the
    server has when a question is cancelled, so this is done in SQL, where each step is a statement of its own.
    """

    prepare: str
    execute: str
    deallocate: str
    plans: str
    """A `plan_cache_mode`."""

    @classmethod
    def named(cls, name: str, statement: TextClause, planned_for: Mapping[str, date] | None = None) -> "Prepared":
        """The statement, to be known to the server by a name; see `Reader.ask`."""
        for parameter, day in (planned_for or {}).items():
            statement = text(statement.text.replace(f":{parameter}", f"DATE '{day.isoformat()}'"))
        compiled = statement.compile(dialect=_NUMBERED)
        given = ", ".join(f"%({parameter})s" for parameter in compiled.positiontup or ())
        return cls(
            f"PREPARE {name} AS {compiled}",
            f"EXECUTE {name}" + (f"({given})" if given else ""),
            f"DEALLOCATE {name}",
            _PLANNED_EACH_TIME if planned_for is None else _PLANNED_ONCE,
        )


@dataclass(slots=True)
class _Session:
    """A connection and what the server has prepared for it."""

    driver: AsyncConnection[Any]
    prepared: OrderedDict[Prepared, None] = field(default_factory=OrderedDict)
    """The one that was used longest ago comes first."""

    async def prepare(self, statement: Prepared) -> None:
        """Makes sure that the statement is prepared. Raises the driver's errors; it may then be done again."""
        # A request to cancel may come when all is done: what there is by that name can only be the same.
        if statement not in self.prepared:
            with suppress(psycopg.errors.DuplicatePreparedStatement):
                await self.driver.execute(statement.prepare)
            self.prepared[statement] = None
        self.prepared.move_to_end(statement)
        if len(self.prepared) > PREPARED_MAX:
            oldest = next(iter(self.prepared))
            with suppress(psycopg.errors.InvalidSqlStatementName):
                await self.driver.execute(oldest.deallocate)
            del self.prepared[oldest]


class Reader:
    """Asks over a bounded pool of connections that cannot write.

    No gRPC cancellation reaches a connection, and nobody's question outlives its caller: see `ask`.
    """

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
        self._opening = Prepared.named("opening", _OPENING)
        self._numbers = itertools.count()
        self._prepared: OrderedDict[tuple[TextClause, tuple[date, ...]], Prepared] = OrderedDict()

    async def ask(
        self,
        statement: TextClause,
        parameters: Mapping[str, object],
        planned_for: Mapping[str, date] | None = None,
    ) -> Answer[list[Any]]:
        """The answer's rows, with columns as attributes. Cancelling is safe at any point.

        The planner sees all values, each time anew. With `planned_for` it sees those alone and plans once for any
        others, which spares half of what a small question costs. They must leave it no choice that the others decide.

        Raises DeadlinePassed when the caller waits no longer, and DatabaseUnavailable, within about `timeout_s`.

        Callers wait here, where a cancellation costs nothing, until a connection is free. From then on the question
        goes on to its end whatever happens to its caller, so that no connection is ever left in the middle of one; but
        when the caller is gone the server is asked to make it short.
        """
        loop = asyncio.get_running_loop()
        ends_at, caller_leaves_at = loop.time() + self._timeout_s, deadline.ends_at()
        in_haste = caller_leaves_at is not None and caller_leaves_at < ends_at
        question = _Question(
            (self._opening, self._named(statement, planned_for)), parameters, min(ends_at, caller_leaves_at or ends_at)
        )
        try:
            async with asyncio.timeout_at(question.ends_at):
                await self._free.acquire()
                try:
                    return await to_its_end(self._answer(question))
                except asyncio.CancelledError:
                    question.abandon()
                    raise
        except TimeoutError:
            if in_haste:
                raise DeadlinePassed from None
            _log.warning("database_slow", timeout_s=self._timeout_s)
            raise DatabaseUnavailable from None

    async def close(self) -> None:
        """Waits a moment for questions that nobody awaits any more, then closes the connections."""
        try:
            async with asyncio.timeout(CLOSE_TIMEOUT_S):
                for _ in range(self._pool_size):
                    await self._free.acquire()
        except TimeoutError:
            _log.warning("questions_cut_off")
        self._closed = True
        while self._idle:
            await self._idle.pop().driver.close()

    async def connect(self) -> AsyncConnection[Any]:
        """A new connection like those that questions are asked over. Raises the driver's errors."""
        return await AsyncConnection.connect(
            **self._parameters, autocommit=True, cursor_factory=AsyncClientCursor, row_factory=namedtuple_row
        )

    def _named(self, statement: TextClause, planned_for: Mapping[str, date] | None) -> Prepared:
        key = statement, tuple((planned_for or {}).values())
        if key not in self._prepared:
            self._prepared[key] = Prepared.named(f"question_{next(self._numbers)}", statement, planned_for)
            if len(self._prepared) > PREPARED_MAX:
                self._prepared.popitem(last=False)
        self._prepared.move_to_end(key)
        return self._prepared[key]

    async def _answer(self, question: "_Question") -> Answer[list[Any]]:
        try:
            async with asyncio.timeout_at(question.ends_at + NETWORK_GRACE_S), database_errors():
                if self._idle:
                    session = self._idle.pop()
                    try:
                        return await self._put(question, session)
                    except psycopg.OperationalError as error:
                        too_soon = isinstance(error, psycopg.errors.QueryCanceled) and question.has_time
                        if not (session.driver.broken or too_soon):
                            raise
                        # Ended since the question before, as by a restart of the server, or met by that one's time
                        # limit, which passed just as it ended. Asking again changes nothing.
                return await self._put(question, _Session(await self.connect()))
        finally:
            self._free.release()

    async def _put(self, question: "_Question", session: _Session) -> Answer[list[Any]]:
        """The answer. The session is idle afterwards, or closed after anything but an answer or its cancelling."""
        usable = False
        try:
            answer = await question.put(session)
            usable = True
            return answer
        except Abandoned:
            usable = True
            raise
        except psycopg.errors.QueryCanceled:
            usable = not question.has_time  # by the server's limit, which passed just before its caller left
            raise
        finally:
            if usable and not self._closed and session.driver.info.transaction_status is TransactionStatus.IDLE:
                self._idle.append(session)
            else:
                await session.driver.close()


class Abandoned(Exception):
    """Nobody waits for the answer any more."""


class _Question:
    """A statement on its way to the server."""

    def __init__(self, statements: tuple[Prepared, Prepared], parameters: Mapping[str, object], ends_at: float) -> None:
        self.ends_at = ends_at
        self._statements = statements
        self._parameters = parameters
        self._abandoned = False
        self._driver: AsyncConnection[Any] | None = None
        self._done = asyncio.Event()
        self._cancelling: asyncio.Task[None] | None = None

    async def put(self, session: _Session) -> Answer[list[Any]]:
        """The answer. Raises the driver's errors, or Abandoned."""
        if self._abandoned:
            raise Abandoned
        async with self._cancellable(session.driver):
            for each in self._statements:
                await session.prepare(each)
            opening, asked = self._statements
            cursor = await session.driver.execute(
                f"{opening.execute}; {asked.execute}",
                {**self._parameters, "timeout_ms": str(self._timeout_ms()), "plans": asked.plans},
            )
            [(as_of, *_)] = await cursor.fetchall()
            cursor.nextset()
            return Answer(await cursor.fetchall(), us_from_datetime(as_of))

    @property
    def has_time(self) -> bool:
        """Whether somebody may still wait for the answer."""
        return asyncio.get_running_loop().time() < self.ends_at

    def abandon(self) -> None:
        """Nobody waits any more: the server is asked to stop, as often as it takes."""
        self._abandoned = True
        if self._driver is not None and self._cancelling is None:
            self._cancelling = asyncio.create_task(self._cancel(self._driver))

    @asynccontextmanager
    async def _cancellable(self, driver: AsyncConnection[Any]) -> AsyncIterator[None]:
        """Meanwhile `abandon` reaches the server. No request to cancel is under way any more when this ends: it would
        meet the next question on the connection."""
        self._driver = driver
        self._done.clear()
        try:
            yield
        except psycopg.errors.QueryCanceled:
            if self._abandoned:
                raise Abandoned from None
            raise
        finally:
            self._driver = None
            self._done.set()
            if self._cancelling is not None:
                await self._cancelling

    async def _cancel(self, driver: AsyncConnection[Any]) -> None:
        while not self._done.is_set():
            try:
                await driver.cancel_safe(timeout=CANCEL_TIMEOUT_S)
            except (psycopg.Error, OSError) as error:
                _log.warning("cancel_failed", error=str(error))
            with suppress(TimeoutError):
                await asyncio.wait_for(self._done.wait(), CANCEL_AGAIN_S)

    def _timeout_ms(self) -> int:
        """What is left of the caller's time, rounded up: the caller, who has it to the microsecond, is always first."""
        left_s = self.ends_at - asyncio.get_running_loop().time()
        return max(0, math.ceil(left_s * 1_000)) + 1
