"""Tables of hours, from what the database packs: of spans one by one, see `spans_sql`, or of a fleet hour by hour."""

from bisect import bisect_right
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Self

import numpy as np

from analytics_svc.charging import NO_READING, Numbers, Places, SideHours, Spans, Times
from analytics_svc.comparison import ComparedStretches, compare
from analytics_svc.questions import Window
from analytics_svc.stretches import CompareLimits
from analytics_svc.totals import Evidence, Feeding, FleetTotals, by_id
from shared.timestamps import EPOCH_2000_US, US_PER_HOUR, us_from_datetime

STRETCHES_MAX = 100
"""Compared stretches that are told one by one: three a day for a month."""

DEVICE_WORDS = 7
"""Of 8 bytes each, for an hour of a device."""


def hours_in(window: Window) -> int:
    """Hours, `(h, h + 1 h]`, that a window reaches into."""
    return (window.end_us - 1) // US_PER_HOUR - window.start_us // US_PER_HOUR + 1


class DeviceSums(NamedTuple):
    """What a device reported in a span."""

    readings: int
    battery_temp_readings: int
    kwh: float
    """Less what flowed back."""
    kwh_returned: float
    battery_temp_sum: float


class DeviceHours(NamedTuple):
    """What a device reported in hours of a span."""

    words: Times
    """`[hours, words]`: the number of the hour, 0 of the one before the span; when it last reported; its readings, and
    those of them with a battery temperature; then doubles, as they lie in memory: energy, less what flowed back; what
    flowed back; the sum of the temperatures."""
    sums: DeviceSums
    """Without the hour before the span."""

    @classmethod
    def of(cls, words: Times) -> Self:
        numbers = words[:, 0]
        within = words if np.count_nonzero(numbers) == len(words) else words[numbers > 0]
        counts, sums = np.add.reduce(within[:, 2:4]), np.add.reduce(within[:, 4:].view(np.float64))
        return cls(words, DeviceSums(*counts.tolist(), *sums.tolist()))

    @classmethod
    def unpacked(cls, packed: bytes, hours_earlier: int = 0) -> Self:
        """From `hours` of `reported`; numbered for a window that begins some hours later than the one asked about."""
        words = np.frombuffer(packed, ">i8").astype(np.int64).reshape(-1, DEVICE_WORDS)
        words[:, 1] += EPOCH_2000_US
        if hours_earlier:
            words[:, 0] = np.maximum(words[:, 0] - hours_earlier, 0)
        return cls.of(words)

    @property
    def numbers(self) -> Places:
        return self.words[:, 0]

    @property
    def kwh(self) -> Numbers:
        return self.words[:, 4].view(np.float64)

    @property
    def last_us(self) -> int | None:
        """The last reading in the span."""
        return max(self.words[:, 1].tolist()) if self.sums.readings else None


class VehicleSpan(NamedTuple):
    """A span, with what the vehicle and each of the meters that fed it reported."""

    since_us: int
    until_us: int
    vehicle: DeviceHours
    meters: Sequence[DeviceHours]
    meter_keys: Sequence[int] = ()
    """Of `meters`, in their order."""


class MappedPart(NamedTuple):
    """The part of a mapping that lies within a window."""

    meter_key: int
    since_us: int
    until_us: int


class VehicleHours(NamedTuple):
    """All spans of a vehicle within a window, and what its meters reported while they fed it, by mapping."""

    spans: Sequence[VehicleSpan]
    mappings: Mapping[MappedPart, Sequence[DeviceHours]]


