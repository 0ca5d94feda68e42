"""One simulated charger: its meters, its vehicle, what is wrong with it, and the readings that both sides send."""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from random import Random
from typing import NamedTuple

from fleetcli.simulation.charging import Charging, Step
from fleetcli.simulation.efficiency import measured_curves
from fleetcli.simulation.truth import VehicleTruth
from shared.timestamps import US_PER_HOUR, US_PER_SECOND, datetime_from_us

UNEVEN_INTERVALS = ((1, 5), (5, 1), (1, 15), (15, 1))
"""Reporting intervals of (meter, vehicle) that differ, in steps."""

INTERVALS_JOIN = 15
"""Steps after which both sides have reported the same span, whatever their intervals: the least common multiple."""

RATED_WATTS = ((3_700.0, 1), (7_400.0, 4), (11_000.0, 5))
"""What charging points offer, and how common each kind is. At the smallest, healthy cars may stay below 0.85."""

CAR_WEIGHTS = {"Renault Zoe R110": 1}
"""How common a car is, 4 where nothing is said. This one stays below 0.85 at most powers even when it is healthy."""

WORN_HEALTH = (0.70, 0.84)
"""Share of a healthy charger's output that a worn one has left: below 0.85 with every car that was measured."""

WEARING_HEALTH = (0.92, 0.94)
"""What a charger has left whose wear is slow: 5 to 7 points less than before."""

WEARING_CAR = "Volkswagen ID3"
"""One that is far enough above 0.85 to stay there."""

WEARING_DAYS = 10
"""In which it sinks to that, up to the span."""

PAST_DAYS = 29
"""Before the span that a charger with a past reports, by the hour: 28 whole ones tell what is normal for it."""

PAST_STEP_S = 3_600

SPAN_MAX_DAYS = 399
"""With the past: older readings are refused."""

VOLTS = (226.0, 234.0)

PHASES = (0.35, 0.33, 0.32)
"""Share of the energy that each meter sees where there is one for each phase."""

STRANGER_WATTS = 3_600.0
"""What others draw from a meter while it does not feed our vehicle. Must never count."""


REGISTER_KWH = (0.0, 20_000.0)
"""What a meter's register shows in the beginning."""

SENTINEL_TEMP, SENTINEL_SHARE = -127.0, 0.1
"""What a temperature sensor says that is not there, in °C, and how often."""

GLITCH_KWH = 20_000.0
"""A reading that no charger can have drawn since the one before."""


class MeterReading(NamedTuple):
    """Time in microseconds, interval energy or register in kWh, voltage in volts."""

    meter_id: str
    ts_us: int
    kwh_consumed_ac: float | None
    voltage: float
    register_kwh: float | None = None


class VehicleReading(NamedTuple):
    """Time in microseconds, interval energy in kWh, state of charge in percent, temperature in °C."""

    vehicle_id: str
    ts_us: int
    kwh_delivered_dc: float
    soc: float
    battery_temp: float


Burst = Sequence[MeterReading] | Sequence[VehicleReading]
"""Readings of one device that arrive together."""


@dataclass(frozen=True, slots=True)
class Mapping:
    """The meter feeds the vehicle from an instant on (exclusive), until another mapping of either of them."""

    vehicle_id: str
    meter_id: str
    effective_from_us: int
    joins: bool = False
    """Feeds it beside its other meters, not in their place."""


@dataclass(frozen=True, slots=True)
class Correction:
    """What should count of a meter's reading."""

    meter_id: str
    ts_us: int
    kwh: float


class Faulty(Enum):
    """What can be wrong with a charger, or out of the ordinary; the values are for people."""

    WORN = "worn"
    WEARING = "wearing slowly"
    SILENT = "with a silent meter"
    MOVED = "moved to another meter"
    V2G = "that give back to the grid"
    BY_PHASE = "with a meter for each phase"
    REGISTER = "whose meter sends its register"
    SENTINEL = "with a broken temperature sensor"
    GLITCH = "with a glitch that gets corrected"


