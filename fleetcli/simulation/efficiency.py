"""How much of the alternating current a healthy car's on-board charger turns into direct current, as measured.

The curves are measurements of six cars made at DTU, published with the TransiEnt library (BSD-3-Clause, beside the
file). They show why a low ratio alone proves no defect: several healthy cars stay below 0.85 at low power.
"""

import csv
from bisect import bisect_right
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files


@dataclass(frozen=True, slots=True)
class EfficiencyCurve:
    """Direct over alternating current of one car at some grid powers, in watts and ascending."""

    car: str
    grid_watts: tuple[float, ...]
    ratios: tuple[float, ...]

    def at(self, grid_watts: float) -> float:
        """The ratio at a grid power: linear between two measurements, that of the nearest one beyond them."""
        right = bisect_right(self.grid_watts, grid_watts)
        if right == 0:
            return self.ratios[0]
        if right == len(self.ratios):
            return self.ratios[-1]
        lower, upper = self.grid_watts[right - 1], self.grid_watts[right]
        share = (grid_watts - lower) / (upper - lower)
        return self.ratios[right - 1] + share * (self.ratios[right] - self.ratios[right - 1])


@cache
def measured_curves() -> Mapping[str, EfficiencyCurve]:
    """The curve of every car that was measured, by the car's name."""
    points: dict[str, list[tuple[float, float]]] = defaultdict(list)
    with (files("fleetcli.simulation") / "data" / "onboard-charger-efficiency.csv").open(encoding="utf-8") as table:
        for row in csv.DictReader(table):
            points[row["vehicle"].replace("_", " ")].append((float(row["p_grid_w"]), float(row["eta_acdc"])))
    return {
        car: EfficiencyCurve(car, *(tuple(axis) for axis in zip(*sorted(measured), strict=True)))
        for car, measured in points.items()
    }
