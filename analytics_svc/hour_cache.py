"""A fleet's hours in memory: what every device reported in each of them, for as long as the database says it is so.

Most hours are over and do not change any more. With every answer the database tells which version of an hour it has,
and sends the hour itself only where that is not the one that is kept here: see `shared.db.hour_changes`.
"""

from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

HOUR_BITS = 64
"""Hours of a window at most: a device's are the bits of one number."""

ROWS_MAX = 2_500_000
"""Rollups kept of each kind of device, at most 36 bytes each: a day of 100,000 devices."""

Keys = NDArray[np.int32]
Numbers = NDArray[np.float64]
Counts = NDArray[np.int64]
Bits = NDArray[np.uint64]


@dataclass(frozen=True, slots=True)
class Hour:
    """What devices reported in an hour, by their keys, which ascend: energy in kWh, and of vehicles degrees Celsius."""

    version: str
    keys: Keys
    kwh: Numbers
    readings: Counts
    battery_temp_sums: Numbers
    battery_temp_readings: Counts

    @classmethod
    def of_meters(cls, row: Any) -> "Hour":
        keys, order = _sorted_keys(row)
        nothing = np.zeros(0)
        return cls(row.version, keys, _numbers(row.kwh)[order], _counts(row.readings)[order], nothing, _no_counts(0))

    @classmethod
    def of_vehicles(cls, row: Any) -> "Hour":
        keys, order = _sorted_keys(row)
        return cls(
            row.version,
            keys,
            _numbers(row.kwh)[order],
            _counts(row.readings)[order],
            _numbers(row.battery_temp_sums)[order],
            _counts(row.battery_temp_readings)[order],
        )


class HourCache:
    """The hours of one kind of device that were asked for last, by their start in microseconds."""

    def __init__(self) -> None:
        self._hours: OrderedDict[int, Hour] = OrderedDict()
        self._rows = 0

    def of(self, starts_us: Iterable[int]) -> dict[int, Hour]:
        """Those of these hours that are kept."""
        return {start_us: self._hours[start_us] for start_us in starts_us if start_us in self._hours}

    def keep(self, hours: Mapping[int, Hour]) -> None:
        """Keeps hours, and forgets others where they become too many."""
        for start_us, hour in hours.items():
            before = self._hours.pop(start_us, None)
            self._rows += len(hour.keys) - (len(before.keys) if before else 0)
            self._hours[start_us] = hour
        while self._rows > ROWS_MAX:
            _, forgotten = self._hours.popitem(last=False)
            self._rows -= len(forgotten.keys)


class Sums:
    """What some devices reported in all hours of a window, in the order of their keys, which ascend."""

    def __init__(self, keys: Keys) -> None:
        self.keys = keys
        self.kwh: Numbers = np.zeros(len(keys))
        self.readings = _no_counts(len(keys))
        self.battery_temp_sums: Numbers = np.zeros(len(keys))
        self.battery_temp_readings = _no_counts(len(keys))
        self.hours: Bits = np.zeros(len(keys), dtype=np.uint64)
        """A bit for each hour in which the device reported, the last hour's the lowest."""

    def add(self, hours: Sequence[Hour]) -> None:
        """Adds hours, of which the last is the window's last one; devices that are not ours are left out."""
        for number, hour in enumerate(reversed(hours)):
            ours, places = self._places(hour.keys)
            self.kwh[places] += hour.kwh[ours]
            self.readings[places] += hour.readings[ours]
            self.hours[places] |= np.uint64(1 << number)
            if len(hour.battery_temp_sums):
                self.battery_temp_sums[places] += hour.battery_temp_sums[ours]
                self.battery_temp_readings[places] += hour.battery_temp_readings[ours]

    def _places(self, keys: Keys) -> tuple[slice | NDArray[np.bool_], slice | NDArray[np.intp]]:
        """Which of the keys are ours, and where they are here."""
        if np.array_equal(keys, self.keys):
            return slice(None), slice(None)
        places = np.searchsorted(self.keys, keys)
        ours = np.zeros(len(keys), dtype=np.bool_)
        inside = places < len(self.keys)
        ours[inside] = self.keys[places[inside]] == keys[inside]
        return ours, places[ours]


def unpack_keys(packed: bytes) -> Keys:
    """Of devices, as PostgreSQL packed them."""
    return np.frombuffer(packed, dtype=">i4").astype(np.int32)


def _sorted_keys(row: Any) -> tuple[Keys, NDArray[np.intp]]:
    keys = unpack_keys(row.device_keys)
    order = np.argsort(keys)
    return keys[order], order


def _numbers(packed: bytes) -> Numbers:
    return np.frombuffer(packed, dtype=">f8").astype(np.float64)


def _counts(packed: bytes) -> Counts:
    return np.frombuffer(packed, dtype=">i4").astype(np.int64)


def _no_counts(length: int) -> Counts:
    return np.zeros(length, dtype=np.int64)
