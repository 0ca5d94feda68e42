"""What vehicles and their meters reported hour by hour, span by span, as part of statements.

A span is a part of the window in which the same meters fed a vehicle, perhaps none. Whole hours come from the rollups.
The hours that a span cuts, and the hour before it, come from readings where they are not whole. The hour of a reading
is `(h, h + 1 h]`, hence the microsecond.

Rollups outlive readings. Before the retention floor there are whole hours alone: windows are from hour to hour there,
and mappings change at the nearest hour.
"""

from analytics_svc.readings_sql import Readings
from shared.db.device_kind import METER, VEHICLE, DeviceKind

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
            FROM {readings}
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


KEPT = """kept AS (
        SELECT CAST(floor_day AS timestamp) AT TIME ZONE 'UTC' AS since FROM retention
    )"""
"""A CTE: from when on readings are kept."""


def packed_hours(kind: DeviceKind, readings: Readings) -> str:
    """A query of the hours of a device in a span, the row `cut` beside it."""
    of_the_days = readings.of_the_days + readings.days(
        readings.between, kind, since="pieces.since", until="pieces.until"
    )
    statement = _HOURS.replace("{temperatures}", _TEMPERATURES if kind is VEHICLE else _NO_TEMPERATURES)
    statement = statement.replace("{readings}", readings.of(kind)).replace("{of_the_days}", of_the_days)
    return kind.render(statement.replace("{span}", "cut"))


def cut_into_hours(device: str, spans: str, wanted: str = "") -> str:
    """A query of spans of devices, which have since and until, or of those that are wanted: between which full hours
    they lie, and from where on their hour before is to be had. It needs the CTE `kept`."""
    return f"""
        SELECT {device}_key, since, until, window_hour, whole_from,
               greatest(whole_from, date_bin('1 hour', until, timestamptz 'epoch')) AS whole_until,
               CASE WHEN whole_from = since THEN since - interval '1 hour' ELSE whole_from END AS rollups_from,
               CASE WHEN whole_from > since AND since - interval '1 hour' >= (SELECT since FROM kept)
                   THEN since - interval '1 hour' ELSE since END AS before_since
        FROM (
            SELECT {device}_key, since, until,
                   date_bin('1 hour', CAST(:window_start AS timestamptz), timestamptz 'epoch') AS window_hour,
                   date_bin('1 hour', since - interval '1 microsecond', timestamptz 'epoch') + interval '1 hour'
                       AS whole_from
            FROM {spans} WHERE since < until {wanted}
        ) AS begun
    """  # noqa: S608 (all are constants)


def mapped_within(of: str) -> str:
    """A query of the mappings of some devices, as far as they lie within the window. It needs the CTE `kept`."""
    return f"""
        SELECT vehicle_key, meter_key, since, until FROM (
            SELECT vehicle_key, meter_key, greatest({_kept_edge("effective_from")}, :window_start) AS since,
                   least({_kept_edge("effective_until")}, :window_end) AS until
            FROM {of}
            WHERE effective_from < :window_end
              AND (effective_until IS NULL OR effective_until > :window_start)
        ) AS effective
        WHERE since < until
    """  # noqa: S608 (all are constants)


def _kept_edge(edge: str) -> str:
    """When a mapping changes, or changed as far as whole hours tell."""
    return f"""CASE
                       WHEN {edge} < (SELECT since FROM kept)
                           THEN date_bin('1 hour', {edge} + interval '30 minutes', timestamptz 'epoch')
                       ELSE {edge}
                   END"""  # noqa: S608 (all are constants)


def span_ctes(readings: Readings, wanted: str = "", more_edges: str = "") -> str:
    """CTEs, of `asked`, which has vehicle_key, and of `kept`. The last one, `reported`, has a row for each span with
    the hours of the vehicle, whose meter_key is null, and one for each meter that fed it in the span, with the whole
    mapping as far as the window has it. `wanted` goes on from WHERE where only some of `spans` are, and `more_edges`
    from `edges` where spans end at other times, too."""
    return f"""
    mapped AS ({mapped_within("asked JOIN vehicle_meter_map USING (vehicle_key)")}),
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
        FROM cut CROSS JOIN LATERAL ({packed_hours(VEHICLE, readings)} OFFSET 0) AS packed
        UNION ALL
        SELECT cut.vehicle_key, since, until, meter_key, mapped_since, mapped_until,
               hours
        FROM fed AS cut CROSS JOIN LATERAL ({packed_hours(METER, readings)} OFFSET 0) AS packed
    )
"""  # noqa: S608 (all are constants)
