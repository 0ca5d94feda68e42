"""A CSV of the ids that certificates are to name, a line for each certificate."""

import csv
import io
from collections.abc import Iterator, Sequence

from fleetcli.authority.refusals import CertificateRefused
from fleetcli.authority.subjects import Subject, subject

COLUMNS = ("meter_id", "vehicle_id", "name", "role")
COLUMNS_ACCEPTED = "meter_id and vehicle_id, or one of them or role; name and role as you like"
DELIMITERS = ",;\t"


def read_subjects(content: bytes, file: str) -> list[Subject]:
    """The clients of a table in UTF-8, whose first line names its columns. A role may be several, with spaces between.

    Raises CertificateRefused with every bad line.
    """
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        raise CertificateRefused(f"{file}, line {line}: not UTF-8: expected a CSV file in UTF-8") from None
    rows = _rows(text, file)
    _, header = next(rows, (1, []))
    columns = _columns([cell.strip().lower() for cell in header], f"{file}, line 1")
    found: list[Subject] = []
    lines: dict[str, int] = {}
    problems: list[str] = []
    for line, cells in rows:
        try:
            each = _subject(columns, cells, f"{file}, line {line}")
            if each.name in lines:
                taken = f"{each.name!r} is that of line {lines[each.name]}"
                raise CertificateRefused(f"{file}, line {line}: name: {taken}: expected a name of its own")
        except CertificateRefused as why:
            problems += why.problems
            continue
        lines[each.name] = line
        found.append(each)
    if problems:
        raise CertificateRefused(*problems)
    if not found:
        raise CertificateRefused(f"{file}: no line but the first: expected one for each certificate")
    return found


def _rows(text: str, file: str) -> Iterator[tuple[int, list[str]]]:
    """Rows that are not blank, with the number of the line that each begins in."""
    first = text.partition("\n")[0]
    delimiter = next((each for each in DELIMITERS if each in first), ",")
    reader = csv.reader(io.StringIO(text, newline=""), strict=True, delimiter=delimiter)
    while True:
        line = reader.line_num + 1
        try:
            cells = next(reader, None)
        except csv.Error as error:
            raise CertificateRefused(f"{file}, line {line}: not a line of CSV: {error}") from None
        if cells is None:
            return
        if cells:
            yield line, cells


def _columns(header: Sequence[str], where: str) -> Sequence[str]:
    unknown = [name for name in header if name not in COLUMNS]
    repeated = {name for name in header if header.count(name) > 1}
    if unknown or repeated or not {"meter_id", "vehicle_id", "role"} & {*header}:
        wrong = f"{unknown[0][:40]!r} is no column" if unknown else "a column twice" if repeated else "no column of ids"
        raise CertificateRefused(f"{where}: {wrong}: expected a line that names the columns: {COLUMNS_ACCEPTED}")
    return header


def _subject(columns: Sequence[str], cells: Sequence[str], where: str) -> Subject:
    if len(cells) != len(columns):
        raise CertificateRefused(f"{where}: {len(cells)} cells: expected {len(columns)}, as in the first line")
    row = dict(zip(columns, cells, strict=True))
    meters, vehicles = ([row[name]] if row.get(name) else [] for name in ("meter_id", "vehicle_id"))
    return subject(
        meters,
        vehicles,
        row.get("role", "").split(),
        row.get("name", ""),
        lambda field: f"{where}: {field if field in COLUMNS else f'{field}_id'}",
    )
