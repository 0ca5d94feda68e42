"""What readings say of their devices' clocks, as rows: added to by ingestion, read by analytics."""

from collections.abc import Sequence
from typing import Any, NamedTuple

from psycopg import AsyncConnection


class EvidenceRow(NamedTuple):
    """What is to be added to a device's evidence. Of the newest reading None where only rejected ones came."""

    device_id: str
    newest_ts_us: int | None
    newest_age_us: int | None
    late_readings: int
    future_readings: int
    conflicting_readings: int


# In key order: two processes that add to the same devices wait for each other, but not in a circle. The join leaves out
# who is not registered: a rejected reading never registers a device. Whole seconds and the rest keep times exact.
_ADD_METERS = """
    INSERT INTO meter_clock_evidence AS evidence
        (meter_key, newest_ts, newest_age_us, late_readings, future_readings, conflicting_readings)
    SELECT meter_key,
        timestamptz 'epoch' + newest_us / 1000000 * interval '1 s' + newest_us %% 1000000 * interval '1 us',
        age_us, late, future, conflicting
    FROM unnest(
        %(ids)s::text[], %(newest)s::bigint[], %(ages)s::bigint[],
        %(late)s::bigint[], %(future)s::bigint[], %(conflicting)s::bigint[]
    ) AS added (meter_id, newest_us, age_us, late, future, conflicting)
        JOIN meters USING (meter_id)
    ORDER BY meter_key
    ON CONFLICT (meter_key) DO UPDATE
    SET newest_ts = greatest(evidence.newest_ts, excluded.newest_ts),
        newest_age_us = CASE WHEN excluded.newest_ts > coalesce(evidence.newest_ts, '-infinity')
            THEN excluded.newest_age_us ELSE evidence.newest_age_us END,
        late_readings = evidence.late_readings + excluded.late_readings,
        future_readings = evidence.future_readings + excluded.future_readings,
        conflicting_readings = evidence.conflicting_readings + excluded.conflicting_readings
"""

# As for meters.
_ADD_VEHICLES = """
    INSERT INTO vehicle_clock_evidence AS evidence
        (vehicle_key, newest_ts, newest_age_us, late_readings, future_readings, conflicting_readings)
    SELECT vehicle_key,
        timestamptz 'epoch' + newest_us / 1000000 * interval '1 s' + newest_us %% 1000000 * interval '1 us',
        age_us, late, future, conflicting
    FROM unnest(
        %(ids)s::text[], %(newest)s::bigint[], %(ages)s::bigint[],
        %(late)s::bigint[], %(future)s::bigint[], %(conflicting)s::bigint[]
    ) AS added (vehicle_id, newest_us, age_us, late, future, conflicting)
        JOIN vehicles USING (vehicle_id)
    ORDER BY vehicle_key
    ON CONFLICT (vehicle_key) DO UPDATE
    SET newest_ts = greatest(evidence.newest_ts, excluded.newest_ts),
        newest_age_us = CASE WHEN excluded.newest_ts > coalesce(evidence.newest_ts, '-infinity')
            THEN excluded.newest_age_us ELSE evidence.newest_age_us END,
        late_readings = evidence.late_readings + excluded.late_readings,
        future_readings = evidence.future_readings + excluded.future_readings,
        conflicting_readings = evidence.conflicting_readings + excluded.conflicting_readings
"""


async def add_meter_evidence(connection: AsyncConnection[Any], rows: Sequence[EvidenceRow]) -> None:
    """Adds to the evidence of meters, each named once; leaves out who is not registered. The caller commits.

    A newest reading counts where it is newer than the one already written down. To be committed before anything else
    is added, or two processes could wait for each other in a circle.
    """
    await connection.execute(_ADD_METERS, _arrays(rows))


async def add_vehicle_evidence(connection: AsyncConnection[Any], rows: Sequence[EvidenceRow]) -> None:
    """Adds to the evidence of vehicles, as `add_meter_evidence` does."""
    await connection.execute(_ADD_VEHICLES, _arrays(rows))


def _arrays(rows: Sequence[EvidenceRow]) -> dict[str, list[Any]]:
    ids, newest, ages, late, future, conflicting = (list(column) for column in zip(*rows, strict=True))
    return {"ids": ids, "newest": newest, "ages": ages, "late": late, "future": future, "conflicting": conflicting}
