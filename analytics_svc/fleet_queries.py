"""The questions about a fleet: what every vehicle, or some, reported within a window from hour to hour.

For every vehicle in a window of a few days the hours come from memory, and the database sends those that changed since.
Vehicles whose mappings changed within the window are queried one by one. For longer windows, for those that reach back
beyond the retention floor, and for some vehicles the database adds everything up.
"""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from sqlalchemy import TextClause

from analytics_svc.fleet_sql import FLEET_CONSUMED, FLEET_DELIVERED, FLEET_MAPPED, METER_HOURS, VEHICLE_HOURS
from analytics_svc.hour_cache import HOUR_BITS, Counts, Hour, HourCache, Keys, Sums, unpack_keys
from analytics_svc.questions import Window
from analytics_svc.reader import QueryResult, Reader
from analytics_svc.totals import SLICE_VEHICLES, FleetTotals, Totals
from shared.db.device_kind import VEHICLE
from shared.timestamps import US_PER_HOUR, datetime_from_us, us_from_datetime


@dataclass(frozen=True, slots=True)
class _Vehicles:
    """All vehicles, by ascending key."""

    keys: Keys
    ids: Sequence[str]


class _Consumed(NamedTuple):
    """The columns of FLEET_CONSUMED that are used: energy in kWh, and a bit for each hour."""

    mappings: int
    kwh: float | None
    kwh_returned: float | None
    readings: int
    hours: str


_UNMAPPED = _Consumed(mappings=0, kwh=None, kwh_returned=None, readings=0, hours="0")
"""Of a vehicle that has no row there."""


class FleetQueries:
    """May raise DatabaseUnavailable, within about the reader's timeout, and DeadlinePassed."""

    def __init__(self, reader: Reader) -> None:
        self._reader = reader
        self._vehicles = _Vehicles(unpack_keys(b""), ())
        self._vehicle_hours = HourCache()
        self._meter_hours = HourCache()

    async def totals(self, window: Window, vehicle_ids: frozenset[str]) -> QueryResult[FleetTotals]:
        """What these vehicles and their meters reported; empty: every vehicle. The window is from hour to hour."""
        if not vehicle_ids and window.end_us - window.start_us <= HOUR_BITS * US_PER_HOUR:
            answer = await self._from_hours(window)
            if answer is not None:
                return answer
        delivered, consumed = await asyncio.gather(
            self._reader.ask(FLEET_DELIVERED, _parameters(window, vehicle_ids)),
            self._reader.ask(FLEET_CONSUMED, _parameters(window, vehicle_ids)),
        )
        of_meters = {row.vehicle_key: row for row in consumed.value}
        found: list[str] = []
        rows: list[Totals] = []
        for vehicle in delivered.value:
            meters = of_meters.get(vehicle.vehicle_key, _UNMAPPED)
            vehicle_hours, meter_hours = int(vehicle.hours, 2), int(meters.hours, 2)
            found.append(vehicle.vehicle_id)
            rows.append(
                Totals(
                    mappings=meters.mappings,
                    kwh_delivered_dc=vehicle.kwh,
                    kwh_consumed_ac=meters.kwh,
                    average_battery_temp=vehicle.average_battery_temp,
                    vehicle_readings=vehicle.readings,
                    meter_readings=meters.readings,
                    hours_either=(vehicle_hours | meter_hours).bit_count(),
                    hours_both=(vehicle_hours & meter_hours).bit_count(),
                    kwh_returned_dc=vehicle.kwh_returned,
                    kwh_returned_ac=meters.kwh_returned,
                )
            )
            if len(rows) % SLICE_VEHICLES == 0:
                await asyncio.sleep(0)
        return QueryResult(FleetTotals.of(found, rows), min(delivered.as_of_us, consumed.as_of_us))

    async def _from_hours(self, window: Window) -> QueryResult[FleetTotals] | None:
        """Of every vehicle; None where the rollups do not hold all of the window."""
        known = self._vehicles
        mapped, of_vehicles, of_meters = await asyncio.gather(
            self._reader.ask(FLEET_MAPPED, window_ends(window) | {"known_vehicles": len(known.keys)}),
            self._hours(VEHICLE_HOURS, self._vehicle_hours, window),
            self._hours(METER_HOURS, self._meter_hours, window),
        )
        [row] = mapped.value
        if not row.kept:
            return None
        if row.vehicles != len(known.keys):
            known = self._vehicles = _Vehicles(np.array(row.vehicle_keys, dtype=np.int32), row.vehicle_ids)
        as_of_us = min(mapped.as_of_us, of_vehicles.as_of_us, of_meters.as_of_us)
        delivered, consumed = Sums(known.keys, VEHICLE.averaged), Sums(known.keys)
        delivered.add(of_vehicles.value)
        await asyncio.sleep(0)
        mappings = _add_mapped_throughout(consumed, row, of_meters.value)
        if row.moved:
            moved = await self._reader.ask(FLEET_CONSUMED, _parameters(window, frozenset(row.moved)))
            as_of_us = min(as_of_us, moved.as_of_us)
            _put_moved(consumed, mappings, moved.value)
        return QueryResult(_fleet_totals(known.ids, mappings, delivered, consumed), as_of_us)

    async def _hours(self, statement: TextClause, kept: HourCache, window: Window) -> QueryResult[list[Hour]]:
        """All hours of a window, in one snapshot."""
        starts_us = range(window.start_us, window.end_us, US_PER_HOUR)
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


