"""One charging point over time: a car comes, charges along its measured efficiency curve, goes, and comes back."""

from random import Random
from typing import NamedTuple

from fleetcli.simulation.efficiency import EfficiencyCurve

LEAST_WATTS = 1_380.0
"""6 A at 230 V, the least that IEC 61851 lets a charging point offer."""

TAPER_FROM_SOC = 80.0
"""Percent. Above it batteries take less and less."""

FIRST_ARRIVAL_MAX_S = 2 * 3_600
AWAY_S = (3_600, 6 * 3_600)

BATTERY_KWH = (40.0, 52.0, 64.0, 77.0)

GIVEN_BACK = (0.3, 0.7)
"""Share of what it took that a V2G car gives back before it leaves."""


class Step(NamedTuple):
    """One interval: energy in kWh, negative where it flows back; at its end the state of charge in percent and the
    battery temperature in °C."""

    ac_kwh: float
    dc_kwh: float
    soc: float
    battery_temp: float


class Charging:
    """Makes one step after another; `health`, which may change, is the share of a healthy charger's output that is
    left. With `v2g` a car gives some of its charge back before it leaves."""

    def __init__(
        self,
        random: Random,
        curve: EfficiencyCurve,
        rated_watts: float,
        health: float,
        step_s: int,
        span_s: float,
        v2g: bool,
    ) -> None:
        self._random = random.random
        self._uniform = random.uniform
        self._curve = curve
        self._rated_watts = rated_watts
        self.health = health
        self._v2g = v2g
        self._taken_kwh = self._to_give_kwh = 0.0
        self._step_s = step_s
        self._kwh_per_watt = step_s / 3_600_000
        self._soc_per_kwh = 100.0 / random.choice(BATTERY_KWH)
        self._ambient_temp = random.uniform(5.0, 28.0)
        self._warming = min(1.0, step_s / 3_600)
        self._temp = self._ambient_temp
        self._soc = random.uniform(15.0, 60.0)
        self._soc_target = 0.0
        self._steps_away = int(random.uniform(0, min(FIRST_ARRIVAL_MAX_S, span_s / 4)) / step_s)

    def step(self) -> Step:
        if self._steps_away > 0:
            self._steps_away -= 1
            if self._temp != self._ambient_temp:
                self._temp += (self._ambient_temp - self._temp) * self._warming
            return Step(0.0, 0.0, self._soc, self._temp)
        if self._to_give_kwh:
            return self._give_back()
        if not self._soc_target:
            self._soc_target = self._uniform(80.0, 99.0)
        watts = self._rated_watts * (0.97 + 0.03 * self._random())
        if self._soc > TAPER_FROM_SOC:
            watts = max(LEAST_WATTS, watts * (100.0 - self._soc) / (100.0 - TAPER_FROM_SOC))
        ac_kwh = watts * self._kwh_per_watt
        dc_kwh = ac_kwh * self._curve.at(watts) * self.health
        self._soc = min(100.0, self._soc + dc_kwh * self._soc_per_kwh)
        self._temp += (self._ambient_temp + watts / 800.0 - self._temp) * self._warming
        step = Step(ac_kwh, dc_kwh, self._soc, self._temp)
        self._taken_kwh += dc_kwh
        if self._soc >= self._soc_target:
            if self._v2g:
                self._to_give_kwh = self._taken_kwh * self._uniform(*GIVEN_BACK)
            else:
                self._drive_away()
        return step

    def _give_back(self) -> Step:
        dc_kwh = min(self._rated_watts * self._kwh_per_watt, self._to_give_kwh)
        ac_kwh = dc_kwh * self._curve.at(self._rated_watts) * self.health
        self._to_give_kwh -= dc_kwh
        self._soc -= dc_kwh * self._soc_per_kwh
        self._temp += (self._ambient_temp + self._rated_watts / 800.0 - self._temp) * self._warming
        step = Step(-ac_kwh, -dc_kwh, self._soc, self._temp)
        if not self._to_give_kwh:
            self._drive_away()
        return step

    def _drive_away(self) -> None:
        self._soc_target = self._taken_kwh = 0.0
        self._soc = max(10.0, self._soc - self._uniform(20.0, 60.0))
        self._steps_away = max(1, int(self._uniform(*AWAY_S) / self._step_s))
