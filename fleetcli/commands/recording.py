"""A recording of telemetry: a file, or standard input, and how to read it."""

import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from io import BufferedReader, BytesIO
from pathlib import Path
from shutil import copyfileobj
from typing import IO, BinaryIO, cast

from fleetcli.commands.archived_day import is_archived_day, lines_of, local_day
from fleetcli.commands.command_errors import BadInput
from fleetcli.commands.console import note
from fleetcli.commands.file_columns import Dialect, Findings
from fleetcli.commands.file_formats import SNIFFED_BYTES, Format, as_utf8, check_readable, format_of, is_utf16
from fleetcli.commands.readings_file import Line, move, read_lines, time_us


@dataclass(slots=True)
class Recording:
    """A source of lines that can be read from its beginning more than once, if it is a file."""

    name: str
    source: BinaryIO
    form: Format
    dialect: Dialect = field(default_factory=Dialect)
    utf16: bool = False
    findings: Findings = field(init=False)
    oldest_us: int | None = None
    newest_us: int | None = None
    move_by_us: int = 0

    def __post_init__(self) -> None:
        self.findings = Findings(lambda names: note(f"{self.name}: not read: {names}", "yellow"))

    def see(self, line: Line) -> None:
        """Takes note of when a line's reading was taken."""
        us = time_us(line.reading) if line.reading is not None else None
        if us is not None:
            self.oldest_us = us if self.oldest_us is None else min(us, self.oldest_us)
            self.newest_us = us if self.newest_us is None else max(us, self.newest_us)

    def survey(self) -> None:
        """Reads through it for its oldest and newest reading, and goes back to its beginning."""
        for line in self._parsed():
            self.see(line)
        self._rewind()

    def lines(self) -> Iterator[Line]:
        """Its lines, with their readings moved in time."""
        for line in self._parsed():
            if line.reading is not None and self.move_by_us:
                move(line.reading, self.move_by_us)
            yield line

    def _rewind(self) -> None:
        self.source.seek(0)

    def _parsed(self) -> Iterator[Line]:
        source = as_utf8(self.source) if self.utf16 else self.source
        try:
            yield from read_lines(source, self.form, self.dialect, self.findings)
        except BadInput as why:
            raise BadInput(f"{self.name}: {why}") from None


class ArchivedRecording(Recording):
    """A day of the archive. Its lines are its readings."""

    def __init__(self, name: str, file: Path) -> None:
        super().__init__(name, BytesIO(), Format.PARQUET)
        self._file = file

    def _rewind(self) -> None:
        """Each reading through it begins at its beginning."""

    def _parsed(self) -> Iterator[Line]:
        try:
            yield from lines_of(self._file, self._note_corrected)
        except BadInput as why:
            raise BadInput(f"{self.name}: {why}") from None

    def _note_corrected(self, readings: int) -> None:
        note(
            f"{self.name}: {readings:,} readings had been corrected; corrections are not in the archive, and what was"
            " sent is sent again: `energyfleet correct` corrects it",
            "yellow",
        )


@contextmanager
def opened(file: str, form: Format | None, dialect: Dialect, read_twice: bool) -> Iterator[Recording]:
    """The recording behind a name, its format found out. BadInput where it cannot be opened or is not one."""
    if form is Format.PARQUET or (form is None and is_archived_day(file)):
        if file == "-" or dialect != Dialect():
            raise BadInput("a day of the archive is read from a file or a URL, and says itself what its columns are")
        with local_day(file) as local:
            yield ArchivedRecording(file, local)
    elif file == "-" and not read_twice:
        yield _recognised("standard input", form, dialect, sys.stdin.buffer)
    elif file == "-":
        with tempfile.TemporaryFile(prefix="energyfleet-replay-") as kept:
            copyfileobj(sys.stdin.buffer, kept)
            kept.seek(0)
            yield _recognised("standard input", form, dialect, kept)
    else:
        with _open(file) as source:
            yield _recognised(file, form, dialect, source)


def _open(file: str) -> BinaryIO:
    try:
        return Path(file).open("rb")
    except OSError as error:
        raise BadInput(f"{file}: {error.strerror}") from None


def _recognised(name: str, form: Format | None, dialect: Dialect, source: IO[bytes]) -> Recording:
    buffered = cast(BufferedReader, source)  # what open() and the standard streams give
    beginning = buffered.peek(SNIFFED_BYTES)
    try:
        check_readable(beginning)
    except BadInput as why:
        raise BadInput(f"{name}: {why}") from None
    return Recording(name, buffered, form or format_of(Path(name).suffix, beginning), dialect, is_utf16(beginning))
