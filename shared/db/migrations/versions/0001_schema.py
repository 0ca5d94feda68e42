"""The schema: devices, mappings, readings, rollups, retention, and the roles that may touch them.

Everything is made where the session's search path begins. Functions keep that path, which ends with pg_temp: temporary
tables of whoever calls them stand in for none of ours.
"""

from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def _of_both(statement: str) -> tuple[str, str]:
    """A statement about meters, and the same about vehicles."""
    return statement.format(device="meter"), statement.format(device="vehicle")


_DEVICES = (
    *_of_both("""
    CREATE TABLE {device}s (
        {device}_key integer GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
        {device}_id text COLLATE "C" NOT NULL UNIQUE
    )
    """),
    # Whoever makes up a million ids that differ only in case makes no search for a few of them longer.
    *_of_both("CREATE INDEX {device}s_lower_id ON {device}s (lower({device}_id), {device}_id)"),
    # GiST by itself has no operators for integers. An extension belongs to the database: another schema's migration may
    # be creating it at this instant. Nor must it go with the schema of a fleet that is dropped, hence its place.
    """
    DO $$
    BEGIN
        CREATE EXTENSION IF NOT EXISTS btree_gist SCHEMA pg_catalog;
    EXCEPTION WHEN duplicate_object OR unique_violation THEN
        NULL;
    END
    $$
    """,
    # Several meters may feed a vehicle at a time, but a meter only one vehicle. So no two mappings of a pair overlap.
    """
    CREATE TABLE vehicle_meter_map (
        vehicle_key integer NOT NULL REFERENCES vehicles,
        meter_key integer NOT NULL REFERENCES meters,
        effective_from timestamptz NOT NULL,
        effective_until timestamptz,
        PRIMARY KEY (vehicle_key, meter_key, effective_from),
        CONSTRAINT vehicle_meter_map_not_empty CHECK (effective_from < effective_until),
        CONSTRAINT vehicle_meter_map_one_vehicle_per_meter EXCLUDE USING gist
            (meter_key WITH =, tstzrange(effective_from, effective_until, '(]') WITH &&)
    )
    """,
)

_READINGS = (
    """
    CREATE TABLE meter_telemetry_history (
        meter_key integer NOT NULL,
        ts timestamptz NOT NULL,
        kwh_consumed_ac double precision NOT NULL,
        voltage double precision,
        register_kwh double precision,
        sent_kwh double precision,
        counting text,
        PRIMARY KEY (meter_key, ts) INCLUDE (kwh_consumed_ac)
    ) PARTITION BY RANGE (ts)
    """,
    """
    CREATE TABLE vehicle_telemetry_history (
        vehicle_key integer NOT NULL,
        ts timestamptz NOT NULL,
        kwh_delivered_dc double precision NOT NULL,
        soc double precision,
        battery_temp double precision,
        register_kwh double precision,
        sent_kwh double precision,
        counting text,
        PRIMARY KEY (vehicle_key, ts) INCLUDE (kwh_delivered_dc, battery_temp)
    ) PARTITION BY RANGE (ts)
    """,
    # The readings that do not simply count, of which there are few.
    *_of_both("""
    CREATE INDEX {device}_telemetry_history_counting ON {device}_telemetry_history ({device}_key, ts) INCLUDE (counting)
        WHERE counting IS NOT NULL
    """),
    """
    CREATE TABLE meter_current_status (
        meter_key integer PRIMARY KEY,
        ts timestamptz NOT NULL,
        kwh_consumed_ac double precision NOT NULL,
        voltage double precision,
        register_kwh double precision,
        sent_kwh double precision,
        rising_from_kwh double precision,
        hour_start timestamptz NOT NULL,
        hour_kwh double precision NOT NULL DEFAULT 0,
        hour_kwh_returned double precision NOT NULL DEFAULT 0,
        hour_readings integer NOT NULL DEFAULT 0,
        closed_hour_start timestamptz,
        closed_last_ts timestamptz,
        closed_kwh double precision,
        closed_kwh_returned double precision,
        closed_readings integer
    ) WITH (fillfactor = 70)
    """,
    """
    CREATE TABLE vehicle_current_status (
        vehicle_key integer PRIMARY KEY,
        ts timestamptz NOT NULL,
        kwh_delivered_dc double precision NOT NULL,
        soc double precision,
        battery_temp double precision,
        register_kwh double precision,
        sent_kwh double precision,
        rising_from_kwh double precision,
        hour_start timestamptz NOT NULL,
        hour_kwh double precision NOT NULL DEFAULT 0,
        hour_kwh_returned double precision NOT NULL DEFAULT 0,
        hour_readings integer NOT NULL DEFAULT 0,
        hour_battery_temp_sum double precision NOT NULL DEFAULT 0,
        hour_battery_temp_readings integer NOT NULL DEFAULT 0,
        closed_hour_start timestamptz,
        closed_last_ts timestamptz,
        closed_kwh double precision,
        closed_kwh_returned double precision,
        closed_readings integer,
        closed_battery_temp_sum double precision,
        closed_battery_temp_readings integer
    ) WITH (fillfactor = 70)
    """,
)

