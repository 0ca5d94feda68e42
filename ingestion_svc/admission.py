"""Who may come in: how many streams there may be, how old one may get, and how fast a device may send."""

import asyncio
import random
from collections import Counter, OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager

from ingestion_svc.memory import trim_memory
from ingestion_svc.readings import Decoded
from shared.errors import LimitExceeded

STREAMS_RETRY_AFTER_S = 5.0
"""Streams end all the time; a herd that comes back every five seconds is no load."""

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


class Streams:
    """Counts the open streams, turns away what is too many, and sees to the memory of many that have ended."""

    def __init__(self, most: int, max_age_s: float) -> None:
        self.open = 0
        self._peak = 0  # since memory was last given back
        self._most = most
        self._max_age_s = max_age_s

    @contextmanager
    def admit(self) -> Iterator[float]:
        """Holds a place for a stream; gives the seconds after which it shall end. Raises LimitExceeded."""
        if self.open >= self._most:
            raise LimitExceeded(f"{self._most} streams are open and no more are taken", STREAMS_RETRY_AFTER_S)
        self.open += 1
        self._peak = max(self._peak, self.open)
        try:
            yield self._max_age_s * (1 - STREAM_AGE_JITTER * random.random())  # noqa: S311 (jitter protects nothing)
        finally:
            self.open -= 1
            if self._peak >= STREAMS_WORTH_MEMORY and self.open <= self._peak // 2:
                self._peak = self.open
                asyncio.get_running_loop().call_later(MEMORY_BACK_AFTER_S, trim_memory)


class DeviceRates:
    """A token bucket for each device, in readings. It may go into debt once, so that any message can pass some time."""

    def __init__(self, readings_per_s: float | None) -> None:
        self._readings_per_s = readings_per_s
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()
        """By device: the tokens left, and when they were counted, in seconds."""

    def admit(self, decoded: Decoded, now_s: float) -> None:
        """Takes a message's readings from their devices' buckets; LimitExceeded, for all of it, where one is empty."""
        if self._readings_per_s is None:
            return
        wanted = Counter(row.meter_id for row in decoded.meters)
        wanted.update(row.vehicle_id for row in decoded.vehicles)
        tokens = {device: self._tokens(device, now_s) for device in wanted}
        for device, its_tokens in tokens.items():
            if its_tokens < 1:
                raise LimitExceeded(
                    f"{device} sends more than {self._readings_per_s:g} readings a second",
                    (1 - its_tokens) / self._readings_per_s,
                )
        for device, readings in wanted.items():
            self._buckets[device] = (tokens[device] - readings, now_s)
            self._buckets.move_to_end(device)
        while len(self._buckets) > DEVICES_METERED_MAX:
            self._buckets.popitem(last=False)

    def _tokens(self, device: str, now_s: float) -> float:
        assert self._readings_per_s is not None
        full = max(self._readings_per_s * BURST_S, 1.0)
        tokens, counted_s = self._buckets.get(device, (full, now_s))
        return min(full, tokens + (now_s - counted_s) * self._readings_per_s)
