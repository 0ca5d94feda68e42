"""Who may come in: how many streams and calls there may be, how old a stream may get, how fast a device may send."""

import asyncio
import random
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

from ingestion_svc.reading_metrics import IngestionMetrics
from ingestion_svc.readings import Message
from shared.config import IngestionSettings
from shared.errors import LimitExceeded, ServiceStopping, SilentStream
from shared.memory import trim_memory

STREAMS_RETRY_AFTER_S = 5.0
"""Streams end all the time; a herd that comes back every five seconds is no load."""

FIRST_REQUEST_WITHIN_S = 30.0
"""A device opens a stream because it has something to send; a bad radio takes some seconds for that."""

CALLS_RETRY_AFTER_S = 1.0
"""A commit takes a fraction of it, and an outage's grace is longer."""

STREAM_AGE_JITTER = 0.2
"""Up to a fifth less than the age that a stream may reach, so that streams of one start do not end together."""

STREAMS_WORTH_MEMORY = 1_000
"""When half of so many or more have ended, their memory is given back: some 20 MiB at least. glibc would keep it."""

MEMORY_BACK_AFTER_S = 5.0
"""gRPC frees a connection's buffers in the background."""

DEVICES_METERED_MAX = 100_000
"""Devices whose rate is kept, about 200 bytes each: ten times the fleet. The one that was quiet longest goes first."""

BURST_S = 60.0
"""Seconds of its rate that a device may send at once: firmware buffers a minute without asking."""


class Place:
    """A stream's place, until `end` is called because of its age, or because no first request came in time.

    `begun` is for the stream to set when its first request has come.
    """

    __slots__ = ("_age_s", "_end", "_timer", "begun", "was_silent")

    def __init__(self, end: Callable[[], None], age_s: float) -> None:
        self.begun = self.was_silent = False
        self._end = end
        self._age_s = age_s
        # One timer after the other: a stream that lives pays for the second one once.
        first_s = min(FIRST_REQUEST_WITHIN_S, age_s)
        self._timer = asyncio.get_running_loop().call_later(first_s, self._look_at_beginning)

    def leave(self) -> None:
        self._timer.cancel()

    def _look_at_beginning(self) -> None:
        left_s = self._age_s - FIRST_REQUEST_WITHIN_S
        if left_s <= 0 or not self.begun:
            self.was_silent = left_s > 0
            self._end()
        else:
            self._timer = asyncio.get_running_loop().call_later(left_s, self._end)