def vehicles_of(rows: Sequence[Any], window: Window | None = None, hours_earlier: int = 0) -> dict[int, VehicleHours]:
    """From rows of `reported`, by vehicle_key: those of a window within the one asked about, some hours later."""
    spans: dict[tuple[int, int], tuple[int, list[DeviceHours], list[DeviceHours], list[int]]] = {}
    mappings: dict[int, dict[MappedPart, list[DeviceHours]]] = defaultdict(lambda: defaultdict(list))
    for row in rows:
        place = row.vehicle_key, us_from_datetime(row.since)
        _, vehicle, meters, meter_keys = spans.setdefault(place, (us_from_datetime(row.until), [], [], []))
        hours = DeviceHours.unpacked(row.hours, hours_earlier)
        if row.meter_key is None:
            vehicle.append(hours)
            continue
        meters.append(hours)
        meter_keys.append(row.meter_key)
        since_us, until_us = us_from_datetime(row.mapped_since), us_from_datetime(row.mapped_until)
        if window is not None:
            since_us, until_us = max(since_us, window.start_us), min(until_us, window.end_us)
        mappings[row.vehicle_key][MappedPart(row.meter_key, since_us, until_us)].append(hours)
    found: dict[int, list[VehicleSpan]] = defaultdict(list)
    for key, since_us in sorted(spans):
        until_us, [own], meters, meter_keys = spans[key, since_us]
        found[key].append(VehicleSpan(since_us, until_us, own, meters, meter_keys))
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
    sums = [DeviceHours.unpacked(row.hours).sums for row in rows]
    return sum(each.kwh for each in sums) if any(each.readings for each in sums) else None


def spans_table(window: Window, spans: Sequence[VehicleSpan]) -> Spans:
    """The table of some spans."""
    hours = hours_in(window)
    starts_us = np.array([each.since_us for each in spans], np.int64)
    until_us = np.array([each.until_us for each in spans], np.int64)
    first_us = window.start_us // US_PER_HOUR * US_PER_HOUR
    grid_us = np.arange(first_us, first_us + (hours + 1) * US_PER_HOUR, US_PER_HOUR)
    ends_us = np.minimum(np.maximum(grid_us[:, None], starts_us), until_us)
    ends_us[0] = starts_us
    sides = np.zeros((2, len(spans), hours + 1, DEVICE_WORDS), np.int64)
    sides[..., 1] = NO_READING
    for number, span in enumerate(spans):
        for side, device in zip(sides, (span.vehicle, span.meters[0]), strict=True):
            side[number, device.numbers] = device.words
    columns = sides.transpose(3, 0, 2, 1).copy()
    last_us, readings = columns[1:3]
    kwh, returned = columns[4:6].view(np.float64)
    np.maximum.accumulate(last_us, axis=1, out=last_us)
    for number, span in enumerate(spans):
        for device in span.meters[1:]:
            at = device.numbers
            kwh[1, at, number] += device.kwh
            returned[1, at, number] += device.words[:, 5].view(np.float64)
            readings[1, at, number] += device.words[:, 2]
            its_last_us = np.full(hours + 1, NO_READING)
            its_last_us[at] = device.words[:, 1]
            last_us[1, :, number] = np.minimum(last_us[1, :, number], np.maximum.accumulate(its_last_us))
    kwh += returned
    return Spans(window.start_us, starts_us, ends_us, *map(SideHours, kwh, returned, readings, last_us))


def totals_of(
    window: Window, vehicle_ids: Sequence[str], vehicles: Sequence[VehicleHours], limits: CompareLimits
) -> tuple[FleetTotals, ComparedStretches]:
    """The totals of vehicles, and the stretches that are compared, by the position of the vehicle."""
    mapped = [(at, span) for at, vehicle in enumerate(vehicles) for span in vehicle.spans if span.meters]
    vehicle_of = np.array([at for at, _ in mapped], np.intp)
    comparison, stretches = compare(spans_table(window, [span for _, span in mapped]), limits)
    counts, sums = zip(*map(_sums_of, vehicles), strict=True) if vehicles else ((), ())
    mappings, vehicle_readings, battery_temp_readings, meter_readings = np.array(counts, np.int64).reshape(-1, 4).T
    kwh_dc, returned_dc, battery_temp_sum, unmapped, kwh_ac, returned_ac = np.array(sums).reshape(-1, 6).T
    totals = FleetTotals(
        vehicle_ids=vehicle_ids,
        by_id=by_id(vehicle_ids),
        mappings=mappings,
        kwh_delivered_dc=kwh_dc,
        kwh_consumed_ac=kwh_ac,
        battery_temp_sum=battery_temp_sum,
        battery_temp_readings=battery_temp_readings,
        vehicle_readings=vehicle_readings,
        meter_readings=meter_readings,
        kwh_returned_dc=returned_dc,
        kwh_returned_ac=returned_ac,
        kwh_delivered_dc_unmapped=unmapped,
        comparison=comparison.by_vehicle(vehicle_of, len(vehicles)),
    )
    return totals, stretches._replace(span=vehicle_of[stretches.span])


