"""What analytics says to the database, a statement a question; `queries` asks.

History is read from its covering primary keys alone, and of its partitions only those that the window touches. Scalar
subqueries, LATERAL and the fence OFFSET 0 leave the planner no other way than one index scan per device or mapping and
day; it sees the days apart from the window, see `queries`. The hour of a reading is `(h, h + 1 h]`, hence the
microsecond. What is asked about a fleet is in `fleet_sql`.
"""

from sqlalchemy import text

from shared.db.device_kind import KINDS, VEHICLE

# Runs before each question in the same message, which is one transaction: its end undoes the settings. `now()` is its
# start, hence before both snapshots. Not in a pipeline: the driver would take twice as many turns of the event loop.
PREAMBLE = text("""
SELECT CASE WHEN pg_is_in_recovery() THEN (SELECT beat_at FROM heartbeat) ELSE now() END AS as_of,
       set_config('statement_timeout', :timeout_ms, true) AS timeout_ms,
       set_config('plan_cache_mode', :plans, true) AS plans
""")

IS_PREPARED = "SELECT FROM pg_prepared_statements WHERE name = %s"

MAPPINGS_MAX = 100
"""Mappings of a vehicle that are told one by one: a charger that is moved every day of a season."""

SIMILAR_MAX = 5
"""Ids that are told because they differ from one only in case: enough to see what is wrong, and fit for a status."""

_OF_THE_DAYS = """
    ts >= CAST(CAST(:first_day AS date) AS timestamp) AT TIME ZONE 'UTC'
    AND ts < CAST(CAST(:last_day AS date) + 1 AS timestamp) AT TIME ZONE 'UTC'
"""

# An hour is known by the first microsecond that counts for it.
_HOUR_OF_ROLLUP = "hour_start + interval '1 microsecond'"
_HOUR_OF_READING = "date_bin('1 hour', ts, timestamptz '1970-01-01 00:00:00.000001Z')"


def _similar_ids(asked: str) -> str:
    """The other devices of a kind whose ids differ from an asked one only in case."""
    return f"""ARRAY(
        SELECT {{device}}_id FROM {{device}}s AS others
        WHERE lower(others.{{device}}_id) = lower({asked} COLLATE "C") AND others.{{device}}_id <> {asked}
        ORDER BY others.{{device}}_id
        LIMIT {SIMILAR_MAX}
    ) AS similar_ids"""


def _with_whole_hours(spans: str, columns: str) -> str:
    """Spans, each with where the hours begin and end that lie wholly within it and may be taken from the rollups."""
    return f"""
        SELECT {columns}, whole_from,
               greatest(whole_from, date_bin('1 hour', until, timestamptz 'epoch')) AS whole_until
        FROM (
            SELECT {columns}, greatest(
                kept_since,
                date_bin('1 hour', since - interval '1 microsecond', timestamptz 'epoch') + interval '1 hour'
            ) AS whole_from
            FROM ({spans}) AS spans
        ) AS begun
    """


def _pieces(span: str) -> str:
    """What is left of a span without those hours; an empty piece is looked for nowhere."""
    return f"""(
        SELECT since, until FROM (
            VALUES ({span}.since, least({span}.whole_from, {span}.until)), ({span}.whole_until, {span}.until)
        ) AS both_ends (since, until)
        WHERE since < until
    ) AS pieces"""


_ASKED = """
    SELECT CAST(:window_start AS timestamptz) AS since, CAST(:window_end AS timestamptz) AS until,
           CAST(floor_day AS timestamp) AT TIME ZONE 'UTC' AS kept_since
    FROM retention
"""
# Of the vehicle and the window that stand beside it, `vehicles` and `asked`.
_MAPPED = """
    SELECT meter_key, greatest(effective_from, asked.since) AS since, least(effective_until, asked.until) AS until,
           kept_since
    FROM vehicle_meter_map
    WHERE vehicle_key = vehicles.vehicle_key
      AND effective_from < asked.until
      AND (effective_until IS NULL OR effective_until > asked.since)
"""