class Charger:
    """A charging point with its devices. Steps are counted from 0; step `n` ends at `first_ts_us + n * step_us`."""

    def __init__(
        self, number: int, fault: Faulty | None, uneven: bool, seed: int, start_us: int, end_us: int, every_s: int
    ) -> None:
        self._random = random = Random(f"{seed}/{number}")
        curves = measured_curves()
        curve = curves[random.choices(list(curves), [CAR_WEIGHTS.get(car, 4) for car in curves])[0]]
        if fault is Faulty.WEARING:
            curve = curves[WEARING_CAR]
        kinds, weights = zip(*RATED_WATTS, strict=True)
        rated_watts = min(random.choices(kinds, weights)[0], curve.grid_watts[-1])
        health = random.uniform(*WORN_HEALTH) if fault is Faulty.WORN else 1.0
        self.fault = fault
        self.uneven = uneven
        self._step_us = every_s * US_PER_SECOND
        self._first_ts_us = start_us + random.randint(1, self._step_us)  # devices do not tick together
        self.steps = max(0, (end_us - self._first_ts_us) // self._step_us + 1)
        self._done_steps = 0
        self._meter_interval, self._vehicle_interval = random.choice(UNEVEN_INTERVALS) if uneven else (1, 1)
        span_s = (end_us - start_us) / US_PER_SECOND
        self._past_hours = 0
        if fault is Faulty.WEARING:
            health = random.uniform(*WEARING_HEALTH)
            self._past_hours = int(24 * max(0.0, min(PAST_DAYS, SPAN_MAX_DAYS - span_s / 86_400)))
            self._past = Charging(random, curve, rated_watts, 1.0, PAST_STEP_S, span_s, False)
        self._health = health
        self._charging = Charging(random, curve, rated_watts, health, every_s, span_s, fault is Faulty.V2G)
        self._stranger_kwh = STRANGER_WATTS * every_s / 3_600_000
        self._vehicle_id = f"ev-{seed}-{number:05}"
        self.meter_ids = [f"meter-{seed}-{number:05}"]
        past_us = self._past_hours * US_PER_HOUR
        self.mappings = [Mapping(self._vehicle_id, self.meter_ids[0], start_us - past_us)]
        self.corrections: list[Correction] = []
        self._registers: dict[str, float] = {}
        self._silent_from = self._moved_at = self._glitch_from = self.steps
        story = f"healthy, {curve.car} at {rated_watts / 1_000:.1f} kW"
        if fault is Faulty.WORN:
            story = f"worn, gives {health:.0%} of a healthy {curve.car}"
        elif fault is Faulty.WEARING:
            story = f"wears slowly, gives {health:.0%} of a healthy {curve.car}"
        elif fault is Faulty.SILENT:
            self._silent_from = int(self.steps * random.uniform(0.25, 0.6))
            story = f"meter silent after {self._clock(self._silent_from - 1)}"
        elif fault is Faulty.V2G:
            story = f"V2G, {curve.car} at {rated_watts / 1_000:.1f} kW"
        elif fault is Faulty.BY_PHASE:
            self.meter_ids = [f"{self.meter_ids[0]}-L{phase}" for phase in range(1, len(PHASES) + 1)]
            self.mappings = [Mapping(self._vehicle_id, each, start_us, joins=True) for each in self.meter_ids]
            story = f"{len(PHASES)} meters, {curve.car} at {rated_watts / 1_000:.1f} kW"
        elif fault is Faulty.REGISTER:
            story = f"sends registers, {curve.car} at {rated_watts / 1_000:.1f} kW"
        elif fault is Faulty.SENTINEL:
            story = f"temperature of {SENTINEL_TEMP:g} °C now and then, {curve.car}"
        elif fault is Faulty.GLITCH:
            self._glitch_from = self.steps // 2
            story = f"a glitch after {self._clock(self._glitch_from - 1)}, corrected"
        elif fault is Faulty.MOVED and self.steps > INTERVALS_JOIN:
            moved_at = int(self.steps * random.uniform(0.3, 0.7)) // INTERVALS_JOIN * INTERVALS_JOIN
            self._moved_at = max(INTERVALS_JOIN, moved_at)
            self.meter_ids.append(f"meter-{seed}-{number:05}-b")
            self.mappings.append(Mapping(self._vehicle_id, self.meter_ids[1], self._ts_us(self._moved_at - 1)))
            story = f"moved to another meter at {self._clock(self._moved_at - 1)}"
        self.truth = VehicleTruth(self._vehicle_id, story, mappings=len(self.mappings))

    def past_bursts(self) -> list[Burst]:
        """What its devices report of the days before the span, hour by hour. Tells `truth` what is normal."""
        meter: list[MeterReading] = []
        vehicle: list[VehicleReading] = []
        uniform, wearing_h = self._random.uniform, WEARING_DAYS * 24
        for left in range(self._past_hours - 1, -1, -1):
            self._past.health = 1.0 - (1.0 - self._health) * max(0, wearing_h - left) / wearing_h
            ts_us = self._first_ts_us - self._step_us - left * US_PER_HOUR
            ac_kwh, dc_kwh, soc, battery_temp = self._past.step()
            meter.append(MeterReading(self.meter_ids[0], ts_us, ac_kwh, uniform(*VOLTS)))
            vehicle.append(VehicleReading(self._vehicle_id, ts_us, dc_kwh, soc, battery_temp))
            self.truth.add_past(ac_kwh, dc_kwh)
        return [burst for burst in (meter, vehicle) if burst]

    def next_bursts(self, steps: int) -> list[Burst]:
        """What its devices report of the next steps, a burst for each device that has something to report.

        `steps` must be a multiple of INTERVALS_JOIN. Counts the readings in `truth`.
        """
        first = self._done_steps
        happened = [self._charging.step() for _ in range(min(steps, self.steps - first))]
        self._done_steps += len(happened)
        bursts: list[Burst] = [self._meter_burst(place, first, happened) for place in range(len(self.meter_ids))]
        bursts.append(self._vehicle_burst(first, happened))
        return [burst for burst in bursts if burst]

    def _meter_burst(self, place: int, first: int, happened: Sequence[Step]) -> list[MeterReading]:
        share = PHASES[place] if self.fault is Faulty.BY_PHASE else 1.0
        drawn = [
            share * step.ac_kwh if self._feeds(place, first + at) else self._stranger_kwh
            for at, step in enumerate(happened)
        ]
        meter_id, interval, uniform = self.meter_ids[place], self._meter_interval, self._random.uniform
        burst = []
        for at in range(interval - 1, len(drawn), interval):
            last = first + at
            if last >= self._silent_from:
                break
            ts_us = self._first_ts_us + last * self._step_us
            kwh = drawn[at] if interval == 1 else sum(drawn[at - interval + 1 : at + 1])
            reading, counted_kwh = self._as_sent(MeterReading(meter_id, ts_us, kwh, uniform(*VOLTS)), last)
            burst.append(reading)
            if self._feeds(place, last):
                self.truth.add_meter_reading(ts_us, counted_kwh)
        return burst

    def _as_sent(self, reading: MeterReading, step: int) -> tuple[MeterReading, float]:
        """What a meter sends of its interval, and what counts of that in the end."""
        meter_id, ts_us, kwh, *_ = reading
        assert kwh is not None
        if self.fault is Faulty.REGISTER:
            before = self._registers.get(meter_id)
            shown = self._random.uniform(*REGISTER_KWH) if before is None else before + kwh
            self._registers[meter_id] = shown
            counted_kwh = 0.0 if before is None else kwh
            return reading._replace(kwh_consumed_ac=None, register_kwh=shown), counted_kwh
        if step >= self._glitch_from and not self.corrections:
            self.corrections.append(Correction(meter_id, ts_us, kwh))
            return reading._replace(kwh_consumed_ac=GLITCH_KWH), kwh
        return reading, kwh

    def _vehicle_burst(self, first: int, happened: Sequence[Step]) -> list[VehicleReading]:
        interval = self._vehicle_interval
        burst = []
        for at in range(interval - 1, len(happened), interval):
            ts_us = self._first_ts_us + (first + at) * self._step_us
            _, kwh, soc, battery_temp = happened[at]
            if interval > 1:
                kwh = sum(step.dc_kwh for step in happened[at - interval + 1 : at + 1])
            if self.fault is Faulty.SENTINEL and self._random.random() < SENTINEL_SHARE:
                burst.append(VehicleReading(self._vehicle_id, ts_us, kwh, soc, SENTINEL_TEMP))
                self.truth.add_vehicle_reading(ts_us, kwh, None)
                continue
            burst.append(VehicleReading(self._vehicle_id, ts_us, kwh, soc, battery_temp))
            self.truth.add_vehicle_reading(ts_us, kwh, battery_temp)
        return burst

    def _feeds(self, place: int, step: int) -> bool:
        """Whether the meter in that place feeds the vehicle in a step."""
        return self.fault is Faulty.BY_PHASE or (place == 0) == (step < self._moved_at)

    def _ts_us(self, step: int) -> int:
        return self._first_ts_us + step * self._step_us

    def _clock(self, step: int) -> str:
        return f"{datetime_from_us(self._ts_us(step)):%H:%M} UTC"
