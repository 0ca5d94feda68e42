"""Closed days of readings, sealed: a row for each device and day in the place of a row for each reading.

Services of the version before go on; a reading of a day that may be sealed by then they keep, and send again, until
they are replaced. Nothing is sealed before a service of this version maintains the database.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


class _Kind(NamedTuple):
    device: str
    energy: str
    measured: Sequence[str]
    averaged: Sequence[str]


_KINDS = (
    _Kind("meter", "kwh_consumed_ac", ("kwh_consumed_ac", "voltage", "register_kwh"), ()),
    _Kind(
        "vehicle", "kwh_delivered_dc", ("kwh_delivered_dc", "soc", "battery_temp", "register_kwh"), ("battery_temp",)
    ),
)

# `gaps_us` are the microseconds from the start of the day to the first reading, and from each reading to the next. An
# array of a measurement that no reading has is null. `{sums}` are those of the readings that `day` has by their
# timestamps, `day <= ts < day + 1`, which hours do not.
_TABLES = (
    """
    CREATE TABLE {device}_sealed_days (
        device_key integer NOT NULL,
        day date NOT NULL,
        readings integer NOT NULL,
        first_ts timestamptz NOT NULL,
        last_ts timestamptz NOT NULL,
        kwh double precision NOT NULL,
        kwh_returned double precision NOT NULL,
        {averaged_columns}
        gaps_us bigint[] NOT NULL,
        {array_columns},
        PRIMARY KEY (device_key, day)
    ) PARTITION BY RANGE (day)
    """,
    # The day is a column of its own: only a condition on it keeps other sealed days from being unpacked.
    """
    CREATE VIEW {device}_readings AS
        SELECT {device}_key, (ts AT TIME ZONE 'UTC')::date AS day, ts, {measurements}, sent_kwh, counting
        FROM {device}_telemetry_history
        UNION ALL
        SELECT sealed.device_key, sealed.day, reading.ts, {reading_measurements}, reading.sent_kwh, reading.counting
        FROM {device}_sealed_days AS sealed CROSS JOIN LATERAL (
            SELECT sealed.day::timestamp AT TIME ZONE 'UTC'
                    + sum(gap_us) OVER (ORDER BY position)::bigint * interval '1 microsecond' AS ts,
                {measurements}, sent_kwh, counting
            FROM unnest(sealed.gaps_us, {sealed_measurements}, sealed.sent_kwh, sealed.counting)
                WITH ORDINALITY AS packed (gap_us, {measurements}, sent_kwh, counting, position)
        ) AS reading
    """,
    """
    COMMENT ON VIEW {device}_readings IS
        'All readings, open and sealed, by the {device}''s key. Ask for a day, or days (UTC), beside ts: the sealed'
        ' readings of other days are then left alone.'
    """,
    """
    CREATE VIEW {device}_telemetry AS
        SELECT {device}_id, day, ts, {measurements}, counting
        FROM {device}_readings JOIN {device}s USING ({device}_key)
    """,
    """
    COMMENT ON VIEW {device}_telemetry IS
        'All readings, open and sealed. Ask for a day, or days (UTC), beside ts: the sealed readings of other days are'
        ' then left alone. counting: null where the energy is what was sent or the rise of the register.'
    """,
    """
    GRANT SELECT ON {device}_sealed_days, {device}_readings, {device}_telemetry
        TO energyfleet_ingestion, energyfleet_analytics
    """,
)

# A device's day is open or sealed, never both, and days before `sealed_before` may be sealed.
_SEALED_BEFORE = (
    "ALTER TABLE retention ADD COLUMN sealed_before date NOT NULL DEFAULT '0001-01-01'",
    # What seals keeps the lock for itself; whoever writes to days that may be sealed shares it.
    """
    CREATE FUNCTION sealing_lock(device text) RETURNS bigint LANGUAGE sql STABLE SET search_path FROM CURRENT
    RETURN hashtextextended('energyfleet.sealing.' || current_schema() || '.' || device, 0)
    """,
    "COMMENT ON FUNCTION sealing_lock IS 'The advisory lock of what seals days of meters, or of vehicles.'",
    # Two clocks have to agree, as for retention.
    """
    CREATE FUNCTION move_sealed_before(service_now timestamptz, seal_after_days integer) RETURNS date
    LANGUAGE plpgsql SECURITY DEFINER SET search_path FROM CURRENT AS $$
    BEGIN
        UPDATE retention SET sealed_before = wanted
        FROM (
            SELECT (least(service_now, now()) AT TIME ZONE 'UTC')::date - greatest(seal_after_days, 2) AS wanted
        ) AS moved
        WHERE sealed_before < wanted;
        RETURN (SELECT sealed_before FROM retention);
    END
    $$
    """,
    """
    COMMENT ON FUNCTION move_sealed_before IS
        'Has days be sealed that are so many whole days old, at least 2, by the earlier of two clocks; returns the day'
        ' before which they may be.'
    """,
    # Of the days before it alone: none that is written live has the trigger. It names the day, so that a transaction
    # that has looked for sealed days up to some day may insert, and no other, whatever it remembers.
    """
    CREATE FUNCTION refuse_reading_of_sealed_day() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
        RAISE EXCEPTION 'the day may be sealed' USING ERRCODE = 'EF001',
            HINT = 'Take it up by unseal_meter_days or unseal_vehicle_days in the same transaction.';
    END
    $$
    """,
    """
    CREATE FUNCTION guard_history_partition(partition text, day date) RETURNS void
    LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
    BEGIN
        IF NOT EXISTS (
            SELECT FROM pg_trigger WHERE tgrelid = partition::regclass AND tgname = 'refuse_reading_of_sealed_day'
        ) THEN
            EXECUTE format(
                'CREATE TRIGGER refuse_reading_of_sealed_day BEFORE INSERT ON %I FOR EACH ROW'
                ' WHEN (coalesce(current_setting(''energyfleet.unsealed_until'', true), '''') < %L)'
                ' EXECUTE FUNCTION refuse_reading_of_sealed_day()', partition, to_char(day, 'YYYY-MM-DD')
            );
        END IF;
    END
    $$
    """,
    """
    CREATE OR REPLACE FUNCTION ensure_history_partition(parent text, day date) RETURNS boolean
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
        IF day < (SELECT sealed_before FROM retention) THEN
            PERFORM guard_history_partition(partition, day);
        END IF;
        EXECUTE format(
            'ALTER TABLE %I ATTACH PARTITION %I FOR VALUES FROM (%L) TO (%L)', parent, partition,
            day::timestamp AT TIME ZONE 'UTC', (day + 1)::timestamp AT TIME ZONE 'UTC'
        );
        RETURN true;
    END
    $$
    """,
)

_SEALING = (
    """
    CREATE FUNCTION try_to_maintain() RETURNS boolean LANGUAGE sql SECURITY DEFINER SET search_path FROM CURRENT
    RETURN pg_try_advisory_lock(hashtextextended('energyfleet.maintain.' || current_schema(), 0))
    """,
    """
    COMMENT ON FUNCTION try_to_maintain IS
        'Makes the session the one that seals and archives, until it ends; false where another one is.'
    """,
    # With the trigger there, whoever inserts into the day has looked for sealed readings. Whoever did not look has
    # committed, and what he wrote is seen: he has written to the partition, or read in it what he was about to change,
    # and no lock is shared with ours. Both hold from the end of this transaction on.
    """
    CREATE FUNCTION begin_sealing(parent text, day date) RETURNS void
    LANGUAGE plpgsql SECURITY DEFINER SET search_path FROM CURRENT SET lock_timeout = '500ms' AS $$
    DECLARE
        partition text := parent || '_' || to_char(day, 'YYYYMMDD');
        month date := date_trunc('month', day)::date;
        sealed text := replace(parent, 'telemetry_history', 'sealed_days');
        sealed_month text := sealed || '_' || to_char(day, 'YYYYMM');
    BEGIN
        IF parent NOT IN ('meter_telemetry_history', 'vehicle_telemetry_history') THEN
            RAISE EXCEPTION '% is not a history table', parent USING ERRCODE = 'invalid_parameter_value';
        END IF;
        IF day >= (SELECT sealed_before FROM retention) OR EXISTS (
            SELECT FROM retention WHERE xmin = pg_current_xact_id_if_assigned()::xid
        ) THEN
            RAISE EXCEPTION '% may not be sealed yet', day USING ERRCODE = 'object_not_in_prerequisite_state';
        END IF;
        PERFORM pg_advisory_xact_lock(hashtextextended('energyfleet.partitions.' || current_schema(), 0));
        IF NOT EXISTS (
            SELECT FROM pg_class WHERE relname = sealed_month AND relnamespace = current_schema()::regnamespace
        ) THEN
            EXECUTE format('CREATE TABLE %I (LIKE %I INCLUDING ALL) WITH (toast_tuple_target = 256)',
                sealed_month, sealed);
            EXECUTE format('ALTER TABLE %I ATTACH PARTITION %I FOR VALUES FROM (%L) TO (%L)', sealed, sealed_month,
                month, (month + interval '1 month')::date);
        END IF;
        IF EXISTS (
            SELECT FROM pg_class WHERE relname = partition AND relnamespace = current_schema()::regnamespace
        ) THEN
            EXECUTE format('LOCK TABLE %I IN ACCESS EXCLUSIVE MODE', partition);
            PERFORM guard_history_partition(partition, day);
        END IF;
    END
    $$
    """,
    """
    COMMENT ON FUNCTION begin_sealing IS
        'Prepares one UTC day of one history table for sealing; must have been committed before seal_meter_days or'
        ' seal_vehicle_days. SQLSTATE 55P03 where others use the tables for longer than half a second.'
    """,
    # An empty partition of a day that may be sealed; the next late reading makes it anew. While we keep the lock nobody
    # inserts into it. To look takes longer the more was deleted: before the parent is locked, against everybody, for
    # which we wait no longer than a live reading may.
    """
    CREATE FUNCTION drop_sealed_history_partition(parent text, day date) RETURNS boolean
    LANGUAGE plpgsql SECURITY DEFINER SET search_path FROM CURRENT SET lock_timeout = '100ms' AS $$
    DECLARE
        partition text := parent || '_' || to_char(day, 'YYYYMMDD');
        device text := split_part(parent, '_', 1);
        left_key integer;
    BEGIN
        IF parent NOT IN ('meter_telemetry_history', 'vehicle_telemetry_history') THEN
            RAISE EXCEPTION '% is not a history table', parent USING ERRCODE = 'invalid_parameter_value';
        END IF;
        PERFORM pg_advisory_xact_lock(hashtextextended('energyfleet.retention.' || current_schema(), 0));
        PERFORM pg_advisory_xact_lock(sealing_lock(device));
        IF to_regclass(partition) IS NULL OR NOT EXISTS (
            SELECT FROM pg_trigger WHERE tgrelid = partition::regclass AND tgname = 'refuse_reading_of_sealed_day'
        ) THEN
            RETURN false;
        END IF;
        EXECUTE format('SELECT %1$I FROM %2$I ORDER BY %1$I LIMIT 1', device || '_key', partition) INTO left_key;
        IF left_key IS NULL THEN
            EXECUTE format('DROP TABLE %I', partition);
        END IF;
        RETURN left_key IS NULL;
    END
    $$
    """,
    """
    COMMENT ON FUNCTION drop_sealed_history_partition IS
        'Drops the partition of a UTC day that is sealed for all devices; false where readings are left in it.'
        ' SQLSTATE 55P03 where it is in use for longer than a tenth of a second.'
    """,
    # As drop_oldest_history_partition.
    """
    CREATE FUNCTION drop_oldest_sealed_month(parent text) RETURNS text
    LANGUAGE plpgsql SECURITY DEFINER SET search_path FROM CURRENT SET datestyle = 'ISO, YMD'
    SET lock_timeout = '500ms' AS $$
    DECLARE
        oldest text;
    BEGIN
        IF parent NOT IN ('meter_sealed_days', 'vehicle_sealed_days') THEN
            RAISE EXCEPTION '% has no sealed days', parent USING ERRCODE = 'invalid_parameter_value';
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
            AND bound::date <= (SELECT floor_day FROM retention)
        ORDER BY bound::date
        LIMIT 1;
        IF oldest IS NOT NULL THEN
            EXECUTE format('DROP TABLE %I', oldest);
        END IF;
        RETURN oldest;
    END
    $$
    """,
    """
    COMMENT ON FUNCTION drop_oldest_sealed_month IS
        'Drops the oldest month of sealed days that lies wholly before the retention floor; its name, or null where'
        ' there is none. SQLSTATE 55P03 where it is in use for longer than half a second.'
    """,
)

# One statement moves the readings: it sees what others have committed, and waits for nobody, since whoever changes
# readings of such a day shares the lock. The readings of a device are in one piece in the primary key, so that some
# devices are found by the readings that there are after the last one.
_SEAL = (
    """
    CREATE FUNCTION seal_{device}_days(
        day date, after_key integer, readings_wanted integer,
        OUT last_key integer, OUT devices integer, OUT readings bigint
    )
    LANGUAGE plpgsql SECURITY DEFINER SET search_path FROM CURRENT SET lock_timeout = '500ms' AS $$
    DECLARE
        partition text := '{device}_telemetry_history_' || to_char(day, 'YYYYMMDD');
    BEGIN
        devices := 0;
        readings := 0;
        PERFORM pg_advisory_xact_lock(sealing_lock('{device}'));
        IF to_regclass(partition) IS NULL THEN
            RETURN;
        END IF;
        IF NOT EXISTS (
            SELECT FROM pg_trigger WHERE tgrelid = partition::regclass AND tgname = 'refuse_reading_of_sealed_day'
        ) THEN
            RAISE EXCEPTION '% is not prepared for sealing', day USING ERRCODE = 'object_not_in_prerequisite_state';
        END IF;
        EXECUTE format(
            'SELECT max({device}_key) FROM ('
            '    SELECT {device}_key FROM %I WHERE {device}_key > $1 ORDER BY {device}_key, ts LIMIT $2'
            ') AS found', partition
        ) INTO last_key USING after_key, readings_wanted;
        EXECUTE format($seal$
            WITH moved AS (
                DELETE FROM %I WHERE {device}_key > $1 AND {device}_key <= $2
                RETURNING {device}_key AS device_key, ts, {measurements}, sent_kwh, counting
            ), gapped AS (
                SELECT device_key, ts, {measurements}, sent_kwh, counting, (
                        extract(epoch FROM ts - lag(ts, 1, $3::timestamp AT TIME ZONE 'UTC') OVER device) * 1000000
                    )::bigint AS gap_us
                FROM moved
                WINDOW device AS (PARTITION BY device_key ORDER BY ts)
                ORDER BY device_key, ts
            ), sealed AS (
                INSERT INTO {device}_sealed_days (
                    device_key, day, readings, first_ts, last_ts, kwh, kwh_returned, {averaged_names}
                    gaps_us, {measurements}, sent_kwh, counting
                )
                SELECT device_key, $3, count(*), min(ts), max(ts), sum({energy}), sum(greatest(0, -{energy})),
                    {averages}
                    array_agg(gap_us), array_agg({energy}), {optional_arrays},
                    CASE WHEN count(sent_kwh) > 0 THEN array_agg(sent_kwh) END,
                    CASE WHEN count(counting) > 0 THEN array_agg(counting) END
                FROM gapped
                GROUP BY device_key
                RETURNING readings
            )
            SELECT count(*), coalesce(sum(readings), 0) FROM sealed
        $seal$, partition) INTO devices, readings USING after_key, last_key, day;
    END
    $$
    """,
    """
    COMMENT ON FUNCTION seal_{device}_days IS
        'Seals a UTC day of the {device}s after a key, of as many as have about so many readings; the last one''s key,'
        ' null where none is left. SQLSTATE 55P03 where the days are written to for longer than half a second.'
    """,
    """
    CREATE FUNCTION unseal_{device}_days(
        keys integer[], first_days date[], last_days date[], unsealed_until date
    ) RETURNS TABLE (device_key integer, day date)
    LANGUAGE plpgsql SECURITY DEFINER SET search_path FROM CURRENT AS $$
    #variable_conflict use_column
    DECLARE
        first_day CONSTANT date := (SELECT min(first) FROM unnest(first_days) AS first);
        last_day CONSTANT date := (SELECT max(last) FROM unnest(last_days) AS last);
        until CONSTANT text := greatest(
            current_setting('energyfleet.unsealed_until', true), to_char(unsealed_until, 'YYYY-MM-DD')
        );
        missing text;
    BEGIN
        PERFORM pg_advisory_xact_lock_shared(sealing_lock('{device}'));
        SELECT string_agg(DISTINCT sealed.day::text, ',') INTO missing
        FROM unnest(keys, first_days, last_days) AS asked (device_key, first, last)
            JOIN {device}_sealed_days AS sealed
                ON sealed.device_key = asked.device_key AND sealed.day BETWEEN asked.first AND asked.last
        WHERE sealed.day BETWEEN first_day AND last_day
            AND to_regclass('{device}_telemetry_history_' || to_char(sealed.day, 'YYYYMMDD')) IS NULL;
        IF missing IS NOT NULL THEN
            RAISE EXCEPTION 'no partition for the days %', missing USING ERRCODE = 'EF002', DETAIL = missing;
        END IF;
        PERFORM set_config('energyfleet.unsealed_until', 'infinity', true);
        RETURN QUERY WITH unsealed AS (
            DELETE FROM {device}_sealed_days AS sealed
            USING unnest(keys, first_days, last_days) AS asked (device_key, first, last)
            WHERE sealed.device_key = asked.device_key AND sealed.day BETWEEN asked.first AND asked.last
                AND sealed.day BETWEEN first_day AND last_day
            RETURNING sealed.*
        ), opened AS (
            INSERT INTO {device}_telemetry_history ({device}_key, ts, {measurements}, sent_kwh, counting)
            SELECT unsealed.device_key, reading.ts, {reading_measurements}, reading.sent_kwh, reading.counting
            FROM unsealed CROSS JOIN LATERAL (
                SELECT unsealed.day::timestamp AT TIME ZONE 'UTC'
                        + sum(gap_us) OVER (ORDER BY position)::bigint * interval '1 microsecond' AS ts,
                    {measurements}, sent_kwh, counting
                FROM unnest(unsealed.gaps_us, {unsealed_measurements}, unsealed.sent_kwh, unsealed.counting)
                    WITH ORDINALITY AS packed (gap_us, {measurements}, sent_kwh, counting, position)
            ) AS reading
        )
        SELECT unsealed.device_key, unsealed.day FROM unsealed;
        PERFORM set_config('energyfleet.unsealed_until', until, true);
    END
    $$
    """,
    """
    COMMENT ON FUNCTION unseal_{device}_days IS
        'Opens sealed days of {device}s again, for each key those from a first to a last UTC day, and tells which were'
        ' sealed. From then on the transaction may insert into days up to `unsealed_until`, where that is not null, of'
        ' which it has asked for all that it inserts. SQLSTATE EF002 where a day has no partition; its detail is the'
        ' days.'
    """,
)

_RIGHTS = (
    """
    REVOKE ALL ON FUNCTION try_to_maintain, move_sealed_before, begin_sealing, drop_sealed_history_partition,
        drop_oldest_sealed_month, seal_meter_days, seal_vehicle_days, unseal_meter_days, unseal_vehicle_days,
        guard_history_partition
        FROM PUBLIC
    """,
    """
    GRANT EXECUTE ON FUNCTION try_to_maintain, move_sealed_before, begin_sealing, drop_sealed_history_partition,
        drop_oldest_sealed_month, seal_meter_days, seal_vehicle_days, unseal_meter_days, unseal_vehicle_days
        TO energyfleet_ingestion
    """,
    """
    CREATE FUNCTION grant_sealing_to_maintenance() RETURNS boolean LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
    BEGIN
        IF to_regrole('energyfleet_maintenance') IS NULL THEN
            RETURN false;
        END IF;
        GRANT SELECT ON meter_sealed_days, meter_readings, meter_telemetry, vehicle_sealed_days, vehicle_readings,
            vehicle_telemetry
            TO energyfleet_maintenance;
        GRANT EXECUTE ON FUNCTION try_to_maintain, move_sealed_before, begin_sealing, drop_sealed_history_partition,
            drop_oldest_sealed_month, seal_meter_days, seal_vehicle_days, unseal_meter_days, unseal_vehicle_days
            TO energyfleet_maintenance;
        RETURN true;
    END
    $$
    """,
    """
    COMMENT ON FUNCTION grant_sealing_to_maintenance IS
        'Grants the role energyfleet_maintenance what sealing needs; false where there is no such role.'
    """,
    "REVOKE ALL ON FUNCTION grant_sealing_to_maintenance FROM PUBLIC",
    "SELECT grant_sealing_to_maintenance()",
)


def _statements() -> Iterator[str]:
    yield from _SEALED_BEFORE
    for kind in _KINDS:
        for statement in (*_TABLES, *_SEAL):
            yield _of_kind(statement, *kind)
    yield from _SEALING
    yield from _RIGHTS


def _of_kind(statement: str, device: str, energy: str, measured: Sequence[str], averaged: Sequence[str]) -> str:
    arrays = [f"{name} double precision[]{' NOT NULL' if name == energy else ''}" for name in (*measured, "sent_kwh")]
    return statement.format(
        device=device,
        energy=energy,
        measurements=", ".join(measured),
        reading_measurements=", ".join(f"reading.{name}" for name in measured),
        sealed_measurements=", ".join(f"sealed.{name}" for name in measured),
        unsealed_measurements=", ".join(f"unsealed.{name}" for name in measured),
        array_columns=", ".join([*arrays, "counting text[]"]),
        averaged_columns="".join(
            f"{name}_sum double precision NOT NULL, {name}_readings integer NOT NULL," for name in averaged
        ),
        averaged_names="".join(f"{name}_sum, {name}_readings, " for name in averaged),
        averages="".join(f"coalesce(sum({name}), 0), count({name}), " for name in averaged),
        optional_arrays=", ".join(
            f"CASE WHEN count({name}) > 0 THEN array_agg({name}) END" for name in measured if name != energy
        ),
    )


def upgrade() -> None:
    for statement in _statements():
        op.execute(statement)


def downgrade() -> None:
    raise NotImplementedError("this revision holds the readings of closed days; unseal them first")
