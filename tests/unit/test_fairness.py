"""Who comes first when all want to send at once."""

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ingestion_svc.decode import MeterRow
from ingestion_svc.fairness import (
    BACKLOG_BESIDE_LIVE_MAX_READINGS,
    BACKLOG_BESIDE_LIVE_REST,
    BACKLOG_BESIDE_LIVE_REST_MAX_S,
    CATCHING_UP_MEMORY_S,
    LIVE_MAX_READINGS,
    FairQueue,
    Room,
    Traffic,
    is_live,
)
from ingestion_svc.receipt import Receipt, Sender, Submission


def a_submission(sender: Sender, count: int) -> Submission[MeterRow]:
    return Submission([MeterRow("m", at, 1.0, None) for at in range(count)], range(count), Receipt(sender=sender))


@given(
    puts=st.lists(st.tuples(st.integers(0, 5), st.integers(1, 50)), max_size=60),
    most=st.integers(1, 200),
)
def test_everything_comes_out_once_and_in_each_senders_order(puts: list[tuple[int, int]], most: int) -> None:
    senders = [Sender(catching_up=number % 2 == 1) for number in range(6)]
    queue = FairQueue(Traffic())
    put = [a_submission(senders[number], count) for number, count in puts]
    for submission in put:
        queue.put(submission, 0.0)
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
    queue = FairQueue(Traffic())
    backlog = [Sender(catching_up=True) for _ in range(3)]
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
    queue = FairQueue(Traffic())
    backlog, live = Sender(catching_up=True), Sender()
    for _ in range(20):
        queue.put(a_submission(backlog, 50), 0.0)
    queue.put(a_submission(live, 1), 0.0)
    assert len(queue.take(20_000, 0.0)) > 1
    queue.written(0.01)
    rested_s = 0.01 + BACKLOG_BESIDE_LIVE_REST * 0.01

    assert queue.pause_s(0.02) == pytest.approx(rested_s - 0.02)
    queue.put(a_submission(live, 1), 0.02)
    assert queue.pause_s(0.02) == 0.0
    assert [each.receipt.sender for each in queue.take(20_000, 0.02)] == [live]
    queue.written(0.03)
    queue.put(a_submission(live, 1), rested_s)
    assert {each.receipt.sender for each in queue.take(20_000, rested_s)} == {live, backlog}
    queue.written(60.0)
    queue.put(a_submission(live, 1), 60.0)
    queue.take(1, 60.0)
    assert queue.pause_s(60.0) == BACKLOG_BESIDE_LIVE_REST_MAX_S


def test_backlog_that_waits_does_not_cost_live_readings_their_company() -> None:
    queue = FairQueue(Traffic())
    queue.put(a_submission(Sender(catching_up=True), 50), 0.0)
    live = a_submission(Sender(), 1)
    live.queued_at = 5.0
    queue.put(live, 5.0)

    assert queue.waiting_s(5.001) == pytest.approx(0.001)


def test_backlog_and_large_messages_alone_fill_whole_batches() -> None:
    queue = FairQueue(Traffic())
    sender = Sender(catching_up=True)
    queue.put(a_submission(Sender(), 1_000), 0.0)
    for _ in range(30):
        queue.put(a_submission(sender, 1_000), 0.0)

    assert sum(len(each.rows) for each in queue.take(20_000, 0.0)) == 20_000


def test_a_sender_catches_up_from_too_many_readings_until_all_are_settled_and_a_moment_has_passed() -> None:
    sender = Sender()
    assert is_live(sender, LIVE_MAX_READINGS, now_s=0.0)
    sender.in_flight = LIVE_MAX_READINGS
    assert not is_live(sender, 1, now_s=0.0)
    sender.in_flight = 1
    assert not is_live(sender, 1, now_s=10 * CATCHING_UP_MEMORY_S)
    sender.in_flight = 0
    assert not is_live(sender, 1, now_s=CATCHING_UP_MEMORY_S / 2)
    assert is_live(sender, 1, now_s=CATCHING_UP_MEMORY_S)


async def test_backlog_that_fills_the_memory_leaves_room_for_live_readings() -> None:
    room = Room(100, Traffic())
    await room.take(80, live=False)
    backlog = asyncio.ensure_future(room.take(1, live=False))
    await asyncio.wait_for(room.take(20, live=True), 1)
    live = asyncio.ensure_future(room.take(10, live=True))
    await asyncio.sleep(0)
    assert not backlog.done()
    assert not live.done()
    room.give_back(10)
    await asyncio.wait_for(live, 1)
    assert not backlog.done()
    room.give_back(21)
    await asyncio.wait_for(backlog, 1)

    assert room.taken == 80


async def test_more_than_all_the_memory_is_taken_alone() -> None:
    room = Room(10, Traffic())
    await asyncio.wait_for(room.take(50, live=False), 1)
    other = asyncio.ensure_future(room.take(1, live=True))
    await asyncio.sleep(0)
    assert not other.done()
    room.give_back(50)
    await other


@pytest.mark.parametrize("live", [True, False])
async def test_who_gives_up_waiting_takes_no_room_with_it(live: bool) -> None:
    room = Room(10, Traffic())
    await room.take(10, live=live)
    waiting = asyncio.ensure_future(room.take(10, live=live))
    await asyncio.sleep(0)
    waiting.cancel()
    await asyncio.gather(waiting, return_exceptions=True)
    room.give_back(10)

    await asyncio.wait_for(room.take(8, live=False), 1)
