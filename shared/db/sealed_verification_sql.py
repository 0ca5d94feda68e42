"""What `verify` says to the database about days that may be sealed, and of the sealed ones themselves.

The parameters are those of `verification_sql`. Statements about readings have holes: `{history}` in the place of the
table, and `{of_days:history}`, `{before:history}` and `{after:history}` for conditions on the days that are unpacked.
"""

from shared.db.session_registers_sql import REACH_DAYS

# Of the sealed days of devices: whether the readings that each has are in their order and in their day, are as many and
# have the sums that it says, and are the only ones of that day.
FIND_SEALED = """
    WITH computed AS (
        SELECT {device}_key AS device_key, count(*) AS readings, min(ts) AS first_ts, max(ts) AS last_ts,
            count(DISTINCT ts) AS instants, sum({energy}) AS kwh, sum(greatest(0, -{energy})) AS kwh_returned,
            sum(abs({energy})) AS kwh_magnitudes
            {averaged:, coalesce(sum(#), 0) AS #_sum, count(#) AS #_readings, coalesce(sum(abs(#)), 0) AS #_magnitudes}
        FROM {device}_readings WHERE {device}_key = ANY(%(keys)s) AND day = (%(hour)s AT TIME ZONE 'UTC')::date
        GROUP BY {device}_key
    )
    SELECT device_key, {device}_id, %(hour)s::timestamptz,
        {totals:stored.#}, stored.first_ts::text, stored.last_ts::text,
        {totals:computed.#}, computed.first_ts::text, computed.last_ts::text
    FROM {device}_sealed_days AS stored JOIN computed USING (device_key)
        LEFT JOIN {device}s ON {device}_key = device_key
    WHERE device_key = ANY(%(keys)s) AND day = (%(hour)s AT TIME ZONE 'UTC')::date
        AND day >= (SELECT floor_day FROM retention)
        AND (
            (stored.readings, stored.first_ts, stored.last_ts {averaged:, stored.#_readings})
                IS DISTINCT FROM
                (computed.readings, computed.first_ts, computed.last_ts {averaged:, computed.#_readings})
            OR computed.instants < computed.readings
            OR computed.first_ts < %(hour)s OR computed.last_ts >= %(hour)s::timestamptz + interval '1 day'
            OR 0 > ANY(gaps_us)
            OR greatest(
                abs(stored.kwh - computed.kwh) - 1e-9 * greatest(computed.kwh_magnitudes, 1e-290),
                abs(stored.kwh_returned - computed.kwh_returned) - 1e-9 * greatest(computed.kwh_returned, 1e-290)
                {averaged:, abs(stored.#_sum - computed.#_sum) - 1e-9 * greatest(computed.#_magnitudes, 1e-290)}
            ) > 0
        )
    ORDER BY device_key
"""

SEALED_DAYS = """
    SELECT DISTINCT day FROM {device}_sealed_days
    WHERE day BETWEEN (%(start)s AT TIME ZONE 'UTC')::date AND (%(end)s AT TIME ZONE 'UTC')::date
"""

# What is near the span, of which nothing is inserted.
UNSEAL_NEAR = f"""
    SELECT device_key, day FROM unseal_{{device}}_days(
        %(keys)s::integer[],
        array_fill((%(hour)s AT TIME ZONE 'UTC')::date - {REACH_DAYS}, ARRAY[cardinality(%(keys)s::integer[])]),
        array_fill((%(next_hour)s AT TIME ZONE 'UTC')::date + 1, ARRAY[cardinality(%(keys)s::integer[])]),
        NULL
    )
"""  # noqa: S608 (a constant)

# In which days the readings lie of a span, before it and after it.
_DAYS = {
    "of_days": "(%(hour)s AT TIME ZONE 'UTC')::date AND (%(next_hour)s AT TIME ZONE 'UTC')::date",
    "before": f"(%(hour)s AT TIME ZONE 'UTC')::date - {REACH_DAYS} AND (%(hour)s AT TIME ZONE 'UTC')::date",
    "after": "(%(next_hour)s AT TIME ZONE 'UTC')::date AND (%(next_hour)s AT TIME ZONE 'UTC')::date + 1",
}


def of_open(statement: str) -> str:
    """A statement about readings of days that are open."""
    statement = statement.replace("{history}", "{device}_telemetry_history AS history")
    for name in _DAYS:
        statement = statement.replace(f"{{{name}:history}}", "")
    return statement


def of_all(statement: str) -> str:
    """The same about readings of days that may be sealed."""
    statement = statement.replace("{history}", "{device}_readings AS history")
    for name, days in _DAYS.items():
        statement = statement.replace(f"{{{name}:history}}", f"AND history.day BETWEEN {days}")
    return statement
