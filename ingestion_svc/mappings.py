"""Which meter feeds which vehicle, and when. A mapping is valid for `effective_from < t <= effective_until`.

What becomes of a mapping is recorded in the transaction in which it does: who said so, when and why.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any, Self

from sqlalchemy import Row
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from ingestion_svc.mappings_sql import (
    BEGIN_EARLIER,
    CLOSE,
    IS_KNOWN,
    LOCK,
    OVERLAPPING,
    RECORD,
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
class ChangeRecord:
    """Who changed something, when by the database's clock, and why; an empty note says nothing."""

    number: int
    identity: str
    note: str
    changed_us: int

    @classmethod
    def of(cls, columns: Sequence[Any]) -> Self:
        """From number, identity, note and time."""
        number, identity, note, changed_at = columns
        return cls(number, identity, note or "", us_from_datetime(changed_at))


@dataclass(frozen=True, slots=True)
class Mapping:
    """A meter feeds a vehicle, from an instant (exclusive) until another (inclusive; None: still), in microseconds."""

    vehicle_id: str
    meter_id: str
    from_us: int
    until_us: int | None
    registered: ChangeRecord | None = None
    """The change that said so of all of its time, if not of more. None: nobody knows."""
    ended: ChangeRecord | None = None
    """The change that gave it its end since. None: there was none, or nobody knows."""

    @classmethod
    def of(cls, row: Row[Any]) -> Self:
        """From a row of vehicle, meter, start, end, and the columns of the changes that registered and ended it."""
        vehicle_id, meter_id, start, end, *changes = tuple(row)
        end_us = None if end is None else us_from_datetime(end)
        registered, ended = (None if each[0] is None else ChangeRecord.of(each) for each in (changes[:4], changes[4:]))
        return cls(vehicle_id, meter_id, us_from_datetime(start), end_us, registered, ended)

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
class MappingOrder:
    """This mapping shall be registered, beside those of its vehicle with other meters where it is to join them."""

    wanted: Mapping
    join: bool
    note: str = ""


@dataclass(frozen=True, slots=True)
class UnmappingOrder:
    """No meter shall feed the vehicle for `from_us < t <= until_us`, in microseconds; None: for good."""

    vehicle_id: str
    meter_id: str
    """Only this one shall not. Empty: none shall."""
    from_us: int
    until_us: int | None
    note: str = ""


@shielded
async def map_vehicle(engine: AsyncEngine, order: MappingOrder, identity: str) -> tuple[Mapping, list[Mapping]]:
    """Registers that a meter feeds a vehicle; returns the mapping that holds from its start on, and those it closed.

    `identity` is whose order it is.

    What is there already changes nothing: a mapping of the same two that covers the wanted one, or begins where an open
    one is wanted, also where it was closed since. Otherwise an open one ends the open mappings of either device that
    began earlier, and one of the same two that begins later begins earlier. Raises MappingContradiction where another
    mapping begins at or after the start of an open one or ended after it, or overlaps a closed one.

    Where it is to `join` the vehicle's other meters, their mappings neither end nor contradict; it raises where there
    are METERS_MAX of them. Where not, they end or contradict also if one that began earlier covers an open one.
    """
    wanted, join = order.wanted, order.join
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
        changes = _Changes(connection, identity, order.note)
        closed = [await changes.close(each, wanted.from_us) for each in others]
        if kept is None:
            return await changes.register(wanted), closed
        if kept.from_us < wanted.from_us:
            return kept, closed
        return await changes.begin_earlier(kept, wanted.from_us), closed


@shielded
async def unmap_vehicle(engine: AsyncEngine, order: UnmappingOrder, identity: str) -> list[Mapping]:
    """Registers that no meter, or not that one, feeds a vehicle for a time; returns what was mapped within it.

    `identity` is whose order it is. Mappings keep what lies outside. Raises UnknownDevice, and MappingContradiction
    where without an end a mapping would be lost that begins after the start.
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
        changes = _Changes(connection, identity, order.note)
        return [await changes.take_away(each, asked) for each in registered]


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


class _Changes:
    """Changes mappings, in a transaction that has locked them, and records who does so and why."""

    def __init__(self, connection: AsyncConnection, identity: str, note: str) -> None:
        self._connection = connection
        self._said = {"identity": identity, "note": note}

    async def register(self, mapping: Mapping) -> Mapping:
        registered = replace(mapping, registered=await self._record(None, mapping))
        await self._insert(registered)
        return registered

    async def close(self, mapping: Mapping, until_us: int) -> Mapping:
        closed = replace(mapping, until_us=until_us)
        closed = replace(closed, ended=await self._record(mapping, closed))
        ending = {"effective_until": datetime_from_us(until_us), "ended_change": _number(closed.ended)}
        await self._connection.execute(CLOSE, _place(mapping) | ending)
        return closed

    async def begin_earlier(self, mapping: Mapping, from_us: int) -> Mapping:
        longer = replace(mapping, from_us=from_us)
        longer = replace(longer, registered=await self._record(mapping, longer))
        beginning = {"earlier": datetime_from_us(from_us), "registered_change": _number(longer.registered)}
        await self._connection.execute(BEGIN_EARLIER, _place(mapping) | beginning)
        return longer

    async def take_away(self, mapping: Mapping, asked: Mapping) -> Mapping:
        """Leaves of a mapping what lies outside of an asked time that it overlaps; returns what lay within."""
        rest = None
        if asked.until_us is not None and (mapping.until_us is None or mapping.until_us > asked.until_us):
            rest = replace(mapping, from_us=asked.until_us)
        if mapping.from_us < asked.from_us:
            await self.close(mapping, asked.from_us)
        else:
            await self._connection.execute(REMOVE, _place(mapping))
            if rest is None:
                await self._record(mapping, None)
        within = replace(mapping, from_us=max(mapping.from_us, asked.from_us))
        if rest is None:
            return within
        await self._record(mapping, rest)
        await self._insert(rest)
        return replace(within, until_us=asked.until_us, ended=None)

    async def _insert(self, mapping: Mapping) -> None:
        until = None if mapping.until_us is None else datetime_from_us(mapping.until_us)
        changes = {"registered_change": _number(mapping.registered), "ended_change": _number(mapping.ended)}
        await self._connection.execute(REGISTER, _place(mapping) | {"effective_until": until} | changes)

    async def _record(self, before: Mapping | None, after: Mapping | None) -> ChangeRecord:
        """Records what becomes of a mapping: none before, and it is new; none after, and it is no more."""
        mapping = before or after
        assert mapping is not None
        ids = {"vehicle_id": mapping.vehicle_id, "meter_id": mapping.meter_id}
        spans: dict[str, datetime | None] = {}
        for when, each in (("before", before), ("after", after)):
            spans[f"from_{when}"] = None if each is None else datetime_from_us(each.from_us)
            spans[f"until_{when}"] = None if each is None or each.until_us is None else datetime_from_us(each.until_us)
        recorded = await self._connection.execute(RECORD, ids | spans | self._said)
        return ChangeRecord.of(recorded.one())


def _number(change: ChangeRecord | None) -> int | None:
    return None if change is None else change.number
