"""What `verify` says to the database, of the rollups and the status of each kind of device.

The statements' parameters are `keys` of devices, with the `limits_kw` of each, and, of a span of whole hours
`(hour, next_hour]`, its two ends; to repair rollups `hours` too, the start of one for each key, between these ends.
History is looked up device by device, since its key begins with the device; where a day is small the planner reads it
whole instead. Where days may be sealed the same is asked of all readings, with bounds on the days to unpack; to repair
them they are opened.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from shared.db.device_kind import KINDS, DeviceKind
from shared.db.hour_changes import MARK_HOURS
from shared.db.sealed_verification_sql import FIND_SEALED, SEALED_DAYS, UNSEAL_NEAR, of_all, of_open
from shared.db.session_registers_sql import REACH_DAYS, RISE_READINGS, SENT, SESSION, sessions


@dataclass(frozen=True, slots=True)
class Derived:
    """A table whose rows follow from history."""

    table: str
    columns: Sequence[str]
    """The values of a row: what `find` returns twice, first as stored and then as history has it."""
    find: str
    """The rows that differ: the device's key and id, the start of the hour, then the columns twice; all null where
    there is no row."""
    lock: str
    """Waits until nobody writes to the table, and lets nobody write to it before the transaction ends."""
    remove: str
    """Deletes the rows of `keys`; of history, where nothing is deleted, it makes count what should."""
    add: str
    """Inserts the rows of `keys` as history has them. Of these there must be none. Empty where `remove` repairs, which
    is empty where it does to open the days."""
    find_sealed: str = ""
    """The same where days may be sealed; empty where `find` sees to it."""
    mark_hours: str | None = None
    """Tells readers of `hours` that their rollups changed; None where those do not follow from the table's rows."""

    @property
    def opens_days(self) -> bool:
        """Whether to open the days repairs what is wrong."""
        return not self.remove


@dataclass(frozen=True, slots=True)
class Side:
    """One kind of device, its derived tables, and where there is something to look at."""

    device: str
    history_table: str
    counting: Derived
    hours: Derived
    status: Derived
    devices: str
    """The keys and ids of all devices that are registered or have rows; no id where it is not registered."""
    stored_hours: str
    """The hours within `[start, end)` of which rows are stored."""
    some_reading: str
    """A row where history has readings within `[day, next_day)`."""
    sealed: Derived
    """The sealed days themselves, of the day that begins with `hour`."""
    sealed_days: str
    """The days of which devices have sealed readings."""
    unseal: str
    """Opens the days of `keys` from the two before the span to the one after it."""


# The UTC days that a history table has a partition for.
DAYS = """
    SELECT to_date(right(child.relname, 8), 'YYYYMMDD')
    FROM pg_inherits JOIN pg_class AS child ON child.oid = inhrelid
    WHERE inhparent = %(history_table)s::regclass
"""

# Neither hours nor status may change, nor may a writer lock a status: it would wait for us, and we for it.
_LOCK = "LOCK TABLE {device}_current_status, {device}_closed_hours IN EXCLUSIVE MODE"

