"""How registers of a session that were sent as intervals' energies are told from energies, as part of statements.

Such energies rise from next to nothing for as long as a session lasts: each is a sum. Eight readings in a row that rise
steadily show it, and what follows them goes on with it until one falls. Charging at a power that rises seldom looks
like that: it begins at the least power that a charger knows, and ends at its greatest.
"""

RISE_READINGS = 8
"""Readings in a row that show a rise. With fewer a power that follows the sun might."""

RISE_FACTOR = 4.5
"""The last of them is at least so many times the first, whose energy is thus no more than two of the following steps.
A charger that follows the sun begins at 6 A and ends at 32 A, if so many."""

RISE_MIN_KW = 1.3
"""The least power that such registers show: a little below 6 A at 230 V, the least that a car takes. Of intervals'
energies the power would have to rise by so much from each reading to the next: that of a charger that follows the sun
seldom does, standby never."""

REACH_DAYS = 2
"""So long before a reading lies what may make it a session's register: the last of a rise up to a day before, and the
first up to a day before that. Where `counting` says that it was one, the rise is not needed; of a corrected one it does
not."""

SENT = "coalesce(sent_kwh, CASE WHEN register_kwh IS NULL THEN {energy} END)"
"""The interval's energy of a reading as it was sent; null where a register was."""

_AT_ONCE = RISE_READINGS - 1


def _sealed(which: str) -> str:
    """Readings of a sealed day, the row `sealed`, as many as may rise together with one that is beside them."""
    columns = ("gaps_us", "{energy}", "register_kwh", "sent_kwh", "counting")
    return f"""unnest({", ".join(f"sealed.{name}[{which}]" for name in columns)})
                WITH ORDINALITY AS packed (gap_us, {{energy}}, register_kwh, sent_kwh, counting, position)"""


FIRST_SEALED = f"""
            SELECT sealed.day::timestamp AT TIME ZONE 'UTC'
                    + (sum(gap_us) OVER (ORDER BY position))::bigint * interval '1 microsecond' AS ts,
                {SENT} AS kwh, counting
            FROM {_sealed(f":{_AT_ONCE}")}
"""  # noqa: S608 (all are constants)
"""The first readings of a sealed day."""

LAST_SEALED = f"""
            SELECT sealed.last_ts - coalesce(sum(gap_us) OVER later, 0)::bigint * interval '1 microsecond' AS ts,
                {SENT} AS kwh, counting
            FROM {_sealed(f"sealed.readings - {_AT_ONCE - 1}:")}
            WINDOW later AS (ORDER BY position DESC ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING)
"""  # noqa: S608 (all are constants)
"""The last ones."""

SESSION = "session"
"""What `counting` says of readings that are a session's registers."""

# Of `near`: whether each is one of eight that rise steadily, by power as a register has it, from next to nothing,
# within a minute to a day, and at no less than a power at which something charges; and the `run` without a fall that it
# is in.
# A rise of less than a millionth of a watt-hour is none: its quotient might underflow.
_RISES = f"""
    stepped AS (
        SELECT device_key, ts, kwh, counting, trusted{{passed}}, lag(ts) OVER device AS before_ts,
            lag(kwh) OVER device AS before_kwh,
            extract(epoch FROM ts - lag(ts) OVER device)::double precision AS seconds
        FROM near
        WINDOW device AS (PARTITION BY device_key ORDER BY ts)
    ), runs AS (
        SELECT device_key, ts, kwh, counting, trusted{{passed}}, before_ts,
            CASE WHEN before_kwh > 0 AND kwh - before_kwh > 1e-9 THEN (kwh - before_kwh) / seconds END AS rate,
            count(*) FILTER (WHERE (before_kwh > 0 AND kwh >= before_kwh) IS NOT TRUE)
                OVER (PARTITION BY device_key ORDER BY ts) AS run
        FROM stepped
    ), ended AS (
        SELECT device_key, ts, kwh, counting, trusted{{passed}}, before_ts, run,
            count(rate) OVER rates = {RISE_READINGS - 1}
                AND max(rate) OVER rates <= 2 * min(rate) OVER rates
                AND kwh >= {RISE_FACTOR} * first_value(kwh) OVER readings
                AND ts - first_value(ts) OVER readings BETWEEN interval '1 minute' AND interval '1 day'
                AND min(rate) OVER rates * 3600 >= {RISE_MIN_KW} AS ends_rise
        FROM runs
        WINDOW rates AS (PARTITION BY device_key ORDER BY ts ROWS {RISE_READINGS - 2} PRECEDING),
            readings AS (PARTITION BY device_key ORDER BY ts ROWS {RISE_READINGS - 1} PRECEDING)
    ), rising AS (
        SELECT device_key, ts, kwh, counting, trusted{{passed}}, before_ts, run,
            coalesce(bool_or(ends_rise) OVER (
                PARTITION BY device_key ORDER BY ts ROWS BETWEEN CURRENT ROW AND {RISE_READINGS - 1} FOLLOWING
            ), false) AS rises
        FROM ended
    )"""  # noqa: S608 (all are constants)

# Which of `near` are a session's registers: those that rise, and those that follow without a fall and within a day of
# each other. Of the readings that are trusted `counting` says it. What was corrected keeps no session going.
_SESSIONS = f"""
    parted AS (
        SELECT device_key, ts, kwh, counting, trusted{{passed}}, before_ts, run, rises,
            ts - lag(ts) OVER (PARTITION BY device_key, run ORDER BY ts) > interval '1 day' AS apart
        FROM rising WHERE rises OR counting IS DISTINCT FROM 'corrected'
    ), parts AS (
        SELECT device_key, ts, kwh, counting, trusted{{passed}}, before_ts, run, rises,
            count(*) FILTER (WHERE apart) OVER (PARTITION BY device_key, run ORDER BY ts) AS part
        FROM parted
    ), sessions AS (
        SELECT device_key, ts, kwh, counting, trusted{{passed}}, before_ts,
            coalesce(bool_or(rises OR (trusted AND counting = '{SESSION}')) OVER (
                PARTITION BY device_key, run, part ORDER BY ts
            ), false) AS in_session
        FROM parts
    )"""  # noqa: S608 (all are constants)


def sessions(*passed: str) -> str:
    """The CTEs that end with `sessions` (device_key, ts, kwh, counting, trusted, before_ts, in_session), from `near`:
    readings (device_key, ts, kwh as it was sent or null, counting, trusted) that have no others between them.

    Both have further columns, `passed`, which are passed on. What was corrected is not among `sessions`, unless it
    rises.
    """
    return f"{_RISES.strip()}, {_SESSIONS.strip()}".replace("{passed}", "".join(f", {name}" for name in passed))
