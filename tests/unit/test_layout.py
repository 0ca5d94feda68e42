"""The layout: who may import gRPC, who may touch messages, where SQL lives, and what imports what."""

import ast
import re
from collections import Counter
from collections.abc import Iterable
from functools import cache
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
DOORS = {
    "ingestion_svc": {
        "servicer",
        "decode",
        "mapping_requests",
        "correction_requests",
        "ownership",
        "replies",
        "__main__",
    },
    "analytics_svc": {"servicer", "parse", "answers", "meter_answers", "device_answers", "session_answers", "__main__"},
}
"""The modules of each service that touch messages."""
SERVING = {"shared.serve", "shared.interceptor", "shared.status", "shared.tls"}
CHAIN_MAX = {"ingestion_svc": 8, "analytics_svc": 11}
"""Modules in the longest chain of imports within a service. To understand the first one may take all the others: lower
this number where a change makes the chain shorter."""
IN_EACH_SERVICE = {"__init__.py", "__main__.py", "servicer.py"}
SQL = re.compile(
    r"\b(SELECT\b.+\bFROM|INSERT INTO|UPDATE\b.+\bSET|DELETE FROM|CREATE TABLE|SELECT pg_\w+)\b", re.DOTALL
)


def files(package: str) -> list[Path]:
    return sorted(path.relative_to(ROOT) for path in (ROOT / package).rglob("*.py") if "gen" not in path.parts)


def name_of(file: Path) -> str:
    return ".".join(file.with_suffix("").parts).removesuffix(".__init__")


MODULES = {name_of(file): file for package in (*DOORS, "shared", "fleetcli") for file in files(package)}


def within(name: str, *packages: str) -> bool:
    return any(f"{name}.".startswith(f"{package}.") for package in packages)


@cache
def imports(module: str) -> set[str]:
    """Names of modules, and of what is imported out of them."""
    names: set[str] = set()
    for node in ast.walk(ast.parse((ROOT / MODULES[module]).read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "every import says where from"
            names |= {str(node.module), *(f"{node.module}.{alias.name}" for alias in node.names)}
    return names


@cache
def needed(module: str) -> set[str]:
    """The modules of ours that a module imports. Migrations belong to the module that runs them, by their folder."""
    run = [name for name in MODULES if within(name, "shared.db.migrations")] if module == "shared.db.migrate" else []
    return (imports(module) & MODULES.keys()).union(run)


def reached(modules: Iterable[str]) -> set[str]:
    """These modules and those of ours that they import, directly or not."""
    found, left = set(), [*modules]
    while left:
        module = left.pop()
        if module not in found:
            found.add(module)
            left += needed(module)
    return found


def modules_of(service: str) -> set[str]:
    return {name for name in MODULES if within(name, service)}


def longest_chain(service: str) -> list[str]:
    """The longest one from `__main__` on."""
    graph = {name: needed(name) & modules_of(service) for name in modules_of(service)}
    chains: dict[str, list[str]] = {}
    for name in TopologicalSorter(graph).static_order():
        chains[name] = [name, *max((chains[other] for other in graph[name]), key=len, default=[])]
    return chains[f"{service}.__main__"]


def importing(*packages: str) -> set[str]:
    """The modules of the services and of shared that import one of these packages themselves."""
    return {
        module
        for module in MODULES
        if not within(module, "fleetcli") and any(within(name, *packages) for name in imports(module))
    }


def test_grpc_is_imported_by_serving_code_only() -> None:
    assert importing("grpc", "grpc_health") == SERVING


def test_messages_are_touched_at_the_doors_only() -> None:
    assert importing("energyfleet") == {f"{service}.{door}" for service, doors in DOORS.items() for door in doors}


@pytest.mark.parametrize("service", DOORS)
def test_what_is_behind_the_doors_reaches_neither_a_door_nor_a_message(service: str) -> None:
    doors = {f"{service}.{door}" for door in DOORS[service]}
    behind = reached(modules_of(service) - doors)
    assert behind & (doors | importing("energyfleet")) == set()


def test_sql_lives_in_the_services_sql_files_and_in_shared_db() -> None:
    with_sql = {
        module
        for module, file in MODULES.items()
        for node in ast.walk(ast.parse((ROOT / file).read_text()))
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and SQL.search(node.value)
    }
    elsewhere = {module for module in with_sql if not (module.endswith("_sql") or within(module, "shared.db"))}
    assert elsewhere == set()


@pytest.mark.parametrize("service", DOORS)
def test_a_service_does_not_import_the_other(service: str) -> None:
    others = DOORS.keys() - {service}
    assert modules_of(service) & importing(*others) == set()


@pytest.mark.parametrize("package", [*DOORS, "fleetcli"])
def test_each_entry_point_silences_grpc_before_it_is_imported(package: str) -> None:
    assert imports(package) == {"shared"}
    assert imports("shared") == {"os"}


def test_no_modules_import_each_other() -> None:
    TopologicalSorter({module: needed(module) for module in MODULES}).prepare()


@pytest.mark.parametrize("service", DOORS)
def test_chains_of_imports_within_a_service_are_short(service: str) -> None:
    chain = longest_chain(service)
    names = " -> ".join(name.removeprefix(f"{service}.") for name in chain)
    print(f"{service}: {len(chain)} modules: {names}")  # noqa: T201  # the figure itself
    assert len(chain) <= CHAIN_MAX[service]


def test_nothing_is_shared_that_only_one_service_needs() -> None:
    users = {user: reached(name for name in MODULES if within(name, user)) for user in (*DOORS, "fleetcli")}
    needed_by = {
        module: {user for user, modules in users.items() if module in modules}
        for module, file in MODULES.items()
        if within(module, "shared") and file.name != "__init__.py"
    }
    of_one = {module: users for module, users in needed_by.items() if users < DOORS.keys()}
    assert of_one == {}


def test_a_file_name_exists_once_in_the_services_and_in_shared() -> None:
    names = Counter(
        file.name
        for module, file in MODULES.items()
        if not within(module, "fleetcli", "shared.db.migrations") and file.name not in IN_EACH_SERVICE
    )
    assert [name for name, times in names.items() if times > 1] == []
