"""Who sends, what is submitted to a writer, and what became of one call's readings."""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Any, Generic

from ingestion_svc.readings import (
    REJECTIONS_MAX,
    AnyRow,
    Conflict,
    Decoded,
    Rejection,
    RejectionReason,
    Summary,
    Written,
)

OnResolved = Callable[[Sequence[Any], Written, int], None]
"""Called with rows, what became of them, and when they arrived in microseconds."""


class Priority(IntEnum):
    """How urgent a sender's readings are, the most urgent first."""

    LIVE = 0
    """Few readings in flight."""
    GATEWAY = 1
    """Many, measured now."""
    BACKLOG = 2
    """Many, measured in the past."""


@dataclass(slots=True, eq=False)
class Sender:
    """A unary call or a stream."""

    in_flight: int = 0
    """Readings whose outcome is not known yet."""
    names_its_devices: bool = False
    """Its certificate names each of its devices."""
    priority: Priority = Priority.LIVE
    not_live_until_s: float = 0.0
    """It keeps its priority until then, by `time.monotonic`."""


@dataclass(slots=True)
class Submission(Generic[AnyRow]):
    """Rows of one message on their way to one writer, with the index of each in its call."""

    rows: Sequence[AnyRow]
    indexes: Sequence[int]
    receipt: "Receipt"
    priority: Priority = Priority.LIVE
    """Its sender's when it was submitted."""
    arrived_us: int = 0
    """When the readings arrived, on the service's clock."""
    queued_at: float = 0.0
    """Seconds, by `time.monotonic`."""
    complete: bool = False
    """Its receipt knows the outcome."""


@dataclass(slots=True)
class Receipt(Summary):
    """Counts the outcomes of one call's readings and knows when all of them are known.

    `received = stored + duplicate + conflicting + rejected + in_flight`. The lists are ordered by index.
    """

    in_flight: int = 0
    failure: Exception | None = None
    sender: Sender = field(default_factory=Sender)
    on_resolved: OnResolved | None = None
    """Called with every committed submission."""
    on_failure: Callable[[], None] | None = None
    """Called when it is known that some readings will not be committed."""
    _changed: asyncio.Event = field(default_factory=asyncio.Event)

    def receive(self, decoded: Decoded) -> None:
        """Counts a slice of readings: the rejected ones are resolved, the others in flight."""
        rows = len(decoded.meters) + len(decoded.vehicles)
        self.received += rows + decoded.rejected
        self.in_flight += rows
        self.sender.in_flight += rows
        self._reject(decoded.rejections)
        if decoded.omissions:
            self.omitted += len(decoded.omissions)
            self.omissions = sorted(self.omissions + decoded.omissions, key=lambda each: each.index)[:REJECTIONS_MAX]

    def resolve(self, submission: Submission[Any], written: Written) -> None:
        """Counts a committed submission: all of it stored but for the rows at the positions that `written` names."""
        self.stored += len(submission.rows) - len(written.duplicates) - len(written.conflicts) - len(written.refused)
        self.duplicate += len(written.duplicates)
        self.doubted += len(written.doubted)
        if written.conflicts:
            self.conflicting += len(written.conflicts)
            self.conflicts += [
                Conflict(submission.indexes[at], row, type(row)(*row[:2], *written.stored[at]))
                for at in written.conflicts
                for row in [submission.rows[at]]
            ]
            self.conflicts = sorted(self.conflicts, key=lambda each: each.index)[:REJECTIONS_MAX]
        if written.refused:
            self._reject(
                [Rejection.by_database(submission.indexes[at], submission.rows[at][0]) for at in written.refused]
            )
        if self.on_resolved is not None:
            self.on_resolved(submission.rows, written, submission.arrived_us)
        self._release(submission)

    def fail(self, submission: Submission[Any], error: Exception) -> None:
        self.failure = self.failure or error
        if self.on_failure is not None:
            self.on_failure()
        self._release(submission)

    async def completed(self) -> None:
        """Waits until every reading's outcome is known; raises the failure as soon as there is one."""
        await self.wait_for_capacity(0, 0)

    async def wait_for_capacity(self, readings: int, most: int) -> None:
        """Waits until so many more readings would be at most `most` in flight, or none are; raises the failure."""
        while self.failure is None and self.in_flight > 0 and self.in_flight + readings > most:
            self._changed.clear()
            await self._changed.wait()
        if self.failure is not None:
            raise self.failure

    async def failed(self) -> None:
        while self.failure is None:
            self._changed.clear()
            await self._changed.wait()

    def _reject(self, rejections: list[Rejection]) -> None:
        if rejections:
            self.rejected += len(rejections)
            self.not_yet += sum(each.reason is RejectionReason.NOT_YET for each in rejections)
            self.rejections = sorted(self.rejections + rejections, key=lambda each: each.index)[:REJECTIONS_MAX]

    def _release(self, submission: Submission[Any]) -> None:
        submission.complete = True
        self.in_flight -= len(submission.rows)
        self.sender.in_flight -= len(submission.rows)
        self._changed.set()
