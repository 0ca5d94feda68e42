"""History's partitions, one for each UTC day: some ahead of time, the others when a reading needs them."""

from collections.abc import Iterable
from datetime import UTC, date, datetime, timedelta
from typing import Any

from psycopg import AsyncConnection
from sqlalchemy import Connection

from shared.db.device_kind import KINDS
from shared.timestamps import US_PER_DAY, datetime_from_us

HISTORY_TABLES = tuple(kind.history for kind in KINDS)

DAYS_AHEAD = 7
"""A week: a service that nobody looks after over the holidays still has its partitions."""

ENSURE = "SELECT ensure_history_partition(%(parent)s, %(day)s)"
"""Alone, as every function that changes the schema is called: a distributed PostgreSQL passes on no other call."""


def days_to_cover(today: date) -> list[date]:
    """From yesterday to a week ahead."""
    return [today + timedelta(days=ahead) for ahead in range(-1, DAYS_AHEAD + 1)]


def create_partitions_ahead(connection: Connection) -> None:
    """Creates the partitions from yesterday to a week ahead where they are missing. The caller commits."""
    for day in days_to_cover(datetime.now(UTC).date()):
        for parent in HISTORY_TABLES:
            connection.exec_driver_sql(ENSURE, {"parent": parent, "day": day})


async def create_partitions(connection: AsyncConnection[Any], parent: str, days: Iterable[int]) -> None:
    """Creates the partitions of some UTC days, numbered from 1970-01-01, in a transaction each."""
    for day in sorted(days):
        async with connection.transaction():
            await connection.execute(ENSURE, {"parent": parent, "day": datetime_from_us(day * US_PER_DAY).date()})
