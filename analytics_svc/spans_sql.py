"""What vehicles and their meters reported hour by hour, span by span, as part of statements.

A span is a part of the window in which the same meters fed a vehicle, perhaps none. Whole hours come from the rollups,
but not before the retention floor: days of history are dropped there, while rollups stay. The hours that a span cuts,
and the hour before it, come from history where they are not whole. The hour of a reading is `(h, h + 1 h]`, hence the
microsecond.
"""

from shared.db.device_kind import METER, VEHICLE, DeviceKind

OF_THE_DAYS = """
    ts >= CAST(CAST(:first_day AS date) AS timestamp) AT TIME ZONE 'UTC'
    AND ts < CAST(CAST(:last_day AS date) + 1 AS timestamp) AT TIME ZONE 'UTC'
"""
"""Of the days of a window and the hour before it."""

# Per device and span one row, its hours one after another, each as numbers of 8 bytes, big-endian. Number 0 is the
# hour before the span, 1 the hour in which the window starts. Empty pieces are looked for nowhere. Hours are compared
# as rows, which the primary key can find: the planner would take the index of hours, and read them of all devices.
_HOURS = """
    SELECT coalesce(string_agg(
               int8send(number) || timestamptz_send(last_ts) || int8send(readings) || {temperatures},
               ''), '') AS hours
    FROM (
        SELECT CASE WHEN hour_start >= {span}.since THEN (
                   CAST(extract(epoch FROM hour_start - {span}.window_hour) AS integer) / 3600 + 1
               ) ELSE 0 END AS number,
               {energy} AS kwh, {returned} AS kwh_returned, readings, last_ts {averaged:, #_sum, #_readings}
        FROM {device}_energy_hourly
        WHERE {device}_key = {span}.{device}_key
          AND ({device}_key, hour_start) >= ({span}.{device}_key, {span}.rollups_from)
          AND ({device}_key, hour_start) < ({span}.{device}_key, {span}.whole_until)
        UNION ALL
        SELECT CASE WHEN pieces.until > {span}.since THEN (
                   CAST(extract(epoch FROM date_bin('1 hour', ts - interval '1 microsecond', timestamptz 'epoch')
                       - {span}.window_hour) AS integer) / 3600 + 1
               ) ELSE 0 END,
               sum({energy}), sum(greatest(0, -{energy})), count(*), max(ts)
               {averaged:, coalesce(sum(#), 0), count(#)}
        FROM (
            SELECT since, until FROM (
                VALUES ({span}.before_since, {span}.since),
                    ({span}.since, least({span}.whole_from, {span}.until)),
                    ({span}.whole_until, {span}.until)
            ) AS pieces (since, until)
            WHERE since < until
        ) AS pieces CROSS JOIN LATERAL (
            SELECT ts, {energy} {averaged:, #}
            FROM {device}_telemetry_history
            WHERE {device}_key = {span}.{device}_key AND ts > pieces.since AND ts <= pieces.until AND {of_the_days}
            OFFSET 0
        ) AS history
        GROUP BY 1
    ) AS hours
"""


_NO_TEMPERATURES = "int8send(0) || float8send(kwh) || float8send(kwh_returned) || float8send(0)"
_TEMPERATURES = (
    "int8send(battery_temp_readings) || float8send(kwh) || float8send(kwh_returned) || float8send(battery_temp_sum)"
)


def packed_hours(kind: DeviceKind) -> str:
    """A query of the hours of a device in a span, the row `cut` beside it."""
    statement = _HOURS.replace("{temperatures}", _TEMPERATURES if kind is VEHICLE else _NO_TEMPERATURES)
    return kind.render(statement.replace("{span}", "cut").replace("{of_the_days}", OF_THE_DAYS))


def cut_into_hours(device: str, spans: str, wanted: str = "") -> str:
    """A query of spans of devices, which have since and until, or of those that are wanted: between which full hours
    they lie, after the floor, and from where on their hour before is to be had. It needs the CTE `kept` of
    `span_ctes`."""
    return f"""
        SELECT {device}_key, since, until, window_hour, whole_from,
               greatest(whole_from, date_bin('1 hour', until, timestamptz 'epoch')) AS whole_until,
               CASE WHEN whole_from = since AND since - interval '1 hour' >= (SELECT since FROM kept)
                   THEN since - interval '1 hour' ELSE whole_from END AS rollups_from,
               CASE WHEN next_hour > since AND since - interval '1 hour' >= (SELECT since FROM kept)
                   THEN since - interval '1 hour' ELSE since END AS before_since
        FROM (
            SELECT {device}_key, since, until, next_hour, greatest((SELECT since FROM kept), next_hour) AS whole_from,
                   date_bin('1 hour', CAST(:window_start AS timestamptz), timestamptz 'epoch') AS window_hour
            FROM (
                SELECT {device}_key, since, until,
                       date_bin('1 hour', since - interval '1 microsecond', timestamptz 'epoch') + interval '1 hour'
                           AS next_hour
                FROM {spans} WHERE since < until {wanted}
            ) AS begun
        ) AS floored
    """  # noqa: S608 (all are constants)


def span_ctes(wanted: str = "", more_edges: str = "") -> str:
    """CTEs, of `asked`, which has vehicle_key. The last one, `reported`, has a row for each span with the hours of the
    vehicle, whose meter_key is null, and one for each meter that fed it in the span, with the whole mapping as far as
    the window has it. `wanted` goes on from WHERE where only some of `spans` are, and `more_edges` from `edges`
    where spans end at other times, too."""
    return f"""
    kept AS (
        SELECT CAST(floor_day AS timestamp) AT TIME ZONE 'UTC' AS since FROM retention
    ),
    mapped AS (
        SELECT vehicle_key, meter_key, greatest(effective_from, :window_start) AS since,
               least(effective_until, :window_end) AS until
        FROM asked JOIN vehicle_meter_map USING (vehicle_key)
        WHERE effective_from < :window_end
          AND (effective_until IS NULL OR effective_until > :window_start)
    ),
    edges AS (
        SELECT vehicle_key, CAST(:window_start AS timestamptz) AS at FROM asked
        UNION SELECT vehicle_key, since FROM mapped
        UNION SELECT vehicle_key, until FROM mapped {more_edges}
    ),
    spans AS (
        SELECT vehicle_key, at AS since,
               lead(at, 1, CAST(:window_end AS timestamptz)) OVER (PARTITION BY vehicle_key ORDER BY at) AS until
        FROM edges
    ),
    cut AS MATERIALIZED ({cut_into_hours("vehicle", "spans", wanted)}),
    fed AS MATERIALIZED (
        SELECT cut.*, mapped.meter_key, mapped.since AS mapped_since, mapped.until AS mapped_until
        FROM cut JOIN mapped ON mapped.vehicle_key = cut.vehicle_key
            AND mapped.since <= cut.since AND mapped.until >= cut.until
    ),
    reported AS (
        SELECT cut.vehicle_key, since, until, CAST(NULL AS integer) AS meter_key,
               CAST(NULL AS timestamptz) AS mapped_since, CAST(NULL AS timestamptz) AS mapped_until,
               hours
        FROM cut CROSS JOIN LATERAL ({packed_hours(VEHICLE)} OFFSET 0) AS packed
        UNION ALL
        SELECT cut.vehicle_key, since, until, meter_key, mapped_since, mapped_until,
               hours
        FROM fed AS cut CROSS JOIN LATERAL ({packed_hours(METER)} OFFSET 0) AS packed
    )
"""  # noqa: S608 (all are constants)


SPANS = span_ctes()