# Hours that began before the retention floor are not judged: some of their readings may be dropped. Sums may differ by
# 1e-9 of the magnitudes that were added, since the order of additions differs; NaN is greater than any such difference.
# 1e-290 keeps the product from underflow, which is an error here.
_FIND_HOURS = """
    WITH computed AS (
        SELECT {device}_key, date_bin('1 hour', history.ts - interval '1 microsecond', 'epoch') AS hour_start,
            sum({energy}) AS kwh, sum(greatest(0, -{energy})) AS kwh_returned, count(*) AS readings,
            max(history.ts) AS last_ts, sum(abs({energy})) AS kwh_magnitudes
            {averaged:, coalesce(sum(#), 0) AS #_sum, count(#) AS #_readings, coalesce(sum(abs(#)), 0) AS #_magnitudes}
        FROM unnest(%(keys)s::integer[]) AS device ({device}_key) JOIN {history} USING ({device}_key)
        WHERE history.ts > %(hour)s AND history.ts <= %(next_hour)s {of_days:history}
        GROUP BY 1, 2
    ), stored AS (
        SELECT {device}_key, hour_start, sum({energy}) AS kwh, sum({returned}) AS kwh_returned,
            sum(readings) AS readings, max(last_ts) AS last_ts
            {averaged:, sum(#_sum) AS #_sum, sum(#_readings) AS #_readings}
        FROM unnest(%(keys)s::integer[]) AS device ({device}_key)
            JOIN {device}_energy_hourly AS hourly USING ({device}_key)
        WHERE hourly.hour_start >= %(hour)s AND hourly.hour_start < %(next_hour)s
        GROUP BY 1, 2
    )
    SELECT {device}_key, {device}_id, hour_start,
        {totals:stored.#}, stored.last_ts::text,
        {totals:computed.#}, computed.last_ts::text
    FROM stored FULL JOIN computed USING ({device}_key, hour_start) LEFT JOIN {device}s USING ({device}_key)
    WHERE %(hour)s >= (SELECT floor_day::timestamp AT TIME ZONE 'UTC' FROM retention)
        AND (
            (stored.last_ts, stored.readings {averaged:, stored.#_readings})
                IS DISTINCT FROM (computed.last_ts, computed.readings {averaged:, computed.#_readings})
            OR greatest(
                abs(stored.kwh - computed.kwh) - 1e-9 * greatest(computed.kwh_magnitudes, 1e-290),
                abs(stored.kwh_returned - computed.kwh_returned) - 1e-9 * greatest(computed.kwh_returned, 1e-290)
                {averaged:, abs(stored.#_sum - computed.#_sum) - 1e-9 * greatest(computed.#_magnitudes, 1e-290)}
            ) > 0
        )
    ORDER BY {device}_key, hour_start
"""

