"""Appending is faster and otherwise the same: whoever else writes, and wherever a transaction ends."""

import itertools
import math
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import psycopg
import pytest
from hypothesis import HealthCheck, event, given, settings
from hypothesis import strategies as st

from ingestion_svc import known_devices
from ingestion_svc.readings import MeterRow, VehicleRow, Written
from ingestion_svc.writer import Writer
from ingestion_svc.writer_sql import METERS, VEHICLES, Target
from shared.db.device_kind import KINDS, VEHICLE, DeviceKind
from shared.db.embedded import EmbeddedServer
from shared.db.engine import connection_parameters
from shared.errors import DatabaseUnavailable
from shared.power_limits import PowerLimits
from shared.timestamps import US_PER_DAY, US_PER_HOUR, US_PER_SECOND, us_from_datetime
from tests.builders import NOW_US
from tests.model import Values, hour_start_us, judge
from tests.sealed import seal_all

MIDNIGHT_US = NOW_US // US_PER_DAY * US_PER_DAY
LIMITS = PowerLimits(by_beginning={("meter", "weak-"): 40.0})
_examples = itertools.count()

sealings = st.lists(st.booleans(), min_size=1, max_size=5)
"""Before which of the steps, over and over, days are sealed that are old enough; all are here."""

WAYS = [
    pytest.param(1, False, id="appending"),
    pytest.param(10**9, False, id="careful", marks=pytest.mark.one_server),
    pytest.param(1, True, id="sealed", marks=pytest.mark.one_server),
]
"""The least readings that are appended, and whether days are sealed now and then, to which nothing is appended. What
appends writes some the slow path, too."""


class Places:
    """Fail points: each place that is passed, and once the place where the connection is to break."""

    def __init__(self) -> None:
        self.break_at: str | None = None

    def __call__(self, place: str) -> None:
        if place == self.break_at:
            self.break_at = None
            raise psycopg.OperationalError("as if the connection broke")


class Spy(Writer[Any]):
    """Counts the ways that rows went."""

    def __init__(self, target: Target[Any], url: str, places: Places) -> None:
        super().__init__(target, connection_parameters(url, "test"), 30, places, LIMITS)
        self.appends = 0
        self.merges = 0

    async def _append(self, *args: Any) -> None:
        self.appends += 1
        await super()._append(*args)

    async def _merge(self, *args: Any) -> Any:
        self.merges += 1
        return await super()._merge(*args)


@pytest.fixture
def url(postgres: EmbeddedServer, database: str) -> str:
    return postgres.url(database, role="energyfleet_ingestion")


@pytest.fixture(autouse=True)
def any_number_of_readings_is_appended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(known_devices, "APPEND_MIN_READINGS", 1)


def at(minute: int, device: str = "m", kwh: float = 1.0) -> MeterRow:
    return MeterRow(device, NOW_US + minute * 60 * US_PER_SECOND, kwh, 230.0)


@contextmanager
def stored(url: str) -> Iterator[psycopg.Connection[Any]]:
    """A connection that sees more than a writer may."""
    with psycopg.connect(url) as connection:
        connection.execute("SET ROLE NONE")
        yield connection


def meter_readings(url: str) -> tuple[int, int]:
    """Readings in history and in the rollups."""
    with stored(url) as connection:
        row = connection.execute(
            "SELECT (SELECT count(*) FROM meter_telemetry_history), (SELECT sum(readings) FROM meter_energy_hourly)"
        ).fetchone()
    assert row is not None
    return row[0], row[1]


async def test_only_devices_that_go_forward_are_appended(url: str) -> None:
    writer = Spy(METERS, url, Places())
    assert await writer.write([at(0, "a"), at(0, "b"), at(5, "c")]) == Written()
    assert (writer.appends, writer.merges) == (0, 1)
    assert await writer.write([at(1, "a"), at(1, "b"), at(2, "a"), at(6, "c")]) == Written()
    assert (writer.appends, writer.merges) == (1, 1)
    assert await writer.write([at(1, "b")]) == Written(duplicates=[0])
    assert (writer.appends, writer.merges) == (1, 2), "a resent reading is not tried"
    late_b, new_d, twice_c = at(-1, "b"), at(0, "d"), at(7, "c")
    assert await writer.write([at(3, "a"), late_b, at(1, "b"), new_d, twice_c, twice_c, at(4, "a")]) == Written(
        duplicates=[2, 5]
    )
    assert (writer.appends, writer.merges) == (2, 3)
    assert meter_readings(url) == (12, 12)
    await writer.close()


