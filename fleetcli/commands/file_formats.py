"""What a file is, told by its name and its beginning."""

from enum import StrEnum


class Format(StrEnum):
    CSV = "csv"
    NDJSON = "ndjson"


_FORMAT_OF_SUFFIX = {
    ".csv": Format.CSV,
    ".tsv": Format.CSV,
    ".ndjson": Format.NDJSON,
    ".jsonl": Format.NDJSON,
    ".json": Format.NDJSON,
}


def format_of(suffix: str, beginning: bytes) -> Format:
    """By a file name's suffix, else by how the file begins."""
    named = _FORMAT_OF_SUFFIX.get(suffix.lower())
    if named is not None:
        return named
    return Format.NDJSON if beginning.removeprefix(b"\xef\xbb\xbf").lstrip().startswith(b"{") else Format.CSV
