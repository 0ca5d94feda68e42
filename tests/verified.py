"""What `energyfleet verify` would find."""

from psycopg import AsyncConnection

from shared.db.engine import connection_parameters
from shared.db.verification import EVER_US, Difference, checks, find, repair_rows


async def differences(url: str) -> list[Difference]:
    """All differences, ever."""
    async with await AsyncConnection.connect(**connection_parameters(url, "test"), autocommit=True) as connection:
        return [each for check in await checks(connection, *EVER_US) for each in await find(connection, check)]


async def repaired(url: str) -> list[Difference]:
    """All differences, ever, after they were repaired."""
    told: list[Difference] = []
    async with await AsyncConnection.connect(**connection_parameters(url, "test"), autocommit=True) as connection:
        for check in await checks(connection, *EVER_US):
            if found := await find(connection, check):
                told += await repair_rows(connection, found, check)
    return told
