"""The load programs' arithmetic, and the readings that their devices send."""

import pytest

from benchmarks.load import Outcome, _requests
from benchmarks.soak import slope


def test_a_slope_is_in_mib_a_minute_and_counts_what_is_within_its_span_only() -> None:
    flat_then_growing = [(at, 50 * 2**20 if at < 60 else int((50 + (at - 60) * 2 / 60) * 2**20)) for at in range(181)]
    assert slope(flat_then_growing, 60, 180) == pytest.approx(2, rel=1e-3)
    assert slope(flat_then_growing, 0, 59) == pytest.approx(0)


def test_backlog_has_no_reading_twice_and_both_sides() -> None:
    make = _requests("device", 4)
    requests = [make() for _ in range(3)]
    keys = [
        (side.meter_id, side.timestamp.seconds)
        for request in requests
        for reading in request.readings
        if (side := reading.meter).meter_id
    ]
    assert len(set(keys)) == len(keys) == 6
    assert [reading.WhichOneof("reading") for reading in requests[0].readings] == ["meter", "vehicle"] * 2


def test_outcomes_of_processes_add_up() -> None:
    whole = Outcome()
    whole.add(Outcome(sent=3, stored=2, duplicate=1, streams=1, latencies_s=[0.1]))
    whole.add(Outcome(sent=1, stored=1, streams=2, latencies_s=[0.2, 0.3]))
    assert (whole.sent, whole.stored, whole.duplicate, whole.streams) == (4, 3, 1, 3)
    assert whole.latencies_s == [0.1, 0.2, 0.3]
