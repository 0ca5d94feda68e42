"""What ingestion asks and registers about devices beside their readings, over a small pool of connections."""

from collections.abc import Coroutine
from dataclasses import dataclass
from typing import Any, TypeVar

from sqlalchemy.ext.asyncio import AsyncEngine

from ingestion_svc.mappings import (
    Mapping,
    MappingsQuestion,
    UnmappingOrder,
    list_mappings,
    map_vehicle,
    unmap_vehicle,
)
from ingestion_svc.upkeep_sql import NEWEST_TIMESTAMPS
from shared.db.engine import database_errors, shielded
from shared.timestamps import us_from_datetime

Found = TypeVar("Found")


@dataclass(frozen=True, slots=True)
class Opening:
    """The devices behind an exchange; empty: none."""

    meter_id: str
    vehicle_id: str


class Devices:
    """Every method may raise DatabaseUnavailable, and goes on to its end when its caller is cancelled."""

    def __init__(self, engine: AsyncEngine) -> None:
        self._engine = engine

    async def map_vehicle(self, wanted: Mapping) -> tuple[Mapping, list[Mapping]]:
        return await _shielded(map_vehicle(self._engine, wanted))

    async def unmap_vehicle(self, order: UnmappingOrder) -> list[Mapping]:
        return await _shielded(unmap_vehicle(self._engine, order))

    async def list_mappings(self, question: MappingsQuestion) -> tuple[list[Mapping], bool]:
        """A page of mappings, and whether there are more."""
        found = await _shielded(list_mappings(self._engine, question))
        return found[: question.most], len(found) > question.most

    async def newest_timestamps(self, opening: Opening) -> tuple[int | None, int | None]:
        """Microseconds of a meter's and a vehicle's newest committed reading; None for none, or an empty id."""
        return await _shielded(_newest_timestamps(self._engine, opening))


async def _newest_timestamps(engine: AsyncEngine, opening: Opening) -> tuple[int | None, int | None]:
    ids = {"meter_id": opening.meter_id, "vehicle_id": opening.vehicle_id}
    async with engine.connect() as connection:
        row = (await connection.execute(NEWEST_TIMESTAMPS, ids)).one()
    meter_ts, vehicle_ts = (None if ts is None else us_from_datetime(ts) for ts in row)
    return meter_ts, vehicle_ts


async def _shielded(work: Coroutine[Any, Any, Found]) -> Found:
    async with database_errors():
        return await shielded(work)
