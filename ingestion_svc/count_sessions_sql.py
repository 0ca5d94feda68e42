"""What ingestion says to the database about devices that send their session's register as each interval's energy.

The parameters are spans of readings, at most one of a device in a statement, by `keys`, `firsts_us` and `lasts_us`;
readings lie no further away than `first` and `last`, which let the planner leave out other days.
"""

from shared.db.device_kind import KINDS
from shared.db.session_registers_sql import (
    FIRST_SEALED,
    LAST_SEALED,
    REACH_DAYS,
    RISE_FACTOR,
    RISE_READINGS,
    SENT,
    SESSION,
    sessions,
)

_SPANS = """
    spans AS (
        SELECT device_key, max_kw, 'epoch'::timestamptz + first_us * interval '1 microsecond' AS first_ts,
            'epoch'::timestamptz + last_us * interval '1 microsecond' AS last_ts
        FROM unnest(
            %(keys)s::integer[], %(firsts_us)s::bigint[], %(lasts_us)s::bigint[], %(limits_kw)s::double precision[]
        ) AS span (device_key, first_us, last_us, max_kw)
    )"""

_OF_DEVICE = "history.{device}_key = spans.device_key AND history.ts BETWEEN %(first)s AND %(last)s"

# Where the open readings before a span, or after it, are too few, those of sealed days; the span's own days are open.
_FEW = f"""(
            SELECT count(*) FROM (
                SELECT FROM {{device}}_telemetry_history AS history
                WHERE {_OF_DEVICE} AND history.ts {{of}} LIMIT {RISE_READINGS - 1}
            ) AS open
        ) < {RISE_READINGS - 1}"""  # noqa: S608 (all are constants)

_AROUND = f"""
    (
        SELECT ts, {SENT} AS kwh, counting FROM {{device}}_telemetry_history AS history
        WHERE {_OF_DEVICE} AND history.ts < first_ts ORDER BY ts DESC LIMIT {RISE_READINGS - 1}
    ) UNION ALL (
        SELECT edge.ts, edge.kwh, edge.counting
        FROM {{device}}_sealed_days AS sealed CROSS JOIN LATERAL ({LAST_SEALED}) AS edge
        WHERE sealed.device_key = spans.device_key AND sealed.last_ts < first_ts
            AND sealed.day BETWEEN (%(first)s AT TIME ZONE 'UTC')::date AND (first_ts AT TIME ZONE 'UTC')::date
            AND {_FEW.replace("{of}", "< first_ts")}
    ) UNION ALL (
        SELECT ts, {SENT}, counting FROM {{device}}_telemetry_history AS history
        WHERE {_OF_DEVICE} AND history.ts BETWEEN first_ts AND last_ts
    ) UNION ALL (
        SELECT ts, {SENT}, counting FROM {{device}}_telemetry_history AS history
        WHERE {_OF_DEVICE} AND history.ts > last_ts ORDER BY ts LIMIT {RISE_READINGS - 1}
    ) UNION ALL (
        SELECT edge.ts, edge.kwh, edge.counting
        FROM {{device}}_sealed_days AS sealed CROSS JOIN LATERAL ({FIRST_SEALED}) AS edge
        WHERE sealed.device_key = spans.device_key AND sealed.first_ts > last_ts
            AND sealed.day BETWEEN (last_ts AT TIME ZONE 'UTC')::date AND (%(last)s AT TIME ZONE 'UTC')::date
            AND {_FEW.replace("{of}", "> last_ts")}
    )"""  # noqa: S608 (all are constants)
"""The readings of a span, and those before and after that may rise together with one of them, and perhaps more."""

# The devices of spans around which a session's register may be: enough energies in a row that do not fall, and rise by
# enough, or what was found to be one before. Few have energies that differ by so much: only theirs are put in order.
_FIND_RISES = f"""
    WITH {_SPANS.strip()}, differing AS (
        SELECT device_key, first_ts, last_ts
        FROM spans CROSS JOIN LATERAL (
            SELECT count(*) AS readings, min(kwh) FILTER (WHERE kwh > 0) AS least_kwh, max(kwh) AS most_kwh,
                bool_or(counting IN ('{SESSION}', 'corrected')) AS known
            FROM ({_AROUND}) AS readings
        ) AS readings
        WHERE known OR (readings >= {RISE_READINGS} AND most_kwh >= {RISE_FACTOR} * least_kwh)
    ), stepped AS (
        SELECT device_key, ts, kwh, counting, lag(kwh) OVER (PARTITION BY device_key ORDER BY ts) AS before_kwh
        FROM differing AS spans CROSS JOIN LATERAL ({_AROUND}) AS readings
    ), runs AS (
        SELECT device_key, kwh, counting,
            count(*) FILTER (WHERE (before_kwh > 0 AND kwh >= before_kwh) IS NOT TRUE)
                OVER (PARTITION BY device_key ORDER BY ts) AS run
        FROM stepped
    )
    SELECT DISTINCT device_key FROM runs GROUP BY device_key, run
    HAVING bool_or(counting IN ('{SESSION}', 'corrected'))
        OR (count(*) >= {RISE_READINGS} AND min(kwh) > 0 AND max(kwh) >= {RISE_FACTOR} * min(kwh))
"""  # noqa: S608 (all are constants)
FIND_RISES = {kind.name: kind.render(_FIND_RISES) for kind in KINDS}

