"""What analytics says to the database about the vehicles that each meter fed; `meter_queries` asks.

Windows are from hour to hour.
"""

from sqlalchemy import text

from analytics_svc.fleet_sql import step_of_mapping
from analytics_svc.readings_sql import Readings, of_readings
from analytics_svc.spans_sql import KEPT, cut_into_hours, mapped_within, packed_hours, span_ctes
from shared.db.device_kind import METER

# One row. Devices are never renamed or deleted, so that their number is their version: all of a kind are told, by key,
# where it is not the one that is known. `fed_` are the pairs, packed as in `fleet_sql`, of the vehicles that all their
# mappings in the window feed all through it; `moved_meter_keys` are the meters of all other vehicles that are fed. The
# meters of the one kind have nothing to do with those of the other.
METERS_MAPPED = text("""
WITH within AS (
    SELECT vehicle_key, meter_key,
           effective_from <= :window_start AND (effective_until IS NULL OR effective_until >= :window_end) AS through
    FROM vehicle_meter_map
    WHERE effective_from < :window_end
      AND (effective_until IS NULL OR effective_until > :window_start)
),
moved AS (
    SELECT DISTINCT vehicle_key FROM within WHERE NOT through
),
fed AS (
    SELECT coalesce(string_agg(int4send(vehicle_key), ''), '') AS vehicle_keys,
           coalesce(string_agg(int4send(meter_key), ''), '') AS meter_keys
    FROM within WHERE vehicle_key NOT IN (SELECT vehicle_key FROM moved)
),
counted AS (
    SELECT (SELECT count(*) || ':' || coalesce(max(vehicle_key), 0) FROM vehicles) AS vehicles,
           (SELECT count(*) || ':' || coalesce(max(meter_key), 0) FROM meters) AS meters
)
SELECT vehicles,
       ARRAY(SELECT vehicle_key FROM vehicles WHERE counted.vehicles <> :known_vehicles ORDER BY vehicle_key)
           AS vehicle_keys,
       ARRAY(SELECT vehicle_id FROM vehicles WHERE counted.vehicles <> :known_vehicles ORDER BY vehicle_key)
           AS vehicle_ids,
       meters,
       ARRAY(SELECT meter_key FROM meters WHERE counted.meters <> :known_meters ORDER BY meter_key) AS meter_keys,
       ARRAY(SELECT meter_id FROM meters WHERE counted.meters <> :known_meters ORDER BY meter_key) AS meter_ids,
       fed.vehicle_keys AS fed_vehicle_keys,
       fed.meter_keys AS fed_meter_keys,
       ARRAY(SELECT DISTINCT meter_key FROM within WHERE vehicle_key IN (SELECT vehicle_key FROM moved))
           AS moved_meter_keys
FROM counted CROSS JOIN fed
""")

# The keys of those of some meters that are known.
METER_KEYS = text("""
SELECT meter_key, meter_id FROM meters WHERE meter_id = ANY (CAST(:meter_ids AS text[])) ORDER BY meter_key
""")

_FED_BY_THEM = """
    AND EXISTS (
        SELECT FROM fed_by
        WHERE fed_by.vehicle_key = spans.vehicle_key AND fed_by.since <= spans.since AND fed_by.until >= spans.until
    )
"""


def _meter_spans(readings: Readings) -> str:
    return f"""
WITH {KEPT},
asked_meters AS (
    SELECT meter_key FROM meters WHERE meter_key = ANY (CAST(:meter_keys AS integer[]))
),
fed_by AS ({mapped_within("asked_meters JOIN vehicle_meter_map USING (meter_key)")}),
asked AS (
    SELECT DISTINCT vehicle_key FROM fed_by
),
{span_ctes(readings, _FED_BY_THEM).strip()},
gaps AS (
    SELECT meter_key, since AS until,
           lag(until, 1, CAST(:window_start AS timestamptz)) OVER (PARTITION BY meter_key ORDER BY since, until)
               AS since
    FROM (
        SELECT meter_key, since, until FROM fed_by
        UNION ALL SELECT meter_key, :window_end, :window_end FROM asked_meters
    ) AS mapped_and_end
),
unfed AS MATERIALIZED ({cut_into_hours("meter", "gaps")})
SELECT reported.*,
       (SELECT vehicle_id FROM vehicles WHERE vehicle_key = reported.vehicle_key) AS vehicle_id,
       (SELECT meter_id FROM meters WHERE meter_key = reported.meter_key) AS meter_id
FROM reported
UNION ALL
SELECT CAST(NULL AS integer), since, until, meter_key, CAST(NULL AS timestamptz), CAST(NULL AS timestamptz),
       hours, CAST(NULL AS text), CAST(NULL AS text)
FROM unfed AS cut CROSS JOIN LATERAL ({packed_hours(METER, readings)} OFFSET 0) AS packed
"""  # noqa: S608 (all are constants)


# The spans in which some meters fed vehicles, as `reported` has them, with ids; beside them, without a vehicle, the
# hours of each of the meters while it fed none.
METER_SPANS = of_readings(_meter_spans)


def _meter_steps(readings: Readings) -> str:
    return f"""
WITH fed AS (
    SELECT meter_id, vehicle_key, effective_from, effective_until
    FROM meters JOIN vehicle_meter_map USING (meter_key)
    WHERE meter_id = ANY (CAST(:meter_ids AS text[]))
      AND effective_from < :window_end
      AND (effective_until IS NULL OR effective_until > :window_start)
),
mapping AS (
    SELECT DISTINCT fed.meter_id, beside.*
    FROM fed JOIN vehicle_meter_map AS beside ON beside.vehicle_key = fed.vehicle_key
        AND beside.effective_from < coalesce(fed.effective_until, 'infinity')
        AND coalesce(beside.effective_until, 'infinity') > fed.effective_from
    WHERE beside.effective_from < :window_end
      AND (beside.effective_until IS NULL OR beside.effective_until > :window_start)
)
SELECT meter_id, sum(step_kwh) AS step_kwh
FROM mapping CROSS JOIN LATERAL ({step_of_mapping(readings)}) AS steps
WHERE step_kwh IS NOT NULL
GROUP BY meter_id
"""  # noqa: S608 (all are constants)


# How finely the registers of some meters, and of those that fed a vehicle at the same time, tell energy: the steps of
# all their mappings together; no row where they do so more finely than in tenths.
METER_STEPS = of_readings(_meter_steps)
