"""What the exact run sends and what its model makes of it; that a comparison finds what differs."""

from collections import Counter, defaultdict
from itertools import pairwise

import pytest
from energyfleet.v1.telemetry_pb2 import Telemetry

from benchmarks.exact.compare import differences, identical, same
from benchmarks.exact.fleet import Plan, Reading, Values
from benchmarks.exact.model import Counts, Model
from benchmarks.exact.send import fill
from ingestion_svc.decode import decode
from ingestion_svc.readings import TimeBounds
from shared.timestamps import US_PER_DAY, US_PER_HOUR, US_PER_SECOND

NOW_US = 1_770_000_000 * US_PER_SECOND
READINGS = 20_000


@pytest.fixture(scope="module")
def plan() -> Plan:
    return Plan.of(17, READINGS, NOW_US)


@pytest.fixture(scope="module")
def waves(plan: Plan) -> list[list[Reading]]:
    return [[reading for lot in lots for message in lot for reading in message] for lots in plan.messages()]


@pytest.fixture(scope="module")
def model(plan: Plan) -> Model:
    return Model.of(plan)


def test_a_seed_gives_the_same_plan_and_the_same_messages(plan: Plan) -> None:
    again = Plan.of(17, READINGS, NOW_US)
    assert again == plan
    assert list(again.messages()) == list(plan.messages())
    assert Plan.of(18, READINGS, NOW_US) != plan


def test_every_distinct_reading_is_stored_once_and_nothing_is_left_out(model: Model) -> None:
    counts = model.counts
    assert counts.stored == sum(map(len, model.history.values())) == READINGS
    assert counts.received == counts.stored + counts.duplicate + counts.conflicting + counts.rejected
    assert min(counts.duplicate, counts.conflicting, counts.rejected) > 0


def test_what_is_sent_crosses_midnight_comes_late_out_of_order_and_without_some_values(
    plan: Plan, waves: list[list[Reading]]
) -> None:
    times = [reading.ts_us for wave in waves for reading in wave if reading.ts_us <= plan.end_us]
    assert plan.start_us < min(times) < plan.midnight_us < max(times) <= plan.end_us < NOW_US
    assert any(earlier > later + US_PER_HOUR for earlier, later in pairwise(times))
    assert {ts_us % US_PER_HOUR for ts_us in times} >= {0, 1, US_PER_HOUR - 1}
    assert {tuple(value is None for value in reading.values) for wave in waves for reading in wave} >= {
        (False, True), (False, True, True), (False, False, False)
    }  # fmt: skip


def test_no_wave_has_two_readings_with_one_key_and_other_values(plan: Plan, waves: list[list[Reading]]) -> None:
    """Which of the two came first would be a race between two workers."""
    for wave in waves:
        right = {reading for reading in wave if not reading.extra_ns and (reading.values[0] or 0) >= -1_000}
        fresh: dict[tuple[int, int], set[Values]] = defaultdict(set)
        for reading in right:
            fresh[reading.device, reading.ts_us].add(reading.values)
        before = {(each.device, each.ts_us) for earlier in waves[: waves.index(wave)] for each in earlier}
        assert all(len(values) == 1 for key, values in fresh.items() if key not in before)


def test_streams_share_the_readings_of_a_device(plan: Plan) -> None:
    streams: dict[int, Counter[int]] = defaultdict(Counter)
    for lots in plan.messages():
        for stream, lot in enumerate(lots):
            for message in lot:
                streams[stream].update(reading.device for reading in message)
    assert len(streams) == plan.streams
    assert all(sum(device in each for each in streams.values()) > 1 for device in range(2 * plan.pairs))


def test_the_service_rejects_what_the_model_rejects(plan: Plan, waves: list[list[Reading]]) -> None:
    for wave in waves:
        telemetry = []
        for reading in wave:
            telemetry.append(Telemetry())
            fill(telemetry[-1], reading)
        alone = Model()
        alone.take(wave, plan.end_us)
        assert decode(telemetry, 0, TimeBounds.at(NOW_US, 400)).rejected == alone.counts.rejected


def test_the_model_counts_in_the_words_of_the_summary() -> None:
    model = Model()
    first = Reading(0, 10, (1.0, None))
    model.take([first, first, first._replace(values=(1.0, 230.0)), first._replace(extra_ns=1)], 100)
    model.take([first._replace(ts_us=101), first._replace(values=(-1_001.0, None)), first._replace(ts_us=100)], 100)
    assert model.counts == Counts(received=7, stored=2, duplicate=1, conflicting=1, rejected=3)
    assert model.newest(0) == {100: (1.0, None)}
    assert model.newest(2) == {}


def test_hours_are_closed_at_their_end() -> None:
    model = Model()
    hour = 5 * US_PER_HOUR
    model.take([Reading(1, hour, (1.0, None, 20.0)), Reading(1, hour + 1, (-2.0, 5.0, None))], US_PER_DAY)
    assert model.hourly(1) == {hour - US_PER_HOUR: (1.0, 0.0, 1, 20.0, 1), hour: (-2.0, 2.0, 1, 0.0, 0)}


def test_energy_counts_while_the_meter_feeds_the_vehicle_only() -> None:
    model = Model()
    model.fed[0] = [(0, 0, 50), (1, 50, None)]
    model.take([Reading(2 * meter, ts_us, (float(ts_us), None)) for meter in (0, 1) for ts_us in (50, 51)], 100)
    answer = model.performance(0, 0, 100)
    assert (answer.kwh_consumed_ac, answer.meter_readings, answer.kwh_delivered_dc) == (101.0, 2, None)
    assert answer.hours_both == 0


@pytest.mark.parametrize(
    ("stored", "told"),
    [
        ([("a", 1, 0.3, 2), ("b", 1, 0.5, 1)], 0),
        ([("a", 1, 0.1 + 0.2, 2), ("b", 1, 0.5, 1)], 0),
        ([("a", 1, 0.3 + 1e-8, 2), ("b", 1, 0.5, 1)], 1),
        ([("a", 1, 0.3, 3), ("b", 1, 0.5, 1)], 1),
        ([("a", 1, 0.3, 2)], 1),
        ([("a", 1, 0.3, 2), ("b", 1, 0.5, 1), ("b", 2, 0.5, 1)], 1),
        ([("a", 1, 0.3, 2), ("b", 1, 0.5, 1), ("c", 1, 0.5, 1)], 1),
        ([], 2),
    ],
)
def test_what_is_missing_too_much_or_other_is_a_difference(stored: list[tuple[object, ...]], told: int) -> None:
    expected: dict[int, dict[int, Values]] = {0: {1: (0.3, 2)}, 1: {1: (0.5, 1)}}
    found = list(differences("rollup", stored, {"a": 0, "b": 1}, expected.__getitem__, same))
    assert sum(len(lines) for _, lines in found) == told
    assert sum(rows for rows, _ in found) == len(stored)


def test_history_is_compared_to_the_last_bit() -> None:
    assert not identical((0.3,), (0.1 + 0.2,))
    assert not identical((0.0, None), (0.0, 0.0))
    assert identical((0.3, None), (0.3, None))
