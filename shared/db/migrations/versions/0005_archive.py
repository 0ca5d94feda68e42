"""Which closed days are archived, where, and as what; retention that waits for the archive.

Services of the version before go on; what maintains for them knows of no archive and waits for none.
"""

from collections.abc import Iterator

from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

_TABLE = (
    """
    CREATE TABLE archived_days (
        kind text COLLATE "C" NOT NULL,
        day date NOT NULL,
        url text COLLATE "C" NOT NULL,
        file text NOT NULL,
        readings bigint NOT NULL,
        kwh double precision NOT NULL,
        kwh_returned double precision NOT NULL,
        first_ts timestamptz NOT NULL,
        last_ts timestamptz NOT NULL,
        bytes bigint NOT NULL,
        sha256 text NOT NULL,
        version text NOT NULL,
        archived_at timestamptz NOT NULL DEFAULT now(),
        PRIMARY KEY (kind, day, url)
    )
    """,
)

# The reading stamped midnight belongs to the hour that ends there and to the day that begins: a day has 25 hours.
_OF_KIND = (
    """
    CREATE FUNCTION {device}_day_version(day date) RETURNS text LANGUAGE sql STABLE SET search_path FROM CURRENT
    RETURN (
        SELECT encode(sha256(convert_to(coalesce(string_agg(
            extract(epoch FROM hour_start)::bigint || ' ' || writer || ' ' || mark, ',' ORDER BY hour_start, writer
        ), ''), 'UTF8')), 'hex')
        FROM {device}_hour_changes
        WHERE hour_start >= day::timestamp AT TIME ZONE 'UTC' - interval '1 hour'
            AND hour_start < (day + 1)::timestamp AT TIME ZONE 'UTC'
    )
    """,
    """
    COMMENT ON FUNCTION {device}_day_version IS
        'The version of a UTC day of readings, by the marks of its hours: read in one snapshot with them it says that'
        ' while it is the same, so are they.'
    """,
    """
    CREATE FUNCTION {device}_days() RETURNS SETOF date LANGUAGE sql STABLE SET search_path FROM CURRENT
    BEGIN ATOMIC
        SELECT to_date(right(child.relname, 8), 'YYYYMMDD')
        FROM pg_inherits JOIN pg_class AS child ON child.oid = inhrelid
        WHERE inhparent = '{device}_telemetry_history'::regclass
        UNION
        SELECT generate_series(month, month + interval '1 month' - interval '1 day', interval '1 day')::date
        FROM (
            SELECT to_date(right(child.relname, 6), 'YYYYMM') AS month
            FROM pg_inherits JOIN pg_class AS child ON child.oid = inhrelid
            WHERE inhparent = '{device}_sealed_days'::regclass
        ) AS months;
    END
    """,
    """
    COMMENT ON FUNCTION {device}_days IS
        'The UTC days that may have readings: those with a partition, and those of months that have sealed days.'
    """,
    """
    CREATE FUNCTION {device}_day_awaits_archive(day date, archive_url text) RETURNS boolean
    LANGUAGE sql STABLE SET search_path FROM CURRENT
    RETURN NOT EXISTS (
            SELECT FROM archived_days AS archived
            WHERE archived.kind = '{device}' AND archived.day = {device}_day_awaits_archive.day
                AND archived.url = archive_url
                AND archived.version = {device}_day_version({device}_day_awaits_archive.day)
        ) AND (
            EXISTS (
                SELECT FROM {device}_telemetry_history
                WHERE ts >= {device}_day_awaits_archive.day::timestamp AT TIME ZONE 'UTC'
                    AND ts < ({device}_day_awaits_archive.day + 1)::timestamp AT TIME ZONE 'UTC'
            )
            OR (
                SELECT device_key FROM {device}_sealed_days AS sealed
                WHERE sealed.day = {device}_day_awaits_archive.day
                ORDER BY device_key LIMIT 1  -- by the key, or all days before it are read
            ) IS NOT NULL
        )
    """,
    """
    COMMENT ON FUNCTION {device}_day_awaits_archive IS
        'Whether a UTC day has readings and is not archived at the URL in the version that it has now.'
    """,
)

