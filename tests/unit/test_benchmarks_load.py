"""The load programs' arithmetic, and the readings that their devices send."""

import pytest

from benchmarks.load import GO_ON_STEP_US, Outcome, _later_requests, _requests
from benchmarks.readings import meter_id
from benchmarks.soak import slope
from ingestion_svc.fairness import PRESENT_MAX_AGE_US
from shared.timestamps import US_PER_DAY, system_clock, us_from_proto


def test_a_slope_is_in_mib_a_minute_and_counts_what_is_within_its_span_only() -> None:
    flat_then_growing = [(at, 50 * 2**20 if at < 60 else int((50 + (at - 60) * 2 / 60) * 2**20)) for at in range(181)]
    assert slope(flat_then_growing, 60, 180) == pytest.approx(2, rel=1e-3)
    assert slope(flat_then_growing, 0, 59) == pytest.approx(0)


@pytest.mark.parametrize("of_the_past", [True, False])
def test_no_reading_is_sent_twice_and_both_sides_send(of_the_past: bool) -> None:
    make = _requests("device", 4, of_the_past=of_the_past)
    requests = [make() for _ in range(3)]
    keys = [
        (side.meter_id, us_from_proto(side.timestamp))
        for request in requests
        for reading in request.readings
        if (side := reading.meter).meter_id
    ]
    assert len(set(keys)) == len(keys) == 6
    age_us = system_clock() - max(ts_us for _, ts_us in keys)
    assert age_us > US_PER_DAY if of_the_past else age_us < PRESENT_MAX_AGE_US
    assert [reading.WhichOneof("reading") for reading in requests[0].readings] == ["meter", "vehicle"] * 2


@pytest.mark.parametrize("per_message", [1, 2, 3, 7])
def test_the_devices_of_a_history_go_on_in_turn(per_message: int) -> None:
    make = _later_requests([0, 2, 4], 5 * US_PER_DAY, per_message)
    sent = [
        (reading.meter.meter_id, us_from_proto(reading.meter.timestamp))
        for _ in range(6)
        for reading in make().readings
    ]
    assert sent == [
        (meter_id(number % 3), 5 * US_PER_DAY + (number // 3 + 1) * GO_ON_STEP_US) for number in range(6 * per_message)
    ]


def test_outcomes_of_processes_add_up() -> None:
    whole = Outcome()
    whole.add(Outcome(sent=3, stored=2, duplicate=1, streams=1, latencies_s=[0.1]))
    whole.add(Outcome(sent=1, stored=1, streams=2, refused=5, latencies_s=[0.2, 0.3]))
    assert (whole.sent, whole.stored, whole.duplicate, whole.streams, whole.refused) == (4, 3, 1, 3, 5)
    assert whole.latencies_s == [0.1, 0.2, 0.3]