# The hour of a row never changes, so updates stay HOT: the index by hour is touched once for each. Without it the hours
# of a whole fleet would cost more with every hour that is stored.
_ROLLUPS = (
    """
    CREATE TABLE meter_closed_hours (
        device_key integer NOT NULL,
        hour_start timestamptz NOT NULL,
        last_ts timestamptz NOT NULL,
        kwh double precision NOT NULL,
        kwh_returned double precision NOT NULL,
        readings integer NOT NULL,
        PRIMARY KEY (device_key, hour_start)
    ) WITH (fillfactor = 70)
    """,
    """
    CREATE TABLE vehicle_closed_hours (
        device_key integer NOT NULL,
        hour_start timestamptz NOT NULL,
        last_ts timestamptz NOT NULL,
        kwh double precision NOT NULL,
        kwh_returned double precision NOT NULL,
        readings integer NOT NULL,
        battery_temp_sum double precision NOT NULL,
        battery_temp_readings integer NOT NULL,
        PRIMARY KEY (device_key, hour_start)
    ) WITH (fillfactor = 70)
    """,
    *_of_both("CREATE INDEX {device}_closed_hours_hour_start ON {device}_closed_hours (hour_start)"),
    """
    CREATE VIEW meter_energy_hourly AS
        SELECT device_key AS meter_key, hour_start, last_ts, kwh AS kwh_consumed_ac, kwh_returned AS kwh_returned_ac,
            readings
        FROM meter_closed_hours
        UNION ALL
        SELECT meter_key, hour_start, ts, hour_kwh, hour_kwh_returned, hour_readings
        FROM meter_current_status WHERE hour_readings > 0
    """,
    """
    CREATE VIEW vehicle_energy_hourly AS
        SELECT device_key AS vehicle_key, hour_start, last_ts, kwh AS kwh_delivered_dc,
            kwh_returned AS kwh_returned_dc, readings, battery_temp_sum, battery_temp_readings
        FROM vehicle_closed_hours
        UNION ALL
        SELECT vehicle_key, hour_start, ts, hour_kwh, hour_kwh_returned, hour_readings,
            hour_battery_temp_sum, hour_battery_temp_readings
        FROM vehicle_current_status WHERE hour_readings > 0
    """,
    *_of_both("""
    COMMENT ON VIEW {device}_energy_hourly IS
        'The hourly rollups: closed hours, and each {device}''s open one from its status.'
        ' last_ts is the timestamp of the hour''s last reading.'
    """),
    *_of_both("""
    CREATE TABLE {device}_hour_changes (
        hour_start timestamptz NOT NULL,
        writer integer NOT NULL,
        mark uuid NOT NULL,
        PRIMARY KEY (hour_start, writer)
    ) WITH (fillfactor = 70)
    """),
)

