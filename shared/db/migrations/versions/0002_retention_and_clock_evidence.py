"""The retention floor and what moves it, and what readings say of their devices' clocks."""

from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

_TABLES = """
CREATE TABLE retention (
    one_row boolean PRIMARY KEY DEFAULT true CONSTRAINT retention_one_row CHECK (one_row),
    floor_day date NOT NULL
);
INSERT INTO retention (floor_day) VALUES ('0001-01-01');

CREATE TABLE meter_clock_evidence (
    meter_key integer PRIMARY KEY,
    newest_ts timestamptz,
    newest_age_us bigint,
    late_readings bigint NOT NULL,
    future_readings bigint NOT NULL,
    conflicting_readings bigint NOT NULL
) WITH (fillfactor = 70);
CREATE TABLE vehicle_clock_evidence (
    vehicle_key integer PRIMARY KEY,
    newest_ts timestamptz,
    newest_age_us bigint,
    late_readings bigint NOT NULL,
    future_readings bigint NOT NULL,
    conflicting_readings bigint NOT NULL
) WITH (fillfactor = 70);
"""

# As in 0001 but for the floor. It is asked for under the lock that moving it takes as well: whoever creates a day's
# partition is through before the floor passes that day, or finds it passed.
_ENSURE = """
CREATE OR REPLACE FUNCTION ensure_history_partition(parent text, day date) RETURNS boolean
LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, pg_temp AS $$
DECLARE
    partition text := parent || '_' || to_char(day, 'YYYYMMDD');
BEGIN
    IF parent NOT IN ('meter_telemetry_history', 'vehicle_telemetry_history') THEN
        RAISE EXCEPTION '% is not a history table', parent USING ERRCODE = 'invalid_parameter_value';
    END IF;
    IF to_regclass(partition) IS NOT NULL AND day >= (SELECT floor_day FROM retention) THEN
        RETURN false;
    END IF;
    PERFORM pg_advisory_xact_lock(hashtextextended('energyfleet.partitions', 0));
    IF day < (SELECT floor_day FROM retention) THEN
        RAISE EXCEPTION '% is before the retention floor %', day, (SELECT floor_day FROM retention)
            USING ERRCODE = 'datetime_field_overflow';
    END IF;
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
    'Creates the partition of one UTC day where there is none; true if it did. Safe from several sessions at once.'
    ' SQLSTATE 22008 for a day before the retention floor: what was a duplicate there is forgotten.';
"""

# A clock that is wrong must not drop what is kept, so two have to agree: the service's and the server's. A setting that
# is wrong may cost late readings, but not the last month.
_FLOOR = """
CREATE FUNCTION move_retention_floor(service_now timestamptz, retention_days integer) RETURNS date
LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, pg_temp AS $$
DECLARE
    wanted date := (least(service_now, now()) AT TIME ZONE 'UTC')::date - greatest(retention_days, 30);
BEGIN
    IF wanted > (SELECT floor_day FROM retention) THEN
        PERFORM pg_advisory_xact_lock(hashtextextended('energyfleet.partitions', 0));
        UPDATE retention SET floor_day = wanted WHERE floor_day < wanted;
    END IF;
    RETURN (SELECT floor_day FROM retention);
END
$$;
COMMENT ON FUNCTION move_retention_floor IS
    'Moves the floor forward to so many days, at least 30, before the earlier of two clocks; returns where it is then.';
REVOKE ALL ON FUNCTION move_retention_floor FROM PUBLIC;
"""

# Dropping locks the parent against everybody. The wait for that lock holds up all who come after it: hence its limit.
# It takes the parent first, then the partition, in the order of every reader and writer: no circle. The floor that
# counts is a committed one, or a writer that does not see it yet could bring the dropped day back.
_DROP = """
CREATE FUNCTION drop_oldest_history_partition(parent text) RETURNS text
LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, pg_temp SET datestyle = 'ISO, YMD'
SET lock_timeout = '500ms' AS $$
DECLARE
    oldest text;
BEGIN
    IF parent NOT IN ('meter_telemetry_history', 'vehicle_telemetry_history') THEN
        RAISE EXCEPTION '% is not a history table', parent USING ERRCODE = 'invalid_parameter_value';
    END IF;
    PERFORM pg_advisory_xact_lock(hashtextextended('energyfleet.retention', 0));
    IF EXISTS (SELECT FROM retention WHERE xmin = pg_current_xact_id_if_assigned()::xid) THEN
        RAISE EXCEPTION 'commit the retention floor first' USING ERRCODE = 'object_not_in_prerequisite_state';
    END IF;
    SELECT child.relname INTO oldest
    FROM pg_inherits JOIN pg_class AS child ON child.oid = inhrelid
        CROSS JOIN LATERAL substring(pg_get_expr(child.relpartbound, child.oid) FROM 'TO [(]''([^'']+)''[)]') AS bound
    WHERE inhparent = parent::regclass AND child.relnamespace = 'public'::regnamespace
        AND bound::timestamptz <= (SELECT floor_day::timestamp AT TIME ZONE 'UTC' FROM retention)
    ORDER BY bound::timestamptz
    LIMIT 1;
    IF oldest IS NOT NULL THEN
        EXECUTE format('DROP TABLE %I', oldest);
    END IF;
    RETURN oldest;
END
$$;
COMMENT ON FUNCTION drop_oldest_history_partition IS
    'Drops the oldest partition that lies wholly before the retention floor; its name, or null where there is none.'
    ' SQLSTATE 55P03 where it is in use for longer than half a second.';
REVOKE ALL ON FUNCTION drop_oldest_history_partition FROM PUBLIC;
"""

_RIGHTS = """
GRANT SELECT ON retention, meter_clock_evidence, vehicle_clock_evidence TO energyfleet_ingestion, energyfleet_analytics;
GRANT INSERT, UPDATE ON meter_clock_evidence, vehicle_clock_evidence TO energyfleet_ingestion;
GRANT EXECUTE ON FUNCTION move_retention_floor, drop_oldest_history_partition TO energyfleet_ingestion;
"""


def upgrade() -> None:
    for statements in (_TABLES, _ENSURE, _FLOOR, _DROP, _RIGHTS):
        op.execute(statements)


def downgrade() -> None:
    raise NotImplementedError("the floor must not be forgotten: dropped days would be taken again")
