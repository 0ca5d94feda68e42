"""A day of readings of one kind of device as a Parquet file: its columns, how they are encoded, and reading it again.

Sorted by device id, in the order of bytes, and time. A row group has whole devices where they are small, and the least
and greatest id of each group are in the file's statistics: a reader takes a device's group or two.
"""

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from shared.archive.archive_errors import BadDayFile
from shared.db.device_kind import KINDS, DeviceKind
from shared.errors import reason_of

METADATA_KEY = b"energyfleet"

FORMAT = 1
"""Of columns and metadata: a file of a newer one is refused."""

ROW_GROUP_READINGS = 1 << 17
"""What a reader unpacks for one device, in some 5 ms: 90 devices that report each minute. Twice as many or half of it
cost 2 % more bytes."""

COMPRESSION_LEVEL = 9
"""Of zstd: a tenth smaller than its default, in 0.2 us a reading; 15 takes twice as long for another 6 %."""

DICTIONARY_BYTES = 1 << 15
"""4,096 values: more than a group has at a resolution of Wh. Where values are full of noise, a longer dictionary only
takes room."""

SUM_TOLERANCE = 1e-9
"""Relative to all that flowed: sums are added up in different orders."""

BATCH_READINGS = 1 << 17
"""Read at a time: some 10 MB."""


@dataclass(slots=True)
class DayTotals:
    """What a day has: built up from its readings in their order, however they are cut into tables."""

    readings: int = 0
    kwh: float = 0.0
    kwh_returned: float = 0.0
    first_us: int | None = None
    last_us: int | None = None
    _digests: dict[tuple[str, str], Any] = field(default_factory=dict)

    def add(self, table: pa.Table, kind: DeviceKind) -> None:
        """Some more readings, with the columns of `schema_of`."""
        if not len(table):
            return
        energy = table[kind.energy].to_numpy()
        ts = table["ts"].cast(pa.int64()).to_numpy()
        self.readings += len(table)
        self.kwh += float(energy.sum())
        self.kwh_returned -= float(np.minimum(energy, 0.0).sum())
        first, last = int(ts.min()), int(ts.max())
        self.first_us = first if self.first_us is None else min(first, self.first_us)
        self.last_us = last if self.last_us is None else max(last, self.last_us)
        for name in table.column_names:
            for what, content in _contents(table[name]):
                self._digests.setdefault((name, what), hashlib.blake2b(digest_size=16)).update(content)

    @property
    def content(self) -> dict[tuple[str, str], str]:
        """A checksum of each column, to the last bit."""
        return {name: digest.hexdigest() for name, digest in self._digests.items()}

    def differs_from(self, other: "DayTotals") -> str:
        """What is not the same, in a few words; empty where all is."""
        flowed = self.kwh + 2 * self.kwh_returned
        if self.readings != other.readings:
            return f"{other.readings:,} readings instead of {self.readings:,}"
        if (self.first_us, self.last_us) != (other.first_us, other.last_us):
            return "another first or last reading"
        for name in ("kwh", "kwh_returned"):
            if abs(getattr(self, name) - getattr(other, name)) > SUM_TOLERANCE * flowed:
                return f"{name} {getattr(other, name):g} instead of {getattr(self, name):g}"
        if self.content and other.content and self.content != other.content:
            return "other values"
        return ""


def _contents(column: pa.ChunkedArray) -> Iterator[tuple[str, Any]]:
    """The bytes of a column, the same however it is cut: which are there, what they are, and of texts how long."""
    if column.null_count:
        yield "valid", np.ascontiguousarray(column.is_valid().to_numpy()).tobytes()
    else:
        yield "valid", b"\x01" * len(column)
    if pa.types.is_string(column.type):
        filled = column.fill_null("").combine_chunks()
        yield "lengths", pc.binary_length(filled).to_numpy().tobytes()
        yield "texts", "".join(filled.to_pylist()).encode()
    elif pa.types.is_timestamp(column.type):
        yield "values", column.cast(pa.int64()).to_numpy().tobytes()
    else:
        yield "values", column.fill_null(0.0).to_numpy().tobytes()


