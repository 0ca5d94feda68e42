"""A batch's rows by column, and as PostgreSQL's binary COPY: numpy does for all rows at once what is the same for each.

Format: PostgreSQL documentation, COPY, "Binary Format": a row is its column count, then for each column its length in
bytes and its big-endian value; NULL is the length -1 without a value. A timestamptz is microseconds since 2000-01-01
UTC.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from ingestion_svc.readings import MeterRow, VehicleRow
from shared.timestamps import EPOCH_2000_US, US_PER_HOUR

Floats = NDArray[np.float64]
Times = NDArray[np.int64]
Keys = NDArray[np.int32]
Positions = NDArray[np.intp]

_HEADER = b"PGCOPY\n\xff\r\n\x00" + bytes(8)
_TRAILER = b"\xff\xff"
_NULL = -1


@dataclass(frozen=True, slots=True)
class Columns:
    """Rows of one kind: where their devices are remembered, microseconds, kWh, and measurements that may be absent.

    NaN is one that is absent: `decode` lets no other through. The last measurement is the register.
    """

    slots: Positions
    ts_us: Times
    kwh: Floats
    measured: Sequence[Floats]

    @classmethod
    def of(cls, rows: Sequence[MeterRow | VehicleRow], slots: Positions) -> Self:
        """The columns of at least one row."""
        return cls(
            slots,
            np.array([row[1] for row in rows], np.int64),
            _floats([row[2] for row in rows]),
            [_floats([row[at] for row in rows]) for at in range(3, len(rows[0]))],
        )

    def __len__(self) -> int:
        return len(self.ts_us)

    @property
    def register(self) -> Floats:
        return self.measured[-1]

    def at(self, positions: Positions) -> Self:
        """The rows at some positions, in that order."""
        return type(self)(
            self.slots[positions],
            self.ts_us[positions],
            self.kwh[positions],
            [each[positions] for each in self.measured],
        )


def staged_readings(keys: Keys, rows: Columns, max_kw: Floats) -> bytes:
    """COPY's bytes for (ordinal, key, ts, energy, measurements, max_kw); a row's ordinal is its position."""
    return _copied(np.arange(len(rows), dtype=np.int32), *_readings(keys, rows), max_kw)


def appended_readings(keys: Keys, rows: Columns) -> bytes:
    """COPY's bytes for (key, ts, energy, measurements)."""
    return _copied(*_readings(keys, rows))


def staged_hours(
    keys: Keys,
    rows: Columns,
    averaged: Sequence[int],
    rising_from_kwh: Floats,
    previous_us: Times,
    previous_rising_from_kwh: Floats,
) -> bytes:
    """COPY's bytes for what the rows add to their devices' hours `(h, h + 1 h]`, and the newest reading of each.

    They are (whether no later hour of the device is there, hour_start, hour_kwh, hour_kwh_returned, hour_readings), the
    sum and the count of each measurement at the positions `averaged`, then what `appended_readings` has, what the
    device has risen from after all of them, and of its newest reading before all of them the timestamp and what it had
    risen from. Takes at least one row, the rows of a device side by side and in the order of their timestamps, and the
    last three values for each.
    """
    hours = (rows.ts_us - 1) // US_PER_HOUR
    first = np.flatnonzero((np.diff(keys, prepend=keys[0] - 1) != 0) | (np.diff(hours, prepend=hours[0]) != 0))
    last = np.append(first[1:], len(rows)) - 1
    sums: list[NDArray[Any]] = []
    for position in averaged:
        values = rows.measured[position]
        sums.append(np.add.reduceat(np.nan_to_num(values), first))
        sums.append(np.add.reduceat(~np.isnan(values), first, dtype=np.int32))
    return _copied(
        np.diff(keys[first], append=keys[-1] + 1) != 0,
        hours[first] * US_PER_HOUR - EPOCH_2000_US,
        np.add.reduceat(rows.kwh, first),
        np.add.reduceat(np.where(rows.kwh < 0, -rows.kwh, 0.0), first),
        (last - first + 1).astype(np.int32),
        *sums,
        *(each[last] for each in _readings(keys, rows)),
        rising_from_kwh[first],
        previous_us[first] - EPOCH_2000_US,
        previous_rising_from_kwh[first],
    )


def _floats(values: list[Any]) -> Floats:
    """NaN for None. A measurement that nobody has, as registers where all send intervals, costs next to nothing."""
    if values.count(None) == len(values):
        return np.full(len(values), np.nan)
    return np.array(values, np.float64)


def _readings(keys: Keys, rows: Columns) -> Sequence[NDArray[Any]]:
    return keys, rows.ts_us - EPOCH_2000_US, rows.kwh, *rows.measured


def _copied(*columns: NDArray[Any]) -> bytes:
    """Rows of numbers; NaN is NULL."""
    fields = [("columns", ">i2")]
    never = [column.dtype.kind == "f" and bool(np.isnan(column).all()) for column in columns]
    for number, column in enumerate(columns):
        fields.append((f"length{number}", ">i4"))
        if not never[number]:
            fields.append((f"value{number}", column.dtype.newbyteorder(">").str))
    rows = np.empty(len(columns[0]), np.dtype(fields))
    rows["columns"] = len(columns)
    absent: list[tuple[str, NDArray[np.bool_]]] = []
    for number, column in enumerate(columns):
        if never[number]:
            rows[f"length{number}"] = _NULL
            continue
        length, value = rows[f"length{number}"], rows[f"value{number}"]
        length[:] = column.itemsize
        value[:] = column
        if column.dtype.kind == "f" and (nulls := np.isnan(column)).any():
            length[nulls] = _NULL
            absent.append((f"value{number}", nulls))
    return b"".join((_HEADER, _without(rows, absent) if absent else rows.tobytes(), _TRAILER))


def _without(rows: NDArray[Any], absent: Sequence[tuple[str, NDArray[np.bool_]]]) -> bytes:
    """The bytes of records, but for those of some fields in some of them."""
    kept = np.full(len(rows), b"\1" * rows.itemsize, f"V{rows.itemsize}").view(rows.dtype)
    for name, nulls in absent:
        kept[name][nulls] = 0
    return rows.view(np.uint8)[kept.view(np.bool_)].tobytes()