# The readings of some hours beside the reading before each, and what counts of them by that; `sent_kwh` is the
# interval's energy. What an operator has corrected stays, and so does what depends on readings that may have been
# dropped: what counts of the first one, and for two days after them that something is a session's register.
_COUNTED = f"""
    WITH within AS (
        SELECT {{device}}_key, ts, max_kw, {{energy}} AS kwh, register_kwh, counting, {SENT} AS sent_kwh,
            lag(ts) OVER device AS previous_ts, lag(register_kwh) OVER device AS previous_register_kwh
        FROM unnest(%(keys)s::integer[], %(limits_kw)s::double precision[]) AS device ({{device}}_key, max_kw)
            JOIN {{history}} USING ({{device}}_key)
        WHERE history.ts > %(hour)s AND history.ts <= %(next_hour)s {{of_days:history}}
        WINDOW device AS (PARTITION BY {{device}}_key ORDER BY ts)
    ), near AS MATERIALIZED (
        SELECT {{device}}_key AS device_key, ts, sent_kwh AS kwh, counting, false AS trusted FROM within
        UNION ALL
        SELECT device.{{device}}_key, ts, kwh, counting, true
        FROM (SELECT DISTINCT {{device}}_key FROM within) AS device CROSS JOIN LATERAL (
            (
                SELECT ts, {SENT} AS kwh, counting FROM {{history}}
                WHERE history.{{device}}_key = device.{{device}}_key
                    AND history.ts <= %(hour)s
                    AND history.ts > %(hour)s - interval '{REACH_DAYS} days' {{before:history}}
                    AND history.ts >= coalesce((
                        SELECT ts FROM {{history}}
                        WHERE history.{{device}}_key = device.{{device}}_key AND history.ts <= %(hour)s
                            AND history.ts > %(hour)s - interval '{REACH_DAYS} days' {{before:history}}
                            AND counting IS DISTINCT FROM 'corrected'
                        ORDER BY ts DESC OFFSET {RISE_READINGS - 2} LIMIT 1
                    ), '-infinity')
            ) UNION ALL (
                SELECT ts, {SENT}, counting FROM {{history}}
                WHERE history.{{device}}_key = device.{{device}}_key
                    AND history.ts > %(next_hour)s AND history.ts <= %(next_hour)s + interval '1 day' {{after:history}}
                ORDER BY ts LIMIT {RISE_READINGS - 1}
            )
        ) AS readings
    ), {sessions()}, preceded AS (
        SELECT {{device}}_key, ts, max_kw, kwh, register_kwh, counting, sent_kwh,
            coalesce(previous_ts, before_ts) AS before_ts,
            CASE WHEN previous_ts IS NULL THEN earlier_register_kwh ELSE previous_register_kwh END
                AS before_register_kwh
        FROM within LEFT JOIN LATERAL (
            (
                SELECT ts AS before_ts, register_kwh AS earlier_register_kwh
                FROM {{device}}_telemetry_history AS history
                WHERE previous_ts IS NULL AND history.{{device}}_key = within.{{device}}_key AND history.ts <= %(hour)s
                ORDER BY ts DESC LIMIT 1
            ) UNION ALL (
                SELECT ts, register_kwh FROM (
                    SELECT day FROM {{device}}_sealed_days AS sealed
                    WHERE previous_ts IS NULL AND sealed.device_key = within.{{device}}_key AND first_ts <= %(hour)s
                    ORDER BY day DESC LIMIT 1
                ) AS last CROSS JOIN LATERAL (
                    SELECT ts, register_kwh FROM {{device}}_readings AS readings
                    WHERE readings.{{device}}_key = within.{{device}}_key AND readings.day = last.day AND ts <= %(hour)s
                    ORDER BY ts DESC LIMIT 1
                ) AS reading
            )
            ORDER BY before_ts DESC LIMIT 1
        ) AS earlier ON true
    ), judged AS (
        SELECT {{device}}_key, reading.ts, reading.before_ts, reading.kwh, register_kwh, reading.counting, sent_kwh,
            before_register_kwh, CASE
                WHEN in_session THEN '{SESSION}'
                ELSE counting_of(
                    sent_kwh, register_kwh, before_register_kwh,
                    plausible_kwh(reading.ts, reading.before_ts, max_kw, %(min_interval_s)s)
                )
            END AS right_counting
        FROM preceded AS reading JOIN sessions ON device_key = {{device}}_key AND sessions.ts = reading.ts
        WHERE reading.counting IS DISTINCT FROM 'corrected'
    ), counted AS (
        SELECT {{device}}_key, ts, before_ts, kwh, counting, sent_kwh, right_counting,
            counted_kwh(right_counting, sent_kwh, register_kwh, before_register_kwh) AS right_kwh,
            date_bin('1 hour', ts - interval '1 microsecond', 'epoch') AS hour_start
        FROM judged
    ), wrong AS (
        SELECT {{device}}_key, ts, kwh, sent_kwh, right_counting, right_kwh, hour_start
        FROM counted CROSS JOIN (SELECT floor_day::timestamp AT TIME ZONE 'UTC' AS floor_ts FROM retention) AS retention
        WHERE (kwh, counting) IS DISTINCT FROM (right_kwh, right_counting)
            AND hour_start >= floor_ts
            AND (before_ts IS NOT NULL OR floor_ts = '0001-01-01 UTC')
            AND (counting IS DISTINCT FROM '{SESSION}' OR hour_start >= floor_ts + interval '{REACH_DAYS} days')
    )
"""  # noqa: S608 (all are constants)

_FIND_COUNTING = (
    _COUNTED  # noqa: S608 (both are constants)
    + """
    SELECT {device}_key, {device}_id, hour_start, sum(kwh), count(*), sum(right_kwh), count(*)
    FROM wrong LEFT JOIN {device}s USING ({device}_key)
    GROUP BY {device}_key, {device}_id, hour_start ORDER BY {device}_key, hour_start
"""
)

_CHANGE_COUNTING = (
    _COUNTED  # noqa: S608 (both are constants)
    + """
    UPDATE {device}_telemetry_history AS history
    SET {energy} = right_kwh, counting = right_counting,
        sent_kwh = CASE WHEN right_counting IS NOT NULL THEN wrong.sent_kwh END
    FROM wrong
    WHERE history.{device}_key = wrong.{device}_key AND history.ts = wrong.ts
        AND history.ts > %(hour)s AND history.ts <= %(next_hour)s
"""
)

_REMOVE_HOURS = """
    DELETE FROM {device}_closed_hours AS closed
    USING unnest(%(keys)s::integer[], %(hours)s::timestamptz[]) AS asked (device_key, hour_start)
    WHERE closed.device_key = asked.device_key AND closed.hour_start = asked.hour_start
"""

