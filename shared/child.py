"""A process of ours as a child of another: `energyfleet up` and its services, a supervisor and its workers."""

import asyncio
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO

from shared.errors import StartRefused

READY_TIMEOUT_S = 60.0
"""A service needs a second; a cold disk and a busy machine ten."""

STOP_TIMEOUT_S = 30.0
"""Longer than the grace period that a service gives its calls and its last batches, unless that was configured."""

_POLL_S = 0.02


def command_prefix() -> tuple[str, ...]:
    """The words before a command that make it end when we do, even when we are killed, on Linux."""
    if sys.platform == "linux" and shutil.which("setpriv"):
        return ("setpriv", "--pdeathsig", "TERM", "--")
    return ()


class ChildFailed(StartRefused):
    """A child ended or stalled before it was ready. The last line of its standard error says why.

    `exit_code` is negative for a signal, and None for a child that still runs.
    """

    def __init__(self, message: str, exit_code: int | None) -> None:
        super().__init__(message)
        self.exit_code = exit_code


class Child:
    """A running `python -m MODULE` in a session of its own, which a terminal's Ctrl-C does not reach.

    It is asked to end (SIGTERM) when the process that started it dies, however that dies.
    """

    def __init__(self, name: str, process: asyncio.subprocess.Process, ready_file: Path) -> None:
        self.name = name
        self._process = process
        self._ready_file = ready_file

    @classmethod
    async def start(
        cls,
        module: str,
        environment: Mapping[str, str],
        directory: Path,
        log: IO[bytes] | None = None,
        *,
        arguments: Sequence[str] = (),
        name: str | None = None,
    ) -> "Child":
        """Starts it with an environment; its output goes to `log`, or to our standard error.

        `name` distinguishes children of one module; each writes a file in `directory` when it is ready.
        """
        name = name or module
        ready_file = directory / f"{name}.ready"
        ready_file.unlink(missing_ok=True)
        process = await asyncio.create_subprocess_exec(
            *command_prefix(),
            sys.executable,
            "-P",  # what lies in the current directory must not pass for one of our modules
            "-m",
            module,
            *arguments,
            stdin=subprocess.DEVNULL,
            stdout=log or sys.stderr.fileno(),
            stderr=log or sys.stderr.fileno(),
            env={**environment, "ENERGYFLEET_READY_FILE": str(ready_file)},
            start_new_session=True,
        )
        return cls(name, process, ready_file)

    @property
    def pid(self) -> int:
        return self._process.pid

    async def ready(self) -> str:
        """Waits until it serves; its HOST:PORT. ChildFailed where it ends before or takes too long."""
        try:
            async with asyncio.timeout(READY_TIMEOUT_S):
                while not self._ready_file.exists():
                    if self._process.returncode is not None:
                        code = self._process.returncode
                        raise ChildFailed(f"{self.name} ended before it was ready ({self._how()})", code)
                    await asyncio.sleep(_POLL_S)
        except TimeoutError:
            raise ChildFailed(f"{self.name} was not ready within {READY_TIMEOUT_S:g} s", None) from None
        return self._ready_file.read_text().strip()

    async def ended(self) -> str:
        """Waits until it ends; a sentence that says how."""
        await self._process.wait()
        return f"{self.name} ended by itself ({self._how()})"

    async def stop(self, timeout_s: float = STOP_TIMEOUT_S) -> str:
        """Asks it to end, kills it when that takes too long or is cancelled; returns a complaint, or nothing."""
        if self._process.returncode is not None:
            return ""
        self._process.terminate()
        try:
            async with asyncio.timeout(timeout_s):
                await self._process.wait()
        except (TimeoutError, asyncio.CancelledError):
            self._process.kill()
            await self._process.wait()
            return f"{self.name} had to be killed"
        return "" if self._process.returncode == 0 else f"{self.name} did not stop well ({self._how()})"

    def _how(self) -> str:
        code = self._process.returncode
        assert code is not None
        return f"signal {-code}" if code < 0 else f"exit code {code}"