def schema_of(kind: DeviceKind) -> pa.Schema:
    """All that was sent of a reading, and what counts of it. `sent_kwh` and `counting` are as in history."""
    return pa.schema(
        [
            pa.field(f"{kind.name}_id", pa.string(), nullable=False),
            pa.field("ts", pa.timestamp("us", tz="UTC"), nullable=False),
            *(pa.field(name, pa.float64(), nullable=name != kind.energy) for name in kind.measurements),
            pa.field("sent_kwh", pa.float64()),
            pa.field("counting", pa.string()),
        ]
    )


class DayWriter:
    """Writes a day's readings into a new file, a row group for each table. Closes it at the end of the context."""

    def __init__(self, file: Path, kind: DeviceKind, day: date) -> None:
        self._kind = kind
        schema = schema_of(kind)
        about = json.dumps({"format": FORMAT, "kind": kind.name, "day": day.isoformat()}).encode()
        self._writer = pq.ParquetWriter(
            file,
            schema,
            compression="zstd",
            compression_level=COMPRESSION_LEVEL,
            # Times differ by the same few gaps; values repeat. Both halve what is left for zstd.
            use_dictionary=[name for name in schema.names if name != "ts"],
            column_encoding={"ts": "DELTA_BINARY_PACKED"},
            dictionary_pagesize_limit=DICTIONARY_BYTES,
            store_schema=False,
        )
        self._writer.add_key_value_metadata({METADATA_KEY: about})
        self.totals = DayTotals()

    def write(self, table: pa.Table) -> None:
        self.totals.add(table, self._kind)
        self._writer.write_table(table, row_group_size=len(table))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._writer.close()


def kind_of(file: Path) -> tuple[DeviceKind, date]:
    """What a file says that it has, by its metadata or else by its columns. BadDayFile where it is no day of ours."""
    with _opened(file) as parquet:
        return _about(parquet)


def tables_of(file: Path) -> Iterator[pa.Table]:
    """A day's readings in their order, some at a time. BadDayFile where it is no day of ours, or not whole."""
    with _opened(file) as parquet:
        kind, _ = _about(parquet)
        try:
            for batch in parquet.iter_batches(BATCH_READINGS, columns=schema_of(kind).names):
                yield pa.Table.from_batches([batch]).cast(schema_of(kind))
        except (pa.ArrowException, OSError) as error:
            raise BadDayFile(f"cannot be read to its end: {reason_of(error)}") from None


def totals_of(file: Path) -> DayTotals:
    """What is in a file, read to its end. BadDayFile where it is no day of ours, or not whole, or not sorted."""
    totals = DayTotals()
    kind, _ = kind_of(file)
    for table in tables_of(file):
        totals.add(table, kind)
    return totals


def _opened(file: Path) -> pq.ParquetFile:
    try:
        return pq.ParquetFile(file)
    except (pa.ArrowException, OSError) as error:
        raise BadDayFile(f"no Parquet file, or cut short: {reason_of(error)}") from None


def _about(parquet: pq.ParquetFile) -> tuple[DeviceKind, date]:
    try:
        about = json.loads((parquet.metadata.metadata or {})[METADATA_KEY])
        [kind] = [kind for kind in KINDS if kind.name == about["kind"]]
        day = date.fromisoformat(about["day"])
        if about["format"] > FORMAT:
            raise BadDayFile(f"of format {about['format']}, which this version does not know: use a newer one")
    except (KeyError, ValueError, TypeError):
        raise BadDayFile("a Parquet file, but none of the archive") from None
    missing = [name for name in schema_of(kind).names if name not in parquet.schema_arrow.names]
    if missing:
        raise BadDayFile(f"has no column {missing[0]}")
    return kind, day
