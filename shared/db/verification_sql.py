"""What `verify` says to the database: for the rollups and the status of each kind of device one set of statements.

Their parameters are `keys` of devices and, of an hour `(hour, next_hour]`, its two ends. History is looked up device by
device, since its key begins with the device; where a day is small the planner reads it whole instead.
"""

from dataclasses import dataclass

from shared.db.hour_changes import MARK_METER_HOURS, MARK_VEHICLE_HOURS


@dataclass(frozen=True, slots=True)
class Derived:
    """A table whose rows follow from history."""

    table: str
    columns: tuple[str, ...]
    """The values of a row: what `find` returns twice, first as stored and then as history has it."""
    find: str
    """The rows that differ: the device's key and id, then the columns twice; all null where there is no row."""
    lock: str
    """Waits until nobody writes to the table, and lets nobody write to it before the transaction ends."""
    remove: str
    """Deletes the rows of `keys`."""
    add: str
    """Inserts the rows of `keys` as history has them. Of these there must be none."""
    mark_hours: str | None = None
    """Tells readers of `hours` that they changed; None in a table without hours."""


@dataclass(frozen=True, slots=True)
class Side:
    """One kind of device, its derived tables, and where there is something to look at."""

    history_table: str
    hours: Derived
    status: Derived
    keys: str
    """The keys of all devices that are registered or have rows."""
    stored_hours: str
    """The hours within `[start, end)` of which rows are stored."""
    some_reading: str
    """A row where history has readings within `[day, next_day)`."""


# The UTC days that a history table has a partition for.
DAYS = """
    SELECT to_date(right(child.relname, 8), 'YYYYMMDD')
    FROM pg_inherits JOIN pg_class AS child ON child.oid = inhrelid
    WHERE inhparent = %(history_table)s::regclass
"""

# Hours that began before the retention floor are not judged: some of their readings may be dropped. Sums may differ by
# 1e-9 of the magnitudes that were added, since the order of additions differs; NaN is no such small difference. 1e-290
# keeps the product from underflow, which is an error here.
_METER_HOURS = Derived(
    table="meter_energy_hourly",
    columns=("kwh_consumed_ac", "readings"),
    find="""
        WITH computed AS (
            SELECT meter_key, sum(history.kwh_consumed_ac) AS kwh, count(*) AS readings
            FROM unnest(%(keys)s::integer[]) AS device (meter_key)
                JOIN meter_telemetry_history AS history USING (meter_key)
            WHERE history.ts > %(hour)s AND history.ts <= %(next_hour)s
                AND %(hour)s = date_bin('1 hour', %(hour)s, 'epoch')
            GROUP BY meter_key
        ), stored AS (
            SELECT meter_key, sum(hourly.kwh_consumed_ac) AS kwh, sum(hourly.readings) AS readings
            FROM unnest(%(keys)s::integer[]) AS device (meter_key)
                JOIN meter_energy_hourly AS hourly USING (meter_key)
            WHERE hourly.hour_start = %(hour)s
            GROUP BY meter_key
        )
        SELECT meter_key, meter_id, stored.kwh, stored.readings, computed.kwh, computed.readings
        FROM stored FULL JOIN computed USING (meter_key) LEFT JOIN meters USING (meter_key)
        WHERE %(hour)s >= (SELECT floor_day::timestamp AT TIME ZONE 'UTC' FROM retention)
            AND (
                stored.readings IS DISTINCT FROM computed.readings
                OR NOT abs(stored.kwh - computed.kwh) <= 1e-9 * greatest(abs(computed.kwh), 1e-290)
            )
        ORDER BY meter_key
    """,
    lock="LOCK TABLE meter_current_status, meter_closed_hours IN SHARE ROW EXCLUSIVE MODE",
    remove="DELETE FROM meter_closed_hours WHERE meter_key = ANY(%(keys)s) AND hour_start = %(hour)s",
    add="""
        WITH computed AS (
            SELECT device.meter_key, sum(history.kwh_consumed_ac) AS kwh, count(history.ts) AS readings
            FROM unnest(%(keys)s::integer[]) AS device (meter_key)
                LEFT JOIN meter_telemetry_history AS history
                    ON history.meter_key = device.meter_key
                    AND history.ts > %(hour)s AND history.ts <= %(next_hour)s
                    AND %(hour)s = date_bin('1 hour', %(hour)s, 'epoch')
            GROUP BY device.meter_key
        ), open AS (
            UPDATE meter_current_status AS status
            SET hour_kwh = coalesce(computed.kwh, 0), hour_readings = computed.readings
            FROM computed
            WHERE status.meter_key = computed.meter_key AND status.hour_start = %(hour)s
            RETURNING status.meter_key
        )
        INSERT INTO meter_closed_hours (meter_key, hour_start, kwh_consumed_ac, readings)
        SELECT meter_key, %(hour)s, kwh, readings
        FROM computed
        WHERE readings > 0 AND meter_key NOT IN (SELECT meter_key FROM open)
    """,
    mark_hours=MARK_METER_HOURS,
)

