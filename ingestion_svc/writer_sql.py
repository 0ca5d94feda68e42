"""What ingestion says to the database about readings: for each kind one set of statements. `writer` runs them."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Generic

from ingestion_svc.readings import AnyRow, MeterRow, VehicleRow
from shared.db.hour_changes import MARK_METER_HOURS, MARK_VEHICLE_HOURS


# A change of a status row. `excluded` is the newest of a device's hours in a batch, with its newest reading. Where the
# row has that hour open, the sums are added; otherwise the earlier one of the two hours goes to `closed_`.
def _newest(column: str) -> str:
    return f"{column} = CASE WHEN excluded.ts > status.ts THEN excluded.{column} ELSE status.{column} END"


def _summed(column: str) -> str:
    return f"""
        hour_{column} = CASE
            WHEN excluded.hour_start = status.hour_start THEN status.hour_{column} + excluded.hour_{column}
            WHEN excluded.hour_start > status.hour_start THEN excluded.hour_{column}
            ELSE status.hour_{column}
        END,
        closed_{column} = CASE
            WHEN excluded.hour_start > status.hour_start THEN status.hour_{column}
            WHEN excluded.hour_start < status.hour_start THEN excluded.hour_{column}
        END
    """


_HOURS = """
    hour_start = greatest(status.hour_start, excluded.hour_start),
    closed_hour_start = CASE
        WHEN excluded.hour_start <> status.hour_start THEN least(status.hour_start, excluded.hour_start)
    END
"""


@dataclass(frozen=True)
class Target(Generic[AnyRow]):
    """Where one kind of reading goes.

    The slow path is `copy_to_staging`, `insert` and, where rows were not inserted, `find_stored`; the short one
    `copy_to_history`, `copy_to_staged_hours` and `add_hours`. Both end with `mark_hours`.

    History comes first, then status, then the closed hours, each in the order of its key: two transactions that meet
    can then wait for each other, but never deadlock; unless one appends and merges: PostgreSQL then ends one of them,
    and that is written again.
    """

    history_table: str
    find_devices: str
    add_devices: str
    open_session: Sequence[str]
    """What a writer's session begins with, one after another."""
    copy_to_staging: str
    insert: str
    find_stored: str
    copy_to_history: str
    copy_to_staged_hours: str
    add_hours: str
    mark_hours: str
    averaged: Sequence[int]
    """The measurements of which the rollups keep sum and count, by their positions in `Columns.measured`."""


# What is left are nested loops: they keep the order of the keys, and are no bad plan for any number of rows.
_NESTED_LOOPS = ("SET enable_hashjoin = off", "SET enable_mergejoin = off")

_METER_STATUS = ", ".join(
    [_newest("kwh_consumed_ac"), _newest("voltage"), "ts = greatest(status.ts, excluded.ts)", _HOURS]
    + [_summed(column) for column in ("kwh", "readings")]
)
_VEHICLE_STATUS = ", ".join(
    [
        _newest("kwh_delivered_dc"),
        _newest("soc"),
        _newest("battery_temp"),
        "ts = greatest(status.ts, excluded.ts)",
        _HOURS,
    ]
    + [_summed(column) for column in ("kwh", "readings", "battery_temp_sum", "battery_temp_readings")]
)

