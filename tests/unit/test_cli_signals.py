"""Work that ends, fails, or is asked to stop."""

import asyncio
import os
import signal

import pytest

from fleetcli.commands.signals import run_until_asked_to_stop


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
async def test_a_signal_cancels_the_work_and_waits_until_it_has_cleaned_up(number: signal.Signals) -> None:
    cleaned_up = False

    async def work() -> None:
        nonlocal cleaned_up
        try:
            os.kill(os.getpid(), number)
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0)
            cleaned_up = True

    before = signal.getsignal(number)
    assert await run_until_asked_to_stop(work())
    assert cleaned_up
    assert signal.getsignal(number) == before


async def test_a_signal_during_a_step_that_blocks_silences_what_the_step_complains_of() -> None:
    async def work() -> None:
        os.kill(os.getpid(), signal.SIGINT)
        raise RuntimeError("initdb was interrupted")

    assert await run_until_asked_to_stop(work())


async def test_a_second_signal_cancels_the_clean_up() -> None:
    cut_short = False

    async def work() -> None:
        nonlocal cut_short
        try:
            os.kill(os.getpid(), signal.SIGTERM)
            await asyncio.Event().wait()
        finally:
            try:
                os.kill(os.getpid(), signal.SIGTERM)
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                cut_short = True

    assert await run_until_asked_to_stop(work())
    assert cut_short


async def test_without_a_signal_the_work_ends_as_it_does() -> None:
    async def work() -> None:
        raise RuntimeError("it failed")

    assert not await run_until_asked_to_stop(asyncio.sleep(0))
    with pytest.raises(RuntimeError, match="it failed"):
        await run_until_asked_to_stop(work())
