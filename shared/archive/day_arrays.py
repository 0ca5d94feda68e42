"""A day's readings as PostgreSQL sends arrays in binary, made columns without a Python object for each value."""

import struct
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from shared.archive.day_file import schema_of
from shared.db.archive_days import Device, DeviceArrays
from shared.db.device_kind import DeviceKind
from shared.timestamps import EPOCH_2000_US

_HEADER = struct.Struct(">iiIii")
"""Dimensions, whether elements are null, their type, and of the first dimension length and lower bound."""

_LENGTH = struct.Struct(">i")


def day_table(kind: DeviceKind, devices: Sequence[Device], arrays: Mapping[int, DeviceArrays], day_us: int) -> pa.Table:
    """The readings of some devices, one after the other in their order, with the columns of `schema_of`.

    A device that has no arrays has no rows: the totals tell.
    """
    found = [(device, arrays[device.key]) for device in devices if device.key in arrays]
    times = [_times(each, day_us) for _, each in found]
    counts = np.array([len(each) for each in times], dtype=np.int64)
    ids = pa.DictionaryArray.from_arrays(
        pa.array(np.repeat(np.arange(len(found), dtype=np.int32), counts)),
        pa.array([device.device_id for device, _ in found], pa.string()),
    )
    columns = [ids.cast(pa.string()), pa.array(np.concatenate(times)).cast(pa.timestamp("us", tz="UTC"))]
    for at in range(len(kind.measurements) + 1):  # and what was sent
        columns.append(_numbers([each.numbers[at] for _, each in found], counts))
    columns.append(_texts([each.counting for _, each in found], counts))
    return pa.table(columns, schema=schema_of(kind))


def _times(arrays: DeviceArrays, day_us: int) -> NDArray[np.int64]:
    values, _ = _array(arrays.times, ">i8")
    return day_us + np.cumsum(values) if arrays.sealed else values + EPOCH_2000_US


def _numbers(raws: Sequence[bytes | None], counts: NDArray[np.int64]) -> pa.Array:
    total = int(counts.sum())
    if not any(raws):
        return pa.nulls(total, pa.float64())
    values, null = np.zeros(total), np.zeros(total, dtype=bool)
    end = 0
    for raw, count in zip(raws, counts.tolist(), strict=True):
        begin, end = end, end + count
        if raw is None:
            null[begin:end] = True
        else:
            values[begin:end], null[begin:end] = _array(raw, ">f8")
    return pa.array(values, mask=null)


def _texts(raws: Sequence[bytes | None], counts: NDArray[np.int64]) -> pa.Array:
    if not any(raws):
        return pa.nulls(int(counts.sum()), pa.string())
    texts: list[str | None] = []
    for raw, count in zip(raws, counts.tolist(), strict=True):
        texts += [None] * count if raw is None else _text_array(raw)
    return pa.array(texts, pa.string())


def _array(raw: bytes, dtype: str) -> tuple[NDArray[Any], NDArray[np.bool_]]:
    """The elements of 8 bytes, in the machine's order, and which of them are null; these are 0."""
    dimensions, has_null, _, size, _ = _HEADER.unpack_from(raw)
    assert dimensions == 1
    if not has_null:
        packed = np.frombuffer(raw, [("length", ">i4"), ("value", dtype)], size, _HEADER.size)
        return packed["value"].astype(dtype.replace(">", "=")), np.zeros(size, dtype=bool)
    # A null is a word of -1; another element is its length, 8, and two words, of which each may be -1, too.
    words = np.frombuffer(raw, ">u4", offset=_HEADER.size)
    null = np.zeros(size, dtype=bool)
    at = element = 0
    for found in np.flatnonzero(words == 0xFFFFFFFF).tolist():
        between, others = divmod(found - at, 3)
        if found >= at and not others:
            element += between
            null[element] = True
            element, at = element + 1, found + 1
    starts = np.cumsum(np.where(null, 1, 3)) - np.where(null, 1, 3)
    values = np.zeros(size, dtype=np.uint64)
    there = starts[~null]
    values[~null] = words[there + 1].astype(np.uint64) << np.uint64(32) | words[there + 2].astype(np.uint64)
    return values.view(dtype.replace(">", "=")), null


def _text_array(raw: bytes) -> list[str | None]:
    _, _, _, size, _ = _HEADER.unpack_from(raw)
    texts: list[str | None] = []
    at = _HEADER.size
    for _ in range(size):
        (length,) = _LENGTH.unpack_from(raw, at)
        at += _LENGTH.size
        texts.append(None if length < 0 else raw[at : at + length].decode())
        at += max(length, 0)
    return texts
