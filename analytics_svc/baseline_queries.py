"""The questions about the 28 days before a window: what vehicles charged on them.

Days of the whole fleet are read once, and again where something has changed on them; what came of them answers for each
vehicle, too. Where they have not been read, a vehicle is asked about by itself, and where many are, all days are read.
"""

import asyncio
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from contextvars import Context
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
import structlog

from analytics_svc.baseline_cache import BaselineCache, Day, DayVersion, FleetSums
from analytics_svc.baseline_charges import (
    DAY_H,
    BaselineHours,
    Sums,
    add_joined,
    baseline_window,
    of_hours,
    side_by_side,
    sums_of,
)
from analytics_svc.baseline_sql import (
    ALL_MAPPINGS,
    BASELINE_HOURS,
    BASELINE_VERSION_OF,
    BASELINE_VERSIONS,
    METER_DAY,
    VEHICLE_DAY,
)
from analytics_svc.baseline_tables import NOTHING, DayTable, Flowed, Mapped, hour_number, hours_of_vehicle
from analytics_svc.charging import STANDBY_TAKEN_H
from analytics_svc.hour_cache import Keys
from analytics_svc.questions import Window
from analytics_svc.reader import QueryResult, Reader
from analytics_svc.stretches import CompareLimits
from analytics_svc.totals import SLICE_VEHICLES
from shared.errors import DatabaseUnavailable
from shared.logs import quietly
from shared.timestamps import US_PER_DAY, US_PER_SECOND, datetime_from_us, us_from_datetime

_log = structlog.get_logger()

MISSED_MAX = 20
"""Vehicles that are asked about by themselves, some milliseconds each, before the days of all are read in the
background: of 10,000 that takes some seconds."""

NAMED_MAX = 200
"""Vehicles of a list that are asked about by themselves; for more it waits until the days of all are read."""

VEHICLES_ASKED_MAX = 20
"""In one statement: of each 28 days of hours are looked at."""

SHARED_MAX = 2_000
"""Meters that are told one by one which feed a vehicle together with others; of more all hours are sent."""

_NO_VERSION = "0:0"


class VehicleVersion(NamedTuple):
    """What tells whether what is known of a vehicle's 28 days still holds."""

    vehicle_id: str
    vehicle_key: int
    version: str
    mappings: bytes


