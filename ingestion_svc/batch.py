"""Commits the readings of all calls together: by count or by age, whichever is first.

Readings wait in lanes. A lane belongs to one writer and to one kind of device. A device always goes through the same
lane, so that two writers never touch the same row and a device's readings are written in the order of arrival.
"""

import asyncio
import random
import time
from bisect import bisect_right
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import accumulate
from typing import Any, Generic, Protocol, TypeVar

import structlog

from ingestion_svc.fairness import LIVE_MESSAGE_MAX_READINGS, FairQueue, InflightBudget, Traffic, update_priority
from ingestion_svc.reading_metrics import IngestionMetrics
from ingestion_svc.readings import AnyRow, Decoded, MeterRow, VehicleRow, Written
from ingestion_svc.receipt import Priority, Receipt, Sender, Submission
from ingestion_svc.registrations import Registrations
from shared.background import is_set_within
from shared.config import IngestionSettings
from shared.errors import DatabaseUnavailable, LimitExceeded
from shared.exporter import new_registry
from shared.logs import quietly

_log = structlog.get_logger()

RETRY_MIN_S = 0.05
"""A backend that was killed is back at once."""

RETRY_MAX_S = 1.0
"""An outage ends within a second of the database's return."""

CLOSE_TIMEOUT_S = 5.0
"""Seconds for a lane to commit what is left when the service stops."""

_ALL_STORED = Written()

WrittenRow = TypeVar("WrittenRow", bound=MeterRow | VehicleRow, contravariant=True)


class DefectiveBatch(Exception):
    """A batch could not be written because of a defect, which is logged. Its callers learn of an internal error."""


class BatchWriter(Protocol[WrittenRow]):
    """What a lane needs of its writer."""

    async def write(self, rows: Sequence[WrittenRow], /) -> Written:
        """Commits rows; raises DatabaseUnavailable when that failed, or when its outcome is unknown."""

    def unremembered(self, rows: Sequence[WrittenRow], /) -> set[str]:
        """The ids of devices that may be new."""

    async def unregistered(self, ids: set[str], /) -> set[str]:
        """Those of some devices that are not registered; raises DatabaseUnavailable."""

    async def registered(self) -> int:
        """How many devices are registered; raises DatabaseUnavailable."""

    async def connect(self) -> None:
        """Connects unless connected; raises DatabaseUnavailable."""

    async def close(self) -> None:
        """Closes the connection."""


class Batcher:
    """Takes the decoded readings of every call; the outcome of each reaches its receipt."""

    def __init__(
        self,
        meter_writers: Sequence[BatchWriter[MeterRow]],
        vehicle_writers: Sequence[BatchWriter[VehicleRow]],
        settings: IngestionSettings,
        metrics: IngestionMetrics | None = None,
    ) -> None:
        self._metrics = metrics or IngestionMetrics(new_registry())
        self._traffic = traffic = Traffic()
        self._budget = InflightBudget(settings.inflight_max_readings, traffic)
        parts = (self._budget, traffic, settings, self._metrics)
        limits = settings.new_devices_per_hour, settings.devices_max
        meters, vehicles = Registrations("meter", *limits), Registrations("vehicle", *limits)
        self._meter_lanes = [Lane(writer, meters, *parts) for writer in meter_writers]
        self._vehicle_lanes = [Lane(writer, vehicles, *parts) for writer in vehicle_writers]
        self._per_stream_max = settings.inflight_max_readings_per_stream

    @property
    def inflight_readings(self) -> int:
        return self._budget.taken

    async def start(self) -> None:
        """Connects the writers and begins to commit; DatabaseUnavailable where the database is away."""
        for lane in self._lanes():
            await lane.start()

    async def close(self) -> None:
        """Commits what still waits, within CLOSE_TIMEOUT_S, and closes the connections."""
        await asyncio.gather(*(lane.close() for lane in self._lanes()))

    def expect(self, sender: Sender, readings: int, age_us: int) -> None:
        """Announces a message of so many readings, the first of which is so old, before any is submitted."""
        now_s = time.monotonic()
        update_priority(sender, readings, age_us, now_s)
        if sender.priority is Priority.LIVE and readings <= LIVE_MESSAGE_MAX_READINGS:
            self._traffic.note_live(now_s)

    async def submit(self, decoded: Decoded, receipt: Receipt) -> None:
        """Puts a message's rows into their lanes, waiting while the call or all calls have too much in flight.

        Raises what the call's earlier readings failed with, and DatabaseUnavailable during an outage.
        """
        readings = len(decoded.meters) + len(decoded.vehicles)
        await receipt.wait_for_capacity(readings, self._per_stream_max)
        self._require_database()
        priority = receipt.sender.priority
        await self._budget.acquire(readings, priority)
        try:
            self._require_database()  # it may have gone while this call waited
        except DatabaseUnavailable:
            self._budget.release(readings, priority)
            raise
        receipt.receive(decoded)
        self._metrics.decoded(decoded)
        self._spread(self._meter_lanes, decoded.meters, decoded.meter_indexes, receipt, decoded.arrived_us)
        self._spread(self._vehicle_lanes, decoded.vehicles, decoded.vehicle_indexes, receipt, decoded.arrived_us)

    def _spread(
        self,
        lanes: Sequence["Lane[AnyRow]"],
        rows: Sequence[AnyRow],
        indexes: Sequence[int],
        receipt: Receipt,
        arrived_us: int,
    ) -> None:
        if not rows:
            return
        if len(lanes) == 1:
            lanes[0].put(Submission(rows, indexes, receipt, receipt.sender.priority, arrived_us))
            return
        shares: list[tuple[list[AnyRow], list[int]]] = [([], []) for _ in lanes]
        for row, index in zip(rows, indexes, strict=True):
            share = shares[hash(row[0]) % len(lanes)]
            share[0].append(row)
            share[1].append(index)
        for lane, (its_rows, its_indexes) in zip(lanes, shares, strict=True):
            if its_rows:
                lane.put(Submission(its_rows, its_indexes, receipt, receipt.sender.priority, arrived_us))

    def _require_database(self) -> None:
        if not all(lane.available for lane in self._lanes()):
            raise DatabaseUnavailable

    def _lanes(self) -> list["Lane[Any]"]:
        return [*self._meter_lanes, *self._vehicle_lanes]