class Admission:
    """Lets streams and unary calls in, up to the process's limits, and nobody any more once it drains.

    Both ways in raise LimitExceeded or ServiceStopping.
    """

    def __init__(self, settings: IngestionSettings, metrics: IngestionMetrics) -> None:
        self._settings = settings
        self._metrics = metrics
        self._draining = False
        self._streams: dict[Place, Callable[[], None]] = {}
        """What ends each open stream."""
        self._streams_of: Counter[str] = Counter()
        """Open streams by peer."""
        self._peak_streams = 0  # since memory was last trimmed
        self._calls = self._call_bytes = 0

    @contextmanager
    def stream(self, rpc: str, end: Callable[[], None], peer: str) -> Iterator[Place]:
        """Holds a place for a stream. `end` is called when it shall end: at its age, when the service drains, or when
        no first request came in time; then this raises SilentStream once it has ended.

        `peer` is whose stream it is: each may have so many.
        """
        if self._draining:
            raise ServiceStopping
        most, most_of_peer = self._settings.streams_max, self._settings.streams_per_peer_max
        if len(self._streams) >= most:
            raise LimitExceeded(f"{most} streams are open and no more are taken", STREAMS_RETRY_AFTER_S)
        if self._streams_of[peer] >= most_of_peer:
            raise LimitExceeded(f"{most_of_peer} streams of {peer} are open, as many as may be", STREAMS_RETRY_AFTER_S)
        place = Place(end, _stream_age_s(self._settings.stream_max_age_s))
        self._streams[place] = end
        self._streams_of[peer] += 1
        self._peak_streams = max(self._peak_streams, len(self._streams))
        try:
            with self._metrics.open_stream(rpc):
                yield place
        finally:
            place.leave()
            del self._streams[place]
            self._streams_of[peer] -= 1
            if not self._streams_of[peer]:
                del self._streams_of[peer]
            self._trim_memory()
        if place.was_silent:
            raise SilentStream(FIRST_REQUEST_WITHIN_S)

    @contextmanager
    def call(self, message_bytes: int) -> Iterator[None]:
        """Holds a place for a unary call, and its message's bytes against the bound for all of them.

        A message that is larger than that bound is taken while there is no other.
        """
        if self._draining:
            raise ServiceStopping
        calls, most_bytes = self._settings.unary_calls_max, self._settings.unary_bytes_max
        if self._calls >= calls:
            raise LimitExceeded(f"{calls} calls wait for their commit and no more are taken", CALLS_RETRY_AFTER_S)
        if self._calls and self._call_bytes + message_bytes > most_bytes:
            raise LimitExceeded(
                f"the calls that wait for their commit hold {self._call_bytes} of {most_bytes} bytes",
                CALLS_RETRY_AFTER_S,
            )
        self._calls += 1
        self._call_bytes += message_bytes
        try:
            yield
        finally:
            self._calls -= 1
            self._call_bytes -= message_bytes

    def drain(self) -> None:
        """Ends the open streams, and lets nobody in any more."""
        self._draining = True
        for end in list(self._streams.values()):
            end()

    def _trim_memory(self) -> None:
        if self._peak_streams >= STREAMS_WORTH_MEMORY and len(self._streams) <= self._peak_streams // 2:
            self._peak_streams = len(self._streams)
            asyncio.get_running_loop().call_later(MEMORY_BACK_AFTER_S, trim_memory)


def _stream_age_s(max_age_s: float) -> float:
    return max_age_s * (1 - STREAM_AGE_JITTER * random.random())  # noqa: S311 (jitter protects nothing)


class Charge:
    """What a message has taken from its devices' buckets: readings by device."""

    def __init__(self, rates: "DeviceRates", readings: Counter[str]) -> None:
        self._rates = rates
        self._readings = readings

    def refund(self) -> None:
        self._rates.refund(self._readings)
        self._readings.clear()


class DeviceRates:
    """A token bucket for each device, in readings. It may go into debt once, so that any message can pass some time.

    `readings_per_s` None: nothing is limited.
    """

    def __init__(self, readings_per_s: float | None) -> None:
        self._readings_per_s = readings_per_s
        self._full = max((readings_per_s or 0.0) * BURST_S, 1.0)
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()
        """By device: the tokens left, and when they were counted, in seconds."""

    def charge(self, message: Message, now_s: float) -> Charge:
        """Takes a whole message's readings from its devices' buckets.

        Raises LimitExceeded where one of them is empty, and takes nothing then: after the time that it names none of
        them is empty any more.
        """
        wanted: Counter[str] = Counter()
        if self._readings_per_s is not None:
            wanted.update(message.device_ids())
            tokens = {device: self._tokens(device, now_s, self._readings_per_s) for device in wanted}
            device = min(tokens, key=tokens.__getitem__, default=None)
            if device is not None and tokens[device] < 1:
                raise LimitExceeded(
                    f"{device} sends more than {self._readings_per_s:g} readings a second",
                    (1 - tokens[device]) / self._readings_per_s,
                )
            for device, readings in wanted.items():
                self._buckets[device] = (tokens[device] - readings, now_s)
                self._buckets.move_to_end(device)
            while len(self._buckets) > DEVICES_METERED_MAX:
                self._buckets.popitem(last=False)
        return Charge(self, wanted)

    def refund(self, readings: Mapping[str, int]) -> None:
        for device, its_readings in readings.items():
            if device in self._buckets:
                tokens, counted_s = self._buckets[device]
                self._buckets[device] = (tokens + its_readings, counted_s)

    def _tokens(self, device: str, now_s: float, readings_per_s: float) -> float:
        tokens, counted_s = self._buckets.get(device, (self._full, now_s))
        return min(self._full, tokens + (now_s - counted_s) * readings_per_s)
