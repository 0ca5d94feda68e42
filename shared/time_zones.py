"""Time zones that somebody may name: those of the IANA database that are a place, UTC, or an offset (`Etc/GMT+1`).

The system's folder has other files too, which `ZoneInfo` would read: `localtime`, `posixrules`, and the whole database
again under `posix/` and, with leap seconds, under `right/`. They mean something else on each machine, or wrong hours.
"""

from functools import cache
from importlib.resources import files
from zoneinfo import ZoneInfo

ACCEPTED = "a place of the IANA database such as 'Europe/Berlin', 'UTC', or an offset such as 'Etc/GMT+1'"


def time_zone(name: str) -> ZoneInfo | None:
    """The zone of that name, as it is spelled in the database; None where it is not one of ACCEPTED."""
    return ZoneInfo(name) if name in _names() else None


@cache  # one list of 597 names; a zone that is refused costs no look into the file system
def _names() -> frozenset[str]:
    names = (files("tzdata") / "zones").read_text(encoding="utf-8").split()
    return frozenset(names) - {"Factory"}  # "local time zone must be set": no place
