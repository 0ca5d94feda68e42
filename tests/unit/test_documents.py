"""The documents are of this code."""

import re
from pathlib import Path

import pytest
from energyfleet.v1.analytics_service_pb2 import FindingKind, Verdict
from google.protobuf.descriptor import EnumDescriptor

from benchmarks.pictures import FOLDER, PICTURES, Picture, draw
from shared.config import AnalyticsSettings, IngestionSettings

DOCS = Path(__file__).parents[2] / "docs"
OPERATIONS, VERDICTS = DOCS / "operations.md", DOCS / "verdicts.md"
ROW = re.compile(r"^\| `(ENERGYFLEET_\w+)` \| ([^|]+) \|", re.MULTILINE)


def test_the_table_of_variables_has_each_with_its_default() -> None:
    defaults = {
        str(field.validation_alias or f"ENERGYFLEET_{name.upper()}"): field.default
        for settings in (IngestionSettings, AnalyticsSettings)
        for name, field in settings.model_fields.items()
    }

    documented = {variable: default.strip("`") for variable, default in ROW.findall(OPERATIONS.read_text())}

    assert documented == {
        variable: "unset" if default in (None, ()) else _shown(default) for variable, default in defaults.items()
    }


def _shown(default: object) -> str:
    if isinstance(default, bool):
        return str(default).lower()
    return f"{default:g}" if isinstance(default, float) else str(default)


@pytest.mark.parametrize("enum", [Verdict.DESCRIPTOR, FindingKind.DESCRIPTOR], ids=["verdicts", "findings"])
def test_every_verdict_and_every_finding_is_explained(enum: EnumDescriptor) -> None:
    names = [name.removeprefix("VERDICT_").removeprefix("FINDING_KIND_") for name in enum.values_by_name]
    explained = re.findall(r"^\*\*(\w+)\*\*(?: and \*\*(\w+)\*\*)?", VERDICTS.read_text(), re.MULTILINE)

    assert {*names} - {"UNSPECIFIED"} <= {name for pair in explained for name in pair}


@pytest.mark.parametrize("picture", PICTURES, ids=lambda picture: picture.name)
def test_pictures_are_what_their_readings_and_the_comparison_draw(picture: Picture, tmp_path: Path) -> None:
    drawn = draw(picture, tmp_path)

    assert drawn.read_text() == (FOLDER / drawn.name).read_text(), "python -m benchmarks.pictures draws them anew"
    assert f"(pictures/{drawn.name})" in VERDICTS.read_text()
