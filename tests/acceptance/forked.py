"""Commands as processes that are forked from one which has imported what they stand on.

Two thirds of what a command takes are those imports. What is ours is imported in each process: it looks at the
environment and at the terminal then.
"""

import multiprocessing
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory

TIMEOUT_S = 100

_fork = multiprocessing.get_context("forkserver")
_fork.set_forkserver_preload(
    [
        "asyncio", "energyfleet.v1.analytics_service_pb2_grpc", "energyfleet.v1.ingestion_service_pb2_grpc",
        "google.protobuf.json_format", "grpc.aio", "grpc_status.rpc_status",
        "pydantic_settings.sources.providers.dotenv", "rich.console", "rich.table", "typer.core", "uvloop", "zoneinfo",
    ]
)  # fmt: skip


def energyfleet(*arguments: str, environment: Mapping[str, str], stdin: str = "") -> subprocess.CompletedProcess[str]:
    """Runs a command to its end."""
    with TemporaryDirectory() as directory:
        of_input, *of_output = files = [Path(directory, name) for name in ("stdin", "stdout", "stderr")]
        of_input.write_text(stdin)
        process = _fork.Process(target=_run, args=(arguments, dict(environment), [str(each) for each in files]))
        process.start()
        process.join(TIMEOUT_S)
        if process.exitcode is None:
            process.kill()
            raise subprocess.TimeoutExpired(arguments, TIMEOUT_S)
        out, err = (each.read_text() for each in of_output)
    return subprocess.CompletedProcess(arguments, process.exitcode, out, err)


def _run(arguments: tuple[str, ...], environment: dict[str, str], files: list[str]) -> None:
    os.environ.clear()
    os.environ.update(environment)
    tempfile.tempdir = None  # it is looked up anew
    for number, file in enumerate(files):
        os.dup2(os.open(file, os.O_WRONLY | os.O_CREAT if number else os.O_RDONLY), number)
    sys.stdin, sys.stdout, sys.stderr = os.fdopen(0), os.fdopen(1, "w"), os.fdopen(2, "w")
    from fleetcli.__main__ import main

    main(arguments)
