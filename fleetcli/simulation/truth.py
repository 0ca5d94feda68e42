"""What the services must answer for a simulated vehicle, counted while its readings are made.

Written from the contract alone and sharing no code with `analytics_svc`, so that the two can be held against each
other.
"""

from dataclasses import dataclass, field

from shared.timestamps import US_PER_HOUR

LOW_EFFICIENCY_BELOW = 0.85
IMPLAUSIBLE_ABOVE = 1.02
EVIDENCE_MIN_KWH = 0.5
EVIDENCE_MIN_COVERAGE = 0.9
RETURNED_MAX_SHARE = 0.01


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
    vehicle_hours: set[int] = field(default_factory=set)
    meter_hours: set[int] = field(default_factory=set)
    dc_returned_kwh: float = 0.0
    """What flowed back; the energy above is less by it."""
    ac_returned_kwh: float = 0.0
    mappings: int = 1
    """Of meters to the vehicle, within the span."""

    def add_meter_reading(self, ts_us: int, kwh: float) -> None:
        """Counts a reading of a meter that fed the vehicle then."""
        self.ac_kwh += kwh
        self.ac_returned_kwh -= min(kwh, 0.0)
        self.meter_readings += 1
        self.meter_hours.add(hour_of(ts_us))

    def add_vehicle_reading(self, ts_us: int, kwh: float, battery_temp: float | None) -> None:
        self.dc_kwh += kwh
        self.dc_returned_kwh -= min(kwh, 0.0)
        if battery_temp is not None:
            self.battery_temp_sum += battery_temp
            self.battery_temp_readings += 1
        self.vehicle_readings += 1
        self.vehicle_hours.add(hour_of(ts_us))

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
    def compared_ratio(self) -> float | None:
        """What the verdict goes by: the ratio above or, where more flowed back on a side, that of charging alone."""
        dc, ac = self.dc_kwh + self.dc_returned_kwh, self.ac_kwh + self.ac_returned_kwh
        if self.dc_returned_kwh <= RETURNED_MAX_SHARE * dc and self.ac_returned_kwh <= RETURNED_MAX_SHARE * ac:
            return self.efficiency_ratio
        return dc / ac if self.vehicle_readings and ac > 0.0 else None

    @property
    def average_battery_temp(self) -> float | None:
        """Absent where none was measured."""
        return self.battery_temp_sum / self.battery_temp_readings if self.battery_temp_readings else None

    @property
    def coverage(self) -> float | None:
        """Of the hours in which either side reported, the share in which both did; absent where there are none."""
        either = self.vehicle_hours | self.meter_hours
        return len(self.vehicle_hours & self.meter_hours) / len(either) if either else None

    @property
    def verdict(self) -> str:
        """The verdict's name in the contract, without its prefix. Every simulated vehicle has a meter."""
        ratio, coverage, drawn = self.compared_ratio, self.coverage, self.ac_kwh + self.ac_returned_kwh
        if coverage is None or coverage < EVIDENCE_MIN_COVERAGE:
            return "INSUFFICIENT_DATA"
        if ratio is None or drawn < EVIDENCE_MIN_KWH:
            return "IMPLAUSIBLE" if self._came_from_nowhere else "INSUFFICIENT_DATA"
        if ratio > IMPLAUSIBLE_ABOVE:
            return "IMPLAUSIBLE"
        return "LOW_EFFICIENCY" if ratio < LOW_EFFICIENCY_BELOW else "OK"

    @property
    def _came_from_nowhere(self) -> bool:
        """Whether enough was delivered beyond what was drawn, and not only first readings of registers say so."""
        delivered, drawn = self.dc_kwh + self.dc_returned_kwh, self.ac_kwh + self.ac_returned_kwh
        if self.compared_ratio is not None and self.compared_ratio <= IMPLAUSIBLE_ABOVE:
            return False
        return delivered >= EVIDENCE_MIN_KWH + drawn and self.meter_readings > self.mappings


def hour_of(ts_us: int) -> int:
    """Which hour since 1970 a reading belongs to. Hours are open at the start: the full hour ends the one before."""
    return (ts_us - 1) // US_PER_HOUR