# No row for an unknown vehicle. Otherwise the totals beside each of the last MAPPINGS_MAX mappings, by their
# start, or beside nulls where there is none. Hours wholly within the window, and within a mapping, come from the
# rollups, but not before the retention floor, as in `fleet_sql`; the pieces of others, and the first and the last
# reading, from history. Most of what a small question costs is to make the nodes of its plan ready: there are few, and
# what several of them need is handed to them rather than looked up by each.
PERFORMANCE = text(f"""
SELECT mappings, kwh_delivered_dc, kwh_consumed_ac, average_battery_temp, vehicle_readings, meter_readings,
       hours_either, hours_both, first_vehicle_ts, last_vehicle_ts, first_meter_ts, last_meter_ts,
       (SELECT meter_id FROM meters WHERE meter_key = found.meter_key) AS meter_id,
       found.since, found.until, kwh, readings, kwh_returned_dc, kwh_returned_ac, kwh_returned,
       vehicle_quality, meter_quality,
       {VEHICLE.render(_similar_ids("CAST(:vehicle_id AS text)"))}
FROM vehicles
CROSS JOIN ({_with_whole_hours(_ASKED, "since, until, kept_since")} OFFSET 0) AS asked
CROSS JOIN LATERAL (
    WITH mapped AS ({_with_whole_hours(_MAPPED, "meter_key, since, until")}),
    fed AS (
        SELECT mapped.meter_key, mapped.since, mapped.until, hour_from, kwh, kwh_returned, readings
        FROM mapped LEFT JOIN LATERAL (
            SELECT {_HOUR_OF_ROLLUP} AS hour_from, kwh_consumed_ac AS kwh, kwh_returned_ac AS kwh_returned, readings
            FROM meter_energy_hourly
            WHERE meter_key = mapped.meter_key AND hour_start >= mapped.whole_from AND hour_start < mapped.whole_until
            UNION ALL
            SELECT {_HOUR_OF_READING}, kwh_consumed_ac, greatest(0, -kwh_consumed_ac), 1
            FROM {_pieces("mapped")} CROSS JOIN LATERAL (
                SELECT ts, kwh_consumed_ac
                FROM meter_telemetry_history
                WHERE meter_key = mapped.meter_key AND ts > pieces.since AND ts <= pieces.until AND {_OF_THE_DAYS}
                OFFSET 0
            ) AS history
        ) AS reported ON true
    ),
    by_hour AS (
        SELECT sum(dc) AS dc, sum(ac) AS ac, sum(returned_dc) AS returned_dc, sum(returned_ac) AS returned_ac,
               sum(battery_temp_sum) AS battery_temp_sum, sum(battery_temp_readings) AS battery_temp_readings,
               sum(vehicle_readings) AS vehicle_readings, sum(meter_readings) AS meter_readings
        FROM (
            SELECT {_HOUR_OF_ROLLUP} AS hour_from, kwh_delivered_dc AS dc, CAST(NULL AS double precision) AS ac,
                   kwh_returned_dc AS returned_dc, CAST(NULL AS double precision) AS returned_ac,
                   battery_temp_sum, battery_temp_readings, readings AS vehicle_readings, 0 AS meter_readings
            FROM vehicle_energy_hourly
            WHERE vehicle_key = vehicles.vehicle_key
              AND hour_start >= asked.whole_from AND hour_start < asked.whole_until
            UNION ALL
            SELECT {_HOUR_OF_READING}, kwh_delivered_dc, NULL, greatest(0, -kwh_delivered_dc), NULL,
                   battery_temp, num_nonnulls(battery_temp), 1, 0
            FROM {_pieces("asked")} CROSS JOIN LATERAL (
                SELECT ts, kwh_delivered_dc, battery_temp
                FROM vehicle_telemetry_history
                WHERE vehicle_key = vehicles.vehicle_key AND ts > pieces.since AND ts <= pieces.until AND {_OF_THE_DAYS}
                OFFSET 0
            ) AS history
            UNION ALL
            SELECT hour_from, NULL, kwh, NULL, kwh_returned, NULL, 0, 0, readings FROM fed WHERE hour_from IS NOT NULL
        ) AS reported
        GROUP BY hour_from
    )
    SELECT kwh_delivered_dc, kwh_consumed_ac, average_battery_temp, vehicle_readings, meter_readings,
           hours_either, hours_both, first_vehicle_ts, last_vehicle_ts, mappings, first_meter_ts, last_meter_ts,
           feedings.meter_key, feedings.since, feedings.until, feedings.kwh, feedings.readings,
           kwh_returned_dc, kwh_returned_ac, feedings.kwh_returned,
           (
               SELECT jsonb_object_agg(counting, readings) FROM (
                   SELECT counting, count(*) AS readings FROM vehicle_telemetry_history
                   WHERE vehicle_key = vehicles.vehicle_key AND ts > asked.since AND ts <= asked.until
                     AND {_OF_THE_DAYS} AND counting IS NOT NULL
                   GROUP BY counting
               ) AS counted
           ) AS vehicle_quality,
           (
               SELECT jsonb_object_agg(counting, readings) FROM (
                   SELECT counting, count(*) AS readings
                   FROM mapped CROSS JOIN LATERAL (
                       SELECT counting FROM meter_telemetry_history
                       WHERE meter_key = mapped.meter_key AND ts > mapped.since AND ts <= mapped.until
                         AND {_OF_THE_DAYS} AND counting IS NOT NULL
                       OFFSET 0
                   ) AS history
                   GROUP BY counting
               ) AS counted
           ) AS meter_quality
    FROM (
        SELECT sum(dc) AS kwh_delivered_dc, sum(ac) AS kwh_consumed_ac,
               sum(returned_dc) AS kwh_returned_dc, sum(returned_ac) AS kwh_returned_ac,
               sum(battery_temp_sum) / CAST(nullif(sum(battery_temp_readings), 0) AS double precision)
                   AS average_battery_temp,
               CAST(coalesce(sum(vehicle_readings), 0) AS bigint) AS vehicle_readings,
               CAST(coalesce(sum(meter_readings), 0) AS bigint) AS meter_readings,
               count(*) AS hours_either,
               count(*) FILTER (WHERE vehicle_readings > 0 AND meter_readings > 0) AS hours_both
        FROM by_hour
    ) AS totals CROSS JOIN (
        SELECT min(ts) AS first_vehicle_ts, max(ts) AS last_vehicle_ts
        FROM vehicle_telemetry_history
        WHERE vehicle_key = vehicles.vehicle_key AND ts > asked.since AND ts <= asked.until AND {_OF_THE_DAYS}
    ) AS delivered CROSS JOIN (
        SELECT count(*) AS mappings, min(first_ts) AS first_meter_ts, max(last_ts) AS last_meter_ts
        FROM mapped CROSS JOIN LATERAL (
            SELECT min(ts) AS first_ts, max(ts) AS last_ts
            FROM meter_telemetry_history
            WHERE meter_key = mapped.meter_key AND ts > mapped.since AND ts <= mapped.until AND {_OF_THE_DAYS}
        ) AS ends
    ) AS consumed LEFT JOIN (
        SELECT meter_key, since, until, sum(kwh) AS kwh, sum(kwh_returned) AS kwh_returned,
               CAST(coalesce(sum(readings), 0) AS bigint) AS readings
        FROM fed
        GROUP BY meter_key, since, until
        ORDER BY since DESC, meter_key DESC
        LIMIT {MAPPINGS_MAX}
    ) AS feedings ON true
) AS found
WHERE vehicle_id = :vehicle_id
ORDER BY found.since, meter_id
""")

