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

from analytics_svc.charging import NO_READING, Counts, Numbers, SideHours, Times, accumulated
from shared.timestamps import US_PER_HOUR

CACHED_HOURS_MAX = 64
"""Hours of a window, with the one before it, that are kept at most: a weekend."""

ROWS_MAX = 2_500_000
"""Rollups kept of each kind of device, at most 56 bytes each: a day of 100,000 devices."""

Keys = NDArray[np.int32]

Averages = Sequence[tuple[Numbers, Counts]]
"""Sums and numbers of each measurement that is averaged; a meter has none."""


@dataclass(frozen=True, slots=True)
class Hour:
    """What devices reported in an hour, by their keys, which ascend; energy in kWh."""

    version: str
    keys: Keys
    kwh: Numbers
    readings: Counts
    until_end_us: Times
    """From the last reading to the end of the hour, in microseconds: 0 where it came with the end."""
    returned_keys: Keys
    """Of the devices at which energy flowed back: few."""
    kwh_returned: Numbers
    averages: Averages

    @classmethod
    def of(cls, row: Any) -> "Hour":
        """From a row of VEHICLE_HOURS or METER_HOURS."""
        _, version, device_keys, kwh, readings, last_ts, returned_keys, kwh_returned, *averages = row
        keys = unpack_keys(device_keys)
        order = np.argsort(keys)
        return cls(
            version,
            keys[order],
            _numbers(kwh)[order],
            _counts(readings)[order],
            _until_end_us(last_ts)[order],
            unpack_keys(returned_keys),
            _numbers(kwh_returned),
            [
                (_numbers(sums)[order], _counts(numbers)[order])
                for sums, numbers in zip(averages[::2], averages[1::2], strict=True)
            ],
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


class DeviceTable:
    """What some devices reported, hour by hour: `[hours, devices]`, by their keys, which ascend."""

    def __init__(self, keys: Keys, hours: int, averaged: Sequence[str] = ()) -> None:
        self.keys = keys
        shape = hours, len(keys)
        self.side = SideHours(
            np.zeros(shape), np.zeros(shape), np.zeros(shape, np.int64), np.full(shape, NO_READING, np.int64)
        )
        self.averages: Averages = [(np.zeros(len(keys)), np.zeros(len(keys), np.int64)) for _ in averaged]
        """Of the hours after the first one."""

    def put(self, number: int, hour: Hour, end_us: int) -> None:
        """Puts an hour that ends at some time in its place; devices that are not ours are left out."""
        ours, places = places_of(hour.keys, self.keys)
        self.side.kwh[number, places] = hour.kwh[ours]
        self.side.readings[number, places] = hour.readings[ours]
        self.side.last_us[number, places] = end_us - hour.until_end_us[ours]
        if number:
            for (sums, numbers), (its_sums, its_numbers) in zip(self.averages, hour.averages, strict=True):
                sums[places] += its_sums[ours]
                numbers[places] += its_numbers[ours]
        if len(hour.returned_keys):
            ours, places = places_of(hour.returned_keys, self.keys)
            self.side.kwh[number, places] += hour.kwh_returned[ours]
            self.side.kwh_returned[number, places] = hour.kwh_returned[ours]

    def carry_on(self) -> None:
        """Has each hour tell the last reading up to its end, as there may be none in it."""
        self.side.last_us[:] = accumulated(self.side.last_us, np.maximum)


def places_of(keys: Keys, among: Keys) -> tuple[slice | NDArray[np.bool_], slice | NDArray[np.intp]]:
    """Which of some keys are among others, which ascend, and where they are there."""
    if np.array_equal(keys, among):
        return slice(None), slice(None)
    places = np.searchsorted(among, keys)
    ours = np.zeros(len(keys), dtype=np.bool_)
    inside = places < len(among)
    ours[inside] = among[places[inside]] == keys[inside]
    return ours, places[ours]


def unpack_keys(packed: bytes) -> Keys:
    """Of devices, as PostgreSQL packed them."""
    return np.frombuffer(packed, dtype=">i4").astype(np.int32)


def _numbers(packed: bytes) -> Numbers:
    return np.frombuffer(packed, dtype=">f8").astype(np.float64)


def _counts(packed: bytes) -> Counts:
    return np.frombuffer(packed, dtype=">i4").astype(np.int64)


def _until_end_us(packed: bytes) -> Times:
    """From timestamps to the ends of their hours. PostgreSQL counts microseconds from a full hour on."""
    return -np.frombuffer(packed, dtype=">i8").astype(np.int64) % US_PER_HOUR
