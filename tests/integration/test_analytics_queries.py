"""The questions to a real database, asked with the rights of the analytics role alone."""

from collections.abc import AsyncIterator, Iterable, Iterator
from contextlib import asynccontextmanager
from datetime import UTC, date, datetime, timedelta
from typing import Any

import psycopg
import psycopg.conninfo
import pytest
import pytest_asyncio
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import TextClause

from analytics_svc import fleet_sql, queries_sql
from analytics_svc.baseline_charges import baseline_window
from analytics_svc.baseline_queries import period_parameters
from analytics_svc.freshness import ClockEvidence, DeviceStatus, Found
from analytics_svc.hour_cache import HourCache
from analytics_svc.prepared import Prepared
from analytics_svc.queries import Queries
from analytics_svc.queries_sql import SIMILAR_MAX
from analytics_svc.questions import PerformanceQuestion, Window
from analytics_svc.totals import Evidence, FleetTotals, Totals
from shared.db.device_kind import KINDS, METER, VEHICLE
from shared.db.embedded import EmbeddedServer
from shared.errors import UnknownDevice
from shared.timestamps import US_PER_DAY, US_PER_HOUR, datetime_from_us, us_from_datetime
from tests.charging_model import THRESHOLDS
from tests.sealed import seal_all

MIDNIGHT_US = us_from_datetime(datetime(2026, 2, 9, tzinfo=UTC))
MINUTE_US = US_PER_HOUR // 60

alike = st.text(st.sampled_from("aAbB"), min_size=1, max_size=4) | st.sampled_from(["x_Y", "X_y", "x%Y", "x Y", "X Y"])
"""Ids, many of which differ only in case."""

_ROLL_UP = """
INSERT INTO {device}_closed_hours (device_key, hour_start, last_ts, {totals})
SELECT {device}_key, date_bin('1 hour', ts - interval '1 microsecond', 'epoch') AS hour_start, max(ts),
       sum({energy}), sum(greatest(0, -{energy})), count(*) {averaged:, coalesce(sum(#), 0), count(#)}
FROM {device}_telemetry_history WHERE {device}_key = %(key)s GROUP BY {device}_key, hour_start
ON CONFLICT (device_key, hour_start) DO UPDATE SET last_ts = excluded.last_ts, {totals:# = excluded.#}
"""


class Rows:
    """Puts rows straight into the tables. Times in microseconds, energy in kWh."""

    def __init__(self, connection: psycopg.Connection[Any]) -> None:
        self.connection = connection

    def vehicle(self, vehicle_id: str) -> int:
        return self._key("INSERT INTO vehicles (vehicle_id) VALUES (%s) RETURNING vehicle_key", vehicle_id)

    def meter(self, meter_id: str) -> int:
        return self._key("INSERT INTO meters (meter_id) VALUES (%s) RETURNING meter_key", meter_id)

    def mapping(self, vehicle_key: int, meter_key: int, from_us: int, until_us: int | None = None) -> None:
        until = None if until_us is None else datetime_from_us(until_us)
        self.connection.execute(
            "INSERT INTO vehicle_meter_map (vehicle_key, meter_key, effective_from, effective_until)"
            " VALUES (%s, %s, %s, %s)",
            (vehicle_key, meter_key, datetime_from_us(from_us), until),
        )

    def delivered(self, vehicle_key: int, *readings: tuple[int, float] | tuple[int, float, float | None]) -> None:
        """Readings of a vehicle: time, energy, and battery temperature where there is one."""
        self._partitions("vehicle_telemetry_history", (reading[0] for reading in readings))
        with self.connection.cursor() as cursor:
            cursor.executemany(
                "INSERT INTO vehicle_telemetry_history (vehicle_key, ts, kwh_delivered_dc, battery_temp)"
                " VALUES (%s, %s, %s, %s)",
                [
                    (vehicle_key, datetime_from_us(reading[0]), reading[1], reading[2] if len(reading) > 2 else None)
                    for reading in readings
                ],
            )
        self.connection.execute(VEHICLE.render(_ROLL_UP), {"key": vehicle_key})

    def consumed(self, meter_key: int, *readings: tuple[int, float]) -> None:
        """Readings of a meter: time and energy."""
        self._partitions("meter_telemetry_history", (reading[0] for reading in readings))
        with self.connection.cursor() as cursor:
            cursor.executemany(
                "INSERT INTO meter_telemetry_history (meter_key, ts, kwh_consumed_ac) VALUES (%s, %s, %s)",
                [(meter_key, datetime_from_us(ts_us), kwh) for ts_us, kwh in readings],
            )
        self.connection.execute(METER.render(_ROLL_UP), {"key": meter_key})

    def _partitions(self, parent: str, times_us: Iterable[int]) -> None:
        for day in {datetime_from_us(ts_us).date() for ts_us in times_us}:
            self.connection.execute("SELECT ensure_history_partition(%s, %s)", (parent, day))

    def _key(self, statement: str, device_id: str) -> int:
        row = self.connection.execute(statement.encode(), (device_id,)).fetchone()
        assert row is not None
        return int(row[0])


