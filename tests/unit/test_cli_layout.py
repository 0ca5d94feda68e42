"""The rooms of `fleetcli`: the client stands alone, and none of the others knows a command, which know all of them."""

import ast
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
ROOMS = {"client", "simulation", "authority", "commands"}
CLIENT_NEEDS = {
    "grpc", "grpc_health", "google", "cryptography", "energyfleet", "fleetcli.client",
    "shared.certificates", "shared.deny_list", "shared.identity", "shared.status", "shared.timestamps",
}  # fmt: skip
"""Besides Python's own modules: what somebody who copies the client has to have."""


def modules(folder: str) -> list[Path]:
    return sorted(path for path in (ROOT / folder).rglob("*.py") if "gen" not in path.parts)


def imports(module: Path) -> Iterator[str]:
    """Names of modules, and of what is taken out of them."""
    for node in ast.walk(ast.parse(module.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "every import says where from"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def within(name: str, packages: set[str]) -> bool:
    parts = name.split(".")
    return any(".".join(parts[:depth]) in packages for depth in range(1, len(parts) + 1))


@pytest.mark.parametrize("module", modules("fleetcli/client"), ids=lambda path: path.stem)
def test_the_client_stands_alone(module: Path) -> None:
    assert [name for name in imports(module) if not within(name, CLIENT_NEEDS | sys.stdlib_module_names)] == []


@pytest.mark.parametrize(
    "module", modules("fleetcli/simulation") + modules("fleetcli/authority"), ids=lambda path: path.stem
)
def test_simulation_and_authority_know_no_command_and_no_terminal(module: Path) -> None:
    assert [name for name in imports(module) if within(name, {"fleetcli.commands", "typer", "rich"})] == []


@pytest.mark.parametrize("package", ["shared", "ingestion_svc", "analytics_svc"])
def test_what_runs_in_a_service_imports_nothing_of_the_command(package: str) -> None:
    assert [name for module in modules(package) for name in imports(module) if within(name, {"fleetcli"})] == []


def test_every_module_has_a_room_and_a_name_of_its_own() -> None:
    found = [path.relative_to(ROOT / "fleetcli") for path in modules("fleetcli")]
    assert {path.parts[0] for path in found} == ROOMS | {"__init__.py", "__main__.py"}
    assert [name for name, times in Counter(path.stem for path in found).items() if times > 1] == ["__init__"]