# The bounds let the planner leave out other days.
_ADD_HOURS = """
    WITH computed AS (
        SELECT device_key, hour_start, last_ts, {totals}
        FROM unnest(%(keys)s::integer[], %(hours)s::timestamptz[]) AS asked (device_key, hour_start)
            CROSS JOIN LATERAL (
                SELECT coalesce(sum({energy}), 0) AS kwh, coalesce(sum(greatest(0, -{energy})), 0) AS kwh_returned,
                    count(*) AS readings, max(history.ts) AS last_ts
                    {averaged:, coalesce(sum(#), 0) AS #_sum, count(#) AS #_readings}
                FROM {device}_telemetry_history AS history
                WHERE history.{device}_key = device_key
                    AND history.ts > hour_start AND history.ts <= hour_start + interval '1 hour'
                    AND history.ts > %(hour)s AND history.ts <= %(next_hour)s
                    AND hour_start = date_bin('1 hour', hour_start, 'epoch')
            ) AS history
    ), open AS (
        UPDATE {device}_current_status AS status
        SET ({totals:hour_#}) = ROW({totals:computed.#})
        FROM computed
        WHERE status.{device}_key = device_key AND status.hour_start = computed.hour_start
        RETURNING device_key, computed.hour_start
    )
    INSERT INTO {device}_closed_hours (device_key, hour_start, last_ts, {totals})
    SELECT device_key, hour_start, last_ts, {totals}
    FROM computed
    WHERE readings > 0 AND (device_key, hour_start) NOT IN (SELECT device_key, hour_start FROM open)
"""

# The newest reading of a device, the row `device`.
_NEWEST = """
    (
        SELECT ts, {measurements}, sent_kwh FROM {device}_telemetry_history AS history
        WHERE history.{device}_key = device.{device}_key
        ORDER BY ts DESC LIMIT 1
    ) UNION ALL (
        SELECT last_ts, {measurements:#[cardinality(gaps_us)]}, sent_kwh[cardinality(gaps_us)]
        FROM {device}_sealed_days AS sealed
        WHERE sealed.device_key = device.{device}_key AND sealed.day >= (SELECT floor_day FROM retention)
        ORDER BY day DESC LIMIT 1
    )
    ORDER BY ts DESC LIMIT 1
"""

# The hour of a status must be that of its reading, whose timestamp is then the hour's last one. Where history has
# nothing of a device, a status from before the retention floor stands: its reading was dropped.
_FIND_STATUS = """
    SELECT {device}_key, {device}_id, CAST(NULL AS timestamptz),
        status.ts::text, {measurements:status.#}, status.sent_kwh, status.hour_start::text,
        newest.ts::text, {measurements:newest.#}, newest.sent_kwh, newest.hour_start::text
    FROM unnest(%(keys)s::integer[]) AS device ({device}_key)
        LEFT JOIN {device}s USING ({device}_key)
        LEFT JOIN {device}_current_status AS status USING ({device}_key)
        LEFT JOIN LATERAL (
            SELECT ts, {measurements}, sent_kwh,
                date_bin('1 hour', ts - interval '1 microsecond', 'epoch') AS hour_start
            FROM ({newest}) AS either
        ) AS newest ON true
    WHERE (status.ts, {measurements:status.#}, status.sent_kwh, status.hour_start)
        IS DISTINCT FROM (newest.ts, {measurements:newest.#}, newest.sent_kwh, newest.hour_start)
        AND NOT (
            newest.ts IS NULL
            AND status.ts < (SELECT floor_day::timestamp AT TIME ZONE 'UTC' FROM retention)
        )
    ORDER BY {device}_key
"""

# The sums of the hour that was open stay what they are, right or wrong.
_REMOVE_STATUS = """
    WITH removed AS (
        DELETE FROM {device}_current_status WHERE {device}_key = ANY(%(keys)s) RETURNING *
    )
    INSERT INTO {device}_closed_hours AS closed (device_key, hour_start, last_ts, {totals})
    SELECT {device}_key, hour_start, ts, {totals:hour_#} FROM removed WHERE hour_readings > 0
    ON CONFLICT (device_key, hour_start) DO UPDATE
        SET last_ts = greatest(closed.last_ts, excluded.last_ts), {totals:# = closed.# + excluded.#}
"""