@pytest.fixture
def rows(database_url: str) -> Iterator[Rows]:
    with psycopg.connect(database_url, autocommit=True) as connection:
        yield Rows(connection)


@pytest.fixture
def reader_url(postgres: EmbeddedServer, database: str) -> str:
    """The test's database for the role that the service has in production."""
    return postgres.url(database, role="energyfleet_analytics")


@asynccontextmanager
async def asking(url: str, *, pool_size: int = 2, timeout_s: float = 10.0) -> AsyncIterator[Queries]:
    queries = Queries(url, "test", pool_size=pool_size, timeout_s=timeout_s)
    try:
        yield queries
    finally:
        await queries.close()


@pytest_asyncio.fixture
async def queries(reader_url: str) -> AsyncIterator[Queries]:
    async with asking(reader_url) as asked:
        yield asked


async def totals_of(queries: Queries, start_us: int, end_us: int, vehicle_id: str = "car") -> Totals:
    return (await found_of(queries, start_us, end_us, vehicle_id))[0].at(0)


async def found_of(
    queries: Queries, start_us: int, end_us: int, vehicle_id: str = "car"
) -> tuple[FleetTotals, Evidence]:
    question = PerformanceQuestion(vehicle_id, Window(start_us, end_us))
    return (await queries.performance(question, THRESHOLDS.comparing)).value


async def test_totals_are_sums_of_readings_however_often_each_side_reports(rows: Rows, queries: Queries) -> None:
    car, meter = rows.vehicle("car"), rows.meter("meter")
    rows.mapping(car, meter, MIDNIGHT_US - US_PER_DAY)
    rows.delivered(car, *((MIDNIGHT_US + i * 5 * MINUTE_US, 0.5, 20.0 + i) for i in range(1, 13)))
    rows.consumed(meter, *((MIDNIGHT_US + i * MINUTE_US, 0.125) for i in range(1, 61)))
    assert await totals_of(queries, MIDNIGHT_US, MIDNIGHT_US + US_PER_HOUR) == Totals(
        mappings=1,
        kwh_delivered_dc=6.0,
        kwh_consumed_ac=7.5,
        average_battery_temp=26.5,
        vehicle_readings=12,
        meter_readings=60,
        kwh_returned_dc=0.0,
        kwh_returned_ac=0.0,
        kwh_delivered_dc_unmapped=0.0,
        kwh_consumed_ac_idle=0.0,
    )


async def test_a_window_is_open_at_its_start_and_closed_at_its_end(rows: Rows, queries: Queries) -> None:
    car, meter = rows.vehicle("car"), rows.meter("meter")
    rows.mapping(car, meter, MIDNIGHT_US - US_PER_DAY)
    start_us, end_us = MIDNIGHT_US - US_PER_HOUR, MIDNIGHT_US
    for insert, device in ((rows.delivered, car), (rows.consumed, meter)):
        insert(device, (start_us, 1.0), (start_us + 1, 2.0), (end_us, 4.0), (end_us + 1, 8.0))
    totals = await totals_of(queries, start_us, end_us)
    assert (totals.kwh_delivered_dc, totals.kwh_consumed_ac) == (6.0, 6.0)
    assert (totals.vehicle_readings, totals.meter_readings) == (2, 2)