_UPKEEP = (
    *_of_both("""
    CREATE TABLE {device}_clock_evidence (
        device_key integer PRIMARY KEY,
        newest_ts timestamptz,
        newest_age_us bigint,
        late_readings bigint NOT NULL,
        future_readings bigint NOT NULL,
        conflicting_readings bigint NOT NULL
    ) WITH (fillfactor = 70)
    """),
    *_of_both("""
    CREATE TABLE {device}_refusals (
        device_id text COLLATE "C",
        field text COLLATE "C",
        reason text COLLATE "C",
        count bigint NOT NULL,
        last_at timestamptz NOT NULL,
        last_description text NOT NULL,
        PRIMARY KEY (device_id, field, reason)
    ) WITH (fillfactor = 70)
    """),
    """
    CREATE TABLE heartbeat (
        one_row boolean PRIMARY KEY DEFAULT true CONSTRAINT heartbeat_one_row CHECK (one_row),
        beat_at timestamptz NOT NULL
    ) WITH (fillfactor = 70)
    """,
    "INSERT INTO heartbeat (beat_at) VALUES (clock_timestamp())",
    """
    CREATE TABLE retention (
        one_row boolean PRIMARY KEY DEFAULT true CONSTRAINT retention_one_row CHECK (one_row),
        floor_day date NOT NULL
    )
    """,
    "INSERT INTO retention (floor_day) VALUES ('0001-01-01')",
)

# What counts of a reading's energy, by the reading before it in time: the same rule as `ingestion_svc.counting`, to the
# last bit. PostgreSQL expands such functions where they are called.
_COUNTING = (
    """
    CREATE FUNCTION plausible_kwh(
        ts timestamptz, before_ts timestamptz, power_max_kw double precision, power_min_interval_s double precision
    ) RETURNS double precision LANGUAGE sql IMMUTABLE PARALLEL SAFE
    RETURN CASE
        WHEN before_ts IS NULL THEN 1000
        ELSE power_max_kw * greatest(
            extract(epoch FROM ts - before_ts)::double precision, power_min_interval_s
        ) / 3600
    END
    """,
    """
    COMMENT ON FUNCTION plausible_kwh IS
        'The most energy in kWh that counts of a reading, which comes so long after the one before it.'
    """,
    """
    CREATE FUNCTION counting_of(
        sent_kwh double precision, register_kwh double precision, before_register_kwh double precision,
        plausible_kwh double precision
    ) RETURNS text LANGUAGE sql IMMUTABLE PARALLEL SAFE
    RETURN CASE
        WHEN register_kwh IS NULL THEN CASE WHEN abs(sent_kwh) > plausible_kwh THEN 'doubted' END
        WHEN before_register_kwh IS NULL THEN 'baseline'
        WHEN register_kwh < before_register_kwh THEN CASE WHEN register_kwh > plausible_kwh THEN 'jump' ELSE 'reset' END
        WHEN register_kwh - before_register_kwh > plausible_kwh THEN 'jump'
    END
    """,
    """
    COMMENT ON FUNCTION counting_of IS
        'Why a reading does not simply count as it was sent, or with the rise of its register; null where it does.'
    """,
    """
    CREATE FUNCTION counted_kwh(
        counting text, sent_kwh double precision, register_kwh double precision, before_register_kwh double precision
    ) RETURNS double precision LANGUAGE sql IMMUTABLE PARALLEL SAFE
    RETURN CASE
        WHEN counting IS NULL THEN coalesce(sent_kwh, register_kwh - before_register_kwh)
        WHEN counting = 'reset' THEN register_kwh
        ELSE 0
    END
    """,
    "COMMENT ON FUNCTION counted_kwh IS 'The energy in kWh that counts of a reading, by what counting_of says of it.'",
)

_CORRECTIONS = (
    """
    CREATE TABLE corrections (
        correction_id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
        device_kind text NOT NULL,
        device_id text COLLATE "C" NOT NULL,
        ts timestamptz NOT NULL,
        sent_kwh double precision NOT NULL,
        kwh_before double precision NOT NULL,
        kwh double precision NOT NULL,
        voided boolean NOT NULL,
        author text NOT NULL,
        note text NOT NULL,
        corrected_at timestamptz NOT NULL DEFAULT now()
    )
    """,
    "CREATE INDEX corrections_reading ON corrections (device_kind, device_id, ts)",
)

