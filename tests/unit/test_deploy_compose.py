"""compose.yaml as Docker reads it."""

from pathlib import Path
from typing import Any

import pytest

from shared.config import IngestionSettings
from shared.db.roles import LOGINS
from shared.files import FILES_RESERVED
from tests.unit.test_deploy_files import FOR_SERVICES

yaml: Any = pytest.importorskip("yaml", reason="PyYAML is not among the locked packages")

ROOT = Path(__file__).parents[2]
OURS = ("migrate", "maintenance", "ingestion", "analytics")
SERVING = {"ingestion": 50051, "analytics": 50052}


@pytest.fixture(scope="module")
def compose() -> dict[str, Any]:
    parsed: dict[str, Any] = yaml.safe_load((ROOT / "compose.yaml").read_text())
    return parsed


def secret_names(service: dict[str, Any]) -> list[str]:
    return [each if isinstance(each, str) else each["source"] for each in service["secrets"]]


def test_every_secret_is_declared_and_used(compose: dict[str, Any]) -> None:
    used = {name for service in compose["services"].values() for name in secret_names(service)}
    assert used == compose["secrets"].keys()


def test_a_container_gets_no_password_but_its_own_and_the_migration_all(compose: dict[str, Any]) -> None:
    services = compose["services"]
    passwords = {
        name: [secret for secret in secret_names(services[name]) if secret.endswith("_password")] for name in OURS
    }
    assert passwords == {
        "migrate": ["postgres_password", *(login.password_file for login in LOGINS)],
        "maintenance": ["maintenance_password"],
        "ingestion": ["ingestion_password"],
        "analytics": ["analytics_password"],
    }


def paths_below(directory: str, service: dict[str, Any]) -> set[str]:
    words = [*service.get("environment", {}).values(), *service.get("healthcheck", {}).get("test", [])]
    return {word.removeprefix(directory) for word in words if word.startswith(directory)}


def test_mounted_paths_are_those_of_mounted_secrets(compose: dict[str, Any]) -> None:
    for name, service in compose["services"].items():
        assert paths_below("/run/secrets/", service) <= set(secret_names(service)), name


@pytest.mark.parametrize("name", SERVING)
def test_a_service_asks_for_certificates_and_sees_when_files_are_replaced(compose: dict[str, Any], name: str) -> None:
    service = compose["services"][name]
    assert paths_below("/run/tls/", service) == FOR_SERVICES
    assert service["environment"]["ENERGYFLEET_TLS_CLIENT_CA_FILE"] == "/run/tls/ca.crt"
    assert "ENERGYFLEET_ALLOW_ANONYMOUS" not in service["environment"]
    [mounted] = service["volumes"]
    assert (mounted["source"], mounted["target"], mounted["read_only"]) == ("./deploy/secrets/tls", "/run/tls", True)
    assert mounted["bind"] == {"create_host_path": False}


@pytest.mark.parametrize("name", OURS)
def test_our_containers_can_write_nothing_but_memory_and_gain_no_rights(compose: dict[str, Any], name: str) -> None:
    service = compose["services"][name]
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert all(each["read_only"] for each in service.get("volumes", []))
    assert service["image"] == compose["services"]["migrate"]["image"]


@pytest.mark.parametrize("name", SERVING)
def test_a_service_starts_after_the_migration_and_is_asked_for_its_health(compose: dict[str, Any], name: str) -> None:
    service, port = compose["services"][name], SERVING[name]
    assert service["depends_on"] == {"migrate": {"condition": "service_completed_successfully"}}
    assert service["environment"][f"ENERGYFLEET_{name.upper()}_ADDRESS"] == f"0.0.0.0:{port}"
    assert service["healthcheck"]["test"][:4] == ["CMD", "energyfleet", "health", f"127.0.0.1:{port}"]
    assert service["ports"] == [f"${{ENERGYFLEET_PUBLISH:-127.0.0.1}}:{port}:{port}"]


def test_the_database_is_reached_by_our_containers_only(compose: dict[str, Any]) -> None:
    assert "ports" not in compose["services"]["postgres"]
    assert compose["services"]["postgres"]["networks"] == ["database"]
    assert compose["networks"]["database"] == {"internal": True}


def test_services_may_have_more_files_open_than_the_streams_that_they_take(compose: dict[str, Any]) -> None:
    for name in SERVING:
        assert compose["services"][name]["ulimits"]["nofile"] > IngestionSettings().streams_max + FILES_RESERVED
