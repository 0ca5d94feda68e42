"""What vehicles and the meters that fed them reported, as the database adds it up.

Energy is in kWh, None without a reading; temperatures are in degrees Celsius, None where none was measured.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from operator import attrgetter
from typing import Any, NamedTuple, Self

SLICE_VEHICLES = 1_000
"""Vehicles of a fleet that are worked on before other calls get their turn: some 2 ms."""


class Totals(NamedTuple):
    """What one vehicle and the meters that fed it, while they fed it, reported within a window.

    A tuple, as is Performance: a fleet's list makes ten thousand of them at a time.
    """

    mappings: int
    kwh_delivered_dc: float | None
    kwh_consumed_ac: float | None
    average_battery_temp: float | None
    vehicle_readings: int
    meter_readings: int
    hours_either: int
    """Hours, `(h, h + 1 h]` in UTC, in which at least one side reported."""
    hours_both: int
    """Those of them in which both did."""
    kwh_returned_dc: float | None
    """What flowed back; what was delivered and drawn is less by it."""
    kwh_returned_ac: float | None

    @classmethod
    def of(cls, row: Any) -> Self:
        """From a row that has columns of these names."""
        return cls._make(_totals_of(row))


_totals_of = attrgetter(*Totals._fields)


@dataclass(frozen=True, slots=True)
class FleetTotals:
    """The totals of many vehicles: of each field of Totals a column, with a value for each vehicle.

    Ten thousand tuples that stay would be ten thousand objects for the garbage collector to visit again and again.
    """

    vehicle_ids: Sequence[str]
    mappings: Sequence[int]
    kwh_delivered_dc: Sequence[float | None]
    kwh_consumed_ac: Sequence[float | None]
    average_battery_temp: Sequence[float | None]
    vehicle_readings: Sequence[int]
    meter_readings: Sequence[int]
    hours_either: Sequence[int]
    hours_both: Sequence[int]
    kwh_returned_dc: Sequence[float | None]
    kwh_returned_ac: Sequence[float | None]

    @classmethod
    def of(cls, vehicle_ids: Sequence[str], totals: Sequence[Totals]) -> Self:
        """From the totals of each vehicle."""
        columns = zip(*totals, strict=True) if totals else ((),) * len(Totals._fields)
        return cls(vehicle_ids, **dict(zip(Totals._fields, columns, strict=True)))

    def __len__(self) -> int:
        return len(self.vehicle_ids)

    def at(self, position: int) -> Totals:
        return Totals._make([column[position] for column in _totals_of(self)])

    def within(self, start: int, end: int) -> Iterator[Totals]:
        """Those of the vehicles from one position up to another."""
        return map(Totals._make, zip(*(column[start:end] for column in _totals_of(self)), strict=True))


@dataclass(frozen=True, slots=True)
class Feeding:
    """A meter fed the vehicle within `since_us < t <= until_us`."""

    meter_id: str
    since_us: int
    until_us: int
    kwh_consumed_ac: float | None
    meter_readings: int
    kwh_returned_ac: float | None


@dataclass(frozen=True, slots=True)
class Evidence:
    """What a vehicle's totals are made of: timestamps in microseconds, None where a side sent no reading."""

    first_vehicle_us: int | None
    last_vehicle_us: int | None
    first_meter_us: int | None
    last_meter_us: int | None
    feedings: Sequence[Feeding]
    """By start; where there are very many, the last ones."""
    vehicle_quality: Mapping[str, int]
    """How many readings do not simply count, by why."""
    meter_quality: Mapping[str, int]
    similar_vehicle_ids: Sequence[str]
    """Other vehicles whose ids differ from this one's only in case; where there are many, the first ones."""


class Bucket(NamedTuple):
    mapped: bool
    """Whether a meter fed the vehicle for some of it."""
    kwh_delivered_dc: float | None
    kwh_consumed_ac: float | None
    average_battery_temp: float | None
    vehicle_readings: int
    meter_readings: int
    kwh_returned_dc: float | None
    kwh_returned_ac: float | None

    @classmethod
    def of(cls, row: Any) -> Self:
        """From a row that has columns of these names."""
        return cls(*(getattr(row, name) for name in cls._fields))
