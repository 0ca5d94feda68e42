"""What analytics says to the database about the 28 days before a window; `baseline_queries` asks.

All of it is about whole days in UTC, from `:baseline_since` to `:baseline_until`, and comes from the rollups: those of
days that were dropped stay, and change no more. An hour of a side that did not charge is not sent.

What has not changed is not read again: see `shared.db.hour_changes`. A digest of all marks stands for them: each is
random, and none comes twice.
"""

from sqlalchemy import text

from shared.db.device_kind import METER, VEHICLE, DeviceKind

_DIGEST = "count(*) || ':' || coalesce(bit_xor(uuid_hash_extended(mark, 0)), 0)"

_OF_THE_DAYS = "hour_start >= :baseline_since AND hour_start < :baseline_until"

_FLOOR = "(SELECT CAST(floor_day AS timestamp) AT TIME ZONE 'UTC' FROM retention)"

_TOUCHING = """
    effective_from <= :baseline_until AND (effective_until IS NULL OR effective_until >= :baseline_since)
"""

BASELINE_VERSION = f"""
    concat_ws(
        ' ',
        (SELECT {_DIGEST} FROM vehicle_hour_changes WHERE {_OF_THE_DAYS}),
        (SELECT {_DIGEST} FROM meter_hour_changes WHERE {_OF_THE_DAYS}),
        greatest(CAST(:baseline_since AS timestamptz), least({_FLOOR}, :baseline_until))
    )
"""  # noqa: S608 (all are constants)
"""Of the rollups of all devices, and of how many of the days were dropped: one value, as part of a statement."""

BASELINE_MAPPINGS = f"""
    SELECT coalesce(string_agg(
        int8send(meter_key) || timestamptz_send(effective_from)
            || timestamptz_send(coalesce(effective_until, 'infinity')),
        '' ORDER BY meter_key, effective_from
    ), '')
    FROM vehicle_meter_map WHERE vehicle_key = {{vehicle_key}} AND {_TOUCHING}
"""  # noqa: S608 (all are constants)
"""The mappings of a vehicle that reach the days, packed as big-endian numbers of 8 bytes; likewise."""

# Of a device in some of its hours: when each begins, what flowed in and what flowed back, packed likewise. Hours are
# compared as rows, which the primary key can find.
_HOURS = """
    SELECT coalesce(string_agg(
        timestamptz_send(hour_start) || float8send({energy} + {returned}) || float8send({returned}), ''
    ), '') AS hours
    FROM {device}_energy_hourly
    WHERE {device}_key = it.{device}_key
      AND ({device}_key, hour_start) >= (it.{device}_key, :baseline_since)
      AND ({device}_key, hour_start) < (it.{device}_key, :baseline_until)
      AND {energy} + {returned} > {least}
"""


def _hours(kind: DeviceKind, least: str) -> str:
    return kind.render(_HOURS.replace("{least}", least))


# A row for each of some vehicles that are known, and one for each meter that fed it. What several meters drew is
# compared with standby when it is added up.
BASELINE_HOURS = text(f"""
WITH version AS MATERIALIZED (
    SELECT {BASELINE_VERSION} AS version
),
asked AS MATERIALIZED (
    SELECT vehicle_key, vehicle_id, ({BASELINE_MAPPINGS.format(vehicle_key="vehicles.vehicle_key")}) AS mappings
    FROM vehicles WHERE vehicle_id = ANY (CAST(:vehicle_ids AS text[]))
),
fed AS MATERIALIZED (
    SELECT DISTINCT vehicle_key, meter_key,
           CASE count(*) OVER (PARTITION BY vehicle_key)
               WHEN 1 THEN CAST(:meter_least_kwh AS double precision) ELSE 0
           END AS least
    FROM asked JOIN vehicle_meter_map USING (vehicle_key) WHERE {_TOUCHING}
)
SELECT vehicle_id, version, mappings, CAST(NULL AS integer) AS meter_key, hours
FROM version CROSS JOIN asked AS it
    CROSS JOIN LATERAL ({_hours(VEHICLE, "CAST(:vehicle_least_kwh AS double precision)")} OFFSET 0) AS packed
UNION ALL
SELECT vehicle_id, version, mappings, meter_key, hours
FROM version CROSS JOIN asked JOIN fed AS it USING (vehicle_key)
    CROSS JOIN LATERAL ({_hours(METER, "it.least")} OFFSET 0) AS packed
""")  # noqa: S608 (all are constants)

