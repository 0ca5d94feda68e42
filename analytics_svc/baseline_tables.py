"""Tables of hours for baselines, from what the database packs, see `baseline_sql`."""

from collections.abc import Sequence
from hashlib import blake2b
from typing import Any, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from analytics_svc.baseline_charges import DAY_H, BaselineHours
from analytics_svc.charging import Flags, Times
from analytics_svc.hour_cache import Keys, places_of, unpack_keys
from analytics_svc.questions import Window
from shared.timestamps import EPOCH_2000_US, US_PER_HOUR, us_from_datetime

_ENDLESS_US = np.iinfo(np.int64).max


class Mapped(NamedTuple):
    """Mappings, by vehicle, meter and start; `[mappings]`."""

    vehicles: Times
    meters: Times
    since_us: Times
    until_us: Times

    @classmethod
    def unpacked(cls, packed: bytes) -> Self:
        """From ALL_MAPPINGS."""
        vehicles, meters, since, until = np.frombuffer(packed, ">i8").astype(np.int64).reshape(-1, 4).T
        return cls(vehicles, meters, _us(since), _us(until))

    @classmethod
    def of_vehicle(cls, packed: bytes, vehicle: int = 0) -> Self:
        """From BASELINE_MAPPINGS."""
        meters, since, until = np.frombuffer(packed, ">i8").astype(np.int64).reshape(-1, 3).T
        return cls(np.full(len(meters), vehicle), meters, _us(since), _us(until))

    def within(self, window: Window) -> Self:
        """Those that reach a time, as far as it tells them from others."""
        touch = (self.since_us <= window.end_us) & (self.until_us >= window.start_us)
        vehicles, meters, since_us, until_us = (column[touch] for column in self)
        return type(self)(
            vehicles, meters, np.maximum(since_us, window.start_us - 1), np.minimum(until_us, window.end_us + 1)
        )

    def of(self, vehicle: int) -> Self:
        """Those of a vehicle, by its key."""
        its = slice(*np.searchsorted(self.vehicles, [vehicle, vehicle + 1]).tolist())
        return type(self)(*(column[its] for column in self))

    def equals(self, other: Self) -> bool:
        return all(np.array_equal(its, others) for its, others in zip(self, other, strict=True))

    @property
    def version(self) -> bytes:
        """Tells them from others."""
        return blake2b(b"".join(column.tobytes() for column in self), digest_size=16).digest()


class Flowed(NamedTuple):
    """What flowed into devices, and back, in an hour, by their keys, which ascend."""

    keys: Keys
    kwh: NDArray[np.float64]
    kwh_returned: NDArray[np.float64]

    @classmethod
    def of(cls, row: Any) -> Self:
        """From a row of VEHICLE_DAY or METER_DAY."""
        keys = unpack_keys(row.device_keys)
        order = np.argsort(keys)
        columns = (np.frombuffer(packed, ">f8").astype(np.float64) for packed in (row.kwh, row.kwh_returned))
        return cls(keys[order], *(column[order] for column in columns))


NOTHING = Flowed(unpack_keys(b""), np.zeros(0), np.zeros(0))


class DayTable:
    """A day of the vehicles that meters fed on it, by ascending key, put together hour by hour."""

    def __init__(self, day: Window, mapped: Mapped) -> None:
        self.keys = np.unique(mapped.vehicles).astype(np.int32)
        self._start_us = day.start_us
        self._mapped = mapped
        self._places = np.searchsorted(self.keys, mapped.vehicles)
        self._meters = mapped.meters.astype(np.int32)
        shape = DAY_H, len(self.keys)
        self.hours = BaselineHours(np.zeros((4, *shape)), np.zeros(shape, np.bool_))

    @property
    def shared_meters(self) -> Keys:
        """The meters of the vehicles that have several mappings."""
        several = np.bincount(self._places, minlength=len(self.keys)) > 1
        return self._meters[several[self._places]]

    def put(self, number: int, vehicles: Flowed, meters: Flowed) -> None:
        """Puts an hour in its place."""
        flowed, known = self.hours
        start_us = self._start_us + number * US_PER_HOUR
        fed, known[number] = _fed(self._mapped, self._places, len(self.keys), start_us)
        ours, places = places_of(vehicles.keys, self.keys)
        flowed[0, number, places], flowed[2, number, places] = vehicles.kwh[ours], vehicles.kwh_returned[ours]
        drew, at = places_of(self._meters[fed], meters.keys)
        fed_places = self._places[fed][drew]
        for side, values in ((1, meters.kwh), (3, meters.kwh_returned)):
            flowed[side, number] = np.bincount(fed_places, weights=values[at], minlength=len(self.keys))


def hours_of_vehicle(period: Window, mappings: bytes, rows: Sequence[Any]) -> BaselineHours:
    """From the rows of BASELINE_HOURS about a vehicle, which may tell of more than a period."""
    hours = (period.end_us - period.start_us) // US_PER_HOUR
    flowed, known = np.zeros((4, hours, 1)), np.zeros((hours, 1), np.bool_)
    mapped = Mapped.of_vehicle(mappings).within(period)
    starts_us = period.start_us + US_PER_HOUR * np.arange(hours)
    ends_us = starts_us + US_PER_HOUR
    fed = (mapped.since_us[:, None] <= starts_us) & (mapped.until_us[:, None] >= ends_us)
    known[:, 0] = fed.any(axis=0)
    for edges_us in (mapped.since_us, mapped.until_us):
        known[:, 0] &= ~((edges_us[:, None] >= starts_us) & (edges_us[:, None] <= ends_us)).any(axis=0)
    for row in rows:
        words = np.frombuffer(row.hours, ">i8").astype(np.int64).reshape(-1, 3)
        at = (words[:, 0] + EPOCH_2000_US - period.start_us) // US_PER_HOUR
        within = (at >= 0) & (at < hours)
        at = at[within]
        kwh, returned = words[within, 1:].T.copy().view(np.float64)
        if row.meter_key is None:
            flowed[0, at, 0], flowed[2, at, 0] = kwh, returned
            continue
        its = fed[mapped.meters == row.meter_key].any(axis=0)[at]
        flowed[1, at, 0] += np.where(its, kwh, 0.0)
        flowed[3, at, 0] += np.where(its, returned, 0.0)
    return BaselineHours(flowed, known)


def hour_number(row: Any, day: Window) -> int:
    """Of a row of VEHICLE_DAY or METER_DAY, within its day."""
    return (us_from_datetime(row.hour_start) - day.start_us) // US_PER_HOUR


def _fed(mapped: Mapped, places: NDArray[np.intp], vehicles: int, start_us: int) -> tuple[Flags, Flags]:
    """Which mappings last through an hour, and the vehicles that have any and none that begins or ends in it."""
    end_us = start_us + US_PER_HOUR
    since_us, until_us = mapped.since_us, mapped.until_us
    fed: Flags = (since_us <= start_us) & (until_us >= end_us)
    known = np.zeros(vehicles, np.bool_)
    known[places[fed]] = True
    edge = ((since_us >= start_us) & (since_us <= end_us)) | ((until_us >= start_us) & (until_us <= end_us))
    known[places[edge]] = False
    return fed, known


def _us(since_2000: Times) -> Times:
    """From microseconds since 2000; infinity stays the greatest."""
    return np.where(
        since_2000 == _ENDLESS_US, _ENDLESS_US, since_2000 + np.where(since_2000 == _ENDLESS_US, 0, EPOCH_2000_US)
    )
