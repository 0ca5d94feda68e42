"""What analytics says to the database about charging sessions; `session_queries` asks.

Readings are judged where they lie, and what travels are stretches of charging: of a month of readings each second some
hundred rows. Only the hours in which something was charged are looked at, and those beside them.
"""

from functools import partial

from sqlalchemy import text

from analytics_svc.queries_sql import similar_ids
from analytics_svc.readings_sql import Readings, of_readings
from analytics_svc.spans_sql import KEPT, cut_into_hours, packed_hours, span_ctes
from shared.db.device_kind import KINDS, METER, VEHICLE, DeviceKind

# The hours within a time in which a device took more than so much, of those of which all readings are kept. As in
# `spans_sql`, the key finds them.
_BUSY_HOURS = """ARRAY(
        SELECT hour_start FROM {device}_energy_hourly
        WHERE {device}_key = devices.{device}_key AND {energy} + {returned} > :least_{device}_kwh
          AND ({device}_key, hour_start)
              >= (devices.{device}_key, CAST(:looked_from AS timestamptz) - interval '2 hours')
          AND ({device}_key, hour_start) < (devices.{device}_key, :window_end)
          AND hour_start >= CAST(:kept_since AS timestamptz)
        ORDER BY hour_start
    ) AS hours"""

# No row for an unknown vehicle. Otherwise one for itself, whose meter_key is null, and one for each mapping.
VEHICLE_PARTS = text(f"""
WITH devices AS (
    SELECT vehicle_key FROM vehicles WHERE vehicle_id = :vehicle_id
)
SELECT vehicle_key, CAST(NULL AS integer) AS meter_key, CAST(NULL AS text) AS meter_id,
       CAST(:looked_from AS timestamptz) AS since, CAST(:window_end AS timestamptz) AS until,
       {VEHICLE.render(_BUSY_HOURS)},
       {VEHICLE.render(similar_ids("CAST(:vehicle_id AS text)"))}
FROM devices
UNION ALL
SELECT vehicle_key, meter_key, meter_id, greatest(effective_from, :looked_from), least(effective_until, :window_end),
       {METER.render(_BUSY_HOURS).replace("devices.", "vehicle_meter_map.")}, ARRAY[]::text[]
FROM devices JOIN vehicle_meter_map USING (vehicle_key) JOIN meters USING (meter_key)
WHERE effective_from < :window_end AND (effective_until IS NULL OR effective_until > :looked_from)
""")  # noqa: S608 (all are constants)

# No row for an unknown meter. Otherwise one for itself, whose vehicle_id is null, and one for each mapping by time.
METER_PARTS = text(f"""
WITH devices AS (
    SELECT meter_key FROM meters WHERE meter_id = :meter_id
)
SELECT meter_key, CAST(NULL AS text) AS vehicle_id,
       CAST(:looked_from AS timestamptz) AS since, CAST(:window_end AS timestamptz) AS until,
       {METER.render(_BUSY_HOURS)}
FROM devices
UNION ALL
SELECT meter_key, vehicle_id, greatest(effective_from, :looked_from), least(effective_until, :window_end),
       CAST(NULL AS timestamptz[])
FROM devices JOIN vehicle_meter_map USING (meter_key) JOIN vehicles USING (vehicle_key)
WHERE effective_from < :window_end AND (effective_until IS NULL OR effective_until > :looked_from)
ORDER BY since
""")  # noqa: S608 (all are constants)

