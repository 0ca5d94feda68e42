"""Registers of a session that are sent as energies do not count, whoever writes them and in whatever order."""

import itertools
import time
from collections import defaultdict
from collections.abc import AsyncIterator

import psycopg
import pytest
from hypothesis import HealthCheck, event, example, given, settings
from hypothesis import strategies as st

from ingestion_svc import known_devices, session_registers
from ingestion_svc.corrections import CorrectionOrder, correct_reading
from ingestion_svc.readings import MeterRow
from ingestion_svc.writer_sql import METERS
from shared.db.device_kind import METER
from shared.db.embedded import EmbeddedServer
from shared.db.engine import make_engine
from shared.timestamps import US_PER_DAY, US_PER_HOUR, US_PER_SECOND, datetime_from_us, us_from_datetime
from tests.builders import NOW_US
from tests.integration.test_writer_appending import (
    LIMITS,
    MIDNIGHT_US,
    WAYS,
    Places,
    Spy,
    check,
    counted,
    expect,
    sealings,
)
from tests.model import Values, judge
from tests.sealed import seal_all
from tests.verified import differences

MINUTE_US = 60 * US_PER_SECOND
_examples = itertools.count()

# (microseconds since the reading before, what the energy is then, from what it was before; None: a register)
steps = st.sampled_from([MINUTE_US, MINUTE_US, 15 * MINUTE_US, 20 * US_PER_HOUR, 25 * US_PER_HOUR, 7 * US_PER_SECOND])
rises = st.tuples(st.just("rise"), st.sampled_from([0.125, 0.25, 0.375, 2.0]), st.integers(6, 12), steps)
pieces = st.one_of(
    rises,
    st.tuples(st.just("hold"), st.just(0.0), st.integers(1, 9), steps),
    st.tuples(st.just("fall"), st.sampled_from([0.0, 0.125, 1.5]), st.just(1), steps),
    st.tuples(st.just("noise"), st.sampled_from([0.0, 0.125, 0.75, -0.5, 150.0]), st.integers(1, 2), steps),
    st.tuples(st.just("register"), st.just(0.0), st.just(1), steps),
)


@st.composite
def histories(draw: st.DrawFn) -> list[tuple[int, float | None]]:
    """(microseconds, energy; None: a register) of one device, in the order of time."""
    ts_us, kwh = NOW_US - 30 * US_PER_DAY, 0.0
    found: list[tuple[int, float | None]] = []
    some = draw(st.lists(pieces, max_size=3))
    for what, energy, count, step_us in [*some, draw(rises), *draw(st.lists(pieces, max_size=3))]:
        for _ in range(count):
            ts_us += step_us * draw(st.sampled_from([1] * 20 + [2, 3]))
            match what:
                case "rise":
                    kwh += energy * draw(st.sampled_from([1] * 30 + [2, 3, 0]))
                case "fall" | "noise":
                    kwh = energy
            found.append((ts_us, None if what == "register" else kwh))
    return found


@st.composite
def arrivals(draw: st.DrawFn) -> list[tuple[int, list[tuple[int, float | None]]]]:
    """(writer, readings), with some that come late, and some twice."""
    left = draw(histories())
    for _ in range(draw(st.integers(0, 3))):
        moved = left.pop(draw(st.integers(0, len(left) - 1)))
        left.insert(draw(st.integers(0, len(left))), moved)
    if draw(st.integers(0, 4)) == 0:
        left = draw(st.permutations(left))
    found = []
    while left:
        size = draw(st.sampled_from([1, 2, 5, 30]))
        found.append((draw(st.sampled_from([0, 0, 0, 1])), left[:size]))
        left = left[size - draw(st.sampled_from([0, 0, 0, 1])) or 1 :]
    return found


def rising(minutes: int, unit: float, count: int) -> list[tuple[int, float | None]]:
    return [(NOW_US + at * minutes * MINUTE_US, unit * at) for at in range(1, count + 1)]