async def test_energy_of_a_meter_counts_only_while_it_was_mapped(rows: Rows, queries: Queries) -> None:
    car, other = rows.vehicle("car"), rows.vehicle("other")
    first, second = rows.meter("first"), rows.meter("second")
    moved_us = MIDNIGHT_US + US_PER_HOUR
    rows.mapping(car, first, MIDNIGHT_US, moved_us)
    rows.mapping(car, second, moved_us)
    rows.mapping(other, first, moved_us)
    rows.consumed(first, (MIDNIGHT_US, 1.0), (MIDNIGHT_US + 1, 2.0), (moved_us, 4.0), (moved_us + 1, 8.0))
    rows.consumed(second, (moved_us, 16.0), (moved_us + 1, 32.0))
    totals = await totals_of(queries, MIDNIGHT_US - US_PER_DAY, MIDNIGHT_US + US_PER_DAY)
    assert totals.kwh_consumed_ac == 2.0 + 4.0 + 32.0
    assert totals.meter_readings == 3
    assert totals.mappings == 2
    others = await totals_of(queries, MIDNIGHT_US - US_PER_DAY, MIDNIGHT_US + US_PER_DAY, "other")
    assert others.kwh_consumed_ac == 8.0


@pytest.mark.parametrize("named", [False, True], ids=["the whole fleet", "by name"])
async def test_every_meter_that_feeds_a_vehicle_counts_also_in_a_fleet(
    rows: Rows, queries: Queries, named: bool
) -> None:
    car, other = rows.vehicle("car"), rows.vehicle("other")
    for number in range(3):  # each reports in an hour of its own, and one in that of another too
        meter = rows.meter(f"car-L{number}")
        rows.mapping(car, meter, MIDNIGHT_US - 2 * US_PER_DAY)
        rows.consumed(meter, (MIDNIGHT_US - 1 - number * US_PER_HOUR, 2.0**number), (MIDNIGHT_US, 8.0 * 2**number))
    for number, from_us in enumerate((MIDNIGHT_US - 2 * US_PER_DAY, MIDNIGHT_US - 90 * MINUTE_US)):
        meter = rows.meter(f"other-L{number}")
        rows.mapping(other, meter, from_us)
        rows.consumed(meter, *((MIDNIGHT_US - hours * US_PER_HOUR, 2.0 ** (4 * number + hours)) for hours in range(4)))
    window = Window(MIDNIGHT_US - US_PER_DAY, MIDNIGHT_US)
    vehicle_ids = frozenset(("car", "other") if named else ())
    found = (await queries.fleet.totals(window, vehicle_ids, THRESHOLDS.comparing)).value
    totals = {vehicle_id: found.at(position) for position, vehicle_id in enumerate(found.vehicle_ids)}
    for vehicle_id, mappings, kwh, readings, hours in (("car", 3, 63.0, 6, 3), ("other", 2, 15.0 + 48.0, 6, 4)):
        assert totals[vehicle_id] == Totals(mappings, None, kwh, None, 0, readings, None, 0.0, None, 0.0)
        single, evidence = await found_of(queries, window.start_us, window.end_us, vehicle_id)
        assert single.at(0) == totals[vehicle_id]
        assert (evidence.hours_either, evidence.hours_both) == (hours, 0)


async def test_a_mapping_that_only_touches_the_window_is_none(rows: Rows, queries: Queries) -> None:
    car = rows.vehicle("car")
    start_us, end_us = MIDNIGHT_US, MIDNIGHT_US + US_PER_HOUR
    rows.mapping(car, rows.meter("before"), start_us - US_PER_HOUR, start_us)
    rows.mapping(car, rows.meter("after"), end_us)
    assert (await totals_of(queries, start_us, end_us)).mappings == 0
    assert (await totals_of(queries, start_us - 1, end_us)).mappings == 1
    assert (await totals_of(queries, start_us, end_us + 1)).mappings == 1


