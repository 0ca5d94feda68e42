"""What ingestion says to the database beside readings and mappings: evidence, the heartbeat, newest timestamps."""

from sqlalchemy import text

from shared.db.device_kind import KINDS

STRANGERS_MAX = 10_000
"""Devices of a kind of which refusals are kept though no reading was ever stored: a whole fleet with a wrong clock.
Anybody can name devices: of more, those that were refused least recently go."""

# A device once, and only where it is registered: a rejected reading never registers one. In key order: two processes
# that add to the same devices wait for each other, but never deadlock. The newest reading counts where it is newer than
# the one already written down. Whole seconds and the rest keep times exact.
_ADD_CLOCK_EVIDENCE = """
    INSERT INTO {device}_clock_evidence AS evidence
        (device_key, newest_ts, newest_age_us, late_readings, future_readings, conflicting_readings)
    SELECT {device}_key,
        timestamptz 'epoch' + newest_us / 1000000 * interval '1 s' + newest_us %% 1000000 * interval '1 us',
        age_us, late, future, conflicting
    FROM unnest(
        %(device_id)s::text[], %(newest_ts_us)s::bigint[], %(newest_age_us)s::bigint[],
        %(late_readings)s::bigint[], %(future_readings)s::bigint[], %(conflicting_readings)s::bigint[]
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
ADD_CLOCK_EVIDENCE = {kind: kind.render(_ADD_CLOCK_EVIDENCE) for kind in KINDS}

_ADD_REFUSALS = """
    INSERT INTO {device}_refusals AS refused (device_id, field, reason, count, last_at, last_description)
    SELECT device_id, field, reason, times,
        timestamptz 'epoch' + last_us / 1000000 * interval '1 s' + last_us %% 1000000 * interval '1 us', description
    FROM unnest(
        %(device_id)s::text[], %(field)s::text[], %(reason)s::text[],
        %(times)s::bigint[], %(last_us)s::bigint[], %(last_description)s::text[]
    ) AS added (device_id, field, reason, times, last_us, description)
    ORDER BY device_id COLLATE "C", field COLLATE "C", reason COLLATE "C"
    ON CONFLICT (device_id, field, reason) DO UPDATE
    SET count = refused.count + excluded.count,
        last_at = greatest(refused.last_at, excluded.last_at),
        last_description = CASE WHEN excluded.last_at >= refused.last_at
            THEN excluded.last_description ELSE refused.last_description END
"""
ADD_REFUSALS = {kind: kind.render(_ADD_REFUSALS) for kind in KINDS}

_FORGET_STRANGERS = """
    DELETE FROM {device}_refusals
    WHERE device_id IN (
        SELECT device_id FROM {device}_refusals LEFT JOIN {device}s ON {device}_id = device_id
        WHERE {device}_key IS NULL
        GROUP BY device_id
        ORDER BY max(last_at) DESC, device_id
        OFFSET %(most)s
    )
"""
FORGET_STRANGERS = {kind: kind.render(_FORGET_STRANGERS) for kind in KINDS}

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