class BaselineQueries:
    """May raise DatabaseUnavailable, within about the reader's timeout, and DeadlinePassed. The limits are always the
    same."""

    def __init__(self, reader: Reader) -> None:
        self._reader = reader
        self._cache = BaselineCache()
        self._loading = asyncio.Lock()
        self._missed: Counter[int] = Counter()
        self._background: asyncio.Task[None] | None = None
        self._mapped: tuple[str, Mapped] = "", Mapped.unpacked(b"")

    async def of_vehicle(
        self, window: Window, version: QueryResult[VehicleVersion], limits: CompareLimits
    ) -> QueryResult[Sums]:
        """Of one vehicle."""
        period, its = baseline_window(window), version.value
        sums = self._kept(period, its)
        if sums is not None:
            return version.replace(sums)
        self._miss(period, limits)
        answer = await self._own(period, [its.vehicle_id], limits)
        return answer.replace(answer.value[its.vehicle_id])

    async def of_vehicles(self, window: Window, vehicle_ids: Sequence[str], limits: CompareLimits) -> QueryResult[Sums]:
        """Of some vehicles, in their order; nothing of those that are unknown."""
        period = baseline_window(window)
        found: dict[str, Sums] = {}
        answer = await self._reader.ask(
            BASELINE_VERSION_OF, {"vehicle_ids": list(vehicle_ids), **period_parameters(period)}
        )
        others: list[QueryResult[Any]] = []
        versions = [VehicleVersion(*row) for row in answer.value]
        missing = []
        for its in versions:
            sums = self._kept(period, its)
            if sums is None:
                missing.append(its.vehicle_id)
            else:
                found[its.vehicle_id] = sums
        if len(missing) > NAMED_MAX:
            fleet = await self._fleet(period, limits)
            others.append(fleet)
            keys = np.array([its.vehicle_key for its in versions], np.int32)
            found = dict(zip([its.vehicle_id for its in versions], fleet.value.of(keys).T[:, :, None], strict=True))
            missing = []
        for start in range(0, len(missing), VEHICLES_ASKED_MAX):
            own = await self._own(period, missing[start : start + VEHICLES_ASKED_MAX], limits)
            found |= own.value
            others.append(own)
        nothing = np.zeros((4, 1))
        columns = [found.get(vehicle_id, nothing) for vehicle_id in vehicle_ids]
        return answer.replace(np.concatenate([np.zeros((4, 0)), *columns], axis=1)).beside(*others)

    async def of_windows(
        self, windows: Mapping[str, Sequence[Window]], limits: CompareLimits
    ) -> dict[tuple[str, int], Sums]:
        """Of some vehicles before some windows of theirs, by id and start of the window; nothing of those unknown."""
        found: dict[tuple[str, int], Sums] = {}
        ids = list(windows)
        for start in range(0, len(ids), VEHICLES_ASKED_MAX):
            asked = ids[start : start + VEHICLES_ASKED_MAX]
            periods = {
                vehicle_id: {window.start_us: baseline_window(window) for window in windows[vehicle_id]}
                for vehicle_id in asked
            }
            every = [period for its in periods.values() for period in its.values()]
            whole = Window(min(each.start_us for each in every), max(each.end_us for each in every))
            answer = await self._ask_hours(whole, asked, limits)
            for vehicle_id, rows in answer.value.items():
                of_period: dict[Window, Sums] = {}
                for start_us, period in periods[vehicle_id].items():
                    if period not in of_period:
                        of_period[period] = sums_of(hours_of_vehicle(period, rows[0].mappings, rows), limits)
                    found[vehicle_id, start_us] = of_period[period]
                await asyncio.sleep(0)
        return found

    async def of_fleet(self, window: Window, keys: Keys, limits: CompareLimits) -> QueryResult[Sums]:
        """Of vehicles, by their keys, in their order."""
        fleet = await self._fleet(baseline_window(window), limits)
        return fleet.replace(fleet.value.of(keys))

    def read_ahead(self, now_us: int, limits: CompareLimits) -> None:
        """Reads the days that a question about the last 24 hours needs, in the background: none need wait."""
        self._read_in_background(baseline_window(Window(now_us - US_PER_DAY, now_us)), limits)

    async def close(self) -> None:
        """Ends what goes on in the background."""
        if self._background is not None:
            self._background.cancel()
            await asyncio.gather(self._background, return_exceptions=True)

    def _kept(self, period: Window, its: VehicleVersion) -> Sums | None:
        """What is kept of a vehicle, if it still holds; nothing of one that no meter fed."""
        if not its.mappings:
            return np.zeros((4, 1))
        fleet = self._cache.fleet(period.end_us)
        if fleet is not None and fleet.version == its.version:
            mapped = fleet.mapped.of(its.vehicle_key).within(period)
            if mapped.equals(Mapped.of_vehicle(its.mappings, its.vehicle_key).within(period)):
                return fleet.of(np.array([its.vehicle_key], np.int32))
        return self._cache.vehicle(its.vehicle_id, period.end_us, its.version, its.mappings)

    async def _own(
        self, period: Window, vehicle_ids: Sequence[str], limits: CompareLimits
    ) -> QueryResult[dict[str, Sums]]:
        """Of some vehicles, asked about by themselves."""
        answer = await self._ask_hours(period, vehicle_ids, limits)
        found = {}
        for vehicle_id, rows in answer.value.items():
            sums = sums_of(hours_of_vehicle(period, rows[0].mappings, rows), limits)
            self._cache.keep_vehicle(vehicle_id, period.end_us, rows[0].version, rows[0].mappings, sums)
            found[vehicle_id] = sums
        return answer.replace(found)

    async def _ask_hours(
        self, period: Window, vehicle_ids: Sequence[str], limits: CompareLimits
    ) -> QueryResult[dict[str, list[Any]]]:
        """The rows of BASELINE_HOURS of each of some vehicles."""
        asked = {
            "vehicle_ids": list(vehicle_ids),
            "vehicle_least_kwh": limits.standby_kw * STANDBY_TAKEN_H,
            "meter_least_kwh": limits.standby_kw,
        }
        answer = await self._reader.ask(BASELINE_HOURS, asked | period_parameters(period), {})
        found: dict[str, list[Any]] = defaultdict(list)
        for row in answer.value:
            found[row.vehicle_id].append(row)
        return answer.replace(found)

    def _miss(self, period: Window, limits: CompareLimits) -> None:
        """Counts a vehicle that is asked about by itself; after many the days of all are read, in the background."""
        self._missed[period.end_us] += 1
        if self._missed[period.end_us] >= MISSED_MAX:
            self._read_in_background(period, limits)

    def _read_in_background(self, period: Window, limits: CompareLimits) -> None:
        if self._background is None or self._background.done():
            self._missed.clear()
            # In a context of its own: the caller's deadline is not that of the others.
            self._background = asyncio.create_task(self._read_all(period, limits), context=Context())

    async def _read_all(self, period: Window, limits: CompareLimits) -> None:
        try:
            await self._fleet(period, limits)
        except DatabaseUnavailable as error:
            quietly(_log.warning, "baselines_not_read", error=str(error))

    async def _fleet(self, period: Window, limits: CompareLimits) -> QueryResult[FleetSums]:
        """Of all vehicles."""
        async with self._loading:  # whoever waits needs what the other one reads
            answer = await self._reader.ask(BASELINE_VERSIONS, period_parameters(period))
            [row] = answer.value
            fleet = self._cache.fleet(period.end_us)
            if fleet is None or (fleet.version, fleet.mapped_version) != (row.version, row.mappings):
                fleet = await self._read(period, row, limits)
                self._cache.keep_fleet(period.end_us, fleet)
            return answer.replace(fleet)

    async def _read(self, period: Window, row: Any, limits: CompareLimits) -> FleetSums:
        """The days that are not known yet or have changed, and what comes of all."""
        if self._mapped[0] != row.mappings:
            [all_mappings] = (await self._reader.ask(ALL_MAPPINGS, {})).value
            self._mapped = all_mappings.mappings, Mapped.unpacked(all_mappings.packed)
        mapped_version, mapped = self._mapped
        digests = [dict(each.split() for each in days) for days in (row.vehicle_days, row.meter_days)]
        floor_us = us_from_datetime(row.floor)
        starts_us = range(period.start_us, period.end_us, US_PER_DAY)
        days = self._cache.days(starts_us)
        for start_us in reversed(starts_us):  # those that other windows need, too, first
            window = Window(start_us, start_us + US_PER_DAY)
            of_vehicles, of_meters = (its.get(str(start_us // US_PER_SECOND), _NO_VERSION) for its in digests)
            version = DayVersion(of_vehicles, of_meters, start_us < floor_us)
            within = mapped.within(window)
            day = days.get(start_us)
            if day is None or (day.version, day.mapped) != (version, within.version):
                days[start_us] = await self._read_day(window, within, version.dropped, limits)
                self._cache.keep_days({start_us: days[start_us]})
            await asyncio.sleep(0)
        keys = np.unique(np.concatenate([np.zeros(0, np.int32), *(days[start_us].keys for start_us in starts_us)]))
        charges = [days[start_us].of(keys) for start_us in starts_us]
        sums = np.zeros((4, len(keys)))
        for each in charges:
            sums += each.sums
        for day_before, following in pairwise(charges):
            add_joined(sums, day_before, following, limits)
            await asyncio.sleep(0)
        return FleetSums(row.version, mapped_version, mapped, keys, sums)

    async def _read_day(self, window: Window, mapped: Mapped, dropped: bool, limits: CompareLimits) -> Day:
        table = DayTable(window, mapped)
        shared = table.shared_meters
        asked = period_parameters(window)
        least_kwh = limits.standby_kw if len(shared) <= SHARED_MAX else 0.0
        of_vehicles, of_meters = await asyncio.gather(
            self._reader.ask(VEHICLE_DAY, asked | {"least_kwh": limits.standby_kw * STANDBY_TAKEN_H}),
            self._reader.ask(METER_DAY, asked | {"least_kwh": least_kwh, "shared_keys": shared[:SHARED_MAX].tolist()}),
        )
        digests: list[str] = []
        flowed: list[dict[int, Flowed]] = []
        for answer in (of_vehicles, of_meters):
            hours: dict[int, Flowed] = {}
            for row in answer.value:
                if row.hour_start is None:
                    digests.append(row.digest)
                else:
                    hours[hour_number(row, window)] = Flowed.of(row)
            flowed.append(hours)
        for number in range(DAY_H):
            table.put(number, *(hours.get(number, NOTHING) for hours in flowed))
            if number % 4 == 3:
                await asyncio.sleep(0)
        parts = []
        for start in range(0, len(table.keys) or 1, SLICE_VEHICLES):
            its = slice(start, start + SLICE_VEHICLES)
            hours_of_slice = BaselineHours(table.hours.flowed[..., its].copy(), table.hours.known[:, its])
            parts.append(of_hours(hours_of_slice, limits))
            await asyncio.sleep(0)
        return Day(DayVersion(digests[0], digests[1], dropped), mapped.version, table.keys, side_by_side(parts))


def period_parameters(period: Window) -> dict[str, object]:
    return {"baseline_since": datetime_from_us(period.start_us), "baseline_until": datetime_from_us(period.end_us)}
