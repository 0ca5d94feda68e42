"""One exchange: which of its requests are resolved, and what the next answer says. Knows nothing of gRPC."""

import asyncio
from collections import deque
from dataclasses import dataclass, replace

from ingestion_svc.readings import REJECTIONS_MAX, Summary
from ingestion_svc.receipt import OnResolved, Receipt, Sender
from shared.errors import InvalidRequest, Violation

UNACKNOWLEDGED_MAX_REQUESTS = 1_000
"""Requests of a stream that are held at most: at one reading each some 500 KiB; a live device has one or two."""


@dataclass(slots=True)
class Answer(Summary):
    """What became of the requests up to `committed_sequence` that no earlier answer covered."""

    committed_sequence: int = 0

    def add(self, sequence: int, receipt: Receipt) -> None:
        """Adds a request that is complete."""
        self.committed_sequence = sequence
        self.received += receipt.received
        self.stored += receipt.stored
        self.duplicate += receipt.duplicate
        self.conflicting += receipt.conflicting
        self.rejected += receipt.rejected
        rejections = receipt.rejections[: REJECTIONS_MAX - len(self.rejections)]
        conflicts = receipt.conflicts[: REJECTIONS_MAX - len(self.conflicts)]
        self.rejections += [replace(each, sequence=sequence) for each in rejections]
        self.conflicts += [replace(each, sequence=sequence) for each in conflicts]


class Exchange:
    """The requests of one stream that are not yet acknowledged, in their order."""

    def __init__(self, unacknowledged_max_readings: int) -> None:
        self.changed = asyncio.Event()
        """Set when there may be something to answer, or the exchange shall end."""
        self.ending = False
        self._sender = Sender()
        self._max_readings = unacknowledged_max_readings
        self._room = asyncio.Event()
        self._requests: deque[tuple[int, Receipt]] = deque()
        self._readings = 0
        self._last_sequence = 0
        self._committed_sequence = 0

    @property
    def resolved(self) -> bool:
        """Whether every request that was taken is acknowledged."""
        return not self._requests

    def end(self) -> None:
        """Asks for the end: what was taken is resolved and acknowledged, and no more is taken."""
        self.ending = True
        self.changed.set()

    def new_receipt(self, on_resolved: OnResolved) -> Receipt:
        """A receipt that tells this exchange of its changes."""
        return Receipt(sender=self._sender, on_resolved=on_resolved, _changed=self.changed)

    def check(self, sequence: int, readings: int) -> None:
        """Raises InvalidRequest where a request does not come in its turn."""
        if sequence <= self._last_sequence and (sequence or readings):
            raise InvalidRequest(
                [Violation("sequence", f"{sequence} does not follow {self._last_sequence}; each must be greater")]
            )

    async def room_for(self, readings: int) -> None:
        """Waits until a request of so many readings may be taken; at once where nothing is unacknowledged."""
        while self._requests and (
            len(self._requests) >= UNACKNOWLEDGED_MAX_REQUESTS or self._readings + readings > self._max_readings
        ):
            self._room.clear()
            await self._room.wait()

    def take(self, sequence: int, receipt: Receipt) -> None:
        """Notes a request whose readings are on their way."""
        self._last_sequence = sequence
        self._requests.append((sequence, receipt))
        self._readings += receipt.received
        self.changed.set()

    def next_answer(self) -> Answer | None:
        """Takes what is resolved out, from the first request on; None where the first one is not yet resolved.

        Raises what the first request failed with, once everything before it has been taken out.
        """
        answer = Answer(committed_sequence=self._committed_sequence)
        while self._requests and self._requests[0][1].in_flight == 0 and self._requests[0][1].failure is None:
            sequence, receipt = self._requests.popleft()
            self._readings -= receipt.received
            answer.add(sequence, receipt)
        if answer.committed_sequence > self._committed_sequence:
            self._committed_sequence = answer.committed_sequence
            self._room.set()
            return answer
        if self._requests and self._requests[0][1].failure is not None:
            raise self._requests[0][1].failure
        return None
