"""Checks the installed wheel beside the lowest versions that it declares: `make lowest`, not a test of the suite.

Run by the interpreter of that environment with `-I`, so that the modules are those of the wheel and not the checkout's.
"""

import asyncio
import importlib
import pkgutil
import re
import sys
from datetime import UTC, date, datetime
from importlib.metadata import requires, version
from pathlib import Path
from tempfile import TemporaryDirectory

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


async def archived(directory: Path) -> None:
    """Writes a day of readings, puts it into an archive and reads it back."""
    import pyarrow as pa

    from shared.archive.archive_url import archive_url
    from shared.archive.day_file import DayWriter, schema_of, totals_of
    from shared.archive.day_store import DayStore, file_of
    from shared.db.device_kind import METER

    rows = [{"meter_id": "m", "ts": datetime(2026, 2, 9, at, tzinfo=UTC), METER.energy: at / 8} for at in range(24)]
    file, day = directory / "day.parquet", date(2026, 2, 9)
    with DayWriter(file, METER, day) as writer:
        writer.write(pa.Table.from_pylist(rows, schema_of(METER)))
    store = DayStore(archive_url(str(directory / "archive")), 30)
    await store.publish(await store.put_aside(file, METER.name, day), file_of(METER.name, day))
    back = directory / "back.parquet"
    assert await store.fetch(file_of(METER.name, day), back) is not None
    assert writer.totals.differs_from(totals_of(back)) == ""


def main() -> None:
    """Exits with what is wrong."""
    if problems := floors_out_of_reach():
        sys.exit("\n".join(problems))
    with TemporaryDirectory() as directory:
        asyncio.run(archived(Path(directory)))
    sys.stdout.write(f"{imported()} modules of the wheel, every dependency at its lowest version\n")


if __name__ == "__main__":
    main()
