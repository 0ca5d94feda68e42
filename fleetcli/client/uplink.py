"""The reference client of `ExchangeTelemetry`: what a device does to lose nothing and to have nothing counted twice.

    async with Uplink(channel, address, credentials) as uplink:
        await uplink.send(ExchangeTelemetryRequest(readings=...))    # waits only while the buffer is full
        await uplink.flush()                                         # until all of it is resolved
    uplink.totals                                                    # stored, duplicate, conflicting, rejected ...

Five rules, in the order of their importance; firmware in C follows the same ones:

1. A request is kept until a `committed_sequence` reaches its `sequence`, and no longer.
2. A stream that ends, however it ends, is followed by a new one that begins with the oldest request still kept.
3. Before that it waits as the service says, or else longer each time; not at all after OK. And it waits for something
   to send.
4. Where the service refuses whom the certificate or token names, everything is kept and tried again, slowly: nothing of
   a refused message is stored, and a renewed certificate, or a service that learns better, lets it through. The files
   of the credentials are read again before each stream, and while such a refusal lasts.
5. A status that a retry cannot change is raised, not retried.
"""

import asyncio
import random
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Self

import grpc
from energyfleet.v1.ingestion_service_pb2 import (
    ExchangeOpened,
    ExchangeOpening,
    ExchangeTelemetryRequest,
    ExchangeTelemetryResponse,
    IngestionSummary,
)
from energyfleet.v1.ingestion_service_pb2_grpc import IngestionServiceStub

from fleetcli.client.channel import PLAINTEXT, service_errors
from fleetcli.client.credentials import Credentials
from fleetcli.client.errors import ClientError, HandshakeFailed, IdentityRefused, ServiceError, StreamCutShort
from fleetcli.client.renewal import FILES_LOOK_S, RenewedChannel

READINGS_PER_MESSAGE = 500
"""About 25 KiB: a hundred would cost a third more time, a thousand gain nothing."""

BUFFER_MAX_READINGS = 20_000
"""What the service takes of a stream before it acknowledges: a larger buffer would only wait elsewhere."""

BUFFER_MAX_REQUESTS = 1_000
"""The service's other bound on a stream."""

BACKOFF_FIRST_S = 1.0
BACKOFF_MAX_S = 60.0
"""A minute: a fleet of 10,000 that comes back over a minute is 170 streams a second, which the service takes."""

CLOSE_TIMEOUT_S = 5.0
"""How long the service may take to end a stream after everything is resolved."""

REFUSED_WAIT_S = 300.0
"""Between two tries of a refused identity: each costs the service a handshake, and somebody has to do something."""

NEVER_SUCCEEDS = frozenset({"INVALID_ARGUMENT", "UNIMPLEMENTED", "RESOURCE_EXHAUSTED"})
"""Statuses that a retry does not change, unless they come with `google.rpc.RetryInfo`."""

# The stubs know neither a stream without an iterator nor what `read` returns at the end.
_FROM_WRITES: Any = None
_END: Any = grpc.aio.EOF  # type: ignore[attr-defined]

OnAnswer = Callable[[ExchangeTelemetryResponse], None]
OnWait = Callable[[ClientError, float], None]


def backoff_s(failures: int, retry_after_s: float | None, first_s: float = BACKOFF_FIRST_S) -> float:
    """Seconds to wait after so many failures in a row; `retry_after_s` is what the last one asked for, if it did."""
    if retry_after_s is not None:
        return retry_after_s * random.uniform(1.0, 1.5)  # never sooner than the service asked for
    return min(first_s * 2.0 ** min(failures - 1, 30), BACKOFF_MAX_S) * random.uniform(0.5, 1.0)