# What a batch adds to closed hours, from `moved`, the changes of status rows, and from `hours`, its hours.
_CLOSE_METER_HOURS = """
    INSERT INTO meter_closed_hours AS closed (meter_key, hour_start, kwh_consumed_ac, readings)
    SELECT meter_key, hour_start, sum(kwh), sum(readings)
    FROM (
        SELECT meter_key, closed_hour_start AS hour_start, closed_kwh AS kwh, closed_readings AS readings
        FROM moved WHERE closed_readings > 0
        UNION ALL
        SELECT meter_key, hour_start, hour_kwh, hour_readings FROM hours WHERE NOT newest
    ) AS added
    GROUP BY meter_key, hour_start ORDER BY meter_key, hour_start
    ON CONFLICT (meter_key, hour_start) DO UPDATE
    SET kwh_consumed_ac = closed.kwh_consumed_ac + excluded.kwh_consumed_ac,
        readings = closed.readings + excluded.readings
"""
_CLOSE_VEHICLE_HOURS = """
    INSERT INTO vehicle_closed_hours AS closed
        (vehicle_key, hour_start, kwh_delivered_dc, readings, battery_temp_sum, battery_temp_readings)
    SELECT vehicle_key, hour_start, sum(kwh), sum(readings), sum(battery_temp_sum), sum(battery_temp_readings)
    FROM (
        SELECT vehicle_key, closed_hour_start AS hour_start, closed_kwh AS kwh, closed_readings AS readings,
            closed_battery_temp_sum AS battery_temp_sum, closed_battery_temp_readings AS battery_temp_readings
        FROM moved WHERE closed_readings > 0
        UNION ALL
        SELECT vehicle_key, hour_start, hour_kwh, hour_readings, hour_battery_temp_sum, hour_battery_temp_readings
        FROM hours WHERE NOT newest
    ) AS added
    GROUP BY vehicle_key, hour_start ORDER BY vehicle_key, hour_start
    ON CONFLICT (vehicle_key, hour_start) DO UPDATE
    SET kwh_delivered_dc = closed.kwh_delivered_dc + excluded.kwh_delivered_dc,
        readings = closed.readings + excluded.readings,
        battery_temp_sum = closed.battery_temp_sum + excluded.battery_temp_sum,
        battery_temp_readings = closed.battery_temp_readings + excluded.battery_temp_readings
"""

METERS: Target[MeterRow] = Target(
    history_table="meter_telemetry_history",
    find_devices="SELECT meter_id, meter_key FROM meters WHERE meter_id = ANY(%(ids)s)",
    # Sorted, so that two writers that meet the same new devices never deadlock.
    add_devices="""
        INSERT INTO meters (meter_id) SELECT id FROM unnest(%(ids)s::text[]) AS id ORDER BY id
        ON CONFLICT DO NOTHING
    """,
    open_session=(
        *_NESTED_LOOPS,
        """
        CREATE TEMPORARY TABLE staged_meter_readings (
            ordinal integer, meter_key integer, ts timestamptz, kwh_consumed_ac double precision,
            voltage double precision
        ) ON COMMIT DELETE ROWS
        """,
        """
        CREATE TEMPORARY TABLE staged_meter_hours (
            newest boolean, hour_start timestamptz, hour_kwh double precision, hour_readings integer,
            meter_key integer, ts timestamptz, kwh_consumed_ac double precision, voltage double precision
        ) ON COMMIT DELETE ROWS
        """,
    ),
    copy_to_staging="""
        COPY staged_meter_readings (ordinal, meter_key, ts, kwh_consumed_ac, voltage) FROM STDIN (FORMAT BINARY)
    """,
    # Returns how many rows were inserted and, where some were not, the ordinals of those that history had already. Of
    # rows that repeat each other the first one counts.
    insert=f"""
        WITH inserted AS (
            INSERT INTO meter_telemetry_history (meter_key, ts, kwh_consumed_ac, voltage)
            SELECT meter_key, ts, kwh_consumed_ac, voltage FROM staged_meter_readings
            ORDER BY meter_key, ts, ordinal
            ON CONFLICT DO NOTHING
            RETURNING meter_key, ts, kwh_consumed_ac, voltage,
                date_bin('1 hour', ts - interval '1 microsecond', 'epoch') AS hour_start
        ), hours AS (
            SELECT DISTINCT ON (meter_key, hour_start) meter_key, hour_start, ts, kwh_consumed_ac, voltage,
                sum(kwh_consumed_ac) OVER hour AS hour_kwh, count(*) OVER hour AS hour_readings,
                hour_start = max(hour_start) OVER (PARTITION BY meter_key) AS newest
            FROM inserted
            WINDOW hour AS (PARTITION BY meter_key, hour_start)
            ORDER BY meter_key, hour_start, ts DESC
        ), moved AS (
            INSERT INTO meter_current_status AS status
                (meter_key, ts, kwh_consumed_ac, voltage, hour_start, hour_kwh, hour_readings)
            SELECT meter_key, ts, kwh_consumed_ac, voltage, hour_start, hour_kwh, hour_readings
            FROM hours WHERE newest ORDER BY meter_key
            ON CONFLICT (meter_key) DO UPDATE SET {_METER_STATUS}
            RETURNING meter_key, closed_hour_start, closed_kwh, closed_readings
        ), closed AS ({_CLOSE_METER_HOURS})
        SELECT (SELECT count(*) FROM inserted), ARRAY(
            SELECT ordinal FROM staged_meter_readings
            WHERE (SELECT count(*) FROM inserted) < (SELECT count(*) FROM staged_meter_readings)
                AND (meter_key, ts) NOT IN (SELECT meter_key, ts FROM inserted)
        )
    """,
    # The bounds let the planner leave out the other days; the limit makes it look each row up by its key.
    find_stored="""
        SELECT staged.ordinal, stored.kwh_consumed_ac, stored.voltage
        FROM staged_meter_readings AS staged CROSS JOIN LATERAL (
            SELECT kwh_consumed_ac, voltage FROM meter_telemetry_history AS history
            WHERE history.meter_key = staged.meter_key AND history.ts = staged.ts
                AND history.ts BETWEEN %(first)s AND %(last)s
            LIMIT 1
        ) AS stored
        WHERE staged.ordinal = ANY(%(ordinals)s)
    """,
    copy_to_history="""
        COPY meter_telemetry_history (meter_key, ts, kwh_consumed_ac, voltage) FROM STDIN (FORMAT BINARY)
    """,
    copy_to_staged_hours="""
        COPY staged_meter_hours (newest, hour_start, hour_kwh, hour_readings, meter_key, ts, kwh_consumed_ac, voltage)
        FROM STDIN (FORMAT BINARY)
    """,
    # Returns how many devices it found: all must be known.
    add_hours=f"""
        WITH hours AS (
            SELECT meter_key, hour_start, hour_kwh, hour_readings, newest FROM staged_meter_hours
        ), moved AS (
            UPDATE meter_current_status AS status SET {_METER_STATUS}
            FROM (SELECT * FROM staged_meter_hours WHERE newest ORDER BY meter_key OFFSET 0) AS excluded
            WHERE status.meter_key = excluded.meter_key
            RETURNING status.meter_key, closed_hour_start, closed_kwh, closed_readings
        ), closed AS ({_CLOSE_METER_HOURS})
        SELECT count(*) FROM moved
    """,
    mark_hours=MARK_METER_HOURS,
    averaged=(),
)

