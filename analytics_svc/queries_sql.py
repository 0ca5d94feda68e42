"""What analytics says to the database, a statement a question; `queries` asks.

History is read from its covering primary keys alone, and of its partitions only those that the window touches. Scalar
subqueries and the fence OFFSET 0 leave the planner no other way than one index scan per device or mapping and day; it
sees the days apart from the window, see `queries`. The hour of a reading is `(h, h + 1 h]`, hence the microsecond. What
is asked about a fleet is in `fleet_sql`.
"""

from sqlalchemy import text

_HOUR_FROM = "date_bin('1 hour', ts, timestamptz '1970-01-01 00:00:00.000001Z')"
_OF_THE_WINDOW = """
    ts > :window_start AND ts <= :window_end
    AND ts >= CAST(CAST(:first_day AS date) AS timestamp) AT TIME ZONE 'UTC'
    AND ts < CAST(CAST(:last_day AS date) + 1 AS timestamp) AT TIME ZONE 'UTC'
"""

# No row for a vehicle never heard of. Otherwise the totals beside each of the last :mappings_max mappings, by their
# start, or beside nulls where there is none. An hour is known by the first microsecond that counts for it. Hours wholly
# within the window, and within a mapping, come from the rollups, but not before the retention floor, as in `fleet_sql`;
# the pieces of others, and the first and the last reading, from history.
PERFORMANCE = text(f"""
WITH vehicle AS (
    SELECT vehicle_key FROM vehicles WHERE vehicle_id = :vehicle_id
),
kept AS (
    SELECT CAST(floor_day AS timestamp) AT TIME ZONE 'UTC' AS since FROM retention
),
mapped AS (
    SELECT meter_key, since, until, whole_from, greatest(whole_from, whole_until) AS whole_until
    FROM (
        SELECT meter_key, since, until,
               greatest(
                   date_bin('1 hour', since - interval '1 microsecond', timestamptz 'epoch') + interval '1 hour',
                   (SELECT since FROM kept)
               ) AS whole_from,
               date_bin('1 hour', until, timestamptz 'epoch') AS whole_until
        FROM (
            SELECT meter_key, greatest(effective_from, :window_start) AS since,
                   least(effective_until, :window_end) AS until
            FROM vehicle_meter_map
            WHERE vehicle_key = (SELECT vehicle_key FROM vehicle)
              AND effective_from < :window_end
              AND (effective_until IS NULL OR effective_until > :window_start)
        ) AS clipped
    ) AS with_hours
),
within AS (
    SELECT whole_from, greatest(whole_from, :last_hour_start) AS whole_until
    FROM (SELECT greatest(:first_hour_start, since) AS whole_from FROM kept) AS floored
),
delivered AS (
    SELECT hour_start + interval '1 microsecond' AS hour_from, kwh_delivered_dc AS kwh, readings,
           battery_temp_sum, battery_temp_readings
    FROM vehicle_energy_hourly
    WHERE vehicle_key = (SELECT vehicle_key FROM vehicle)
      AND hour_start >= (SELECT whole_from FROM within) AND hour_start < (SELECT whole_until FROM within)
    UNION ALL
    SELECT {_HOUR_FROM}, sum(kwh_delivered_dc), count(*), sum(battery_temp), count(battery_temp)
    FROM (
        SELECT CAST(:window_start AS timestamptz) AS since, whole_from AS until FROM within
        UNION ALL
        SELECT whole_until, CAST(:window_end AS timestamptz) FROM within
    ) AS pieces CROSS JOIN LATERAL (
        SELECT ts, kwh_delivered_dc, battery_temp
        FROM vehicle_telemetry_history
        WHERE vehicle_key = (SELECT vehicle_key FROM vehicle)
          AND {_OF_THE_WINDOW} AND ts > pieces.since AND ts <= pieces.until
        OFFSET 0
    ) AS history
    GROUP BY 1
),
fed AS (
    SELECT mapped.since, hour_start + interval '1 microsecond' AS hour_from, kwh_consumed_ac AS kwh, readings
    FROM mapped CROSS JOIN LATERAL (
        SELECT hour_start, kwh_consumed_ac, readings
        FROM meter_energy_hourly
        WHERE meter_key = mapped.meter_key AND hour_start >= mapped.whole_from AND hour_start < mapped.whole_until
        OFFSET 0
    ) AS hourly
    UNION ALL
    SELECT mapped_since, {_HOUR_FROM}, sum(kwh_consumed_ac), count(*)
    FROM (
        SELECT meter_key, since AS mapped_since, since, least(whole_from, until) AS until FROM mapped
        UNION ALL
        SELECT meter_key, since, whole_until, until FROM mapped
    ) AS pieces CROSS JOIN LATERAL (
        SELECT ts, kwh_consumed_ac
        FROM meter_telemetry_history
        WHERE meter_key = pieces.meter_key
          AND {_OF_THE_WINDOW} AND ts > pieces.since AND ts <= pieces.until
        OFFSET 0
    ) AS history
    GROUP BY 1, 2
),
consumed AS (
    SELECT hour_from, sum(kwh) AS kwh, sum(readings) AS readings FROM fed GROUP BY hour_from
),
fed_ends AS (
    SELECT min(first_ts) AS first_ts, max(last_ts) AS last_ts
    FROM mapped CROSS JOIN LATERAL (
        SELECT min(ts) AS first_ts, max(ts) AS last_ts
        FROM meter_telemetry_history
        WHERE meter_key = mapped.meter_key
          AND {_OF_THE_WINDOW} AND ts > mapped.since AND ts <= mapped.until
    ) AS history
),
totals AS (
    SELECT sum(delivered.kwh) AS kwh_delivered_dc,
           sum(consumed.kwh) AS kwh_consumed_ac,
           sum(battery_temp_sum) / CAST(nullif(sum(battery_temp_readings), 0) AS double precision)
               AS average_battery_temp,
           CAST(coalesce(sum(delivered.readings), 0) AS bigint) AS vehicle_readings,
           CAST(coalesce(sum(consumed.readings), 0) AS bigint) AS meter_readings,
           count(*) AS hours_either,
           count(*) FILTER (WHERE delivered.readings > 0 AND consumed.readings > 0) AS hours_both
    FROM delivered FULL JOIN consumed USING (hour_from)
),
delivered_ends AS (
    SELECT min(ts) AS first_ts, max(ts) AS last_ts
    FROM vehicle_telemetry_history
    WHERE vehicle_key = (SELECT vehicle_key FROM vehicle) AND {_OF_THE_WINDOW}
),
feeding AS (
    SELECT meter_key, since, until, sum(fed.kwh) AS kwh, CAST(coalesce(sum(fed.readings), 0) AS bigint) AS readings
    FROM (SELECT meter_key, since, until FROM mapped ORDER BY since DESC LIMIT :mappings_max) AS newest
         LEFT JOIN fed USING (since)
    GROUP BY meter_key, since, until
)
SELECT (SELECT count(*) FROM mapped) AS mappings,
       kwh_delivered_dc, kwh_consumed_ac, average_battery_temp, vehicle_readings, meter_readings,
       hours_either, hours_both,
       delivered_ends.first_ts AS first_vehicle_ts, delivered_ends.last_ts AS last_vehicle_ts,
       fed_ends.first_ts AS first_meter_ts, fed_ends.last_ts AS last_meter_ts,
       (SELECT meter_id FROM meters WHERE meter_key = feeding.meter_key) AS meter_id,
       since, until, feeding.kwh, feeding.readings
FROM vehicle CROSS JOIN totals CROSS JOIN delivered_ends CROSS JOIN fed_ends LEFT JOIN feeding ON true
ORDER BY since
""")

