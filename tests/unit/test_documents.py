"""The documents are of this code."""

import re
from pathlib import Path

from shared.config import AnalyticsSettings, IngestionSettings

OPERATIONS = Path(__file__).parents[2] / "docs" / "operations.md"
ROW = re.compile(r"^\| `(ENERGYFLEET_\w+)` \| ([^|]+) \|", re.MULTILINE)


def test_the_table_of_variables_has_each_with_its_default() -> None:
    defaults = {
        str(field.validation_alias or f"ENERGYFLEET_{name.upper()}"): field.default
        for settings in (IngestionSettings, AnalyticsSettings)
        for name, field in settings.model_fields.items()
    }

    documented = {variable: default.strip("`") for variable, default in ROW.findall(OPERATIONS.read_text())}

    assert documented == {
        variable: "unset" if default is None else f"{default:g}" if isinstance(default, float) else str(default)
        for variable, default in defaults.items()
    }
