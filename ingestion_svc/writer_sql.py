"""What ingestion says to the database about readings, the same for both kinds of device. `writer` runs it."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Generic

from ingestion_svc.readings import AnyRow, MeterRow, VehicleRow
from shared.db.device_kind import METER, VEHICLE, DeviceKind
from shared.db.hour_changes import MARK_HOURS
from shared.db.session_registers_sql import SENT
from shared.db.verification_sql import HOURS

# With nested loops alone rows are locked in key order, and they are no bad plan for any number of rows; nor are index
# scans, which need no sort. A session writes one kind of reading.
_OPEN_SESSION = (
    "SET enable_hashjoin = off",
    "SET enable_mergejoin = off",
    "SET enable_bitmapscan = off",
    """
    CREATE TEMPORARY TABLE staged_readings (
        ordinal integer, device_key integer, ts timestamptz, {measurements:# double precision},
        max_kw double precision,
        late boolean, stored boolean, before_ts timestamptz, before_register_kwh double precision, after_ts timestamptz
    ) ON COMMIT DELETE ROWS
    """,
    """
    CREATE TEMPORARY TABLE staged_hours (
        newest boolean, hour_start timestamptz, hour_kwh double precision, hour_kwh_returned double precision,
        hour_readings integer
        {averaged:, hour_#_sum double precision, hour_#_readings integer},
        device_key integer, ts timestamptz, {measurements:# double precision}, rising_from_kwh double precision,
        previous_ts timestamptz, previous_rising_from_kwh double precision,
        sent_kwh double precision
    ) ON COMMIT DELETE ROWS
    """,
)

_FIND_DEVICES = "SELECT {device}_id, {device}_key FROM {device}s WHERE {device}_id = ANY(%(ids)s)"

_COUNT_DEVICES = "SELECT count(*) FROM {device}s"

# Sorted, so that two writers that meet the same new devices never deadlock.
_ADD_DEVICES = """
    INSERT INTO {device}s ({device}_id) SELECT id FROM unnest(%(ids)s::text[]) AS id ORDER BY id
    ON CONFLICT DO NOTHING
"""

_COPY_TO_STAGING = "COPY staged_readings (ordinal, device_key, ts, {measurements}, max_kw) FROM STDIN (FORMAT BINARY)"

_COPY_TO_HISTORY = """
    COPY {device}_telemetry_history ({device}_key, ts, {measurements}) FROM STDIN (FORMAT BINARY)
"""

_COPY_TO_STAGED_HOURS = """
    COPY staged_hours (
        newest, hour_start, {totals:hour_#}, device_key, ts, {measurements}, rising_from_kwh,
        previous_ts, previous_rising_from_kwh
    ) FROM STDIN (FORMAT BINARY)
"""

# How a row of current status changes. `excluded` is the newest of a device's hours in a batch, with its newest reading.
# Where the row has that hour open, the sums are added; otherwise the earlier one of the two hours goes to `closed_`.
_CHANGE_STATUS = """
    {measurements:# = CASE WHEN excluded.ts > status.ts THEN excluded.# ELSE status.# END},
    sent_kwh = CASE WHEN excluded.ts > status.ts THEN excluded.sent_kwh ELSE status.sent_kwh END,
    ts = greatest(status.ts, excluded.ts),
    hour_start = greatest(status.hour_start, excluded.hour_start),
    closed_hour_start = CASE
        WHEN excluded.hour_start <> status.hour_start THEN least(status.hour_start, excluded.hour_start)
    END,
    closed_last_ts = CASE
        WHEN excluded.hour_start <> status.hour_start THEN least(status.ts, excluded.ts)
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
    INSERT INTO {device}_closed_hours AS closed (device_key, hour_start, last_ts, {totals})
    SELECT device_key, hour_start, max(last_ts), {totals:sum(#)}
    FROM (
        SELECT device_key, closed_hour_start AS hour_start, closed_last_ts AS last_ts, {totals:closed_# AS #}
        FROM moved WHERE closed_readings > 0
        UNION ALL
        SELECT device_key, hour_start, ts, {totals:hour_#} FROM hours WHERE NOT newest
    ) AS added
    GROUP BY device_key, hour_start ORDER BY device_key, hour_start
    ON CONFLICT (device_key, hour_start) DO UPDATE
        SET last_ts = greatest(closed.last_ts, excluded.last_ts), {totals:# = closed.# + excluded.#}
"""

# Locks the status of devices until the transaction ends: who writes readings of a device waits for that.
_LOCK_STATUS = """
    SELECT FROM {device}_current_status WHERE {device}_key = ANY(%(keys)s) ORDER BY {device}_key FOR UPDATE
"""

# The newest readings of devices: microseconds, the energy as it was sent, and what it has risen from, or less. A
# statement of its own: the one that waited for the locks sees what was there before.
_FIND_NEWEST = f"""
    SELECT {{device}}_key, (extract(epoch FROM ts) * 1000000)::bigint,
        {SENT}, rising_from_kwh
    FROM {{device}}_current_status WHERE {{device}}_key = ANY(%(keys)s)
"""

# What devices have risen from, where that changes. `insert` gives it to new devices alone.
_CHANGE_RISES = """
    UPDATE {device}_current_status SET rising_from_kwh = changed.rising_from_kwh
    FROM unnest(%(keys)s::integer[], %(rising_from_kwh)s::double precision[]) AS changed (device_key, rising_from_kwh)
    WHERE {device}_key = device_key
"""

# For devices that have no status to lock yet.
_LOCK_NEW_DEVICES = """
    SELECT pg_advisory_xact_lock(hashtextextended('energyfleet.new_{device}s.' || current_schema(), 0))
"""

# For each staged row that is not newer than all that is stored of its device: whether it is stored, and if not, between
# which stored readings it belongs; its own day is open. The bounds let the planner leave out other days. Returns
# whether readings may lie beyond them, between which timestamps the readings lie that now come after other ones, and
# the devices and days of those that may be sealed.
_FIND_NEIGHBOURS = """
    WITH found AS (
        UPDATE staged_readings AS staged
        SET (late, stored, before_ts, before_register_kwh, after_ts) = (
            SELECT true, stored.ts IS NOT NULL, before.ts, before.register_kwh, after.ts
            FROM (SELECT (staged.ts AT TIME ZONE 'UTC')::date AS day, floor_day FROM retention) AS own
                LEFT JOIN LATERAL (
                    SELECT ts FROM {device}_telemetry_history AS history
                    WHERE history.{device}_key = staged.device_key AND history.ts = staged.ts
                        AND history.ts BETWEEN %(first)s AND %(last)s
                    LIMIT 1
                ) AS stored ON true
                LEFT JOIN LATERAL (
                    (
                        SELECT ts, register_kwh FROM {device}_telemetry_history AS history
                        WHERE stored.ts IS NULL AND history.{device}_key = staged.device_key AND history.ts < staged.ts
                            AND history.ts BETWEEN %(first)s AND %(last)s
                        ORDER BY ts DESC LIMIT 1
                    ) UNION ALL (
                        SELECT last_ts, register_kwh[readings] FROM {device}_sealed_days AS sealed
                        WHERE stored.ts IS NULL AND sealed.device_key = staged.device_key
                            AND sealed.day < own.day AND sealed.day >= own.floor_day
                            AND sealed.day >= (%(first)s AT TIME ZONE 'UTC')::date
                        ORDER BY sealed.day DESC LIMIT 1
                    )
                    ORDER BY ts DESC LIMIT 1
                ) AS before ON true
                LEFT JOIN LATERAL (
                    (
                        SELECT ts FROM {device}_telemetry_history AS history
                        WHERE stored.ts IS NULL AND history.{device}_key = staged.device_key AND history.ts > staged.ts
                            AND history.ts BETWEEN %(first)s AND %(last)s
                        ORDER BY ts LIMIT 1
                    ) UNION ALL (
                        SELECT first_ts FROM {device}_sealed_days AS sealed
                        WHERE stored.ts IS NULL AND sealed.device_key = staged.device_key AND sealed.day > own.day
                            AND sealed.day <= (%(last)s AT TIME ZONE 'UTC')::date
                        ORDER BY sealed.day LIMIT 1
                    )
                    ORDER BY ts LIMIT 1
                ) AS after ON true
        )
        WHERE ts <= (SELECT status.ts FROM {device}_current_status AS status WHERE {device}_key = device_key)
        RETURNING device_key, stored, before_ts, after_ts
    ), sealable AS (
        SELECT DISTINCT device_key, (after_ts AT TIME ZONE 'UTC')::date AS day
        FROM found WHERE after_ts < (SELECT sealed_before::timestamp AT TIME ZONE 'UTC' FROM retention)
    )
    SELECT coalesce(bool_or(NOT stored AND (before_ts IS NULL OR after_ts IS NULL)), false),
        min(after_ts), max(after_ts),
        ARRAY(SELECT device_key FROM sealable ORDER BY device_key, day),
        ARRAY(SELECT day FROM sealable ORDER BY device_key, day)
    FROM found
"""

# Returns how many rows were inserted and, where some were not, the ordinals of those that history had already. Of rows
# that repeat each other the first one counts. What counts of a row depends on the reading before it: another staged
# row, the newest one that was stored before, or of a late row its neighbour. CASE keeps the planner from a join, which
# would be a nested loop through all of both.
_INSERT = (
    """
    WITH staged AS (
        SELECT DISTINCT ON (staged.device_key, staged.ts) staged.device_key, staged.ts, {measurements:staged.#},
            max_kw, CASE WHEN late THEN before_ts ELSE status.ts END AS stored_ts,
            CASE WHEN late THEN before_register_kwh ELSE status.register_kwh END AS stored_register_kwh
        FROM staged_readings AS staged
            LEFT JOIN {device}_current_status AS status ON status.{device}_key = staged.device_key
        WHERE stored IS NOT TRUE
        ORDER BY staged.device_key, staged.ts, staged.ordinal
    ), following AS MATERIALIZED (
        SELECT device_key, ts, {measurements}, max_kw, stored_ts, stored_register_kwh,
            lag(ts) OVER device AS staged_ts, lag(register_kwh) OVER device AS staged_register_kwh
        FROM staged
        WINDOW device AS (PARTITION BY device_key ORDER BY ts)
    ), preceded AS MATERIALIZED (
        SELECT device_key, ts, {measurements},
            plausible_kwh(
                ts, greatest(staged_ts, stored_ts), max_kw, %(min_interval_s)r
            ) AS plausible,
            CASE WHEN staged_ts > stored_ts OR stored_ts IS NULL THEN staged_register_kwh
                ELSE stored_register_kwh END AS before_register_kwh
        FROM following
    ), judged AS MATERIALIZED (
        SELECT device_key, ts, {measurements}, before_register_kwh,
            counting_of({energy}, register_kwh, before_register_kwh, plausible) AS counting
        FROM preceded
    ), inserted AS (
        INSERT INTO {device}_telemetry_history ({device}_key, ts, {measurements}, sent_kwh, counting)
        SELECT device_key, ts, counted_kwh(counting, {energy}, register_kwh, before_register_kwh), {optional},
            CASE WHEN counting = 'doubted' THEN {energy} END, counting
        FROM judged
        ORDER BY device_key, ts
        ON CONFLICT DO NOTHING
        RETURNING {device}_key AS device_key, ts, {measurements}, sent_kwh, counting,
            date_bin('1 hour', ts - interval '1 microsecond', 'epoch') AS hour_start
    ), hours AS (
        SELECT DISTINCT ON (device_key, hour_start) device_key, hour_start, ts, {measurements}, sent_kwh,
            sum({energy}) OVER hour AS hour_kwh, sum(greatest(0, -{energy})) OVER hour AS hour_kwh_returned,
            count(*) OVER hour AS hour_readings
            {averaged:, coalesce(sum(#) OVER hour, 0) AS hour_#_sum, count(#) OVER hour AS hour_#_readings},
            hour_start = max(hour_start) OVER (PARTITION BY device_key) AS newest
        FROM inserted
        WINDOW hour AS (PARTITION BY device_key, hour_start)
        ORDER BY device_key, hour_start, ts DESC
    ), moved AS (
        INSERT INTO {device}_current_status AS status (
            {device}_key, ts, {measurements}, sent_kwh, rising_from_kwh, hour_start, {totals:hour_#}
        )
        SELECT device_key, ts, {measurements}, sent_kwh,
            CASE WHEN register_kwh IS NULL AND coalesce(sent_kwh, {energy}) > 0 THEN coalesce(sent_kwh, {energy}) END,
            hour_start, {totals:hour_#}
        FROM hours WHERE newest ORDER BY device_key
        ON CONFLICT ({device}_key) DO UPDATE SET """
    + _CHANGE_STATUS
    + """
        RETURNING {device}_key AS device_key, closed_hour_start, closed_last_ts, {totals:closed_#}
    ), closed AS ("""
    + _CLOSE_HOURS
    + """)
    SELECT (SELECT count(*) FROM inserted), ARRAY(
        SELECT ordinal FROM staged_readings
        WHERE (SELECT count(*) FROM inserted) < (SELECT count(*) FROM staged_readings)
            AND (device_key, ts) NOT IN (SELECT device_key, ts FROM inserted)
    ), ARRAY(
        SELECT min(ordinal) FROM staged_readings
        WHERE CASE
            WHEN (device_key, ts) IN (SELECT device_key, ts FROM inserted WHERE counting = 'doubted') THEN true
        END
        GROUP BY device_key, ts
    )
    """
)

# What counts of the stored readings that now come after late rows, of which only the last one before each of them
# matters; the bounds let the planner leave out other days. What an operator has corrected stays, and a session's
# registers are judged elsewhere. Returns devices and their hours whose sums have to be added up anew: to add
# differences would leave their rounding. MATERIALIZED and the limit make it look each of them up by its key: the first
# readings of a day lie at one instant, and a join would sort all staged rows for each device of the fleet.
_COUNT_ANEW = f"""
    WITH followed AS MATERIALIZED (
        SELECT DISTINCT ON (device_key, after_ts)
            device_key, after_ts, ts AS before_ts, register_kwh AS before_register_kwh, max_kw
        FROM staged_readings
        WHERE after_ts IS NOT NULL
        ORDER BY device_key, after_ts, ts DESC, ordinal
    ), found AS MATERIALIZED (
        SELECT device_key, stored.ts, before_ts, before_register_kwh, stored.register_kwh, max_kw, stored.sent_kwh
        FROM followed CROSS JOIN LATERAL (
            SELECT ts, register_kwh, {SENT} AS sent_kwh FROM {{device}}_telemetry_history AS history
            WHERE history.{{device}}_key = followed.device_key AND history.ts = followed.after_ts
                AND history.ts BETWEEN %(first)s AND %(last)s
                AND (history.counting IS NULL OR history.counting NOT IN ('corrected', 'session'))
            LIMIT 1
        ) AS stored
    ), judged AS (
        SELECT device_key, ts, before_register_kwh, register_kwh, sent_kwh, counting_of(
            sent_kwh, register_kwh, before_register_kwh,
            plausible_kwh(ts, before_ts, max_kw, %(min_interval_s)s)
        ) AS counting
        FROM found
    ), counted AS (
        SELECT device_key, ts, sent_kwh, counting,
            counted_kwh(counting, sent_kwh, register_kwh, before_register_kwh) AS kwh
        FROM judged
    ), changed AS (
        UPDATE {{device}}_telemetry_history AS history
        SET {{energy}} = kwh, counting = counted.counting,
            sent_kwh = CASE WHEN counted.counting IS NOT NULL THEN counted.sent_kwh END
        FROM counted
        WHERE history.{{device}}_key = device_key AND history.ts = counted.ts
            AND history.ts BETWEEN %(first)s AND %(last)s
            AND (history.{{energy}}, history.counting) IS DISTINCT FROM (kwh, counted.counting)
        RETURNING device_key, counted.ts, kwh, history.sent_kwh,
            date_bin('1 hour', counted.ts - interval '1 microsecond', 'epoch') AS hour_start
    ), newest AS (
        UPDATE {{device}}_current_status AS status SET {{energy}} = kwh, sent_kwh = changed.sent_kwh
        FROM changed WHERE status.{{device}}_key = device_key AND status.ts = changed.ts
    )
    SELECT DISTINCT device_key, hour_start FROM changed
"""

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

# Returns how many devices it found with the newest reading that was expected of them: all must be.
_ADD_HOURS = (
    """
    WITH hours AS (
        SELECT device_key, hour_start, ts, {totals:hour_#}, newest FROM staged_hours
    ), moved AS (
        UPDATE {device}_current_status AS status SET """
    + _CHANGE_STATUS
    + """,
            rising_from_kwh = excluded.rising_from_kwh
        FROM (SELECT * FROM staged_hours WHERE newest ORDER BY device_key OFFSET 0) AS excluded
        WHERE status.{device}_key = excluded.device_key AND status.ts = excluded.previous_ts
            AND status.rising_from_kwh IS NOT DISTINCT FROM excluded.previous_rising_from_kwh
        RETURNING status.{device}_key AS device_key, closed_hour_start, closed_last_ts, {totals:closed_#}
    ), closed AS ("""
    + _CLOSE_HOURS
    + """)
    SELECT count(*) FROM moved
    """
)


@dataclass(frozen=True)
class Target(Generic[AnyRow]):
    """Where the readings of one kind of device go.

    The slow path is `lock_status`, `find_newest`, `copy_to_staging`, `insert` and, where rows were not inserted,
    `find_stored`; where rows are late also `find_neighbours` before and `count_anew` after `insert`; and where
    `newest` readings have risen from something else `change_rises`. Rows of days that may be sealed take it too, see
    `sealed_days`. The fast path is
    `copy_to_staged_hours`, `add_hours` and `copy_to_history`. Both end with `mark_hours`.

    The status of a device is locked before anything else of it is written, in the order of the keys: two transactions
    that meet can then wait for each other, but never deadlock; unless one appends and merges: PostgreSQL then ends one
    of them, and that is written again.
    """

    device: str
    history_table: str
    open_session: Sequence[str]
    """What a writer's session begins with, one after another."""
    find_devices: str
    count_devices: str
    add_devices: str
    copy_to_staging: str
    lock_status: str
    lock_new_devices: str
    find_newest: str
    change_rises: str
    find_neighbours: str
    insert: str
    count_anew: str
    remove_hours: str
    add_hours_anew: str
    find_stored: str
    copy_to_history: str
    copy_to_staged_hours: str
    add_hours: str
    mark_hours: str
    averaged: Sequence[int]
    """The measurements of which the rollups keep sum and count, by their positions in `Columns.measured`."""


def _target(kind: DeviceKind) -> Target[Any]:
    return Target(
        device=kind.name,
        history_table=kind.history,
        open_session=[kind.render(each) for each in _OPEN_SESSION],
        find_devices=kind.render(_FIND_DEVICES),
        count_devices=kind.render(_COUNT_DEVICES),
        add_devices=kind.render(_ADD_DEVICES),
        copy_to_staging=kind.render(_COPY_TO_STAGING),
        lock_status=kind.render(_LOCK_STATUS),
        lock_new_devices=kind.render(_LOCK_NEW_DEVICES),
        find_newest=kind.render(_FIND_NEWEST),
        change_rises=kind.render(_CHANGE_RISES),
        find_neighbours=kind.render(_FIND_NEIGHBOURS),
        insert=kind.render(_INSERT),
        count_anew=kind.render(_COUNT_ANEW),
        remove_hours=HOURS[kind].remove,
        add_hours_anew=HOURS[kind].add,
        find_stored=kind.render(_FIND_STORED),
        copy_to_history=kind.render(_COPY_TO_HISTORY),
        copy_to_staged_hours=kind.render(_COPY_TO_STAGED_HOURS),
        add_hours=kind.render(_ADD_HOURS),
        mark_hours=kind.render(MARK_HOURS),
        averaged=[kind.optional.index(name) for name in kind.averaged],
    )


METERS: Target[MeterRow] = _target(METER)
VEHICLES: Target[VehicleRow] = _target(VEHICLE)
