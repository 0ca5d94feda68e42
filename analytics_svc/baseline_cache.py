"""What days have of a fleet's charges in memory, and what came of them, for as long as the database says it is so."""

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from analytics_svc.baseline_charges import Charges, Edge, Sums
from analytics_svc.baseline_tables import Mapped
from analytics_svc.hour_cache import Keys, places_of

ROWS_MAX = 3_000_000
"""Days of vehicles kept, some 50 bytes each: the 28 of 100,000 vehicles, and a few more."""

FLEETS_MAX = 4
"""Sums of a fleet that are kept, 36 bytes for each vehicle: of windows that begin on so many days."""

VEHICLES_MAX = 20_000
"""Sums of single vehicles that are kept, some 600 bytes each."""


class DayVersion(NamedTuple):
    """Tells what a day has from what it had at other times."""

    vehicles: str
    meters: str
    dropped: bool
    """Whether its readings are: then nothing of it changes any more, and nothing tells its changes."""


class Day(NamedTuple):
    version: DayVersion
    mapped: bytes
    """The version of its mappings."""
    keys: Keys
    """Of the vehicles that meters fed on it, ascending."""
    charges: Charges

    def of(self, keys: Keys) -> Charges:
        """Of other vehicles, among which its own are; nothing is known of the others."""
        if np.array_equal(keys, self.keys):
            return self.charges
        _, at = places_of(self.keys, keys)
        places = np.arange(len(keys))[at]
        its = self.charges
        sums = np.zeros((4, len(keys)))
        sums[:, places] = its.sums
        quiet_first, quiet_last = np.zeros((2, len(keys)), np.bool_)
        quiet_first[places], quiet_last[places] = its.quiet_first, its.quiet_last

        def moved(edge: Edge) -> Edge:
            return edge._replace(places=places[edge.places])

        return Charges(sums, quiet_first, quiet_last, moved(its.head), moved(its.tail))


class FleetSums(NamedTuple):
    """What all vehicles charged within 28 days."""

    version: str
    mapped_version: str
    mapped: Mapped
    keys: Keys
    sums: Sums

    def of(self, keys: Keys) -> Sums:
        """Of some vehicles, in their order; nothing of those that no meter fed."""
        found = np.zeros((4, len(keys)))
        ours, places = places_of(keys, self.keys)
        found[:, ours] = self.sums[:, places]
        return found


class BaselineCache:
    """Days by their start in microseconds, fleets by the end of their 28 days, vehicles by id and that."""

    def __init__(self) -> None:
        self._days: OrderedDict[int, Day] = OrderedDict()
        self._fleets: OrderedDict[int, FleetSums] = OrderedDict()
        self._vehicles: OrderedDict[tuple[str, int], tuple[str, bytes, NDArray[np.float64]]] = OrderedDict()
        self._rows = 0

    def days(self, starts_us: Sequence[int]) -> dict[int, Day]:
        """Those of these days that are kept."""
        return {start_us: self._days[start_us] for start_us in starts_us if start_us in self._days}

    def keep_days(self, days: Mapping[int, Day]) -> None:
        """Keeps days, and forgets others where they become too many."""
        for start_us, day in days.items():
            before = self._days.pop(start_us, None)
            self._rows += len(day.keys) - (len(before.keys) if before else 0)
            self._days[start_us] = day
        while self._rows > ROWS_MAX:
            _, forgotten = self._days.popitem(last=False)
            self._rows -= len(forgotten.keys)

    def fleet(self, end_us: int) -> FleetSums | None:
        if end_us in self._fleets:
            self._fleets.move_to_end(end_us)
        return self._fleets.get(end_us)

    def keep_fleet(self, end_us: int, fleet: FleetSums) -> None:
        self._fleets[end_us] = fleet
        self._fleets.move_to_end(end_us)
        if len(self._fleets) > FLEETS_MAX:
            self._fleets.popitem(last=False)

    def vehicle(self, vehicle_id: str, end_us: int, version: str, mappings: bytes) -> Sums | None:
        """What is kept of a vehicle, if its version is this one."""
        kept = self._vehicles.get((vehicle_id, end_us))
        if kept is None or kept[:2] != (version, mappings):
            return None
        self._vehicles.move_to_end((vehicle_id, end_us))
        return kept[2]

    def keep_vehicle(self, vehicle_id: str, end_us: int, version: str, mappings: bytes, sums: Sums) -> None:
        self._vehicles[vehicle_id, end_us] = version, mappings, sums
        self._vehicles.move_to_end((vehicle_id, end_us))
        if len(self._vehicles) > VEHICLES_MAX:
            self._vehicles.popitem(last=False)
