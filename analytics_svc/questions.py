"""What callers of analytics can ask, as all of the service sees it: verdicts, orders, windows and the questions."""

from dataclasses import dataclass
from datetime import UTC, date, datetime
from enum import StrEnum

from shared.db.device_kind import DeviceKind
from shared.timestamps import US_PER_DAY, US_PER_HOUR, us_from_datetime


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
    kept_since_us: int | None = None
    """From when on readings are kept. None: before all that is looked at, or the window is yet to be looked at."""
    aligned: bool = False
    """It was widened to full hours since it reaches back to where there are no readings."""

    @property
    def readings_since_us(self) -> int | None:
        """From when on it has readings, and before that whole hours alone; None: readings throughout."""
        kept_since_us = self.kept_since_us
        return kept_since_us if kept_since_us is not None and self.start_us < kept_since_us else None


LOOKED_BEFORE_US = 4 * US_PER_DAY
"""More than any question looks at before its window."""


@dataclass(frozen=True, slots=True, order=True)
class Retention:
    """Which days are kept, and which of them are all open. UTC days, which only move on."""

    floor_day: date = date.min
    """Readings of the days before it are dropped, or about to be; their hours are kept."""
    sealed_before: date = date.min
    """Readings of the days before it may be sealed."""

    @property
    def kept_since_us(self) -> int:
        return us_from_datetime(datetime(*self.floor_day.timetuple()[:3], tzinfo=UTC))

    @property
    def open_since(self) -> date:
        return max(self.floor_day, self.sealed_before)

    def looked_at(self, window: Window) -> Window:
        """A window as it can be answered: an end before which readings are dropped is widened to a full hour."""
        kept_since_us = self.kept_since_us
        if window.start_us - LOOKED_BEFORE_US >= kept_since_us:
            return window
        start_us, end_us = window.start_us, window.end_us
        if start_us < kept_since_us:
            start_us = start_us // US_PER_HOUR * US_PER_HOUR
        if end_us < kept_since_us:
            end_us = -(-end_us // US_PER_HOUR) * US_PER_HOUR
        return Window(start_us, end_us, kept_since_us, (start_us, end_us) != (window.start_us, window.end_us))


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

    @property
    def window(self) -> Window:
        return Window(self.buckets[0].start_us, self.buckets[-1].end_us)


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
