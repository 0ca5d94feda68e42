"""The questions about a fleet: what every vehicle, or some, reported within a window from hour to hour.

For every vehicle in a window of a few days, from hour to hour, the hours come from memory, and the database sends those
that changed since. Vehicles whose mappings changed within the window are queried span by span. So is everything in
other windows, and about some vehicles: a slice of them at a time.
"""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from sqlalchemy import TextClause

from analytics_svc.charging import NO_READING, Counts, Places, SideHours, Spans
from analytics_svc.comparison import Comparison, compare
from analytics_svc.fleet_sql import (
    FLEET_MAPPED,
    FLEET_SPANS,
    METER_HOURS,
    METERS_OF,
    REGISTER_STEPS,
    VEHICLE_HOURS,
    VEHICLE_KEYS,
)
from analytics_svc.hour_cache import CACHED_HOURS_MAX, DeviceTable, Hour, HourCache, Keys, unpack_keys
from analytics_svc.performance import Judgement, Thresholds, coarsest_step, judge, may_be_too_coarse
from analytics_svc.questions import Window
from analytics_svc.reader import QueryResult, Reader
from analytics_svc.readings_sql import OfReadings
from analytics_svc.span_tables import hours_in, totals_of, vehicles_of
from analytics_svc.stretches import CompareLimits
from analytics_svc.totals import SLICE_VEHICLES, FleetTotals, by_id
from shared.db.device_kind import VEHICLE
from shared.timestamps import TIMESTAMP_MIN_US, US_PER_HOUR, datetime_from_us, us_from_datetime

HOURS_ASKED_MAX = 200_000
"""Hours of vehicles that are asked for in one statement, span by span: some 20 MB of answer."""

VEHICLES_ASKED_MAX = 1_000
"""Vehicles that are asked for in one statement, whose rows are told apart before other calls get their turn."""

HOURS_COMPARED_MAX = 20_000
"""Hours of vehicles that are compared before other calls get their turn: some 20 ms."""


@dataclass(frozen=True, slots=True)
class _Vehicles:
    """All vehicles, by ascending key."""

    keys: Keys
    ids: Sequence[str]
    by_id: Sequence[int]

    @classmethod
    def of(cls, keys: Keys, ids: Sequence[str]) -> "_Vehicles":
        return cls(keys, ids, by_id(ids))


def devices_version(keys: Keys) -> str:
    """Tells all devices of a kind, by ascending key, from those of other times: keys grow, and some are forgotten."""
    return f"{len(keys)}:{keys[-1] if len(keys) else 0}"


@dataclass(frozen=True, slots=True)
class _Mapped:
    """What FLEET_MAPPED tells."""

    known: _Vehicles
    through_vehicles: Keys
    through_meters: Keys
    moved: Sequence[int]


