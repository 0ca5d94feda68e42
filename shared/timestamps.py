"""Time as integer microseconds since 1970-01-01T00:00:00Z, never through a float."""

import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

from google.protobuf.timestamp_pb2 import Timestamp

US_PER_SECOND = 1_000_000
US_PER_MINUTE = 60 * US_PER_SECOND
US_PER_HOUR = 60 * US_PER_MINUTE
US_PER_DAY = 24 * US_PER_HOUR

# google.protobuf.Timestamp is defined from year 1 to year 9999.
TIMESTAMP_MIN_SECONDS = -62_135_596_800
TIMESTAMP_MAX_SECONDS = 253_402_300_799
TIMESTAMP_MIN_US = TIMESTAMP_MIN_SECONDS * US_PER_SECOND
TIMESTAMP_MAX_US = TIMESTAMP_MAX_SECONDS * US_PER_SECOND + US_PER_SECOND - 1

EPOCH_2000_US = 946_684_800 * US_PER_SECOND
"""2000-01-01T00:00:00Z, from which PostgreSQL counts."""

Clock = Callable[[], int]
"""Gives the current time in microseconds."""

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)


def system_clock() -> int:
    return time.time_ns() // 1_000


def us_from_datetime(moment: datetime) -> int:
    return (moment - _EPOCH) // _MICROSECOND


def us_from_timedelta(span: timedelta) -> int:
    return span // _MICROSECOND


def datetime_from_us(us: int) -> datetime:
    """Aware UTC datetime of a time in microseconds; OverflowError outside the years 1 to 9999."""
    return _EPOCH + timedelta(microseconds=us)


def us_from_proto(timestamp: Timestamp) -> int:
    """Whole microseconds of a timestamp; what is finer is cut off."""
    return timestamp.seconds * US_PER_SECOND + timestamp.nanos // 1_000


def proto_from_us(us: int) -> Timestamp:
    """The wire form of a time in microseconds."""
    timestamp = Timestamp()
    set_us(timestamp, us)
    return timestamp


def set_us(timestamp: Timestamp, us: int) -> None:
    """Sets the wire form of a time in microseconds."""
    timestamp.seconds, rest = divmod(us, US_PER_SECOND)
    timestamp.nanos = rest * 1_000


def iso_from_us(us: int) -> str:
    """RFC 3339 for people and messages: `2026-02-09T10:00:00Z`, with a fraction only where there is one."""
    return datetime_from_us(us).isoformat().replace("+00:00", "Z")
