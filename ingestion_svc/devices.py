"""The newest committed timestamps of devices, for firmware that lost its memory."""

from dataclasses import dataclass

from sqlalchemy.ext.asyncio import AsyncEngine

from ingestion_svc.upkeep_sql import NEWEST_TIMESTAMPS
from shared.db.engine import shielded
from shared.timestamps import us_from_datetime


@dataclass(frozen=True, slots=True)
class Opening:
    """The devices behind an exchange; empty: none."""

    meter_id: str
    vehicle_id: str


@shielded
async def newest_timestamps(engine: AsyncEngine, opening: Opening) -> tuple[int | None, int | None]:
    """Microseconds of a meter's and a vehicle's newest committed reading; None for none, or an empty id."""
    ids = {"meter_id": opening.meter_id, "vehicle_id": opening.vehicle_id}
    async with engine.connect() as connection:
        row = (await connection.execute(NEWEST_TIMESTAMPS, ids)).one()
    meter_ts, vehicle_ts = (None if ts is None else us_from_datetime(ts) for ts in row)
    return meter_ts, vehicle_ts
