"""Backpressure and priorities: a device that catches up on hours of readings must not slow down the others.

A sender is **live** while it has few readings in flight. Once it has more, and until all of them are resolved and a
second has passed, it is a **gateway** where its readings are recent, and **backlog** where they are old. Live senders
come first in every queue. Gateways take turns, a slice each; so do senders of backlog, also to be decoded.

While live readings arrive, a batch takes a bounded number of gateways' readings and little backlog. After a batch with
backlog its lane is throttled: the next batches take none during a cooldown. Without live readings, gateways and backlog
fill whole batches, half each where both wait.
"""

import asyncio
import time
from collections import OrderedDict, deque
from collections.abc import Callable
from typing import Any

from ingestion_svc.receipt import Priority, Sender, Submission
from shared.timestamps import US_PER_SECOND

LIVE_MAX_READINGS = 200
"""In flight: what both sides of a charger send in an hour and a half at one-minute readings."""

LIVE_MESSAGE_MAX_READINGS = 20
"""Larger messages come from gateways: they are no sign of live devices, for which others have to wait."""

NOT_LIVE_MEMORY_S = 1.0
"""A sender keeps its priority for a second: between two of its batches it has nothing in flight."""

PRESENT_MAX_AGE_US = 10 * 60 * US_PER_SECOND
"""Up to this age readings are recent: a stream or the database may have been away for some minutes."""

LIVE_MEMORY_S = 1.0
"""A fleet of 10,000 that reports once a minute sends every 6 ms; after a second without, nobody is live."""

LIVE_RESERVE = 5
"""A fifth of the in-flight budget is for live senders alone."""

GATEWAYS_BESIDE_LIVE_MAX_READINGS = 5_000
"""Gateways' readings in a batch while live ones arrive: some 60 ms of PostgreSQL. They are recent, too, and in batches
of a fifth of this each costs so much more that a machine at its limit took a third fewer."""

GATEWAYS_BESIDE_LIVE_INFLIGHT_MAX_READINGS = 20_000
"""Gateways' readings in memory, above which they wait while live readings arrive: a second's."""

BACKLOG_BESIDE_LIVE_MAX_READINGS = 100
"""Backlog in a batch while live readings arrive: some 2 ms of PostgreSQL, less than the commit itself."""

BACKLOG_BESIDE_LIVE_INFLIGHT_MAX_READINGS = 5_000
"""Backlog in memory, above which it waits to be decoded while live readings arrive: some seconds' at that pace."""

BACKLOG_BESIDE_LIVE_COOLDOWN = 6
"""The cooldown is so many times as long as the batch with backlog took. So a seventh of the time is backlog's: some
2,000 readings a second on two busy cores, and a device's day is 1,440. Where batches take longer, backlog takes fewer.
With a fifth of the time, p99 of live readings was 36 to 49 ms from run to run, with this 31 to 41."""

BACKLOG_BESIDE_LIVE_COOLDOWN_MAX_S = 1.0
"""After a batch that an outage or a lock held up."""

SLICE_READINGS = 100
"""Readings that are decoded at a stretch, some 0.3 ms: then live readings get the event loop."""


def update_priority(sender: Sender, readings: int, age_us: int, now_s: float) -> None:
    """Sets the priority of a sender of a message with so many readings, the first of which is so old."""
    if sender.in_flight + readings > LIVE_MAX_READINGS:
        sender.not_live_until_s = now_s + NOT_LIVE_MEMORY_S
    elif sender.in_flight == 0 and now_s >= sender.not_live_until_s:
        sender.priority = Priority.LIVE
        return
    elif sender.priority is Priority.LIVE:
        return
    sender.priority = Priority.GATEWAY if age_us <= PRESENT_MAX_AGE_US else Priority.BACKLOG


_BESIDE_LIVE_INFLIGHT_MAX_READINGS = {
    Priority.GATEWAY: GATEWAYS_BESIDE_LIVE_INFLIGHT_MAX_READINGS,
    Priority.BACKLOG: BACKLOG_BESIDE_LIVE_INFLIGHT_MAX_READINGS,
}

_Turns = OrderedDict[Sender, deque[Submission[Any]]]
"""Senders in the order of their turns, each with its submissions."""


class Traffic:
    """Whether live readings arrive, for all queues."""

    def __init__(self) -> None:
        self._last_live_s = float("-inf")

    def note_live(self, now_s: float) -> None:
        self._last_live_s = now_s

    def has_live(self, now_s: float) -> bool:
        """Whether one arrived within the last second."""
        return now_s - self._last_live_s < LIVE_MEMORY_S


