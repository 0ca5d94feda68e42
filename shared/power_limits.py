"""What the power of a reading may be, of each device: what exceeds it does not count."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self, TextIO

from shared.device_ids import DEVICE_ID_ACCEPTED, DEVICE_ID_MAX_LENGTH

POWER_MAX_KW, POWER_MIN_INTERVAL_S = 500.0, 900.0
"""What holds for devices about which nothing is said."""

LIMIT_MAX_KW = 1_000_000
"""A gigawatt: no device's limit, and far from where doubles overflow."""

LINES_MAX = 100_000
"""A fleet of 100,000 with a line for each device; some 20 MB of memory."""

_KINDS = ("meter", "vehicle")
_LINE_MAX = 1_000
"""Characters: a comment may be longer, a limit never is."""

_UNDECODED = "surrogateescape"
"""Bytes that are not UTF-8 are read as surrogates, so that their line can be named."""

_COMMENT_BEHIND = re.compile(r"\s#|^#(\s|$)")
"""Whoever writes `22 wall-1 # hall 3` means the id wall-1. `22 #5` can only mean the id #5."""


class BadLimits(ValueError):
    """A file of limits cannot be read. The message says why, and where."""


@dataclass(frozen=True, slots=True)
class PowerLimits:
    """A reading's power is its energy over the time since the reading before it, at least `min_interval_s` of it."""

    max_kw: float = POWER_MAX_KW
    min_interval_s: float = POWER_MIN_INTERVAL_S
    by_id: Mapping[tuple[str, str], float] = field(default_factory=dict)
    """In kW, by kind of device and id."""
    by_beginning: Mapping[tuple[str, str], float] = field(default_factory=dict)
    """In kW, by kind of device and what its id begins with."""

    @classmethod
    def read(cls, max_kw: float, min_interval_s: float, file: Path) -> Self:
        """The limits that a file says, a line each, beside those of all other devices. Raises BadLimits."""
        by_id: dict[tuple[str, str], float] = {}
        by_beginning: dict[tuple[str, str], float] = {}
        number = 1
        try:
            with file.open(encoding="utf-8-sig", errors=_UNDECODED) as lines:
                while line := _next_line(lines):
                    if number > LINES_MAX:
                        raise ValueError(f"there are at most {LINES_MAX:,} lines")
                    if limit := _limit(line):
                        kind, device, kw = limit
                        limits = by_beginning if device.endswith("*") else by_id
                        if limits.setdefault((kind, device.removesuffix("*")), kw) != kw:
                            raise ValueError(f"{kind} {device} has another limit already")
                    number += 1
        except OSError as error:
            raise BadLimits(f"{file}: {error.strerror}") from None
        except ValueError as error:
            raise BadLimits(f"{file}, line {number}: {error}") from None
        return cls(max_kw, min_interval_s, by_id, by_beginning)

    def max_kw_of(self, kind: str, device_id: str) -> float:
        """The limit of its id, or of the longest beginning of it, or of all devices."""
        if not self.by_id and not self.by_beginning:
            return self.max_kw
        own = self.by_id.get((kind, device_id))
        if own is not None:
            return own
        beginnings = (self.by_beginning.get((kind, device_id[:length])) for length in range(len(device_id), -1, -1))
        return next((kw for kw in beginnings if kw is not None), self.max_kw)


def _next_line(lines: TextIO) -> str:
    """The next line, empty where there is none; of a long comment its first characters. Raises ValueError."""
    line = part = lines.readline(_LINE_MAX + 1)
    while True:
        try:
            part.encode()
        except UnicodeEncodeError:
            raise ValueError("not UTF-8 text") from None
        if len(part) <= _LINE_MAX or part.endswith("\n"):
            return line
        if not line.lstrip().startswith("#"):
            raise ValueError(f"a line has up to {_LINE_MAX:,} characters")
        part = lines.readline(_LINE_MAX + 1)


def _limit(line: str) -> tuple[str, str, float] | None:
    """Kind, id or its beginning with a `*`, and kW; None of blank lines and comments. Raises ValueError."""
    text = line.strip()
    if not text or text.startswith("#"):
        return None
    words = text.split(maxsplit=2)
    if len(words) == 3 and _COMMENT_BEHIND.search(words[2]):
        raise ValueError(
            "' #' begins a comment, which needs a line of its own; an id that has it is named by its beginning and *"
        )
    if not text.isascii():
        first = next(character for character in text if not character.isascii())
        raise ValueError(f"{first!r} is not ASCII: only comments may have it")
    if len(words) < 3 or words[0] not in _KINDS:
        raise ValueError("expected meter or vehicle, kW, and an id or the beginning of ids and *: meter 22 home-*")
    kind, kw_text, device = words
    try:
        kw = float(kw_text)
    except ValueError:
        kw = 0.0
    if not 0 < kw <= LIMIT_MAX_KW:
        raise ValueError(f"{kw_text[:40]!r} is no power in kW greater than 0 and up to {LIMIT_MAX_KW:,}")
    beginning = device.removesuffix("*")
    if len(beginning) > DEVICE_ID_MAX_LENGTH:
        raise ValueError(f"an id has up to {DEVICE_ID_MAX_LENGTH} characters")
    if not beginning.isprintable():
        raise ValueError(f"{device!r} is no id: {DEVICE_ID_ACCEPTED}")
    return kind, device, kw
