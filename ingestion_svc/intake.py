"""Takes a message's readings in: admits it to its devices' rates, decodes it slice by slice, hands each slice on.

Whoever sends few readings at a time is decoded at once. The others take turns, a slice each, so that a live reading
passes the event loop between two of them.
"""

import asyncio
import time
from collections.abc import Callable

from ingestion_svc.admission import DeviceRates
from ingestion_svc.batch import Batcher
from ingestion_svc.clock_evidence import ClockEvidence
from ingestion_svc.fairness import LIVE_MESSAGE_MAX_READINGS, SLICE_READINGS
from ingestion_svc.readings import MESSAGE_MAX_READINGS, Decoded, Message, TimeBounds
from ingestion_svc.receipt import Priority, Receipt
from shared.errors import InvalidRequest, RetryLater, Violation


class Intake:
    """The way of every message, whichever rpc it came by."""

    def __init__(
        self, batcher: Batcher, evidence: ClockEvidence, rates: DeviceRates, bounds: Callable[[], TimeBounds]
    ) -> None:
        self._batcher = batcher
        self._evidence = evidence
        self._rates = rates
        self._bounds = bounds
        self._decoding_turn = asyncio.Lock()

    def receipt(self) -> Receipt:
        """For the readings of a call."""
        return Receipt(on_resolved=self._evidence.resolved)

    async def take(self, message: Message, receipt: Receipt) -> None:
        """Submits a message's readings; their outcomes reach the receipt later.

        Waits while the call or all calls have too much in flight. Raises InvalidRequest; LimitExceeded, with nothing
        of the message submitted; DatabaseUnavailable; and what the call's earlier readings failed with.
        """
        if len(message) > MESSAGE_MAX_READINGS:
            raise InvalidRequest(
                [Violation("readings", f"{len(message)} readings in a message; at most {MESSAGE_MAX_READINGS}")]
            )
        if not len(message):
            return
        charge = self._rates.charge(message, time.monotonic())
        receipt.on_failure = charge.refund
        bounds = self._bounds()
        self._batcher.expect(receipt.sender, len(message), message.age_us(bounds.now_us))
        try:
            for start in range(0, len(message), SLICE_READINGS):
                part = slice(start, start + SLICE_READINGS)
                decoded = await self._decoded(message, part, receipt, bounds)
                self._evidence.rejected(decoded)
                await self._batcher.submit(decoded, receipt)
        except RetryLater:
            charge.refund()
            raise

    async def _decoded(self, message: Message, part: slice, receipt: Receipt, bounds: TimeBounds) -> Decoded:
        if len(message) <= LIVE_MESSAGE_MAX_READINGS or receipt.sender.priority is Priority.LIVE:
            return message.decode(part, receipt.received, bounds)
        async with self._decoding_turn:
            decoded = message.decode(part, receipt.received, bounds)
            await asyncio.sleep(0)
        return decoded