HELD_FOR_DAYS = [
    *((NOW_US + at * US_PER_HOUR, 2.0 + 2 * at if at > 1 else 2.0) for at in range(1, 9)),
    *((NOW_US + (8 + 20 * at) * US_PER_HOUR, 18.0) for at in range(1, 4)),
]
"""Of a rise its first reading, the others, and what follows without a fall for days."""


@pytest.fixture
async def verified(database_url: str) -> AsyncIterator[None]:
    """After the test: what counts of all readings, rollups and current status are what history says."""
    yield
    assert await differences(database_url) == []


@pytest.mark.usefixtures("verified")
@pytest.mark.parametrize(("least", "sealing"), WAYS)
@pytest.mark.timeout(300)
@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(sent=arrivals(), sealed=sealings)
@example(sent=[(0, [reading]) for reading in rising(1, 0.25, 20)], sealed=[False])
@example(sent=[(0, [reading]) for reading in rising(1, 0.25, 20)], sealed=[True])
@example(sent=[(at % 2, [reading]) for at, reading in enumerate(rising(15, 1.5, 8))], sealed=[False])
@example(sent=[(at % 2, [reading]) for at, reading in enumerate(rising(15, 1.5, 8))], sealed=[True])
@example(sent=[(0, rising(15, 0.3125, 8))], sealed=[False])
@example(sent=[(0, rising(15, 0.3125, 8))], sealed=[True])
@example(sent=[(0, rising(15, 0.34375, 8))], sealed=[False])
@example(sent=[(0, rising(15, 0.34375, 8))], sealed=[True])
@example(sent=[(0, [reading]) for reading in reversed(rising(1, 0.25, 20))], sealed=[False])
@example(sent=[(0, [reading]) for reading in reversed(rising(1, 0.25, 20))], sealed=[True])
@example(sent=[(0, rising(1, 0.25, 20)), (0, [(NOW_US + 10 * MINUTE_US + 1, 0.25)])], sealed=[False])
@example(sent=[(0, rising(1, 0.25, 20)), (0, [(NOW_US + 10 * MINUTE_US + 1, 0.25)])], sealed=[True])
@example(
    sent=[(0, [each for each in rising(1, 0.25, 15) if each[1] != 1.0]), (0, [(NOW_US + 4 * MINUTE_US, 1.0)])],
    sealed=[False],
)
@example(
    sent=[(0, [each for each in rising(1, 0.25, 15) if each[1] != 1.0]), (0, [(NOW_US + 4 * MINUTE_US, 1.0)])],
    sealed=[True],
)
@example(sent=[(0, HELD_FOR_DAYS[1:-1]), (0, HELD_FOR_DAYS[:1]), (0, HELD_FOR_DAYS[-1:])], sealed=[False])
@example(sent=[(0, HELD_FOR_DAYS[1:-1]), (0, HELD_FOR_DAYS[:1]), (0, HELD_FOR_DAYS[-1:])], sealed=[True])
async def test_what_rises_as_a_sessions_register_does_not_count_whatever_the_order(
    sent: list[tuple[int, list[tuple[int, float | None]]]],
    sealed: list[bool],
    least: int,
    sealing: bool,
    postgres: EmbeddedServer,
    database: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(known_devices, "APPEND_MIN_READINGS", least)
    if least > 1:
        monkeypatch.setattr(session_registers, "LOOKED_AT", ((3 * US_PER_DAY, 8), (4 * US_PER_DAY, 12), (None, None)))
    url = postgres.url(database, role="energyfleet_ingestion")
    suffix = f"-s{next(_examples)}"
    writers = [Spy(METERS, url, Places()) for _ in range(2)]
    model: dict[str, dict[int, Values]] = defaultdict(dict)
    try:
        for step, (at_writer, readings) in enumerate(sent):
            if sealing and sealed[step % len(sealed)]:
                await seal_all(url, 5)
            rows = [MeterRow(f"m{suffix}", ts, kwh, None, 4_000.0 if kwh is None else None) for ts, kwh in readings]
            assert await writers[at_writer].write(rows) == expect(model, rows)
    finally:
        for writer in writers:
            await writer.close()
    whys = [why for device_id, places in model.items() for _, why in counted(device_id, places).values()]
    event(f"a session's: {min(whys.count('session'), 9)}, appends: {min(sum(each.appends for each in writers), 3)}")
    with psycopg.connect(postgres.url(database)) as connection:
        check(connection, model, suffix, METER)


QUARTER_US = 15 * MINUTE_US
RISE = [(NOW_US + at * QUARTER_US, float(at)) for at in range(1, 9)]
LATER_US = NOW_US + 4 * US_PER_DAY
SLOW_RISE = [(LATER_US + (at - 8) * 200 * MINUTE_US, 5.0 * at) for at in range(1, 9)]


@pytest.mark.parametrize(
    ("before", "corrected", "after"),
    [
        ([], [ts_us for ts_us, _ in RISE[2:6]], []),
        (
            [(NOW_US + at * QUARTER_US, 8.0) for at in range(9, 16)],
            [NOW_US + at * QUARTER_US for at in range(9, 16)],
            [(NOW_US + at * QUARTER_US, 8.0) for at in range(16, 19)],
        ),
        (
            [(LATER_US - hours * US_PER_HOUR, 8.0) for hours in (91, 70, 49, 47, 46, 24)],
            [LATER_US - 47 * US_PER_HOUR],
            [(LATER_US, 8.5)],
        ),
        ([*SLOW_RISE, (LATER_US + 22 * US_PER_HOUR, 40.0)], [LATER_US], []),
        ([*SLOW_RISE, (LATER_US + 22 * US_PER_HOUR, 40.0)], [LATER_US], [(LATER_US + 45 * US_PER_HOUR, 40.0)]),
    ],
    ids=["of the rise", "seven in a row", "two days before the next", "the last of a slow rise", "and what goes on"],
)
@pytest.mark.usefixtures("verified")
async def test_corrected_readings_hide_no_session(
    before: list[tuple[int, float]],
    corrected: list[int],
    after: list[tuple[int, float]],
    postgres: EmbeddedServer,
    database: str,
) -> None:
    url = postgres.url(database, role="energyfleet_ingestion")
    writer, engine = Spy(METERS, url, Places()), make_engine(url, "test", pool_size=1)
    await writer.write([MeterRow("m", ts_us, kwh, None) for ts_us, kwh in RISE + before])
    for ts_us in corrected:
        order = CorrectionOrder(METER, "m", ts_us, 0.5, False, "Ada", "a test")
        await correct_reading(engine, order, LIMITS, "ada")
    for ts_us, kwh in after:
        await writer.write([MeterRow("m", ts_us, kwh, None)])
    await writer.close()
    await engine.dispose()
    expected = judge({ts_us: (kwh, None, None) for ts_us, kwh in RISE + before + after}, corrected=corrected)
    expected |= dict.fromkeys(corrected, (0.5, "corrected"))
    with psycopg.connect(url) as connection:
        rows = connection.execute("SELECT ts, kwh_consumed_ac, counting FROM meter_telemetry_history").fetchall()
    assert {us_from_datetime(ts): (kwh, why) for ts, kwh, why in rows} == expected


@pytest.mark.usefixtures("verified")
async def test_what_follows_a_session_that_was_dropped_stays_doubted_when_a_reading_comes_late(
    postgres: EmbeddedServer, database: str, database_url: str
) -> None:
    writer = Spy(METERS, postgres.url(database, role="energyfleet_ingestion"), Places())
    rise = [MeterRow("m", MIDNIGHT_US - (9 - at) * QUARTER_US, float(at), None) for at in range(1, 9)]
    at_20, at_30, at_40 = (MeterRow("m", MIDNIGHT_US + hours * US_PER_HOUR, 8.0, None) for hours in (20, 30, 40))
    assert len((await writer.write([*rise, at_20, at_40])).doubted) == 10
    with psycopg.connect(database_url) as owner:
        owner.execute("UPDATE retention SET floor_day = %s", (datetime_from_us(MIDNIGHT_US).date(),))
        owner.execute("DELETE FROM meter_telemetry_history WHERE ts < %s", (datetime_from_us(MIDNIGHT_US),))
    assert (await writer.write([at_30])).doubted == [0]
    await writer.close()
    with psycopg.connect(database_url) as owner:
        counting = owner.execute("SELECT counting FROM meter_telemetry_history").fetchall()
    assert counting == [("session",)] * 3


@pytest.mark.timeout(120)
async def test_what_it_takes_to_doubt_grows_with_the_readings_not_with_their_square(
    postgres: EmbeddedServer, database: str
) -> None:
    writer = Spy(METERS, postgres.url(database, role="energyfleet_ingestion"), Places())

    async def took_s(rows: list[MeterRow], doubted: int) -> float:
        began = time.monotonic()
        assert len((await writer.write(rows)).doubted) == doubted
        return time.monotonic() - began

    for_power, for_rises = {}, {}
    for count in (1_000, 8_000):
        rows = [MeterRow(f"{count}-{at % 1_000}", NOW_US + at * US_PER_SECOND, 5_000.0, None) for at in range(count)]
        for_power[count] = await took_s(rows, count)
    for devices in (500, 4_000):
        for step in range(1, 10):
            rows = [MeterRow(f"{devices}-{at}", NOW_US + step * QUARTER_US, 2.0 * step, None) for at in range(devices)]
            for_rises[devices] = await took_s(rows, devices if step >= 8 else 0)
    await writer.close()
    assert for_power[8_000] < 24 * for_power[1_000]
    assert for_rises[4_000] < 24 * for_rises[500]


@pytest.mark.timeout(120)
async def test_a_late_reading_costs_the_same_however_long_its_session_goes_on(
    postgres: EmbeddedServer, database: str
) -> None:
    writer = Spy(METERS, postgres.url(database, role="energyfleet_ingestion"), Places())
    took_s = dict[int, float]()
    for count in (2_000, 16_000):
        rows = [MeterRow(f"m{count}", ts_us, kwh, None) for ts_us, kwh in rising(1, 0.25, count)]
        assert len((await writer.write(rows)).doubted) == count
        late = [row._replace(ts_us=row.ts_us + 1) for row in rows[100:200:20]]
        for row in late:
            began = time.monotonic()
            assert (await writer.write([row])).doubted == [0]
            took_s[count] = min(took_s.get(count, 60.0), time.monotonic() - began)
    await writer.close()
    assert took_s[16_000] < 3 * took_s[2_000]


@pytest.mark.timeout(120)
async def test_a_backlog_of_sessions_takes_a_few_times_as_long_as_one_of_energies(
    postgres: EmbeddedServer, database: str
) -> None:
    writer = Spy(METERS, postgres.url(database, role="energyfleet_ingestion"), Places())
    times = [NOW_US - 60 * US_PER_DAY + at * QUARTER_US for at in range(2_000)]
    took_s = {40: 60.0, 1: 60.0}
    await writer.write([MeterRow("days", ts_us, 2.0, None) for ts_us in times])
    for device in range(4):
        for readings in took_s:
            rows = [
                MeterRow(f"{readings}-{device}", ts_us, 2.0 + 2 * (at % readings), None)
                for at, ts_us in enumerate(times)
            ]
            began = time.monotonic()
            assert len((await writer.write(rows)).doubted) == (2_000 if readings == 40 else 0)
            took_s[readings] = min(took_s[readings], time.monotonic() - began)
    await writer.close()
    assert took_s[40] < 10 * took_s[1]
