"""Where statements find readings: in the tables of open days alone, or in the views that have sealed days as well.

A statement is one text with holes for that. Of a view it says beside times which days it needs, since all others then
stay packed: by conditions that the tables have no need for.
"""

from collections.abc import Callable
from typing import NamedTuple

from sqlalchemy import TextClause, text

from shared.db.device_kind import DeviceKind


class Readings(NamedTuple):
    """Names of a source of readings, and conditions on its days, with holes for the kind of device and for SQL."""

    relation: str
    of_the_days: str
    """Of a question: of the days of its window, and of what it looks at before it."""
    between: str
    """And of the days of some time, `{since}` to `{until}`."""
    until_first: str
    """And of none after the first sealed day of the device `{key}` that has a reading after `{since}`."""
    since_latest: str
    """And of none before the sealed days of the device `{key}` that have its last two readings up to `{since}`."""
    newest: str
    """And of none before the last sealed days of the device `{key}` that have 100 readings after `{since}` and up to
    `{until}`."""
    marked: str
    """And of no sealed day of the device `{key}` on which all readings simply count."""

    def of(self, kind: DeviceKind) -> str:
        return self.relation.format(device=kind.name)

    def days(self, condition: str, kind: DeviceKind, **sql: str) -> str:
        """One of the conditions above."""
        return condition.format(device=kind.name, **sql)


_TIMES = """
    ts >= CAST(CAST(:first_day AS date) AS timestamp) AT TIME ZONE 'UTC'
    AND ts < CAST(CAST(:last_day AS date) + 1 AS timestamp) AT TIME ZONE 'UTC'
"""

_OPEN = Readings("{device}_telemetry_history", _TIMES, "", "", "", "", "")

# What is before the retention floor is about to be dropped: as if it were gone.
_ALL = Readings(
    "{device}_readings",
    _TIMES  # noqa: S608 (all are constants)
    + """
    AND day >= CAST(:first_day AS date) AND day <= CAST(:last_day AS date) AND day >= (SELECT floor_day FROM retention)
""",
    """
    AND day >= CAST({since} AT TIME ZONE 'UTC' AS date) AND day <= CAST({until} AT TIME ZONE 'UTC' AS date)
""",
    """
    AND day <= coalesce((
        SELECT min(day) FROM {device}_sealed_days
        WHERE device_key = {key} AND last_ts > {since} AND day >= (SELECT floor_day FROM retention)
          AND day >= CAST({since} AT TIME ZONE 'UTC' AS date)
          AND day >= CAST(:first_day AS date) AND day <= CAST(:last_day AS date)
    ), 'infinity')
""",
    """
    AND day >= greatest((
        SELECT day FROM {device}_sealed_days
        WHERE device_key = {key} AND first_ts <= {since} AND day >= (SELECT floor_day FROM retention)
          AND day >= CAST(:first_day AS date) AND day <= CAST({since} AT TIME ZONE 'UTC' AS date)
        ORDER BY day DESC
        LIMIT 1 OFFSET 1
    ), (
        SELECT day FROM {device}_sealed_days
        WHERE device_key = {key} AND readings > 1 AND first_ts + gaps_us[2] * interval '1 microsecond' <= {since}
          AND day >= CAST(:first_day AS date) AND day <= CAST({since} AT TIME ZONE 'UTC' AS date)
        ORDER BY day DESC
        LIMIT 1
    ), '-infinity')
""",
    """
    AND day >= coalesce((
        SELECT min(day) FROM (
            SELECT day, sum(readings) FILTER (WHERE last_ts <= {until}) OVER (
                    ORDER BY day DESC ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING
                ) AS newer
            FROM {device}_sealed_days
            WHERE device_key = {key} AND first_ts <= {until} AND last_ts > {since}
              AND day >= CAST(:first_day AS date) AND day <= CAST(:last_day AS date)
        ) AS sealed
        WHERE coalesce(newer, 0) < 100
    ), '-infinity')
""",
    """
    AND day <> ALL (ARRAY(
        SELECT day FROM {device}_sealed_days
        WHERE device_key = {key} AND counting IS NULL
          AND day >= CAST(:first_day AS date) AND day <= CAST(:last_day AS date)
    ))
""",
)


class OfReadings(NamedTuple):
    """A statement in its two forms."""

    open: TextClause
    """Of days that are all open and kept."""
    all: TextClause
    """Of any days."""


def of_readings(statement: Callable[[Readings], str]) -> OfReadings:
    return OfReadings(text(statement(_OPEN)), text(statement(_ALL)))
