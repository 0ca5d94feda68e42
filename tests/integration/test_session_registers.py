"""Registers of a session that are sent as energies do not count, whoever writes them and in whatever order."""

import itertools
from collections import defaultdict
from collections.abc import AsyncIterator

import psycopg
import pytest
from hypothesis import HealthCheck, event, example, given, settings
from hypothesis import strategies as st

from ingestion_svc import known_devices
from ingestion_svc.readings import MeterRow
from ingestion_svc.writer_sql import METERS
from shared.db.device_kind import METER
from shared.db.embedded import EmbeddedServer
from shared.timestamps import US_PER_DAY, US_PER_HOUR, US_PER_SECOND
from tests.builders import NOW_US
from tests.integration.test_writer_appending import Places, Spy, check, counted, expect
from tests.model import Values
from tests.verified import differences

MINUTE_US = 60 * US_PER_SECOND
_examples = itertools.count()

# (microseconds since the reading before, what the energy is then, from what it was before; None: a register)
steps = st.sampled_from([MINUTE_US, MINUTE_US, 15 * MINUTE_US, 20 * US_PER_HOUR, 25 * US_PER_HOUR, 7 * US_PER_SECOND])
rises = st.tuples(st.just("rise"), st.sampled_from([0.125, 0.25, 2.0]), st.integers(6, 12), steps)
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
@pytest.mark.parametrize("least", [1, 10**9], ids=["appending", "careful"])
@pytest.mark.timeout(300)
@settings(max_examples=120, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(sent=arrivals())
@example(sent=[(0, [reading]) for reading in rising(1, 0.25, 20)])
@example(sent=[(at % 2, [reading]) for at, reading in enumerate(rising(15, 1.5, 8))])
@example(sent=[(0, [reading]) for reading in reversed(rising(1, 0.25, 20))])
@example(sent=[(0, rising(1, 0.25, 20)), (0, [(NOW_US + 10 * MINUTE_US + 1, 0.25)])])
@example(sent=[(0, [each for each in rising(1, 0.25, 15) if each[1] != 1.0]), (0, [(NOW_US + 4 * MINUTE_US, 1.0)])])
@example(sent=[(0, HELD_FOR_DAYS[1:-1]), (0, HELD_FOR_DAYS[:1]), (0, HELD_FOR_DAYS[-1:])])
async def test_what_rises_as_a_sessions_register_does_not_count_whatever_the_order(
    sent: list[tuple[int, list[tuple[int, float | None]]]],
    least: int,
    postgres: EmbeddedServer,
    database: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(known_devices, "APPEND_MIN_READINGS", least)
    url = postgres.url(database, role="energyfleet_ingestion")
    suffix = f"-s{next(_examples)}"
    writers = [Spy(METERS, url, Places()) for _ in range(2)]
    model: dict[str, dict[int, Values]] = defaultdict(dict)
    for at_writer, readings in sent:
        rows = [MeterRow(f"m{suffix}", ts_us, kwh, None, 4_000.0 if kwh is None else None) for ts_us, kwh in readings]
        assert await writers[at_writer].write(rows) == expect(model, rows)
    for writer in writers:
        await writer.close()
    whys = [why for device_id, places in model.items() for _, why in counted(device_id, places).values()]
    event(f"a session's: {min(whys.count('session'), 9)}, appends: {min(sum(each.appends for each in writers), 3)}")
    with psycopg.connect(url) as connection:
        check(connection, model, suffix, METER)