# A row for each bucket in their order, or none for a vehicle never heard of. The buckets follow each other without a
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
           count(*) AS readings,
           avg(battery_temp) AS average_battery_temp
    FROM vehicle_telemetry_history
    WHERE vehicle_key = (SELECT vehicle_key FROM vehicle)
      AND {_OF_THE_WINDOW}
    GROUP BY 1
),
consumed AS (
    SELECT width_bucket(history.ts - interval '1 microsecond', CAST(:starts AS timestamptz[])) AS bucket,
           sum(history.kwh_consumed_ac) AS kwh,
           count(*) AS readings
    FROM mapped CROSS JOIN LATERAL (
        SELECT ts, kwh_consumed_ac
        FROM meter_telemetry_history
        WHERE meter_key = mapped.meter_key
          AND {_OF_THE_WINDOW} AND ts > mapped.since AND ts <= mapped.until
        OFFSET 0
    ) AS history
    GROUP BY 1
)
SELECT EXISTS (SELECT FROM mapped WHERE mapped.since < buckets.until AND mapped.until > buckets.since) AS mapped,
       delivered.kwh AS kwh_delivered_dc,
       consumed.kwh AS kwh_consumed_ac,
       average_battery_temp,
       coalesce(delivered.readings, 0) AS vehicle_readings,
       coalesce(consumed.readings, 0) AS meter_readings
FROM vehicle CROSS JOIN buckets
     LEFT JOIN delivered ON delivered.bucket = buckets.bucket
     LEFT JOIN consumed ON consumed.bucket = buckets.bucket
ORDER BY buckets.bucket
""")

# A row for each of the ids, in their order. The key is null for a vehicle never heard of, ts where it has sent no
# reading, and late_readings where nothing was written down of its clock.
VEHICLE_STATUSES = text("""
SELECT vehicles.vehicle_key IS NOT NULL AS known,
       status.ts, status.kwh_delivered_dc, status.soc, status.battery_temp,
       newest_age_us, late_readings, future_readings, conflicting_readings
FROM unnest(CAST(:vehicle_ids AS text[])) WITH ORDINALITY AS asked (vehicle_id, position)
     LEFT JOIN vehicles USING (vehicle_id)
     LEFT JOIN vehicle_current_status AS status USING (vehicle_key)
     LEFT JOIN vehicle_clock_evidence USING (vehicle_key)
ORDER BY position
""")

# As for vehicles.
METER_STATUSES = text("""
SELECT meters.meter_key IS NOT NULL AS known,
       status.ts, status.kwh_consumed_ac, status.voltage,
       newest_age_us, late_readings, future_readings, conflicting_readings
FROM unnest(CAST(:meter_ids AS text[])) WITH ORDINALITY AS asked (meter_id, position)
     LEFT JOIN meters USING (meter_id)
     LEFT JOIN meter_current_status AS status USING (meter_key)
     LEFT JOIN meter_clock_evidence USING (meter_key)
ORDER BY position
""")

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
