"""The list of certificates that are revoked, by serial number: a line each.

A line has the serial in lower-case hex, without zeros in front; what follows a blank is a comment, and so is a line
that begins with #. Serials are enough, as one authority signs for a fleet.
"""

import re
from collections.abc import Sequence
from pathlib import Path

from shared.watched_files import WatchedFiles

_SERIAL = re.compile("[1-9a-f][0-9a-f]{0,63}")

DENY_LIST_MAX_BYTES = 64 * 1024 * 1024
"""Some 600,000 certificates: every charger of ten fleets, ten times. Expired ones need no line."""


def serial_text(serial_number: int) -> str:
    """A serial as it stands in the list."""
    return f"{serial_number:x}"


class DenyList:
    """A list that is read again when it changes; none without a path. Raises as `read_deny_list` does."""

    def __init__(self, path: Path | None, name: str = "deny_list") -> None:
        self._serials = None if path is None else WatchedFiles(name, [path], lambda: read_deny_list(path))

    def refresh(self) -> bool:
        """Reads the list again where it has changed. Whether it has."""
        return self._serials is not None and self._serials.refresh()

    def refusal(self, serial: str, name: str) -> str | None:
        """Why somebody's certificate does not count any more; None where it does."""
        if self._serials is None or serial not in self._serials.value:
            return None
        return f"the certificate {serial} of {name} is revoked"


def read_deny_list(path: Path) -> frozenset[str]:
    """The serials of a list. Raises OSError, and ValueError where a line is none."""
    if path.stat().st_size > DENY_LIST_MAX_BYTES:
        raise ValueError(f"{path}: more than {DENY_LIST_MAX_BYTES:,} bytes")
    return frozenset(denied_serials(path.read_text(encoding="utf-8").splitlines(), str(path)))


def denied_serials(lines: Sequence[str], name: str) -> list[str]:
    """The serials of a list's lines. Raises ValueError with the list's name and the line's number."""
    serials = []
    for number, line in enumerate(lines, 1):
        serial, _, _ = line.strip().partition(" ")
        if not serial or serial.startswith("#"):
            continue
        if not _SERIAL.fullmatch(serial):
            raise ValueError(f"{name}, line {number}: {serial[:80]!r} is no serial number in lower-case hex")
        serials.append(serial)
    return serials
