"""Who is let in, and what those who are not are told."""

import asyncio
from contextlib import ExitStack

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ingestion_svc import admission
from ingestion_svc.admission import BURST_S, STREAM_AGE_JITTER, STREAMS_WORTH_MEMORY, DeviceRates, Streams
from ingestion_svc.readings import Decoded, MeterRow
from shared.errors import LimitExceeded


def readings(count: int, device: str = "meter-001") -> Decoded:
    return Decoded(meters=[MeterRow(device, at, 1.0, None) for at in range(count)])


def test_a_place_is_free_again_when_its_stream_ends() -> None:
    streams = Streams(1, 100.0)
    for _ in range(3):
        with streams.admit(), pytest.raises(LimitExceeded, match="1 streams are open"), streams.admit():
            pass


async def test_memory_is_given_back_each_time_that_half_of_many_streams_have_ended(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    streams, asked_at = Streams(4_000, 100.0), list[int]()
    monkeypatch.setattr(admission, "trim_memory", lambda: asked_at.append(streams.open))
    monkeypatch.setattr(admission, "MEMORY_BACK_AFTER_S", 0.0)
    for many in (STREAMS_WORTH_MEMORY - 1, 4_000):
        places = [ExitStack() for _ in range(many)]
        for place in places:
            place.enter_context(streams.admit())
        for place in places:
            place.close()
            for _ in range(2):
                await asyncio.sleep(0)

    assert asked_at == [2_000, 1_000, 500]


def test_streams_of_one_start_do_not_end_together() -> None:
    streams = Streams(1_000, 100.0)
    ages = set()
    for _ in range(100):
        with streams.admit() as age_s:
            ages.add(age_s)

    assert len(ages) > 90
    assert 100.0 * (1 - STREAM_AGE_JITTER) <= min(ages) <= max(ages) <= 100.0


@given(sends=st.lists(st.tuples(st.floats(0, 30), st.integers(1, 500)), max_size=50), rate=st.floats(0.1, 100))
def test_a_device_gets_its_rate_and_a_burst_and_one_message_of_debt(
    sends: list[tuple[float, int]], rate: float
) -> None:
    rates = DeviceRates(rate)
    now_s = admitted = 0.0
    for wait_s, count in sends:
        now_s += wait_s
        try:
            rates.admit(readings(count), now_s)
        except LimitExceeded as error:
            rates.admit(readings(1), now_s + error.retry_after_s + 1e-6)
            now_s += error.retry_after_s + 1e-6
            count = 1
        admitted += count

    assert admitted <= rate * now_s + max(rate * BURST_S, 1.0) + 500


def test_without_a_rate_nothing_is_metered() -> None:
    DeviceRates(None).admit(readings(10_000), 0.0)


def test_the_devices_metered_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(admission, "DEVICES_METERED_MAX", 10)
    rates = DeviceRates(1.0)
    for number in range(100):
        rates.admit(readings(1, f"m{number}"), 0.0)

    assert len(rates._buckets) == 10
