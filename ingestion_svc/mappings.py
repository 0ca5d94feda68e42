"""Which meter feeds which vehicle, and when. A mapping is valid for `effective_from < t <= effective_until`."""

from dataclasses import dataclass, replace
from typing import Any, Self

from sqlalchemy import Row
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from ingestion_svc.mappings_sql import (
    BEGIN_EARLIER,
    CLOSE,
    IS_KNOWN,
    LIST,
    LOCK,
    OVERLAPPING,
    REGISTER,
    REGISTER_METER,
    REGISTER_VEHICLE,
    REMOVE,
)
from shared.db.engine import shielded
from shared.errors import MappingContradiction, UnknownDevice
from shared.timestamps import datetime_from_us, iso_from_us, us_from_datetime

CONTRADICTIONS_TOLD = 3
"""Mappings that a refusal names: enough to see what is wrong, and few enough for a status message."""

METERS_MAX = 100
"""Meters that may feed a vehicle at a time: all of them fit into the evidence, and any charging point needs fewer."""


@dataclass(frozen=True, slots=True)
class Mapping:
    """A meter feeds a vehicle, from an instant (exclusive) until another (inclusive; None: still), in microseconds."""

    vehicle_id: str
    meter_id: str
    from_us: int
    until_us: int | None

    @classmethod
    def of(cls, row: Row[Any]) -> Self:
        """From a row of vehicle, meter, start and end."""
        vehicle_id, meter_id, start, end = tuple(row)
        return cls(vehicle_id, meter_id, us_from_datetime(start), None if end is None else us_from_datetime(end))

    def same_pair(self, other: Self) -> bool:
        return (self.vehicle_id, self.meter_id) == (other.vehicle_id, other.meter_id)

    def covers(self, other: Self) -> bool:
        """Whether the other's time lies wholly within this one's."""
        if self.from_us > other.from_us:
            return False
        return self.until_us is None or (other.until_us is not None and other.until_us <= self.until_us)

    def __str__(self) -> str:
        until = "on" if self.until_us is None else f"until {iso_from_us(self.until_us)}"
        return f"{self.vehicle_id} is fed by {self.meter_id} from {iso_from_us(self.from_us)} {until}"


@dataclass(frozen=True, slots=True)
class UnmappingOrder:
    """No meter shall feed the vehicle for `from_us < t <= until_us`, in microseconds; None: for good."""

    vehicle_id: str
    meter_id: str
    """Only this one shall not. Empty: none shall."""
    from_us: int
    until_us: int | None


@dataclass(frozen=True, slots=True)
class MappingsQuestion:
    """Which mappings: those of a vehicle, of a meter (empty: of all), after a place, at most so many."""

    vehicle_id: str
    meter_id: str
    after: tuple[str, int, str]
    """Vehicle id, start in microseconds, and meter id."""
    most: int


@shielded
async def map_vehicle(engine: AsyncEngine, wanted: Mapping, *, join: bool) -> tuple[Mapping, list[Mapping]]:
    """Registers that a meter feeds a vehicle; returns the mapping that holds from its start on, and those it closed.

    What is there already changes nothing: a mapping of the same two that covers the wanted one, or begins where an open
    one is wanted, also where it was closed since. Otherwise an open one ends the open mappings of either device that
    began earlier, and one of the same two that begins later begins earlier. Raises MappingContradiction where another
    mapping begins at or after the start of an open one or ended after it, or overlaps a closed one.

    Where it is to `join` the vehicle's other meters, their mappings neither end nor contradict; it raises where there
    are METERS_MAX of them. Where not, they end or contradict also if one that began earlier covers an open one.
    """
    is_open = wanted.until_us is None
    async with engine.begin() as connection:
        await connection.execute(LOCK)
        await connection.execute(REGISTER_VEHICLE, {"vehicle_id": wanted.vehicle_id})
        await connection.execute(REGISTER_METER, {"meter_id": wanted.meter_id})
        registered = await _overlapping(connection, wanted)
        same_pair = [each for each in registered if each.same_pair(wanted)]
        for each in same_pair:
            if (is_open and each.from_us == wanted.from_us) or (each.covers(wanted) and (join or not is_open)):
                return each, []
        beside = [each for each in registered if each.meter_id != wanted.meter_id]
        if join and len({each.meter_id for each in beside}) >= METERS_MAX:
            raise MappingContradiction(f"{wanted.vehicle_id} is fed by {METERS_MAX} meters then: {_told(beside)}")
        kept = next((each for each in same_pair if is_open and each.until_us is None), None)
        others = [each for each in registered if each is not kept and not (join and each in beside)]
        against = [each for each in others if not (is_open and each.until_us is None and each.from_us < wanted.from_us)]
        if against:
            raise MappingContradiction(f"{wanted} contradicts what is registered: {_told(against)}")
        closed = [await _close(connection, each, wanted.from_us) for each in others]
        if kept is None:
            await _register(connection, wanted)
        elif kept.from_us < wanted.from_us:
            return kept, closed
        else:
            await connection.execute(BEGIN_EARLIER, _place(kept) | {"earlier": datetime_from_us(wanted.from_us)})
        return wanted, closed


