"""By how much storage grows in a day, and when a disk is full at this pace."""

from dataclasses import dataclass
from datetime import date, timedelta

from shared.db.storage import Held, Rollups, Storage

CLOSED_DAYS = 7
"""A week has its weekend; where days are sealed, fewer are open."""

SEALED_MONTHS = 2
"""Of the newest ones: on the first of a month the new one has nothing yet."""

CENTURY_DAYS = 36_500
"""Later than this is not a date that anybody plans by."""


@dataclass(frozen=True, slots=True)
class Growth:
    """In a day, of all kinds of device together."""

    readings: int
    days: int
    """From so many closed days that are open; 0: from those that are sealed."""
    reading_bytes: int
    sealed: bool
    """Whether readings are counted as once sealed; otherwise as they lie open."""
    rollup_bytes: int

    @property
    def bytes(self) -> int:
        return self.reading_bytes + self.rollup_bytes


def growth_of(storage: Storage, rollups: dict[str, Rollups], today: date, seal_after_days: int) -> Growth:
    """From the last closed days that are open, as many as lie before those that should be sealed, a week at most; an
    open day older than that has only what came late."""
    reach = min(CLOSED_DAYS, max(seal_after_days, 2)) if seal_after_days else CLOSED_DAYS
    recent = [today - timedelta(days=ago) for ago in range(1, reach + 1)]
    readings, cost, days = 0.0, 0.0, 0
    all_sealed = True
    for kind, open_days in storage.open_days.items():
        closed = [open_days[day] for day in recent if day in open_days]
        sealed = _newest_sealed(storage, kind)
        a_day = _mean(closed) if closed else sealed.readings / sealed.days if sealed.days else 0
        cheap = sealed if seal_after_days and sealed.readings else storage.open(kind)
        all_sealed &= cheap is sealed or not a_day
        readings += a_day
        cost += a_day * cheap.bytes / cheap.readings if cheap.readings else 0
        days = max(days, len(closed))
    added = sum(each.bytes_a_day for each in rollups.values())
    return Growth(round(readings), days, round(cost), all_sealed, added)


def full_on(free: int, growth: Growth, today: date, retention_starts: date | None) -> date | None:
    """The day on which so many bytes are taken; None where that is more than a century away. From `retention_starts`
    on as many readings are dropped as come; None: no reading is known."""
    days = free / growth.bytes if growth.bytes else CENTURY_DAYS + 1
    until = (retention_starts - today).days if retention_starts is not None else CENTURY_DAYS
    if days > max(until, 0):
        left = free - max(until, 0) * growth.bytes
        days = max(until, 0) + (left / growth.rollup_bytes if growth.rollup_bytes else CENTURY_DAYS)
    return None if days > CENTURY_DAYS else today + timedelta(days=int(days))


def retention_starts(storage: Storage, retention_days: int) -> date | None:
    """When retention drops the first readings: of the first month, none before its first day; None: there are none."""
    oldest = min((month.first for month in storage.months), default=None)
    return None if oldest is None else oldest + timedelta(days=retention_days)


def _newest_sealed(storage: Storage, kind: str) -> Held:
    total = Held()
    months = [month.sealed for month in storage.months if month.kind == kind and month.sealed.readings]
    for held in months[-SEALED_MONTHS:]:
        total.add(held)
    return total


def _mean(days: list[Held]) -> float:
    return sum(held.readings for held in days) / len(days)
