"""Totals of vehicles and what can be compared of them, for tests; whatever is not said is 0."""

from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import Any

import numpy as np

from analytics_svc.charging import Numbers
from analytics_svc.comparison import Comparison
from analytics_svc.stretches import Aside
from analytics_svc.totals import FleetTotals, by_id

_COUNTS = ("mappings", "battery_temp_readings", "vehicle_readings", "meter_readings")


def a_comparison(
    vehicles: int = 1, aside: Mapping[Aside, tuple[float, float]] | None = None, **energies: float
) -> Comparison:
    """The same of each of some vehicles, in kWh; `aside` is what is not compared, delivered and drawn."""

    def column(value: float) -> Numbers:
        return np.full(vehicles, float(value))

    asides = {
        f"{side}_aside": np.stack([column((aside or {}).get(reason, (0.0, 0.0))[place]) for reason in Aside])
        for place, side in enumerate(("dc", "ac"))
    }
    names = {each.name for each in fields(Comparison)} - asides.keys()
    assert energies.keys() <= names
    return Comparison(**{name: column(energies.get(name, 0.0)) for name in names}, **asides)


def a_fleet(
    vehicle_ids: Sequence[str] = ("car-1",), comparison: Comparison | None = None, **totals: Any
) -> FleetTotals:
    """The same of each of some vehicles."""
    count = len(vehicle_ids)
    names = {each.name for each in fields(FleetTotals)} - {"vehicle_ids", "by_id", "comparison"}
    assert totals.keys() <= names
    columns: dict[str, Any] = {
        name: np.full(count, totals.get(name, 0), np.int64 if name in _COUNTS else np.float64) for name in names
    }
    return FleetTotals(vehicle_ids, by_id(vehicle_ids), **columns, comparison=comparison or a_comparison(count))