_VEHICLE_HOURS = Derived(
    table="vehicle_energy_hourly",
    columns=("kwh_delivered_dc", "readings", "battery_temp_sum", "battery_temp_readings"),
    find="""
        WITH computed AS (
            SELECT vehicle_key, sum(history.kwh_delivered_dc) AS kwh, count(*) AS readings,
                coalesce(sum(history.battery_temp), 0) AS temp_sum, count(history.battery_temp) AS temp_readings,
                coalesce(sum(abs(history.battery_temp)), 0) AS temp_magnitudes
            FROM unnest(%(keys)s::integer[]) AS device (vehicle_key)
                JOIN vehicle_telemetry_history AS history USING (vehicle_key)
            WHERE history.ts > %(hour)s AND history.ts <= %(next_hour)s
                AND %(hour)s = date_bin('1 hour', %(hour)s, 'epoch')
            GROUP BY vehicle_key
        ), stored AS (
            SELECT vehicle_key, sum(hourly.kwh_delivered_dc) AS kwh, sum(hourly.readings) AS readings,
                sum(hourly.battery_temp_sum) AS temp_sum, sum(hourly.battery_temp_readings) AS temp_readings
            FROM unnest(%(keys)s::integer[]) AS device (vehicle_key)
                JOIN vehicle_energy_hourly AS hourly USING (vehicle_key)
            WHERE hourly.hour_start = %(hour)s
            GROUP BY vehicle_key
        )
        SELECT vehicle_key, vehicle_id,
            stored.kwh, stored.readings, stored.temp_sum, stored.temp_readings,
            computed.kwh, computed.readings, computed.temp_sum, computed.temp_readings
        FROM stored FULL JOIN computed USING (vehicle_key) LEFT JOIN vehicles USING (vehicle_key)
        WHERE %(hour)s >= (SELECT floor_day::timestamp AT TIME ZONE 'UTC' FROM retention)
            AND (
                (stored.readings, stored.temp_readings) IS DISTINCT FROM (computed.readings, computed.temp_readings)
                OR NOT abs(stored.kwh - computed.kwh) <= 1e-9 * greatest(abs(computed.kwh), 1e-290)
                OR NOT abs(stored.temp_sum - computed.temp_sum) <= 1e-9 * greatest(computed.temp_magnitudes, 1e-290)
            )
        ORDER BY vehicle_key
    """,
    lock="LOCK TABLE vehicle_current_status, vehicle_closed_hours IN SHARE ROW EXCLUSIVE MODE",
    remove="DELETE FROM vehicle_closed_hours WHERE vehicle_key = ANY(%(keys)s) AND hour_start = %(hour)s",
    add="""
        WITH computed AS (
            SELECT device.vehicle_key, sum(history.kwh_delivered_dc) AS kwh, count(history.ts) AS readings,
                coalesce(sum(history.battery_temp), 0) AS temp_sum, count(history.battery_temp) AS temp_readings
            FROM unnest(%(keys)s::integer[]) AS device (vehicle_key)
                LEFT JOIN vehicle_telemetry_history AS history
                    ON history.vehicle_key = device.vehicle_key
                    AND history.ts > %(hour)s AND history.ts <= %(next_hour)s
                    AND %(hour)s = date_bin('1 hour', %(hour)s, 'epoch')
            GROUP BY device.vehicle_key
        ), open AS (
            UPDATE vehicle_current_status AS status
            SET hour_kwh = coalesce(computed.kwh, 0), hour_readings = computed.readings,
                hour_battery_temp_sum = computed.temp_sum, hour_battery_temp_readings = computed.temp_readings
            FROM computed
            WHERE status.vehicle_key = computed.vehicle_key AND status.hour_start = %(hour)s
            RETURNING status.vehicle_key
        )
        INSERT INTO vehicle_closed_hours
            (vehicle_key, hour_start, kwh_delivered_dc, readings, battery_temp_sum, battery_temp_readings)
        SELECT vehicle_key, %(hour)s, kwh, readings, temp_sum, temp_readings
        FROM computed
        WHERE readings > 0 AND vehicle_key NOT IN (SELECT vehicle_key FROM open)
    """,
    mark_hours=MARK_VEHICLE_HOURS,
)

