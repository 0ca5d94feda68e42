"""What ingestion says to the database about readings: for each kind one set of statements. `writer` runs them."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from ingestion_svc.decode import MeterRow, VehicleRow
from shared.db.hour_changes import MARK_METER_HOURS, MARK_VEHICLE_HOURS

AnyRow = TypeVar("AnyRow", bound=MeterRow | VehicleRow)


@dataclass(frozen=True)
class Target(Generic[AnyRow]):
    """Where one kind of reading goes.

    The careful way is `copy_to_staging`, `insert` and, where rows were not inserted, `find_stored`; the short one
    `copy_to_history`, `copy_to_staged_hours` and `add_hours`. Both end with `mark_hours`.
    """

    history_table: str
    find_devices: str
    add_devices: str
    create_staging: str
    copy_to_staging: str
    insert: str
    find_stored: str
    copy_to_history: str
    copy_to_staged_hours: str
    add_hours: str
    mark_hours: str
    averaged: Sequence[int]
    """The measurements of which the rollups keep sum and count, by their positions in `Columns.measured`."""


METERS: Target[MeterRow] = Target(
    history_table="meter_telemetry_history",
    find_devices="SELECT meter_id, meter_key FROM meters WHERE meter_id = ANY(%(ids)s)",
    # Sorted, so that two writers that meet the same new devices never wait for each other in a circle.
    add_devices="""
        INSERT INTO meters (meter_id) SELECT id FROM unnest(%(ids)s::text[]) AS id ORDER BY id
        ON CONFLICT DO NOTHING
    """,
    create_staging="""
        CREATE TEMPORARY TABLE staged_meter_readings (
            ordinal integer, meter_key integer, ts timestamptz, kwh_consumed_ac double precision,
            voltage double precision
        ) ON COMMIT DELETE ROWS;
        CREATE TEMPORARY TABLE staged_meter_hours (
            hour_start timestamptz, hour_kwh double precision, hour_readings integer,
            meter_key integer, ts timestamptz, kwh_consumed_ac double precision, voltage double precision
        ) ON COMMIT DELETE ROWS
    """,
    copy_to_staging="""
        COPY staged_meter_readings (ordinal, meter_key, ts, kwh_consumed_ac, voltage) FROM STDIN (FORMAT BINARY)
    """,
    # Returns how many rows were inserted and, where some were not, the ordinals of those that history had already. Of
    # rows that repeat each other the first one counts. Every insert takes its rows in key order: two transactions that
    # meet can then wait for each other, but not in a circle; unless both append as well: PostgreSQL then ends one
    # of them, and that is written again.
    insert="""
        WITH inserted AS (
            INSERT INTO meter_telemetry_history (meter_key, ts, kwh_consumed_ac, voltage)
            SELECT meter_key, ts, kwh_consumed_ac, voltage FROM staged_meter_readings
            ORDER BY meter_key, ts, ordinal
            ON CONFLICT DO NOTHING
            RETURNING meter_key, ts, kwh_consumed_ac, voltage
        ), newest AS (
            INSERT INTO meter_current_status AS status (meter_key, ts, kwh_consumed_ac, voltage)
            SELECT DISTINCT ON (meter_key) meter_key, ts, kwh_consumed_ac, voltage
            FROM inserted ORDER BY meter_key, ts DESC
            ON CONFLICT (meter_key) DO UPDATE
            SET ts = excluded.ts, kwh_consumed_ac = excluded.kwh_consumed_ac, voltage = excluded.voltage
            WHERE status.ts < excluded.ts
        ), summed AS (
            INSERT INTO meter_energy_hourly AS hourly (meter_key, hour_start, kwh_consumed_ac, readings)
            SELECT meter_key, date_bin('1 hour', ts - interval '1 microsecond', 'epoch') AS hour_start,
                sum(kwh_consumed_ac), count(*)
            FROM inserted GROUP BY meter_key, hour_start ORDER BY meter_key, hour_start
            ON CONFLICT (meter_key, hour_start) DO UPDATE
            SET kwh_consumed_ac = hourly.kwh_consumed_ac + excluded.kwh_consumed_ac,
                readings = hourly.readings + excluded.readings
        )
        SELECT (SELECT count(*) FROM inserted), ARRAY(
            SELECT ordinal FROM staged_meter_readings AS staged
            WHERE (SELECT count(*) FROM inserted) < (SELECT count(*) FROM staged_meter_readings)
                AND NOT EXISTS (
                    SELECT FROM inserted WHERE inserted.meter_key = staged.meter_key AND inserted.ts = staged.ts
                )
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
        COPY staged_meter_hours (hour_start, hour_kwh, hour_readings, meter_key, ts, kwh_consumed_ac, voltage)
        FROM STDIN (FORMAT BINARY)
    """,
    # Takes its rows in key order and the rollups before the status, which is what `insert` comes to: as above.
    add_hours="""
        WITH newest AS (
            INSERT INTO meter_current_status AS status (meter_key, ts, kwh_consumed_ac, voltage)
            SELECT DISTINCT ON (meter_key) meter_key, ts, kwh_consumed_ac, voltage
            FROM staged_meter_hours ORDER BY meter_key, ts DESC
            ON CONFLICT (meter_key) DO UPDATE
            SET ts = excluded.ts, kwh_consumed_ac = excluded.kwh_consumed_ac, voltage = excluded.voltage
            WHERE status.ts < excluded.ts
        )
        INSERT INTO meter_energy_hourly AS hourly (meter_key, hour_start, kwh_consumed_ac, readings)
        SELECT meter_key, hour_start, hour_kwh, hour_readings
        FROM staged_meter_hours ORDER BY meter_key, hour_start
        ON CONFLICT (meter_key, hour_start) DO UPDATE
        SET kwh_consumed_ac = hourly.kwh_consumed_ac + excluded.kwh_consumed_ac,
            readings = hourly.readings + excluded.readings
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
    create_staging="""
        CREATE TEMPORARY TABLE staged_vehicle_readings (
            ordinal integer, vehicle_key integer, ts timestamptz, kwh_delivered_dc double precision,
            soc double precision, battery_temp double precision
        ) ON COMMIT DELETE ROWS;
        CREATE TEMPORARY TABLE staged_vehicle_hours (
            hour_start timestamptz, hour_kwh double precision, hour_readings integer,
            hour_temp_sum double precision, hour_temp_readings integer,
            vehicle_key integer, ts timestamptz, kwh_delivered_dc double precision,
            soc double precision, battery_temp double precision
        ) ON COMMIT DELETE ROWS
    """,
    copy_to_staging="""
        COPY staged_vehicle_readings (ordinal, vehicle_key, ts, kwh_delivered_dc, soc, battery_temp)
        FROM STDIN (FORMAT BINARY)
    """,
    # As for meters.
    insert="""
        WITH inserted AS (
            INSERT INTO vehicle_telemetry_history (vehicle_key, ts, kwh_delivered_dc, soc, battery_temp)
            SELECT vehicle_key, ts, kwh_delivered_dc, soc, battery_temp
            FROM staged_vehicle_readings
            ORDER BY vehicle_key, ts, ordinal
            ON CONFLICT DO NOTHING
            RETURNING vehicle_key, ts, kwh_delivered_dc, soc, battery_temp
        ), newest AS (
            INSERT INTO vehicle_current_status AS status (vehicle_key, ts, kwh_delivered_dc, soc, battery_temp)
            SELECT DISTINCT ON (vehicle_key) vehicle_key, ts, kwh_delivered_dc, soc, battery_temp
            FROM inserted ORDER BY vehicle_key, ts DESC
            ON CONFLICT (vehicle_key) DO UPDATE
            SET ts = excluded.ts, kwh_delivered_dc = excluded.kwh_delivered_dc, soc = excluded.soc,
                battery_temp = excluded.battery_temp
            WHERE status.ts < excluded.ts
        ), summed AS (
            INSERT INTO vehicle_energy_hourly AS hourly
                (vehicle_key, hour_start, kwh_delivered_dc, readings, battery_temp_sum, battery_temp_readings)
            SELECT vehicle_key, date_bin('1 hour', ts - interval '1 microsecond', 'epoch') AS hour_start,
                sum(kwh_delivered_dc), count(*), coalesce(sum(battery_temp), 0), count(battery_temp)
            FROM inserted GROUP BY vehicle_key, hour_start ORDER BY vehicle_key, hour_start
            ON CONFLICT (vehicle_key, hour_start) DO UPDATE
            SET kwh_delivered_dc = hourly.kwh_delivered_dc + excluded.kwh_delivered_dc,
                readings = hourly.readings + excluded.readings,
                battery_temp_sum = hourly.battery_temp_sum + excluded.battery_temp_sum,
                battery_temp_readings = hourly.battery_temp_readings + excluded.battery_temp_readings
        )
        SELECT (SELECT count(*) FROM inserted), ARRAY(
            SELECT ordinal FROM staged_vehicle_readings AS staged
            WHERE (SELECT count(*) FROM inserted) < (SELECT count(*) FROM staged_vehicle_readings)
                AND NOT EXISTS (
                    SELECT FROM inserted WHERE inserted.vehicle_key = staged.vehicle_key AND inserted.ts = staged.ts
                )
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
            hour_start, hour_kwh, hour_readings, hour_temp_sum, hour_temp_readings,
            vehicle_key, ts, kwh_delivered_dc, soc, battery_temp
        ) FROM STDIN (FORMAT BINARY)
    """,
    # As for meters.
    add_hours="""
        WITH newest AS (
            INSERT INTO vehicle_current_status AS status (vehicle_key, ts, kwh_delivered_dc, soc, battery_temp)
            SELECT DISTINCT ON (vehicle_key) vehicle_key, ts, kwh_delivered_dc, soc, battery_temp
            FROM staged_vehicle_hours ORDER BY vehicle_key, ts DESC
            ON CONFLICT (vehicle_key) DO UPDATE
            SET ts = excluded.ts, kwh_delivered_dc = excluded.kwh_delivered_dc, soc = excluded.soc,
                battery_temp = excluded.battery_temp
            WHERE status.ts < excluded.ts
        )
        INSERT INTO vehicle_energy_hourly AS hourly
            (vehicle_key, hour_start, kwh_delivered_dc, readings, battery_temp_sum, battery_temp_readings)
        SELECT vehicle_key, hour_start, hour_kwh, hour_readings, hour_temp_sum, hour_temp_readings
        FROM staged_vehicle_hours ORDER BY vehicle_key, hour_start
        ON CONFLICT (vehicle_key, hour_start) DO UPDATE
        SET kwh_delivered_dc = hourly.kwh_delivered_dc + excluded.kwh_delivered_dc,
            readings = hourly.readings + excluded.readings,
            battery_temp_sum = hourly.battery_temp_sum + excluded.battery_temp_sum,
            battery_temp_readings = hourly.battery_temp_readings + excluded.battery_temp_readings
    """,
    mark_hours=MARK_VEHICLE_HOURS,
    averaged=(1,),  # battery_temp
)
