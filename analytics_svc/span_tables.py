"""Tables of hours, from what the database packs: of spans one by one, see `spans_sql`, or of a fleet hour by hour."""

from bisect import bisect_right
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from analytics_svc.charging import NO_READING, Counts, Numbers, Places, SideHours, Spans, Times
from analytics_svc.comparison import ComparedStretches, compare
from analytics_svc.questions import Window
from analytics_svc.stretches import CompareLimits
from analytics_svc.totals import Evidence, Feeding, FleetTotals, by_id
from shared.timestamps import US_PER_HOUR, us_from_datetime

STRETCHES_MAX = 100
"""Compared stretches that are told one by one: three a day for a month."""

_EPOCH_2000_US = 946_684_800 * 1_000_000
"""From which PostgreSQL counts."""


def hours_in(window: Window) -> int:
    """Hours, `(h, h + 1 h]`, that a window reaches into."""
    return (window.end_us - 1) // US_PER_HOUR - window.start_us // US_PER_HOUR + 1


class DeviceHours(NamedTuple):
    """What a device reported in hours of a span, by their numbers; number 0 is the hour before the span."""

    numbers: Places
    kwh: Numbers
    kwh_returned: Numbers
    readings: Counts
    last_us: Times
    battery_temp_sum: Numbers
    battery_temp_readings: Counts

    @classmethod
    def of(cls, row: Any, hours_earlier: int = 0) -> "DeviceHours":
        """From a row of `reported`; numbered for a window that begins some hours later than the one asked about."""
        numbers = _unpacked(row.numbers, ">i4").astype(np.intp)
        return cls(
            np.maximum(numbers - hours_earlier, 0),
            _unpacked(row.kwh, ">f8"),
            _unpacked(row.kwh_returned, ">f8"),
            _unpacked(row.readings, ">i4").astype(np.int64),
            _unpacked(row.last_ts, ">i8") + _EPOCH_2000_US,
            _unpacked(row.battery_temp_sums, ">f8"),
            _unpacked(row.battery_temp_readings, ">i4").astype(np.int64),
        )

    def within(self) -> "DeviceHours":
        """Without the hour before the span."""
        inside = self.numbers > 0
        return self if inside.all() else DeviceHours._make(each[inside] if len(each) else each for each in self)


@dataclass(frozen=True, slots=True)
class VehicleSpan:
    """A span, with what the vehicle and each of the meters that fed it reported."""

    since_us: int
    until_us: int
    vehicle: DeviceHours
    meters: Sequence[DeviceHours]


class MappedPart(NamedTuple):
    """The part of a mapping that lies within a window."""

    meter_key: int
    since_us: int
    until_us: int


@dataclass(frozen=True, slots=True)
class VehicleHours:
    """All spans of a vehicle within a window, and what its meters reported while they fed it, by mapping."""

    spans: Sequence[VehicleSpan]
    mappings: Mapping[MappedPart, Sequence[DeviceHours]]


def vehicles_of(rows: Sequence[Any], window: Window | None = None, hours_earlier: int = 0) -> dict[int, VehicleHours]:
    """From rows of `reported`, by vehicle_key: those of a window within the one asked about, some hours later."""
    spans: dict[tuple[int, int], tuple[int, list[DeviceHours], list[DeviceHours]]] = {}
    mappings: dict[int, dict[MappedPart, list[DeviceHours]]] = defaultdict(lambda: defaultdict(list))
    for row in rows:
        place = row.vehicle_key, us_from_datetime(row.since)
        until_us, vehicle, meters = spans.setdefault(place, (us_from_datetime(row.until), [], []))
        hours = DeviceHours.of(row, hours_earlier)
        if row.meter_key is None:
            vehicle.append(hours)
            continue
        meters.append(hours)
        since_us, until_us = us_from_datetime(row.mapped_since), us_from_datetime(row.mapped_until)
        if window is not None:
            since_us, until_us = max(since_us, window.start_us), min(until_us, window.end_us)
        mappings[row.vehicle_key][MappedPart(row.meter_key, since_us, until_us)].append(hours.within())
    found: dict[int, list[VehicleSpan]] = defaultdict(list)
    for (key, since_us), (until_us, [own], meters) in sorted(spans.items(), key=lambda item: item[0]):
        found[key].append(VehicleSpan(since_us, until_us, own, meters))
    return {key: VehicleHours(its, mappings[key]) for key, its in found.items()}


def rows_by_part(parts: Sequence[Window], rows: Sequence[Any]) -> tuple[list[list[Any]], list[Any]]:
    """Rows of `reported` whose spans end where parts of the window do, which do not overlap and are by time: those of
    each part, and those outside."""
    within: list[list[Any]] = [[] for _ in parts]
    outside: list[Any] = []
    starts_us = [part.start_us for part in parts]
    for row in rows:
        since_us = us_from_datetime(row.since)
        at = bisect_right(starts_us, since_us) - 1
        inside = at >= 0 and since_us < parts[at].end_us
        (within[at] if inside else outside).append(row)
    return within, outside