# Where history has nothing of a device, a status from before the retention floor stands: its reading was dropped.
_METER_STATUS = Derived(
    table="meter_current_status",
    columns=("ts", "kwh_consumed_ac", "voltage"),
    find="""
        SELECT meter_key, meter_id, status.ts::text, status.kwh_consumed_ac, status.voltage,
            newest.ts::text, newest.kwh_consumed_ac, newest.voltage
        FROM unnest(%(keys)s::integer[]) AS device (meter_key)
            LEFT JOIN meters USING (meter_key)
            LEFT JOIN meter_current_status AS status USING (meter_key)
            LEFT JOIN LATERAL (
                SELECT ts, kwh_consumed_ac, voltage FROM meter_telemetry_history AS history
                WHERE history.meter_key = device.meter_key
                ORDER BY ts DESC LIMIT 1
            ) AS newest ON true
        WHERE (status.ts, status.kwh_consumed_ac, status.voltage)
                IS DISTINCT FROM (newest.ts, newest.kwh_consumed_ac, newest.voltage)
            AND NOT (
                newest.ts IS NULL
                AND status.ts < (SELECT floor_day::timestamp AT TIME ZONE 'UTC' FROM retention)
            )
        ORDER BY meter_key
    """,
    lock="LOCK TABLE meter_current_status, meter_closed_hours IN SHARE ROW EXCLUSIVE MODE",
    # The hour that was open stays what it is, right or wrong.
    remove="""
        WITH removed AS (
            DELETE FROM meter_current_status WHERE meter_key = ANY(%(keys)s) RETURNING *
        )
        INSERT INTO meter_closed_hours AS closed (meter_key, hour_start, kwh_consumed_ac, readings)
        SELECT meter_key, hour_start, hour_kwh, hour_readings FROM removed WHERE hour_readings > 0
        ON CONFLICT (meter_key, hour_start) DO UPDATE
        SET kwh_consumed_ac = closed.kwh_consumed_ac + excluded.kwh_consumed_ac,
            readings = closed.readings + excluded.readings
    """,
    add="""
        WITH newest AS (
            SELECT device.meter_key, newest.ts, newest.kwh_consumed_ac, newest.voltage,
                date_bin('1 hour', newest.ts - interval '1 microsecond', 'epoch') AS hour_start
            FROM unnest(%(keys)s::integer[]) AS device (meter_key) CROSS JOIN LATERAL (
                SELECT ts, kwh_consumed_ac, voltage FROM meter_telemetry_history AS history
                WHERE history.meter_key = device.meter_key
                ORDER BY ts DESC LIMIT 1
            ) AS newest
        ), opened AS (
            DELETE FROM meter_closed_hours AS closed USING newest
            WHERE closed.meter_key = newest.meter_key AND closed.hour_start = newest.hour_start
            RETURNING closed.meter_key, closed.kwh_consumed_ac AS hour_kwh, closed.readings AS hour_readings
        )
        INSERT INTO meter_current_status
            (meter_key, ts, kwh_consumed_ac, voltage, hour_start, hour_kwh, hour_readings)
        SELECT meter_key, ts, kwh_consumed_ac, voltage, hour_start, coalesce(hour_kwh, 0), coalesce(hour_readings, 0)
        FROM newest LEFT JOIN opened USING (meter_key)
    """,
)

