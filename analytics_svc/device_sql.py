"""What analytics says to the database about all devices of a kind; `device_queries` asks."""

from sqlalchemy import text

from shared.db.device_kind import KINDS

# One row: every device of the kind, also those that are known by refusals alone, in the order of their ids. Ids are
# parted by line ends, which no id has, and the others are packed column by column as big-endian numbers: times are
# microseconds since 2000. What a device does not have is the least number.
_DEVICES = """
WITH refused AS (
    SELECT device_id AS {device}_id,
           CAST(sum(count) FILTER (WHERE NOT doubted AND NOT omitted) AS bigint) AS rejected,
           CAST(sum(count) FILTER (WHERE reason = ANY (CAST(:by_time AS text[]))) AS bigint) AS rejected_by_time,
           CAST(sum(count) FILTER (WHERE NOT doubted AND omitted) AS bigint) AS omitted,
           CAST(sum(count) FILTER (WHERE doubted) AS bigint) AS doubted,
           max(last_at) FILTER (WHERE NOT doubted) AS last_refused
    FROM (
        SELECT device_id, reason, count, last_at, reason = :doubted AS doubted,
               field = ANY (CAST(:optional_fields AS text[])) AS omitted
        FROM {device}_refusals
    ) AS refusals
    GROUP BY device_id
),
devices AS (
    SELECT {device}_id AS device_id, ts, newest_age_us, late_readings, future_readings, conflicting_readings,
           rejected, rejected_by_time, omitted, doubted, last_refused
    FROM {device}s FULL JOIN refused USING ({device}_id)
         LEFT JOIN {device}_current_status USING ({device}_key)
         LEFT JOIN {device}_clock_evidence ON device_key = {device}_key
    ORDER BY {device}_id
    OFFSET 0
)
SELECT coalesce(string_agg(device_id, chr(10)), '') AS ids,
       string_agg(timestamptz_send(coalesce(ts, '-infinity')), '') AS newest_us,
       string_agg(int8send(coalesce(newest_age_us, CAST(:absent AS bigint))), '') AS newest_age_us,
       string_agg(int8send(coalesce(late_readings, CAST(:absent AS bigint))), '') AS late_readings,
       string_agg(int8send(coalesce(future_readings, 0)), '') AS future_readings,
       string_agg(int8send(coalesce(conflicting_readings, 0)), '') AS conflicting_readings,
       string_agg(int8send(coalesce(rejected, 0)), '') AS rejected_readings,
       string_agg(int8send(coalesce(rejected_by_time, 0)), '') AS rejected_by_time,
       string_agg(int8send(coalesce(omitted, 0)), '') AS omitted_values,
       string_agg(int8send(coalesce(doubted, 0)), '') AS doubted_readings,
       string_agg(timestamptz_send(coalesce(last_refused, '-infinity')), '') AS last_refused_us
FROM devices
"""
DEVICES = {kind: text(kind.render(_DEVICES)) for kind in KINDS}
