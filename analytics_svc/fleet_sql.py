"""What analytics says to the database about a fleet; `fleet_queries` asks.

Windows are from hour to hour, and `:hours` are the starts of theirs. Whole hours come from the rollups, but not before
the retention floor: days of history are dropped there, while rollups stay.
"""

from sqlalchemy import text

from shared.db.device_kind import METER, VEHICLE

# The fleet hour by hour: a row for each hour whose version is not the one that is known, with what every device
# reported in it, packed column by column as big-endian numbers; a timestamp is microseconds since 2000. Energy flows
# back at few devices: what did has keys of its own. Of an hour that is not known the version is null.
_HOURS = """
WITH known AS (
    SELECT hour_start, version
    FROM unnest(CAST(:hours AS timestamptz[]), CAST(:versions AS text[])) AS known (hour_start, version)
),
stored AS (
    SELECT hour_start, known.version AS known_version,
           coalesce(string_agg(CAST(mark AS text), ' ' ORDER BY writer), '') AS version
    FROM known LEFT JOIN {device}_hour_changes USING (hour_start)
    GROUP BY hour_start, known_version
)
SELECT stored.hour_start, version, device_keys, kwh, readings, last_ts, returned_keys, kwh_returned
       {averaged:, #_sums, #_readings}
FROM stored CROSS JOIN LATERAL (
    SELECT coalesce(string_agg(int4send({device}_key), ''), '') AS device_keys,
           coalesce(string_agg(float8send({energy}), ''), '') AS kwh,
           coalesce(string_agg(int4send(hourly.readings), ''), '') AS readings,
           coalesce(string_agg(timestamptz_send(hourly.last_ts), ''), '') AS last_ts,
           coalesce(string_agg(int4send({device}_key), '') FILTER (WHERE {returned} > 0), '') AS returned_keys,
           coalesce(string_agg(float8send({returned}), '') FILTER (WHERE {returned} > 0), '') AS kwh_returned
           {averaged:,
           coalesce(string_agg(float8send(#_sum), ''), '') AS #_sums,
           coalesce(string_agg(int4send(hourly.#_readings), ''), '') AS #_readings}
    FROM {device}_energy_hourly AS hourly
    WHERE hourly.hour_start = stored.hour_start
    OFFSET 0
) AS packed
WHERE version IS DISTINCT FROM known_version
"""
VEHICLE_HOURS = text(VEHICLE.render(_HOURS))
METER_HOURS = text(METER.render(_HOURS))

# One row. Vehicles are never renamed or deleted, so that their number is their version: all are told, by key, where it
# is not the one that is known. `through_` are the pairs, packed as above, that are mapped all through the window, and
# `moved` the vehicles that have a mapping within it in another way.
FLEET_MAPPED = text("""
WITH within AS (
    SELECT vehicle_key, meter_key,
           effective_from <= :window_start AND (effective_until IS NULL OR effective_until >= :window_end) AS through
    FROM vehicle_meter_map
    WHERE effective_from < :window_end
      AND (effective_until IS NULL OR effective_until > :window_start)
),
counted AS (
    SELECT count(*) AS vehicles FROM vehicles
)
SELECT (SELECT CAST(floor_day AS timestamp) AT TIME ZONE 'UTC' FROM retention) <= :window_start AS kept,
       vehicles,
       ARRAY(SELECT vehicle_key FROM vehicles WHERE counted.vehicles <> :known_vehicles ORDER BY vehicle_key)
           AS vehicle_keys,
       ARRAY(SELECT vehicle_id FROM vehicles WHERE counted.vehicles <> :known_vehicles ORDER BY vehicle_key)
           AS vehicle_ids,
       (SELECT coalesce(string_agg(int4send(vehicle_key), ''), '') FROM within WHERE through) AS through_vehicle_keys,
       (SELECT coalesce(string_agg(int4send(meter_key), ''), '') FROM within WHERE through) AS through_meter_keys,
       ARRAY(
           SELECT DISTINCT vehicle_id FROM within JOIN vehicles USING (vehicle_key) WHERE NOT through
       ) AS moved
FROM counted
""")

# Vehicle by vehicle, in two statements at the same time, one for each side: two connections, two cores. :no_hour has a
# 0 for each hour: the hours in which a device reported come back as bits, so that the two sides never have to meet hour
# by hour. The rollups of :every vehicle are read hour by hour, those of some device by device; the planner knows
# :every, and leaves out the other way.

