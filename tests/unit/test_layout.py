"""The rooms of DESIGN 3: who may import gRPC, who may touch messages, and where SQL lives."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SERVICES = ("ingestion_svc", "analytics_svc")
SERVING = {"shared/serve.py", "shared/interceptor.py", "shared/status.py"}
DOORS = {"servicer.py", "decode.py", "mapping_requests.py", "parse.py", "answers.py", "replies.py", "__main__.py"}
SQL = re.compile(r"\b(SELECT\b.+\bFROM|INSERT INTO|UPDATE\b.+\bSET|DELETE FROM|CREATE TABLE|SELECT pg_)\b", re.DOTALL)


def modules() -> list[Path]:
    return [
        path.relative_to(ROOT)
        for package in (*SERVICES, "shared")
        for path in (ROOT / package).rglob("*.py")
        if "gen" not in path.parts
    ]


def imports(module: Path) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(ast.parse((ROOT / module).read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


@pytest.mark.parametrize("module", modules(), ids=str)
def test_grpc_is_imported_by_servicers_and_serving_code_only(module: Path) -> None:
    if module.name != "servicer.py" and str(module) not in SERVING:
        assert not {name for name in imports(module) if name.split(".")[0] in {"grpc", "grpc_health"}}


@pytest.mark.parametrize("module", modules(), ids=str)
def test_messages_are_touched_at_the_doors_only(module: Path) -> None:
    if not (module.parts[0] in SERVICES and module.name in DOORS):
        assert not {name for name in imports(module) if name.startswith("energyfleet")}


@pytest.mark.parametrize("module", modules(), ids=str)
def test_sql_lives_in_the_services_sql_files_and_in_shared_db(module: Path) -> None:
    if not module.name.endswith("_sql.py") and module.parts[:2] != ("shared", "db"):
        texts = [
            node.value
            for node in ast.walk(ast.parse((ROOT / module).read_text()))
            if isinstance(node, ast.Constant) and isinstance(node.value, str)
        ]
        assert not [text for text in texts if SQL.search(text)]


@pytest.mark.parametrize("service", SERVICES)
def test_a_service_does_not_import_the_other(service: str) -> None:
    others = set(SERVICES) - {service}
    for module in (ROOT / service).rglob("*.py"):
        assert not {name for name in imports(module.relative_to(ROOT)) if name.split(".")[0] in others}
