"""Live readings and backlog apart: a device that comes back with hours of readings must not slow the others.

A sender is **live** while it has few readings in flight, and **catching up** from the moment that it has more until all
of them are settled and it has been quiet for a moment. Live senders come first wherever there is a queue: a part of the
memory is kept for them, a batch takes their readings before any backlog, and backlog is decoded in small slices, one at
a time. Senders that catch up take turns, a slice each. While live readings arrive, a batch takes little backlog, and
after one that took any the next ones take none for some time; without them backlog fills whole batches at once.
"""

import asyncio
from collections import OrderedDict, deque
from typing import Any

from ingestion_svc.receipt import Sender, Submission

LIVE_MAX_READINGS = 200
"""In flight: what both sides of a charger send in an hour and a half at one-minute readings."""

LIVE_MESSAGE_MAX_READINGS = 20
"""More in a message are no sign that live devices are there, for whose sake backlog would wait: a gateway sends like
that, and it would hold up other gateways and itself."""

CATCHING_UP_MEMORY_S = 1.0
"""A sender that was catching up a second ago still is: between two of its batches it has nothing in flight."""

LIVE_MEMORY_S = 1.0
"""A fleet of 10,000 that reports once a minute sends every 6 ms; a second without is a lull."""

LIVE_RESERVE = 5
"""One part in so many of the memory for readings is for live senders alone."""

BACKLOG_BESIDE_LIVE_MAX_READINGS = 100
"""Backlog in a batch while live readings arrive: some 2 ms of PostgreSQL, less than the commit itself."""

BACKLOG_BESIDE_LIVE_INFLIGHT_MAX_READINGS = 5_000
"""Readings in memory above which backlog waits to be decoded while live readings arrive: a quarter of a second's."""

BACKLOG_BESIDE_LIVE_REST = 4
"""Times as long as a batch with backlog took, its lane takes no more while live readings arrive: a fifth of the time is
backlog's, some 2,000 readings a second on two busy cores, and a device's day is 1,440. Where batches take longer,
backlog gives way by itself. A tenth made no difference to live readings, and a sender of many that fell behind waited
twice as long."""

BACKLOG_BESIDE_LIVE_REST_MAX_S = 1.0
"""After a batch that an outage or a lock held up."""

BACKLOG_SLICE_READINGS = 100
"""Backlog that is decoded at a stretch, some 0.3 ms: a live reading passes the event loop a dozen times."""


def is_live(sender: Sender, readings: int, now_s: float) -> bool:
    """Whether a sender that wants to send some readings is live; notes it where it is not."""
    if sender.in_flight + readings > LIVE_MAX_READINGS:
        sender.catching_up_until_s = now_s + CATCHING_UP_MEMORY_S
        sender.catching_up = True
    elif sender.in_flight == 0 and now_s >= sender.catching_up_until_s:
        sender.catching_up = False
    return not sender.catching_up


class Traffic:
    """Whether live readings arrive, as all queues see it."""

    def __init__(self) -> None:
        self._last_live_s = float("-inf")

    def live_came(self, now_s: float) -> None:
        """Notes a live reading."""
        self._last_live_s = now_s

    def has_live(self, now_s: float) -> bool:
        """Whether there was one a moment ago."""
        return now_s - self._last_live_s < LIVE_MEMORY_S


