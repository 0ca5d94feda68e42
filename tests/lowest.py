"""Checks the installed wheel beside the lowest versions that it declares: `make lowest`, not a test of the suite.

Run by the interpreter of that environment with `-I`, so that the modules are those of the wheel and not the checkout's.
"""

import importlib
import pkgutil
import re
import sys
from importlib.metadata import requires, version

from packaging.requirements import Requirement
from packaging.version import Version

PACKAGES = ("ingestion_svc", "analytics_svc", "shared", "fleetcli", "energyfleet")
NOT_IMPORTED = re.compile(r"\.__main__$|^shared\.db\.migrations\.")
"""Modules that run when imported, the latter within Alembic: the demo runs them."""


def floors_out_of_reach() -> list[str]:
    """Dependencies whose declared lowest version others rule out."""
    requirements = map(Requirement, requires("energy-fleet") or ())
    return [
        f"{each} is declared, but {version(each.name)} is the lowest that fits the others"
        for each in requirements
        if not any(Version(floor.version) == Version(version(each.name)) for floor in each.specifier)
    ]


def imported() -> int:
    """Imports every module of ours; how many there are. Raises what an import raises."""
    names = []
    for package in PACKAGES:
        path = importlib.import_module(package).__path__
        assert all(each.startswith(sys.prefix) for each in path), f"{package} is not the wheel's: {list(path)}"
        names += [each.name for each in pkgutil.walk_packages(path, f"{package}.")]
    for name in names:
        if not NOT_IMPORTED.search(name):
            importlib.import_module(name)
    return len(names)


def main() -> None:
    """Exits with what is wrong."""
    if problems := floors_out_of_reach():
        sys.exit("\n".join(problems))
    sys.stdout.write(f"{imported()} modules of the wheel, every dependency at its lowest version\n")


if __name__ == "__main__":
    main()