async def test_an_hour_is_open_at_its_start_and_closed_at_its_end(rows: Rows, queries: Queries) -> None:
    car, meter = rows.vehicle("car"), rows.meter("meter")
    rows.mapping(car, meter, MIDNIGHT_US - US_PER_DAY)
    rows.delivered(car, (MIDNIGHT_US + US_PER_HOUR, 1.0), (MIDNIGHT_US + 5 * US_PER_HOUR, 1.0))
    rows.consumed(meter, (MIDNIGHT_US + 1, 1.0), (MIDNIGHT_US + 5 * US_PER_HOUR + 1, 1.0))
    _, evidence = await found_of(queries, MIDNIGHT_US, MIDNIGHT_US + US_PER_DAY)
    assert (evidence.hours_both, evidence.hours_either) == (1, 3)


async def test_what_was_not_measured_is_absent_and_not_zero(rows: Rows, queries: Queries) -> None:
    car = rows.vehicle("car")
    silent = Totals(
        mappings=0,
        kwh_delivered_dc=None,
        kwh_consumed_ac=None,
        average_battery_temp=None,
        vehicle_readings=0,
        meter_readings=0,
        kwh_returned_dc=None,
        kwh_returned_ac=None,
        kwh_delivered_dc_unmapped=None,
        kwh_consumed_ac_idle=None,
    )
    assert await totals_of(queries, MIDNIGHT_US, MIDNIGHT_US + US_PER_DAY) == silent
    rows.delivered(car, (MIDNIGHT_US + 1, 0.0), (MIDNIGHT_US + 2, 0.0, -10.0), (MIDNIGHT_US + 3, 0.0, 0.0))
    totals = await totals_of(queries, MIDNIGHT_US, MIDNIGHT_US + US_PER_DAY)
    assert totals.kwh_delivered_dc == 0.0
    assert totals.kwh_consumed_ac is None
    assert totals.average_battery_temp == -5.0
    assert totals.vehicle_readings == 3


async def test_the_newest_reading_is_read_from_the_hot_store(rows: Rows, queries: Queries) -> None:
    car, meter = rows.vehicle("car"), rows.meter("meter")
    ts = datetime_from_us(MIDNIGHT_US + 1)
    rows.connection.execute(
        "INSERT INTO vehicle_current_status (vehicle_key, ts, hour_start, kwh_delivered_dc, soc)"
        " VALUES (%s, %s, %s, 0.5, 80)",
        (car, ts, ts),
    )
    rows.connection.execute(
        "INSERT INTO meter_current_status (meter_key, ts, hour_start, kwh_consumed_ac) VALUES (%s, %s, %s, 0.6)",
        (meter, ts, ts),
    )
    vehicle_status, clock, *_ = (await queries.status(VEHICLE, "car")).value
    measured = {"kwh_delivered_dc": 0.5, "soc": 80.0}
    assert clock is None
    assert vehicle_status == DeviceStatus(MIDNIGHT_US + 1, {**measured, "battery_temp": None, "register_kwh": None})
    assert (await queries.status(METER, "meter")).value == Found(
        DeviceStatus(MIDNIGHT_US + 1, {"kwh_consumed_ac": 0.6, "voltage": None, "register_kwh": None}), None
    )
    assert vehicle_status is not None
    assert vehicle_status.age_us(MIDNIGHT_US) == -1


