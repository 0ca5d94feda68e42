"""Files that are read again when they change; one that is broken keeps what was read before."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Generic, TypeVar

import structlog

_log = structlog.get_logger()

Read = TypeVar("Read")

Signature = Sequence[tuple[int, int, int] | None]


class WatchedFiles(Generic[Read]):
    """What `read` makes of some files; `value` is the last that was good.

    `read` raises OSError or ValueError, with a sentence for the operator, where they are broken: at the start that goes
    through, later it is logged once and tried again when they change, as files that belong together change one by one.
    """

    def __init__(self, name: str, paths: Sequence[Path], read: Callable[[], Read]) -> None:
        self._name = name
        self._paths = paths
        self._read = read
        self._seen = self._signature()  # before they are read: what changes meanwhile is seen at the next look
        self.value = read()

    def refresh(self) -> bool:
        """Reads files that have changed. Whether `value` is new."""
        signature = self._signature()
        if signature == self._seen:
            return False
        self._seen = signature
        try:
            self.value = self._read()
        except (OSError, ValueError) as error:
            _log.error(f"{self._name}_kept", reason=str(error), files=[str(path) for path in self._paths])
            return False
        _log.info(f"{self._name}_reloaded", files=[str(path) for path in self._paths])
        return True

    def _signature(self) -> Signature:
        return [_signature(path) for path in self._paths]


def _signature(path: Path) -> tuple[int, int, int] | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size, found.st_ino