# Makes count what should of the readings of spans, of those before that may rise together with them, and of those after
# up to one that stays what it is although eight others or more lie between: from there on all does. Of those after only
# so many are looked at. Whether a session began before these, readings say that were not corrected; a session's
# register that may be one because of readings that retention dropped stays one. Returns the rows that changed, with
# their hours, and whether they are a session's now; changes nothing where readings matter that lie beyond the bounds,
# or further than `following` after a span, and then says so with a row of nulls. It inserts what is there already,
# since that looks each row up by its key, and an update might join it with all readings.
_COUNT_SESSIONS = f"""
    WITH {_SPANS.strip()}, near AS MATERIALIZED (
        SELECT device_key, ts, kwh, counting, after, max_kw,
            trusted OR (counting IS NOT DISTINCT FROM '{SESSION}' AND ts < whole_ts) AS trusted
        FROM spans CROSS JOIN (
            SELECT floor_day::timestamp AT TIME ZONE 'UTC' + interval '{REACH_DAYS} days' AS whole_ts FROM retention
        ) AS retention CROSS JOIN LATERAL (
            (
                SELECT ts, {SENT} AS kwh, counting,
                    row_number() OVER (ORDER BY ts DESC) >= {RISE_READINGS}
                        OR ts < first_ts - interval '1 day' AS trusted,
                    0 AS after
                FROM {{device}}_telemetry_history AS history
                WHERE {_OF_DEVICE} AND history.ts < first_ts AND history.ts >= coalesce((
                    SELECT ts FROM {{device}}_telemetry_history AS history
                    WHERE {_OF_DEVICE} AND history.ts < first_ts AND counting IS DISTINCT FROM 'corrected'
                    ORDER BY ts DESC OFFSET {2 * RISE_READINGS - 3} LIMIT 1
                ), '-infinity')
            ) UNION ALL (
                SELECT ts, {SENT}, counting, false, 0 FROM {{device}}_telemetry_history AS history
                WHERE {_OF_DEVICE} AND history.ts BETWEEN first_ts AND last_ts
            ) UNION ALL (
                SELECT ts, {SENT}, counting, false, row_number() OVER (ORDER BY ts)
                FROM {{device}}_telemetry_history AS history
                WHERE {_OF_DEVICE} AND history.ts > last_ts ORDER BY ts LIMIT %(following)s
            )
        ) AS readings
    ), {sessions("after", "max_kw")}, compared AS MATERIALIZED (
        SELECT device_key, ts, kwh, trusted, before_ts, in_session, max_kw,
            in_session <> coalesce(counting = '{SESSION}', false) AND counting IS DISTINCT FROM 'corrected' AS changes,
            count(*) FILTER (
                WHERE after >= {RISE_READINGS} AND counting IS DISTINCT FROM 'corrected'
                    AND in_session = coalesce(counting = '{SESSION}', false)
            ) OVER (PARTITION BY device_key ORDER BY ts) > 0 AS stays
        FROM sessions
    ), counted AS MATERIALIZED (
        SELECT device_key, ts, kwh, in_session, before_ts, CASE
            WHEN in_session THEN '{SESSION}'
            ELSE counting_of(kwh, NULL, NULL, plausible_kwh(ts, before_ts, max_kw, %(min_interval_s)s))
        END AS counting
        FROM compared WHERE changes AND NOT trusted AND NOT stays AND kwh IS NOT NULL
    ), beyond AS MATERIALIZED (
        SELECT EXISTS (
            SELECT FROM counted
            WHERE %(bounded)s AND ((before_ts IS NULL AND NOT in_session) OR ts > %(last)s - interval '1 day')
        ) OR EXISTS (
            SELECT FROM near
            WHERE after = %(following)s AND device_key NOT IN (SELECT device_key FROM compared WHERE stays)
        ) AS matters
    ), changed AS (
        INSERT INTO {{device}}_telemetry_history AS history ({{device}}_key, ts, {{energy}}, counting, sent_kwh)
        SELECT device_key, ts, counted_kwh(counting, kwh, NULL, NULL), counting,
            CASE WHEN counting IS NOT NULL THEN kwh END
        FROM counted WHERE NOT (SELECT matters FROM beyond)
        ON CONFLICT ({{device}}_key, ts) DO UPDATE
        SET {{energy}} = excluded.{{energy}}, counting = excluded.counting, sent_kwh = excluded.sent_kwh
        RETURNING {{device}}_key AS device_key, ts, {{energy}} AS kwh, sent_kwh,
            coalesce(counting = '{SESSION}', false) AS in_session,
            date_bin('1 hour', ts - interval '1 microsecond', 'epoch') AS hour_start
    ), newest AS (
        UPDATE {{device}}_current_status AS status SET {{energy}} = kwh, sent_kwh = changed.sent_kwh
        FROM changed WHERE status.{{device}}_key = device_key AND status.ts = changed.ts
    )
    SELECT device_key, ts, hour_start, in_session FROM changed
    UNION ALL SELECT NULL, NULL, NULL, NULL FROM beyond WHERE matters
"""  # noqa: S608 (all are constants)
COUNT_SESSIONS = {kind.name: kind.render(_COUNT_SESSIONS) for kind in KINDS}
