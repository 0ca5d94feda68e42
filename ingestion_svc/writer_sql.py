"""What ingestion says to the database about readings, the same for both kinds of device. `writer` runs it."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Generic

from ingestion_svc.readings import AnyRow, MeterRow, VehicleRow
from shared.db.device_kind import METER, VEHICLE, DeviceKind
from shared.db.hour_changes import MARK_HOURS

# With nested loops alone rows are locked in key order, and they are no bad plan for any number of rows. A session
# writes one kind of reading.
_OPEN_SESSION = (
    "SET enable_hashjoin = off",
    "SET enable_mergejoin = off",
    """
    CREATE TEMPORARY TABLE staged_readings (
        ordinal integer, device_key integer, ts timestamptz, {measurements:# double precision}
    ) ON COMMIT DELETE ROWS
    """,
    """
    CREATE TEMPORARY TABLE staged_hours (
        newest boolean, hour_start timestamptz, hour_kwh double precision, hour_kwh_returned double precision,
        hour_readings integer
        {averaged:, hour_#_sum double precision, hour_#_readings integer},
        device_key integer, ts timestamptz, {measurements:# double precision}
    ) ON COMMIT DELETE ROWS
    """,
)

_FIND_DEVICES = "SELECT {device}_id, {device}_key FROM {device}s WHERE {device}_id = ANY(%(ids)s)"

# Sorted, so that two writers that meet the same new devices never deadlock.
_ADD_DEVICES = """
    INSERT INTO {device}s ({device}_id) SELECT id FROM unnest(%(ids)s::text[]) AS id ORDER BY id
    ON CONFLICT DO NOTHING
"""

_COPY_TO_STAGING = "COPY staged_readings (ordinal, device_key, ts, {measurements}) FROM STDIN (FORMAT BINARY)"

_COPY_TO_HISTORY = """
    COPY {device}_telemetry_history ({device}_key, ts, {measurements}) FROM STDIN (FORMAT BINARY)
"""

_COPY_TO_STAGED_HOURS = """
    COPY staged_hours (newest, hour_start, {totals:hour_#}, device_key, ts, {measurements}) FROM STDIN (FORMAT BINARY)
"""

# How a row of current status changes. `excluded` is the newest of a device's hours in a batch, with its newest reading.
# Where the row has that hour open, the sums are added; otherwise the earlier one of the two hours goes to `closed_`.
_CHANGE_STATUS = """
    {measurements:# = CASE WHEN excluded.ts > status.ts THEN excluded.# ELSE status.# END},
    ts = greatest(status.ts, excluded.ts),
    hour_start = greatest(status.hour_start, excluded.hour_start),
    closed_hour_start = CASE
        WHEN excluded.hour_start <> status.hour_start THEN least(status.hour_start, excluded.hour_start)
    END,
    {totals:
    hour_# = CASE
        WHEN excluded.hour_start = status.hour_start THEN status.hour_# + excluded.hour_#
        WHEN excluded.hour_start > status.hour_start THEN excluded.hour_#
        ELSE status.hour_#
    END,
    closed_# = CASE
        WHEN excluded.hour_start > status.hour_start THEN status.hour_#
        WHEN excluded.hour_start < status.hour_start THEN excluded.hour_#
    END}
"""

# What a batch adds to closed hours, from `moved`, the changes of status rows, and from `hours`, its hours.
_CLOSE_HOURS = """
    INSERT INTO {device}_closed_hours AS closed (device_key, hour_start, {totals})
    SELECT device_key, hour_start, {totals:sum(#)}
    FROM (
        SELECT device_key, closed_hour_start AS hour_start, {totals:closed_# AS #}
        FROM moved WHERE closed_readings > 0
        UNION ALL
        SELECT device_key, hour_start, {totals:hour_#} FROM hours WHERE NOT newest
    ) AS added
    GROUP BY device_key, hour_start ORDER BY device_key, hour_start
    ON CONFLICT (device_key, hour_start) DO UPDATE SET {totals:# = closed.# + excluded.#}
"""

# Returns how many rows were inserted and, where some were not, the ordinals of those that history had already. Of rows
# that repeat each other the first one counts.
_INSERT = (
    """
    WITH inserted AS (
        INSERT INTO {device}_telemetry_history ({device}_key, ts, {measurements})
        SELECT device_key, ts, {measurements} FROM staged_readings
        ORDER BY device_key, ts, ordinal
        ON CONFLICT DO NOTHING
        RETURNING {device}_key AS device_key, ts, {measurements},
            date_bin('1 hour', ts - interval '1 microsecond', 'epoch') AS hour_start
    ), hours AS (
        SELECT DISTINCT ON (device_key, hour_start) device_key, hour_start, ts, {measurements},
            sum({energy}) OVER hour AS hour_kwh, sum(greatest(0, -{energy})) OVER hour AS hour_kwh_returned,
            count(*) OVER hour AS hour_readings
            {averaged:, coalesce(sum(#) OVER hour, 0) AS hour_#_sum, count(#) OVER hour AS hour_#_readings},
            hour_start = max(hour_start) OVER (PARTITION BY device_key) AS newest
        FROM inserted
        WINDOW hour AS (PARTITION BY device_key, hour_start)
        ORDER BY device_key, hour_start, ts DESC
    ), moved AS (
        INSERT INTO {device}_current_status AS status ({device}_key, ts, {measurements}, hour_start, {totals:hour_#})
        SELECT device_key, ts, {measurements}, hour_start, {totals:hour_#}
        FROM hours WHERE newest ORDER BY device_key
        ON CONFLICT ({device}_key) DO UPDATE SET """
    + _CHANGE_STATUS
    + """
        RETURNING {device}_key AS device_key, closed_hour_start, {totals:closed_#}
    ), closed AS ("""
    + _CLOSE_HOURS
    + """)
    SELECT (SELECT count(*) FROM inserted), ARRAY(
        SELECT ordinal FROM staged_readings
        WHERE (SELECT count(*) FROM inserted) < (SELECT count(*) FROM staged_readings)
            AND (device_key, ts) NOT IN (SELECT device_key, ts FROM inserted)
    )
    """
)

# What was sent for the slots of some rows. The bounds let the planner leave out the other days; the limit makes it look
# each row up by its key.
_FIND_STORED = """
    SELECT staged.ordinal, sent_kwh, {measurements:stored.#}
    FROM staged_readings AS staged CROSS JOIN LATERAL (
        SELECT {measurements}, sent_kwh FROM {device}_telemetry_history AS history
        WHERE history.{device}_key = staged.device_key AND history.ts = staged.ts
            AND history.ts BETWEEN %(first)s AND %(last)s
        LIMIT 1
    ) AS stored
    WHERE staged.ordinal = ANY(%(ordinals)s)
"""

# Returns how many devices it found: all must be known.
_ADD_HOURS = (
    """
    WITH hours AS (
        SELECT device_key, hour_start, {totals:hour_#}, newest FROM staged_hours
    ), moved AS (
        UPDATE {device}_current_status AS status SET """
    + _CHANGE_STATUS
    + """
        FROM (SELECT * FROM staged_hours WHERE newest ORDER BY device_key OFFSET 0) AS excluded
        WHERE status.{device}_key = excluded.device_key
        RETURNING status.{device}_key AS device_key, closed_hour_start, {totals:closed_#}
    ), closed AS ("""
    + _CLOSE_HOURS
    + """)
    SELECT count(*) FROM moved
    """
)


@dataclass(frozen=True)
class Target(Generic[AnyRow]):
    """Where one kind of reading goes.

    The slow path is `copy_to_staging`, `insert` and, where rows were not inserted, `find_stored`; the fast path
    `copy_to_history`, `copy_to_staged_hours` and `add_hours`. Both end with `mark_hours`.

    History comes first, then status, then the closed hours, each in the order of its key: two transactions that meet
    can then wait for each other, but never deadlock; unless one appends and merges: PostgreSQL then ends one of them,
    and that is written again.
    """

    history_table: str
    open_session: Sequence[str]
    """What a writer's session begins with, one after another."""
    find_devices: str
    add_devices: str
    copy_to_staging: str
    insert: str
    find_stored: str
    copy_to_history: str
    copy_to_staged_hours: str
    add_hours: str
    mark_hours: str
    averaged: Sequence[int]
    """The measurements of which the rollups keep sum and count, by their positions in `Columns.measured`."""


def _target(kind: DeviceKind) -> Target[Any]:
    return Target(
        history_table=kind.history,
        open_session=[kind.render(each) for each in _OPEN_SESSION],
        find_devices=kind.render(_FIND_DEVICES),
        add_devices=kind.render(_ADD_DEVICES),
        copy_to_staging=kind.render(_COPY_TO_STAGING),
        insert=kind.render(_INSERT),
        find_stored=kind.render(_FIND_STORED),
        copy_to_history=kind.render(_COPY_TO_HISTORY),
        copy_to_staged_hours=kind.render(_COPY_TO_STAGED_HOURS),
        add_hours=kind.render(_ADD_HOURS),
        mark_hours=kind.render(MARK_HOURS),
        averaged=[kind.optional.index(name) for name in kind.averaged],
    )


METERS: Target[MeterRow] = _target(METER)
VEHICLES: Target[VehicleRow] = _target(VEHICLE)
