"""Takes what a stream sends, beside whatever else its rpc does, and leaves nothing behind when the rpc ends."""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from typing import Any, Generic, TypeVar

from shared.background import retrieve

Sent = TypeVar("Sent")


class Taker(Generic[Sent]):
    """Hands one message of a stream after the other to `take`, in a task of its own."""

    def __init__(self, messages: AsyncGenerator[Sent, Any], take: Callable[[Sent], Awaitable[None]]) -> None:
        self._messages = messages
        self._take = take
        self._reading = False
        self._stopped = False

    def start(self) -> "asyncio.Task[None]":
        """The task, which ends with the stream, with what `take` raises, or when it is stopped."""
        self._task = asyncio.create_task(self._run())
        return self._task

    async def stop(self) -> None:
        """Nothing more is taken when this returns.

        A read that is under way is left alone, since each cancelled read leaks (grpc #43360): it ends with the call,
        and what it still brings is dropped.
        """
        self._stopped = True
        if self._reading:
            self._task.add_done_callback(retrieve)
            del self._task  # where the read is cancelled after all, its traceback leads to us and to gRPC's call
            return
        self._task.cancel()
        await asyncio.wait((self._task,))
        retrieve(self._task)

    async def _run(self) -> None:
        try:
            while True:
                self._reading = True
                try:
                    message = await anext(self._messages)
                except StopAsyncIteration:
                    return
                finally:
                    self._reading = False
                if self._stopped:
                    return
                await self._take(message)
        finally:
            await self._messages.aclose()
