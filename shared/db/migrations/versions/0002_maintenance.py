"""The rights of maintenance, for `energyfleet maintain` and `energyfleet verify`; the services lose some of no use.

Services of the older version go on: they never read what they may no longer read.
"""

from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

_STATEMENTS = (
    # Whoever migrates may have no right to make roles. Nothing else needs this one, so that it may be missing.
    """
    DO $$
    BEGIN
        IF to_regrole('energyfleet_maintenance') IS NULL THEN
            CREATE ROLE energyfleet_maintenance NOLOGIN;
        END IF;
    EXCEPTION WHEN duplicate_object OR unique_violation OR insufficient_privilege THEN
        NULL;
    END
    $$
    """,
    # Nobody who has found a device's key may be about to store its first reading: that takes the locks, in the order in
    # which writers take theirs. They wait for us no longer than the time limit.
    """
    CREATE FUNCTION forget_devices() RETURNS TABLE (kind text, device_id text)
    LANGUAGE plpgsql SECURITY DEFINER SET search_path FROM CURRENT SET lock_timeout = '2s' AS $$
    BEGIN
        LOCK TABLE vehicles, meters, vehicle_meter_map, vehicle_current_status, meter_current_status
            IN ACCESS EXCLUSIVE MODE;
        RETURN QUERY DELETE FROM vehicles
            WHERE NOT EXISTS (SELECT FROM vehicle_current_status AS it WHERE it.vehicle_key = vehicles.vehicle_key)
                AND NOT EXISTS (SELECT FROM vehicle_closed_hours WHERE device_key = vehicles.vehicle_key)
                AND NOT EXISTS (SELECT FROM vehicle_meter_map AS it WHERE it.vehicle_key = vehicles.vehicle_key)
            RETURNING 'vehicle', vehicle_id;
        RETURN QUERY DELETE FROM meters
            WHERE NOT EXISTS (SELECT FROM meter_current_status AS it WHERE it.meter_key = meters.meter_key)
                AND NOT EXISTS (SELECT FROM meter_closed_hours WHERE device_key = meters.meter_key)
                AND NOT EXISTS (SELECT FROM vehicle_meter_map AS it WHERE it.meter_key = meters.meter_key)
            RETURNING 'meter', meter_id;
    END
    $$
    """,
    """
    COMMENT ON FUNCTION forget_devices IS
        'Removes the devices that have no reading and no mapping, and tells which these are.'
    """,
    "REVOKE ALL ON FUNCTION forget_devices FROM PUBLIC",
    # A function, because the role may be made later: then there is no migration any more that could grant.
    """
    CREATE FUNCTION grant_to_maintenance() RETURNS boolean LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
    BEGIN
        IF to_regrole('energyfleet_maintenance') IS NULL THEN
            RETURN false;
        END IF;
        EXECUTE format('GRANT USAGE ON SCHEMA %I TO energyfleet_maintenance', current_schema());
        GRANT SELECT ON alembic_version, retention, meters, vehicles,
            meter_telemetry_history, meter_current_status, meter_closed_hours, meter_energy_hourly, meter_hour_changes,
            vehicle_telemetry_history, vehicle_current_status, vehicle_closed_hours, vehicle_energy_hourly,
            vehicle_hour_changes
            TO energyfleet_maintenance;
        -- What repairing changes: what counts of history's energies, and all that follows from it.
        GRANT UPDATE (kwh_consumed_ac, sent_kwh, counting) ON meter_telemetry_history TO energyfleet_maintenance;
        GRANT UPDATE (kwh_delivered_dc, sent_kwh, counting) ON vehicle_telemetry_history TO energyfleet_maintenance;
        GRANT INSERT, DELETE ON meter_current_status, vehicle_current_status TO energyfleet_maintenance;
        GRANT UPDATE (hour_kwh, hour_kwh_returned, hour_readings) ON meter_current_status TO energyfleet_maintenance;
        GRANT UPDATE (
            hour_kwh, hour_kwh_returned, hour_readings, hour_battery_temp_sum, hour_battery_temp_readings
        ) ON vehicle_current_status TO energyfleet_maintenance;
        GRANT INSERT, UPDATE, DELETE ON meter_closed_hours, vehicle_closed_hours TO energyfleet_maintenance;
        GRANT INSERT, UPDATE (mark), DELETE ON meter_hour_changes, vehicle_hour_changes TO energyfleet_maintenance;
        GRANT EXECUTE ON FUNCTION ensure_history_partition, move_retention_floor, drop_oldest_history_partition,
            forget_devices
            TO energyfleet_maintenance;
        RETURN true;
    END
    $$
    """,
    """
    COMMENT ON FUNCTION grant_to_maintenance IS
        'Grants the role energyfleet_maintenance what maintain and verify need; false where there is no such role.'
    """,
    "REVOKE ALL ON FUNCTION grant_to_maintenance FROM PUBLIC",
    "SELECT grant_to_maintenance()",
    "REVOKE SELECT ON meter_energy_hourly, vehicle_energy_hourly FROM energyfleet_ingestion",
    "REVOKE SELECT ON corrections, meter_closed_hours, vehicle_closed_hours FROM energyfleet_analytics",
)


def upgrade() -> None:
    for statement in _STATEMENTS:
        op.execute(statement)


def downgrade() -> None:
    raise NotImplementedError("a right that was taken is granted by hand")