class Uplink:
    """A device's stream to the service, opened when there is something to send, and again whenever it ends. An async
    context manager, which flushes."""

    def __init__(
        self,
        channel: grpc.aio.Channel,
        address: str,
        credentials: Credentials = PLAINTEXT,
        *,
        opening: ExchangeOpening | None = None,
        on_answer: OnAnswer | None = None,
        on_wait: OnWait | None = None,
        buffer_max_readings: int = BUFFER_MAX_READINGS,
        backoff_first_s: float = BACKOFF_FIRST_S,
        patience_s: float | None = None,
    ) -> None:
        """The caller closes the channel, which is one to `address` with `credentials`.

        Once their files have changed, streams go over a channel of the uplink's own. `on_answer` is called with every
        answer: which requests are resolved, which readings were rejected or conflicting. `on_wait` is called with what
        ended the last stream and the seconds until the next, and with what is wrong with changed files. `patience_s` is
        how long failures may go on before the last one is raised, a refused identity at once; None: for ever, as a
        device does.
        """
        self.totals = IngestionSummary()
        """Counts of all that is resolved, and the first rejections and conflicts as the answers listed them."""
        self.completed_sequence = 0
        """Every request up to this one is resolved."""
        self.streams = 0
        """Streams that were opened: 1 where nothing went wrong."""
        self._connection = RenewedChannel(channel, address, credentials, lambda bad: self._tell(bad, FILES_LOOK_S))
        self._address = address
        self._opening = opening
        self._opened: ExchangeOpened | None = None
        self._on_answer = on_answer
        self._on_wait = on_wait
        self._max_readings = buffer_max_readings
        self._backoff_first_s = backoff_first_s
        self._patience_s = patience_s
        self._kept: deque[ExchangeTelemetryRequest] = deque()
        self._kept_readings = 0
        self._written = 0  # how many of `_kept`, from the left, the present stream has sent
        self._last_sequence = 0
        self._closing = False
        self._answered = False  # by the present stream
        self._one_by_one = False  # since the last stream's reason was lost; until something is resolved
        self._to_write = asyncio.Event()
        self._progress = asyncio.Event()
        self._running: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        self._running = asyncio.create_task(self._run())
        self._running.add_done_callback(lambda _: self._progress.set())
        return self

    async def __aexit__(self, kind: type[BaseException] | None, *_: object) -> None:
        try:
            if kind is None:
                await self.close()
        finally:
            await self._stop()

    async def send(self, request: ExchangeTelemetryRequest) -> int:
        """Numbers a request, keeps it until it is resolved, and returns its sequence. The caller must not change it.

        Waits while the buffer is full; a request larger than the buffer waits until it is alone. Raises ClientError
        where a retry cannot help, or `patience_s` has passed.
        """
        readings = len(request.readings)
        await self._until(lambda: not self._kept or self._has_room(readings))
        self._last_sequence += 1
        request.sequence = self._last_sequence
        self._kept.append(request)
        self._kept_readings += readings
        self._to_write.set()
        return self._last_sequence

    async def flush(self) -> None:
        """Waits until everything sent so far is resolved. Raises like `send`."""
        last = self._last_sequence
        await self._until(lambda: self.completed_sequence >= last)

    async def opened(self) -> ExchangeOpened:
        """The newest reading of each device in `opening`: where to resume after a power cut. Raises like `send`."""
        assert self._opening is not None, "the uplink has no opening"
        await self._until(lambda: self._opened is not None)
        assert self._opened is not None
        return self._opened

    async def close(self) -> None:
        """Flushes, and waits for the service to end the stream. Raises like `send`."""
        await self.flush()
        self._closing = True
        self._to_write.set()
        if self._running is not None:
            await asyncio.wait([self._running], timeout=CLOSE_TIMEOUT_S)
        await self._stop()

    async def _stop(self) -> None:
        if self._running is not None:
            self._running.cancel()
            await asyncio.wait([self._running])
        await self._connection.close()

    def _has_room(self, readings: int) -> bool:
        return self._kept_readings + readings <= self._max_readings and len(self._kept) < BUFFER_MAX_REQUESTS

    async def _until(self, condition: Callable[[], bool]) -> None:
        while not condition():
            assert self._running is not None, "an uplink is an asynchronous context manager"
            if self._running.done():
                self._running.result()
                raise RuntimeError("the uplink is closed")
            self._progress.clear()
            await self._progress.wait()

    async def _run(self) -> None:
        """One stream after the other until closed. Raises what a retry cannot change."""
        loop = asyncio.get_running_loop()
        failures, failing_since = 0, 0.0
        while await self._has_more_to_send():
            failure: ClientError | None = None
            try:
                await self._connection.renew()
                with service_errors(self._address, self._connection.credentials):
                    await self._exchange()
            except ClientError as error:
                failure = error
                self._one_by_one = isinstance(error, StreamCutShort)
            if self._answered:
                failures = 0
            if self._closing or (failure is None and self._answered):
                continue
            # OK before any answer counts as a failure: a stopping service must not be called in a tight loop.
            failure = failure or StreamCutShort(self._address)
            retry_after_s = failure.retry_after_s if isinstance(failure, ServiceError) else None
            if isinstance(failure, ServiceError) and failure.code in NEVER_SUCCEEDS and retry_after_s is None:
                raise failure
            of_identity = isinstance(failure, IdentityRefused | HandshakeFailed)
            if of_identity and await self._connection.renew():
                continue
            failures += 1
            failing_since = loop.time() if failures == 1 else failing_since
            wait_s = backoff_s(failures, retry_after_s, self._backoff_first_s)
            if _is_refusal(failure):
                wait_s = REFUSED_WAIT_S * random.uniform(0.5, 1.0)
            if self._patience_s is not None and loop.time() + wait_s > failing_since + self._patience_s:
                raise failure
            self._tell(failure, wait_s)
            if of_identity:
                await self._connection.wait(wait_s)
            else:
                await asyncio.sleep(wait_s)

    def _tell(self, failure: ClientError, wait_s: float) -> None:
        if self._on_wait is not None:
            self._on_wait(failure, wait_s)

    async def _has_more_to_send(self) -> bool:
        """Waits for something to send: the service ends a stream on which nothing comes. False: we are closing."""
        while not (self._kept or self._closing or (self._opening is not None and self._opened is None)):
            self._to_write.clear()
            await self._to_write.wait()
        return bool(self._kept) or not self._closing

    async def _exchange(self) -> None:
        """One stream until it ends.

        grpc.aio loses the status that arrives during a write (grpc #36066). The next stream therefore begins with a
        single request: if that is the one that the service refuses, nothing is being written when the reason arrives.
        """
        self._written, self._answered = 0, False
        self.streams += 1
        call: Any = IngestionServiceStub(self._connection.channel).ExchangeTelemetry(_FROM_WRITES)
        writing = asyncio.create_task(self._write(call))
        try:
            while (answer := await call.read()) is not _END:
                self._take(answer)
        finally:
            writing.cancel()  # only now: to cancel a write ends the call
            await asyncio.wait([writing])
            call.cancel()

    async def _write(self, call: Any) -> None:
        with suppress(grpc.aio.AioRpcError, asyncio.InvalidStateError):
            if self._opening is not None and self._opened is None:
                await call.write(ExchangeTelemetryRequest(opening=self._opening))
            while True:
                while self._written < (min(1, len(self._kept)) if self._one_by_one else len(self._kept)):
                    self._written += 1  # before the write: the answer may arrive before it returns
                    await call.write(self._kept[self._written - 1])
                if self._closing:
                    break
                self._to_write.clear()
                await self._to_write.wait()
            await call.done_writing()

    def _take(self, answer: ExchangeTelemetryResponse) -> None:
        if answer.HasField("opened"):
            self._opened = answer.opened
        if self._on_answer is not None:
            self._on_answer(answer)
        self._answered = True
        while self._written and self._kept[0].sequence <= answer.committed_sequence:
            resolved = self._kept.popleft()
            self._written -= 1
            self._kept_readings -= len(resolved.readings)
            self.completed_sequence = resolved.sequence
            if self._one_by_one:
                self._one_by_one = False
                self._to_write.set()
        _add(self.totals, answer.summary)
        self._progress.set()


def _is_refusal(failure: ClientError) -> bool:
    """Whether it lasts until somebody does something."""
    return isinstance(failure, IdentityRefused) or (isinstance(failure, HandshakeFailed) and failure.lasting)


def _add(totals: IngestionSummary, summary: IngestionSummary) -> None:
    totals.received += summary.received
    totals.stored += summary.stored
    totals.duplicate += summary.duplicate
    totals.conflicting += summary.conflicting
    totals.rejected += summary.rejected
    totals.not_yet += summary.not_yet
    totals.doubted += summary.doubted
    totals.omitted_values += summary.omitted_values
    # At most as many as one answer may list; `on_answer` gets all of them.
    totals.rejections.extend(summary.rejections[: max(0, 100 - len(totals.rejections))])
    totals.conflicts.extend(summary.conflicts[: max(0, 100 - len(totals.conflicts))])
    totals.omissions.extend(summary.omissions[: max(0, 100 - len(totals.omissions))])
