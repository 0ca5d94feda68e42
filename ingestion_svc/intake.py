"""Takes a message's readings in: admits it to its devices' rates, decodes it slice by slice, hands each slice on.

Whoever sends few readings at a time is decoded at once. The others take turns, a slice each, so that a live reading
passes the event loop between two of them.
"""

import asyncio
import time
from collections.abc import AsyncGenerator, Callable
from functools import partial
from typing import Any

from ingestion_svc.admission import DeviceRates
from ingestion_svc.batch import Batcher
from ingestion_svc.device_evidence import DeviceEvidence
from ingestion_svc.fairness import LIVE_MESSAGE_MAX_READINGS, SLICE_READINGS
from ingestion_svc.readings import Decoded, Message, TimeBounds
from ingestion_svc.receipt import Priority, Receipt, Sender
from ingestion_svc.taking import Taker
from shared import caller
from shared.errors import RetryLater


def new_sender() -> Sender:
    """For the call that is being served."""
    return Sender(names_its_devices=caller.identity().grants.names_devices)


class Intake:
    """The way of every message, whichever rpc it came by."""

    def __init__(
        self, batcher: Batcher, evidence: DeviceEvidence, rates: DeviceRates, bounds: Callable[[], TimeBounds]
    ) -> None:
        self._batcher = batcher
        self._evidence = evidence
        self._rates = rates
        self._bounds = bounds
        self._decoding_turn = asyncio.Lock()

    def receipt(self, sender: Sender | None = None, changed: asyncio.Event | None = None) -> Receipt:
        """For readings of a sender, of one of its own unless given; sets `changed` at each change of theirs."""
        return Receipt(
            sender=sender or new_sender(), on_resolved=self._evidence.resolved, _changed=changed or asyncio.Event()
        )

    async def take_call(self, message: Message) -> Receipt:
        """Takes a message and waits until all of it is complete. Raises as `take` does."""
        receipt = self.receipt()
        await self.take(message, receipt)
        await receipt.completed()
        return receipt

    async def take_stream(self, messages: AsyncGenerator[Message, Any], end: asyncio.Event) -> Receipt:
        """Takes a stream's messages until it ends or `end` is set, and waits until all of them is complete.

        Raises as `take` does, and what `messages` raises. Leaves no task behind.
        """
        receipt = self.receipt()
        taker = Taker(messages, partial(self.take, receipt=receipt))
        taking = taker.start()
        others = [asyncio.create_task(end.wait()), asyncio.create_task(receipt.failed())]
        try:
            await asyncio.wait((taking, *others), return_when=asyncio.FIRST_COMPLETED)
        finally:
            for other in others:
                other.cancel()
            await taker.stop()
        if taking.done() and not taking.cancelled():
            taking.result()
        await receipt.completed()
        return receipt

    async def take(self, message: Message, receipt: Receipt) -> None:
        """Submits a message's readings; their outcomes reach the receipt later.

        Waits while the call or all calls have too much in flight. Raises LimitExceeded, with nothing of the message
        submitted; DatabaseUnavailable; and what the call's earlier readings failed with.
        """
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
                self._evidence.decoded(decoded)
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