def hours_of_part(window: Window, part: Window, rows: Sequence[Any]) -> VehicleHours:
    """From the rows of a part of a window, of one vehicle."""
    [vehicle] = vehicles_of(rows, part, part.start_us // US_PER_HOUR - window.start_us // US_PER_HOUR).values()
    return vehicle


def energy_of(rows: Sequence[Any]) -> float | None:
    """What some devices reported together, in kWh; None where no reading came."""
    hours = [DeviceHours.of(row).within() for row in rows]
    return _sum(each.kwh for each in hours) if any(each.readings.any() for each in hours) else None


def spans_table(window: Window, spans: Sequence[VehicleSpan]) -> Spans:
    """The table of some spans."""
    hours = hours_in(window)
    starts_us = np.array([each.since_us for each in spans], np.int64)
    until_us = np.array([each.until_us for each in spans], np.int64)
    grid_us = window.start_us // US_PER_HOUR * US_PER_HOUR + np.arange(hours + 1, dtype=np.int64) * US_PER_HOUR
    ends_us = np.minimum(np.maximum(grid_us[:, None], starts_us), until_us)
    ends_us[0] = starts_us
    shape = hours + 1, len(spans)
    return Spans(
        window.start_us,
        starts_us,
        ends_us,
        _side(shape, [[each.vehicle] for each in spans]),
        _side(shape, [each.meters for each in spans]),
    )


def _side(shape: tuple[int, int], devices_of: Sequence[Sequence[DeviceHours]]) -> SideHours:
    side = SideHours(np.zeros(shape), np.zeros(shape), np.zeros(shape, np.int64), np.full(shape, NO_READING))
    for span, devices in enumerate(devices_of):
        for number, device in enumerate(devices):
            at = device.numbers
            side.kwh[at, span] += device.kwh + device.kwh_returned
            side.kwh_returned[at, span] += device.kwh_returned
            side.readings[at, span] += device.readings
            last_us = np.full(shape[0], NO_READING)
            last_us[at] = device.last_us
            last_us = np.maximum.accumulate(last_us)
            side.last_us[:, span] = last_us if number == 0 else np.minimum(side.last_us[:, span], last_us)
    return side


def totals_of(
    window: Window, vehicle_ids: Sequence[str], vehicles: Sequence[VehicleHours], limits: CompareLimits
) -> tuple[FleetTotals, ComparedStretches]:
    """The totals of vehicles, and the stretches that are compared, by the position of the vehicle."""
    mapped = [(at, span) for at, vehicle in enumerate(vehicles) for span in vehicle.spans if span.meters]
    vehicle_of = np.array([at for at, _ in mapped], np.intp)
    comparison, stretches = compare(spans_table(window, [span for _, span in mapped]), limits)
    columns: dict[str, list[Any]] = {each.name: [] for each in fields(FleetTotals)[2:-1]}
    for vehicle in vehicles:
        own = [span.vehicle.within() for span in vehicle.spans]
        fed = [hours for devices in vehicle.mappings.values() for hours in devices]
        columns["mappings"].append(len(vehicle.mappings))
        columns["kwh_delivered_dc"].append(_sum(each.kwh for each in own))
        columns["kwh_consumed_ac"].append(_sum(each.kwh for each in fed))
        columns["battery_temp_sum"].append(_sum(each.battery_temp_sum for each in own))
        columns["battery_temp_readings"].append(_sum(each.battery_temp_readings for each in own))
        columns["vehicle_readings"].append(_sum(each.readings for each in own))
        columns["meter_readings"].append(_sum(each.readings for each in fed))
        columns["kwh_returned_dc"].append(_sum(each.kwh_returned for each in own))
        columns["kwh_returned_ac"].append(_sum(each.kwh_returned for each in fed))
        unmapped = (each.vehicle.within().kwh for each in vehicle.spans if not each.meters)
        columns["kwh_delivered_dc_unmapped"].append(_sum(unmapped))
    totals = FleetTotals(
        vehicle_ids,
        by_id(vehicle_ids),
        **{name: np.array(values) for name, values in columns.items()},
        comparison=comparison.by_vehicle(vehicle_of, len(vehicles)),
    )
    return totals, ComparedStretches(
        vehicle_of[stretches.span], *(getattr(stretches, each.name) for each in fields(stretches)[1:])
    )


def evidence_of(vehicle: VehicleHours, stretches: ComparedStretches) -> Evidence:
    """What a vehicle's hours say beside its totals."""
    of_vehicle = [span.vehicle.within() for span in vehicle.spans]
    of_meters = [hours for devices in vehicle.mappings.values() for hours in devices]
    vehicle_hours, meter_hours = (
        {number for each in side for number in each.numbers.tolist()} for side in (of_vehicle, of_meters)
    )
    compared_us = list(zip(stretches.begins_us.tolist(), stretches.ends_us.tolist(), strict=True))
    return Evidence(
        last_vehicle_us=_last_us(of_vehicle),
        last_meter_us=_last_us(of_meters),
        hours_either=len(vehicle_hours | meter_hours),
        hours_both=len(vehicle_hours & meter_hours),
        compared_us=compared_us[-STRETCHES_MAX:],
    )


def feedings_of(mappings: Mapping[MappedPart, Sequence[DeviceHours]], meter_ids: Mapping[int, str]) -> list[Feeding]:
    """What each meter drew while it fed, by start and then by meter."""
    feedings = []
    for (meter_key, since_us, until_us), parts in mappings.items():
        readings = sum(each.readings.sum().item() for each in parts)
        sums = [sum(getattr(each, name).sum().item() for each in parts) for name in ("kwh", "kwh_returned")]
        kwh, returned = sums if readings else (None, None)
        feedings.append(Feeding(meter_ids[meter_key], since_us, until_us, kwh, readings, returned))
    return sorted(feedings, key=lambda each: (each.since_us, each.meter_id))


def _last_us(side: Sequence[DeviceHours]) -> int | None:
    """The last reading of a side."""
    return max((each.last_us.max().item() for each in side if len(each.last_us)), default=None)


def _sum(parts: Iterator[NDArray[Any]]) -> Any:
    return sum((each.sum().item() for each in parts), 0)


def _unpacked(packed: bytes, kind: str) -> NDArray[Any]:
    found = np.frombuffer(packed, dtype=kind)
    return found.astype(found.dtype.newbyteorder("="))
