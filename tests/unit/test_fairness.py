"""Who comes first when all want to send at once."""

import asyncio
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ingestion_svc.fairness import (
    BACKLOG_BESIDE_LIVE_COOLDOWN,
    BACKLOG_BESIDE_LIVE_COOLDOWN_MAX_S,
    BACKLOG_BESIDE_LIVE_INFLIGHT_MAX_READINGS,
    BACKLOG_BESIDE_LIVE_MAX_READINGS,
    GATEWAYS_BESIDE_LIVE_INFLIGHT_MAX_READINGS,
    GATEWAYS_BESIDE_LIVE_MAX_READINGS,
    LIVE_MAX_READINGS,
    NOT_LIVE_MEMORY_S,
    PRESENT_MAX_AGE_US,
    FairQueue,
    InflightBudget,
    Traffic,
    update_priority,
)
from ingestion_svc.readings import MeterRow
from ingestion_svc.receipt import Priority, Receipt, Sender, Submission

LIVE, GATEWAY, BACKLOG = Priority


def a_submission(sender: Sender, count: int) -> Submission[MeterRow]:
    rows = [MeterRow("m", at, 1.0, None) for at in range(count)]
    return Submission(rows, range(count), Receipt(sender=sender), sender.priority)


def live_traffic(now_s: float = 0.0) -> Traffic:
    traffic = Traffic()
    traffic.note_live(now_s)
    return traffic


@given(
    puts=st.lists(st.tuples(st.integers(0, 5), st.sampled_from([GATEWAY, BACKLOG]), st.integers(1, 50)), max_size=60),
    most=st.integers(1, 200),
)
def test_everything_comes_out_once_and_in_each_senders_order(puts: list[tuple[int, Priority, int]], most: int) -> None:
    senders = [Sender() for _ in range(6)]
    queue = FairQueue(Traffic())
    put = []
    for number, priority, count in puts:
        if number > 1:  # the first two stay live
            senders[number].priority = priority
        put.append(a_submission(senders[number], count))
        queue.put(put[-1], 0.0)
    taken: list[Submission[MeterRow]] = []
    while queue:
        batch = queue.take(most, 0.0)
        assert batch
        taken += batch

    assert queue.readings == 0
    for sender in senders:
        assert [each for each in taken if each.receipt.sender is sender] == [
            each for each in put if each.receipt.sender is sender
        ]
    assert len(taken) == len(put)


def test_live_readings_come_before_any_backlog_and_take_little_of_it_with_them() -> None:
    queue = FairQueue(live_traffic())
    backlog = [Sender(priority=BACKLOG) for _ in range(3)]
    for _ in range(20):
        for sender in backlog:
            queue.put(a_submission(sender, 20), 0.0)
    live = a_submission(Sender(), 1)
    queue.put(live, 0.0)
    batch = queue.take(20_000, 0.0)

    assert batch[0] is live
    backlog_taken = sum(len(each.rows) for each in batch[1:])
    assert BACKLOG_BESIDE_LIVE_MAX_READINGS <= backlog_taken < BACKLOG_BESIDE_LIVE_MAX_READINGS + 20
    assert {each.receipt.sender for each in batch[1:4]} == set(backlog)


def test_backlog_rests_for_several_times_as_long_as_it_kept_live_readings_waiting() -> None:
    traffic = live_traffic()
    queue = FairQueue(traffic)
    backlog, live = Sender(priority=BACKLOG), Sender()
    for _ in range(20):
        queue.put(a_submission(backlog, 50), 0.0)
    queue.put(a_submission(live, 1), 0.0)
    assert len(queue.take(20_000, 0.0)) > 1
    queue.written(0.01)
    rested_s = 0.01 + BACKLOG_BESIDE_LIVE_COOLDOWN * 0.01

    assert queue.pause_s(0.02) == pytest.approx(rested_s - 0.02)
    queue.put(a_submission(live, 1), 0.02)
    assert queue.pause_s(0.02) == 0.0
    assert [each.receipt.sender for each in queue.take(20_000, 0.02)] == [live]
    queue.written(0.03)
    queue.put(a_submission(live, 1), rested_s)
    assert {each.receipt.sender for each in queue.take(20_000, rested_s)} == {live, backlog}
    queue.written(60.0)
    traffic.note_live(60.0)
    queue.put(a_submission(live, 1), 60.0)
    queue.take(1, 60.0)
    assert queue.pause_s(60.0) == BACKLOG_BESIDE_LIVE_COOLDOWN_MAX_S


def test_backlog_that_waits_does_not_cost_live_readings_their_company() -> None:
    queue = FairQueue(Traffic())
    queue.put(a_submission(Sender(priority=BACKLOG), 50), 0.0)
    live = a_submission(Sender(), 1)
    live.queued_at = 5.0
    queue.put(live, 5.0)

    assert queue.waiting_s(5.001) == pytest.approx(0.001)


def test_backlog_and_large_messages_alone_fill_whole_batches() -> None:
    queue = FairQueue(Traffic())
    sender = Sender(priority=BACKLOG)
    queue.put(a_submission(Sender(), 1_000), 0.0)
    for _ in range(30):
        queue.put(a_submission(sender, 1_000), 0.0)

    assert sum(len(each.rows) for each in queue.take(20_000, 0.0)) == 20_000


