"""What callers of analytics can ask, as all of the service sees it: verdicts, orders, windows and the questions."""

from dataclasses import dataclass
from enum import StrEnum


class Verdict(StrEnum):
    """What the numbers allow to say; the values are the contract's names, in the order of their numbers."""

    OK = "VERDICT_OK"
    LOW_EFFICIENCY = "VERDICT_LOW_EFFICIENCY"
    IMPLAUSIBLE = "VERDICT_IMPLAUSIBLE"
    INSUFFICIENT_DATA = "VERDICT_INSUFFICIENT_DATA"
    NO_METER = "VERDICT_NO_METER"


class Granularity(StrEnum):
    """How long a bucket is; the values are the contract's names."""

    HOUR = "SERIES_GRANULARITY_HOUR"
    DAY = "SERIES_GRANULARITY_DAY"


class Order(StrEnum):
    """What comes first in a list of vehicles; the values are the contract's names."""

    RATIO = "PERFORMANCE_ORDER_RATIO"
    KWH_LOST = "PERFORMANCE_ORDER_KWH_LOST"


@dataclass(frozen=True, slots=True)
class Window:
    """A span of time in microseconds, `start_us < ts_us <= end_us`, never empty."""

    start_us: int
    end_us: int


@dataclass(frozen=True, slots=True)
class PerformanceQuestion:
    """How efficiently did this vehicle charge within this window?"""

    vehicle_id: str
    window: Window


@dataclass(frozen=True, slots=True)
class FleetQuestion:
    """How efficiently did these vehicles charge, and which come first? One question for all pages of a result."""

    asked_start_us: int | None
    asked_end_us: int | None
    verdicts: frozenset[Verdict]
    """Empty: any."""
    vehicle_ids: frozenset[str]
    """Empty: every vehicle."""
    order: Order


@dataclass(frozen=True, slots=True)
class FleetPage:
    question: FleetQuestion
    window: Window
    """From hour to hour. It is that of a first page; the pages after it keep theirs."""
    size: int
    place: tuple[str, int] | None
    """The name of the result and how many of its vehicles come before. None: the first page."""


@dataclass(frozen=True, slots=True)
class SeriesQuestion:
    """How did this vehicle charge within each of these buckets?"""

    vehicle_id: str
    granularity: Granularity
    time_zone: str
    buckets: list[Window]
    """One after the other, without a gap."""


@dataclass(frozen=True, slots=True)
class SessionQuestion:
    """When did this vehicle charge, or what this meter fed? One question for all pages of a result."""

    vehicle_id: str
    """Empty: the meter's."""
    meter_id: str
    asked_start_us: int | None
    asked_end_us: int | None


@dataclass(frozen=True, slots=True)
class SessionPage:
    question: SessionQuestion
    window: Window
    """That of a first page; the pages after it keep theirs."""
    size: int
    place: tuple[str, int] | None
    """The name of the result and how many of its sessions come before. None: the first page."""


@dataclass(frozen=True, slots=True)
class StatusQuestion:
    """What did these devices report last? In their order, named twice or not."""

    vehicle_ids: list[str]
    meter_ids: list[str]