# Stretches of charging that a device tells of in each of some spans of time, and readings after silence, whose `kwh` is
# not null: one by one, with the readings beside them. What is to be known of the readings before a span is looked up.
#
# A reading stands for the time since the one before it. It is sure that it does if that is no longer than a pause may
# be, or no more than half as long again as the intervals beside it. It is one of charging if its mean power is more
# than standby's; a vehicle's, if it took more than standby's in :counted_h hours, too.
_CHARGES = """
WITH spans AS (
    SELECT span, device_key, since, until
    FROM unnest(CAST(:device_keys AS integer[]), CAST(:sinces AS timestamptz[]), CAST(:untils AS timestamptz[]))
        WITH ORDINALITY AS spans (device_key, since, until, span)
),
sent AS (
    SELECT span, ts, kwh, before_ts, before_kwh, earlier_ts, next_ts, next_kwh, ts - before_ts AS stands_for,
           least(before_ts - earlier_ts, next_ts - ts) AS beside
    FROM spans CROSS JOIN LATERAL (
        SELECT ts, {energy} AS kwh,
               lag(ts) OVER by_time AS before_ts, lag({energy}) OVER by_time AS before_kwh,
               lag(ts, 2) OVER by_time AS earlier_ts,
               lead(ts) OVER by_time AS next_ts, lead({energy}) OVER by_time AS next_kwh
        FROM {readings}
        WHERE {device}_key = spans.device_key AND ts <= spans.until AND {of_the_days}{until_end}{since_latest}
          AND ts >= coalesce((
              SELECT min(ts) FROM (
                  SELECT ts FROM {readings}
                  WHERE {device}_key = spans.device_key AND {of_the_days}{until_begin}{since_latest}
                    AND ts <= spans.since AND ts > spans.since - CAST(:outage AS interval)
                  ORDER BY ts DESC
                  LIMIT 2
              ) AS latest
          ), spans.since)
        WINDOW by_time AS (ORDER BY ts)
    ) AS neighbours
    WHERE ts > since
),
told AS MATERIALIZED (
    SELECT span, ts, kwh, before_ts, before_kwh, earlier_ts, next_ts, next_kwh, stands_for,
           date_part('epoch', stands_for) / 3600 AS hours,
           coalesce(stands_for <= :pause
               OR (stands_for <= :silence AND (beside IS NULL OR stands_for * 2 <= beside * 3)), false) AS sure
    FROM sent
    WHERE kwh > 0
),
charging AS (
    SELECT span, ts, before_ts, stands_for, kwh / greatest(hours, 1.0 / 3600) AS power_kw,
           CASE WHEN before_ts - lag(ts) OVER by_time <= :pause THEN 0 ELSE 1 END AS begins
    FROM told
    WHERE sure AND kwh > :standby_kw * least(hours, :counted_h)
    WINDOW by_time AS (PARTITION BY span ORDER BY ts)
),
numbered AS (
    SELECT span, ts, before_ts, stands_for, power_kw, sum(begins) OVER (PARTITION BY span ORDER BY ts) AS stretch
    FROM charging
)
SELECT span, min(before_ts) AS begin_ts, max(ts) AS end_ts, max(stands_for) AS longest,
       max(power_kw) FILTER (WHERE ts > :window_start) AS highest_kw,
       CAST(NULL AS double precision) AS kwh, CAST(NULL AS timestamptz) AS earlier_ts,
       CAST(NULL AS double precision) AS before_kwh, CAST(NULL AS timestamptz) AS next_ts,
       CAST(NULL AS double precision) AS next_kwh
FROM numbered
GROUP BY span, stretch
UNION ALL
SELECT span, before_ts, ts, NULL, NULL, kwh, earlier_ts, before_kwh, next_ts, next_kwh
FROM told
WHERE NOT sure
"""


def _charges(kind: DeviceKind, readings: Readings) -> str:
    outage = "(spans.since - CAST(:outage AS interval))"
    holes = {
        "{readings}": readings.of(kind),
        "{of_the_days}": readings.of_the_days,
        "{until_begin}": readings.days(readings.between, kind, since=outage, until="spans.since"),
        "{until_end}": readings.days(readings.between, kind, since=outage, until="spans.until"),
        "{since_latest}": readings.days(readings.since_latest, kind, key="spans.device_key", since="spans.since"),
    }
    statement = _CHARGES
    for hole, sql in holes.items():
        statement = statement.replace(hole, sql)
    return kind.render(statement)


CHARGES = {kind: of_readings(partial(_charges, kind)) for kind in KINDS}

_CUTS = """
        UNION SELECT vehicle_key, cuts.at FROM asked CROSS JOIN unnest(CAST(:cuts AS timestamptz[])) AS cuts (at)"""


def _session_spans(readings: Readings) -> str:
    return f"""
WITH {KEPT},
asked AS (
    SELECT vehicle_key FROM vehicles WHERE vehicle_id = :vehicle_id
),
{span_ctes(readings, more_edges=_CUTS).strip()}
SELECT reported.*, (SELECT meter_id FROM meters WHERE meter_key = reported.meter_key) AS meter_id
FROM reported
"""  # noqa: S608 (all are constants)


# The hours of a vehicle, span by span; spans end at the cuts, which lie within the window.
SESSION_SPANS = of_readings(_session_spans)