def _sums_of(vehicle: VehicleHours) -> tuple[tuple[int, ...], tuple[float, ...]]:
    """Of a vehicle the mappings, its readings, those with a temperature, and the readings of the meters; what it took
    and returned, its temperatures, what it took while no meter was mapped, and what the meters drew and returned."""
    vehicle_readings = measured = meter_readings = 0
    kwh_dc = returned_dc = temperatures = unmapped = kwh_ac = returned_ac = 0.0
    for span in vehicle.spans:
        its = span.vehicle.sums
        vehicle_readings += its.readings
        measured += its.battery_temp_readings
        kwh_dc += its.kwh
        returned_dc += its.kwh_returned
        temperatures += its.battery_temp_sum
        if not span.meters:
            unmapped += its.kwh
    for devices in vehicle.mappings.values():
        for device in devices:
            meter_readings += device.sums.readings
            kwh_ac += device.sums.kwh
            returned_ac += device.sums.kwh_returned
    counts = len(vehicle.mappings), vehicle_readings, measured, meter_readings
    return counts, (kwh_dc, returned_dc, temperatures, unmapped, kwh_ac, returned_ac)


def evidence_of(vehicle: VehicleHours, stretches: ComparedStretches, **others: Any) -> Evidence:
    """What a vehicle's hours say beside its totals; with the others of its fields."""
    of_vehicle = [span.vehicle for span in vehicle.spans]
    of_meters = [each for devices in vehicle.mappings.values() for each in devices]
    vehicle_hours, meter_hours = _numbers(of_vehicle), _numbers(of_meters)
    compared_us = list(zip(stretches.begins_us.tolist(), stretches.ends_us.tolist(), strict=True))
    return Evidence(
        last_vehicle_us=_last_us(of_vehicle),
        last_meter_us=_last_us(of_meters),
        hours_either=len(vehicle_hours | meter_hours),
        hours_both=len(vehicle_hours & meter_hours),
        compared_us=compared_us[-STRETCHES_MAX:],
        **others,
    )


def feedings_of(mappings: Mapping[MappedPart, Sequence[DeviceHours]], meter_ids: Mapping[int, str]) -> list[Feeding]:
    """What each meter drew while it fed, by start and then by meter."""
    feedings = []
    for (meter_key, since_us, until_us), parts in mappings.items():
        readings = sum(each.sums.readings for each in parts)
        kwh = sum(each.sums.kwh for each in parts) if readings else None
        returned = sum(each.sums.kwh_returned for each in parts) if readings else None
        feedings.append(Feeding(meter_ids[meter_key], since_us, until_us, kwh, readings, returned))
    return sorted(feedings, key=lambda each: (each.since_us, each.meter_id))


def _numbers(side: Sequence[DeviceHours]) -> set[int]:
    """Of the hours in which a side reported."""
    return set[int]().union(*(each.numbers.tolist() for each in side)) - {0}


def _last_us(side: Sequence[DeviceHours]) -> int | None:
    """The last reading of a side."""
    return max((last_us for each in side if (last_us := each.last_us) is not None), default=None)