class FleetQueries:
    """May raise DatabaseUnavailable, within about the reader's timeout, and DeadlinePassed."""

    def __init__(self, reader: Reader) -> None:
        self._reader = reader
        self._vehicles = _Vehicles.of(unpack_keys(b""), ())
        self._vehicle_hours = HourCache()
        self._meter_hours = HourCache()

    async def totals(
        self, window: Window, vehicle_ids: frozenset[str], limits: CompareLimits
    ) -> QueryResult[FleetTotals]:
        """What these vehicles and their meters reported; empty: every vehicle."""
        if vehicle_ids:
            known = await self._reader.ask(VEHICLE_KEYS, {"vehicle_ids": list(vehicle_ids)})
            keys = [row.vehicle_key for row in known.value]
            answer = await self._from_spans(window, keys, [row.vehicle_id for row in known.value], limits)
            return answer.beside(known)
        if of_cached_hours(window):
            mapped, of_vehicles, of_meters = await asyncio.gather(
                self._mapped(window),
                self._hours(VEHICLE_HOURS, self._vehicle_hours, window),
                self._hours(METER_HOURS, self._meter_hours, window),
            )
            hours = mapped.beside(of_vehicles, of_meters)
            return await self._from_hours(window, hours, of_vehicles.value, of_meters.value, limits)
        mapped = await self._mapped(window)
        known_vehicles = mapped.value.known
        answer = await self._from_spans(window, known_vehicles.keys.tolist(), known_vehicles.ids, limits)
        return answer.beside(mapped)

    async def _mapped(self, window: Window) -> QueryResult["_Mapped"]:
        known = self._vehicles
        asked = {"known_vehicles": devices_version(known.keys)}
        answer = await self._reader.ask(FLEET_MAPPED, window_ends(window) | asked)
        [row] = answer.value
        if row.vehicles != devices_version(known.keys):
            known = self._vehicles = _Vehicles.of(np.array(row.vehicle_keys, dtype=np.int32), row.vehicle_ids)
        through = unpack_keys(row.through_vehicle_keys), unpack_keys(row.through_meter_keys)
        return answer.replace(_Mapped(known, *through, row.moved))

    async def judged(self, window: Window, found: FleetTotals, thresholds: Thresholds) -> Judgement:
        """The verdicts of vehicles; asks how finely their meters tell energy where that matters."""
        judgement = judge(found, thresholds)
        suspects = may_be_too_coarse(found, judgement, thresholds).tolist()
        if not suspects:
            return judgement
        ids = [found.vehicle_ids[position] for position in suspects]
        answer = await ask_of_window(self._reader, REGISTER_STEPS, window, {"vehicle_ids": ids})
        gone = window.end_us <= answer.retention.kept_since_us
        if not (answer.value or gone):
            return judgement
        its = found.comparison
        its.step_kwh[suspects] = coarsest_step(its.ac[suspects]) if gone else 0.0
        at = dict(zip(ids, suspects, strict=True))
        for row in answer.value:
            its.step_kwh[at[row.vehicle_id]] = float(row.step_kwh)
        return judge(found, thresholds)

    async def keys_of(self, vehicle_ids: Sequence[str]) -> Keys:
        """The keys of vehicles that were all found, in the order of their keys."""
        known = self._vehicles
        if list(vehicle_ids) == list(known.ids):
            return known.keys
        answer = await self._reader.ask(VEHICLE_KEYS, {"vehicle_ids": list(vehicle_ids)})
        return np.array([row.vehicle_key for row in answer.value], np.int32)

    async def meters_of(self, window: Window, vehicle_ids: Sequence[str]) -> dict[str, list[str]]:
        """The ids of the meters that fed some vehicles within a window."""
        if not vehicle_ids:
            return {}
        answer = await self._reader.ask(METERS_OF, window_ends(window) | {"vehicle_ids": list(vehicle_ids)})
        return {row.vehicle_id: row.meter_ids for row in answer.value}

    async def _from_spans(
        self, window: Window, keys: Sequence[int], ids: Sequence[str], limits: CompareLimits
    ) -> QueryResult[FleetTotals]:
        """Of vehicles, a slice after the other."""
        size = at_a_time(window, HOURS_ASKED_MAX)
        parts, answers = [], []
        for start in range(0, len(keys) or 1, size):
            asked = keys[start : start + size]
            answer = await ask_of_window(self._reader, FLEET_SPANS, window, {"vehicle_keys": asked}, US_PER_HOUR)
            answers.append(answer.replace(None))
            vehicles = vehicles_of(answer.value)
            compared = at_a_time(window, HOURS_COMPARED_MAX)
            for first in range(0, len(asked) or 1, compared):
                some, their_ids = asked[first : first + compared], ids[start + first : start + first + compared]
                part, _ = totals_of(window, their_ids[: len(some)], [vehicles[key] for key in some], limits)
                parts.append(part)
                await asyncio.sleep(0)
        return answers[0].replace(_joined(parts)).beside(*answers)

    async def _from_hours(
        self,
        window: Window,
        mapped: QueryResult["_Mapped"],
        of_vehicles: Sequence[Hour],
        of_meters: Sequence[Hour],
        limits: CompareLimits,
    ) -> QueryResult[FleetTotals]:
        """Of every vehicle, from the rollups of the window and of the hour before it."""
        known, moved = mapped.value.known, mapped.value.moved
        order = np.argsort(mapped.value.through_meters)
        delivered = await _table(known.keys, of_vehicles, window, VEHICLE.averaged)
        drawn = await _table(mapped.value.through_meters[order], of_meters, window)
        places = np.searchsorted(known.keys, mapped.value.through_vehicles[order])
        mappings, consumed = _of_vehicles(drawn.side, places, len(known.keys))
        totals = await _fleet_totals(window, known, mappings, delivered, consumed, limits)
        if not moved:
            return mapped.replace(totals)
        of_moved = await self._from_spans(window, moved, [""] * len(moved), limits)
        _put(totals, of_moved.value, np.searchsorted(known.keys, moved))
        return mapped.replace(totals).beside(of_moved)

    async def fed_throughout(
        self, window: Window, keys: Keys, vehicle_ids: Sequence[str], pairs: tuple[Keys, Keys], limits: CompareLimits
    ) -> QueryResult[tuple[FleetTotals, list[Hour]]]:
        """Of vehicles, by their keys, which ascend, that the meters paired with them fed all through a window; and the
        hours of all meters, with the one before it."""
        of_vehicles, of_meters = await asyncio.gather(
            self._hours(VEHICLE_HOURS, self._vehicle_hours, window), self._hours(METER_HOURS, self._meter_hours, window)
        )
        mapped = of_vehicles.replace(_Mapped(_Vehicles(keys, vehicle_ids, range(len(keys))), *pairs, ()))
        answer = await self._from_hours(window, mapped, of_vehicles.value, of_meters.value, limits)
        return answer.replace((answer.value, of_meters.value)).beside(of_meters)

    async def _hours(self, statement: TextClause, kept: HourCache, window: Window) -> QueryResult[list[Hour]]:
        """The hour before a window and all hours of it, in one snapshot."""
        starts_us = range(window.start_us - US_PER_HOUR, window.end_us, US_PER_HOUR)
        hours = kept.of(starts_us)
        answer = await self._reader.ask(
            statement,
            {
                "hours": [datetime_from_us(start_us) for start_us in starts_us],
                "versions": [hours[start_us].version if start_us in hours else None for start_us in starts_us],
            },
        )
        for row in answer.value:
            hours[us_from_datetime(row.hour_start)] = Hour.of(row)
            await asyncio.sleep(0)
        kept.keep(hours)
        return answer.replace([hours[start_us] for start_us in starts_us])


