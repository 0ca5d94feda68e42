"""The fleet in plain dictionaries: what must be stored, counted and answered, whatever way the readings came."""

import math
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field

from benchmarks.exact.fleet import Mapping, Plan, Reading, Values
from shared.timestamps import US_PER_HOUR


@dataclass
class Counts:
    """What became of readings: as the service's summary has it."""

    received: int = 0
    stored: int = 0
    duplicate: int = 0
    conflicting: int = 0
    rejected: int = 0


@dataclass(frozen=True)
class Performance:
    """Of one vehicle: kWh and degrees Celsius, None without a reading."""

    kwh_delivered_dc: float | None
    kwh_consumed_ac: float | None
    average_battery_temp: float | None
    vehicle_readings: int
    meter_readings: int
    hours_either: int
    hours_both: int
    kwh_returned_dc: float | None
    kwh_returned_ac: float | None


def hour_start_us(ts_us: int) -> int:
    """The hour `(h, h + 1 h]` of a timestamp."""
    return (ts_us - 1) // US_PER_HOUR * US_PER_HOUR


@dataclass
class Model:
    """What a database with the readings of a plan holds."""

    history: dict[int, dict[int, Values]] = field(default_factory=lambda: defaultdict(dict))
    """By device and timestamp."""
    counts: Counts = field(default_factory=Counts)
    fed: dict[int, list[tuple[int, int, int | None]]] = field(default_factory=lambda: defaultdict(list))
    """By vehicle: its meters, from when to when."""

    @classmethod
    def of(cls, plan: Plan) -> "Model":
        """After all of a plan."""
        model = cls()
        model.map(plan.mappings())
        for wave in plan.messages():
            for stream in wave:
                for message in stream:
                    model.take(message, plan.end_us)
        return model

    def map(self, mappings: Iterable[Mapping]) -> None:
        """A vehicle's next meter ends the one before; of two that change places each takes the other's."""
        for mapping in sorted(mappings, key=lambda each: each.from_us):
            spans = self.fed[mapping.vehicle]
            if spans:
                spans[-1] = (*spans[-1][:2], mapping.from_us)
            spans.append((mapping.meter, mapping.from_us, None))

    def take(self, readings: Iterable[Reading], latest_us: int) -> None:
        """The first reading of a device and instant stays, unless something is wrong with it."""
        counts = self.counts
        for device, ts_us, values, extra_ns in readings:
            counts.received += 1
            if extra_ns or ts_us > latest_us or (values[0] or 0.0) < -1_000:
                counts.rejected += 1
                continue
            places = self.history[device]
            there = places.get(ts_us)
            if there is None:
                places[ts_us] = values
                counts.stored += 1
            elif there == values:
                counts.duplicate += 1
            else:
                counts.conflicting += 1

    def newest(self, device: int) -> dict[int, Values]:
        """The current status: one timestamp with its values, or nothing."""
        places = self.history.get(device)
        return {(newest := max(places)): places[newest]} if places else {}

    def hourly(self, device: int) -> dict[int, Values]:
        """By start of the hour: kWh, kWh that flowed back, and readings; of vehicles also the sum and the number of
        temperatures."""
        hours: dict[int, list[Values]] = defaultdict(list)
        for ts_us, values in self.history.get(device, {}).items():
            hours[hour_start_us(ts_us)].append(values)
        found: dict[int, Values] = {}
        for hour, readings in hours.items():
            found[hour] = math.fsum(values[0] or 0.0 for values in readings), _returned(readings), len(readings)
            if device % 2:
                temps = [values[2] for values in readings if values[2] is not None]
                found[hour] += math.fsum(temps), len(temps)
        return found

    def performance(self, vehicle: int, start_us: int, end_us: int) -> Performance:
        """Over `start < t <= end`, of its meters only while they fed it."""
        dc = {ts: values for ts, values in self.history[2 * vehicle + 1].items() if start_us < ts <= end_us}
        ac = {
            (meter, ts): values
            for meter, from_us, until_us in self.fed[vehicle]
            for ts, values in self.history[2 * meter].items()
            if start_us < ts <= end_us and from_us < ts and (until_us is None or ts <= until_us)
        }
        dc_hours, ac_hours = {hour_start_us(ts) for ts in dc}, {hour_start_us(ts) for _, ts in ac}
        temps = [values[2] for values in dc.values() if values[2] is not None]
        return Performance(
            math.fsum(values[0] or 0.0 for values in dc.values()) if dc else None,
            math.fsum(values[0] or 0.0 for values in ac.values()) if ac else None,
            math.fsum(temps) / len(temps) if temps else None,
            len(dc),
            len(ac),
            len(dc_hours | ac_hours),
            len(dc_hours & ac_hours),
            _returned(dc.values()) if dc else None,
            _returned(ac.values()) if ac else None,
        )


def _returned(readings: Iterable[Values]) -> float:
    """The magnitudes of the negative energies, in kWh."""
    return math.fsum(max(0.0, -(values[0] or 0.0)) for values in readings)
