"""What a device reported last, and whether it still reports. Pure: no clock, no database."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import NamedTuple

DOUBTED = "DOUBTED"
"""In place of a refusal's reason where a reading is stored and its energy does not count."""

BY_TIME = ("REJECTION_REASON_IN_FUTURE", "REJECTION_REASON_NOT_YET", "REJECTION_REASON_TOO_OLD")
"""The reasons of readings that were rejected for their timestamps, by the contract's names."""


class Freshness(StrEnum):
    """Whether a device still reports; the values are the contract's names."""

    ONLINE = "FRESHNESS_ONLINE"
    STALE = "FRESHNESS_STALE"
    NO_READING = "FRESHNESS_NO_READING"
    UNKNOWN_DEVICE = "FRESHNESS_NEVER_HEARD_OF"


@dataclass(frozen=True, slots=True)
class DeviceStatus:
    """A device's newest reading: each measurement of its kind by name, None where it was not measured."""

    ts_us: int
    measurements: Mapping[str, float | None]

    def age_us(self, now_us: int) -> int:
        """Microseconds since the reading; negative when the device's clock is ahead."""
        return now_us - self.ts_us


@dataclass(frozen=True, slots=True)
class ClockEvidence:
    """Evidence of a device's clock: counts of readings, and the age of the newest one at its arrival."""

    newest_age_us: int | None
    """Microseconds; negative when the device's clock is ahead, None where only rejected readings came."""
    late_readings: int
    future_readings: int
    conflicting_readings: int


@dataclass(frozen=True, slots=True)
class Refusal:
    """What was refused of a device's readings for one reason: readings, or values of an optional field."""

    field: str
    """A path from `Telemetry`."""
    reason: str
    """The contract's name."""
    count: int
    last_us: int
    last_description: str


class Found(NamedTuple):
    """What is stored under an id: None where there is none of it."""

    status: DeviceStatus | None
    clock: ClockEvidence | None
    refusals: Sequence[Refusal] = ()
    """The last ones first."""
    similar_ids: Sequence[str] = ()
    """Other devices of the kind whose ids differ from this one only in case; where there are many, the first ones."""
    known: bool = True
    """Whether there is such a device."""


def freshness(age_us: int | None, stale_after_us: int) -> Freshness:
    """Of a known device, by the age of its newest reading; None: it has none. An age of `stale_after_us` is online."""
    if age_us is None:
        return Freshness.NO_READING
    return Freshness.ONLINE if age_us <= stale_after_us else Freshness.STALE
