"""What meters drew, and what the vehicles took that they fed, added up by meter. Pure."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from itertools import chain
from typing import Any, NamedTuple

import numpy as np

from analytics_svc.charging import Counts, Numbers, Places
from analytics_svc.comparison import Comparison, compare
from analytics_svc.hour_cache import Hour, Keys, places_of
from analytics_svc.questions import Window
from analytics_svc.span_tables import DeviceHours, VehicleSpan, spans_table, vehicles_of
from analytics_svc.stretches import Aside, CompareLimits
from analytics_svc.totals import FleetTotals, by_id


@dataclass(frozen=True, slots=True)
class Meters:
    """Some meters, by ascending key."""

    keys: Keys
    ids: Sequence[str]
    by_id: Sequence[int]
    """Their positions in the order of the ids."""

    @classmethod
    def of(cls, keys: Sequence[int], ids: Sequence[str]) -> "Meters":
        return cls(np.array(keys, dtype=np.int32), ids, by_id(ids))


class OwnSums(NamedTuple):
    """What devices reported: a value for each of them."""

    kwh: Numbers
    """Less what flowed back."""
    kwh_returned: Numbers
    readings: Counts

    @classmethod
    def nothing(cls, devices: int) -> "OwnSums":
        return cls(np.zeros(devices), np.zeros(devices), np.zeros(devices, np.int64))

    @classmethod
    def of_hours(cls, keys: Keys, hours: Iterable[Hour]) -> "OwnSums":
        """Of devices by their keys, which ascend."""
        sums = cls.nothing(len(keys))
        for hour in hours:
            ours, places = places_of(hour.keys, keys)
            sums.kwh[places] += hour.kwh[ours]
            sums.readings[places] += hour.readings[ours]
            if len(hour.returned_keys):
                ours, places = places_of(hour.returned_keys, keys)
                sums.kwh_returned[places] += hour.kwh_returned[ours]
        return sums

    @classmethod
    def of_parts(cls, parts: Sequence[DeviceHours], places: Places, devices: int) -> "OwnSums":
        """Of parts of devices, each by the place of its device."""
        sums = cls.nothing(devices)
        for total, name in zip(sums, cls._fields, strict=True):
            np.add.at(total, places, np.array([getattr(part.sums, name) for part in parts], total.dtype))
        return sums

    def at(self, places: Places) -> "OwnSums":
        return OwnSums(self.kwh[places], self.kwh_returned[places], self.readings[places])

    def where(self, which: Any) -> "OwnSums":
        """Of some of the devices, and 0 of the others."""
        return OwnSums(*(np.where(which, each, 0) for each in self))

    def added(self, places: Places, devices: int) -> "OwnSums":
        """The sums of these by the place of something else."""
        sums = OwnSums.nothing(devices)
        for total, each in zip(sums, self, strict=True):
            np.add.at(total, places, each)
        return sums


@dataclass(frozen=True, slots=True)
class Feedings:
    """Spans in which meters fed vehicles, and which of the meters asked about fed in each."""

    delivered: OwnSums
    """What the vehicle took in each span."""
    comparison: Comparison
    """What can be compared of each span."""
    span: Places
    """A value, here and in the next, for each meter in a span: the place of the span,"""
    meter: Places
    """and of the meter."""


@dataclass(frozen=True, slots=True)
class MeterTable:
    """The totals of many meters."""

    fed: FleetTotals
    """A row for each meter, by their ids, in the place of a vehicle: what it drew while it fed vehicles, what they took
    meanwhile, and what can be compared of that."""
    unmapped: OwnSums
    """What each drew while it fed none."""
    vehicles: Mapping[str, Collection[str]]
    """Those that each meter fed, by its id; it may be missing where it fed none."""
    shared_with: Mapping[str, Collection[str]]
    """The meters that fed one of them at the same time, likewise."""

    @classmethod
    def of(
        cls,
        meters: Meters,
        mappings: Counts,
        drawn: OwnSums,
        unmapped: OwnSums,
        fed: Feedings,
        vehicles: Mapping[str, Collection[str]],
        shared_with: Mapping[str, Collection[str]],
    ) -> "MeterTable":
        count = len(meters.ids)
        delivered = fed.delivered.at(fed.span).added(fed.meter, count)
        of_pairs = Comparison(*(getattr(fed.comparison, each.name)[..., fed.span] for each in fields(Comparison)))
        nothing = np.zeros(count)
        totals = FleetTotals(
            meters.ids,
            meters.by_id,
            mappings=mappings,
            kwh_delivered_dc=delivered.kwh,
            kwh_consumed_ac=drawn.kwh,
            battery_temp_sum=nothing,
            battery_temp_readings=nothing.astype(np.int64),
            vehicle_readings=delivered.readings,
            meter_readings=drawn.readings,
            kwh_returned_dc=delivered.kwh_returned,
            kwh_returned_ac=drawn.kwh_returned,
            kwh_delivered_dc_unmapped=nothing,
            comparison=of_pairs.by_vehicle(fed.meter, count),
        )
        return cls(totals, unmapped, vehicles, shared_with)

    def put(self, others: "MeterTable", places: Places) -> "MeterTable":
        """With others in the place of some meters, whose rows are written over."""
        columns = [
            *_columns(self.fed, others.fed),
            *_columns(self.fed.comparison, others.fed.comparison),
            *zip(self.unmapped, others.unmapped, strict=True),
        ]
        for mine, theirs in columns:
            mine[..., places] = theirs
        vehicles = {**self.vehicles, **others.vehicles}
        return MeterTable(self.fed, self.unmapped, vehicles, {**self.shared_with, **others.shared_with})


def _columns(mine: Any, theirs: Any) -> list[tuple[Any, Any]]:
    pairs = [(getattr(mine, each.name), getattr(theirs, each.name)) for each in fields(mine)]
    return [(one, other) for one, other in pairs if isinstance(one, np.ndarray)]


def no_feedings() -> Feedings:
    nowhere = np.empty(0, np.intp)
    columns = {each.name: np.zeros(0) for each in fields(Comparison)}
    asides = {name: np.zeros((len(Aside), 0)) for name in ("dc_aside", "ac_aside")}
    return Feedings(OwnSums.nothing(0), Comparison(**columns | asides), nowhere, nowhere)


@dataclass(slots=True)
class _Ids:
    """The ids that rows have."""

    vehicles: dict[int, str] = field(default_factory=dict)
    meters: dict[int, str] = field(default_factory=dict)


def table_of_spans(window: Window, meters: Meters, rows: Sequence[Any], limits: CompareLimits) -> MeterTable:
    """Of the rows of METER_SPANS about these meters."""
    meter_keys = meters.keys.tolist()
    place_of = {key: place for place, key in enumerate(meter_keys)}
    ids, of_vehicles, gaps = _Ids(), [], []
    for row in rows:
        if row.vehicle_key is None:
            gaps.append((place_of[row.meter_key], DeviceHours.unpacked(row.hours)))
            continue
        of_vehicles.append(row)
        ids.vehicles[row.vehicle_key] = row.vehicle_id
        if row.meter_key is not None:
            ids.meters[row.meter_key] = row.meter_id
    found = vehicles_of(of_vehicles)
    spans: list[VehicleSpan] = []
    pairs: list[tuple[int, int, DeviceHours]] = []
    vehicles: dict[int, set[str]] = {key: set() for key in meter_keys}
    beside: dict[int, set[str]] = {key: set() for key in meter_keys}
    for vehicle_key, its in found.items():
        for span in its.spans:
            ours = [(key, hours) for key, hours in zip(span.meter_keys, span.meters, strict=True) if key in place_of]
            for key, hours in ours:
                pairs.append((len(spans), place_of[key], hours))
                vehicles[key].add(ids.vehicles[vehicle_key])
                beside[key].update(ids.meters[other] for other in span.meter_keys if other != key)
            spans.append(span)
    comparison, _ = compare(spans_table(window, spans), limits)
    fed = Feedings(
        OwnSums.of_parts([each.vehicle for each in spans], np.arange(len(spans)), len(spans)),
        comparison,
        np.array([span for span, _, _ in pairs], np.intp),
        np.array([place for _, place, _ in pairs], np.intp),
    )
    count = len(meter_keys)
    parts = chain.from_iterable(its.mappings for its in found.values())
    mapped = np.array([place_of[part.meter_key] for part in parts if part.meter_key in place_of], np.intp)
    return MeterTable.of(
        meters,
        np.bincount(mapped, minlength=count),
        OwnSums.of_parts([hours for _, _, hours in pairs], fed.meter, count),
        OwnSums.of_parts([hours for _, hours in gaps], np.array([place for place, _ in gaps], np.intp), count),
        fed,
        dict(zip(meters.ids, vehicles.values(), strict=True)),
        dict(zip(meters.ids, beside.values(), strict=True)),
    )


def table_of_hours(
    meters: Meters, own: OwnSums, of_vehicles: FleetTotals, vehicle: Places, meter: Places
) -> MeterTable:
    """Of meters that fed the same vehicles throughout, or none: what each drew, the totals of the vehicles with their
    ids, and of each pair the places of the two."""
    fed = Feedings(
        OwnSums(of_vehicles.kwh_delivered_dc, of_vehicles.kwh_returned_dc, of_vehicles.vehicle_readings),
        of_vehicles.comparison,
        vehicle,
        meter,
    )
    mappings = np.bincount(meter, minlength=len(meters.ids))
    meter_ids = [meters.ids[place] for place in meter.tolist()]
    vehicle_ids = [of_vehicles.vehicle_ids[place] for place in vehicle.tolist()]
    shared = np.flatnonzero(np.bincount(vehicle, minlength=len(of_vehicles))[vehicle] > 1).tolist()
    together: dict[str, set[str]] = {vehicle_ids[pair]: set() for pair in shared}
    for pair in shared:
        together[vehicle_ids[pair]].add(meter_ids[pair])
    return MeterTable.of(
        meters,
        mappings,
        own.where(mappings > 0),
        own.where(mappings == 0),
        fed,
        dict(zip(meter_ids, zip(vehicle_ids), strict=True)),  # one list: a tuple of each id
        {meter_ids[pair]: together[vehicle_ids[pair]] - {meter_ids[pair]} for pair in shared},
    )
