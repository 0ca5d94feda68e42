"""What ingestion says to the database about mappings; `mappings` asks."""

from sqlalchemy import text

# Mappings are rare: one at a time is fast enough, and nobody has to think about two that cross.
LOCK = text("SELECT pg_advisory_xact_lock(hashtextextended('energyfleet.mappings.' || current_schema(), 0))")

REGISTER_VEHICLE = text("INSERT INTO vehicles (vehicle_id) VALUES (:vehicle_id) ON CONFLICT DO NOTHING")
REGISTER_METER = text("INSERT INTO meters (meter_id) VALUES (:meter_id) ON CONFLICT DO NOTHING")

# Only asked for where a vehicle has no mapping that would prove it.
IS_KNOWN = text("SELECT EXISTS (SELECT FROM vehicles WHERE vehicle_id = :vehicle_id)")

# A mapping, with the changes that registered and ended it: null where nobody knows, or where there was none. An older
# version of the service moves starts and ends and leaves the change before, which said something else.
_MAPPINGS = """
    SELECT vehicles.vehicle_id, meters.meter_id, effective_from, effective_until,
        registered.change_id, registered.identity, registered.note, registered.changed_at,
        ended.change_id, ended.identity, ended.note, ended.changed_at
    FROM vehicle_meter_map JOIN vehicles USING (vehicle_key) JOIN meters USING (meter_key)
        LEFT JOIN mapping_changes AS registered
            ON registered.change_id = registered_change AND registered.from_after <= effective_from
        LEFT JOIN mapping_changes AS ended
            ON ended.change_id = ended_change AND ended.until_after = effective_until
"""

# The mappings of a vehicle or a meter (empty: of no meter) that are valid at some time after an instant and up to
# another one (null: at any time after). By keys, so that both sides of OR have an index.
OVERLAPPING = text(f"""
    {_MAPPINGS}
    WHERE (
            vehicle_key = (SELECT vehicle_key FROM vehicles WHERE vehicle_id = :vehicle_id)
            OR meter_key = (SELECT meter_key FROM meters WHERE meter_id = :meter_id)
        )
        AND (effective_until IS NULL OR effective_until > :after)
        AND (CAST(:until AS timestamptz) IS NULL OR effective_from < :until)
    ORDER BY effective_from, vehicles.vehicle_id, meters.meter_id
""")  # noqa: S608 (a constant)

# What becomes of a mapping, in the transaction in which it does.
RECORD = text("""
    INSERT INTO mapping_changes
        (vehicle_id, meter_id, from_before, until_before, from_after, until_after, identity, note)
    VALUES
        (:vehicle_id, :meter_id, :from_before, :until_before, :from_after, :until_after, :identity, nullif(:note, ''))
    RETURNING change_id, identity, note, changed_at
""")

REGISTER = text("""
    INSERT INTO vehicle_meter_map
        (vehicle_key, meter_key, effective_from, effective_until, registered_change, ended_change)
    SELECT vehicle_key, meter_key, :effective_from, CAST(:effective_until AS timestamptz),
        CAST(:registered_change AS bigint), CAST(:ended_change AS bigint)
    FROM vehicles CROSS JOIN meters
    WHERE vehicle_id = :vehicle_id AND meter_id = :meter_id
""")

CLOSE = text("""
    UPDATE vehicle_meter_map SET effective_until = :effective_until, ended_change = :ended_change
    FROM vehicles CROSS JOIN meters
    WHERE vehicles.vehicle_key = vehicle_meter_map.vehicle_key AND meters.meter_key = vehicle_meter_map.meter_key
        AND vehicle_id = :vehicle_id AND meter_id = :meter_id AND effective_from = :effective_from
""")

BEGIN_EARLIER = text("""
    UPDATE vehicle_meter_map SET effective_from = :earlier, registered_change = :registered_change
    FROM vehicles CROSS JOIN meters
    WHERE vehicles.vehicle_key = vehicle_meter_map.vehicle_key AND meters.meter_key = vehicle_meter_map.meter_key
        AND vehicle_id = :vehicle_id AND meter_id = :meter_id AND effective_from = :effective_from
""")

REMOVE = text("""
    DELETE FROM vehicle_meter_map USING vehicles, meters
    WHERE vehicles.vehicle_key = vehicle_meter_map.vehicle_key AND meters.meter_key = vehicle_meter_map.meter_key
        AND vehicle_id = :vehicle_id AND meter_id = :meter_id AND effective_from = :effective_from
""")

# A page of mappings after a place in the order of vehicle, start and meter; empty ids ask for every device. Planned
# with the ids and the place in sight (`MAPPING_OPTIONS`), or no index would do for all that may be asked. The
# comparison of rows alone is none that an index on vehicles can begin at, hence the one before it.
LIST = text(f"""
    {_MAPPINGS}
    WHERE (:vehicle_id = '' OR vehicles.vehicle_id = :vehicle_id)
        AND (:meter_id = '' OR meter_key = (SELECT meter_key FROM meters WHERE meter_id = :meter_id))
        AND vehicles.vehicle_id >= :after_vehicle_id
        AND (vehicles.vehicle_id, effective_from, meters.meter_id)
            > (:after_vehicle_id, CAST(:after AS timestamptz), :after_meter_id)
    ORDER BY vehicles.vehicle_id, effective_from, meters.meter_id
    LIMIT :most
""")  # noqa: S608 (a constant)

# A page of changes before a place, the newest first; likewise.
LIST_CHANGES = text("""
    SELECT vehicle_id, meter_id, from_before, until_before, from_after, until_after,
        change_id, identity, note, changed_at
    FROM mapping_changes
    WHERE (:vehicle_id = '' OR vehicle_id = :vehicle_id) AND (:meter_id = '' OR meter_id = :meter_id)
        AND change_id < :before
    ORDER BY change_id DESC
    LIMIT :most
""")

MAPPING_OPTIONS = {"plan_cache_mode": "force_custom_plan"}
"""Settings of the connections that ask these questions."""
