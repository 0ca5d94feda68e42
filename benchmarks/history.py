"""Days of history, made by PostgreSQL itself: rows as the ingestion service would have stored them, in hours less."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from datetime import UTC, date, datetime, timedelta

import psycopg

from benchmarks.client import BenchmarkError
from benchmarks.readings import INTERVAL_US
from shared.db.device_kind import KINDS, METER, VEHICLE
from shared.timestamps import US_PER_DAY, US_PER_HOUR, datetime_from_us

ROWS_MIN = 2 * US_PER_DAY // INTERVAL_US
"""The day of one pair that reports once a minute."""

_DEVICES = (
    """
    INSERT INTO meters (meter_id)
    SELECT 'meter-' || to_char(pair, 'FM00000') FROM generate_series(0, %(pairs)s - 1) AS pair
    """,
    """
    INSERT INTO vehicles (vehicle_id)
    SELECT 'vehicle-' || to_char(pair, 'FM00000') FROM generate_series(0, %(pairs)s - 1) AS pair
    """,
    # From long before the first reading.
    """
    INSERT INTO vehicle_meter_map (vehicle_key, meter_key, effective_from)
    SELECT vehicle_key, meter_key, %(end)s - interval '400 days'
    FROM vehicles JOIN meters ON substr(vehicle_id, 9) = substr(meter_id, 7)
    """,
    "ANALYZE",
)
_PARTITIONS = """
SELECT ensure_history_partition(parent, CAST(day AS date))
FROM unnest(ARRAY['meter_telemetry_history', 'vehicle_telemetry_history']) AS parent,
    generate_series(date_trunc('day', %(start)s), %(end)s, interval '1 day') AS day
"""

# Instant by instant through all devices, as readings arrive: the index grows, and splits its pages, as it would.
_METERS = """
INSERT INTO meter_telemetry_history (meter_key, ts, kwh_consumed_ac, voltage)
SELECT meter_key, ts, %(minutes)s * (0.115 + meter_key %% 97 * 1e-4), 225.0 + meter_key %% 101 * 0.1
FROM generate_series(%(start)s + %(interval)s, %(end)s, %(interval)s) AS ts, meters
"""
_VEHICLES = """
INSERT INTO vehicle_telemetry_history (vehicle_key, ts, kwh_delivered_dc, soc, battery_temp)
SELECT vehicle_key, ts, 0.9 * %(minutes)s * (0.115 + vehicle_key %% 97 * 1e-4), 50.0,
       18.0 + vehicle_key %% 150 * 0.1
FROM generate_series(%(start)s + %(interval)s, %(end)s, %(interval)s) AS ts, vehicles
"""
# The same with noise: in steps of so many to the unit, at times that are off by up to so many milliseconds.
_NOISY_METERS = """
INSERT INTO meter_telemetry_history (meter_key, ts, kwh_consumed_ac, voltage)
SELECT meter_key, ts + floor(random() * (%(jitter_ms)s + 1)) * interval '1 millisecond',
       round(%(minutes)s * (0.110 + 0.010 * random()) * %(energy_steps)s) / %(energy_steps)s,
       round((228.0 + 4.0 * random()) * %(value_steps)s) / %(value_steps)s
FROM generate_series(%(start)s + %(interval)s / 2, %(end)s, %(interval)s) AS ts, meters
"""
_NOISY_VEHICLES = """
INSERT INTO vehicle_telemetry_history (vehicle_key, ts, kwh_delivered_dc, soc, battery_temp)
SELECT vehicle_key, ts + floor(random() * (%(jitter_ms)s + 1)) * interval '1 millisecond',
       round(%(minutes)s * (0.100 + 0.010 * random()) * %(energy_steps)s) / %(energy_steps)s,
       round((20.0 + extract(hour FROM ts)::float8 + random()) * %(value_steps)s) / %(value_steps)s,
       round((24.0 + 2.0 * random()) * %(value_steps)s) / %(value_steps)s
