"""One exchange: takes its requests, acknowledges those that are complete, and ends. Knows nothing of gRPC."""

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, Awaitable, Callable
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

from ingestion_svc.intake import Intake, new_sender
from ingestion_svc.readings import REJECTIONS_MAX, Message, Summary
from ingestion_svc.receipt import Receipt
from ingestion_svc.taking import Taker
from shared.errors import InvalidRequest, Violation

UNACKNOWLEDGED_MAX_REQUESTS = 1_000
"""Requests of a stream that are held at most: at one reading each some 500 KiB; a live device has one or two."""


class Request(NamedTuple):
    """Some readings of an exchange; `sequence` is 0 only where there are none."""

    sequence: int
    message: Message


@dataclass(slots=True)
class Answer(Summary):
    """What became of the requests up to `committed_sequence` that no earlier answer covered."""

    committed_sequence: int = 0

    def add(self, sequence: int, receipt: Receipt) -> None:
        self.committed_sequence = sequence
        self.received += receipt.received
        self.stored += receipt.stored
        self.duplicate += receipt.duplicate
        self.conflicting += receipt.conflicting
        self.rejected += receipt.rejected
        self.not_yet += receipt.not_yet
        self.omitted += receipt.omitted
        self.doubted += receipt.doubted
        for name in ("rejections", "conflicts", "omissions"):
            listed, more = getattr(self, name), getattr(receipt, name)
            listed += [replace(each, sequence=sequence) for each in more[: REJECTIONS_MAX - len(listed)]]


class Exchange:
    """The requests of one stream that are not yet acknowledged, in their order."""

    def __init__(self, intake: Intake, unacknowledged_max_readings: int) -> None:
        self._intake = intake
        self._max_readings = unacknowledged_max_readings
        self._sender = new_sender()
        self._changed = asyncio.Event()
        """Set when there may be something to answer, or the exchange shall end."""
        self._ending = False
        self._capacity = asyncio.Event()
        self._requests: deque[tuple[int, Receipt]] = deque()
        self._readings = 0
        self._last_sequence = 0
        self._committed_sequence = 0

    def end(self) -> None:
        """Asks for the end: what was taken is completed and acknowledged, and no more is taken."""
        self._ending = True
        self._changed.set()
        self._capacity.set()

    async def run(
        self, requests: AsyncGenerator[Request, Any], acknowledge: Callable[[Answer], Awaitable[None]]
    ) -> None:
        """Takes requests and acknowledges them until the stream has ended, or is asked to, and all of it is complete.

        Raises what the first request failed with, once everything before it is acknowledged, and what `requests` and
        `acknowledge` raise. Leaves no task behind, however it ends.
        """
        taker = Taker(requests, self._take)
        taking = taker.start()
        taking.add_done_callback(lambda _: self._changed.set())
        try:
            while True:
                await self._changed.wait()
                self._changed.clear()
                answer = self._next_answer()
                if answer is not None:
                    await acknowledge(answer)
                    self._changed.set()  # there may be more, or it was the last
                elif not self._requests and (self._ending or taking.done()):
                    if taking.done():
                        taking.result()
                    return
        finally:
            await taker.stop()

    async def _take(self, request: Request) -> None:
        sequence, message = request
        if sequence <= self._last_sequence and (sequence or len(message)):
            raise InvalidRequest(
                [Violation("sequence", f"{sequence} does not follow {self._last_sequence}; each must be greater")]
            )
        if not sequence:
            return
        await self._wait_for_capacity(len(message))
        if self._ending:
            return
        receipt = self._intake.receipt(self._sender, self._changed)
        await self._intake.take(message, receipt)
        self._last_sequence = sequence
        self._requests.append((sequence, receipt))
        self._readings += receipt.received
        self._changed.set()

    async def _wait_for_capacity(self, readings: int) -> None:
        """Backpressure: until so many readings may be taken, at once where nothing is unacknowledged, or the end."""
        while not self._ending and self._requests and self._is_full(readings):
            self._capacity.clear()
            await self._capacity.wait()

    def _is_full(self, readings: int) -> bool:
        return len(self._requests) >= UNACKNOWLEDGED_MAX_REQUESTS or self._readings + readings > self._max_readings

    def _next_answer(self) -> Answer | None:
        """Takes out what is complete, from the first request on; None where the first one is not.

        Raises what the first request failed with.
        """
        answer = Answer(committed_sequence=self._committed_sequence)
        while self._requests and self._requests[0][1].in_flight == 0 and self._requests[0][1].failure is None:
            sequence, receipt = self._requests.popleft()
            self._readings -= receipt.received
            answer.add(sequence, receipt)
        if answer.committed_sequence > self._committed_sequence:
            self._committed_sequence = answer.committed_sequence
            self._capacity.set()
            return answer
        if self._requests and self._requests[0][1].failure is not None:
            raise self._requests[0][1].failure
        return None
