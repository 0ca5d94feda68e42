"""Windows are cut into the hours and days of a time zone, also where the clock is changed."""

from itertools import pairwise
from zoneinfo import ZoneInfo

import pytest

from analytics_svc.buckets import BUCKETS_MAX, bucket_edges
from analytics_svc.questions import Granularity
from shared.timestamps import US_PER_DAY, US_PER_HOUR
from tests.builders import us


def lengths_in_hours(start: str, end: str, granularity: Granularity, zone: str) -> list[float]:
    edges = bucket_edges(us(start), us(end), granularity, ZoneInfo(zone))
    assert (edges[0], edges[-1]) == (us(start), us(end))
    return [(end_us - start_us) / US_PER_HOUR for start_us, end_us in pairwise(edges)]


@pytest.mark.parametrize(
    ("start", "end", "zone", "hours"),
    [
        ("2026-03-28T00:00+01:00", "2026-03-31T00:00+02:00", "Europe/Berlin", [24, 23, 24]),
        ("2025-10-25T00:00+02:00", "2025-10-28T00:00+01:00", "Europe/Berlin", [24, 25, 24]),
        ("2025-10-25T12:00Z", "2025-10-26T12:00Z", "UTC", [12, 12]),
        # There is no midnight, so the day begins an hour later and is an hour shorter.
        ("2018-11-03T00:00-03:00", "2018-11-06T00:00-02:00", "America/Sao_Paulo", [24, 23, 24]),
        # There are two midnights.
        ("2025-11-01T00:00-04:00", "2025-11-04T00:00-05:00", "America/Havana", [24, 25, 24]),
        # Samoa left out the 30th.
        ("2011-12-29T00:00-10:00", "2012-01-01T00:00+14:00", "Pacific/Apia", [24, 24]),
        ("2026-02-09T00:00+05:30", "2026-02-09T12:00+05:30", "Asia/Kolkata", [12]),
    ],
)
def test_a_day_is_from_midnight_to_midnight(start: str, end: str, zone: str, hours: list[float]) -> None:
    assert lengths_in_hours(start, end, Granularity.DAY, zone) == hours


@pytest.mark.parametrize(
    ("start", "end", "zone", "hours"),
    [
        ("2025-10-26T00:00Z", "2025-10-26T03:00Z", "Europe/Berlin", [1, 1, 1]),
        ("2026-03-29T00:30Z", "2026-03-29T02:30Z", "Europe/Berlin", [0.5, 1, 0.5]),
        ("2026-02-09T00:00Z", "2026-02-09T02:00Z", "Asia/Kolkata", [0.5, 1, 0.5]),
        # Half an hour is left out, and later there twice.
        ("2025-10-04T14:30Z", "2025-10-04T17:00Z", "Australia/Lord_Howe", [1, 0.5, 1]),
        ("2026-04-04T14:00Z", "2026-04-04T16:30Z", "Australia/Lord_Howe", [1, 0.5, 1]),
    ],
)
def test_an_hour_is_from_full_hour_to_full_hour(start: str, end: str, zone: str, hours: list[float]) -> None:
    assert lengths_in_hours(start, end, Granularity.HOUR, zone) == hours


def test_a_window_on_an_edge_has_no_empty_bucket() -> None:
    start_us = us("2026-02-09T00:00Z")
    assert bucket_edges(start_us, start_us + US_PER_DAY, Granularity.DAY, ZoneInfo("UTC")) == [
        start_us,
        start_us + US_PER_DAY,
    ]
    assert bucket_edges(start_us - 1, start_us + 1, Granularity.HOUR, ZoneInfo("UTC")) == [
        start_us - 1,
        start_us,
        start_us + 1,
    ]


def test_too_many_buckets_are_not_counted_to_the_end() -> None:
    edges = bucket_edges(0, 400 * US_PER_DAY, Granularity.HOUR, ZoneInfo("UTC"))
    assert len(edges) - 1 == BUCKETS_MAX + 2