FROM generate_series(%(start)s + %(interval)s / 2, %(end)s, %(interval)s) AS ts, vehicles
"""
# Hour by hour through all devices, as they are filled; the newest one is still open, and in their status.
_HOURS = """
INSERT INTO {device}_closed_hours (device_key, hour_start, last_ts, {totals})
SELECT {device}_key, date_bin('1 hour', ts - interval '1 microsecond', 'epoch') AS hour_start, max(ts),
       sum({energy}), sum(greatest(0, -{energy})), count(*) {averaged:, coalesce(sum(#), 0), count(#)}
FROM {device}_telemetry_history WHERE ts > %(start)s AND ts <= least(%(end)s, %(open_hour)s)
GROUP BY {device}_key, hour_start ORDER BY hour_start, {device}_key
"""
_STATUS = """
INSERT INTO {device}_current_status ({device}_key, ts, {measurements}, hour_start, {totals:hour_#})
SELECT DISTINCT ON ({device}_key) {device}_key, ts, {measurements}, %(open_hour)s,
       sum({energy}) OVER device, sum(greatest(0, -{energy})) OVER device, count(*) OVER device
       {averaged:, coalesce(sum(#) OVER device, 0), count(#) OVER device}
FROM {device}_telemetry_history WHERE ts > %(open_hour)s
WINDOW device AS (PARTITION BY {device}_key) ORDER BY {device}_key, ts DESC
"""
# What is stored otherwise charges at all times.
_BY_NIGHT = (
    "UPDATE {device}_telemetry_history SET {energy} = 0 WHERE date_part('hour', ts - interval '1 microsecond') >= 6",
    """
    UPDATE {device}_closed_hours SET kwh = 0 WHERE date_part('hour', hour_start) >= 6
    """,
)
_SETTLED = ("VACUUM (FREEZE, ANALYZE)", "CHECKPOINT")


@dataclass(frozen=True)
class Values:
    """How finely readings are told."""

    energy_steps: float = 1e3
    """Of a kWh: Wh."""
    value_steps: float = 10
    """Of a volt, a percent and a degree."""
    jitter_ms: int = 0
    """By so much a timestamp is late at most."""


WATT_HOURS = Values()
FULL_PRECISION = Values(energy_steps=1e15, value_steps=1e13)
"""All bits of a double are noise."""


@dataclass(frozen=True)
class Stored:
    """What was stored: `pairs` meters and vehicles, each with a reading every `interval_us` for so many `days` up to
    `end_us`, a full hour."""

    pairs: int
    interval_us: int
    end_us: int
    days: int = 0

    @property
    def a_day(self) -> int:
        """Readings of a device in a day: what a question of 24 hours meets on each side, however much is stored."""
        return US_PER_DAY // self.interval_us

    @property
    def rows(self) -> int:
        """Rows of both histories together."""
        return 2 * self.pairs * self.days * self.a_day


def minutes_of_a_day(rows: int, end_us: int) -> Stored:
    """So many rows or a few less, as one day with a reading a minute: as many pairs as that gives. Not stored yet.

    BenchmarkError where the rows are too few for one pair.
    """
    if rows < ROWS_MIN:
        raise BenchmarkError(f"{rows:,} rows are less than the day of one pair, {ROWS_MIN:,}")
    return Stored(rows // ROWS_MIN, INTERVAL_US, end_us)


def full_hour(now_us: int) -> int:
    """The last full hour: windows of the whole fleet end at one."""
    return now_us // US_PER_HOUR * US_PER_HOUR


def extend(url: str, stored: Stored, days: int) -> Stored:
    """Adds older days, with their rollups, until there are so many; an empty, migrated database gets its devices, too.

    A day's rows lie together, as they would had they come in time.
    """
    open_hour = datetime_from_us(stored.end_us - US_PER_HOUR)
    if not stored.days:
        add_devices(url, stored.pairs, stored.end_us)
    spans = [
        {
            "start": datetime_from_us(stored.end_us - (day + 1) * US_PER_DAY),
            "end": datetime_from_us(stored.end_us - day * US_PER_DAY),
            "interval": datetime_from_us(stored.interval_us) - datetime_from_us(0),
            "minutes": stored.interval_us / INTERVAL_US,
            "open_hour": open_hour,
        }
        for day in range(stored.days, days)
    ]

    def load(statements: Sequence[str]) -> None:
        for span in spans:
            _run(url, statements, span)

    for span in spans:
        _run(url, (_PARTITIONS,), span)
    with ThreadPoolExecutor(2) as both:
        for done in [
            both.submit(load, (readings, kind.render(_HOURS)))
            for kind, readings in ((METER, _METERS), (VEHICLE, _VEHICLES))
        ]:
            done.result()
    if not stored.days:
        _run(url, [kind.render(_STATUS) for kind in KINDS], {"open_hour": open_hour})
    settle(url)
    return replace(stored, days=max(days, stored.days))


def add_devices(url: str, pairs: int, end_us: int) -> None:
    """Meters and vehicles of an empty, migrated database, with their mappings."""
    _run(url, _DEVICES, {"pairs": pairs, "end": datetime_from_us(end_us)})


def settle(url: str) -> None:
    """What PostgreSQL would do by itself in the hours after a load."""
    _run(url, _SETTLED)


def store_days(url: str, days: Sequence[date], interval_us: int, values: Values, seed: int) -> None:
    """Adds whole UTC days of readings with noise, of all devices there are, with their rollups; both kinds at a time.

    Values are random around those of a charge of 7 kW: charging all day is the most that a device has to tell.
    """

    def load(number: int) -> None:
        kind, readings = ((METER, _NOISY_METERS), (VEHICLE, _NOISY_VEHICLES))[number]
        for at, day in enumerate(days):
            start = datetime(day.year, day.month, day.day, tzinfo=UTC)
            end = start + timedelta(days=1)
            span = {
                "start": start,
                "end": end,
                "open_hour": end,
                "interval": timedelta(microseconds=interval_us),
                "minutes": interval_us / INTERVAL_US,
                "seed": (seed * 64 + at * 2 + number) % 10_007 / 10_007,
                **asdict(values),
            }
            _run(url, ("SELECT setseed(%(seed)s)", readings, kind.render(_HOURS)), span)

    for day in days:
        noon = datetime(day.year, day.month, day.day, 12, tzinfo=UTC)
        _run(url, (_PARTITIONS,), {"start": noon, "end": noon})
    with ThreadPoolExecutor(2) as both:
        for done in [both.submit(load, number) for number in range(2)]:
            done.result()


def charge_by_night(url: str) -> None:
    """Takes the energies away that were stored of other hours than those from midnight to 6 o'clock in UTC."""
    for kind in KINDS:
        _run(url, [kind.render(statement) for statement in _BY_NIGHT])
    _run(url, _SETTLED)


def _run(url: str, statements: Sequence[str], parameters: dict[str, object] | None = None) -> None:
    # Commits wait for the disk: VACUUM marks no page all-visible whose rows' commit is not there yet.
    options = "-c timezone=UTC -c work_mem=256MB"
    with psycopg.connect(url, autocommit=True, options=options) as connection:
        for statement in statements:
            connection.execute(statement, parameters)
