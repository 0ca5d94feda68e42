"""The newest committed timestamps of devices, for firmware that lost its memory."""

from sqlalchemy.ext.asyncio import AsyncEngine

from ingestion_svc.upkeep_sql import NEWEST_TIMESTAMPS
from shared.timestamps import us_from_datetime


async def newest_timestamps(engine: AsyncEngine, meter_id: str, vehicle_id: str) -> tuple[int | None, int | None]:
    """Microseconds of a meter's and a vehicle's newest committed reading; None for none, or an empty id."""
    async with engine.connect() as connection:
        row = (await connection.execute(NEWEST_TIMESTAMPS, {"meter_id": meter_id, "vehicle_id": vehicle_id})).one()
    meter_ts, vehicle_ts = (None if ts is None else us_from_datetime(ts) for ts in row)
    return meter_ts, vehicle_ts