# A row for each vehicle that was asked about and is known.
FLEET_DELIVERED = text("""
WITH kept AS (
    SELECT least(greatest(:window_start, CAST(floor_day AS timestamp) AT TIME ZONE 'UTC'), :window_end) AS since
    FROM retention
),
asked AS (
    SELECT vehicle_key, vehicle_id
    FROM vehicles
    WHERE CAST(:every AS boolean) OR vehicle_id = ANY (CAST(:vehicle_ids AS text[]))
),
of_rollups AS (
    SELECT vehicle_key, sum(kwh_delivered_dc) AS kwh, sum(kwh_returned_dc) AS kwh_returned, sum(readings) AS readings,
           sum(battery_temp_sum) AS battery_temp_sum, sum(battery_temp_readings) AS battery_temp_readings,
           bit_or(set_bit(
               CAST(:no_hour AS bit varying), width_bucket(hour_start, CAST(:hours AS timestamptz[])) - 1, 1
           )) AS hours
    FROM vehicle_energy_hourly
    WHERE CAST(:every AS boolean)
      AND hour_start >= :window_start AND hour_start < :window_end
      AND hour_start >= (SELECT since FROM kept)
    GROUP BY vehicle_key
    UNION ALL
    SELECT vehicle_key, sum(hourly.kwh_delivered_dc), sum(hourly.kwh_returned_dc), sum(hourly.readings),
           sum(hourly.battery_temp_sum), sum(hourly.battery_temp_readings),
           bit_or(set_bit(
               CAST(:no_hour AS bit varying), width_bucket(hourly.hour_start, CAST(:hours AS timestamptz[])) - 1, 1
           ))
    FROM asked CROSS JOIN LATERAL (
        SELECT hour_start, kwh_delivered_dc, kwh_returned_dc, readings, battery_temp_sum, battery_temp_readings
        FROM vehicle_energy_hourly
        WHERE vehicle_key = asked.vehicle_key
          AND hour_start >= :window_start AND hour_start < :window_end
          AND hour_start >= (SELECT since FROM kept)
        OFFSET 0
    ) AS hourly
    WHERE NOT CAST(:every AS boolean)
    GROUP BY vehicle_key
),
of_history AS (
    SELECT vehicle_key, sum(kwh_delivered_dc) AS kwh, sum(greatest(0, -kwh_delivered_dc)) AS kwh_returned,
           count(*) AS readings,
           sum(battery_temp) AS battery_temp_sum, count(battery_temp) AS battery_temp_readings,
           bit_or(set_bit(
               CAST(:no_hour AS bit varying),
               width_bucket(history.ts - interval '1 microsecond', CAST(:hours AS timestamptz[])) - 1, 1
           )) AS hours
    FROM asked CROSS JOIN LATERAL (
        SELECT ts, kwh_delivered_dc, battery_temp
        FROM vehicle_telemetry_history
        WHERE vehicle_key = asked.vehicle_key
          AND ts > :window_start AND ts <= :window_end
          AND ts <= (SELECT since FROM kept)
        OFFSET 0
    ) AS history
    WHERE (SELECT since FROM kept) > :window_start
    GROUP BY vehicle_key
),
delivered AS (
    SELECT vehicle_key, sum(kwh) AS kwh, sum(kwh_returned) AS kwh_returned, CAST(sum(readings) AS bigint) AS readings,
           sum(battery_temp_sum) / CAST(nullif(sum(battery_temp_readings), 0) AS double precision)
               AS average_battery_temp,
           bit_or(hours) AS hours
    FROM (
        SELECT vehicle_key, kwh, kwh_returned, readings, battery_temp_sum, battery_temp_readings, hours FROM of_rollups
        UNION ALL
        SELECT vehicle_key, kwh, kwh_returned, readings, battery_temp_sum, battery_temp_readings, hours FROM of_history
    ) AS both_ways
    GROUP BY vehicle_key
)
SELECT vehicle_key, vehicle_id, kwh, kwh_returned, average_battery_temp, coalesce(readings, 0) AS readings,
       coalesce(hours, CAST(:no_hour AS bit varying)) AS hours
FROM asked LEFT JOIN delivered USING (vehicle_key)
""")

