"""Opens sealed days again in which a transaction inserts or changes readings; see `shared.db.sealing`.

Which days may be sealed a writer remembers from the last time that it asked. It is told where that is too old: the
database refuses a reading of such a day (DAY_MAY_BE_SEALED) from whoever has not asked for it to be opened.
"""

from collections.abc import Awaitable, Callable, Collection, Sequence
from datetime import date, datetime, timedelta
from typing import Any

import numpy as np

from ingestion_svc.copy_format import Keys, Times
from shared.db.sealing import UNSEAL
from shared.timestamps import US_PER_DAY, datetime_from_us

DAY_MAY_BE_SEALED = "EF001"
"""SQLSTATE of an insert into a day that may be sealed, in a transaction that has not asked for it to be opened."""

Execute = Callable[[str, dict[str, Any]], Awaitable[Sequence[Sequence[Any]]]]
"""Executes a statement with its parameters, and returns the rows."""


class SealedDays:
    """Those of one kind of device, in one transaction: nobody seals from the first `open` until it ends."""

    def __init__(self, device: str, execute: Execute) -> None:
        self._unseal = UNSEAL[device]
        self._execute = execute
        self.locked = False
        """Whether nobody seals: otherwise nothing may be changed of a day that may be sealed."""

    async def open(
        self, keys: Sequence[int], first_days: Sequence[date], last_days: Sequence[date], *, to_insert: bool = False
    ) -> None:
        """Opens the sealed days of each key from a first to a last one; `to_insert`: into no others than these."""
        if not len(keys):
            return
        days = {"first_days": list(first_days), "last_days": list(last_days)}
        until = max(last_days) if to_insert else None
        await self._execute(self._unseal, {"keys": list(keys), "unsealed_until": until} | days)
        self.locked = True

    async def open_of_rows(self, keys: Keys, ts_us: Times) -> None:
        """Opens the days of some rows that will be inserted: all that lie so far back."""
        pairs = np.unique(np.stack((keys.astype(np.int64), ts_us // US_PER_DAY)), axis=1)
        days = [datetime_from_us(day * US_PER_DAY).date() for day in pairs[1].tolist()]
        await self.open(pairs[0].tolist(), days, days, to_insert=True)

    async def open_of_hours(self, hours: Collection[tuple[int, datetime]]) -> None:
        """Opens the days of hours, each after its device's key, where some of them may be sealed: two days for the
        hour before midnight, as the reading stamped midnight belongs to it and to the day that begins."""
        if self.locked and hours:
            keys, starts = zip(*sorted(hours), strict=True)
            await self.open(keys, [hour.date() for hour in starts], [(h + timedelta(hours=1)).date() for h in starts])
