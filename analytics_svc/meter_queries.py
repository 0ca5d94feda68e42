"""The questions about meters: what each drew, what the vehicles took that it fed, and what can be compared of that.

As in `fleet_queries`, the hours of a window of a few days, from hour to hour, come from memory. Meters of vehicles
whose mappings changed within the window are asked about span by span. So is everything in other windows, and about some
meters: a slice of meters at a time.
"""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from analytics_svc.fleet_queries import (
    HOURS_COMPARED_MAX,
    FleetQueries,
    ask_of_window,
    at_a_time,
    devices_version,
    of_cached_hours,
    window_ends,
)
from analytics_svc.hour_cache import Keys, unpack_keys
from analytics_svc.meter_performance import judge_meters
from analytics_svc.meter_sql import METER_KEYS, METER_SPANS, METER_STEPS, METERS_MAPPED
from analytics_svc.meter_tables import Meters, MeterTable, OwnSums, no_feedings, table_of_hours, table_of_spans
from analytics_svc.performance import Judgement, Thresholds, coarsest_step, may_be_too_coarse
from analytics_svc.questions import Window
from analytics_svc.reader import QueryResult, Reader
from analytics_svc.stretches import CompareLimits
from shared.timestamps import US_PER_HOUR


@dataclass(frozen=True, slots=True)
class _Vehicles:
    """All vehicles, by ascending key."""

    keys: Keys
    ids: Sequence[str]


class MeterQueries:
    """May raise DatabaseUnavailable, within about the reader's timeout, and DeadlinePassed."""

    def __init__(self, reader: Reader, fleet: FleetQueries) -> None:
        self._reader = reader
        self._fleet = fleet
        self._vehicles = _Vehicles(unpack_keys(b""), ())
        self._meters = Meters.of((), ())

    async def totals(self, window: Window, meter_ids: frozenset[str], limits: CompareLimits) -> QueryResult[MeterTable]:
        """Of these meters; empty: of every meter."""
        if meter_ids:
            named = await self._reader.ask(METER_KEYS, {"meter_ids": list(meter_ids)})
            known = Meters.of([row.meter_key for row in named.value], [row.meter_id for row in named.value])
            answer = await self._from_spans(window, known, _nothing_of(known), known.keys, limits)
            return answer.beside(named)
        mapped = await self._mapped(window)
        row, known, vehicles = mapped.value
        if not of_cached_hours(window):
            answer = await self._from_spans(window, known, _nothing_of(known), known.keys, limits)
            return answer.beside(mapped)
        answer = await self._from_hours(window, row, known, vehicles, limits)
        moved = np.array(row.moved_meter_keys, dtype=np.int32)
        if len(moved):
            of_moved = await self._from_spans(window, known, answer.value, moved, limits)
            answer = of_moved.beside(answer)
        return answer.beside(mapped)

    async def judged(self, window: Window, found: MeterTable, thresholds: Thresholds) -> Judgement:
        """The verdicts of meters; asks how finely they tell energy where that matters."""
        judgement = judge_meters(found, thresholds)
        suspects = may_be_too_coarse(found.fed, judgement, thresholds).tolist()
        if not suspects:
            return judgement
        ids = [found.fed.vehicle_ids[position] for position in suspects]
        answer = await ask_of_window(self._reader, METER_STEPS, window, {"meter_ids": ids})
        gone = window.end_us <= answer.retention.kept_since_us
        if not (answer.value or gone):
            return judgement
        its = found.fed.comparison
        its.step_kwh[suspects] = coarsest_step(its.ac[suspects]) if gone else 0.0
        at = dict(zip(ids, suspects, strict=True))
        for row in answer.value:
            its.step_kwh[at[row.meter_id]] = float(row.step_kwh)
        return judge_meters(found, thresholds)

    async def _mapped(self, window: Window) -> QueryResult[tuple[Any, Meters, _Vehicles]]:
        """The row of METERS_MAPPED, all meters and all vehicles."""
        meters, vehicles = self._meters, self._vehicles
        asked = {"known_meters": devices_version(meters.keys), "known_vehicles": devices_version(vehicles.keys)}
        answer = await self._reader.ask(METERS_MAPPED, window_ends(window) | asked)
        [row] = answer.value
        if row.meters != devices_version(meters.keys):
            self._meters = meters = Meters.of(row.meter_keys, row.meter_ids)
        if row.vehicles != devices_version(vehicles.keys):
            self._vehicles = vehicles = _Vehicles(np.array(row.vehicle_keys, dtype=np.int32), row.vehicle_ids)
        return answer.replace((row, meters, vehicles))

    async def _from_hours(
        self, window: Window, row: Any, known: Meters, vehicles: _Vehicles, limits: CompareLimits
    ) -> QueryResult[MeterTable]:
        """Of every meter, as if those that fed moved vehicles had fed none."""
        of_pairs = unpack_keys(row.fed_vehicle_keys), unpack_keys(row.fed_meter_keys)
        fed_keys = np.unique(of_pairs[0])
        fed_ids = [vehicles.ids[at] for at in np.searchsorted(vehicles.keys, fed_keys).tolist()]
        answer = await self._fleet.fed_throughout(window, fed_keys, fed_ids, of_pairs, limits)
        of_vehicles, of_meters = answer.value
        own = OwnSums.of_hours(known.keys, of_meters[1:])
        await asyncio.sleep(0)
        places = np.searchsorted(fed_keys, of_pairs[0]), np.searchsorted(known.keys, of_pairs[1])
        return answer.replace(table_of_hours(known, own, of_vehicles, *places))

    async def _from_spans(
        self, window: Window, known: Meters, table: MeterTable, keys: Keys, limits: CompareLimits
    ) -> QueryResult[MeterTable]:
        """The table with some of its meters asked about anew, a slice after the other."""
        size = at_a_time(window, HOURS_COMPARED_MAX)
        answers = []
        for start in range(0, len(keys) or 1, size):
            asked = keys[start : start + size]
            its_keys = {"meter_keys": asked.tolist()}
            answer = await ask_of_window(self._reader, METER_SPANS, window, its_keys, US_PER_HOUR)
            answers.append(answer.replace(None))
            places = np.searchsorted(known.keys, asked)
            its = Meters.of(asked.tolist(), [known.ids[place] for place in places.tolist()])
            table = table.put(table_of_spans(window, its, answer.value, limits), places)
            await asyncio.sleep(0)
        return answers[0].replace(table).beside(*answers)


def _nothing_of(known: Meters) -> MeterTable:
    count = len(known.ids)
    mappings = np.zeros(count, np.int64)
    return MeterTable.of(known, mappings, OwnSums.nothing(count), OwnSums.nothing(count), no_feedings(), {}, {})
