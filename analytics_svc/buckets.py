"""Cuts a window into the hours or days of a time zone. Pure."""

from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from itertools import islice, pairwise
from zoneinfo import ZoneInfo

from analytics_svc.questions import Granularity, SeriesQuestion, Window
from shared.timestamps import US_PER_HOUR, datetime_from_us, us_from_datetime

BUCKETS_MAX = 1_000
"""In a series: six weeks of hours, or all days that are kept. More than a plot has columns."""

_MICROSECOND = timedelta(microseconds=1)


def bucket_edges(start_us: int, end_us: int, granularity: Granularity, zone: ZoneInfo) -> list[int]:
    """The edges of the buckets of `(start_us, end_us]`, in microseconds: both ends, and the beginnings between them.

    There is one edge more than there are buckets. Of too many buckets there are BUCKETS_MAX + 2, the last one long.
    OverflowError where the window is within a day of the years 1 or 9999.
    """
    begins = _hours(start_us, zone) if granularity is Granularity.HOUR else _days(start_us, zone)
    edges = [start_us]
    for edge_us in islice(begins, BUCKETS_MAX + 1):
        if edge_us >= end_us:
            break
        if edge_us > edges[-1]:  # a day that a zone skipped begins when the next one does
            edges.append(edge_us)
    return [*edges, end_us]


def looked_at(question: SeriesQuestion, window: Window) -> SeriesQuestion:
    """A series of a window as it is looked at: where that reaches back to where there are hours alone, each bucket
    begins at the nearest full hour."""
    if window.readings_since_us is None:
        return question
    edges = bucket_edges(window.start_us, window.end_us, question.granularity, ZoneInfo(question.time_zone))
    nearest = {(edge_us + US_PER_HOUR // 2) // US_PER_HOUR * US_PER_HOUR for edge_us in edges[1:-1]}
    within = sorted(edge_us for edge_us in nearest if window.start_us < edge_us < window.end_us)
    buckets = [Window(start_us, end_us) for start_us, end_us in pairwise([window.start_us, *within, window.end_us])]
    return replace(question, buckets=buckets)


def widened_to_days(start_us: int, end_us: int, zone: ZoneInfo) -> tuple[int, int]:
    """From the beginning of the day in which `(start_us, end_us]` starts to the end of the one in which it ends.

    OverflowError where the window is within a day of the years 1 or 9999.
    """
    first = datetime_from_us(start_us).astimezone(zone).date()
    return _begins(first, zone), next(_days(end_us - 1, zone))


def _hours(after_us: int, zone: ZoneInfo) -> Iterator[int]:
    """When the hours after an instant begin, by the zone's offset at the instant before each."""
    while True:
        offset = datetime_from_us(after_us).astimezone(zone).utcoffset()
        assert offset is not None
        after_us += US_PER_HOUR - (after_us + offset // _MICROSECOND) % US_PER_HOUR
        yield after_us


def _days(after_us: int, zone: ZoneInfo) -> Iterator[int]:
    """When the days after the one of an instant begin. Of a midnight that occurs twice the first one counts."""
    day: date = datetime_from_us(after_us).astimezone(zone).date()
    while True:
        day += timedelta(days=1)
        yield _begins(day, zone)


def _begins(day: date, zone: ZoneInfo) -> int:
    return us_from_datetime(datetime(day.year, day.month, day.day, tzinfo=zone).astimezone(UTC))
