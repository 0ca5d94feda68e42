"""What analytics says to the database, a statement a question; `queries` asks.

History is read from its covering primary keys alone, and of its partitions only those that the window touches. Scalar
subqueries, LATERAL and the fence OFFSET 0 leave the planner no other way than one index scan per device or mapping and
day; it sees the days apart from the window, see `queries`. Where days may be sealed, the same is read from views: see
`readings_sql`. What is asked about a fleet is in `fleet_sql`.
"""

from sqlalchemy import text

from analytics_svc.baseline_sql import BASELINE_MAPPINGS, BASELINE_VERSION
from analytics_svc.readings_sql import Readings, of_readings
from analytics_svc.spans_sql import KEPT, mapped_within, span_ctes
from shared.db.device_kind import KINDS, METER, VEHICLE

MAPPINGS_MAX = 100
"""Mappings of a vehicle that are told one by one: a charger that is moved every day of a season."""

SIMILAR_MAX = 5
"""Ids that are told because they differ from one only in case: enough to see what is wrong, and fit for a status."""


def similar_ids(asked: str) -> str:
    """The other devices of a kind whose ids differ from an asked one only in case."""
    return f"""ARRAY(
        SELECT {{device}}_id FROM {{device}}s AS others
        WHERE lower(others.{{device}}_id) = lower({asked} COLLATE "C") AND others.{{device}}_id <> {asked}
        ORDER BY others.{{device}}_id
        LIMIT {SIMILAR_MAX}
    ) AS similar_ids"""


_OPTIONAL_FIELDS = ", ".join(f"'{kind.name}.{name}'" for kind in KINDS for name in kind.optional)


def _performance(readings: Readings) -> str:
    own, its = "asked.vehicle_key", "mapped.meter_key"
    return f"""
WITH {KEPT},
asked AS (
    SELECT vehicle_key FROM vehicles WHERE vehicle_id = :vehicle_id
),
{span_ctes(readings).strip()},
evidence AS MATERIALIZED (
    SELECT (
               SELECT min(ts) FROM {readings.of(VEHICLE)}
               WHERE vehicle_key = asked.vehicle_key AND ts > :window_start AND ts <= :window_end
                 AND {readings.of_the_days}
                 {readings.days(readings.until_first, VEHICLE, key=own, since=":window_start")}
           ) AS first_vehicle_ts,
           (
               SELECT min(first_ts)
               FROM mapped CROSS JOIN LATERAL (
                   SELECT min(ts) AS first_ts FROM {readings.of(METER)}
                   WHERE meter_key = mapped.meter_key AND ts > mapped.since AND ts <= mapped.until
                     AND {readings.of_the_days}
                     {readings.days(readings.until_first, METER, key=its, since="mapped.since")}
               ) AS ends
           ) AS first_meter_ts,
           (
               SELECT jsonb_object_agg(counting, readings) FROM (
                   SELECT counting, count(*) AS readings FROM {readings.of(VEHICLE)}
                   WHERE vehicle_key = asked.vehicle_key AND ts > :window_start AND ts <= :window_end
                     AND {readings.of_the_days} AND counting IS NOT NULL
                     {readings.days(readings.marked, VEHICLE, key=own)}
                   GROUP BY counting
               ) AS counted
           ) AS vehicle_quality,
           (
               SELECT jsonb_object_agg(counting, readings) FROM (
                   SELECT counting, count(*) AS readings
                   FROM mapped CROSS JOIN LATERAL (
                       SELECT counting FROM {readings.of(METER)}
                       WHERE meter_key = mapped.meter_key AND ts > mapped.since AND ts <= mapped.until
                         AND {readings.of_the_days} AND counting IS NOT NULL
                         {readings.days(readings.between, METER, since="mapped.since", until="mapped.until")}
                         {readings.days(readings.marked, METER, key=its)}
                       OFFSET 0
                   ) AS history
                   GROUP BY counting
               ) AS counted
           ) AS meter_quality,
           (
               SELECT jsonb_object_agg(field, count) FROM (
                   SELECT field, sum(count) AS count FROM (
                       SELECT * FROM vehicle_refusals WHERE device_id = :vehicle_id
                       UNION ALL
                       SELECT * FROM meter_refusals
                       WHERE device_id = ANY (ARRAY(SELECT meter_id FROM mapped JOIN meters USING (meter_key)))
                   ) AS refused
                   WHERE last_at > :window_start AND last_at <= :window_end AND field IN ({_OPTIONAL_FIELDS})
                   GROUP BY field
               ) AS added
           ) AS values_left_out,
           {VEHICLE.render(similar_ids("CAST(:vehicle_id AS text)"))},
           {BASELINE_VERSION.strip()} AS baseline_version,
           ({BASELINE_MAPPINGS.format(vehicle_key="asked.vehicle_key").strip()}) AS baseline_mappings
    FROM asked
)
SELECT reported.*, (SELECT meter_id FROM meters WHERE meter_key = reported.meter_key) AS meter_id, evidence.*
FROM reported CROSS JOIN evidence
"""


