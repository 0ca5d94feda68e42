"""Lists mappings, and what became of them."""

from dataclasses import dataclass
from typing import Any, Self

from sqlalchemy import Row
from sqlalchemy.ext.asyncio import AsyncEngine

from ingestion_svc.mappings import ChangeRecord, Mapping
from ingestion_svc.mappings_sql import LIST, LIST_CHANGES
from shared.db.engine import shielded
from shared.timestamps import datetime_from_us, us_from_datetime


@dataclass(frozen=True, slots=True)
class MappingsQuestion:
    """Which mappings: those of a vehicle, of a meter (empty: of all), after a place, at most so many."""

    vehicle_id: str
    meter_id: str
    after: tuple[str, int, str]
    """Vehicle id, start in microseconds, and meter id."""
    most: int


@dataclass(frozen=True, slots=True)
class MappingChangesQuestion:
    """Which changes: of a vehicle's mappings, of a meter's (empty: of all), before a place, at most so many."""

    vehicle_id: str
    meter_id: str
    before: int
    most: int


@dataclass(frozen=True, slots=True)
class MappingChange:
    """What became of a mapping. None before: it is new; None after: it is no more."""

    before: Mapping | None
    after: Mapping | None
    record: ChangeRecord

    @classmethod
    def of(cls, row: Row[Any]) -> Self:
        """From a row of vehicle, meter, start and end before, start and end after, and the record's columns."""
        vehicle_id, meter_id, from_before, until_before, from_after, until_after, *record = tuple(row)
        before, after = (
            None
            if start is None
            else Mapping(vehicle_id, meter_id, us_from_datetime(start), None if end is None else us_from_datetime(end))
            for start, end in ((from_before, until_before), (from_after, until_after))
        )
        return cls(before, after, ChangeRecord.of(record))


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


@shielded
async def list_mapping_changes(
    engine: AsyncEngine, question: MappingChangesQuestion
) -> tuple[list[MappingChange], bool]:
    """The changes that are asked for, the newest first, and whether there are more."""
    asked = {
        "vehicle_id": question.vehicle_id,
        "meter_id": question.meter_id,
        "before": question.before,
        "most": question.most + 1,
    }
    async with engine.connect() as connection:
        found = [MappingChange.of(row) for row in await connection.execute(LIST_CHANGES, asked)]
    return found[: question.most], len(found) > question.most
