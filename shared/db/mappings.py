"""Which meter feeds which vehicle, and when. A mapping is valid for `effective_from < t <= effective_until`."""

from dataclasses import dataclass
from typing import Any, Self

from sqlalchemy import Row, text
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from shared.errors import MappingContradiction
from shared.timestamps import datetime_from_us, iso_from_us, us_from_datetime

# Mappings are rare: one at a time is fast enough, and nobody has to think about two that cross.
_LOCK = text("SELECT pg_advisory_xact_lock(hashtextextended('energyfleet.mappings', 0))")

_REGISTER_VEHICLE = text("INSERT INTO vehicles (vehicle_id) VALUES (:vehicle_id) ON CONFLICT DO NOTHING")
_REGISTER_METER = text("INSERT INTO meters (meter_id) VALUES (:meter_id) ON CONFLICT DO NOTHING")

# The mappings of a vehicle or a meter that are valid at some time after an instant.
_VALID_AFTER = text("""
    SELECT vehicle_id, meter_id, effective_from, effective_until
    FROM vehicle_meter_map JOIN vehicles USING (vehicle_key) JOIN meters USING (meter_key)
    WHERE (vehicle_id = :vehicle_id OR meter_id = :meter_id)
        AND (effective_until IS NULL OR effective_until > :effective_from)
    ORDER BY effective_from, vehicle_id
""")

_OPEN = text("""
    INSERT INTO vehicle_meter_map (vehicle_key, meter_key, effective_from)
    SELECT vehicle_key, meter_key, :effective_from FROM vehicles CROSS JOIN meters
    WHERE vehicle_id = :vehicle_id AND meter_id = :meter_id
""")

_CLOSE = text("""
    UPDATE vehicle_meter_map SET effective_until = :effective_until
    FROM vehicles
    WHERE vehicles.vehicle_key = vehicle_meter_map.vehicle_key
        AND vehicle_id = :vehicle_id AND effective_from = :effective_from
""")

_BEGIN_EARLIER = text("""
    UPDATE vehicle_meter_map SET effective_from = :earlier
    FROM vehicles
    WHERE vehicles.vehicle_key = vehicle_meter_map.vehicle_key
        AND vehicle_id = :vehicle_id AND effective_from = :effective_from
""")

# A page of mappings after a place in the order of vehicle and start; empty ids ask for every device.
_LIST = text("""
    SELECT vehicle_id, meter_id, effective_from, effective_until
    FROM vehicle_meter_map JOIN vehicles USING (vehicle_key) JOIN meters USING (meter_key)
    WHERE (:vehicle_id = '' OR vehicle_id = :vehicle_id) AND (:meter_id = '' OR meter_id = :meter_id)
        AND (vehicle_id, effective_from) > (:after_vehicle_id, CAST(:after AS timestamptz))
    ORDER BY vehicle_id, effective_from
    LIMIT :most
""")


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

    def __str__(self) -> str:
        until = "on" if self.until_us is None else f"until {iso_from_us(self.until_us)}"
        return f"{self.vehicle_id} is fed by {self.meter_id} from {iso_from_us(self.from_us)} {until}"


async def map_vehicle(
    engine: AsyncEngine, vehicle_id: str, meter_id: str, from_us: int
) -> tuple[Mapping, list[Mapping]]:
    """Registers that a meter feeds a vehicle from an instant on; returns that mapping and those that it closed.

    Open mappings of either device that began earlier end at that instant. The same mapping again changes nothing, also
    where it was closed since; an open one that is asked for from an earlier instant on begins earlier. Raises
    MappingContradiction where another mapping begins at or after that instant, or ended after it.
    """
    pair = {"vehicle_id": vehicle_id, "meter_id": meter_id}
    wanted = Mapping(vehicle_id, meter_id, from_us, None)
    async with engine.begin() as connection:
        await connection.execute(_LOCK)
        await connection.execute(_REGISTER_VEHICLE, {"vehicle_id": vehicle_id})
        await connection.execute(_REGISTER_METER, {"meter_id": meter_id})
        found = await connection.execute(_VALID_AFTER, pair | {"effective_from": datetime_from_us(from_us)})
        registered = [Mapping.of(row) for row in found]
        same_pair = [each for each in registered if (each.vehicle_id, each.meter_id) == (vehicle_id, meter_id)]
        for each in same_pair:
            if each.from_us == from_us or (each.from_us < from_us and each.until_us is None):
                return each, []
        later = next((each for each in same_pair if each.until_us is None), None)
        others = [each for each in registered if each is not later]
        for each in others:
            if each.until_us is not None or each.from_us >= from_us:
                raise MappingContradiction(f"{wanted} contradicts what is registered: {each}")
        closed = [await _close(connection, each, from_us) for each in others]
        if later:
            await connection.execute(_BEGIN_EARLIER, _place(later) | {"earlier": datetime_from_us(from_us)})
        else:
            await connection.execute(_OPEN, pair | {"effective_from": datetime_from_us(from_us)})
        return wanted, closed


async def list_mappings(
    engine: AsyncEngine, vehicle_id: str, meter_id: str, after: tuple[str, int], most: int
) -> list[Mapping]:
    """At most so many mappings of a vehicle or a meter (empty: of all) that come after (vehicle id, start in us)."""
    asked = {
        "vehicle_id": vehicle_id,
        "meter_id": meter_id,
        "after_vehicle_id": after[0],
        "after": datetime_from_us(after[1]),
        "most": most,
    }
    async with engine.connect() as connection:
        return [Mapping.of(row) for row in await connection.execute(_LIST, asked)]


def _place(mapping: Mapping) -> dict[str, Any]:
    return {"vehicle_id": mapping.vehicle_id, "effective_from": datetime_from_us(mapping.from_us)}


async def _close(connection: AsyncConnection, mapping: Mapping, until_us: int) -> Mapping:
    await connection.execute(_CLOSE, _place(mapping) | {"effective_until": datetime_from_us(until_us)})
    return Mapping(mapping.vehicle_id, mapping.meter_id, mapping.from_us, until_us)
