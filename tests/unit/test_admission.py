"""Who is let in, and what those who are not are told."""

import asyncio
from contextlib import ExitStack

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ingestion_svc import admission as admission_module
from ingestion_svc.admission import BURST_S, STREAM_AGE_JITTER, STREAMS_WORTH_MEMORY, Admission, DeviceRates
from ingestion_svc.reading_metrics import IngestionMetrics
from ingestion_svc.readings import Decoded, MeterRow, TimeBounds
from shared.config import IngestionSettings
from shared.errors import LimitExceeded, ServiceStopping, SilentStream
from shared.exporter import new_registry

RPC = "ExchangeTelemetry"
PEER = "ipv4:192.0.2.1:40000"


def nothing() -> None:
    """Ends a stream that nobody asks to end."""


class Sent:
    """A message with so many readings of each device."""

    def __init__(self, **counts: int) -> None:
        self._counts = counts

    def __len__(self) -> int:
        return sum(self._counts.values())

    def age_us(self, now_us: int) -> int:
        return 0

    def device_ids(self) -> list[str]:
        return [device for device, count in self._counts.items() for _ in range(count)]

    def decode(self, part: slice, first_index: int, bounds: TimeBounds) -> Decoded:
        rows = [MeterRow(device, at, 1.0, None) for at, device in enumerate(self.device_ids())][part]
        return Decoded(meters=rows, meter_indexes=list(range(first_index, first_index + len(rows))))


def admitting(**limits: int) -> Admission:
    return Admission(IngestionSettings.model_validate(limits), IngestionMetrics(new_registry()))


async def test_a_place_is_free_again_when_its_stream_ends() -> None:
    admission = admitting(streams_max=1)
    for _ in range(3):
        with admission.stream(RPC, nothing, PEER), pytest.raises(LimitExceeded, match="1 streams"):  # noqa: SIM117
            with admission.stream(RPC, nothing, PEER):
                pass


async def test_a_peer_has_so_many_streams_and_others_have_theirs() -> None:
    admission = admitting(streams_per_peer_max=2)
    with admission.stream(RPC, nothing, PEER), admission.stream(RPC, nothing, PEER):
        with pytest.raises(LimitExceeded, match=f"2 streams of {PEER}"), admission.stream(RPC, nothing, PEER):
            pass
        with admission.stream(RPC, nothing, "another"):
            pass
    with admission.stream(RPC, nothing, PEER):
        pass

    assert not admission._streams_of


@pytest.mark.parametrize("age_s", [0.03, 60.0])
async def test_a_stream_on_which_nothing_comes_is_ended_and_one_that_lives_is_not(
    monkeypatch: pytest.MonkeyPatch, age_s: float
) -> None:
    monkeypatch.setattr(admission_module, "FIRST_REQUEST_WITHIN_S", 0.01)
    admission = Admission(IngestionSettings(stream_max_age_s=age_s), IngestionMetrics(new_registry()))
    silent, live = asyncio.Event(), asyncio.Event()
    with admission.stream(RPC, live.set, PEER) as place:
        place.begun = True
        with pytest.raises(SilentStream), admission.stream(RPC, silent.set, PEER):
            await asyncio.wait_for(silent.wait(), 10)
        assert not live.is_set()
        if age_s < 1:
            await asyncio.wait_for(live.wait(), 10)


