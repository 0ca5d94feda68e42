"""Questions to a database that may be a replica: bounded, dated, and gone with whoever asked.

A question travels with an opening statement in the same round trip, which tells the server how long the caller waits,
and takes the time up to which the answer is complete: `as_of`. The opening's snapshot is never later than that of the
question, so all that was committed on the primary before `as_of` is in the answer. On a primary that is the instant at
which the two arrived, on a replica the newest heartbeat that it has replayed: see `shared.db.heartbeat`.
"""

import asyncio
import math
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import psycopg
import structlog
from psycopg import AsyncConnection
from psycopg.pq import PipelineStatus, TransactionStatus
from psycopg.rows import namedtuple_row
from sqlalchemy import TextClause
from sqlalchemy.ext.asyncio import AsyncEngine

from shared import deadline
from shared.db.engine import database_errors, make_engine, to_its_end
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

# `now()` is the beginning of the transaction, hence before both snapshots. The transaction ends with the question, and
# `statement_timeout` is then what it was.
_OPENING = """
SELECT set_config('statement_timeout', %(timeout_ms)s, true),
       CASE WHEN pg_is_in_recovery() THEN (SELECT beat_at FROM heartbeat) ELSE now() END
"""


@dataclass(frozen=True, slots=True)
class Answer(Generic[Told]):
    """What the database told, and up to when: all that was committed on the primary before `as_of_us` is in it."""

    told: Told
    as_of_us: int

    def but(self, told: Other) -> "Answer[Other]":
        """The same answer in other words."""
        return Answer(told, self.as_of_us)


class Reader:
    """Asks over a bounded pool of connections that cannot write.

    No gRPC cancellation reaches a connection, and nobody's question outlives its caller: see `ask`.
    """

    def __init__(self, url: str, application_name: str, *, pool_size: int, timeout_s: float) -> None:
        engine = make_engine(
            url,
            application_name,
            pool_size=pool_size,
            statement_timeout=f"{int(timeout_s * 1_000)}ms",
            plan_cache_mode="force_custom_plan",
            # What is large comes as two statements at a time: on two cores workers cost more than they do.
            max_parallel_workers_per_gather="0",
            default_transaction_read_only="on",
        )
        # The two statements need no BEGIN and no ROLLBACK around them: two round trips less.
        self.engine: AsyncEngine = engine.execution_options(isolation_level="AUTOCOMMIT")
        self._pool_size = pool_size
        self._free = asyncio.Semaphore(pool_size)
        self._timeout_s = timeout_s
        self._driver_sql: dict[TextClause, str] = {}

    async def ask(self, statement: TextClause, parameters: Mapping[str, object]) -> Answer[list[Any]]:
        """The answer's rows, with columns as attributes. Cancelling is safe at any point.

        Raises DeadlinePassed when the caller waits no longer, and DatabaseUnavailable, within about `timeout_s`.

        Callers wait here, where a cancellation costs nothing, until a connection is free. From then on the question
        goes on to its end whatever happens to its caller, so that no connection is ever left in the middle of one; but
        when the caller is gone the server is asked to make it short.
        """
        loop = asyncio.get_running_loop()
        ends_at, caller_leaves_at = loop.time() + self._timeout_s, deadline.ends_at()
        in_haste = caller_leaves_at is not None and caller_leaves_at < ends_at
        question = _Question(self._in_driver_sql(statement), parameters, min(ends_at, caller_leaves_at or ends_at))
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
        await self.engine.dispose()

    def _in_driver_sql(self, statement: TextClause) -> str:
        """The statement with its parameters as the driver writes them."""
        if statement not in self._driver_sql:
            self._driver_sql[statement] = str(statement.compile(self.engine.sync_engine))
        return self._driver_sql[statement]

    async def _answer(self, question: "_Question") -> Answer[list[Any]]:
        try:
            async with (
                asyncio.timeout_at(question.ends_at + NETWORK_GRACE_S),
                database_errors(),
                self.engine.connect() as connection,
            ):
                driver = (await connection.get_raw_connection()).driver_connection
                assert isinstance(driver, AsyncConnection)
                try:
                    return await question.put(driver)
                except BaseException as error:
                    # Cancelled is the network's fault: a request to cancel may be under way for ever.
                    if isinstance(error, asyncio.CancelledError) or not _reusable(driver):
                        await connection.invalidate()
                    raise
        finally:
            self._free.release()


class Abandoned(Exception):
    """Nobody waits for the answer any more."""


class _Question:
    """A statement on its way to the server."""

    def __init__(self, statement: str, parameters: Mapping[str, object], ends_at: float) -> None:
        self.ends_at = ends_at
        self._statement = statement
        self._parameters = parameters
        self._abandoned = False
        self._driver: AsyncConnection[Any] | None = None
        self._done = asyncio.Event()
        self._cancelling: asyncio.Task[None] | None = None

    async def put(self, driver: AsyncConnection[Any]) -> Answer[list[Any]]:
        """The answer. Raises the driver's errors, or Abandoned."""
        if self._abandoned:
            raise Abandoned
        async with self._cancellable(driver):
            # Not prepared: cancelled meanwhile, a question would be prepared for the driver but not for the server, and
            # could never be asked over this connection again. Parsing it each time costs some 0.2 ms.
            async with driver.pipeline():
                opening = await driver.execute(_OPENING, {"timeout_ms": self._timeout_ms()}, prepare=True)
                cursor = driver.cursor(row_factory=namedtuple_row)
                await cursor.execute(self._statement, self._parameters, prepare=False)
            opened = await opening.fetchone()
            assert opened is not None
            return Answer(await cursor.fetchall(), us_from_datetime(opened[1]))

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

    def _timeout_ms(self) -> str:
        """What is left of the caller's time, rounded up: the caller, who has it to the microsecond, is always first."""
        left_s = self.ends_at - asyncio.get_running_loop().time()
        return str(max(0, math.ceil(left_s * 1_000)) + 1)


def _reusable(driver: AsyncConnection[Any]) -> bool:
    info = driver.info
    return info.transaction_status is TransactionStatus.IDLE and info.pipeline_status is PipelineStatus.OFF
