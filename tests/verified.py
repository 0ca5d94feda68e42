"""What `energyfleet verify` would find."""

from typing import Any

from psycopg import AsyncConnection

from shared.db.engine import connection_parameters
from shared.db.verification import EVER_US, Check, Difference, checks, find, repair_rows
from shared.timestamps import US_PER_HOUR, us_from_datetime

_HOURS = " UNION ".join(
    f"SELECT hour_start FROM {side}_energy_hourly"
    f" UNION SELECT date_bin('1 hour', ts - interval '1 us', 'epoch') FROM {side}_readings"
    for side in ("meter", "vehicle")
)
"""Those `(h, h + 1 h]` of which anything is stored."""


async def checks_of_stored(connection: AsyncConnection[Any]) -> list[Check]:
    """What `verify` looks at, ever, but for the hours of which nothing is stored, most of a day."""
    cursor = await connection.execute(_HOURS)
    hours = {None} | {us_from_datetime(hour) // US_PER_HOUR * US_PER_HOUR for (hour,) in await cursor.fetchall()}
    return [check for check in await checks(connection, *EVER_US) if check.hours > 1 or check.hour_us in hours]


async def differences(url: str, *, everywhere: bool = False) -> list[Difference]:
    """All differences, ever; `everywhere` looks at the hours of which nothing is stored, too."""
    async with await _connected(url) as connection:
        todo = await (checks(connection, *EVER_US) if everywhere else checks_of_stored(connection))
        return [each for check in todo for each in await find(connection, check)]


async def repaired(url: str) -> list[Difference]:
    """All differences, ever, after they were repaired."""
    told: list[Difference] = []
    async with await _connected(url) as connection:
        for check in await checks(connection, *EVER_US):
            if found := await find(connection, check):
                told += await repair_rows(connection, found, check)
    return told


async def _connected(url: str) -> AsyncConnection[Any]:
    return await AsyncConnection.connect(**connection_parameters(url, "test"), autocommit=True)