@shielded
async def unmap_vehicle(engine: AsyncEngine, order: UnmappingOrder) -> list[Mapping]:
    """Registers that no meter, or not that one, feeds a vehicle for a time; returns what was mapped within it.

    Mappings keep what lies outside. Raises UnknownDevice, and MappingContradiction where without an end a mapping would
    be lost that begins after the start.
    """
    asked = Mapping(order.vehicle_id, "", order.from_us, order.until_us)
    async with engine.begin() as connection:
        await connection.execute(LOCK)
        registered = await _overlapping(connection, asked)
        if not registered and not (await connection.execute(IS_KNOWN, {"vehicle_id": asked.vehicle_id})).scalar_one():
            raise UnknownDevice("vehicle", asked.vehicle_id)
        registered = [each for each in registered if order.meter_id in ("", each.meter_id)]
        later = [each for each in registered if each.from_us > asked.from_us]
        if later and asked.until_us is None:
            raise MappingContradiction(
                f"{asked.vehicle_id} without {order.meter_id or 'a meter'} from {iso_from_us(asked.from_us)} on"
                f" contradicts what is registered to begin later: {_told(later)}"
            )
        return [await _take_away(connection, each, asked) for each in registered]


@shielded
async def list_mappings(engine: AsyncEngine, question: MappingsQuestion) -> tuple[list[Mapping], bool]:
    """The mappings that are asked for, and whether there are more."""
    after_vehicle_id, after_us, after_meter_id = question.after
    asked = {
        "vehicle_id": question.vehicle_id,
        "meter_id": question.meter_id,
        "after_vehicle_id": after_vehicle_id,
        "after": datetime_from_us(after_us),
        "after_meter_id": after_meter_id,
        "most": question.most + 1,
    }
    async with engine.connect() as connection:
        found = [Mapping.of(row) for row in await connection.execute(LIST, asked)]
    return found[: question.most], len(found) > question.most


async def _overlapping(connection: AsyncConnection, wanted: Mapping) -> list[Mapping]:
    """What is registered of either device at some time of the wanted mapping, ordered by start."""
    asked = {
        "vehicle_id": wanted.vehicle_id,
        "meter_id": wanted.meter_id,
        "after": datetime_from_us(wanted.from_us),
        "until": None if wanted.until_us is None else datetime_from_us(wanted.until_us),
    }
    return [Mapping.of(row) for row in await connection.execute(OVERLAPPING, asked)]


def _told(mappings: list[Mapping]) -> str:
    told = "; ".join(str(each) for each in mappings[:CONTRADICTIONS_TOLD])
    more = len(mappings) - CONTRADICTIONS_TOLD
    return f"{told}; and {more} more" if more > 0 else told


def _place(mapping: Mapping) -> dict[str, Any]:
    ids = {"vehicle_id": mapping.vehicle_id, "meter_id": mapping.meter_id}
    return ids | {"effective_from": datetime_from_us(mapping.from_us)}


async def _register(connection: AsyncConnection, mapping: Mapping) -> None:
    until = None if mapping.until_us is None else datetime_from_us(mapping.until_us)
    await connection.execute(REGISTER, _place(mapping) | {"effective_until": until})


async def _close(connection: AsyncConnection, mapping: Mapping, until_us: int) -> Mapping:
    await connection.execute(CLOSE, _place(mapping) | {"effective_until": datetime_from_us(until_us)})
    return replace(mapping, until_us=until_us)


async def _take_away(connection: AsyncConnection, mapping: Mapping, asked: Mapping) -> Mapping:
    """Leaves of a mapping what lies outside of an asked time that it overlaps; returns what lay within."""
    if mapping.from_us < asked.from_us:
        await _close(connection, mapping, asked.from_us)
    else:
        await connection.execute(REMOVE, _place(mapping))
    from_us = max(mapping.from_us, asked.from_us)
    if asked.until_us is None or (mapping.until_us is not None and mapping.until_us <= asked.until_us):
        return replace(mapping, from_us=from_us)
    await _register(connection, replace(mapping, from_us=asked.until_us))
    return replace(mapping, from_us=from_us, until_us=asked.until_us)