_PARTITIONS = (
    # LIKE and ATTACH rather than PARTITION OF: attaching lets readers and writers of the other days go on. The floor is
    # compared under the lock that moving it takes as well: whoever creates a day's partition is through before the
    # floor passes that day, or finds it passed.
    """
    CREATE FUNCTION ensure_history_partition(parent text, day date) RETURNS boolean
    LANGUAGE plpgsql SECURITY DEFINER SET search_path FROM CURRENT AS $$
    DECLARE
        partition text := parent || '_' || to_char(day, 'YYYYMMDD');
    BEGIN
        IF parent NOT IN ('meter_telemetry_history', 'vehicle_telemetry_history') THEN
            RAISE EXCEPTION '% is not a history table', parent USING ERRCODE = 'invalid_parameter_value';
        END IF;
        IF to_regclass(partition) IS NOT NULL AND day >= (SELECT floor_day FROM retention) THEN
            RETURN false;
        END IF;
        PERFORM pg_advisory_xact_lock(hashtextextended('energyfleet.partitions.' || current_schema(), 0));
        IF day < (SELECT floor_day FROM retention) THEN
            RAISE EXCEPTION '% is before the retention floor %', day, (SELECT floor_day FROM retention)
                USING ERRCODE = 'datetime_field_overflow';
        END IF;
        -- to_regclass may still remember that there was none; a query looks.
        IF EXISTS (
            SELECT FROM pg_class WHERE relname = partition AND relnamespace = current_schema()::regnamespace
        ) THEN
            RETURN false;
        END IF;
        EXECUTE format('CREATE TABLE %I (LIKE %I INCLUDING ALL)', partition, parent);
        EXECUTE format(
            'ALTER TABLE %I ATTACH PARTITION %I FOR VALUES FROM (%L) TO (%L)', parent, partition,
            day::timestamp AT TIME ZONE 'UTC', (day + 1)::timestamp AT TIME ZONE 'UTC'
        );
        RETURN true;
    END
    $$
    """,
    """
    COMMENT ON FUNCTION ensure_history_partition IS
        'Creates the partition of one UTC day where there is none; true if it did. Safe from several sessions at once.'
        ' SQLSTATE 22008 for a day before the retention floor: what was a duplicate there is forgotten.'
    """,
    # A clock that is wrong must not drop what is kept, so two have to agree: the service's and the server's. A setting
    # that is wrong may cost late readings, but not the last month.
    """
    CREATE FUNCTION move_retention_floor(service_now timestamptz, retention_days integer) RETURNS date
    LANGUAGE plpgsql SECURITY DEFINER SET search_path FROM CURRENT AS $$
    DECLARE
        wanted date := (least(service_now, now()) AT TIME ZONE 'UTC')::date - greatest(retention_days, 30);
    BEGIN
        IF wanted > (SELECT floor_day FROM retention) THEN
            PERFORM pg_advisory_xact_lock(hashtextextended('energyfleet.partitions.' || current_schema(), 0));
            UPDATE retention SET floor_day = wanted WHERE floor_day < wanted;
        END IF;
        RETURN (SELECT floor_day FROM retention);
    END
    $$
    """,
    """
    COMMENT ON FUNCTION move_retention_floor IS
        'Moves the floor forward to so many days, at least 30, before the earlier of two clocks;'
        ' returns where it is then.'
    """,
    # Dropping locks the parent against everybody, and whoever comes while it waits for that lock waits behind it: hence
    # its limit. It takes the parent first, then the partition, in the order of every reader and writer: no deadlock.
    # The floor that counts is a committed one, or a writer that does not see it yet could bring the dropped day back.
    """
    CREATE FUNCTION drop_oldest_history_partition(parent text) RETURNS text
    LANGUAGE plpgsql SECURITY DEFINER SET search_path FROM CURRENT SET datestyle = 'ISO, YMD'
    SET lock_timeout = '500ms' AS $$
    DECLARE
        oldest text;
    BEGIN
        IF parent NOT IN ('meter_telemetry_history', 'vehicle_telemetry_history') THEN
            RAISE EXCEPTION '% is not a history table', parent USING ERRCODE = 'invalid_parameter_value';
        END IF;
        PERFORM pg_advisory_xact_lock(hashtextextended('energyfleet.retention.' || current_schema(), 0));
        IF EXISTS (SELECT FROM retention WHERE xmin = pg_current_xact_id_if_assigned()::xid) THEN
            RAISE EXCEPTION 'commit the retention floor first' USING ERRCODE = 'object_not_in_prerequisite_state';
        END IF;
        SELECT child.relname INTO oldest
        FROM pg_inherits JOIN pg_class AS child ON child.oid = inhrelid
            CROSS JOIN LATERAL substring(
                pg_get_expr(child.relpartbound, child.oid) FROM 'TO [(]''([^'']+)''[)]'
            ) AS bound
        WHERE inhparent = parent::regclass AND child.relnamespace = current_schema()::regnamespace
            AND bound::timestamptz <= (SELECT floor_day::timestamp AT TIME ZONE 'UTC' FROM retention)
        ORDER BY bound::timestamptz
        LIMIT 1;
        IF oldest IS NOT NULL THEN
            EXECUTE format('DROP TABLE %I', oldest);
        END IF;
        RETURN oldest;
    END
    $$
    """,
    """
    COMMENT ON FUNCTION drop_oldest_history_partition IS
        'Drops the oldest partition that lies wholly before the retention floor; its name, or null where there is none.'
        ' SQLSTATE 55P03 where it is in use for longer than half a second.'
    """,
)

