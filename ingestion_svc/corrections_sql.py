"""What ingestion says to the database about corrections; `corrections` asks."""

from sqlalchemy import text

from shared.db.device_kind import KINDS
from shared.db.session_registers_sql import SENT

# What `verify --repair` locks as well, in the same order: without it the two could deadlock.
_LOCK_TABLES = "LOCK TABLE {device}_current_status, {device}_closed_hours IN ROW EXCLUSIVE MODE"
LOCK_TABLES = {kind: text(kind.render(_LOCK_TABLES)) for kind in KINDS}

# Every writer of the device's readings changes its status, too: it has committed, or adds to what it finds after us.
_LOCK_DEVICE = """
    SELECT {device}_key FROM {device}_current_status JOIN {device}s USING ({device}_key)
    WHERE {device}_id = :device_id FOR UPDATE OF {device}_current_status
"""
LOCK_DEVICE = {kind: text(kind.render(_LOCK_DEVICE)) for kind in KINDS}

# What counts of the reading, whose day is open, and what would count without a correction.
_FIND = f"""
    WITH reading AS (
        SELECT {{energy}} AS kwh, counting, register_kwh, before_ts, before_register_kwh, history.ts,
            {SENT} AS sent_kwh
        FROM {{device}}_telemetry_history AS history LEFT JOIN LATERAL (
            (
                SELECT ts AS before_ts, register_kwh AS before_register_kwh
                FROM {{device}}_telemetry_history AS earlier
                WHERE earlier.{{device}}_key = :device_key AND earlier.ts < :ts
                ORDER BY ts DESC LIMIT 1
            ) UNION ALL (
                SELECT last_ts, register_kwh[readings] FROM {{device}}_sealed_days
                WHERE device_key = :device_key AND last_ts < :ts AND day >= (SELECT floor_day FROM retention)
                ORDER BY day DESC LIMIT 1
            )
            ORDER BY before_ts DESC LIMIT 1
        ) AS before ON true
        WHERE history.{{device}}_key = :device_key AND history.ts = :ts
    ), judged AS (
        SELECT kwh, counting, sent_kwh, register_kwh, before_register_kwh, counting_of(
            sent_kwh, register_kwh, before_register_kwh,
            plausible_kwh(ts, before_ts, :max_kw, :min_interval_s)
        ) AS uncorrected_counting
        FROM reading
    )
    SELECT kwh, counting, sent_kwh, uncorrected_counting,
        counted_kwh(uncorrected_counting, sent_kwh, register_kwh, before_register_kwh) AS uncorrected_kwh
    FROM judged
"""  # noqa: S608 (a constant)
FIND = {kind: text(kind.render(_FIND)) for kind in KINDS}

_COUNTED = (
    "SELECT {energy} AS kwh, counting FROM {device}_telemetry_history WHERE {device}_key = :device_key AND ts = :ts"
)
COUNTED = {kind: text(kind.render(_COUNTED)) for kind in KINDS}

_CHANGE_HISTORY = """
    UPDATE {device}_telemetry_history
    SET {energy} = :kwh, counting = :counting, sent_kwh = nullif(:sent_kwh, :kwh)
    WHERE {device}_key = :device_key AND ts = :ts
"""
CHANGE_HISTORY = {kind: text(kind.render(_CHANGE_HISTORY)) for kind in KINDS}

_CHANGE_STATUS = """
    UPDATE {device}_current_status SET {energy} = :kwh, sent_kwh = nullif(:sent_kwh, :kwh)
    WHERE {device}_key = :device_key AND ts = :ts
"""
CHANGE_STATUS = {kind: text(kind.render(_CHANGE_STATUS)) for kind in KINDS}

RECORD = text("""
    INSERT INTO corrections (device_kind, device_id, ts, sent_kwh, kwh_before, kwh, voided, author, note, identity)
    VALUES (:device_kind, :device_id, :ts, :sent_kwh, :kwh_before, :kwh, :voided, :author, :note, :identity)
    RETURNING correction_id, device_kind, device_id, ts, sent_kwh, kwh_before, kwh, voided, author, note, corrected_at,
        identity
""")

LAST = text("""
    SELECT correction_id, device_kind, device_id, ts, sent_kwh, kwh_before, kwh, voided, author, note, corrected_at,
        identity
    FROM corrections
    WHERE device_kind = :device_kind AND device_id = :device_id AND ts = :ts
    ORDER BY correction_id DESC LIMIT 1
""")

# A page of corrections before a place; an empty id asks for every device.
LIST = text("""
    SELECT correction_id, device_kind, device_id, ts, sent_kwh, kwh_before, kwh, voided, author, note, corrected_at,
        identity
    FROM corrections
    WHERE (:device_id = '' OR (device_kind = :device_kind AND device_id = :device_id)) AND correction_id < :before
    ORDER BY correction_id DESC
    LIMIT :most
""")
