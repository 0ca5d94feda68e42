"""Background loops go on whatever a round comes to, say so once, and end cleanly."""

import asyncio
from collections.abc import Iterable
from typing import Any

import psycopg
import pytest
from structlog.testing import capture_logs

from shared.background import JITTER, BackgroundLoop, is_set_within


class Rounds:
    """Rounds that come to what is listed, and to success afterwards."""

    def __init__(self, outcomes: Iterable[BaseException | None] = ()) -> None:
        self.outcomes = list(outcomes)
        self.run = 0
        self.came = asyncio.Event()

    async def __call__(self) -> None:
        self.run += 1
        self.came.set()
        outcome = self.outcomes.pop(0) if self.outcomes else None
        if outcome is not None:
            raise outcome

    async def until(self, count: int) -> None:
        async with asyncio.timeout(10):
            while self.run < count:
                self.came.clear()
                await self.came.wait()


async def logged(outcomes: list[BaseException | None]) -> list[Any]:
    """What a loop logs of rounds that come to this."""
    rounds = Rounds(outcomes)
    loop = BackgroundLoop("work", rounds, 0.0, at_once=True)
    with capture_logs() as lines:
        loop.start()
        await rounds.until(len(outcomes) + 1)
        await loop.close()
    return lines


async def test_a_failure_is_logged_once_until_a_round_succeeds() -> None:
    away = [psycopg.OperationalError("connection\n refused") for _ in range(3)]
    lines = await logged([*away, None, away[0], None])
    failure = {"event": "work_failed", "log_level": "warning", "error": "connection refused"}
    recovery = {"event": "work_recovered", "log_level": "info"}
    assert lines == [failure, recovery, failure, recovery]


async def test_a_failure_of_another_kind_is_logged_though_the_one_before_goes_on() -> None:
    lines = await logged([TimeoutError(), psycopg.errors.InsufficientPrivilege("no right"), None])
    assert [line.get("error") for line in lines] == ["TimeoutError", "no right", None]


@pytest.mark.parametrize("defect", [KeyError("a defect"), asyncio.CancelledError()], ids=repr)
async def test_a_defect_is_logged_with_its_traceback_and_the_loop_goes_on(defect: BaseException) -> None:
    first, *_ = await logged([defect, defect, None])
    assert first == {"event": "work_failed", "log_level": "error", "exc_info": defect}


async def test_the_first_round_comes_after_an_interval_unless_it_is_to_come_at_once() -> None:
    late, prompt = Rounds(), Rounds()
    loops = [BackgroundLoop("late", late, 3_600.0), BackgroundLoop("prompt", prompt, 3_600.0, at_once=True)]
    for loop in loops:
        loop.start()
    await prompt.until(1)
    for loop in loops:
        await loop.close()
    assert (late.run, prompt.run) == (0, 1)


async def test_a_failure_is_retried_sooner_than_the_interval_says() -> None:
    rounds = Rounds([OSError(), OSError()])
    loop = BackgroundLoop("work", rounds, 3_600.0, retry_s=0.0, at_once=True)
    loop.start()
    await rounds.until(3)
    await loop.close()
    assert rounds.run == 3


async def test_closing_cancels_the_round_that_is_under_way() -> None:
    began, ended = asyncio.Event(), asyncio.Event()

    async def endless() -> None:
        began.set()
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    loop = BackgroundLoop("work", endless, 0.0)
    loop.start()
    await asyncio.wait_for(began.wait(), 10)
    await asyncio.wait_for(loop.close(), 10)
    assert ended.is_set()


async def test_a_loop_with_a_last_round_finishes_the_one_under_way_and_runs_it_also_after_a_failure() -> None:
    began, finish = asyncio.Event(), asyncio.Event()
    finished: list[bool] = []

    async def once_slow() -> None:
        began.set()
        await finish.wait()
        finished.append(True)
        raise OSError

    loop = BackgroundLoop("work", once_slow, 3_600.0, at_once=True, last_round=True)
    loop.start()
    await began.wait()
    closing = asyncio.ensure_future(loop.close())
    await asyncio.sleep(0)
    finish.set()
    await asyncio.wait_for(closing, 10)
    assert finished == [True, True]


async def test_a_round_that_pauses_learns_of_the_closing() -> None:
    pausing = asyncio.Event()
    told: list[bool] = []

    async def pause() -> None:
        pausing.set()
        told.append(await loop.closes_within(3_600.0))

    loop = BackgroundLoop("work", pause, 3_600.0, at_once=True, last_round=True)
    loop.start()
    await pausing.wait()
    await asyncio.wait_for(loop.close(), 10)
    assert told == [True, True]


async def test_a_loop_that_was_never_started_is_closed_without_a_round() -> None:
    rounds = Rounds()
    await BackgroundLoop("work", rounds, 0.0, at_once=True, last_round=True).close()
    assert rounds.run == 0


async def test_jittered_pauses_differ_by_a_tenth(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[float, float]] = []

    def uniform(least: float, most: float) -> float:
        asked.append((least, most))
        return 0.0

    monkeypatch.setattr("shared.background.random.uniform", uniform)
    for jittered in (True, False):
        rounds = Rounds()
        loop = BackgroundLoop("work", rounds, 3_600.0, jittered=jittered)
        loop.start()
        await rounds.until(1)
        await loop.close()
    assert (asked[0], asked[-1]) == ((1 - JITTER, 1 + JITTER), (1.0, 1.0))


async def test_a_cancellation_in_the_same_turn_as_the_event_is_not_lost() -> None:
    event = asyncio.Event()
    waiting = asyncio.create_task(is_set_within(event, 3_600.0))
    await asyncio.sleep(0)
    event.set()
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting


async def test_waiting_for_an_event_says_whether_it_came() -> None:
    event = asyncio.Event()
    assert not await is_set_within(event, 0.0)
    event.set()
    assert await is_set_within(event, 0.0)