def _add_mapped_throughout(consumed: Sums, mapped: Any, hours: Sequence[Hour]) -> Counts:
    """Adds the hours of each meter to the vehicle that it fed throughout; returns each vehicle's number of mappings.

    Several meters may feed a vehicle, so that a place may occur more than once: `at` adds to it each time.
    """
    vehicle_keys, meter_keys = unpack_keys(mapped.through_vehicle_keys), unpack_keys(mapped.through_meter_keys)
    order = np.argsort(meter_keys)
    of_meters = Sums(meter_keys[order])
    of_meters.add(hours)
    places = np.searchsorted(consumed.keys, vehicle_keys[order])
    np.add.at(consumed.kwh, places, of_meters.kwh)
    np.add.at(consumed.kwh_returned, places, of_meters.kwh_returned)
    np.add.at(consumed.readings, places, of_meters.readings)
    np.bitwise_or.at(consumed.hours, places, of_meters.hours)
    return np.bincount(places, minlength=len(consumed.keys)).astype(np.int64)


def _put_moved(consumed: Sums, mappings: Counts, rows: Sequence[Any]) -> None:
    """Puts in the rows of FLEET_CONSUMED of vehicles whose mappings changed within the window."""
    for row in rows:
        place = np.searchsorted(consumed.keys, row.vehicle_key)
        consumed.kwh[place] = row.kwh or 0.0
        consumed.kwh_returned[place] = row.kwh_returned or 0.0
        consumed.readings[place] = row.readings
        consumed.hours[place] = int(row.hours, 2)
        mappings[place] = row.mappings


def _fleet_totals(vehicle_ids: Sequence[str], mappings: Counts, delivered: Sums, consumed: Sums) -> FleetTotals:
    vehicle_readings, meter_readings = delivered.readings.tolist(), consumed.readings.tolist()
    [(sums, numbers)] = delivered.averages  # of battery_temp
    temperatures = zip(sums.tolist(), numbers.tolist(), strict=True)
    return FleetTotals(
        vehicle_ids=vehicle_ids,
        mappings=mappings.tolist(),
        kwh_delivered_dc=_where_reported(delivered.kwh.tolist(), vehicle_readings),
        kwh_consumed_ac=_where_reported(consumed.kwh.tolist(), meter_readings),
        average_battery_temp=[total / count if count else None for total, count in temperatures],
        vehicle_readings=vehicle_readings,
        meter_readings=meter_readings,
        hours_either=np.bitwise_count(delivered.hours | consumed.hours).tolist(),
        hours_both=np.bitwise_count(delivered.hours & consumed.hours).tolist(),
        kwh_returned_dc=_where_reported(delivered.kwh_returned.tolist(), vehicle_readings),
        kwh_returned_ac=_where_reported(consumed.kwh_returned.tolist(), meter_readings),
    )


def _where_reported(energies: list[float], readings: list[int]) -> list[float | None]:
    """None where there is no reading."""
    return [energy if count else None for energy, count in zip(energies, readings, strict=True)]


def _parameters(window: Window, vehicle_ids: frozenset[str]) -> dict[str, object]:
    hours = [datetime_from_us(hour_us) for hour_us in range(window.start_us, window.end_us, US_PER_HOUR)]
    asked = {"every": not vehicle_ids, "vehicle_ids": list(vehicle_ids)}
    return {"hours": hours, "no_hour": "0" * len(hours)} | asked | window_ends(window)


def window_ends(window: Window) -> dict[str, object]:
    return {"window_start": datetime_from_us(window.start_us), "window_end": datetime_from_us(window.end_us)}
