"""What is installed into the image is what the suite was run with, and nothing else."""

import re
import tomllib
from importlib.metadata import requires
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[2]
LOCKS = ("requirements.lock", "requirements-runtime.lock")

_PIN = re.compile(r"^([a-z0-9][a-z0-9.-]*)==([^\s;]+)", re.MULTILINE)
_ENTRY = re.compile(r"^(?=[a-z0-9])", re.MULTILINE)


def pins(lock: str) -> dict[str, tuple[str, frozenset[str]]]:
    """Version and hashes of each package of a lock."""
    found = {}
    for entry in _ENTRY.split((ROOT / lock).read_text()):
        if pin := _PIN.match(entry):
            found[pin[1]] = pin[2], frozenset(re.findall(r"sha256:[0-9a-f]{64}", entry))
    return found


def test_the_runtime_lock_has_the_versions_and_hashes_of_the_whole_lock() -> None:
    whole = pins("requirements.lock")
    assert {name: whole.get(name) for name in pins("requirements-runtime.lock")} == pins("requirements-runtime.lock")


def test_the_runtime_lock_has_every_dependency_and_none_of_development() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    dependencies = {canonicalize_name(Requirement(each).name) for each in project["project"]["dependencies"]}
    assert dependencies <= pins("requirements-runtime.lock").keys()
    assert not pins("requirements-runtime.lock").keys() & {"mypy", "pytest", "ruff", "hypothesis", "grpcio-tools"}


@pytest.mark.parametrize("lock", LOCKS)
def test_every_pin_has_a_hash(lock: str) -> None:
    assert pins(lock)
    assert [name for name, (_, hashes) in pins(lock).items() if not hashes] == []


@pytest.mark.parametrize("lock", LOCKS)
def test_no_lock_names_a_host(lock: str) -> None:
    text = (ROOT / lock).read_text()
    assert "://" not in text
    assert "--index-url" not in text
    assert "--find-links" not in text


def test_the_image_is_built_with_the_locked_build_backend_and_all_that_it_needs() -> None:
    dockerfile = (ROOT / "deploy" / "Dockerfile").read_text()
    listed = re.search(r"wanted = /\^\(([a-z|-]+)\)==/", dockerfile)
    assert listed is not None
    assert set(listed[1].split("|")) == _with_requirements("hatchling")
    assert set(listed[1].split("|")) <= pins("requirements.lock").keys()


def _with_requirements(name: str) -> set[str]:
    needed: set[str] = {canonicalize_name(name)}
    for each in requires(name) or []:
        requirement = Requirement(each)
        if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
            needed |= _with_requirements(requirement.name)
    return needed