class Room:
    """The memory for readings in flight. Who finds none waits, in the order of coming, live senders first."""

    def __init__(self, capacity: int, traffic: Traffic) -> None:
        self._capacity = capacity
        self._traffic = traffic
        self._free = capacity
        self._live_waiting: deque[tuple[int, asyncio.Future[None]]] = deque()
        self._others_waiting: deque[tuple[int, asyncio.Future[None]]] = deque()

    @property
    def taken(self) -> int:
        """Readings in flight."""
        return self._capacity - self._free

    async def take(self, readings: int, *, live: bool) -> None:
        """Waits until there is room for so many more readings, and takes it."""
        waiting = self._live_waiting if live else self._others_waiting
        if not waiting and self._fits(readings, live=live):
            self._free -= readings
            return
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        waiting.append((readings, turn))
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():
                self.give_back(readings)
            raise

    def give_back(self, readings: int) -> None:
        """Gives room back for readings that have left memory."""
        self._free += readings
        for waiting, live in ((self._live_waiting, True), (self._others_waiting, False)):
            while waiting and (waiting[0][1].done() or self._fits(waiting[0][0], live=live)):
                wanted, turn = waiting.popleft()
                if not turn.done():
                    self._free -= wanted
                    turn.set_result(None)

    def _fits(self, readings: int, *, live: bool) -> bool:
        if self._free == self._capacity:
            return True
        if live:
            return readings <= self._free
        if self._traffic.has_live(asyncio.get_running_loop().time()):
            return self.taken + readings <= BACKLOG_BESIDE_LIVE_INFLIGHT_MAX_READINGS
        return readings <= self._free - self._capacity // LIVE_RESERVE


class FairQueue:
    """The submissions that wait for one writer."""

    def __init__(self, traffic: Traffic) -> None:
        self.readings = 0
        self._traffic = traffic
        self._live: deque[Submission[Any]] = deque()
        self._catching_up: OrderedDict[Sender, deque[Submission[Any]]] = OrderedDict()
        self._waiting_since_s = 0.0
        self._backlog_taken_s: float | None = None  # when the last batch was taken, if there was backlog in it
        self._backlog_from_s = 0.0

    def __bool__(self) -> bool:
        return bool(self._live or self._catching_up)

    def put(self, submission: Submission[Any], now_s: float) -> None:
        """Adds a submission at the end of its sender's."""
        if not self:
            self._waiting_since_s = now_s
        sender = submission.receipt.sender
        if sender.catching_up:
            self._catching_up.setdefault(sender, deque()).append(submission)
        else:
            self._live.append(submission)
            if len(submission.rows) <= LIVE_MESSAGE_MAX_READINGS:
                self._traffic.live_came(now_s)
        self.readings += len(submission.rows)

    def waiting_s(self, now_s: float) -> float:
        """For how long what comes first has been waiting; live readings wait for company beside backlog, too."""
        return now_s - (self._live[0].queued_at if self._live else self._waiting_since_s)

    def pause_s(self, now_s: float) -> float:
        """How long to leave what is here for the sake of live readings: 0 where there are some here, or none arrive."""
        return 0.0 if self._live or not self._traffic.has_live(now_s) else max(0.0, self._backlog_from_s - now_s)

    def take(self, most: int, now_s: float) -> list[Submission[Any]]:
        """Whole submissions up to the one with which `most` readings are reached, in a fair order; not nothing."""
        batch: list[Submission[Any]] = []
        readings = 0
        while self._live and readings < most:
            batch.append(self._live.popleft())
            readings += len(batch[-1].rows)
        if self._traffic.has_live(now_s):
            resting = batch and now_s < self._backlog_from_s
            most = min(most, readings + (0 if resting else BACKLOG_BESIDE_LIVE_MAX_READINGS))
        self._backlog_taken_s = now_s if self._catching_up and readings < most else None
        while self._catching_up and readings < most:
            sender, its = self._catching_up.popitem(last=False)
            batch.append(its.popleft())
            readings += len(batch[-1].rows)
            if its:
                self._catching_up[sender] = its  # at the end: the others first
        self.readings -= readings
        return batch

    def written(self, now_s: float) -> None:
        """What was taken last is written: if there was backlog in it, that rests now."""
        if self._backlog_taken_s is not None:
            rest_s = BACKLOG_BESIDE_LIVE_REST * (now_s - self._backlog_taken_s)
            self._backlog_from_s = now_s + min(rest_s, BACKLOG_BESIDE_LIVE_REST_MAX_S)

    def take_all(self) -> list[Submission[Any]]:
        """Everything, for an outage."""
        everything = [*self._live, *(submission for its in self._catching_up.values() for submission in its)]
        self._live.clear()
        self._catching_up.clear()
        self.readings = 0
        return everything
