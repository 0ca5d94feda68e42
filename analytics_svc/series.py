"""What a vehicle and its meters reported in each bucket of a series, from their hours. Pure."""

from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from typing import Any

import numpy as np

from analytics_svc.charging import Numbers
from analytics_svc.questions import Window
from analytics_svc.span_tables import DeviceHours
from analytics_svc.totals import Bucket
from shared.timestamps import US_PER_HOUR, us_from_datetime


class _Side:
    """What devices reported, a column of each number, with a value for each bucket."""

    def __init__(self, window: Window, starts_us: Sequence[int]) -> None:
        first_us = window.start_us // US_PER_HOUR * US_PER_HOUR
        hours = -(-(window.end_us - first_us) // US_PER_HOUR)
        begins_us = first_us + np.arange(hours) * US_PER_HOUR
        self._bucket_of = np.maximum(np.searchsorted(starts_us, begins_us, side="right") - 1, 0)
        self.kwh, self.kwh_returned, self.temperatures = np.zeros((3, len(starts_us)))
        self.readings, self.measured = np.zeros((2, len(starts_us)), np.int64)

    def add(self, device: DeviceHours) -> None:
        words = device.words[device.numbers > 0]
        at = self._bucket_of[words[:, 0] - 1]
        np.add.at(self.readings, at, words[:, 2])
        np.add.at(self.measured, at, words[:, 3])
        for column, number in ((self.kwh, 4), (self.kwh_returned, 5), (self.temperatures, 6)):
            np.add.at(column, at, words[:, number].view(np.float64))


def buckets_of(window: Window, starts_us: Sequence[int], rows: Sequence[Any]) -> list[Bucket]:
    """From the rows of `reported` of a vehicle: of buckets that follow each other without a gap. All but the first one
    start on full hours, and the first one with the window."""
    vehicle, meters = _Side(window, starts_us), _Side(window, starts_us)
    mapped = [False] * len(starts_us)
    for row in rows:
        hours = DeviceHours.unpacked(row.hours)
        if row.meter_key is None:
            vehicle.add(hours)
            continue
        meters.add(hours)
        first = bisect_right(starts_us, us_from_datetime(row.since)) - 1
        last = bisect_left(starts_us, us_from_datetime(row.until)) - 1
        mapped[first : last + 1] = [True] * (last + 1 - first)
    columns = (
        mapped,
        _energies(vehicle.kwh, vehicle),
        _energies(meters.kwh, meters),
        _averages(vehicle),
        vehicle.readings.tolist(),
        meters.readings.tolist(),
        _energies(vehicle.kwh_returned, vehicle),
        _energies(meters.kwh_returned, meters),
    )
    return list(map(Bucket, *columns))


def _energies(column: Numbers, side: _Side) -> list[float | None]:
    """None where no reading came."""
    return [kwh if readings else None for kwh, readings in zip(column.tolist(), side.readings.tolist(), strict=True)]


def _averages(side: _Side) -> list[float | None]:
    sums, numbers = side.temperatures.tolist(), side.measured.tolist()
    return [added / measured if measured else None for added, measured in zip(sums, numbers, strict=True)]