VEHICLES: Target[VehicleRow] = Target(
    history_table="vehicle_telemetry_history",
    find_devices="SELECT vehicle_id, vehicle_key FROM vehicles WHERE vehicle_id = ANY(%(ids)s)",
    add_devices="""
        INSERT INTO vehicles (vehicle_id) SELECT id FROM unnest(%(ids)s::text[]) AS id ORDER BY id
        ON CONFLICT DO NOTHING
    """,
    open_session=(
        *_NESTED_LOOPS,
        """
        CREATE TEMPORARY TABLE staged_vehicle_readings (
            ordinal integer, vehicle_key integer, ts timestamptz, kwh_delivered_dc double precision,
            soc double precision, battery_temp double precision
        ) ON COMMIT DELETE ROWS
        """,
        """
        CREATE TEMPORARY TABLE staged_vehicle_hours (
            newest boolean, hour_start timestamptz, hour_kwh double precision, hour_readings integer,
            hour_battery_temp_sum double precision, hour_battery_temp_readings integer,
            vehicle_key integer, ts timestamptz, kwh_delivered_dc double precision,
            soc double precision, battery_temp double precision
        ) ON COMMIT DELETE ROWS
        """,
    ),
    copy_to_staging="""
        COPY staged_vehicle_readings (ordinal, vehicle_key, ts, kwh_delivered_dc, soc, battery_temp)
        FROM STDIN (FORMAT BINARY)
    """,
    # As for meters.
    insert=f"""
        WITH inserted AS (
            INSERT INTO vehicle_telemetry_history (vehicle_key, ts, kwh_delivered_dc, soc, battery_temp)
            SELECT vehicle_key, ts, kwh_delivered_dc, soc, battery_temp
            FROM staged_vehicle_readings
            ORDER BY vehicle_key, ts, ordinal
            ON CONFLICT DO NOTHING
            RETURNING vehicle_key, ts, kwh_delivered_dc, soc, battery_temp,
                date_bin('1 hour', ts - interval '1 microsecond', 'epoch') AS hour_start
        ), hours AS (
            SELECT DISTINCT ON (vehicle_key, hour_start)
                vehicle_key, hour_start, ts, kwh_delivered_dc, soc, battery_temp,
                sum(kwh_delivered_dc) OVER hour AS hour_kwh, count(*) OVER hour AS hour_readings,
                coalesce(sum(battery_temp) OVER hour, 0) AS hour_battery_temp_sum,
                count(battery_temp) OVER hour AS hour_battery_temp_readings,
                hour_start = max(hour_start) OVER (PARTITION BY vehicle_key) AS newest
            FROM inserted
            WINDOW hour AS (PARTITION BY vehicle_key, hour_start)
            ORDER BY vehicle_key, hour_start, ts DESC
        ), moved AS (
            INSERT INTO vehicle_current_status AS status (
                vehicle_key, ts, kwh_delivered_dc, soc, battery_temp,
                hour_start, hour_kwh, hour_readings, hour_battery_temp_sum, hour_battery_temp_readings
            )
            SELECT vehicle_key, ts, kwh_delivered_dc, soc, battery_temp,
                hour_start, hour_kwh, hour_readings, hour_battery_temp_sum, hour_battery_temp_readings
            FROM hours WHERE newest ORDER BY vehicle_key
            ON CONFLICT (vehicle_key) DO UPDATE SET {_VEHICLE_STATUS}
            RETURNING vehicle_key, closed_hour_start, closed_kwh, closed_readings,
                closed_battery_temp_sum, closed_battery_temp_readings
        ), closed AS ({_CLOSE_VEHICLE_HOURS})
        SELECT (SELECT count(*) FROM inserted), ARRAY(
            SELECT ordinal FROM staged_vehicle_readings
            WHERE (SELECT count(*) FROM inserted) < (SELECT count(*) FROM staged_vehicle_readings)
                AND (vehicle_key, ts) NOT IN (SELECT vehicle_key, ts FROM inserted)
        )
    """,
    # As for meters.
    find_stored="""
        SELECT staged.ordinal, stored.kwh_delivered_dc, stored.soc, stored.battery_temp
        FROM staged_vehicle_readings AS staged CROSS JOIN LATERAL (
            SELECT kwh_delivered_dc, soc, battery_temp FROM vehicle_telemetry_history AS history
            WHERE history.vehicle_key = staged.vehicle_key AND history.ts = staged.ts
                AND history.ts BETWEEN %(first)s AND %(last)s
            LIMIT 1
        ) AS stored
        WHERE staged.ordinal = ANY(%(ordinals)s)
    """,
    copy_to_history="""
        COPY vehicle_telemetry_history (vehicle_key, ts, kwh_delivered_dc, soc, battery_temp)
        FROM STDIN (FORMAT BINARY)
    """,
    copy_to_staged_hours="""
        COPY staged_vehicle_hours (
            newest, hour_start, hour_kwh, hour_readings, hour_battery_temp_sum, hour_battery_temp_readings,
            vehicle_key, ts, kwh_delivered_dc, soc, battery_temp
        ) FROM STDIN (FORMAT BINARY)
    """,
    # As for meters.
    add_hours=f"""
        WITH hours AS (
            SELECT vehicle_key, hour_start, hour_kwh, hour_readings, hour_battery_temp_sum, hour_battery_temp_readings,
                newest
            FROM staged_vehicle_hours
        ), moved AS (
            UPDATE vehicle_current_status AS status SET {_VEHICLE_STATUS}
            FROM (SELECT * FROM staged_vehicle_hours WHERE newest ORDER BY vehicle_key OFFSET 0) AS excluded
            WHERE status.vehicle_key = excluded.vehicle_key
            RETURNING status.vehicle_key, closed_hour_start, closed_kwh, closed_readings,
                closed_battery_temp_sum, closed_battery_temp_readings
        ), closed AS ({_CLOSE_VEHICLE_HOURS})
        SELECT count(*) FROM moved
    """,
    mark_hours=MARK_VEHICLE_HOURS,
    averaged=(1,),  # battery_temp
)
