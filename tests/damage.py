"""What psql may do to rollups and current status, and what history says of it all."""

import itertools
import math
from contextlib import suppress
from typing import Any, NamedTuple

import psycopg
from hypothesis import strategies as st

from shared.timestamps import US_PER_DAY, US_PER_HOUR, datetime_from_us, us_from_datetime
from tests.builders import NOW_US
from tests.model import hour_start_us

MIDNIGHT_US = NOW_US // US_PER_DAY * US_PER_DAY
FLOOR_DAY = datetime_from_us(MIDNIGHT_US).date()

SIDES = ("meter", "vehicle")
ENERGY = {"meter": "kwh_consumed_ac", "vehicle": "kwh_delivered_dc"}
MEASURED = {"meter": ("kwh_consumed_ac", "voltage"), "vehicle": ("kwh_delivered_dc", "soc", "battery_temp")}
SUMMED = {
    "meter": ("kwh_consumed_ac", "kwh_returned_ac", "readings"),
    "vehicle": ("kwh_delivered_dc", "kwh_returned_dc", "readings", "battery_temp_sum", "battery_temp_readings"),
}

Place = tuple[str, int | None]
"""A device's id and an hour, or None for its status."""


class Reading(NamedTuple):
    """What a device of either side reported."""

    side: str
    device: int
    ts_us: int
    kwh: float
    first: float | None
    """Volts or percent."""
    temp: float | None

    @property
    def device_id(self) -> str:
        return f"{self.side[0]}{self.device}"

    @property
    def values(self) -> tuple[float | None, ...]:
        return (self.kwh, self.first) if self.side == "meter" else (self.kwh, self.first, self.temp)


