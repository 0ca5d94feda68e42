"""Online or stale: the edge, and what has no age."""

import pytest

from analytics_svc.freshness import Freshness, freshness


@pytest.mark.parametrize(
    ("age_us", "expected"),
    [
        (None, Freshness.NO_READING),
        (-300_000_000, Freshness.ONLINE),
        (0, Freshness.ONLINE),
        (60_000_000, Freshness.ONLINE),
        (60_000_001, Freshness.STALE),
    ],
)
def test_a_device_is_online_up_to_the_age_that_is_stale(age_us: int | None, expected: Freshness) -> None:
    assert freshness(age_us, stale_after_us=60_000_000) is expected
