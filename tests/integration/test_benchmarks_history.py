"""The history of the benchmarks is stored as ingestion would have stored it."""

import pytest

from benchmarks.history import Stored, extend, full_hour
from shared.timestamps import US_PER_HOUR, system_clock
from tests.verified import differences


@pytest.mark.one_server
async def test_rollups_and_status_are_what_history_says_also_after_days_were_added(database_url: str) -> None:
    stored = Stored(pairs=3, interval_us=US_PER_HOUR // 4, end_us=full_hour(system_clock()))
    for days in (1, 3):
        stored = extend(database_url, stored, days)
        assert stored.rows == 2 * 3 * days * 96
        assert await differences(database_url) == []