# No row for an unknown vehicle. Otherwise the hours of each of its spans, and of each meter in it, beside what is known
# of the whole window. The first and the last reading come from history.
PERFORMANCE = of_readings(_performance)


def _hours_series(readings: Readings) -> str:
    return f"""
WITH {KEPT},
asked AS (
    SELECT vehicle_key FROM vehicles WHERE vehicle_id = :vehicle_id
),
{span_ctes(readings).strip()}
SELECT * FROM reported
"""


# No row for an unknown vehicle. Otherwise the hours of each of its spans, and of each meter in it.
HOURS_SERIES = of_readings(_hours_series)


def _performance_series(readings: Readings) -> str:
    return f"""
WITH vehicle AS (
    SELECT vehicle_key FROM vehicles WHERE vehicle_id = :vehicle_id
),
buckets AS (
    SELECT bucket, since, lead(since, 1, :window_end) OVER (ORDER BY bucket) AS until
    FROM unnest(CAST(:starts AS timestamptz[])) WITH ORDINALITY AS starts (since, bucket)
),
{KEPT},
mapped AS ({mapped_within("vehicle JOIN vehicle_meter_map USING (vehicle_key)")}),
delivered AS (
    SELECT width_bucket(ts - interval '1 microsecond', CAST(:starts AS timestamptz[])) AS bucket,
           sum(kwh_delivered_dc) AS kwh,
           sum(greatest(0, -kwh_delivered_dc)) AS kwh_returned,
           count(*) AS readings,
           avg(battery_temp) AS average_battery_temp
    FROM {readings.of(VEHICLE)}
    WHERE vehicle_key = (SELECT vehicle_key FROM vehicle)
      AND ts > :window_start AND ts <= :window_end AND {readings.of_the_days}
    GROUP BY 1
),
consumed AS (
    SELECT width_bucket(history.ts - interval '1 microsecond', CAST(:starts AS timestamptz[])) AS bucket,
           sum(history.kwh_consumed_ac) AS kwh,
           sum(greatest(0, -history.kwh_consumed_ac)) AS kwh_returned,
           count(*) AS readings
    FROM mapped CROSS JOIN LATERAL (
        SELECT ts, kwh_consumed_ac
        FROM {readings.of(METER)}
        WHERE meter_key = mapped.meter_key
          AND ts > :window_start AND ts <= :window_end AND ts > mapped.since AND ts <= mapped.until
          AND {readings.of_the_days}
          {readings.days(readings.between, METER, since="mapped.since", until="mapped.until")}
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
"""


# A row for each bucket in their order, or none for an unknown vehicle. The buckets follow each other without a
# gap: `(:starts[n], :starts[n + 1]]`, and the last one ends at :window_end.
PERFORMANCE_SERIES = of_readings(_performance_series)

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
    + similar_ids("asked.{device}_id")
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