_VEHICLE_STATUS = Derived(
    table="vehicle_current_status",
    columns=("ts", "kwh_delivered_dc", "soc", "battery_temp"),
    find="""
        SELECT vehicle_key, vehicle_id,
            status.ts::text, status.kwh_delivered_dc, status.soc, status.battery_temp,
            newest.ts::text, newest.kwh_delivered_dc, newest.soc, newest.battery_temp
        FROM unnest(%(keys)s::integer[]) AS device (vehicle_key)
            LEFT JOIN vehicles USING (vehicle_key)
            LEFT JOIN vehicle_current_status AS status USING (vehicle_key)
            LEFT JOIN LATERAL (
                SELECT ts, kwh_delivered_dc, soc, battery_temp FROM vehicle_telemetry_history AS history
                WHERE history.vehicle_key = device.vehicle_key
                ORDER BY ts DESC LIMIT 1
            ) AS newest ON true
        WHERE (status.ts, status.kwh_delivered_dc, status.soc, status.battery_temp)
                IS DISTINCT FROM (newest.ts, newest.kwh_delivered_dc, newest.soc, newest.battery_temp)
            AND NOT (
                newest.ts IS NULL
                AND status.ts < (SELECT floor_day::timestamp AT TIME ZONE 'UTC' FROM retention)
            )
        ORDER BY vehicle_key
    """,
    lock="LOCK TABLE vehicle_current_status, vehicle_closed_hours IN SHARE ROW EXCLUSIVE MODE",
    # As for meters.
    remove="""
        WITH removed AS (
            DELETE FROM vehicle_current_status WHERE vehicle_key = ANY(%(keys)s) RETURNING *
        )
        INSERT INTO vehicle_closed_hours AS closed
            (vehicle_key, hour_start, kwh_delivered_dc, readings, battery_temp_sum, battery_temp_readings)
        SELECT vehicle_key, hour_start, hour_kwh, hour_readings, hour_battery_temp_sum, hour_battery_temp_readings
        FROM removed WHERE hour_readings > 0
        ON CONFLICT (vehicle_key, hour_start) DO UPDATE
        SET kwh_delivered_dc = closed.kwh_delivered_dc + excluded.kwh_delivered_dc,
            readings = closed.readings + excluded.readings,
            battery_temp_sum = closed.battery_temp_sum + excluded.battery_temp_sum,
            battery_temp_readings = closed.battery_temp_readings + excluded.battery_temp_readings
    """,
    add="""
        WITH newest AS (
            SELECT device.vehicle_key, newest.ts, newest.kwh_delivered_dc, newest.soc, newest.battery_temp,
                date_bin('1 hour', newest.ts - interval '1 microsecond', 'epoch') AS hour_start
            FROM unnest(%(keys)s::integer[]) AS device (vehicle_key) CROSS JOIN LATERAL (
                SELECT ts, kwh_delivered_dc, soc, battery_temp FROM vehicle_telemetry_history AS history
                WHERE history.vehicle_key = device.vehicle_key
                ORDER BY ts DESC LIMIT 1
            ) AS newest
        ), opened AS (
            DELETE FROM vehicle_closed_hours AS closed USING newest
            WHERE closed.vehicle_key = newest.vehicle_key AND closed.hour_start = newest.hour_start
            RETURNING closed.vehicle_key, closed.kwh_delivered_dc AS hour_kwh, closed.readings AS hour_readings,
                closed.battery_temp_sum AS temp_sum, closed.battery_temp_readings AS temp_readings
        )
        INSERT INTO vehicle_current_status (
            vehicle_key, ts, kwh_delivered_dc, soc, battery_temp,
            hour_start, hour_kwh, hour_readings, hour_battery_temp_sum, hour_battery_temp_readings
        )
        SELECT vehicle_key, ts, kwh_delivered_dc, soc, battery_temp, hour_start, coalesce(hour_kwh, 0),
            coalesce(hour_readings, 0), coalesce(temp_sum, 0), coalesce(temp_readings, 0)
        FROM newest LEFT JOIN opened USING (vehicle_key)
    """,
)

METERS = Side(
    history_table="meter_telemetry_history",
    hours=_METER_HOURS,
    status=_METER_STATUS,
    keys="""
        SELECT meter_key FROM meters
        UNION SELECT meter_key FROM meter_current_status
        UNION SELECT meter_key FROM meter_energy_hourly
        ORDER BY meter_key
    """,
    stored_hours="""
        SELECT DISTINCT hour_start FROM meter_energy_hourly WHERE hour_start >= %(start)s AND hour_start < %(end)s
    """,
    some_reading="SELECT ts FROM meter_telemetry_history WHERE ts >= %(day)s AND ts < %(next_day)s LIMIT 1",
)

VEHICLES = Side(
    history_table="vehicle_telemetry_history",
    hours=_VEHICLE_HOURS,
    status=_VEHICLE_STATUS,
    keys="""
        SELECT vehicle_key FROM vehicles
        UNION SELECT vehicle_key FROM vehicle_current_status
        UNION SELECT vehicle_key FROM vehicle_energy_hourly
        ORDER BY vehicle_key
    """,
    stored_hours="""
        SELECT DISTINCT hour_start FROM vehicle_energy_hourly WHERE hour_start >= %(start)s AND hour_start < %(end)s
    """,
    some_reading="SELECT ts FROM vehicle_telemetry_history WHERE ts >= %(day)s AND ts < %(next_day)s LIMIT 1",
)
