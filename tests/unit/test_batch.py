"""How the readings of many calls become few transactions, and what callers learn when the database is away."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import pytest
from structlog.testing import capture_logs

from ingestion_svc.batch import Batcher, DefectiveBatch
from ingestion_svc.fairness import LIVE_MESSAGE_MAX_READINGS, PRESENT_MAX_AGE_US, FairQueue
from ingestion_svc.readings import Decoded, MeterRow, VehicleRow, Written
from ingestion_svc.receipt import Priority, Receipt, Sender
from shared.config import IngestionSettings
from shared.errors import DatabaseUnavailable, LimitExceeded


class _KnowsAllDevices:
    def unremembered(self, rows: Sequence[Any], /) -> set[str]:
        return set()

    async def unregistered(self, ids: set[str], /) -> set[str]:
        raise AssertionError("all are remembered")

    async def registered(self) -> int:
        raise AssertionError("all are remembered")


class FakeWriter(_KnowsAllDevices):
    """Keeps the batches that it was given; waits at its gate, and fails as long as it is told to."""

    def __init__(self) -> None:
        self.batches: list[list[MeterRow]] = []
        self.gate = asyncio.Event()
        self.gate.set()
        self.away = False
        self.write_error = DatabaseUnavailable("57P01", "terminating connection")
        self.connect_error = DatabaseUnavailable("28P01", "password authentication failed")
        self.attempts_to_connect = 0
        self.connected = asyncio.Event()
        self.outcome = Written()

    async def write(self, rows: Sequence[MeterRow], /) -> Written:
        await self.gate.wait()
        if self.away:
            raise self.write_error
        self.batches.append(list(rows))
        return self.outcome

    async def connect(self) -> None:
        self.attempts_to_connect += 1
        if self.away:
            raise self.connect_error
        self.connected.set()

    async def close(self) -> None:
        pass


class ForgetfulWriter(FakeWriter):
    """Remembers no device. Two are registered already. Fails once, when it is to register others."""

    def __init__(self) -> None:
        super().__init__()
        self.fails = True
        self.stored: set[str] = {"a", "b"}

    def unremembered(self, rows: Sequence[Any], /) -> set[str]:
        return {row[0] for row in rows}

    async def unregistered(self, ids: set[str], /) -> set[str]:
        if self.away:
            raise self.write_error
        return ids - self.stored

    async def registered(self) -> int:
        return len(self.stored)

    async def write(self, rows: Sequence[MeterRow], /) -> Written:
        ids = {row[0] for row in rows}
        if self.fails and ids - self.stored:
            self.fails = False
            raise self.write_error
        written = await super().write(rows)
        self.stored |= ids
        return written


class NoWriter(_KnowsAllDevices):
    async def write(self, rows: Sequence[VehicleRow], /) -> Written:
        raise AssertionError("these tests have meters only")

    async def connect(self) -> None:
        pass

    async def close(self) -> None:
        pass


@asynccontextmanager
async def batching(*writers: FakeWriter, **settings: float) -> AsyncIterator[Batcher]:
    batcher = Batcher(writers, [NoWriter()], IngestionSettings.model_validate(settings))
    await batcher.start()
    try:
        yield batcher
    finally:
        for writer in writers:
            writer.gate.set()
        await batcher.close()


@pytest.fixture
def closed_in_an_outage(monkeypatch: pytest.MonkeyPatch) -> None:
    """Closing waits a moment only for a database that does not come back."""
    monkeypatch.setattr("ingestion_svc.batch.CLOSE_TIMEOUT_S", 0.05)


def some(count: int, device: str = "meter-{}") -> Decoded:
    rows = [MeterRow(device.format(at), at, 1.0, None) for at in range(count)]
    return Decoded(meters=rows, meter_indexes=list(range(count)))


async def until(condition: asyncio.Future[None] | None = None) -> None:
    """Lets every task that can run come to its next wait."""
    for _ in range(20):
        await asyncio.sleep(0)


async def test_what_comes_while_a_batch_is_written_is_written_together() -> None:
    writer = FakeWriter()
    async with batching(writer, batch_max_age_s=0) as batcher:
        writer.gate.clear()
        receipts = [Receipt() for _ in range(10)]
        for receipt in receipts:
            await batcher.submit(some(3), receipt)
            await until()
        writer.gate.set()
        for receipt in receipts:
            await receipt.completed()

    assert [len(batch) for batch in writer.batches] == [3, 27]
    assert [receipt.stored for receipt in receipts] == [3] * 10


async def test_a_batch_is_closed_by_count() -> None:
    writer = FakeWriter()
    async with batching(writer, batch_max_readings=10, batch_max_age_s=1) as batcher:
        receipt = Receipt()
        for _ in range(4):
            await batcher.submit(some(6), receipt)
        await asyncio.wait_for(receipt.completed(), 0.5)

    assert [len(batch) for batch in writer.batches] == [12, 12]


async def test_each_call_learns_the_outcome_of_its_own_readings() -> None:
    writer = FakeWriter()
    writer.outcome = Written(duplicates=[0, 4], conflicts=[3], refused=[5], stored={3: (7.0, None, None)})
    async with batching(writer, batch_max_readings=6, batch_max_age_s=1) as batcher:
        one, other = Receipt(), Receipt()
        await batcher.submit(some(2), one)
        await batcher.submit(some(4), other)
        await one.completed()
        await other.completed()

    assert (one.received, one.stored, one.duplicate, one.conflicting, one.rejected) == (2, 1, 1, 0, 0)
    assert (other.received, other.stored, other.duplicate, other.conflicting, other.rejected) == (4, 1, 1, 1, 1)
    assert [(conflict.index, conflict.stored[2:]) for conflict in other.conflicts] == [(1, (7.0, None, None))]
    assert [rejection.index for rejection in other.rejections] == [3]


async def test_a_full_memory_makes_calls_wait_and_then_serves_them_in_order() -> None:
    writer = FakeWriter()
    async with batching(writer, inflight_max_readings=10, batch_max_age_s=0) as batcher:
        writer.gate.clear()
        await batcher.submit(some(8), Receipt())
        served: list[int] = []

        async def submit(number: int, readings: int) -> None:
            await batcher.submit(some(readings), Receipt())
            served.append(number)

        waiting = [asyncio.ensure_future(submit(0, 9)), asyncio.ensure_future(submit(1, 1))]
        await until()
        assert served == []
        writer.gate.set()
        await asyncio.gather(*waiting)

    assert served == [0, 1]


async def test_a_call_that_gives_up_waiting_takes_no_room_with_it() -> None:
    writer = FakeWriter()
    async with batching(writer, inflight_max_readings=10, batch_max_age_s=0) as batcher:
        writer.gate.clear()
        await batcher.submit(some(10), Receipt())
        waiting = asyncio.ensure_future(batcher.submit(some(10), Receipt()))
        await until()
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)
        writer.gate.set()
        receipt = Receipt()
        for _ in range(3):
            await batcher.submit(some(10), receipt)
        await receipt.completed()

    assert receipt.stored == 30


async def test_one_stream_waits_at_its_own_bound() -> None:
    writer = FakeWriter()
    async with batching(writer, inflight_max_readings_per_stream=10, batch_max_age_s=0) as batcher:
        writer.gate.clear()
        greedy = Receipt()
        await batcher.submit(some(10), greedy)
        waiting = asyncio.ensure_future(batcher.submit(some(1), greedy))
        await batcher.submit(some(1), Receipt())
        await until()
        assert not waiting.done()
        writer.gate.set()
        await waiting


async def test_a_short_outage_is_waited_through() -> None:
    writer = FakeWriter()
    async with batching(writer, batch_max_age_s=0) as batcher:
        writer.away = True
        receipt = Receipt()
        await batcher.submit(some(1), receipt)
        await until()
        writer.away = False
        await receipt.completed()

    assert receipt.stored == 1


async def test_a_long_outage_is_told_to_callers_and_ends_with_the_databases_return() -> None:
    writer = FakeWriter()
    async with batching(writer, batch_max_age_s=0, outage_grace_s=0.01) as batcher:
        writer.away = True
        receipt = Receipt()
        await batcher.submit(some(1), receipt)
        with pytest.raises(DatabaseUnavailable):
            await receipt.completed()
        await until()
        with pytest.raises(DatabaseUnavailable):
            await batcher.submit(some(1), Receipt())
        writer.away = False
        after = Receipt()
        async with asyncio.timeout(5):
            while after.received == 0:
                try:
                    await batcher.submit(some(1), after)
                except DatabaseUnavailable:
                    await asyncio.sleep(0.01)
        await after.completed()

    assert after.stored == 1


@pytest.mark.usefixtures("closed_in_an_outage")
async def test_calls_that_wait_for_memory_learn_of_an_outage_within_its_grace() -> None:
    writer = FakeWriter()
    async with batching(writer, inflight_max_readings=10, batch_max_age_s=0, outage_grace_s=0.05) as batcher:
        writer.away = True
        receipt = Receipt()
        await batcher.submit(some(10), receipt)
        waiting = [asyncio.ensure_future(batcher.submit(some(10), Receipt())) for _ in range(3)]
        outcomes = await asyncio.wait_for(asyncio.gather(*waiting, return_exceptions=True), 5)

        assert [type(outcome) for outcome in outcomes] == [DatabaseUnavailable] * 3
        assert isinstance(receipt.failure, DatabaseUnavailable)
        assert batcher.inflight_readings == 0


@pytest.mark.usefixtures("closed_in_an_outage")
async def test_calls_that_wait_for_memory_learn_of_an_outage_also_while_another_writer_holds_the_memory() -> None:
    away, slow = FakeWriter(), FakeWriter()
    slow.gate.clear()
    async with batching(away, slow, inflight_max_readings=20, batch_max_age_s=0, outage_grace_s=0.05) as batcher:
        devices: dict[int, str] = {}
        for number in range(20):
            devices.setdefault(hash(f"meter-{number}") % 2, f"meter-{number}")
        away.away = True
        await batcher.submit(some(15, devices[1]), Receipt())
        await batcher.submit(some(5, devices[0]), Receipt())
        waiting = asyncio.ensure_future(batcher.submit(some(15), Receipt()))
        with pytest.raises(DatabaseUnavailable):
            await asyncio.wait_for(waiting, 5)

        assert batcher.inflight_readings == 15


async def test_an_outage_is_logged_once_with_what_the_database_said() -> None:
    writer = FakeWriter()
    with capture_logs() as logs:
        async with batching(writer, batch_max_age_s=0, outage_grace_s=0.2) as batcher:
            writer.away = True
            receipt = Receipt()
            await batcher.submit(some(1), receipt)
            with pytest.raises(DatabaseUnavailable):
                await receipt.completed()
            async with asyncio.timeout(10):
                while writer.attempts_to_connect < 5:
                    await asyncio.sleep(0.01)
            writer.away = False
            async with asyncio.timeout(10):
                while logs[-1]["event"] != "database_back":
                    await asyncio.sleep(0.01)

    assert [(each["event"], each.get("sqlstate"), each.get("reason")) for each in logs] == [
        ("write_failed", "57P01", "terminating connection"),
        ("database_away", "57P01", "terminating connection"),
        ("connect_failed", "28P01", "password authentication failed"),
        ("database_back", None, None),
    ]


@pytest.mark.parametrize("broken", ["take", "pause_s"])
async def test_a_defect_in_a_lane_is_logged_and_answered_and_the_lane_goes_on(
    broken: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def defect(*_: object) -> None:
        raise ZeroDivisionError

    writer = FakeWriter()
    async with batching(writer, batch_max_age_s=0) as batcher:
        receipt, after = Receipt(), Receipt()
        with capture_logs() as logs, monkeypatch.context() as patched:
            patched.setattr(FairQueue, broken, defect)
            await batcher.submit(some(3), receipt)
            with pytest.raises(DefectiveBatch):
                await asyncio.wait_for(receipt.completed(), 5)
        await batcher.submit(some(2), after)
        await asyncio.wait_for(after.completed(), 5)

    assert {each["event"] for each in logs} == {"batch_failed"}
    assert (after.stored, batcher.inflight_readings) == (2, 0)


async def test_a_defect_while_outcomes_are_handed_out_costs_no_call_its_answer_and_no_memory() -> None:
    def defect(*_: object) -> None:
        raise ZeroDivisionError

    writer = FakeWriter()
    async with batching(writer, batch_max_readings=6, batch_max_age_s=1) as batcher:
        first, broken, last = Receipt(), Receipt(on_resolved=defect), Receipt()
        for receipt in (first, broken, last):
            await batcher.submit(some(2), receipt)
        await first.completed()
        for receipt in (broken, last):
            with pytest.raises(DefectiveBatch):
                await asyncio.wait_for(receipt.completed(), 5)

        assert (first.stored, batcher.inflight_readings) == (2, 0)


async def test_a_device_always_goes_through_the_same_writer() -> None:
    writers = [FakeWriter(), FakeWriter(), FakeWriter()]
    async with batching(*writers, batch_max_age_s=0) as batcher:
        receipt = Receipt()
        for _ in range(5):
            await batcher.submit(some(50), receipt)
        await receipt.completed()

    devices = [{row.meter_id for batch in writer.batches for row in batch} for writer in writers]
    assert sum(len(its) for its in devices) == 50
    assert all(devices)


@pytest.mark.parametrize(
    ("message", "taken"), [(LIVE_MESSAGE_MAX_READINGS, 100), (LIVE_MESSAGE_MAX_READINGS + 1, 1_000)]
)
async def test_backlog_goes_in_small_batches_only_beside_live_devices_with_small_messages(
    message: int, taken: int
) -> None:
    writer, backlog, receipt = FakeWriter(), Sender(), Receipt()
    writer.gate.clear()
    async with batching(writer, batch_max_age_s=0) as batcher:
        await batcher.submit(some(1), receipt)
        await until()  # the writer has that one
        batcher.expect(backlog, 1_000, PRESENT_MAX_AGE_US + 1)
        for _ in range(10):
            await batcher.submit(some(100), Receipt(sender=backlog))
        batcher.expect(Sender(), message, 0)
        writer.gate.set()
        await receipt.completed()
        await until()

        assert backlog.priority is Priority.BACKLOG
        await asyncio.wait_for(_written(writer, 2), 5)
        assert len(writer.batches[1]) == taken


async def _written(writer: FakeWriter, batches: int) -> None:
    while len(writer.batches) < batches:
        await asyncio.sleep(0)


async def test_new_devices_beyond_the_limit_fail_alone_and_an_outage_takes_nothing_off_it() -> None:
    writer = ForgetfulWriter()
    messages = {
        "known": (some(2, "ab{}"), Sender()),  # ab0 and ab1: new, and all that is left
        "too many": (some(1, "c{}"), Sender()),
        "again": (some(1, "ab{}"), Sender()),
        "named": (some(2, "n{}"), Sender(names_its_devices=True)),
    }
    async with batching(writer, batch_max_age_s=0, outage_grace_s=5, new_devices_per_hour=2, devices_max=9) as batcher:
        writer.gate.clear()
        first = Receipt()
        await batcher.submit(Decoded(meters=[MeterRow("a", 0, 1.0, None)], meter_indexes=[0]), first)
        await until()  # the writer has that one
        writer.away = True
        receipts = {name: Receipt(sender=sender) for name, (_, sender) in messages.items()}
        for name, (decoded, _) in messages.items():
            await batcher.submit(decoded, receipts[name])
        writer.gate.set()
        await until()
        writer.away = False
        await first.completed()
        with pytest.raises(LimitExceeded, match="2 new meters an hour"):
            await receipts.pop("too many").completed()
        for receipt in receipts.values():
            await receipt.completed()

    assert {name: receipt.stored for name, receipt in receipts.items()} == {"known": 2, "again": 1, "named": 2}
    assert writer.stored == {"a", "b", "ab0", "ab1", "n0", "n1"}
    assert not writer.fails