# A row for each bucket in their order, or none for an unknown vehicle. The buckets follow each other without a
# gap: `(:starts[n], :starts[n + 1]]`, and the last one ends at :window_end.
PERFORMANCE_SERIES = text(f"""
WITH vehicle AS (
    SELECT vehicle_key FROM vehicles WHERE vehicle_id = :vehicle_id
),
buckets AS (
    SELECT bucket, since, lead(since, 1, :window_end) OVER (ORDER BY bucket) AS until
    FROM unnest(CAST(:starts AS timestamptz[])) WITH ORDINALITY AS starts (since, bucket)
),
mapped AS (
    SELECT meter_key, greatest(effective_from, :window_start) AS since, least(effective_until, :window_end) AS until
    FROM vehicle_meter_map
    WHERE vehicle_key = (SELECT vehicle_key FROM vehicle)
      AND effective_from < :window_end
      AND (effective_until IS NULL OR effective_until > :window_start)
),
delivered AS (
    SELECT width_bucket(ts - interval '1 microsecond', CAST(:starts AS timestamptz[])) AS bucket,
           sum(kwh_delivered_dc) AS kwh,
           sum(greatest(0, -kwh_delivered_dc)) AS kwh_returned,
           count(*) AS readings,
           avg(battery_temp) AS average_battery_temp
    FROM vehicle_telemetry_history
    WHERE vehicle_key = (SELECT vehicle_key FROM vehicle)
      AND ts > :window_start AND ts <= :window_end AND {_OF_THE_DAYS}
    GROUP BY 1
),
consumed AS (
    SELECT width_bucket(history.ts - interval '1 microsecond', CAST(:starts AS timestamptz[])) AS bucket,
           sum(history.kwh_consumed_ac) AS kwh,
           sum(greatest(0, -history.kwh_consumed_ac)) AS kwh_returned,
           count(*) AS readings
    FROM mapped CROSS JOIN LATERAL (
        SELECT ts, kwh_consumed_ac
        FROM meter_telemetry_history
        WHERE meter_key = mapped.meter_key
          AND ts > :window_start AND ts <= :window_end AND {_OF_THE_DAYS} AND ts > mapped.since AND ts <= mapped.until
        OFFSET 0
    ) AS history
    GROUP BY 1
)
SELECT EXISTS (SELECT FROM mapped WHERE mapped.since < buckets.until AND mapped.until > buckets.since) AS mapped,
       delivered.kwh AS kwh_delivered_dc,
       consumed.kwh AS kwh_consumed_ac,
       average_battery_temp,
       coalesce(delivered.readings, 0) AS vehicle_readings,
       coalesce(consumed.readings, 0) AS meter_readings,
       delivered.kwh_returned AS kwh_returned_dc,
       consumed.kwh_returned AS kwh_returned_ac
FROM vehicle CROSS JOIN buckets
     LEFT JOIN delivered ON delivered.bucket = buckets.bucket
     LEFT JOIN consumed ON consumed.bucket = buckets.bucket
ORDER BY buckets.bucket
""")

