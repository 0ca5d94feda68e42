"""What the services must answer for a simulated vehicle, counted while its readings are made.

Written from the contract alone and sharing no code with `analytics_svc`, so that the two can be held against each
other.
"""

from collections import defaultdict
from dataclasses import dataclass, field

from shared.timestamps import US_PER_HOUR

LOW_EFFICIENCY_BELOW = 0.85
IMPLAUSIBLE_ABOVE = 1.02
PLAUSIBLE_MIN = 0.3
EVIDENCE_MIN_KWH = 0.5
RETURNED_MAX_SHARE = 0.01

NEAR_A_LIMIT = 0.02
"""Relative. So much may a ratio be moved by what the service leaves out at the ends of charges."""

BASELINE_MIN_KWH = 20.0
RATIO_DROP_MIN = 0.03
NEAR_THE_DROP = 0.015
"""So much may a drop be moved: the first charge and the last one of the days before may be left out."""

SURE_HOURS = 3
SURE_KWH = 2.0
"""Hours, and kWh drawn, from which on a charge has to be judged: of less, edges may be the greater part."""


@dataclass(slots=True)
class VehicleTruth:
    """Everything that is true of one simulated vehicle over the simulated span. Energy in kWh, temperature in °C.

    Repeated readings are counted once, and a meter's readings only while it fed the vehicle.
    """

    vehicle_id: str
    story: str
    """What was simulated, a phrase for people."""

    dc_kwh: float = 0.0
    ac_kwh: float = 0.0
    vehicle_readings: int = 0
    meter_readings: int = 0
    battery_temp_sum: float = 0.0
    battery_temp_readings: int = 0
    dc_by_hour: defaultdict[int, float] = field(default_factory=lambda: defaultdict(float))
    """What flowed in within each hour in which the vehicle reported; the next likewise, of its meters."""
    ac_by_hour: defaultdict[int, float] = field(default_factory=lambda: defaultdict(float))
    dc_returned_kwh: float = 0.0
    """What flowed back; the energy above is less by it."""
    ac_returned_kwh: float = 0.0
    mappings: int = 1
    """Of meters to the vehicle, within the span."""

    past_ac_kwh: float = 0.0
    """What was drawn on the days before the span; the next likewise."""
    past_dc_kwh: float = 0.0

    def add_past(self, ac_kwh: float, dc_kwh: float) -> None:
        """Counts an hour of the days before the span."""
        self.past_ac_kwh += ac_kwh
        self.past_dc_kwh += dc_kwh

    @property
    def baseline_ratio(self) -> float | None:
        """What is normal for the vehicle. Absent where too little came before."""
        return self.past_dc_kwh / self.past_ac_kwh if self.past_ac_kwh >= BASELINE_MIN_KWH else None

    @property
    def has_dropped(self) -> bool | None:
        """Whether its ratio has dropped below that; None where it is near enough for either."""
        normal, ratio = self.baseline_ratio, self.compared_ratio
        if normal is None or ratio is None:
            return False
        less = normal - ratio - RATIO_DROP_MIN
        return None if abs(less) <= NEAR_THE_DROP else less > 0

    def add_meter_reading(self, ts_us: int, kwh: float) -> None:
        """Counts a reading of a meter that fed the vehicle then."""
        self.ac_kwh += kwh
        self.ac_returned_kwh -= min(kwh, 0.0)
        self.meter_readings += 1
        self.ac_by_hour[hour_of(ts_us)] += max(kwh, 0.0)

    def add_vehicle_reading(self, ts_us: int, kwh: float, battery_temp: float | None) -> None:
        self.dc_kwh += kwh
        self.dc_returned_kwh -= min(kwh, 0.0)
        if battery_temp is not None:
            self.battery_temp_sum += battery_temp
            self.battery_temp_readings += 1
        self.vehicle_readings += 1
        self.dc_by_hour[hour_of(ts_us)] += max(kwh, 0.0)

    @property
    def kwh_delivered_dc(self) -> float | None:
        """Absent where the vehicle sent nothing."""
        return self.dc_kwh if self.vehicle_readings else None

    @property
    def kwh_consumed_ac(self) -> float | None:
        """Absent where its meters sent nothing."""
        return self.ac_kwh if self.meter_readings else None

    @property
    def kwh_returned_dc(self) -> float | None:
        return self.dc_returned_kwh if self.vehicle_readings else None

    @property
    def kwh_returned_ac(self) -> float | None:
        return self.ac_returned_kwh if self.meter_readings else None

    @property
    def efficiency_ratio(self) -> float | None:
        """Absent where one side is, or where no more was drawn than flowed back."""
        if not self.vehicle_readings or self.ac_kwh <= 0.0:
            return None
        return self.dc_kwh / self.ac_kwh

    @property
    def compared_hours(self) -> set[int]:
        """The hours of which both sides report up to their end: that in which one of them falls silent is no part."""
        if not self.dc_by_hour or not self.ac_by_hour:
            return set()
        vehicle_last, meters_last = max(self.dc_by_hour), max(self.ac_by_hour)
        end = max(vehicle_last, meters_last) + 1 if vehicle_last == meters_last else min(vehicle_last, meters_last)
        return {hour for hour in self.dc_by_hour | self.ac_by_hour if hour < end}

    @property
    def compared_ac_kwh(self) -> float:
        """What was drawn in these hours."""
        return sum(self.ac_by_hour.get(hour, 0.0) for hour in self.compared_hours)

    @property
    def compared_ratio(self) -> float | None:
        """What the verdict goes by: of these hours, of charging alone where much flowed back, otherwise net."""
        dc = sum(self.dc_by_hour.get(hour, 0.0) for hour in self.compared_hours)
        ac = self.compared_ac_kwh
        if ac <= 0:
            return None
        much = self.dc_returned_kwh > RETURNED_MAX_SHARE * dc or self.ac_returned_kwh > RETURNED_MAX_SHARE * ac
        return dc / ac if much else (dc - self.dc_returned_kwh) / max(ac - self.ac_returned_kwh, 1e-9)

    @property
    def average_battery_temp(self) -> float | None:
        """Absent where none was measured."""
        return self.battery_temp_sum / self.battery_temp_readings if self.battery_temp_readings else None

    @property
    def verdict(self) -> str:
        """The verdict's name in the contract, without its prefix. Every simulated vehicle has a meter."""
        ratio = self.compared_ratio
        if ratio is None or self.compared_ac_kwh < EVIDENCE_MIN_KWH:
            return "INSUFFICIENT_DATA"
        return _verdict(ratio)

    @property
    def verdicts(self) -> set[str]:
        """The verdicts that are right: of little energy, and of a ratio that is near a limit, more than one."""
        ratio, found = self.compared_ratio, {self.verdict}
        if ratio is None:
            return found | {"IMPLAUSIBLE", *self._verdicts_up_to_each_hour()}
        near = {_verdict(ratio * (1 + error)) for error in (-NEAR_A_LIMIT, NEAR_A_LIMIT)}
        if len(self.compared_hours) < SURE_HOURS or self.compared_ac_kwh < SURE_KWH:
            return found | near | {"INSUFFICIENT_DATA", *self._verdicts_up_to_each_hour()}
        return found | near | {"INSUFFICIENT_DATA"} if len(near) > 1 else found

    def _verdicts_up_to_each_hour(self) -> set[str]:
        """Of a side that falls silent within minutes of an hour's beginning or end, only what came before may count."""
        found, dc, ac = set(), 0.0, 0.0
        for hour in sorted(self.dc_by_hour.keys() & self.ac_by_hour.keys()):
            dc, ac = dc + self.dc_by_hour[hour], ac + self.ac_by_hour[hour]
            if ac > 0:
                found |= {_verdict(dc / ac * (1 + error)) for error in (-NEAR_A_LIMIT, NEAR_A_LIMIT)}
        return found


def _verdict(ratio: float) -> str:
    if not PLAUSIBLE_MIN <= ratio <= IMPLAUSIBLE_ABOVE:
        return "IMPLAUSIBLE"
    return "LOW_EFFICIENCY" if ratio < LOW_EFFICIENCY_BELOW else "OK"


def hour_of(ts_us: int) -> int:
    """Which hour since 1970 a reading belongs to. Hours are open at the start: the full hour ends the one before."""
    return (ts_us - 1) // US_PER_HOUR