class InflightBudget:
    """Bounds the readings in flight. Whoever exceeds it waits: by priority, then first come first served."""

    def __init__(self, capacity: int, traffic: Traffic) -> None:
        self._capacity = capacity
        self._traffic = traffic
        self._taken = dict.fromkeys(Priority, 0)
        self._waiting: dict[Priority, deque[tuple[int, asyncio.Future[None]]]] = {each: deque() for each in Priority}

    @property
    def taken(self) -> int:
        return sum(self._taken.values())

    async def acquire(self, readings: int, priority: Priority) -> None:
        """Waits until so many more readings fit, and counts them. Raises what `refuse_waiting` gives."""
        waiting = self._waiting[priority]
        if not waiting and self._fits(readings, priority):
            self._taken[priority] += readings
            return
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        waiting.append((readings, turn))
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled() and turn.exception() is None:
                self.release(readings, priority)
            raise

    def release(self, readings: int, priority: Priority) -> None:
        """Readings that were acquired with that priority are no longer in flight."""
        self._taken[priority] -= readings
        for each, waiting in self._waiting.items():
            while waiting and (waiting[0][1].done() or self._fits(waiting[0][0], each)):
                wanted, turn = waiting.popleft()
                if not turn.done():
                    self._taken[each] += wanted
                    turn.set_result(None)

    def refuse_waiting(self, error: Callable[[], Exception]) -> None:
        """Ends the waiting of all with an error each."""
        for waiting in self._waiting.values():
            while waiting:
                _, turn = waiting.popleft()
                if not turn.done():
                    turn.set_exception(error())

    def _fits(self, readings: int, priority: Priority) -> bool:
        free = self._capacity - self.taken
        if free == self._capacity:
            return True
        if priority is Priority.LIVE:
            return readings <= free
        most = _BESIDE_LIVE_INFLIGHT_MAX_READINGS[priority]
        if self._taken[priority] + readings > most and self._traffic.has_live(time.monotonic()):
            return False
        return readings <= free - self._capacity // LIVE_RESERVE


class FairQueue:
    """The submissions that wait for one writer."""

    def __init__(self, traffic: Traffic) -> None:
        self.readings = 0
        self._traffic = traffic
        self._live: deque[Submission[Any]] = deque()
        self._gateways: _Turns = OrderedDict()
        self._backlog: _Turns = OrderedDict()
        self._waiting_since_s = 0.0
        self._backlog_taken_s: float | None = None  # when the last batch was taken, if there was backlog in it
        self._backlog_from_s = 0.0

    def __bool__(self) -> bool:
        return bool(self._live or self._gateways or self._backlog)

    def put(self, submission: Submission[Any], now_s: float) -> None:
        if not self:
            self._waiting_since_s = now_s
        sender = submission.receipt.sender
        if submission.priority is Priority.LIVE:
            self._live.append(submission)
        else:
            turns, others = self._gateways, self._backlog
            if submission.priority is Priority.BACKLOG:
                turns, others = others, turns
            if sender not in turns:
                turns[sender] = others.pop(sender, deque())
            turns[sender].append(submission)
        self.readings += len(submission.rows)

    def waiting_s(self, now_s: float) -> float:
        """For how long the first submission has waited; live ones fill up their batch, whatever else waits."""
        return now_s - (self._live[0].queued_at if self._live else self._waiting_since_s)

    def pause_s(self, now_s: float) -> float:
        """How long backlog has to wait for its cooldown: 0 where other readings wait as well, or none are live."""
        if self._live or self._gateways or not self._traffic.has_live(now_s):
            return 0.0
        return max(0.0, self._backlog_from_s - now_s)

    def take(self, most: int, now_s: float) -> list[Submission[Any]]:
        """At least one submission, by priority and in turn, until `most` readings are reached."""
        batch: list[Submission[Any]] = []
        readings = 0
        while self._live and readings < most:
            batch.append(self._live.popleft())
            readings += len(batch[-1].rows)
        has_live = self._traffic.has_live(now_s)
        of_gateways = most - readings
        if has_live:
            of_gateways = min(of_gateways, GATEWAYS_BESIDE_LIVE_MAX_READINGS)
        elif self._backlog:
            of_gateways //= 2
        readings = _take_in_turn(self._gateways, batch, readings, readings + of_gateways)
        if has_live:
            throttled = batch and now_s < self._backlog_from_s
            most = min(most, readings + (0 if throttled else BACKLOG_BESIDE_LIVE_MAX_READINGS))
        self._backlog_taken_s = now_s if self._backlog and readings < most else None
        readings = _take_in_turn(self._backlog, batch, readings, most)
        self.readings -= readings
        return batch

    def written(self, now_s: float) -> None:
        """What was taken last is written: if there was backlog in it, its cooldown begins."""
        if self._backlog_taken_s is not None:
            cooldown_s = BACKLOG_BESIDE_LIVE_COOLDOWN * (now_s - self._backlog_taken_s)
            self._backlog_from_s = now_s + min(cooldown_s, BACKLOG_BESIDE_LIVE_COOLDOWN_MAX_S)

    def take_all(self) -> list[Submission[Any]]:
        """Everything, for an outage."""
        everything = [*self._live]
        for turns in (self._gateways, self._backlog):
            everything += [submission for its in turns.values() for submission in its]
            turns.clear()
        self._live.clear()
        self.readings = 0
        return everything


def _take_in_turn(senders: _Turns, batch: list[Submission[Any]], readings: int, most: int) -> int:
    """Moves submissions into a batch, one of each sender, while it has fewer readings than `most`; how many then."""
    while senders and readings < most:
        sender, its = senders.popitem(last=False)
        batch.append(its.popleft())
        readings += len(batch[-1].rows)
        if its:
            senders[sender] = its  # at the end: the others first
    return readings