# A row for each of those vehicles that has a mapping within the window. Most mappings are valid all through it, and the
# rollups of their meters are summed in one go. Of the others there is the part of whole hours, meter by meter, and from
# history the pieces of the hours that a mapping's ends cut. A column tells the two kinds apart: of a comparison the
# planner would expect a single row, and join it in a loop.
FLEET_CONSUMED = text("""
WITH kept AS (
    SELECT least(greatest(:window_start, CAST(floor_day AS timestamp) AT TIME ZONE 'UTC'), :window_end) AS since
    FROM retention
),
clipped AS (
    SELECT vehicle_key, meter_key, greatest(effective_from, :window_start) AS since,
           least(effective_until, :window_end) AS until
    FROM vehicle_meter_map
    WHERE effective_from < :window_end
      AND (effective_until IS NULL OR effective_until > :window_start)
      AND (CAST(:every AS boolean) OR vehicle_key = ANY (ARRAY(
          SELECT vehicle_key FROM vehicles WHERE vehicle_id = ANY (CAST(:vehicle_ids AS text[]))
      )))
),
with_hours AS (
    SELECT vehicle_key, meter_key, since, until,
           greatest(
               date_bin('1 hour', since - interval '1 microsecond', timestamptz 'epoch') + interval '1 hour',
               (SELECT since FROM kept)
           ) AS whole_from,
           date_bin('1 hour', until, timestamptz 'epoch') AS whole_until
    FROM clipped
),
mapped AS (
    SELECT vehicle_key, meter_key, since, until, whole_from, whole_until,
           CAST(:every AS boolean) AND whole_from = :window_start AND whole_until = :window_end AS all_through
    FROM with_hours
),
pieces AS (
    SELECT vehicle_key, meter_key, since, least(whole_from, until) AS until
    FROM mapped
    WHERE since < whole_from
    UNION ALL
    SELECT vehicle_key, meter_key, greatest(whole_from, whole_until), until
    FROM mapped
    WHERE greatest(whole_from, whole_until) < until
),
meters_all_through AS (
    SELECT meter_key, sum(kwh_consumed_ac) AS kwh, sum(kwh_returned_ac) AS kwh_returned, sum(readings) AS readings,
           bit_or(set_bit(
               CAST(:no_hour AS bit varying), width_bucket(hour_start, CAST(:hours AS timestamptz[])) - 1, 1
           )) AS hours
    FROM meter_energy_hourly
    WHERE CAST(:every AS boolean) AND hour_start >= :window_start AND hour_start < :window_end
    GROUP BY meter_key
),
consumed AS (
    SELECT vehicle_key, kwh, kwh_returned, readings, hours
    FROM mapped JOIN meters_all_through USING (meter_key)
    WHERE all_through
    UNION ALL
    SELECT vehicle_key, sum(hourly.kwh_consumed_ac), sum(hourly.kwh_returned_ac), sum(hourly.readings),
           bit_or(set_bit(
               CAST(:no_hour AS bit varying), width_bucket(hourly.hour_start, CAST(:hours AS timestamptz[])) - 1, 1
           ))
    FROM mapped CROSS JOIN LATERAL (
        SELECT hour_start, kwh_consumed_ac, kwh_returned_ac, readings
        FROM meter_energy_hourly
        WHERE meter_key = mapped.meter_key AND hour_start >= mapped.whole_from AND hour_start < mapped.whole_until
        OFFSET 0
    ) AS hourly
    WHERE NOT mapped.all_through
    GROUP BY vehicle_key
    UNION ALL
    SELECT vehicle_key, sum(history.kwh_consumed_ac), sum(greatest(0, -history.kwh_consumed_ac)), count(*),
           bit_or(set_bit(
               CAST(:no_hour AS bit varying),
               width_bucket(history.ts - interval '1 microsecond', CAST(:hours AS timestamptz[])) - 1, 1
           ))
    FROM pieces CROSS JOIN LATERAL (
        SELECT ts, kwh_consumed_ac
        FROM meter_telemetry_history
        WHERE meter_key = pieces.meter_key
          AND ts > :window_start AND ts <= :window_end
          AND ts > pieces.since AND ts <= pieces.until
        OFFSET 0
    ) AS history
    GROUP BY vehicle_key
)
SELECT vehicle_key, mappings, kwh, kwh_returned, coalesce(readings, 0) AS readings,
       coalesce(hours, CAST(:no_hour AS bit varying)) AS hours
FROM (SELECT vehicle_key, count(*) AS mappings FROM mapped GROUP BY vehicle_key) AS mappings
     LEFT JOIN (
         SELECT vehicle_key, sum(kwh) AS kwh, sum(kwh_returned) AS kwh_returned,
                CAST(sum(readings) AS bigint) AS readings, bit_or(hours) AS hours
         FROM consumed
         GROUP BY vehicle_key
     ) AS summed USING (vehicle_key)
""")
