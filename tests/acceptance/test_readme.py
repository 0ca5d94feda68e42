"""The grpcurl lines of the documents, pasted as they are, print what the documents say."""

import os
import re
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from shared.db.embedded import EmbeddedServer
from tests.acceptance.processes import service_process

ROOT = Path(__file__).parents[2]
README, WALKTHROUGH = "README.md", "docs/walkthrough.md"
BLOCK = re.compile(r"```(\w+)\n(.*?)```", re.DOTALL)
LINK = re.compile(r"\]\((?!https?:)([^)#]+)")
END_OF_OUTPUT = "--- end of output"
LEFT_OUT = "..."
README_LINES_MAX = 150
DOCUMENTS = [
    README,
    "CONTRIBUTING.md",
    "CHANGELOG.md",
    *(f"docs/{each.name}" for each in sorted(ROOT.glob("docs/*.md"))),
]


def steps(document: str, section: str = "") -> Iterator[tuple[str, str | None]]:
    """Each block of commands with the output that the document, or a section of it, shows below it."""
    _, _, text = f"\n{(ROOT / document).read_text()}".partition(f"\n## {section}" if section else "\n")
    blocks = BLOCK.findall(text.partition("\n## ")[0] if section else text)
    for (kind, commands), (next_kind, output) in zip(blocks, [*blocks[1:], ("", "")], strict=True):
        if kind == "bash":
            yield commands, output if next_kind == "json" else None


def steady(output: str) -> str:
    """JSON messages without white space, and with what differs from run to run made equal: times, ages and, with the
    part of an hour that has passed, the bounds of a ratio."""
    output = re.sub(r'"\d{4}-\d\d-\d\dT[\d:.]+Z"', '"<time>"', output)
    output = re.sub(r'"-?\d+(\.\d+)?s"', '"<age>"', output)
    output = re.sub(r'("efficiency_ratio_at_(?:least|most)": )[\d.]+', r'\1"<bound>"', output)
    return re.sub(r'("(?:\\.|[^"\\])*")|\s+', lambda match: match[1] or "", output)


def shows(shown: str, printed: str) -> bool:
    """Whether an output is what is shown, in which a line of `...` stands for anything."""
    parts = re.split(rf"^{re.escape(LEFT_OUT)}\n", shown, flags=re.MULTILINE)
    pattern = ".*".join(re.escape(steady(part)) for part in parts)
    return re.fullmatch(pattern, steady(printed), re.DOTALL) is not None


def free_address() -> str:
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{bound.getsockname()[1]}"


@pytest.mark.parametrize("document", [pytest.param(README, marks=pytest.mark.one_server), WALKTHROUGH])
async def test_a_documents_grpcurl_lines_print_what_it_shows(
    postgres: EmbeddedServer, database: str, tmp_path: Path, document: str
) -> None:
    async with (
        service_process(
            "ingestion_svc", tmp_path, ENERGYFLEET_DATABASE_URL=postgres.url(database, role="energyfleet_ingestion")
        ) as ingestion,
        service_process(
            "analytics_svc", tmp_path, ENERGYFLEET_DATABASE_URL=postgres.url(database, role="energyfleet_analytics")
        ) as analytics,
    ):
        script = f"\necho '{END_OF_OUTPUT}'\n".join(["set -e", *(commands for commands, _ in steps(document)), ""])
        script = script.replace("127.0.0.1:50051", ingestion.address).replace("127.0.0.1:50052", analytics.address)
        script = script.replace('export PATH="$PWD/.venv/bin:$PATH"', "")
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        ran = subprocess.run(
            ["bash", "-c", script], capture_output=True, text=True, check=False, env=os.environ | {"PATH": path}
        )
    assert ran.returncode == 0, ran.stderr
    printed = ran.stdout.split(f"{END_OF_OUTPUT}\n")[1:]
    shown = [output for _, output in steps(document)]

    assert any(output is not None for output in shown)
    for output, promised in zip(printed, shown, strict=False):
        assert promised is None or shows(promised, output), (
            f"{document} shows\n{promised}and this was printed\n{output}"
        )


@pytest.mark.one_server
def test_the_way_into_production_leads_to_a_refused_reading(
    postgres: EmbeddedServer, database: str, tmp_path: Path
) -> None:
    commands = [commands for commands, _ in steps("docs/operations.md", "In production, step by step")]
    script = f"\necho '{END_OF_OUTPUT}'\n".join(["set -e", *commands, ""])
    for port, name in ((50051, "ingestion"), (50052, "analytics")):
        address = free_address()
        script = script.replace(f"127.0.0.1:{port}", address)
        script = script.replace("energyfleet up", f"energyfleet up --{name} {address}")
        script = script.replace(
            "energyfleet performance", f"ENERGYFLEET_{name.upper()}_ADDRESS={address} energyfleet performance"
        )
    script = script.replace('export PATH="$PWD/.venv/bin:$PATH" ', "export ")
    (tmp_path / "protos").symlink_to(ROOT / "protos")
    environment = {
        **os.environ,
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "ENERGYFLEET_DATABASE_URL": postgres.url(database),
    }
    ran = subprocess.run(
        ["bash", "-c", script], capture_output=True, text=True, check=False, env=environment, cwd=tmp_path, timeout=100
    )
    assert ran.returncode == 0, ran.stderr
    _, certificates, _, sent, asked, refused, _ = ran.stdout.split(f"{END_OF_OUTPUT}\n")
    assert "for meter meter-1, vehicle car-1: may send readings" in certificates
    assert shows('...\n{ "summary": { "received": "3", "stored": "3" } }\n', sent)
    assert "OK" in asked
    assert "refused: " in refused
    assert "urn:energyfleet:meter:meter-1 may not send readings of urn:energyfleet:vehicle:car-2" in ran.stderr
    assert "is revoked" in refused


@pytest.mark.parametrize("service", ["ingestion", "analytics"])
def test_the_walkthrough_has_a_line_for_every_rpc(service: str) -> None:
    proto = (ROOT / f"protos/energyfleet/v1/{service}_service.proto").read_text()
    commands = "".join(each for each, _ in steps(WALKTHROUGH))

    for rpc in re.findall(r"^  rpc (\w+)", proto, re.MULTILINE):
        assert f"energyfleet.v1.{service.capitalize()}Service/{rpc}" in commands


def test_the_readme_is_short() -> None:
    assert len((ROOT / README).read_text().splitlines()) <= README_LINES_MAX


@pytest.mark.parametrize("document", DOCUMENTS)
def test_every_link_to_a_file_leads_somewhere(document: str) -> None:
    for target in LINK.findall((ROOT / document).read_text()):
        assert ((ROOT / document).parent / target).exists(), target


def test_a_shortened_output_leaves_out_whole_parts_only() -> None:
    printed = '{\n  "a": "x y",\n  "b": "2026-11-24T11:34:29Z",\n  "c": 3\n}\n'

    assert shows('{ "a": "x y",\n...\n  "c": 3 }\n', printed)
    assert shows('...\n  "b": "2027-01-01T00:00:00Z",\n...\n', printed)
    assert not shows('{ "a": "xy",\n...\n', printed)
    assert not shows('{ "a": "x y",\n  "c": 3 }\n', printed)
