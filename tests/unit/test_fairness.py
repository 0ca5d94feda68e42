"""Who comes first when all want to send at once."""

import asyncio
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ingestion_svc.decode import MeterRow
from ingestion_svc.fairness import (
    BACKLOG_BESIDE_LIVE_INFLIGHT_MAX_READINGS,
    BACKLOG_BESIDE_LIVE_MAX_READINGS,
    BACKLOG_BESIDE_LIVE_REST,
    BACKLOG_BESIDE_LIVE_REST_MAX_S,
    GATEWAYS_BESIDE_LIVE_INFLIGHT_MAX_READINGS,
    GATEWAYS_BESIDE_LIVE_MAX_READINGS,
    LIVE_MAX_READINGS,
    NOT_LIVE_MEMORY_S,
    PRESENT_MAX_AGE_US,
    FairQueue,
    Room,
    Traffic,
    note_standing,
)
from ingestion_svc.receipt import Receipt, Sender, Standing, Submission

LIVE, GATEWAY, BACKLOG = Standing


def a_submission(sender: Sender, count: int) -> Submission[MeterRow]:
    rows = [MeterRow("m", at, 1.0, None) for at in range(count)]
    return Submission(rows, range(count), Receipt(sender=sender), sender.standing)


def live_traffic(now_s: float = 0.0) -> Traffic:
    traffic = Traffic()
    traffic.live_came(now_s)
    return traffic


@given(
    puts=st.lists(st.tuples(st.integers(0, 5), st.sampled_from([GATEWAY, BACKLOG]), st.integers(1, 50)), max_size=60),
    most=st.integers(1, 200),
)
def test_everything_comes_out_once_and_in_each_senders_order(puts: list[tuple[int, Standing, int]], most: int) -> None:
    senders = [Sender() for _ in range(6)]
    queue = FairQueue(Traffic())
    put = []
    for number, standing, count in puts:
        if number > 1:  # the first two stay live
            senders[number].standing = standing
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
    backlog = [Sender(standing=BACKLOG) for _ in range(3)]
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
    backlog, live = Sender(standing=BACKLOG), Sender()
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
    traffic.live_came(60.0)
    queue.put(a_submission(live, 1), 60.0)
    queue.take(1, 60.0)
    assert queue.pause_s(60.0) == BACKLOG_BESIDE_LIVE_REST_MAX_S


def test_backlog_that_waits_does_not_cost_live_readings_their_company() -> None:
    queue = FairQueue(Traffic())
    queue.put(a_submission(Sender(standing=BACKLOG), 50), 0.0)
    live = a_submission(Sender(), 1)
    live.queued_at = 5.0
    queue.put(live, 5.0)

    assert queue.waiting_s(5.001) == pytest.approx(0.001)


def test_backlog_and_large_messages_alone_fill_whole_batches() -> None:
    queue = FairQueue(Traffic())
    sender = Sender(standing=BACKLOG)
    queue.put(a_submission(Sender(), 1_000), 0.0)
    for _ in range(30):
        queue.put(a_submission(sender, 1_000), 0.0)

    assert sum(len(each.rows) for each in queue.take(20_000, 0.0)) == 20_000