# A rise may have begun with any energy.
_ADD_STATUS = f"""
    WITH newest AS (
        SELECT device.{{device}}_key AS device_key, ts, {{measurements:newest.#}}, sent_kwh,
            CASE WHEN {SENT} > 0 THEN 0 END
                AS rising_from_kwh,
            date_bin('1 hour', newest.ts - interval '1 microsecond', 'epoch') AS hour_start
        FROM unnest(%(keys)s::integer[]) AS device ({{device}}_key) CROSS JOIN LATERAL ({{newest}}) AS newest
    ), opened AS (
        DELETE FROM {{device}}_closed_hours AS closed USING newest
        WHERE closed.device_key = newest.device_key AND closed.hour_start = newest.hour_start
        RETURNING closed.device_key, {{totals:closed.#}}
    )
    INSERT INTO {{device}}_current_status (
        {{device}}_key, ts, {{measurements}}, sent_kwh, rising_from_kwh, hour_start, {{totals:hour_#}}
    )
    SELECT device_key, ts, {{measurements}}, sent_kwh, rising_from_kwh, hour_start, {{totals:coalesce(opened.#, 0)}}
    FROM newest LEFT JOIN opened USING (device_key)
"""  # noqa: S608 (a constant)

_DEVICES = """
    SELECT {device}_key, {device}_id
    FROM {device}s FULL JOIN (
        SELECT {device}_key FROM {device}_current_status UNION SELECT {device}_key FROM {device}_energy_hourly
    ) AS derived USING ({device}_key)
    ORDER BY {device}_key
"""

_STORED_HOURS = """
    SELECT DISTINCT hour_start FROM {device}_energy_hourly WHERE hour_start >= %(start)s AND hour_start < %(end)s
"""

_SOME_READING = "SELECT ts FROM {device}_telemetry_history WHERE ts >= %(day)s AND ts < %(next_day)s LIMIT 1"


def _side(kind: DeviceKind) -> Side:
    _, _, *other_totals = kind.totals
    hours = Derived(
        table=kind.render("{device}_energy_hourly"),
        columns=(kind.energy, kind.returned, *other_totals, "last_ts"),
        find=kind.render(of_open(_FIND_HOURS)),
        find_sealed=kind.render(of_all(_FIND_HOURS)),
        lock=kind.render(_LOCK),
        remove=kind.render(_REMOVE_HOURS),
        add=kind.render(_ADD_HOURS),
        mark_hours=kind.render(MARK_HOURS),
    )
    counting = Derived(
        table=kind.history,
        columns=(kind.energy, "readings"),
        find=kind.render(of_open(_FIND_COUNTING)),
        find_sealed=kind.render(of_all(_FIND_COUNTING)),
        lock=kind.render(_LOCK),
        remove=kind.render(of_open(_CHANGE_COUNTING)),
        add="",
    )
    status = Derived(
        table=kind.render("{device}_current_status"),
        columns=("ts", *kind.measurements, "sent_kwh", "hour_start"),
        find=kind.render(_FIND_STATUS.replace("{newest}", _NEWEST)),
        lock=kind.render(_LOCK),
        remove=kind.render(_REMOVE_STATUS),
        add=kind.render(_ADD_STATUS.replace("{newest}", _NEWEST)),
        mark_hours=kind.render(MARK_HOURS),
    )
    sealed = Derived(
        table=kind.sealed,
        columns=(*kind.totals, "first_ts", "last_ts"),
        find=kind.render(FIND_SEALED),
        lock=kind.render(_LOCK),
        remove="",
        add="",
    )
    return Side(
        device=kind.name,
        history_table=kind.history,
        counting=counting,
        hours=hours,
        status=status,
        devices=kind.render(_DEVICES),
        stored_hours=kind.render(_STORED_HOURS),
        some_reading=kind.render(_SOME_READING),
        sealed=sealed,
        sealed_days=kind.render(SEALED_DAYS),
        unseal=kind.render(UNSEAL_NEAR),
    )


SIDES = tuple(_side(kind) for kind in KINDS)

HOURS = {kind: side.hours for kind, side in zip(KINDS, SIDES, strict=True)}
"""The rollups of each kind, for whoever has to add some of them up anew."""


def of_hours(asked: Collection[tuple[int, datetime]]) -> dict[str, Any]:
    """The parameters of statements that repair rollups: devices' keys and the starts of their hours, at least one."""
    keys, hours = zip(*asked, strict=True)
    return {"keys": list(keys), "hours": list(hours), "hour": min(hours), "next_hour": max(hours) + timedelta(hours=1)}
