"""The hour that a device is in moves into its status, so that a reading changes one row instead of two."""

from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None

# What reads the rollups reads the same names. What wrote to them can't write to a view: an ingestion service of an
# older version then has its readings kept by the devices, instead of counting them in the wrong place.
_TABLES = """
ALTER TABLE meter_energy_hourly RENAME TO meter_closed_hours;
ALTER TABLE meter_closed_hours RENAME CONSTRAINT meter_energy_hourly_pkey TO meter_closed_hours_pkey;
ALTER INDEX meter_energy_hourly_hour_start RENAME TO meter_closed_hours_hour_start;
ALTER TABLE vehicle_energy_hourly RENAME TO vehicle_closed_hours;
ALTER TABLE vehicle_closed_hours RENAME CONSTRAINT vehicle_energy_hourly_pkey TO vehicle_closed_hours_pkey;
ALTER INDEX vehicle_energy_hourly_hour_start RENAME TO vehicle_closed_hours_hour_start;
ALTER TABLE meter_current_status
    ADD COLUMN hour_start timestamptz,
    ADD COLUMN hour_kwh double precision NOT NULL DEFAULT 0,
    ADD COLUMN hour_readings integer NOT NULL DEFAULT 0,
    ADD COLUMN closed_hour_start timestamptz,
    ADD COLUMN closed_kwh double precision,
    ADD COLUMN closed_readings integer;
ALTER TABLE vehicle_current_status
    ADD COLUMN hour_start timestamptz,
    ADD COLUMN hour_kwh double precision NOT NULL DEFAULT 0,
    ADD COLUMN hour_readings integer NOT NULL DEFAULT 0,
    ADD COLUMN hour_battery_temp_sum double precision NOT NULL DEFAULT 0,
    ADD COLUMN hour_battery_temp_readings integer NOT NULL DEFAULT 0,
    ADD COLUMN closed_hour_start timestamptz,
    ADD COLUMN closed_kwh double precision,
    ADD COLUMN closed_readings integer,
    ADD COLUMN closed_battery_temp_sum double precision,
    ADD COLUMN closed_battery_temp_readings integer;
"""

_OPEN_THE_NEWEST_HOUR = """
UPDATE meter_current_status SET hour_start = date_bin('1 hour', ts - interval '1 microsecond', 'epoch');
UPDATE vehicle_current_status SET hour_start = date_bin('1 hour', ts - interval '1 microsecond', 'epoch');
ALTER TABLE meter_current_status ALTER COLUMN hour_start SET NOT NULL;
ALTER TABLE vehicle_current_status ALTER COLUMN hour_start SET NOT NULL;
WITH opened AS (
    DELETE FROM meter_closed_hours AS closed USING meter_current_status AS status
    WHERE closed.meter_key = status.meter_key AND closed.hour_start = status.hour_start
    RETURNING closed.*
)
UPDATE meter_current_status AS status SET hour_kwh = opened.kwh_consumed_ac, hour_readings = opened.readings
FROM opened WHERE opened.meter_key = status.meter_key;
WITH opened AS (
    DELETE FROM vehicle_closed_hours AS closed USING vehicle_current_status AS status
    WHERE closed.vehicle_key = status.vehicle_key AND closed.hour_start = status.hour_start
    RETURNING closed.*
)
UPDATE vehicle_current_status AS status
SET hour_kwh = opened.kwh_delivered_dc, hour_readings = opened.readings,
    hour_battery_temp_sum = opened.battery_temp_sum, hour_battery_temp_readings = opened.battery_temp_readings
FROM opened WHERE opened.vehicle_key = status.vehicle_key;
"""

_VIEWS = """
CREATE VIEW meter_energy_hourly AS
    SELECT meter_key, hour_start, kwh_consumed_ac, readings FROM meter_closed_hours
    UNION ALL
    SELECT meter_key, hour_start, hour_kwh, hour_readings FROM meter_current_status WHERE hour_readings > 0;
CREATE VIEW vehicle_energy_hourly AS
    SELECT vehicle_key, hour_start, kwh_delivered_dc, readings, battery_temp_sum, battery_temp_readings
    FROM vehicle_closed_hours
    UNION ALL
    SELECT vehicle_key, hour_start, hour_kwh, hour_readings, hour_battery_temp_sum, hour_battery_temp_readings
    FROM vehicle_current_status WHERE hour_readings > 0;
COMMENT ON VIEW meter_energy_hourly IS 'The hourly rollups: closed hours, and each meter''s open one from its status.';
COMMENT ON VIEW vehicle_energy_hourly IS
    'The hourly rollups: closed hours, and each vehicle''s open one from its status.';
GRANT SELECT ON meter_energy_hourly, vehicle_energy_hourly TO energyfleet_ingestion, energyfleet_analytics;
"""

_CLOSE_THE_OPEN_HOURS = """
DROP VIEW meter_energy_hourly, vehicle_energy_hourly;
INSERT INTO meter_closed_hours (meter_key, hour_start, kwh_consumed_ac, readings)
SELECT meter_key, hour_start, hour_kwh, hour_readings FROM meter_current_status WHERE hour_readings > 0;
INSERT INTO vehicle_closed_hours
    (vehicle_key, hour_start, kwh_delivered_dc, readings, battery_temp_sum, battery_temp_readings)
SELECT vehicle_key, hour_start, hour_kwh, hour_readings, hour_battery_temp_sum, hour_battery_temp_readings
FROM vehicle_current_status WHERE hour_readings > 0;
ALTER TABLE meter_current_status
    DROP COLUMN hour_start, DROP COLUMN hour_kwh, DROP COLUMN hour_readings,
    DROP COLUMN closed_hour_start, DROP COLUMN closed_kwh, DROP COLUMN closed_readings;
ALTER TABLE vehicle_current_status
    DROP COLUMN hour_start, DROP COLUMN hour_kwh, DROP COLUMN hour_readings,
    DROP COLUMN hour_battery_temp_sum, DROP COLUMN hour_battery_temp_readings,
    DROP COLUMN closed_hour_start, DROP COLUMN closed_kwh, DROP COLUMN closed_readings,
    DROP COLUMN closed_battery_temp_sum, DROP COLUMN closed_battery_temp_readings;
ALTER TABLE meter_closed_hours RENAME TO meter_energy_hourly;
ALTER TABLE meter_energy_hourly RENAME CONSTRAINT meter_closed_hours_pkey TO meter_energy_hourly_pkey;
ALTER INDEX meter_closed_hours_hour_start RENAME TO meter_energy_hourly_hour_start;
ALTER TABLE vehicle_closed_hours RENAME TO vehicle_energy_hourly;
ALTER TABLE vehicle_energy_hourly RENAME CONSTRAINT vehicle_closed_hours_pkey TO vehicle_energy_hourly_pkey;
ALTER INDEX vehicle_closed_hours_hour_start RENAME TO vehicle_energy_hourly_hour_start;
"""


def upgrade() -> None:
    for statements in (_TABLES, _OPEN_THE_NEWEST_HOUR, _VIEWS):
        op.execute(statements)


def downgrade() -> None:
    op.execute(_CLOSE_THE_OPEN_HOURS)
