"""What a file is, told by its name and its beginning: formats and encodings that are read, and what is not."""

import codecs
import io
from enum import StrEnum
from typing import BinaryIO, cast

from fleetcli.commands.command_errors import BadInput
from fleetcli.commands.file_json import is_array

SNIFFED_BYTES = 4096

_UNPACK = "{0} is not read: unpack it first, as in `{1} FILE | energyfleet replay -`"
_SAVE = "{0} is not read: save it as CSV first"
_NOT_READ = (
    (b"\x1f\x8b", _UNPACK.format("gzip", "gunzip -c")),
    (b"BZh", _UNPACK.format("bzip2", "bunzip2 -c")),
    (b"\xfd7zXZ\0", _UNPACK.format("xz", "unxz -c")),
    (b"\x28\xb5\x2f\xfd", _UNPACK.format("zstd", "unzstd -c")),
    (b"PK\x03\x04", "a ZIP archive or a workbook (xlsx, ods) is not read: unpack it, or save the sheet as CSV, first"),
    (b"\xd0\xcf\x11\xe0", _SAVE.format("a workbook (xls)")),
    (
        b"PAR1",
        "Parquet is not read: save it as CSV first, or name a day of the archive by a name that ends in .parquet",
    ),
    (b"SQLite format 3\0", _SAVE.format("an SQLite database")),
    (b"%PDF", _SAVE.format("PDF")),
    (b"<", _SAVE.format("XML or HTML")),
    (codecs.BOM_UTF32_LE, "UTF-32 is not read: save it as UTF-8 first"),
    (codecs.BOM_UTF32_BE, "UTF-32 is not read: save it as UTF-8 first"),
)


class Format(StrEnum):
    CSV = "csv"
    NDJSON = "ndjson"
    JSON = "json"
    PARQUET = "parquet"


_TABLES = frozenset({".csv", ".tsv"})
_LINES = frozenset({".ndjson", ".jsonl", ".json"})


def format_of(suffix: str, beginning: bytes) -> Format:
    """By a file name's suffix, else by how the file begins. An array is told from lines of JSON by the beginning."""
    text = _decoded(beginning)
    if suffix.lower() in _TABLES:
        return Format.CSV
    if is_array(text):
        return Format.JSON
    return Format.NDJSON if suffix.lower() in _LINES or text.lstrip().startswith("{") else Format.CSV


def check_readable(beginning: bytes) -> None:
    """BadInput that says what to do with a file of another kind."""
    for magic, why in _NOT_READ:
        if beginning.startswith(magic):
            raise BadInput(why)
    if not is_utf16(beginning) and b"\0" in beginning.partition(b"\n")[0]:
        raise BadInput("not text, or UTF-16 without its byte order mark: save it as UTF-8 first")


def is_utf16(beginning: bytes) -> bool:
    return beginning.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))


def _decoded(beginning: bytes) -> str:
    return beginning.decode("utf-16" if is_utf16(beginning) else "utf-8-sig", "replace")


def as_utf8(source: BinaryIO) -> BinaryIO:
    """UTF-16 with a byte order mark, from where it is read, as UTF-8. Closing it leaves the source open."""
    return cast(BinaryIO, io.BufferedReader(_Recoded(source)))


class _Recoded(io.RawIOBase):
    def __init__(self, source: BinaryIO) -> None:
        self._source = source
        self._decoder = codecs.getincrementaldecoder("utf-16")("replace")
        self._utf8 = b""

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]  # what BufferedReader gives
        ended = False
        while not self._utf8 and not ended:
            chunk = self._source.read(io.DEFAULT_BUFFER_SIZE)
            ended = not chunk
            self._utf8 = self._decoder.decode(chunk, ended).encode()
        size = min(len(buffer), len(self._utf8))
        buffer[:size], self._utf8 = self._utf8[:size], self._utf8[size:]
        return size