def test_gateways_come_after_live_readings_and_before_backlog_and_are_held_up_by_neither() -> None:
    queue = FairQueue(live_traffic())
    backlog, gateway, live = Sender(priority=BACKLOG), Sender(priority=GATEWAY), Sender()
    for _ in range(150):
        queue.put(a_submission(backlog, 100), 0.0)
        queue.put(a_submission(gateway, 100), 0.0)
    queue.put(a_submission(live, 1), 0.0)

    def taken(now_s: float) -> dict[Priority, int]:
        batch = queue.take(20_000, now_s)
        assert [each.receipt.sender.priority for each in batch] == sorted(
            each.receipt.sender.priority for each in batch
        )
        return {
            priority: sum(len(each.rows) for each in batch if each.receipt.sender.priority is priority)
            for priority in Priority
        }

    beside = {GATEWAY: GATEWAYS_BESIDE_LIVE_MAX_READINGS, BACKLOG: BACKLOG_BESIDE_LIVE_MAX_READINGS}
    assert taken(0.0) == {LIVE: 1, **beside}
    queue.written(0.1)
    assert queue.pause_s(0.1) == 0.0, "backlog rests, gateways do not"
    assert taken(0.1) == {LIVE: 0, **beside, BACKLOG: 0}
    assert taken(60.0) == {LIVE: 0, GATEWAY: 5_000, BACKLOG: 14_900}, "nobody is live any more"


def test_gateways_and_backlog_share_a_batch_where_nobody_is_live() -> None:
    queue = FairQueue(Traffic())
    for _ in range(300):
        queue.put(a_submission(Sender(priority=GATEWAY), 100), 0.0)
        queue.put(a_submission(Sender(priority=BACKLOG), 100), 0.0)
    batch = queue.take(20_000, 0.0)

    assert sum(len(each.rows) for each in batch if each.priority is GATEWAY) == 10_000
    assert sum(len(each.rows) for each in batch) == 20_000


def test_a_sender_is_not_live_from_too_many_readings_until_all_are_settled_and_a_moment_has_passed() -> None:
    sender = Sender()

    def priority(readings: int, *, in_flight: int, age_us: int, now_s: float) -> Priority:
        sender.in_flight = in_flight
        update_priority(sender, readings, age_us, now_s)
        return sender.priority

    old_us = PRESENT_MAX_AGE_US + 1
    assert priority(LIVE_MAX_READINGS, in_flight=0, age_us=old_us, now_s=0.0) is LIVE
    assert priority(1, in_flight=LIVE_MAX_READINGS, age_us=old_us, now_s=0.0) is BACKLOG
    assert priority(1, in_flight=1, age_us=old_us, now_s=10 * NOT_LIVE_MEMORY_S) is BACKLOG
    assert priority(1, in_flight=0, age_us=old_us, now_s=NOT_LIVE_MEMORY_S / 2) is BACKLOG
    assert priority(1, in_flight=1, age_us=PRESENT_MAX_AGE_US, now_s=NOT_LIVE_MEMORY_S / 2) is GATEWAY
    assert priority(1, in_flight=0, age_us=old_us, now_s=NOT_LIVE_MEMORY_S) is LIVE
    assert priority(1, in_flight=LIVE_MAX_READINGS, age_us=-PRESENT_MAX_AGE_US, now_s=0.0) is GATEWAY


@pytest.mark.parametrize(
    ("priority", "most"),
    [(BACKLOG, BACKLOG_BESIDE_LIVE_INFLIGHT_MAX_READINGS), (GATEWAY, GATEWAYS_BESIDE_LIVE_INFLIGHT_MAX_READINGS)],
)
async def test_while_live_readings_arrive_others_have_little_in_memory(priority: Priority, most: int) -> None:
    budget = InflightBudget(100_000, live_traffic(time.monotonic()))
    await asyncio.wait_for(budget.acquire(most, priority), 1)
    more = asyncio.ensure_future(budget.acquire(1, priority))
    for other in set(Priority) - {priority}:
        await asyncio.wait_for(budget.acquire(1_000, other), 1)
    assert not more.done(), "and they do not keep each other out"
    more.cancel()


@pytest.mark.parametrize("priority", [GATEWAY, BACKLOG])
async def test_others_that_fill_the_memory_leave_room_for_live_readings(priority: Priority) -> None:
    budget = InflightBudget(100, Traffic())
    await budget.acquire(80, priority)
    other = asyncio.ensure_future(budget.acquire(1, priority))
    await asyncio.wait_for(budget.acquire(20, LIVE), 1)
    live = asyncio.ensure_future(budget.acquire(10, LIVE))
    await asyncio.sleep(0)
    assert not other.done()
    assert not live.done()
    budget.release(10, priority)
    await asyncio.wait_for(live, 1)
    assert not other.done()
    budget.release(21, priority)
    await asyncio.wait_for(other, 1)

    assert budget.taken == 80


async def test_more_than_all_the_memory_is_taken_alone() -> None:
    budget = InflightBudget(10, Traffic())
    await asyncio.wait_for(budget.acquire(50, BACKLOG), 1)
    other = asyncio.ensure_future(budget.acquire(1, LIVE))
    await asyncio.sleep(0)
    assert not other.done()
    budget.release(50, BACKLOG)
    await other


@pytest.mark.parametrize("priority", Priority)
async def test_who_gives_up_waiting_takes_no_room_with_it(priority: Priority) -> None:
    budget = InflightBudget(10, Traffic())
    await budget.acquire(10, priority)
    waiting = asyncio.ensure_future(budget.acquire(10, priority))
    await asyncio.sleep(0)
    waiting.cancel()
    await asyncio.gather(waiting, return_exceptions=True)
    budget.release(10, priority)

    await asyncio.wait_for(budget.acquire(8, BACKLOG), 1)