# Whoever writes to days that may be sealed shares the sealing locks until he commits. So what is archived when we look
# is still what there is when the floor has passed it.
_RETENTION = (
    """
    CREATE FUNCTION move_archived_retention_floor(
        service_now timestamptz, retention_days integer, archive_url text, OUT floor_day date, OUT held_day date
    )
    LANGUAGE plpgsql SECURITY DEFINER SET search_path FROM CURRENT SET lock_timeout = '500ms' AS $$
    DECLARE
        wanted date := (least(service_now, now()) AT TIME ZONE 'UTC')::date - greatest(retention_days, 30);
        candidate date;
    BEGIN
        floor_day := (SELECT retention.floor_day FROM retention);
        IF wanted <= floor_day THEN
            RETURN;
        END IF;
        PERFORM pg_advisory_xact_lock(hashtextextended('energyfleet.partitions.' || current_schema(), 0));
        IF archive_url IS NOT NULL THEN
            PERFORM pg_advisory_xact_lock(sealing_lock('meter')), pg_advisory_xact_lock(sealing_lock('vehicle'));
            FOR candidate IN
                SELECT day FROM (SELECT * FROM meter_days() UNION SELECT * FROM vehicle_days()) AS days (day)
                WHERE day >= floor_day AND day < wanted
                ORDER BY day
            LOOP
                IF meter_day_awaits_archive(candidate, archive_url)
                    OR vehicle_day_awaits_archive(candidate, archive_url)
                THEN
                    held_day := candidate;
                    wanted := candidate;
                    EXIT;
                END IF;
            END LOOP;
        END IF;
        UPDATE retention SET floor_day = wanted WHERE retention.floor_day < wanted;
        floor_day := (SELECT retention.floor_day FROM retention);
    END
    $$
    """,
    """
    COMMENT ON FUNCTION move_archived_retention_floor IS
        'Moves the floor forward as move_retention_floor does, but with a URL never past a day of readings that is not'
        ' archived there in its present version; returns where it is then, and the day that holds it, if one does.'
        ' SQLSTATE 55P03 where old days are written to for longer than half a second.'
    """,
    # Whoever knew the partition could still write to it when the floor had passed; under this lock nobody can.
    """
    CREATE FUNCTION drop_oldest_archived(parent text, archive_url text, OUT dropped text, OUT held_day date)
    LANGUAGE plpgsql SECURITY DEFINER SET search_path FROM CURRENT SET lock_timeout = '500ms' AS $$
    DECLARE
        device CONSTANT text := split_part(parent, '_', 1);
        sealed CONSTANT boolean := parent = device || '_sealed_days';
        oldest text;
        first_day date;
        last_day date;
        awaits boolean;
    BEGIN
        IF parent NOT IN (
            'meter_telemetry_history', 'vehicle_telemetry_history', 'meter_sealed_days', 'vehicle_sealed_days'
        ) THEN
            RAISE EXCEPTION '% has no readings', parent USING ERRCODE = 'invalid_parameter_value';
        END IF;
        IF archive_url IS NOT NULL THEN
            PERFORM pg_advisory_xact_lock(hashtextextended('energyfleet.retention.' || current_schema(), 0));
            SELECT child.relname INTO oldest
            FROM pg_inherits JOIN pg_class AS child ON child.oid = inhrelid
            WHERE inhparent = parent::regclass
            ORDER BY child.relname
            LIMIT 1;
            first_day := to_date(split_part(oldest, '_', -1), CASE WHEN sealed THEN 'YYYYMM' ELSE 'YYYYMMDD' END);
            last_day := CASE WHEN sealed THEN (first_day + interval '1 month')::date - 1 ELSE first_day END;
            IF oldest IS NULL OR last_day >= (SELECT floor_day FROM retention) THEN
                RETURN;
            END IF;
            EXECUTE format('LOCK TABLE ONLY %I, %I IN ACCESS EXCLUSIVE MODE', parent, oldest);
            FOR held_day IN SELECT generate_series(first_day, last_day, interval '1 day')::date LOOP
                EXECUTE format('SELECT %I($1, $2)', device || '_day_awaits_archive')
                    INTO awaits USING held_day, archive_url;
                IF awaits THEN
                    RETURN;
                END IF;
            END LOOP;
            held_day := NULL;
        END IF;
        IF sealed THEN
            dropped := drop_oldest_sealed_month(parent);
        ELSE
            dropped := drop_oldest_history_partition(parent);
        END IF;
    END
    $$
    """,
    """
    COMMENT ON FUNCTION drop_oldest_archived IS
        'Drops the oldest partition of history, or month of sealed days, that lies wholly before the retention floor;'
        ' its name, or null where there is none. With a URL none that has a day which is not archived there in its'
        ' present version: that day is told. SQLSTATE 55P03 where it is in use for longer than half a second.'
    """,
)

_RIGHTS = (
    "GRANT SELECT ON archived_days TO energyfleet_ingestion, energyfleet_analytics",
    "GRANT INSERT, UPDATE ON archived_days TO energyfleet_ingestion",
    """
    REVOKE ALL ON FUNCTION move_archived_retention_floor, drop_oldest_archived, meter_days, vehicle_days,
        meter_day_version, vehicle_day_version, meter_day_awaits_archive, vehicle_day_awaits_archive
        FROM PUBLIC
    """,
    """
    GRANT EXECUTE ON FUNCTION move_archived_retention_floor, drop_oldest_archived, meter_days, vehicle_days,
        meter_day_version, vehicle_day_version, meter_day_awaits_archive, vehicle_day_awaits_archive
        TO energyfleet_ingestion
    """,
    """
    CREATE FUNCTION grant_archive_to_maintenance() RETURNS boolean LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
    BEGIN
        IF to_regrole('energyfleet_maintenance') IS NULL THEN
            RETURN false;
        END IF;
        GRANT SELECT, INSERT, UPDATE ON archived_days TO energyfleet_maintenance;
        GRANT EXECUTE ON FUNCTION move_archived_retention_floor, drop_oldest_archived, meter_days, vehicle_days,
        meter_day_version, vehicle_day_version, meter_day_awaits_archive, vehicle_day_awaits_archive
            TO energyfleet_maintenance;
        RETURN true;
    END
    $$
    """,
    """
    COMMENT ON FUNCTION grant_archive_to_maintenance IS
        'Grants the role energyfleet_maintenance what archiving needs; false where there is no such role.'
    """,
    "REVOKE ALL ON FUNCTION grant_archive_to_maintenance FROM PUBLIC",
    "SELECT grant_archive_to_maintenance()",
)


def _statements() -> Iterator[str]:
    yield from _TABLE
    for device in ("meter", "vehicle"):
        for statement in _OF_KIND:
            yield statement.format(device=device)
    yield from _RETENTION
    yield from _RIGHTS


def upgrade() -> None:
    for statement in _statements():
        op.execute(statement)


def downgrade() -> None:
    raise NotImplementedError("this revision holds what is archived; `energyfleet archive` cannot know it again")
