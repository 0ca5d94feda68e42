"""Sealing when a benchmark says so, of what is stored in whole UTC days."""

import asyncio
from datetime import date, timedelta

from psycopg import AsyncConnection

from shared.db.engine import connection_parameters
from shared.db.sealing import Sealed, seal
from shared.timestamps import datetime_from_us, system_clock

NEVER_SEALS = {"ENERGYFLEET_SEAL_AFTER_DAYS": "0"}
"""Of a service: the benchmark says when."""


def seal_days(url: str, seal_after_days: int) -> Sealed:
    """Seals what is so many whole days old, as the service does; no question is under way."""

    async def sealed() -> Sealed:
        parameters = connection_parameters(url, "benchmark")
        async with await AsyncConnection.connect(**parameters, autocommit=True) as connection:
            return await seal(connection, system_clock(), seal_after_days, drop_after_s=0)

    return asyncio.run(sealed())


def days_ago(*ago: int) -> list[date]:
    """UTC days."""
    today = datetime_from_us(system_clock()).date()
    return [today - timedelta(days=each) for each in ago]