async def test_what_another_writer_stored_is_found_by_the_key_and_counted_once(url: str) -> None:
    one, other = Spy(METERS, url, Places()), Spy(METERS, url, Places())
    await one.write([at(0), at(0, "n")])
    await other.write([at(1), at(2, kwh=7.0)])

    written = await one.write([at(1, "n"), at(1), at(2), at(3)])
    assert written == Written(duplicates=[1], conflicts=[2], stored={2: (7.0, 230.0, None)})

    assert (one.appends, one.merges) == (1, 2), "tried, rolled back, and written the slow path"
    assert meter_readings(url) == (6, 6)
    await one.close()
    await other.close()


async def test_a_day_that_another_writer_stored_is_not_tried_in_vain_again_and_again(url: str) -> None:
    one, other = Spy(METERS, url, Places()), Spy(METERS, url, Places())
    await one.write([at(0)])
    await other.write([at(minute) for minute in range(1, 200)])
    for minute in range(1, 200):
        assert await one.write([at(minute)]) == Written(duplicates=[0])
    assert one.appends == 1

    for minute in range(200, 210):
        assert await one.write([at(minute)]) == Written()
    assert one.appends == 10, "from the second new reading on"
    await one.close()
    await other.close()


async def test_after_violations_in_a_row_the_tries_become_rarer_and_come_back(url: str) -> None:
    one, other = Spy(METERS, url, Places()), Spy(METERS, url, Places())
    devices = [f"m{number}" for number in range(40)]
    await one.write([at(0, device) for device in devices])
    await other.write([at(1, device) for device in devices])
    for device in devices:  # each is news to this writer, so that each would be tried in vain
        assert await one.write([at(1, device)]) == Written(duplicates=[0])
    assert one.appends == 6, "at once, and after 1, 2, 4, 8 and 16 batches without a try"

    for minute in range(2, 70):
        await one.write([at(minute, "m0")])
    before = one.merges
    assert await one.write([at(70, "m0")]) == Written()
    assert one.merges == before
    await one.close()
    await other.close()


@pytest.mark.parametrize(
    ("place", "outcome"), [("before_commit", Written()), ("after_commit", Written(duplicates=[0, 1]))]
)
async def test_a_batch_that_broke_while_appending_is_written_once(url: str, place: str, outcome: Written) -> None:
    places = Places()
    writer = Spy(METERS, url, places)
    await writer.write([at(0)])
    places.break_at = place
    with pytest.raises(DatabaseUnavailable):
        await writer.write([at(1), at(2)])
    assert writer.appends == 1

    assert await writer.write([at(1), at(2)]) == outcome
    assert writer.appends == 2, "what is known of the device comes from what this writer knows to be committed"
    assert meter_readings(url) == (3, 3)
    await writer.close()


async def test_status_stays_at_the_newest_reading_when_a_stale_writer_appends_between(url: str) -> None:
    one, other = Spy(METERS, url, Places()), Spy(METERS, url, Places())
    await one.write([at(0)])
    await other.write([at(9, kwh=9.0)])
    assert await one.write([at(5, kwh=5.0)]) == Written()
    assert (one.appends, one.merges) == (1, 2), "tried, rolled back, and written the slow path"
    with stored(url) as connection:
        status = connection.execute("SELECT kwh_consumed_ac FROM meter_current_status").fetchall()
    assert status == [(9.0,)]
    await one.close()
    await other.close()


async def test_where_somebody_deleted_the_status_appending_is_given_up_and_the_status_comes_back(
    url: str, database_url: str
) -> None:
    writer = Spy(METERS, url, Places())
    await writer.write([at(0), at(0, "n")])
    with psycopg.connect(database_url) as owner:
        owner.execute("DELETE FROM meter_current_status WHERE meter_key = 1")
    assert await writer.write([at(1, kwh=7.0), at(1, "n")]) == Written()
    assert (writer.appends, writer.merges) == (1, 2)
    await writer.close()
    with stored(url) as connection:
        status = connection.execute("SELECT kwh_consumed_ac, hour_kwh FROM meter_current_status ORDER BY meter_key")
        assert status.fetchall() == [(7.0, 7.0), (1.0, 2.0)]