async def test_memory_is_trimmed_each_time_that_half_of_many_streams_have_ended(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    admission, asked_at = admitting(streams_max=4_000), list[int]()
    monkeypatch.setattr(admission_module, "trim_memory", lambda: asked_at.append(len(admission._streams)))
    monkeypatch.setattr(admission_module, "MEMORY_BACK_AFTER_S", 0.0)
    for many in (STREAMS_WORTH_MEMORY - 1, 4_000):
        places = [ExitStack() for _ in range(many)]
        for number, place in enumerate(places):
            place.enter_context(admission.stream(RPC, nothing, f"peer {number}"))
        for place in places:
            place.close()
            for _ in range(2):
                await asyncio.sleep(0)

    assert asked_at == [2_000, 1_000, 500]


def test_streams_of_one_start_do_not_end_together() -> None:
    ages = {admission_module._stream_age_s(100.0) for _ in range(100)}

    assert len(ages) > 90
    assert 100.0 * (1 - STREAM_AGE_JITTER) <= min(ages) <= max(ages) <= 100.0


async def test_draining_ends_the_open_streams_and_lets_nobody_in() -> None:
    admission, ended = admitting(), list[str]()
    with admission.stream(RPC, lambda: ended.append("a"), PEER), admission.stream(RPC, lambda: ended.append("b"), PEER):
        admission.drain()
        assert ended == ["a", "b"]
        for late in (admission.stream(RPC, nothing, PEER), admission.call(1)):
            with pytest.raises(ServiceStopping), late:
                pass


@given(
    calls=st.lists(st.tuples(st.booleans(), st.integers(1, 50)), max_size=60),
    most=st.integers(1, 10),
    most_bytes=st.integers(1, 100),
)
def test_calls_and_their_bytes_never_exceed_their_bounds_and_are_all_given_back(
    calls: list[tuple[bool, int]], most: int, most_bytes: int
) -> None:
    admission = admitting(unary_calls_max=most, unary_bytes_max=most_bytes)
    held: list[tuple[ExitStack, int]] = []
    for comes, size in calls:
        if comes:
            place = ExitStack()
            try:
                place.enter_context(admission.call(size))
                held.append((place, size))
            except LimitExceeded:
                assert len(held) == most or sum(each for _, each in held) + size > most_bytes
        elif held:
            held.pop(0)[0].close()
        assert len(held) <= most
        assert len(held) <= 1 or sum(each for _, each in held) <= most_bytes
    for place, _ in held:
        place.close()
    assert (admission._calls, admission._call_bytes) == (0, 0)


@given(sends=st.lists(st.tuples(st.floats(0, 30), st.integers(1, 500)), max_size=50), rate=st.floats(0.1, 100))
def test_a_device_gets_its_rate_and_a_burst_and_one_message_of_debt(
    sends: list[tuple[float, int]], rate: float
) -> None:
    rates = DeviceRates(rate)
    now_s = admitted = 0.0
    for wait_s, count in sends:
        now_s += wait_s
        try:
            rates.charge(Sent(meter=count), now_s)
        except LimitExceeded as error:
            now_s += error.retry_after_s + 1e-6
            rates.charge(Sent(meter=count), now_s)
        admitted += count

    assert admitted <= rate * now_s + max(rate * BURST_S, 1.0) + 500


devices = st.dictionaries(st.sampled_from("abcde"), st.integers(1, 10_000), min_size=1)


@given(sends=st.lists(devices, min_size=1, max_size=20), rate=st.floats(0.1, 1_000))
def test_a_sender_that_waits_as_it_is_told_always_gets_on(sends: list[dict[str, int]], rate: float) -> None:
    rates, now_s = DeviceRates(rate), 0.0
    for counts in sends:
        try:
            rates.charge(Sent(**counts), now_s)
        except LimitExceeded as error:
            now_s += error.retry_after_s * (1 + 1e-9) + 1e-6
            rates.charge(Sent(**counts), now_s)


def test_a_message_that_was_not_stored_costs_its_devices_nothing() -> None:
    rates = DeviceRates(1.0)
    charge = rates.charge(Sent(meter=1_440), 0.0)
    charge.refund()
    charge.refund()
    rates.charge(Sent(meter=60), 0.0)
    with pytest.raises(LimitExceeded):
        rates.charge(Sent(meter=1), 0.5)


def test_without_a_rate_nothing_is_metered() -> None:
    DeviceRates(None).charge(Sent(meter=10_000), 0.0)


def test_the_devices_metered_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(admission_module, "DEVICES_METERED_MAX", 10)
    rates = DeviceRates(1.0)
    for number in range(100):
        rates.charge(Sent(**{f"m{number}": 1}), 0.0)

    assert len(rates._buckets) == 10
