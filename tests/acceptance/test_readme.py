"""The README's grpcurl lines, pasted as they are, print what the README says."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from shared.db.embedded import EmbeddedServer
from tests.acceptance.processes import service_process

ROOT = Path(__file__).parents[2]
BLOCK = re.compile(r"```(\w+)\n(.*?)```", re.DOTALL)
END_OF_OUTPUT = "--- end of output"


def steps() -> Iterator[tuple[str, str | None]]:
    """Each block of commands with the output that the README shows below it."""
    blocks = BLOCK.findall((ROOT / "README.md").read_text())
    for (kind, commands), (next_kind, output) in zip(blocks, [*blocks[1:], ("", "")], strict=True):
        if kind == "bash":
            yield commands, output if next_kind == "json" else None


def steady(output: str) -> Any:
    """JSON messages with times and ages, which differ from run to run, made equal."""
    output = re.sub(r'"\d{4}-\d\d-\d\dT[\d:.]+Z"', '"<time>"', output)
    output = re.sub(r'"-?\d+(\.\d+)?s"', '"<age>"', output)
    return json.loads("[" + re.sub(r"}\s*{", "},{", output) + "]")


async def test_the_readmes_grpcurl_lines_print_what_it_says(
    postgres: EmbeddedServer, database: str, tmp_path: Path
) -> None:
    async with (
        service_process(
            "ingestion_svc",
            tmp_path,
            ENERGYFLEET_DATABASE_URL=postgres.url(database, role="energyfleet_ingestion"),
        ) as ingestion,
        service_process(
            "analytics_svc",
            tmp_path,
            ENERGYFLEET_DATABASE_URL=postgres.url(database, role="energyfleet_analytics"),
        ) as analytics,
    ):
        script = f"\necho '{END_OF_OUTPUT}'\n".join(["set -e", *(commands for commands, _ in steps()), ""])
        script = script.replace("127.0.0.1:50051", ingestion.address).replace("127.0.0.1:50052", analytics.address)
        script = script.replace('export PATH="$PWD/.venv/bin:$PATH"', "")
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        ran = subprocess.run(
            ["bash", "-c", script], capture_output=True, text=True, check=False, env=os.environ | {"PATH": path}
        )
    assert ran.returncode == 0, ran.stderr
    printed = ran.stdout.split(f"{END_OF_OUTPUT}\n")[1:]
    shown = [output for _, output in steps()]

    assert [steady(output) for output, promised in zip(printed, shown, strict=False) if promised is not None] == [
        steady(promised) for promised in shown if promised is not None
    ]


@pytest.mark.parametrize("service", ["ingestion", "analytics"])
def test_the_readme_has_a_line_for_every_rpc(service: str) -> None:
    proto = (ROOT / f"protos/energyfleet/v1/{service}_service.proto").read_text()
    commands = "".join(each for each, _ in steps())

    for rpc in re.findall(r"^  rpc (\w+)", proto, re.MULTILINE):
        assert f"energyfleet.v1.{service.capitalize()}Service/{rpc}" in commands
