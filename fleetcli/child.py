"""One service as a child process."""

import asyncio
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import IO

from fleetcli.errors import StackError

READY_TIMEOUT_S = 60.0
"""A service needs a second; a cold disk and a busy machine ten."""

STOP_TIMEOUT_S = 30.0
"""Longer than the grace period that a service gives its calls and its last batches."""

_POLL_S = 0.02


def _words_before() -> tuple[str, ...]:
    """What makes a child end with us even when we are killed, where the system knows how."""
    if sys.platform == "linux" and shutil.which("setpriv"):
        return ("setpriv", "--pdeathsig", "TERM", "--")
    return ()


class Child:
    """A running `python -m MODULE` in a session of its own, which a terminal's Ctrl-C does not reach."""

    def __init__(self, module: str, process: asyncio.subprocess.Process, ready_file: Path) -> None:
        self.module = module
        self._process = process
        self._ready_file = ready_file

    @classmethod
    async def start(
        cls, module: str, environment: Mapping[str, str], directory: Path, log: IO[bytes] | None
    ) -> "Child":
        """Starts it with an environment; its output goes to `log`, or to our standard error."""
        ready_file = directory / f"{module}.ready"
        process = await asyncio.create_subprocess_exec(
            *_words_before(),
            sys.executable,
            "-P",  # what lies in the current directory must not pass for one of our modules
            "-m",
            module,
            stdin=subprocess.DEVNULL,
            stdout=log or sys.stderr.fileno(),
            stderr=log or sys.stderr.fileno(),
            env={**environment, "ENERGYFLEET_READY_FILE": str(ready_file)},
            start_new_session=True,
        )
        return cls(module, process, ready_file)

    async def ready(self) -> str:
        """Waits until it serves; its HOST:PORT. StackError where it ends before or takes too long."""
        try:
            async with asyncio.timeout(READY_TIMEOUT_S):
                while not self._ready_file.exists():
                    if self._process.returncode is not None:
                        raise StackError(f"{self.module} ended before it was ready ({self._how()})")
                    await asyncio.sleep(_POLL_S)
        except TimeoutError:
            raise StackError(f"{self.module} was not ready within {READY_TIMEOUT_S:g} s") from None
        return self._ready_file.read_text().strip()

    async def ended(self) -> str:
        """Waits until it ends; a sentence that says how."""
        await self._process.wait()
        return f"{self.module} ended by itself ({self._how()})"

    async def stop(self) -> str:
        """Asks it to end, kills it when that takes too long or is cancelled; a complaint, or nothing."""
        if self._process.returncode is not None:
            return ""
        self._process.terminate()
        try:
            async with asyncio.timeout(STOP_TIMEOUT_S):
                await self._process.wait()
        except (TimeoutError, asyncio.CancelledError):
            self._process.kill()
            await self._process.wait()
            return f"{self.module} had to be killed"
        return "" if self._process.returncode == 0 else f"{self.module} did not stop well ({self._how()})"

    def _how(self) -> str:
        code = self._process.returncode
        assert code is not None
        return f"signal {-code}" if code < 0 else f"exit code {code}"