async def test_the_clock_s_evidence_is_told_also_where_only_rejected_readings_came(
    rows: Rows, queries: Queries
) -> None:
    car, meter = rows.vehicle("car"), rows.meter("meter")
    ts = datetime_from_us(MIDNIGHT_US)
    rows.connection.execute("INSERT INTO vehicle_clock_evidence VALUES (%s, %s, -7, 1, 2, 3)", (car, ts))
    rows.connection.execute("INSERT INTO meter_clock_evidence VALUES (%s, NULL, NULL, 0, 5, 0)", (meter,))
    assert (await queries.status(VEHICLE, "car")).value == Found(None, ClockEvidence(-7, 1, 2, 3))
    assert (await queries.status(METER, "meter")).value == Found(None, ClockEvidence(None, 0, 5, 0))


async def test_a_device_that_is_known_from_a_mapping_alone_has_no_status(rows: Rows, queries: Queries) -> None:
    rows.mapping(rows.vehicle("car"), rows.meter("meter"), MIDNIGHT_US)
    assert (await queries.status(VEHICLE, "car")).value == Found(None, None)
    assert (await queries.status(METER, "meter")).value == Found(None, None)


async def test_a_device_never_heard_of_is_unknown(rows: Rows, queries: Queries) -> None:
    rows.vehicle("car")
    for asked in (totals_of(queries, 0, 1, "meter"), queries.status(VEHICLE, "meter"), queries.status(METER, "car")):
        with pytest.raises(UnknownDevice, match="is unknown"):
            await asked


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(known=st.lists(alike, max_size=15, unique=True), asked=st.lists(alike, max_size=5))
async def test_with_each_id_come_the_known_ones_that_differ_only_in_case(
    known: list[str], asked: list[str], rows: Rows, queries: Queries
) -> None:
    rows.connection.execute("TRUNCATE meters, vehicles CASCADE")
    for each in known:
        rows.vehicle(each)
    for each in sorted(known)[::2]:
        rows.meter(each)
    for kind, its in ((VEHICLE, known), (METER, sorted(known)[::2])):
        found = (await queries.statuses(kind, asked)).value
        assert [each.known for each in found] == [each in its for each in asked]
        assert [list(each.similar_ids) for each in found] == [
            sorted(other for other in its if other != each and other.lower() == each.lower())[:SIMILAR_MAX]
            for each in asked
        ]
    for each in known[:1]:
        _, evidence = await found_of(queries, 0, 1, each)
        assert evidence.similar_vehicle_ids == list((await queries.statuses(VEHICLE, [each])).value[0].similar_ids)


async def test_a_few_ids_of_very_many_that_differ_only_in_case_are_read_from_an_index(
    rows: Rows, queries: Queries
) -> None:
    rows.connection.execute(
        "INSERT INTO vehicles (vehicle_id) SELECT 'car-' || i FROM generate_series(1, 5000) AS i"
        " UNION ALL SELECT translate(lpad(CAST(CAST(i AS bit(12)) AS text), 12), '01', 'xX')"
        " FROM generate_series(0, 4095) AS i"
    )
    rows.connection.execute("VACUUM (ANALYZE) vehicles")
    days = {"first_day": date(2026, 2, 8), "last_day": date(2026, 2, 9)}
    ends = {"window_start": datetime_from_us(MIDNIGHT_US - 1), "window_end": datetime_from_us(MIDNIGHT_US)}
    baseline = period_parameters(baseline_window(Window(MIDNIGHT_US - 1, MIDNIGHT_US)))
    for plan in (
        await plan_of(queries, queries_sql.STATUSES[VEHICLE], {"ids": ["x" * 12], "refusals_max": 1}),
        await plan_of(
            queries, queries_sql.PERFORMANCE.open, {"vehicle_id": "x" * 12, **days, **ends, **baseline}, days
        ),
    ):
        limits = [each for each in _nodes(plan) if each["Node Type"] == "Limit" and each.get("Subplan Name")]
        assert [[(node["Node Type"], node.get("Index Name")) for node in each["Plans"]] for each in limits] == [
            [("Index Only Scan", "vehicles_lower_id")]
        ]
    [found] = (await queries.statuses(VEHICLE, ["x" * 12])).value
    assert list(found.similar_ids) == ["X" * 10 + end for end in ("XX", "Xx", "xX", "xx")] + ["X" * 9 + "xXX"]