REFUSALS_MAX = 20
"""Refusals of a device that are told, by field and reason: more than there are of either kind."""

# A row for each of the ids, in their order. ts is null where no reading of the device is stored, late_readings where
# nothing was written down of its clock, and refusals where nothing of it was refused.
_STATUSES = (
    """
SELECT {device}_key IS NOT NULL AS registered, status.ts, {measurements:status.#},
       newest_age_us, late_readings, future_readings, conflicting_readings,
       (
           SELECT json_agg(json_build_array(
               field, reason, count, CAST(extract(epoch FROM last_at) * 1000000 AS bigint), last_description
           ))
           FROM (
               SELECT * FROM {device}_refusals WHERE device_id = asked.{device}_id
               ORDER BY last_at DESC, field, reason
               LIMIT :refusals_max
           ) AS latest
       ) AS refusals,
       """
    + _similar_ids("asked.{device}_id")
    + """
FROM unnest(CAST(:ids AS text[])) WITH ORDINALITY AS asked ({device}_id, position)
     LEFT JOIN {device}s USING ({device}_id)
     LEFT JOIN {device}_current_status AS status USING ({device}_key)
     LEFT JOIN {device}_clock_evidence ON device_key = {device}_key
ORDER BY position
"""
)
STATUSES = {kind: text(kind.render(_STATUSES)) for kind in KINDS}

# One row, from a primary too. A replica that is connected and has replayed all that it received lacks nothing, however
# old the heartbeat is: no ingestion may be running, and that must not take the readers down as well. The price: a link
# that died without a word counts as connected for the replica's wal_receiver_timeout, a minute by default, and so does
# a replica that is connected again and has received nothing yet. The answers' `as_of` is right all the while. The order
# of the two positions errs on the side of lag.
REPLICA_LAG = text("""
SELECT CASE
           WHEN NOT pg_is_in_recovery() THEN interval '0'
           WHEN EXISTS (SELECT FROM pg_stat_wal_receiver) AND pg_last_wal_replay_lsn() >= pg_last_wal_receive_lsn()
               THEN interval '0'
           ELSE greatest(clock_timestamp() - beat_at, interval '0')
       END AS lag
FROM heartbeat
""")
