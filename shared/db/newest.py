"""The newest committed timestamps of devices, for firmware that lost its memory."""

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from shared.timestamps import us_from_datetime

# One row; null where the device is not known or has sent nothing.
_NEWEST = text("""
    SELECT
        (SELECT ts FROM meter_current_status JOIN meters USING (meter_key) WHERE meter_id = :meter_id),
        (SELECT ts FROM vehicle_current_status JOIN vehicles USING (vehicle_key) WHERE vehicle_id = :vehicle_id)
""")


async def newest_timestamps(engine: AsyncEngine, meter_id: str, vehicle_id: str) -> tuple[int | None, int | None]:
    """Microseconds of a meter's and a vehicle's newest committed reading; None for none, or an empty id."""
    async with engine.connect() as connection:
        row = (await connection.execute(_NEWEST, {"meter_id": meter_id, "vehicle_id": vehicle_id})).one()
    meter_ts, vehicle_ts = (None if ts is None else us_from_datetime(ts) for ts in row)
    return meter_ts, vehicle_ts