async def test_the_service_cannot_write(rows: Rows, queries: Queries, database_url: str) -> None:
    insert = "INSERT INTO vehicles (vehicle_id) VALUES ('x')"
    async with await queries.reader.connect() as connection:
        await connection.execute("SET default_transaction_read_only = off")
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            await connection.execute(insert)
    async with asking(database_url) as by_owner, await by_owner.reader.connect() as connection:
        with pytest.raises(psycopg.errors.ReadOnlySqlTransaction):
            await connection.execute(insert)


def _nodes(plan: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield plan
    for inner in plan.get("Plans", ()):
        yield from _nodes(inner)


def _scans(plan: dict[str, Any], tables: str) -> Iterator[tuple[str, str]]:
    if tables in plan.get("Relation Name", ""):
        yield plan["Relation Name"], plan["Node Type"]
    for inner in plan.get("Plans", ()):
        yield from _scans(inner, tables)


async def plan_of(
    queries: Queries,
    statement: TextClause,
    parameters: dict[str, Any],
    planned_for: dict[str, date] | None = None,
    options: str = "FORMAT JSON",
) -> dict[str, Any]:
    """The plan of a question as the reader puts it."""
    prepared = Prepared.named("asked", statement, planned_for)
    async with await queries.reader.connect() as connection:
        await connection.execute(f"SET plan_cache_mode = {prepared.plans}; {prepared.prepare}".encode())
        explained = await connection.execute(f"EXPLAIN ({options}) {prepared.execute}".encode(), parameters)
        [(plan,)] = await explained.fetchall()
    root: dict[str, Any] = plan[0]["Plan"]
    return root


@pytest.mark.parametrize("named", [False, True], ids=["the whole fleet", "a vehicle"])
async def test_a_fleet_s_hours_are_read_by_an_index_however_many_are_stored(
    rows: Rows, queries: Queries, named: bool
) -> None:
    for number in range(1, 21):
        rows.mapping(rows.vehicle(f"car-{number}"), rows.meter(f"meter-{number}"), MIDNIGHT_US - 100 * US_PER_DAY)
    for columns in (
        "meter_closed_hours (device_key, hour_start, last_ts, kwh, kwh_returned, readings)"
        " SELECT device, hour, hour + interval '1 hour', 1, 0, 1",
        "vehicle_closed_hours (device_key, hour_start, last_ts, kwh, kwh_returned, readings, battery_temp_sum,"
        " battery_temp_readings) SELECT device, hour, hour + interval '1 hour', 0.9, 0, 1, 20, 1",
    ):
        rows.connection.execute(
            f"INSERT INTO {columns} FROM generate_series(1, 20) AS device,"
            " generate_series(timestamptz '2025-12-01 00:00Z', '2026-02-08 23:00Z', '1 hour') AS hour".encode()
        )
    rows.connection.execute("VACUUM (ANALYZE) vehicle_closed_hours, meter_closed_hours, vehicle_meter_map")

    window = Window(MIDNIGHT_US - US_PER_DAY, MIDNIGHT_US)
    vehicle_ids = frozenset({"car-7"} if named else ())
    parameters = {
        "vehicle_keys": [7] if named else list(range(1, 21)),
        "hours": [datetime_from_us(window.start_us + hour * US_PER_HOUR) for hour in range(-1, 24)],
        "versions": [None] * 25,
        "window_start": datetime_from_us(window.start_us),
        "window_end": datetime_from_us(window.end_us),
        "first_day": date(2026, 2, 7),
        "last_day": date(2026, 2, 9),
    }
    hour_by_hour = () if named else (fleet_sql.VEHICLE_HOURS, fleet_sql.METER_HOURS)
    for statement in (fleet_sql.FLEET_SPANS.open, *hour_by_hour):
        scans = list(_scans(await plan_of(queries, statement, parameters), "closed_hours"))
        assert scans
        assert {kind for _, kind in scans} <= {"Index Scan", "Bitmap Heap Scan"}
    found = (await queries.fleet.totals(window, vehicle_ids, THRESHOLDS.comparing)).value
    assert len(found) == (1 if named else 20)
    assert {found.at(position)._replace(kwh_delivered_dc=None) for position in range(len(found))} == {
        Totals(1, None, 24.0, 20.0, 24, 24, 0.0, 0.0, 0.0, 0.0)
    }


async def test_the_hours_of_a_fleet_tell_how_long_before_their_ends_devices_reported(
    rows: Rows, queries: Queries
) -> None:
    window = Window(MIDNIGHT_US - US_PER_HOUR, MIDNIGHT_US + US_PER_HOUR)
    early, late = rows.vehicle("early"), rows.vehicle("late")
    rows.delivered(late, (MIDNIGHT_US - 7, 0.5), (MIDNIGHT_US, 0.5), (window.end_us - 1, 0.5), (MIDNIGHT_US + 1, 0.5))
    rows.delivered(early, (window.start_us + 1, 0.5))
    earlier, before, after = (await queries.fleet._hours(fleet_sql.VEHICLE_HOURS, HourCache(), window)).value
    assert earlier.keys.tolist() == []
    assert before.keys.tolist() == [early, late]
    assert before.until_end_us.tolist() == [US_PER_HOUR - 1, 0]
    assert (after.keys.tolist(), after.until_end_us.tolist()) == ([late], [1])


@pytest.mark.parametrize("once", [True, False], ids=["planned for the days", "planned for the window"])
async def test_history_is_read_index_only_from_the_days_of_the_window(rows: Rows, queries: Queries, once: bool) -> None:
    first = date(2026, 2, 1)
    for kind in KINDS:
        parent, device, energy = kind.history, kind.name, kind.energy
        rows.connection.execute(
            "SELECT ensure_history_partition(%s, CAST(%s AS date) + i) FROM generate_series(0, 29) AS i",
            (parent, first),
        )
        rows.connection.execute(
            f"INSERT INTO {parent} ({device}_key, ts, {energy})"
            " SELECT device, ts, 0.1 FROM generate_series(1, 20) AS device,"
            " generate_series(timestamptz '2026-02-07 00:01Z', '2026-02-10 00:00Z', '1 minute') AS ts".encode()
        )
        rows.connection.execute(kind.render(_ROLL_UP), {"key": 1})
    rows.mapping(rows.vehicle("car"), rows.meter("meter"), MIDNIGHT_US - 100 * US_PER_DAY)
    rows.connection.execute("VACUUM (ANALYZE) vehicle_telemetry_history")
    rows.connection.execute("VACUUM (ANALYZE) meter_telemetry_history")

    noon_us = MIDNIGHT_US + US_PER_DAY // 2 - MINUTE_US
    days = {"first_day": date(2026, 2, 8), "last_day": date(2026, 2, 9)}
    parameters = {
        "vehicle_id": "car",
        "starts": [datetime_from_us(noon_us - hours * US_PER_HOUR) for hours in range(24, 0, -1)],
        "window_start": datetime_from_us(noon_us - US_PER_DAY),
        "window_end": datetime_from_us(noon_us),
        **days,
        **period_parameters(baseline_window(Window(noon_us - US_PER_DAY, noon_us))),
    }
    for statement in (queries_sql.PERFORMANCE.open, queries_sql.PERFORMANCE_SERIES.open):
        plan = await plan_of(queries, statement, parameters, days if once else None)
        assert set(_scans(plan, "telemetry_history")) == {
            ("meter_telemetry_history_20260208", "Index Only Scan"),
            ("meter_telemetry_history_20260209", "Index Only Scan"),
            ("vehicle_telemetry_history_20260208", "Index Only Scan"),
            ("vehicle_telemetry_history_20260209", "Index Only Scan"),
        }
        assert {kind for _, kind in _scans(plan, "_hours")} <= {"Index Scan", "Bitmap Heap Scan"}
    totals = await totals_of(queries, noon_us - US_PER_DAY, noon_us)
    assert (totals.vehicle_readings, totals.meter_readings) == (1440, 1440)


async def test_of_sealed_days_only_those_are_unpacked_of_which_single_readings_are_needed(
    rows: Rows, queries: Queries, postgres: EmbeddedServer, database: str
) -> None:
    car, meter = rows.vehicle("car"), rows.meter("meter")
    rows.mapping(car, meter, MIDNIGHT_US - 100 * US_PER_DAY)
    hours = range(-40 * 24, 0)
    rows.delivered(car, *((MIDNIGHT_US + hour * US_PER_HOUR + MINUTE_US, 0.5) for hour in hours))
    rows.consumed(meter, *((MIDNIGHT_US + hour * US_PER_HOUR + MINUTE_US, 0.625) for hour in hours))
    await seal_all(postgres.url(database, role="energyfleet_ingestion"))
    rows.connection.execute("ANALYZE")
    assert rows.connection.execute("SELECT count(*) FROM vehicle_sealed_days").fetchone() == (40,)

    async def unpacked(start_us: int, end_us: int) -> int:
        """Days of either side, by EXPLAIN."""
        totals = await totals_of(queries, start_us, end_us)
        assert totals.vehicle_readings == totals.meter_readings == (end_us - start_us) // US_PER_HOUR
        days = {
            "first_day": datetime_from_us(start_us - US_PER_HOUR).date(),
            "last_day": datetime_from_us(end_us).date(),
        }
        parameters = {
            "vehicle_id": "car",
            "window_start": datetime_from_us(start_us),
            "window_end": datetime_from_us(end_us),
            **days,
            **period_parameters(baseline_window(Window(start_us, end_us))),
        }
        plan = await plan_of(queries, queries_sql.PERFORMANCE.all, parameters, days, "ANALYZE, FORMAT JSON")
        months = {table for table, _ in _scans(plan, "sealed_days")}
        assert months <= {f"{kind.name}_sealed_days_{month}" for kind in KINDS for month in (202601, 202602)}
        return sum(
            node["Actual Loops"]
            for node in _nodes(plan)
            if node["Node Type"] == "Function Scan" and node["Alias"].startswith("packed")
        )

    noon_us = MIDNIGHT_US - 5 * US_PER_DAY + US_PER_DAY // 2
    assert await unpacked(noon_us - US_PER_DAY, noon_us) == 2, "the first reading of either side"
    assert await unpacked(noon_us - 20 * US_PER_DAY, noon_us) == 2
    cut_us = noon_us + 30 * MINUTE_US
    assert await unpacked(cut_us - US_PER_DAY, cut_us) == 8, "and the hour before, the first and the last hour"
    assert await unpacked(cut_us - 20 * US_PER_DAY, cut_us) == 8


async def test_the_longest_window_at_the_ends_of_time_is_answered(rows: Rows, queries: Queries) -> None:
    rows.mapping(rows.vehicle("car"), rows.meter("meter"), MIDNIGHT_US)
    earliest_us = us_from_datetime(datetime.min.replace(tzinfo=UTC))
    latest_us = us_from_datetime(datetime.max.replace(tzinfo=UTC))
    length_us = timedelta(days=400) // timedelta(microseconds=1)
    assert (await totals_of(queries, earliest_us, earliest_us + length_us)).mappings == 0
    assert (await totals_of(queries, latest_us - length_us, latest_us)).mappings == 1
    assert (await totals_of(queries, earliest_us, earliest_us + 1)).mappings == 0
    assert (await totals_of(queries, latest_us - 1, latest_us)).mappings == 1
    for hours in (1, 400 * 24):
        window = Window(earliest_us, earliest_us + hours * US_PER_HOUR)
        for vehicle_ids in (frozenset[str](), frozenset(["car"])):
            found = (await queries.fleet.totals(window, vehicle_ids, THRESHOLDS.comparing)).value
            assert found.mappings.tolist() == [0]
