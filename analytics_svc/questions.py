"""What callers of analytics can ask, as all of the service sees it: verdicts, orders, windows and the questions."""

from dataclasses import dataclass
from enum import StrEnum

from shared.db.device_kind import DeviceKind


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


class Alignment(StrEnum):
    """To what a window is widened; the values are the contract's names, in the order of their numbers."""

    HOUR = "WINDOW_ALIGNMENT_HOUR"
    EXACT = "WINDOW_ALIGNMENT_EXACT"
    DAY = "WINDOW_ALIGNMENT_DAY"


class Order(StrEnum):
    """What comes first in a list of vehicles or meters; the values are the contract's names."""

    RATIO = "PERFORMANCE_ORDER_RATIO"
    KWH_LOST = "PERFORMANCE_ORDER_KWH_LOST"
    DROP = "PERFORMANCE_ORDER_DROP"
    """Of vehicles alone."""


class DeviceState(StrEnum):
    """What can be said of a device; the values are the contract's names, in the order of their numbers."""

    ONLINE = "DEVICE_STATE_ONLINE"
    STALE = "DEVICE_STATE_STALE"
    NO_READING = "DEVICE_STATE_NO_READING"
    CLOCK_OFF = "DEVICE_STATE_CLOCK_OFF"
    REFUSED = "DEVICE_STATE_REFUSED"
    DOUBTED = "DEVICE_STATE_DOUBTED"


class DeviceOrder(StrEnum):
    """What comes first in a list of devices; the values are the contract's names."""

    FRESHNESS = "DEVICE_ORDER_FRESHNESS"
    CLOCK = "DEVICE_ORDER_CLOCK"
    REFUSED = "DEVICE_ORDER_REFUSED"
    DOUBTED = "DEVICE_ORDER_DOUBTED"


@dataclass(frozen=True, slots=True)
class Window:
    """A span of time in microseconds, `start_us < ts_us <= end_us`, never empty."""

    start_us: int
    end_us: int


@dataclass(frozen=True, slots=True)
class AskedWindow:
    """A window as it was asked for: the same for all pages of a result, although now goes on."""

    start_us: int | None
    end_us: int | None
    alignment: Alignment
    time_zone: str


@dataclass(frozen=True, slots=True)
class PerformanceQuestion:
    """How efficiently did this vehicle charge within this window?"""

    vehicle_id: str
    window: Window


@dataclass(frozen=True, slots=True)
class FleetQuestion:
    """How efficiently did these vehicles charge, and which come first? One question for all pages of a result."""

    asked: AskedWindow
    verdicts: frozenset[Verdict]
    """Empty: any."""
    vehicle_ids: frozenset[str]
    """Empty: every vehicle."""
    order: Order


@dataclass(frozen=True, slots=True)
class FleetPage:
    question: FleetQuestion
    window: Window
    """That of a first page; the pages after it keep theirs."""
    size: int
    place: tuple[str, int] | None
    """The name of the result and how many of its vehicles come before. None: the first page."""


@dataclass(frozen=True, slots=True)
class MeterQuestion:
    """How efficiently did vehicles charge at these meters, and which come first? One for all pages of a result."""

    asked: AskedWindow
    verdicts: frozenset[Verdict]
    """Empty: any."""
    meter_ids: frozenset[str]
    """Empty: every meter."""
    order: Order


@dataclass(frozen=True, slots=True)
class MeterPage:
    """As FleetPage."""

    question: MeterQuestion
    window: Window
    size: int
    place: tuple[str, int] | None


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
    """When did this vehicle charge, or what this meter fed? One for all pages of a result."""

    asked: AskedWindow
    vehicle_id: str
    """Empty: the meter's."""
    meter_id: str


@dataclass(frozen=True, slots=True)
class SessionPage:
    """As FleetPage."""

    question: SessionQuestion
    window: Window
    size: int
    place: tuple[str, int] | None


@dataclass(frozen=True, slots=True)
class DeviceQuestion:
    """Which devices should somebody look at, and which come first? One for all pages of a result."""

    kind: DeviceKind | None
    """None: either."""
    states: frozenset[DeviceState]
    """Empty: any."""
    order: DeviceOrder


@dataclass(frozen=True, slots=True)
class DevicePage:
    """As FleetPage."""

    question: DeviceQuestion
    size: int
    place: tuple[str, int] | None


@dataclass(frozen=True, slots=True)
class StatusQuestion:
    """What did these devices report last? In their order, named twice or not."""

    vehicle_ids: list[str]
    meter_ids: list[str]