instants = st.one_of(
    st.integers(-8, 3).map(lambda n: MIDNIGHT_US + n * US_PER_HOUR // 6),
    st.builds(
        lambda hour, beside: MIDNIGHT_US + hour * US_PER_HOUR + beside, st.integers(-2, 0), st.sampled_from([-1, 0, 1])
    ),
)
readings = st.builds(
    Reading,
    side=st.sampled_from(SIDES),
    device=st.integers(0, 2),
    ts_us=instants,
    kwh=st.sampled_from([0.0, 0.1, 1.5, -1.5]) | st.floats(-100, 100),  # all of it plausible
    first=st.sampled_from([None, 0.0, 50.0]),
    temp=st.none() | st.sampled_from([-20.1, 20.1]) | st.floats(-60, 150),
)

NOBODY = 99
"""A key that no device has."""

# A number that picks a row among those that there are, and what psql does to it.
_at = st.integers(0, 50)
_side = st.sampled_from(SIDES)
_wrong = st.sampled_from([math.nan, math.inf, 0.0, 1e-300, 13.0])
damages = st.one_of(
    st.tuples(st.just("scale"), _side, _at, st.sampled_from([1 + 1e-12, 1 + 1e-7, 2.0])),
    st.tuples(st.just("sum"), _side, _at, _wrong),
    st.tuples(st.just("returned"), _side, _at, _wrong),
    st.tuples(st.just("temperatures"), st.just("vehicle"), _at, _wrong),
    st.tuples(st.just("count"), _side, _at, st.integers(-1, 1)),
    st.tuples(st.just("temperature count"), st.just("vehicle"), _at, st.integers(-1, 1)),
    st.tuples(st.just("last"), _side, _at, st.sampled_from([-1, 1, US_PER_HOUR])),
    st.tuples(st.just("move"), _side, _at, st.sampled_from([US_PER_HOUR // 2, 50 * US_PER_HOUR])),
    st.tuples(st.just("delete hour"), _side, _at, st.none()),
    st.tuples(st.just("open scale"), _side, _at, st.sampled_from([1 + 1e-12, 1 + 1e-7, 2.0])),
    st.tuples(st.just("open sum"), _side, _at, _wrong),
    st.tuples(st.just("open returned"), _side, _at, _wrong),
    st.tuples(st.just("open temperatures"), st.just("vehicle"), _at, _wrong),
    st.tuples(st.just("open count"), _side, _at, st.integers(-1, 1)),
    st.tuples(st.just("open move"), _side, _at, st.sampled_from([-US_PER_HOUR, US_PER_HOUR // 2, 50 * US_PER_HOUR])),
    st.tuples(st.just("surplus hour"), _side, st.sampled_from([1, 2, NOBODY]), st.integers(-3, 3)),
    st.tuples(st.just("status"), _side, _at, _wrong),
    st.tuples(st.just("status unmeasured"), _side, _at, st.none()),
    st.tuples(st.just("status time"), _side, _at, st.sampled_from([-1, 1, -2 * US_PER_DAY])),
    st.tuples(st.just("delete status"), _side, _at, st.none()),
    st.tuples(st.just("surplus status"), _side, st.sampled_from([1, 2, NOBODY]), st.integers(-30, 3)),
)

DAMAGES = {
    "scale": "UPDATE {s}_closed_hours SET kwh = kwh * %(by)s WHERE ctid = %(row)s",
    "sum": "UPDATE {s}_closed_hours SET kwh = %(by)s WHERE ctid = %(row)s",
    "returned": "UPDATE {s}_closed_hours SET kwh_returned = %(by)s WHERE ctid = %(row)s",
    "temperatures": "UPDATE {s}_closed_hours SET battery_temp_sum = %(by)s WHERE ctid = %(row)s",
    "count": "UPDATE {s}_closed_hours SET readings = readings + %(by)s WHERE ctid = %(row)s",
    "temperature count": (
        "UPDATE {s}_closed_hours SET battery_temp_readings = battery_temp_readings + %(by)s WHERE ctid = %(row)s"
    ),
    "move": ("UPDATE {s}_closed_hours SET hour_start = hour_start + %(by)s * interval '1 us' WHERE ctid = %(row)s"),
    "last": "UPDATE {s}_closed_hours SET last_ts = last_ts + %(by)s * interval '1 us' WHERE ctid = %(row)s",
    "delete hour": "DELETE FROM {s}_closed_hours WHERE ctid = %(row)s",
    "surplus hour": (
        "INSERT INTO {s}_closed_hours (device_key, hour_start, last_ts, {totals})"
        " VALUES (%(at)s, %(midnight)s + %(by)s * interval '1 h', %(midnight)s, {ones}) ON CONFLICT DO NOTHING"
    ),
    "open scale": "UPDATE {s}_current_status SET hour_kwh = hour_kwh * %(by)s WHERE ctid = %(row)s",
    "open sum": "UPDATE {s}_current_status SET hour_kwh = %(by)s WHERE ctid = %(row)s",
    "open returned": "UPDATE {s}_current_status SET hour_kwh_returned = %(by)s WHERE ctid = %(row)s",
    "open temperatures": "UPDATE {s}_current_status SET hour_battery_temp_sum = %(by)s WHERE ctid = %(row)s",
    "open count": "UPDATE {s}_current_status SET hour_readings = hour_readings + %(by)s WHERE ctid = %(row)s",
    "open move": (
        "UPDATE {s}_current_status SET hour_start = hour_start + %(by)s * interval '1 us' WHERE ctid = %(row)s"
    ),
    "status": "UPDATE {s}_current_status SET {energy} = %(by)s WHERE ctid = %(row)s",
    "status unmeasured": "UPDATE {s}_current_status SET {first} = NULL WHERE ctid = %(row)s",
    "status time": "UPDATE {s}_current_status SET ts = ts + %(by)s * interval '1 us' WHERE ctid = %(row)s",
    "delete status": "DELETE FROM {s}_current_status WHERE ctid = %(row)s",
    "surplus status": (
        "INSERT INTO {s}_current_status ({s}_key, ts, {energy}, hour_start)"
        " VALUES (%(at)s, %(midnight)s + %(by)s * interval '1 h', 1, %(midnight)s) ON CONFLICT DO NOTHING"
    ),
}


def damage(owner: psycopg.Connection[Any], what: str, side: str, at: int, by: float | None) -> None:
    """Does what a person with psql might; nothing where there is no row to do it to, or one where it would go."""
    of_status = "status" in what or "open" in what
    table, key, time = f"{side}_closed_hours", "device_key", "hour_start"
    if of_status:
        table, key, time = f"{side}_current_status", f"{side}_key", "ts"
    rows = owner.execute(f"SELECT ctid FROM {table} ORDER BY {key}, {time}").fetchall()
    if rows or "surplus" in what:
        statement = DAMAGES[what].format(
            s=side,
            energy=ENERGY[side],
            first=MEASURED[side][1],
            totals=", ".join(("kwh", "kwh_returned", *SUMMED[side][2:])),
            ones=", ".join("1" for _ in SUMMED[side]),
        )
        row = rows[at % len(rows)][0] if rows else None
        with suppress(psycopg.errors.UniqueViolation):
            owner.execute(statement, {"row": row, "at": at, "by": by, "midnight": datetime_from_us(MIDNIGHT_US)})


class Truth:
    """What the tables must hold, from the readings that history has, in plain Python."""

    def __init__(self, sent: list[Reading], floor_us: int | None) -> None:
        self.floor_us = floor_us
        history: dict[tuple[str, str, int], Reading] = {}
        for each in sent:
            history.setdefault((each.side, each.device_id, each.ts_us), each)
        kept = [each for each in history.values() if floor_us is None or each.ts_us >= floor_us]
        self.hours = {
            side: {
                place: list(of_hour)
                for place, of_hour in itertools.groupby(
                    sorted((each for each in kept if each.side == side), key=_hour), key=_hour
                )
                if self.judged(place[1])
            }
            for side in SIDES
        }
        self.newest = {
            side: {each.device_id: each for each in sorted(kept, key=lambda each: each.ts_us) if each.side == side}
            for side in SIDES
        }

    def judged(self, hour_us: int) -> bool:
        return self.floor_us is None or hour_us >= self.floor_us

    def differs(self, owner: psycopg.Connection[Any]) -> dict[str, set[Place]]:
        """The places, by table, at which the tables hold something else."""
        return {f"{side}_energy_hourly": self._wrong_hours(owner, side) for side in SIDES} | {
            f"{side}_current_status": self._wrong_status(owner, side) for side in SIDES
        }

    def _wrong_hours(self, owner: psycopg.Connection[Any], side: str) -> set[Place]:
        sums = ", ".join(f"sum({column})" for column in SUMMED[side])
        stored = {
            (device_id, us_from_datetime(hour)): (us_from_datetime(last_ts), values)
            for device_id, hour, last_ts, *values in owner.execute(
                f"SELECT coalesce({side}_id, {side}_key::text) AS device_id, hour_start, max(last_ts), {sums}"
                f" FROM {side}_energy_hourly LEFT JOIN {side}s USING ({side}_key) GROUP BY device_id, hour_start"
            )
            if self.judged(us_from_datetime(hour))
        }
        due = self.hours[side]
        return {
            place
            for place in stored.keys() | due.keys()
            if place not in stored or place not in due or not _same(*stored[place], due[place])
        }

    def _wrong_status(self, owner: psycopg.Connection[Any], side: str) -> set[Place]:
        stored = {
            device_id: (us_from_datetime(ts), us_from_datetime(hour), tuple(values))
            for device_id, ts, hour, *values in owner.execute(
                f"SELECT coalesce({side}_id, {side}_key::text), ts, hour_start, {', '.join(MEASURED[side])}"
                f" FROM {side}_current_status LEFT JOIN {side}s USING ({side}_key)"
            )
        }
        due = {
            device_id: (each.ts_us, hour_start_us(each.ts_us), each.values)
            for device_id, each in self.newest[side].items()
        }
        dropped = {
            device_id
            for device_id, (ts_us, *_) in stored.items()
            if device_id not in due and self.floor_us is not None and ts_us < self.floor_us
        }
        return {
            (device_id, None)
            for device_id in (stored.keys() | due.keys()) - dropped
            if stored.get(device_id) != due.get(device_id)
        }


def _hour(reading: Reading) -> tuple[str, int]:
    return reading.device_id, hour_start_us(reading.ts_us)


def _same(last_us: int, stored: list[Any], of_hour: list[Reading]) -> bool:
    if last_us != max(each.ts_us for each in of_hour):
        return False
    temps = [each.temp for each in of_hour if each.temp is not None]
    kwh, returned, count, *of_temps = stored
    due = math.fsum(each.kwh for each in of_hour)
    returned_due = math.fsum(-each.kwh for each in of_hour if each.kwh < 0)
    flowed = math.fsum(abs(each.kwh) for each in of_hour)
    if count != len(of_hour) or not abs(kwh - due) <= 1e-9 * max(flowed, 1e-290):
        return False
    if not abs(returned - returned_due) <= 1e-9 * max(returned_due, 1e-290):
        return False
    magnitudes = math.fsum(abs(temp) for temp in temps)
    return not of_temps or (
        of_temps[1] == len(temps) and bool(abs(of_temps[0] - math.fsum(temps)) <= 1e-9 * max(magnitudes, 1e-290))
    )