async def _table(keys: Keys, hours: Sequence[Hour], window: Window, averaged: Sequence[str] = ()) -> DeviceTable:
    """The hours of devices."""
    table = DeviceTable(keys, len(hours), averaged)
    for number, hour in enumerate(hours):
        table.put(number, hour, window.start_us + number * US_PER_HOUR)
        if number % 8 == 7:
            await asyncio.sleep(0)
    table.carry_on()
    return table


def _of_vehicles(meters: SideHours, places: Places, vehicles: int) -> tuple[Counts, SideHours]:
    """What the meters of each vehicle reported together, and how many there are; several may feed one."""
    mappings = np.bincount(places, minlength=vehicles)
    if np.array_equal(places, np.arange(vehicles)):
        return mappings, meters
    shape = len(meters.kwh), vehicles
    side = SideHours(np.zeros(shape), np.zeros(shape), np.zeros(shape, np.int64), np.full(shape, NO_READING))
    alone = mappings[places] == 1
    if alone.any():
        for name in ("kwh", "kwh_returned", "readings", "last_us"):
            getattr(side, name)[:, places[alone]] = getattr(meters, name)[:, alone]
    if not alone.all():
        joined, at = np.flatnonzero(~alone), places[~alone]
        side.last_us[:, at] = np.iinfo(np.int64).max
        for its_meter, place in zip(joined.tolist(), at.tolist(), strict=True):
            for name in ("kwh", "kwh_returned", "readings"):
                getattr(side, name)[:, place] += getattr(meters, name)[:, its_meter]
            np.minimum(side.last_us[:, place], meters.last_us[:, its_meter], out=side.last_us[:, place])
    return mappings, side


