"""What a file is, told by its name and its beginning."""

from enum import StrEnum

from fleetcli.commands.file_json import is_array


class Format(StrEnum):
    CSV = "csv"
    NDJSON = "ndjson"
    JSON = "json"


_TABLES = frozenset({".csv", ".tsv"})
_LINES = frozenset({".ndjson", ".jsonl", ".json"})


def format_of(suffix: str, beginning: bytes) -> Format:
    """By a file name's suffix, else by how the file begins. An array is told from lines of JSON by the beginning."""
    text = beginning.decode("utf-8-sig", "replace")
    if suffix.lower() in _TABLES:
        return Format.CSV
    if is_array(text):
        return Format.JSON
    return Format.NDJSON if suffix.lower() in _LINES or text.lstrip().startswith("{") else Format.CSV
