"""When a replica is close enough to serve from."""

import pytest

from analytics_svc.replica import ReplicaWatch
from shared.config import AnalyticsSettings
from shared.errors import DatabaseUnavailable
from shared.timestamps import US_PER_SECOND


async def test_a_replica_serves_up_to_the_configured_lag_and_metrics_are_told() -> None:
    lags_us = [0, 60 * US_PER_SECOND, 60 * US_PER_SECOND + 1, 1_500_000]
    remaining = iter(lags_us)
    told: list[float] = []

    async def lag_us() -> int:
        return next(remaining)

    watch = ReplicaWatch(lag_us, 60.0, told.append)
    assert [await watch.fit_to_serve() for _ in lags_us] == [True, True, False, True]
    assert told == [0.0, 60.0, 60.000001, 1.5]


async def test_a_database_that_does_not_answer_is_not_fit_to_serve_and_has_no_lag() -> None:
    async def lag_us() -> int:
        raise DatabaseUnavailable

    assert not await ReplicaWatch(lag_us, 60.0, lambda lag_s: pytest.fail("a lag was told")).fit_to_serve()


def test_analytics_answers_from_its_own_database_where_one_is_named() -> None:
    both = AnalyticsSettings(database_url="postgresql://a/b", analytics_database_url="postgresql://c/d")
    assert (both.require_database_url(), both.database_variable) == (
        both.in_schema("postgresql://c/d"),
        "ENERGYFLEET_ANALYTICS_DATABASE_URL",
    )
    one = AnalyticsSettings(database_url="postgresql://a/b")
    assert (one.require_database_url(), one.database_variable) == (
        one.in_schema("postgresql://a/b"),
        "ENERGYFLEET_DATABASE_URL",
    )