async def _fleet_totals(
    window: Window,
    known: _Vehicles,
    mappings: Counts,
    delivered: DeviceTable,
    consumed: SideHours,
    limits: CompareLimits,
) -> FleetTotals:
    """Of vehicles that were fed by the same meters throughout, or by none."""
    hours = len(consumed.kwh)
    ends_us = window.start_us + US_PER_HOUR * np.arange(hours, dtype=np.int64)[:, None]
    own, comparisons = delivered.side, []
    for start in range(0, len(known.ids) or 1, SLICE_VEHICLES):
        its = slice(start, start + SLICE_VEHICLES)
        sides = [SideHours(*(getattr(side, name)[:, its] for name in SideHours._fields)) for side in (own, consumed)]
        count = sides[0].kwh.shape[1]
        spans = Spans(
            window.start_us, np.full(count, window.start_us), np.broadcast_to(ends_us, (hours, count)), *sides
        )
        comparison, _ = compare(spans, limits)
        comparisons.append(comparison)
        await asyncio.sleep(0)
    fed = mappings > 0
    comparison = Comparison.joined(comparisons)
    comparison = Comparison(*(np.where(fed, getattr(comparison, each.name), 0.0) for each in fields(comparison)))
    [(temp_sum, temp_readings)] = delivered.averages
    returned_dc, returned_ac = own.kwh_returned[1:].sum(axis=0), consumed.kwh_returned[1:].sum(axis=0)
    kwh_dc = own.kwh[1:].sum(axis=0) - returned_dc
    return FleetTotals(
        vehicle_ids=known.ids,
        by_id=known.by_id,
        mappings=mappings,
        kwh_delivered_dc=kwh_dc,
        kwh_consumed_ac=consumed.kwh[1:].sum(axis=0) - returned_ac,
        battery_temp_sum=temp_sum,
        battery_temp_readings=temp_readings,
        vehicle_readings=own.readings[1:].sum(axis=0),
        meter_readings=consumed.readings[1:].sum(axis=0),
        kwh_returned_dc=returned_dc,
        kwh_returned_ac=returned_ac,
        kwh_delivered_dc_unmapped=np.where(mappings == 0, kwh_dc, 0.0),
        comparison=comparison,
    )


def _put(totals: FleetTotals, moved: FleetTotals, places: Places) -> None:
    """Puts in the totals of vehicles whose mappings changed within the window."""
    for each in fields(totals):
        values, its = getattr(totals, each.name), getattr(moved, each.name)
        if isinstance(values, np.ndarray):
            values[places] = its
    for each in fields(totals.comparison):
        getattr(totals.comparison, each.name)[..., places] = getattr(moved.comparison, each.name)


def _joined(parts: Sequence[FleetTotals]) -> FleetTotals:
    """The totals of slices of vehicles."""
    [first, *others] = parts
    if not others:
        return first
    columns = {
        each.name: np.concatenate([getattr(part, each.name) for part in parts])
        for each in fields(first)
        if isinstance(getattr(first, each.name), np.ndarray)
    }
    comparison = Comparison.joined([part.comparison for part in parts])
    vehicle_ids = [vehicle_id for part in parts for vehicle_id in part.vehicle_ids]
    return FleetTotals(vehicle_ids, by_id(vehicle_ids), **columns, comparison=comparison)


def of_cached_hours(window: Window) -> bool:
    """Whether the hours of a window may be in memory."""
    whole = window.start_us % US_PER_HOUR == 0 and window.end_us % US_PER_HOUR == 0
    brief = window.end_us - window.start_us < CACHED_HOURS_MAX * US_PER_HOUR
    return whole and brief and window.start_us > TIMESTAMP_MIN_US


def at_a_time(window: Window, hours: int) -> int:
    """Of how many devices there are so many hours in a window."""
    return min(max(1, hours // hours_in(window)), VEHICLES_ASKED_MAX)


async def ask_of_window(
    reader: Reader, statement: OfReadings, window: Window, parameters: Mapping[str, object], before_us: int = 0
) -> QueryResult[list[Any]]:
    """Asks of the readings of many devices within a window, and some time before it; planned each time."""
    asked = {**window_ends(window), **parameters}
    return await reader.ask_of_days(statement, asked, window.start_us - before_us, window.end_us, planned_once=False)


def window_ends(window: Window) -> dict[str, object]:
    return {"window_start": datetime_from_us(window.start_us), "window_end": datetime_from_us(window.end_us)}
