"""The lowest versions that pyproject.toml declares are not below what the generated code asks for when imported."""

import re
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.version import Version

ROOT = Path(__file__).parents[2]
STUBS = ROOT / "shared" / "gen" / "energyfleet" / "v1"


def declared(package: str) -> SpecifierSet:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    (found,) = [each for each in map(Requirement, project["dependencies"]) if each.name == package]
    return found.specifier


def floor(package: str) -> Version:
    """The lowest version that is declared."""
    return max(Version(each.version) for each in declared(package) if each.operator == ">=")


def demanded(pattern: str, asked: str) -> Version:
    """The highest version that a kind of generated file asks for, by a regular expression for its parts."""
    found = [re.search(asked, file.read_text()) for file in STUBS.glob(pattern)]
    assert found
    return max(Version(".".join(each.groups())) for each in found if each)


@pytest.mark.parametrize("package", ["grpcio", "grpcio-health-checking", "grpcio-reflection", "grpcio-status"])
def test_grpc_is_as_new_as_the_stubs_ask_for(package: str) -> None:
    assert floor(package) >= demanded("*_pb2_grpc.py", r"GRPC_GENERATED_VERSION = '(\S+)'")


def test_protobuf_is_as_new_as_the_messages_ask_for_and_of_their_major_version() -> None:
    asked = demanded("*_pb2.py", r"ValidateProtobufRuntimeVersion\(\s*\S+,\s*(\d+),\s*(\d+),\s*(\d+),")
    assert floor("protobuf") >= asked
    assert Version(f"{asked.major + 1}.0") not in declared("protobuf")