# A row for each of some vehicles that are known.
BASELINE_VERSION_OF = text(f"""
SELECT vehicle_id, vehicle_key, version, ({BASELINE_MAPPINGS.format(vehicle_key="vehicles.vehicle_key")}) AS mappings
FROM (SELECT {BASELINE_VERSION} AS version OFFSET 0) AS versions CROSS JOIN vehicles
WHERE vehicle_id = ANY (CAST(:vehicle_ids AS text[]))
""")  # noqa: S608 (all are constants)

# One row: of the fleet. `days` are the digests of each side's days, of those that have marks.
BASELINE_VERSIONS = text(f"""
SELECT {BASELINE_VERSION} AS version,
       {_FLOOR} AS floor,
       (
           SELECT count(*) || ':' || coalesce(bit_xor(hash_record_extended(
               ROW(vehicle_key, meter_key, effective_from, effective_until), 0
           )), 0)
           FROM vehicle_meter_map
       ) AS mappings,
       ARRAY(
           SELECT CAST(extract(epoch FROM day) AS bigint) || ' ' || digest FROM (
               SELECT date_bin('1 day', hour_start, timestamptz 'epoch') AS day, {_DIGEST} AS digest
               FROM vehicle_hour_changes WHERE {_OF_THE_DAYS} GROUP BY day
           ) AS of_vehicles
       ) AS vehicle_days,
       ARRAY(
           SELECT CAST(extract(epoch FROM day) AS bigint) || ' ' || digest FROM (
               SELECT date_bin('1 day', hour_start, timestamptz 'epoch') AS day, {_DIGEST} AS digest
               FROM meter_hour_changes WHERE {_OF_THE_DAYS} GROUP BY day
           ) AS of_meters
       ) AS meter_days
""")  # noqa: S608 (all are constants)

# One row: all mappings, in order, column by column as big-endian numbers of 8 bytes; an end that there is not is
# infinity.
ALL_MAPPINGS = text("""
SELECT count(*) || ':' || coalesce(bit_xor(hash_record_extended(
           ROW(vehicle_key, meter_key, effective_from, effective_until), 0
       )), 0) AS mappings,
       coalesce(string_agg(
           int8send(vehicle_key) || int8send(meter_key) || timestamptz_send(effective_from)
               || timestamptz_send(coalesce(effective_until, 'infinity')),
           '' ORDER BY vehicle_key, meter_key, effective_from
       ), '') AS packed
FROM vehicle_meter_map
""")

# The hours of a day in which devices charged, each packed column by column, and a row without hour: the day's digest.
_DAY = """
SELECT hour_start, CAST(NULL AS text) AS digest,
       coalesce(string_agg(int4send({device}_key), ''), '') AS device_keys,
       coalesce(string_agg(float8send({energy} + {returned}), ''), '') AS kwh,
       coalesce(string_agg(float8send({returned}), ''), '') AS kwh_returned
FROM {device}_energy_hourly
WHERE {of_the_days} AND ({energy} + {returned} > :least_kwh {or_shared})
GROUP BY hour_start
UNION ALL
SELECT NULL, {digest}, '', '', '' FROM {device}_hour_changes WHERE {of_the_days}
"""


def _day(kind: DeviceKind, or_shared: str) -> str:
    statement = _DAY.replace("{digest}", _DIGEST).replace("{of_the_days}", _OF_THE_DAYS)
    return kind.render(statement.replace("{or_shared}", or_shared))


VEHICLE_DAY = text(_day(VEHICLE, ""))

# Also what was drawn by meters that may have fed a vehicle together with others, however little it was.
METER_DAY = text(_day(METER, "OR meter_key = ANY (CAST(:shared_keys AS integer[]))"))
