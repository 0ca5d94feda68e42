"""The heartbeat: a row that ingestion writes the primary's time into, about once a second.

On a replica it is the proof of how far the answers reach. Whatever was acknowledged before `beat_at` has its commit in
the write-ahead log before that of the beat, and a replica replays the log in its order: who sees the beat sees all of
that, in the same snapshot, by reading one row and with no right but to read it. PostgreSQL's own figures say less.
`pg_last_xact_replay_timestamp()` stands still while nobody writes, may run ahead of the snapshot of the statement that
asks, and next to nothing else says whether what was received is all there is. Without ingestion the beat stands still:
what can be proved then stands still as well, and `as_of` says so.
"""

from typing import Any

from psycopg import AsyncConnection

_BEAT = "UPDATE heartbeat SET beat_at = clock_timestamp()"


async def beat(connection: AsyncConnection[Any]) -> None:
    """Writes down the database's time. Raises the driver's errors."""
    await connection.execute(_BEAT)