async def test_appended_readings_on_and_beside_the_hour_and_midnight_add_to_the_right_rollups(url: str) -> None:
    hours = [MIDNIGHT_US - US_PER_HOUR, MIDNIGHT_US]
    rows = [VehicleRow("v", hour + beside, 0.25, None, 20.0) for hour in hours for beside in (-1, 0, 1)]
    rows[1] = rows[1]._replace(battery_temp=None)
    writer = Spy(VEHICLES, url, Places())
    await writer.write([VehicleRow("v", MIDNIGHT_US - US_PER_DAY, 1.0, None, None)])
    assert await writer.write(rows) == Written()
    assert (writer.appends, writer.merges) == (1, 1)
    await writer.close()
    with stored(url) as connection:
        hourly = connection.execute(
            "SELECT hour_start, kwh_delivered_dc, readings, battery_temp_sum, battery_temp_readings"
            " FROM vehicle_energy_hourly ORDER BY hour_start OFFSET 1"
        ).fetchall()
    assert [(us_from_datetime(hour) - MIDNIGHT_US, *values) for hour, *values in hourly] == [
        (-2 * US_PER_HOUR, 0.5, 2, 20.0, 1),
        (-US_PER_HOUR, 0.75, 3, 60.0, 3),
        (0, 0.25, 1, 20.0, 1),
    ]


# Minutes around midnight and the hours beside it, close enough to meet; mostly forward, so that much is appended.
instants = st.integers(-150, 150).map(lambda half_minutes: MIDNIGHT_US + half_minutes * 30 * US_PER_SECOND) | st.builds(
    lambda hour, beside: MIDNIGHT_US + hour * US_PER_HOUR + beside, st.integers(-1, 1), st.sampled_from([-1, 0, 1])
)
METER_IDS = ("weak", "m1", "m2", "m3")
# Up to 125 kWh is plausible within a quarter of an hour, of the weak meter up to 10, of a first reading up to 1,000.
energies = st.sampled_from([0.0, 0.25, 1.5, -0.75, 130.0, -400.0, 1_200.0])
registers = st.sampled_from([0.0, 0.25, 10.0, 10.25, 100.0, 300.0, 5_000.0])


def energy_or_register(*others: st.SearchStrategy[float | None]) -> st.SearchStrategy[tuple[float | None, ...]]:
    """The values of a row: its energy first, or its register last."""
    return st.tuples(energies, *others, st.none()) | st.tuples(st.none(), *others, registers)


vehicle_values = energy_or_register(st.sampled_from([None, 50.0]), st.sampled_from([None, 0.0, 25.0]))
meter_values = energy_or_register(st.sampled_from([None, 230.0]))


@st.composite
def batches(draw: st.DrawFn) -> list[tuple[int, list[tuple[int, int, Any, Any]]]]:
    """(writer, [(device, ts_us, a meter's values, a vehicle's)]): half of them in the order of time.

    Half of the times each writer knows all devices from the day before."""
    found = []
    for _ in range(draw(st.integers(1, 8))):
        rows = draw(st.lists(st.tuples(st.integers(0, 3), instants, meter_values, vehicle_values), max_size=10))
        if draw(st.booleans()):
            rows.sort(key=lambda row: row[1])
        found.append((draw(st.integers(0, 1)), rows))
    if draw(st.booleans()):
        found.sort(key=lambda batch: min((row[1] for row in batch[1]), default=0))
    if draw(st.booleans()):
        values = (1.5, None, None), (1.5, None, None, None)
        before = [[(device, MIDNIGHT_US - US_PER_DAY + writer, *values) for device in range(4)] for writer in range(2)]
        found[:0] = enumerate(before)
    return [batch for batch in found if batch[1]]


