"""How many new devices are registered."""

import pytest

from ingestion_svc.registrations import COUNTED_AGAIN_S, Registrations
from shared.errors import LimitExceeded


class Fleet:
    """A clock, and what is registered."""

    def __init__(self, registered: int = 0) -> None:
        self.now_s = 1_000.0
        self.registered = registered
        self.counts = 0
        self.registrations = Registrations("meter", per_hour=60, most=1_000, now_s=lambda: self.now_s)

    async def count(self) -> int:
        self.counts += 1
        return self.registered

    async def admits(self, new: int) -> bool:
        try:
            await self.registrations.admit(new, self.count)
        except LimitExceeded as error:
            self.refusal = error
            return False
        self.registered += new
        return True


async def test_an_hours_number_is_admitted_at_once_and_then_one_a_minute() -> None:
    fleet = Fleet()
    assert await fleet.admits(60)
    assert not await fleet.admits(2)
    assert "60 new meters an hour" in str(fleet.refusal)
    assert fleet.refusal.retry_after_s == pytest.approx(120)
    fleet.now_s += fleet.refusal.retry_after_s
    assert await fleet.admits(2)
    assert not await fleet.admits(1)


async def test_a_message_with_more_than_an_hours_number_passes_where_nothing_was_taken() -> None:
    fleet = Fleet()
    assert await fleet.admits(100)
    assert not await fleet.admits(1)
    assert fleet.refusal.retry_after_s == pytest.approx(41 * 60)


async def test_no_more_are_registered_in_all_however_slowly_they_come() -> None:
    fleet = Fleet(registered=999)
    assert await fleet.admits(1)
    fleet.now_s += 3_600
    assert not await fleet.admits(1)
    assert "1,000 meters are registered" in str(fleet.refusal)
    assert fleet.refusal.retry_after_s == 3_600
    fleet.registered -= 10  # somebody has forgotten some
    fleet.now_s += COUNTED_AGAIN_S + 1
    assert await fleet.admits(1)


async def test_known_devices_cost_no_count() -> None:
    fleet = Fleet()
    for _ in range(3):
        assert await fleet.admits(0)
    assert fleet.counts == 0