_RIGHTS = (
    # Roles belong to the server, not to the database: another database may have created them, perhaps at this instant.
    """
    DO $$
    DECLARE
        role_name text;
    BEGIN
        FOREACH role_name IN ARRAY ARRAY['energyfleet_ingestion', 'energyfleet_analytics'] LOOP
            IF to_regrole(role_name) IS NULL THEN
                BEGIN
                    EXECUTE format('CREATE ROLE %I NOLOGIN', role_name);
                EXCEPTION WHEN duplicate_object OR unique_violation THEN
                    NULL;
                END;
            END IF;
        END LOOP;
    END
    $$
    """,
    """
    DO $$
    BEGIN
        EXECUTE format('GRANT USAGE ON SCHEMA %I TO energyfleet_ingestion, energyfleet_analytics', current_schema());
    END
    $$
    """,
    """
    GRANT SELECT ON alembic_version, heartbeat, retention, meters, vehicles, vehicle_meter_map, corrections,
        meter_telemetry_history, meter_current_status, meter_closed_hours, meter_energy_hourly,
        meter_hour_changes, meter_clock_evidence, meter_refusals,
        vehicle_telemetry_history, vehicle_current_status, vehicle_closed_hours, vehicle_energy_hourly,
        vehicle_hour_changes, vehicle_clock_evidence, vehicle_refusals
        TO energyfleet_ingestion, energyfleet_analytics
    """,
    "GRANT INSERT ON meters, vehicles, meter_telemetry_history, vehicle_telemetry_history TO energyfleet_ingestion",
    """
    GRANT INSERT, UPDATE ON meter_current_status, vehicle_current_status, meter_clock_evidence, vehicle_clock_evidence
        TO energyfleet_ingestion
    """,
    # What an operator corrects: the energy that counts, and with it the hour's rollup.
    "GRANT UPDATE (kwh_consumed_ac, sent_kwh, counting) ON meter_telemetry_history TO energyfleet_ingestion",
    "GRANT UPDATE (kwh_delivered_dc, sent_kwh, counting) ON vehicle_telemetry_history TO energyfleet_ingestion",
    "GRANT INSERT ON corrections TO energyfleet_ingestion",
    "GRANT INSERT, UPDATE, DELETE ON meter_closed_hours, vehicle_closed_hours TO energyfleet_ingestion",
    """
    GRANT INSERT, UPDATE, DELETE ON vehicle_meter_map, meter_hour_changes, vehicle_hour_changes, meter_refusals,
        vehicle_refusals TO energyfleet_ingestion
    """,
    "GRANT INSERT (beat_at), UPDATE (beat_at) ON heartbeat TO energyfleet_ingestion",
    """
    REVOKE ALL ON FUNCTION ensure_history_partition, move_retention_floor, drop_oldest_history_partition FROM PUBLIC
    """,
    """
    GRANT EXECUTE ON FUNCTION ensure_history_partition, move_retention_floor, drop_oldest_history_partition
        TO energyfleet_ingestion
    """,
)


def upgrade() -> None:
    for statement in (*_DEVICES, *_READINGS, *_ROLLUPS, *_COUNTING, *_UPKEEP, *_CORRECTIONS, *_PARTITIONS, *_RIGHTS):
        op.execute(statement)


def downgrade() -> None:
    raise NotImplementedError("this revision holds the readings; drop the schema instead")
