"""What analytics says to the database about a fleet; `fleet_queries` asks.

Windows are from hour to hour.
"""

from sqlalchemy import text

from analytics_svc.readings_sql import Readings, of_readings
from analytics_svc.spans_sql import KEPT, span_ctes
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
    SELECT count(*) || ':' || coalesce(max(vehicle_key), 0) AS vehicles FROM vehicles
)
SELECT vehicles,
       ARRAY(SELECT vehicle_key FROM vehicles WHERE counted.vehicles <> :known_vehicles ORDER BY vehicle_key)
           AS vehicle_keys,
       ARRAY(SELECT vehicle_id FROM vehicles WHERE counted.vehicles <> :known_vehicles ORDER BY vehicle_key)
           AS vehicle_ids,
       (SELECT coalesce(string_agg(int4send(vehicle_key), ''), '') FROM within WHERE through) AS through_vehicle_keys,
       (SELECT coalesce(string_agg(int4send(meter_key), ''), '') FROM within WHERE through) AS through_meter_keys,
       ARRAY(SELECT DISTINCT vehicle_key FROM within WHERE NOT through) AS moved
FROM counted
""")


def _fleet_spans(readings: Readings) -> str:
    return f"""
WITH {KEPT},
asked AS (
    SELECT vehicle_key FROM vehicles WHERE vehicle_key = ANY (CAST(:vehicle_keys AS integer[]))
),
{span_ctes(readings).strip()}
SELECT * FROM reported
"""  # noqa: S608 (all are constants)


# The hours of some vehicles, span by span.
FLEET_SPANS = of_readings(_fleet_spans)

# The keys of those of some vehicles that are known.
VEHICLE_KEYS = text("""
SELECT vehicle_key, vehicle_id FROM vehicles WHERE vehicle_id = ANY (CAST(:vehicle_ids AS text[])) ORDER BY vehicle_key
""")


def step_of_mapping(readings: Readings) -> str:
    """How finely the register of a meter tells energy within a mapping: whole kWh or tenths; null where it is finer,
    and no row where it has none. The last readings are enough."""
    times = {
        "since": "greatest(effective_from, :window_start)",
        "until": "least(effective_until, CAST(:window_end AS timestamptz))",
    }
    return f"""
    SELECT CASE
               WHEN bool_and(register_kwh = round(register_kwh)) THEN 1.0
               WHEN bool_and(abs(register_kwh * 10 - round(register_kwh * 10)) < 1e-6) THEN 0.1
           END AS step_kwh
    FROM (
        SELECT register_kwh FROM {readings.of(METER)}
        WHERE meter_key = mapping.meter_key
          AND ts > greatest(effective_from, :window_start) AND ts <= least(effective_until, :window_end)
          AND ts > :window_start AND ts <= :window_end AND {readings.of_the_days}
          {readings.days(readings.newest, METER, key="mapping.meter_key", **times)}
        ORDER BY ts DESC
        LIMIT 100
    ) AS latest
    WHERE register_kwh IS NOT NULL
    HAVING count(*) > 1
"""  # noqa: S608 (all are constants)


def _register_steps(readings: Readings) -> str:
    return f"""
SELECT vehicle_id, sum(step_kwh) AS step_kwh
FROM vehicles JOIN vehicle_meter_map AS mapping USING (vehicle_key)
     CROSS JOIN LATERAL ({step_of_mapping(readings)}) AS steps
WHERE vehicle_id = ANY (CAST(:vehicle_ids AS text[]))
  AND effective_from < :window_end
  AND (effective_until IS NULL OR effective_until > :window_start)
  AND step_kwh IS NOT NULL
GROUP BY vehicle_id
"""  # noqa: S608 (all are constants)


# How finely the registers of the meters that fed some vehicles tell energy, the steps of all mappings together; no row
# where they do so more finely than in tenths.
REGISTER_STEPS = of_readings(_register_steps)

# The meters that fed each of some vehicles within the window.
METERS_OF = text("""
SELECT vehicle_id, array_agg(DISTINCT meter_id ORDER BY meter_id) AS meter_ids
FROM vehicles JOIN vehicle_meter_map USING (vehicle_key) JOIN meters USING (meter_key)
WHERE vehicle_id = ANY (CAST(:vehicle_ids AS text[]))
  AND effective_from < :window_end
  AND (effective_until IS NULL OR effective_until > :window_start)
GROUP BY vehicle_id
""")
