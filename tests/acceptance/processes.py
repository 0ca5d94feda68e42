"""A service as a process of its own, to be killed."""

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path

from shared import child

START_TIMEOUT_S = 30


@dataclass
class ServiceProcess:
    """A running service process and where it listens."""

    process: subprocess.Popen[bytes]
    address: str

    async def ended(self, timeout_s: float = 20) -> int:
        """Waits for its end; returns the exit code, negative for the signal that killed it."""
        await until(lambda: self.process.poll() is not None, timeout_s)
        assert self.process.returncode is not None
        return self.process.returncode


@asynccontextmanager
async def service_process(
    module: str, tmp_path: Path, log: Path | None = None, /, **variables: str
) -> AsyncIterator[ServiceProcess]:
    """Starts `python -m module` on a free port, waits until it is ready, and kills it at the end if it still runs.

    It ends with us, too. What it writes on standard error goes into `log`, if there is one.
    """
    ready_file = tmp_path / f"ready-{len(list(tmp_path.iterdir()))}"
    variables = {
        "ENERGYFLEET_INGESTION_ADDRESS": "127.0.0.1:0",
        "ENERGYFLEET_ANALYTICS_ADDRESS": "127.0.0.1:0",
        "ENERGYFLEET_READY_FILE": str(ready_file),
        "ENERGYFLEET_LOG_LEVEL": "WARNING",
    } | variables
    with open(log, "wb") if log else nullcontext() as stderr:  # noqa: PTH123  # the latter is no file
        process = subprocess.Popen(
            [*child.command_prefix(), sys.executable, "-m", *module.split()], env=os.environ | variables, stderr=stderr
        )
    try:
        await until(lambda: ready_file.exists() or process.poll() is not None, START_TIMEOUT_S)
        assert process.poll() is None, "the service ended before it was ready"
        yield ServiceProcess(process, ready_file.read_text().strip())
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGKILL)
        process.wait()


async def refusal(module: str, *arguments: str, **environment: str) -> str:
    """What `python -m module` says on standard error when it refuses to start: with exit code 1 and no traceback."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("ENERGYFLEET_")}
    addresses = {"ENERGYFLEET_INGESTION_ADDRESS": "127.0.0.1:0", "ENERGYFLEET_ANALYTICS_ADDRESS": "127.0.0.1:0"}
    process = await asyncio.create_subprocess_exec(
        *child.command_prefix(), sys.executable, "-m", module, *arguments,
        env=inherited | addresses | {"ENERGYFLEET_LOG_LEVEL": "WARNING"} | environment,
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    try:
        out, err = await asyncio.wait_for(process.communicate(), START_TIMEOUT_S)
    finally:
        if process.returncode is None:
            process.kill()
    said = err.decode().strip()
    assert (process.returncode, out) == (1, b""), said
    assert "Traceback" not in said
    return said


async def until(condition: Callable[[], object], timeout_s: float = 20) -> None:
    """Waits for a condition outside this process; TimeoutError where it does not come true."""
    async with asyncio.timeout(timeout_s):
        while not condition():
            await asyncio.sleep(0.01)