class Lane(Generic[AnyRow]):
    """The queue in front of one writer."""

    def __init__(
        self,
        writer: BatchWriter[AnyRow],
        registrations: Registrations,
        budget: InflightBudget,
        traffic: Traffic,
        settings: IngestionSettings,
        metrics: IngestionMetrics,
    ) -> None:
        self.available = True
        """False from the end of an outage's grace until the database is back."""
        self._writer = writer
        self._registrations = registrations
        self._budget = budget
        self._metrics = metrics
        self._batch_max_readings = settings.batch_max_readings
        self._batch_max_age_s = settings.batch_max_age_s
        self._outage_grace_s = settings.outage_grace_s
        self._queue = FairQueue(traffic)
        self._filled = asyncio.Event()
        self._full = asyncio.Event()
        self._urgent_arrived = asyncio.Event()
        self._idle = asyncio.Event()
        self._idle.set()
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        await self._writer.connect()
        self._task = asyncio.create_task(self._run())

    async def close(self) -> None:
        if not await is_set_within(self._idle, CLOSE_TIMEOUT_S):
            _log.warning("unacknowledged_readings_dropped", readings=self._queue.readings)
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        await self._writer.close()

    def put(self, submission: Submission[AnyRow]) -> None:
        submission.queued_at = time.monotonic()
        self._queue.put(submission, submission.queued_at)
        self._idle.clear()
        self._filled.set()
        if submission.priority is not Priority.BACKLOG:
            self._urgent_arrived.set()
        if self._queue.readings >= self._batch_max_readings:
            self._full.set()

    async def _run(self) -> None:
        while True:
            await self._filled.wait()
            batch: list[Submission[AnyRow]] = []
            try:
                batch = await self._next_batch()
                await self._commit(batch)
            except DatabaseUnavailable as error:
                await self._sit_out(batch, error)
            except Exception as error:
                self._metrics.write_failed(error)
                readings = sum(len(each.rows) for each in batch)
                quietly(_log.error, "batch_failed", key=type(error), readings=readings, exc_info=error)
                self._refuse(batch or self._queue.take_all(), DefectiveBatch)
            self._queue.written(time.monotonic())
            if not self._queue:
                self._filled.clear()
                self._idle.set()

    async def _next_batch(self) -> list[Submission[AnyRow]]:
        """The next batch; waits for more readings while it is neither full nor old."""
        pause_s = self._queue.pause_s(time.monotonic())
        if pause_s:
            self._urgent_arrived.clear()
            await is_set_within(self._urgent_arrived, pause_s)
        if self._queue.readings < self._batch_max_readings:
            patience_s = self._batch_max_age_s - self._queue.waiting_s(time.monotonic())
            if patience_s > 0:
                self._full.clear()
                await is_set_within(self._full, patience_s)
        batch = self._queue.take(self._batch_max_readings, time.monotonic())
        oldest_s = min(submission.queued_at for submission in batch)
        self._metrics.batch_closed(sum(len(submission.rows) for submission in batch), time.monotonic() - oldest_s)
        return batch

    async def _commit(self, batch: list[Submission[AnyRow]]) -> None:
        """Writes a batch, again and again while an outage is short, and resolves its receipts."""
        away_since: float | None = None
        admitted = False
        for delay_s in _retry_delays():
            began = time.monotonic()
            try:
                if not admitted:
                    batch, admitted = await self._admitted(batch), True
                rows = batch[0].rows if len(batch) == 1 else [row for submission in batch for row in submission.rows]
                if not rows:
                    return
                written = await self._writer.write(rows)
                break
            except DatabaseUnavailable as error:
                self._metrics.write_failed(error)
                if away_since is None:
                    away_since = time.monotonic()
                    self._log_failed(sum(len(each.rows) for each in batch), error)
                if time.monotonic() + delay_s > away_since + self._outage_grace_s:
                    raise
                await asyncio.sleep(delay_s)
        self._metrics.committed(len(rows), written, time.monotonic() - began)
        self._resolve_receipts(batch, written)

    def _log_failed(self, readings: int, error: DatabaseUnavailable) -> None:
        key = (id(self), error.sqlstate)  # each lane tells of an outage
        quietly(_log.warning, "write_failed", key=key, readings=readings, sqlstate=error.sqlstate, reason=error.reason)

    async def _admitted(self, batch: list[Submission[AnyRow]]) -> list[Submission[AnyRow]]:
        """The batch without the submissions whose new devices are not registered any more: they fail. A device that is
        named by its sender's certificate is."""
        counted = [each for each in batch if not each.receipt.sender.names_its_devices]
        unremembered = self._writer.unremembered([row for submission in counted for row in submission.rows])
        if not unremembered:
            return batch
        unregistered = await self._writer.unregistered(unremembered)
        for submission in counted if unregistered else ():
            new = unregistered.intersection(row[0] for row in submission.rows)
            try:
                await self._registrations.admit(len(new), self._writer.registered)
                unregistered -= new
            except LimitExceeded as error:
                quietly(
                    _log.warning,
                    "new_devices_refused",
                    key=self._registrations.kind,
                    devices=len(new),
                    reason=str(error),
                )
                self._refuse([submission], partial(LimitExceeded, str(error), error.retry_after_s))
        return [submission for submission in batch if not submission.complete]

    def _resolve_receipts(self, batch: list[Submission[AnyRow]], written: Written) -> None:
        starts = list(accumulate((len(submission.rows) for submission in batch), initial=0))
        exceptions: defaultdict[int, Written] = defaultdict(Written)
        for name in ("duplicates", "conflicts", "refused", "doubted", "session_registers"):
            for position in getattr(written, name):
                at = bisect_right(starts, position) - 1
                getattr(exceptions[at], name).append(position - starts[at])
        for position, values in written.stored.items():
            at = bisect_right(starts, position) - 1
            exceptions[at].stored[position - starts[at]] = values
        for at, submission in enumerate(batch):
            submission.receipt.resolve(submission, exceptions.get(at, _ALL_STORED))
            self._budget.release(len(submission.rows), submission.priority)
        now = time.monotonic()
        self._metrics.resolved(now - submission.queued_at for submission in batch)

    async def _sit_out(self, batch: list[Submission[AnyRow]], error: DatabaseUnavailable) -> None:
        """Refuses what waits, so that callers learn of the outage, and comes back when the database does."""
        self.available = False
        refused = batch + self._queue.take_all()
        readings = sum(len(each.rows) for each in refused)
        _log.error("database_away", refused_readings=readings, sqlstate=error.sqlstate, reason=error.reason)
        self._refuse(refused, lambda: DatabaseUnavailable(error.sqlstate))
        self._budget.refuse_waiting(lambda: DatabaseUnavailable(error.sqlstate))
        logged = False
        for delay_s in _retry_delays():
            try:
                await self._writer.connect()
                break
            except DatabaseUnavailable as failure:
                if not logged:
                    _log.warning("connect_failed", sqlstate=failure.sqlstate, reason=failure.reason)
            except Exception as defect:
                if not logged:
                    _log.error("connect_failed", exc_info=defect)
            logged = True
            await asyncio.sleep(delay_s)
        _log.warning("database_back")
        self.available = True

    def _refuse(self, batch: list[Submission[AnyRow]], error: Callable[[], Exception]) -> None:
        """Fails what is not complete, each with an error of its own: a shared one would keep the frames of all."""
        for submission in batch:
            if not submission.complete:
                submission.receipt.fail(submission, error())
                self._budget.release(len(submission.rows), submission.priority)
                self._metrics.gave_up(len(submission.rows))


def _retry_delays() -> Iterator[float]:
    """Jittered exponential back-off in seconds, without end."""
    delay_s = RETRY_MIN_S
    while True:
        yield delay_s * random.uniform(0.5, 1.0)  # noqa: S311 (jitter protects nothing)
        delay_s = min(2 * delay_s, RETRY_MAX_S)