@pytest.mark.parametrize(("least", "sealing"), WAYS)
@pytest.mark.timeout(300)
@pytest.mark.usefixtures("any_number_of_readings_is_appended")
@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(sent=batches(), sealed=sealings)
async def test_two_writers_give_what_a_plain_model_gives(
    sent: list[tuple[int, list[tuple[int, int, Any, Any]]]],
    sealed: list[bool],
    least: int,
    sealing: bool,
    url: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(known_devices, "APPEND_MIN_READINGS", least)
    monkeypatch.setattr(known_devices, "DEVICE_KEYS_MAX", 3)
    suffix = f"-x{next(_examples)}"
    meters = [Spy(METERS, url, Places()) for _ in range(2)]
    vehicles = [Spy(VEHICLES, url, Places()) for _ in range(2)]
    model: dict[str, dict[int, Values]] = defaultdict(dict)
    for step, (at_writer, rows) in enumerate(sent):
        if sealing and sealed[step % len(sealed)]:
            await seal_all(url, 5)
        meter_rows = [MeterRow(f"{METER_IDS[device]}{suffix}", ts_us, *values) for device, ts_us, values, _ in rows]
        vehicle_rows = [VehicleRow(f"v{device}{suffix}", ts_us, *values) for device, ts_us, _, values in rows]
        assert await meters[at_writer].write(meter_rows) == expect(model, meter_rows)
        assert await vehicles[at_writer].write(vehicle_rows) == expect(model, vehicle_rows)
    event(f"appends: {min(sum(writer.appends for writer in meters), 3)}")
    for writer in [*meters, *vehicles]:
        await writer.close()
    with stored(url) as connection:
        for kind in KINDS:
            check(connection, model, suffix, kind)


def expect(model: dict[str, dict[int, Values]], rows: list[Any]) -> Written:
    written = Written()
    stored: list[tuple[int, str, int]] = []
    for position, (device_id, ts_us, *values) in enumerate(rows):
        places = model[device_id]
        if ts_us not in places:
            places[ts_us] = tuple(values)
            stored.append((position, device_id, ts_us))
        elif places[ts_us] == tuple(values):
            written.duplicates.append(position)
        else:
            written.conflicts.append(position)
            written.stored[position] = places[ts_us]
    written.doubted = [
        position
        for position, device_id, ts_us in stored
        if counted(device_id, model[device_id])[ts_us][1] in ("doubted", "session")
    ]
    written.session_registers = [
        position for position, device_id, ts_us in stored if counted(device_id, model[device_id])[ts_us][1] == "session"
    ]
    return written


def counted(device_id: str, places: dict[int, Values]) -> dict[int, tuple[float, str | None]]:
    """What counts of each reading of a device, and why."""
    return judge(places, LIMITS.max_kw_of("vehicle" if device_id.startswith("v") else "meter", device_id))


def check(
    connection: psycopg.Connection[Any], model: dict[str, dict[int, Values]], suffix: str, kind: DeviceKind
) -> None:
    devices = {
        device_id: {
            ts_us: (kwh, *places[ts_us][1:], places[ts_us][0] if why in ("doubted", "session") else None, why)
            for ts_us, (kwh, why) in counted(device_id, places).items()
        }
        for device_id, places in model.items()
        if device_id.endswith(suffix) and device_id.startswith("v") == (kind is VEHICLE)
    }

    def stored_in(table: str, columns: str) -> dict[tuple[str, int], tuple[float | None, ...]]:
        cursor = connection.execute(
            kind.render(
                f"SELECT {{device}}_id, {columns} FROM {{device}}_{table} JOIN {{device}}s USING ({{device}}_key)"
            )
            + f" WHERE {kind.name}_id LIKE '%{suffix}'"
        )
        rows = cursor.fetchall()
        found = {(device_id, us_from_datetime(time)): tuple(values) for device_id, time, *values in rows}
        assert len(found) == len(rows)
        return found

    assert stored_in("readings", "ts, {measurements}, sent_kwh, counting") == {
        (device_id, ts_us): values for device_id, places in devices.items() for ts_us, values in places.items()
    }
    assert stored_in("current_status", "ts, {measurements}") == {
        (device_id, max(places)): places[max(places)][:-2] for device_id, places in devices.items()
    }
    sums: dict[tuple[str, int], list[tuple[Any, ...]]] = defaultdict(list)
    last_us: dict[tuple[str, int], int] = {}
    for device_id, places in devices.items():
        for ts_us, values in sorted(places.items()):
            sums[device_id, hour_start_us(ts_us)].append(values)
            last_us[device_id, hour_start_us(ts_us)] = ts_us
    expected = {}
    for place, all_values in sums.items():
        energy = [values[0] or 0.0 for values in all_values]
        returned = math.fsum(-kwh for kwh in energy if kwh < 0)
        of_hour: list[float] = [last_us[place], math.fsum(energy), returned, len(energy)]
        for name in kind.averaged:
            column = [values[kind.measurements.index(name)] for values in all_values]
            known = [value for value in column if value is not None]
            of_hour += [math.fsum(known), len(known)]
        expected[place] = tuple(of_hour)
    found = stored_in(
        "energy_hourly",
        "hour_start, (extract(epoch FROM last_ts) * 1000000)::bigint, {energy}, {returned}, readings"
        " {averaged:, #_sum, #_readings}",
    )
    assert found == expected  # quarters add up exactly
