"""Days that are sealed in the middle of a test."""

from psycopg import AsyncConnection

from shared.config import SEAL_AFTER_DAYS
from shared.db.engine import connection_parameters
from shared.db.sealing import CHUNK_READINGS, Sealed, seal
from shared.timestamps import system_clock


async def seal_all(url: str, chunk_readings: int = CHUNK_READINGS) -> Sealed:
    """Seals the days of a database that are old enough."""
    async with await AsyncConnection.connect(**connection_parameters(url, "test"), autocommit=True) as connection:
        return await seal(connection, system_clock(), SEAL_AFTER_DAYS, chunk_readings=chunk_readings, drop_after_s=0)
