"""Devices, history, current status, hourly rollups, mapping, and the roles that may touch them."""

from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

_TABLES = """
CREATE EXTENSION IF NOT EXISTS btree_gist;

CREATE TABLE meters (
    meter_key integer GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    meter_id text COLLATE "C" NOT NULL UNIQUE
);
CREATE TABLE vehicles (
    vehicle_key integer GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    vehicle_id text COLLATE "C" NOT NULL UNIQUE
);

CREATE TABLE meter_telemetry_history (
    meter_key integer NOT NULL,
    ts timestamptz NOT NULL,
    kwh_consumed_ac double precision NOT NULL,
    voltage double precision,
    PRIMARY KEY (meter_key, ts) INCLUDE (kwh_consumed_ac)
) PARTITION BY RANGE (ts);
CREATE TABLE vehicle_telemetry_history (
    vehicle_key integer NOT NULL,
    ts timestamptz NOT NULL,
    kwh_delivered_dc double precision NOT NULL,
    soc double precision,
    battery_temp double precision,
    PRIMARY KEY (vehicle_key, ts) INCLUDE (kwh_delivered_dc, battery_temp)
) PARTITION BY RANGE (ts);

CREATE TABLE meter_current_status (
    meter_key integer PRIMARY KEY,
    ts timestamptz NOT NULL,
    kwh_consumed_ac double precision NOT NULL,
    voltage double precision
) WITH (fillfactor = 70);
CREATE TABLE vehicle_current_status (
    vehicle_key integer PRIMARY KEY,
    ts timestamptz NOT NULL,
    kwh_delivered_dc double precision NOT NULL,
    soc double precision,
    battery_temp double precision
) WITH (fillfactor = 70);

CREATE TABLE meter_energy_hourly (
    meter_key integer NOT NULL,
    hour_start timestamptz NOT NULL,
    kwh_consumed_ac double precision NOT NULL,
    readings integer NOT NULL,
    PRIMARY KEY (meter_key, hour_start)
) WITH (fillfactor = 70);
CREATE TABLE vehicle_energy_hourly (
    vehicle_key integer NOT NULL,
    hour_start timestamptz NOT NULL,
    kwh_delivered_dc double precision NOT NULL,
    readings integer NOT NULL,
    battery_temp_sum double precision NOT NULL,
    battery_temp_readings integer NOT NULL,
    PRIMARY KEY (vehicle_key, hour_start)
) WITH (fillfactor = 70);

CREATE TABLE vehicle_meter_map (
    vehicle_key integer NOT NULL REFERENCES vehicles,
    meter_key integer NOT NULL REFERENCES meters,
    effective_from timestamptz NOT NULL,
    effective_until timestamptz,
    PRIMARY KEY (vehicle_key, effective_from),
    CONSTRAINT vehicle_meter_map_not_empty CHECK (effective_from < effective_until),
    CONSTRAINT vehicle_meter_map_one_meter_per_vehicle EXCLUDE USING gist
        (vehicle_key WITH =, tstzrange(effective_from, effective_until, '(]') WITH &&),
    CONSTRAINT vehicle_meter_map_one_vehicle_per_meter EXCLUDE USING gist
        (meter_key WITH =, tstzrange(effective_from, effective_until, '(]') WITH &&)
);
"""

# LIKE and ATTACH rather than PARTITION OF: attaching lets readers and writers of the other days go on.
_PARTITIONS = """
CREATE FUNCTION ensure_history_partition(parent text, day date) RETURNS boolean
LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, pg_temp AS $$
DECLARE
    partition text := parent || '_' || to_char(day, 'YYYYMMDD');
BEGIN
    IF parent NOT IN ('meter_telemetry_history', 'vehicle_telemetry_history') THEN
        RAISE EXCEPTION '% is not a history table', parent USING ERRCODE = 'invalid_parameter_value';
    END IF;
    IF to_regclass(partition) IS NOT NULL THEN
        RETURN false;
    END IF;
    PERFORM pg_advisory_xact_lock(hashtextextended('energyfleet.partitions', 0));
    -- to_regclass may still remember that there was none; a query looks.
    IF EXISTS (SELECT FROM pg_class WHERE relname = partition AND relnamespace = 'public'::regnamespace) THEN
        RETURN false;
    END IF;
    EXECUTE format('CREATE TABLE %I (LIKE %I INCLUDING ALL)', partition, parent);
    EXECUTE format(
        'ALTER TABLE %I ATTACH PARTITION %I FOR VALUES FROM (%L) TO (%L)', parent, partition,
        day::timestamp AT TIME ZONE 'UTC', (day + 1)::timestamp AT TIME ZONE 'UTC'
    );
    RETURN true;
END
$$;
COMMENT ON FUNCTION ensure_history_partition IS
    'Creates the partition of one UTC day where there is none; true if it did. Safe from several sessions at once.';
REVOKE ALL ON FUNCTION ensure_history_partition FROM PUBLIC;
"""

# Roles belong to the server, not to the database: another database may have created them, perhaps at this instant.
_ROLES = """
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
$$;
GRANT SELECT ON ALL TABLES IN SCHEMA public TO energyfleet_ingestion, energyfleet_analytics;
GRANT INSERT ON ALL TABLES IN SCHEMA public TO energyfleet_ingestion;
GRANT UPDATE ON meter_current_status, vehicle_current_status, meter_energy_hourly, vehicle_energy_hourly,
    vehicle_meter_map TO energyfleet_ingestion;
REVOKE INSERT ON alembic_version FROM energyfleet_ingestion;
GRANT EXECUTE ON FUNCTION ensure_history_partition TO energyfleet_ingestion;
"""


def upgrade() -> None:
    for statements in (_TABLES, _PARTITIONS, _ROLES):
        op.execute(statements)


def downgrade() -> None:
    raise NotImplementedError("the first revision holds the readings; drop the database instead")