BESIDE_MAX = 100
"""Readings of a session at each end of which one may have a state of charge: devices that leave it out do so often."""


def _session_details(readings: Readings) -> str:
    own = {"since": "sessions.since", "until": "sessions.until"}
    its = {
        "since": "greatest(mapped.effective_from, sessions.since)",
        "until": "least(mapped.effective_until, sessions.until)",
    }
    return f"""
WITH asked AS (
    SELECT vehicle_key FROM vehicles WHERE vehicle_id = :vehicle_id
),
sessions AS (
    SELECT session, since, until
    FROM unnest(CAST(:sinces AS timestamptz[]), CAST(:untils AS timestamptz[]))
        WITH ORDINALITY AS sessions (since, until, session)
)
SELECT (
           SELECT soc FROM (
               SELECT ts, soc FROM {readings.of(VEHICLE)}
               WHERE vehicle_key = asked.vehicle_key AND ts > sessions.since AND ts <= sessions.until
                 AND {readings.of_the_days} {readings.days(readings.between, VEHICLE, **own)}
               ORDER BY ts LIMIT {BESIDE_MAX}
           ) AS readings
           WHERE soc IS NOT NULL ORDER BY ts LIMIT 1
       ) AS soc_at_start,
       (
           SELECT soc FROM (
               SELECT ts, soc FROM {readings.of(VEHICLE)}
               WHERE vehicle_key = asked.vehicle_key AND ts > sessions.since AND ts <= sessions.until
                 AND {readings.of_the_days} {readings.days(readings.between, VEHICLE, **own)}
               ORDER BY ts DESC LIMIT {BESIDE_MAX}
           ) AS readings
           WHERE soc IS NOT NULL ORDER BY ts DESC LIMIT 1
       ) AS soc_at_end,
       (
           SELECT jsonb_object_agg(counting, readings) FROM (
               SELECT counting, count(*) AS readings FROM {readings.of(VEHICLE)}
               WHERE vehicle_key = asked.vehicle_key AND ts > sessions.since AND ts <= sessions.until
                 AND {readings.of_the_days} AND counting IS NOT NULL
                 {readings.days(readings.between, VEHICLE, **own)}
                 {readings.days(readings.marked, VEHICLE, key="asked.vehicle_key")}
               GROUP BY counting
           ) AS counted
       ) AS vehicle_quality,
       (
           SELECT jsonb_object_agg(counting, readings) FROM (
               SELECT counting, count(*) AS readings
               FROM vehicle_meter_map AS mapped CROSS JOIN LATERAL (
                   SELECT counting FROM {readings.of(METER)}
                   WHERE meter_key = mapped.meter_key AND {readings.of_the_days} AND counting IS NOT NULL
                     AND ts > greatest(mapped.effective_from, sessions.since)
                     AND ts <= least(mapped.effective_until, sessions.until)
                     {readings.days(readings.between, METER, **its)}
                     {readings.days(readings.marked, METER, key="mapped.meter_key")}
                   OFFSET 0
               ) AS history
               WHERE mapped.vehicle_key = asked.vehicle_key AND effective_from < sessions.until
                 AND (effective_until IS NULL OR effective_until > sessions.since)
               GROUP BY counting
           ) AS counted
       ) AS meter_quality
FROM asked CROSS JOIN sessions
ORDER BY session
"""  # noqa: S608 (all are constants)


# A row for each session in their order: what of it only its readings know.
SESSION_DETAILS = of_readings(_session_details)


def _meter_pieces(readings: Readings) -> str:
    return f"""
WITH {KEPT},
pieces AS (
    SELECT CAST(:meter_key AS integer) AS meter_key, since,
           lead(since, 1, CAST(:window_end AS timestamptz)) OVER (ORDER BY since) AS until
    FROM unnest(CAST(:starts AS timestamptz[])) AS starts (since)
),
cut AS MATERIALIZED ({cut_into_hours("meter", "pieces")})
SELECT since, hours FROM cut CROSS JOIN LATERAL ({packed_hours(METER, readings)} OFFSET 0) AS packed
"""  # noqa: S608 (all are constants)


# A row for each piece of a window, with the hours of a meter in it. The pieces follow each other without a gap:
# `(:starts[n], :starts[n + 1]]`, and the last one ends at :window_end.
METER_PIECES = of_readings(_meter_pieces)
