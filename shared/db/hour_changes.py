"""Tells readers which hours of the rollups changed, so that they need not read the others again.

Whoever changes rollups of an hour leaves a mark there in the same transaction, one that never was before, in a row of
its own session: no two wait for each other. All marks of an hour together are its version. Read in one snapshot with
the rollups it says: while the version is the same, so are they. An hour without a mark has a version as well.
"""

MARK_HOURS = """
    INSERT INTO {device}_hour_changes (hour_start, writer, mark)
    SELECT hour_start, pg_backend_pid(), gen_random_uuid() FROM unnest(%(hours)s::timestamptz[]) AS hour_start
    ON CONFLICT (hour_start, writer) DO UPDATE SET mark = excluded.mark
"""

# Rollups before the retention floor do not change any more: they have the version of hours without a mark. But those of
# the floor's month keep theirs, for the version of a day of readings is made of them, and sealed days go by the month;
# and so does the hour before it: what is stamped midnight belongs to it, and to the first day of the month.
FORGET_HOURS = """
    DELETE FROM {device}_hour_changes
    WHERE hour_start < (
        SELECT date_trunc('month', floor_day::timestamp) AT TIME ZONE 'UTC' - interval '1 hour' FROM retention
    )
"""
