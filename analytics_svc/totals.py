"""What vehicles and the meters that fed them reported, as the database adds it up.

Energy is in kWh, None without a reading; temperatures are in degrees Celsius, None where none was measured.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from analytics_svc.charging import Counts, Numbers
from analytics_svc.comparison import Comparison

SLICE_VEHICLES = 2_000
"""Vehicles of a fleet that are worked on before other calls get their turn: some 5 ms."""


class Totals(NamedTuple):
    """What one vehicle and the meters that fed it, while they fed it, reported within a window."""

    mappings: int
    kwh_delivered_dc: float | None
    kwh_consumed_ac: float | None
    average_battery_temp: float | None
    vehicle_readings: int
    meter_readings: int
    kwh_returned_dc: float | None
    """What flowed back; what was delivered and drawn is less by it."""
    kwh_returned_ac: float | None
    kwh_delivered_dc_unmapped: float | None
    """Of what was delivered, what came while no meter was mapped."""
    kwh_consumed_ac_idle: float | None
    """Of what was drawn, what was drawn at standby."""

    @classmethod
    def of(
        cls,
        mappings: int,
        kwh_dc: float,
        kwh_ac: float,
        battery_temp_sum: float,
        battery_temp_readings: int,
        vehicle_readings: int,
        meter_readings: int,
        returned_dc: float,
        returned_ac: float,
        unmapped: float,
        idle: float,
    ) -> Self:
        """From the numbers of a fleet."""
        return cls(
            mappings,
            kwh_dc if vehicle_readings else None,
            kwh_ac if meter_readings else None,
            battery_temp_sum / battery_temp_readings if battery_temp_readings else None,
            vehicle_readings,
            meter_readings,
            returned_dc if vehicle_readings else None,
            returned_ac if meter_readings else None,
            unmapped if vehicle_readings else None,
            idle if meter_readings else None,
        )


@dataclass(frozen=True, slots=True)
class FleetTotals:
    """The totals of many vehicles: a column of each, with a value for each vehicle, 0 where it sent no reading; and
    what can be compared of them."""

    vehicle_ids: Sequence[str]
    by_id: Sequence[int]
    """Their positions in the order of the ids."""
    mappings: Counts
    kwh_delivered_dc: Numbers
    kwh_consumed_ac: Numbers
    battery_temp_sum: Numbers
    battery_temp_readings: Counts
    vehicle_readings: Counts
    meter_readings: Counts
    kwh_returned_dc: Numbers
    kwh_returned_ac: Numbers
    kwh_delivered_dc_unmapped: Numbers
    comparison: Comparison

    def __len__(self) -> int:
        return len(self.vehicle_ids)

    def at(self, position: int) -> Totals:
        return Totals.of(*(column.item(position) for column in self._columns))

    def of(self, positions: Sequence[int]) -> list[Totals]:
        """Of the vehicles at some positions."""
        at = np.array(positions, np.intp)
        return list(map(Totals.of, *(column[at].tolist() for column in self._columns)))

    @property
    def _columns(self) -> Sequence[NDArray[Any]]:
        """What `Totals.of` takes."""
        return (
            self.mappings,
            self.kwh_delivered_dc,
            self.kwh_consumed_ac,
            self.battery_temp_sum,
            self.battery_temp_readings,
            self.vehicle_readings,
            self.meter_readings,
            self.kwh_returned_dc,
            self.kwh_returned_ac,
            self.kwh_delivered_dc_unmapped,
            self.comparison.idle,
        )


def by_id(vehicle_ids: Sequence[str]) -> Sequence[int]:
    """The positions of vehicles in the order of their ids."""
    return sorted(range(len(vehicle_ids)), key=vehicle_ids.__getitem__)


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

    last_vehicle_us: int | None
    last_meter_us: int | None
    hours_either: int
    """Hours, `(h, h + 1 h]` in UTC, in which at least one side reported."""
    hours_both: int
    """Those of them in which both did."""
    compared_us: Sequence[tuple[int, int]]
    """From when to when the compared stretches last, by time; where there are very many, the last ones."""
    first_vehicle_us: int | None = None
    first_meter_us: int | None = None
    feedings: Sequence[Feeding] = ()
    """By start; where there are very many, the last ones."""
    vehicle_quality: Mapping[str, int] = field(default_factory=dict)
    """How many readings do not simply count, by why."""
    meter_quality: Mapping[str, int] = field(default_factory=dict)
    values_left_out: Mapping[str, int] = field(default_factory=dict)
    """How many values of which optional fields ever were, of fields of which some were within the window."""
    baseline_sums: NDArray[np.float64] | None = None
    """What was charged on the 28 days before, see `analytics_svc.baseline`."""
    similar_vehicle_ids: Sequence[str] = ()
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
