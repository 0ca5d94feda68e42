"""What ingestion says to the database beside readings and mappings: evidence, the heartbeat, newest timestamps."""

from sqlalchemy import text

from shared.db.device_kind import METER, VEHICLE

# In key order: two processes that add to the same devices wait for each other, but never deadlock. The join leaves out
# who is not registered: a rejected reading never registers a device. Whole seconds and the rest keep times exact.
_ADD_EVIDENCE = """
    INSERT INTO {device}_clock_evidence AS evidence
        (device_key, newest_ts, newest_age_us, late_readings, future_readings, conflicting_readings)
    SELECT {device}_key,
        timestamptz 'epoch' + newest_us / 1000000 * interval '1 s' + newest_us %% 1000000 * interval '1 us',
        age_us, late, future, conflicting
    FROM unnest(
        %(ids)s::text[], %(newest)s::bigint[], %(ages)s::bigint[],
        %(late)s::bigint[], %(future)s::bigint[], %(conflicting)s::bigint[]
    ) AS added ({device}_id, newest_us, age_us, late, future, conflicting)
        JOIN {device}s USING ({device}_id)
    ORDER BY {device}_key
    ON CONFLICT (device_key) DO UPDATE
    SET newest_ts = greatest(evidence.newest_ts, excluded.newest_ts),
        newest_age_us = CASE WHEN excluded.newest_ts > coalesce(evidence.newest_ts, '-infinity')
            THEN excluded.newest_age_us ELSE evidence.newest_age_us END,
        late_readings = evidence.late_readings + excluded.late_readings,
        future_readings = evidence.future_readings + excluded.future_readings,
        conflicting_readings = evidence.conflicting_readings + excluded.conflicting_readings
"""
ADD_METER_EVIDENCE = METER.render(_ADD_EVIDENCE)
ADD_VEHICLE_EVIDENCE = VEHICLE.render(_ADD_EVIDENCE)

# A volatile function is no part of an UPDATE's SET: a distributed PostgreSQL would refuse it.
BEAT = """
    INSERT INTO heartbeat (beat_at) VALUES (clock_timestamp())
    ON CONFLICT (one_row) DO UPDATE SET beat_at = excluded.beat_at
"""

# One row; null where the device is not known or has sent nothing.
NEWEST_TIMESTAMPS = text("""
    SELECT
        (SELECT ts FROM meter_current_status JOIN meters USING (meter_key) WHERE meter_id = :meter_id),
        (SELECT ts FROM vehicle_current_status JOIN vehicles USING (vehicle_key) WHERE vehicle_id = :vehicle_id)
""")
