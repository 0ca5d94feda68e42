"""History's partitions, one for each UTC day: some ahead of time, the others when a reading needs them."""

from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from typing import Any

from psycopg import AsyncConnection
from sqlalchemy import Connection, text

from shared.timestamps import US_PER_DAY, datetime_from_us

HISTORY_TABLES = ("meter_telemetry_history", "vehicle_telemetry_history")

DAYS_AHEAD = 7
"""A week: a service that nobody looks after over the holidays still has its partitions."""

_ENSURE = "SELECT ensure_history_partition(%(parent)s, %(day)s)"
_ENSURE_AHEAD = text(
    "SELECT ensure_history_partition(parent, CAST(day AS date))"
    " FROM unnest(CAST(:parents AS text[])) AS parent,"
    " generate_series(CAST(:first AS date), CAST(:last AS date), interval '1 day') AS day"
)


def create_partitions_ahead(connection: Connection) -> None:
    """Creates the partitions from yesterday to a week ahead where they are missing. The caller commits."""
    today = datetime.now(UTC).date()
    connection.execute(
        _ENSURE_AHEAD,
        {
            "parents": list(HISTORY_TABLES),
            "first": today - timedelta(days=1),
            "last": today + timedelta(days=DAYS_AHEAD),
        },
    )


async def create_partitions(connection: AsyncConnection[Any], parent: str, days: Iterable[int]) -> None:
    """Creates the partitions of some UTC days, numbered from 1970-01-01, in a transaction each."""
    for day in sorted(days):
        async with connection.transaction():
            await connection.execute(_ENSURE, {"parent": parent, "day": datetime_from_us(day * US_PER_DAY).date()})