def test_gateways_come_after_live_readings_and_before_backlog_and_are_held_up_by_neither() -> None:
    queue = FairQueue(live_traffic())
    backlog, gateway, live = Sender(standing=BACKLOG), Sender(standing=GATEWAY), Sender()
    for _ in range(150):
        queue.put(a_submission(backlog, 100), 0.0)
        queue.put(a_submission(gateway, 100), 0.0)
    queue.put(a_submission(live, 1), 0.0)

    def taken(now_s: float) -> dict[Standing, int]:
        batch = queue.take(20_000, now_s)
        assert [each.receipt.sender.standing for each in batch] == sorted(
            each.receipt.sender.standing for each in batch
        )
        return {
            standing: sum(len(each.rows) for each in batch if each.receipt.sender.standing is standing)
            for standing in Standing
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
        queue.put(a_submission(Sender(standing=GATEWAY), 100), 0.0)
        queue.put(a_submission(Sender(standing=BACKLOG), 100), 0.0)
    batch = queue.take(20_000, 0.0)

    assert sum(len(each.rows) for each in batch if each.standing is GATEWAY) == 10_000
    assert sum(len(each.rows) for each in batch) == 20_000


def test_a_sender_is_not_live_from_too_many_readings_until_all_are_settled_and_a_moment_has_passed() -> None:
    sender = Sender()

    def standing(readings: int, *, in_flight: int, age_us: int, now_s: float) -> Standing:
        sender.in_flight = in_flight
        note_standing(sender, readings, age_us, now_s)
        return sender.standing

    old_us = PRESENT_MAX_AGE_US + 1
    assert standing(LIVE_MAX_READINGS, in_flight=0, age_us=old_us, now_s=0.0) is LIVE
    assert standing(1, in_flight=LIVE_MAX_READINGS, age_us=old_us, now_s=0.0) is BACKLOG
    assert standing(1, in_flight=1, age_us=old_us, now_s=10 * NOT_LIVE_MEMORY_S) is BACKLOG
    assert standing(1, in_flight=0, age_us=old_us, now_s=NOT_LIVE_MEMORY_S / 2) is BACKLOG
    assert standing(1, in_flight=1, age_us=PRESENT_MAX_AGE_US, now_s=NOT_LIVE_MEMORY_S / 2) is GATEWAY
    assert standing(1, in_flight=0, age_us=old_us, now_s=NOT_LIVE_MEMORY_S) is LIVE
    assert standing(1, in_flight=LIVE_MAX_READINGS, age_us=-PRESENT_MAX_AGE_US, now_s=0.0) is GATEWAY


@pytest.mark.parametrize(
    ("standing", "most"),
    [
        (BACKLOG, BACKLOG_BESIDE_LIVE_INFLIGHT_MAX_READINGS),
        (GATEWAY, GATEWAYS_BESIDE_LIVE_INFLIGHT_MAX_READINGS),
    ],
)
async def test_while_live_readings_arrive_others_have_little_in_memory(standing: Standing, most: int) -> None:
    room = Room(100_000, live_traffic(time.monotonic()))
    await asyncio.wait_for(room.take(most, standing), 1)
    more = asyncio.ensure_future(room.take(1, standing))
    for other in set(Standing) - {standing}:
        await asyncio.wait_for(room.take(1_000, other), 1)
    assert not more.done(), "and they do not keep each other out"
    more.cancel()


@pytest.mark.parametrize("standing", [GATEWAY, BACKLOG])
async def test_others_that_fill_the_memory_leave_room_for_live_readings(standing: Standing) -> None:
    room = Room(100, Traffic())
    await room.take(80, standing)
    other = asyncio.ensure_future(room.take(1, standing))
    await asyncio.wait_for(room.take(20, LIVE), 1)
    live = asyncio.ensure_future(room.take(10, LIVE))
    await asyncio.sleep(0)
    assert not other.done()
    assert not live.done()
    room.give_back(10, standing)
    await asyncio.wait_for(live, 1)
    assert not other.done()
    room.give_back(21, standing)
    await asyncio.wait_for(other, 1)

    assert room.taken == 80


async def test_more_than_all_the_memory_is_taken_alone() -> None:
    room = Room(10, Traffic())
    await asyncio.wait_for(room.take(50, BACKLOG), 1)
    other = asyncio.ensure_future(room.take(1, LIVE))
    await asyncio.sleep(0)
    assert not other.done()
    room.give_back(50, BACKLOG)
    await other


@pytest.mark.parametrize("standing", Standing)
async def test_who_gives_up_waiting_takes_no_room_with_it(standing: Standing) -> None:
    room = Room(10, Traffic())
    await room.take(10, standing)
    waiting = asyncio.ensure_future(room.take(10, standing))
    await asyncio.sleep(0)
    waiting.cancel()
    await asyncio.gather(waiting, return_exceptions=True)
    room.give_back(10, standing)

    await asyncio.wait_for(room.take(8, BACKLOG), 1)
