"""Has days grow old in a test's database: they are sealed, and the retention floor passes them."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import date
from typing import Any

import psycopg
from psycopg import AsyncConnection

from shared.db.device_kind import KINDS
from shared.db.engine import connection_parameters
from shared.db.sealing import seal
from shared.timestamps import datetime_from_us, system_clock


class _Ended(Exception):
    """Sealing was ended."""


@dataclass
class Ageing:
    """Its connections are those of ingestion's maintenance and of the owner."""

    maintenance: AsyncConnection[Any]
    owner: psycopg.Connection[Any]

    async def seal(self, steps: int | None = None) -> None:
        """Seals all days that may be, in small chunks; or ends after so many steps."""
        left = steps

        def pass_fail_point(_: str) -> None:
            nonlocal left
            if left is not None:
                left -= 1
                if left < 0:
                    raise _Ended

        try:
            await seal(self.maintenance, system_clock(), 2, pass_fail_point, chunk_readings=30, drop_after_s=0)
        except _Ended:
            return

    def drop_before(self, floor_us: int, *, readings: bool) -> None:
        """Moves the retention floor; the readings before it go at once, or later."""
        self.owner.execute("UPDATE retention SET floor_day = %s", (datetime_from_us(floor_us).date(),))
        for kind in KINDS if readings else ():
            for drop, table in (("history_partition", kind.history), ("sealed_month", kind.sealed)):
                while self.owner.execute(f"SELECT drop_oldest_{drop}(%s)", (table,)).fetchone() != (None,):
                    pass

    def renew(self) -> None:
        """Takes the retention floor back: the next example has devices of its own."""
        self.owner.execute("UPDATE retention SET floor_day = %s", (date.min,))


@asynccontextmanager
async def ageing_of(maintenance_url: str, owner_url: str) -> AsyncIterator[Ageing]:
    async with await AsyncConnection.connect(
        **connection_parameters(maintenance_url, "test"), autocommit=True
    ) as maintenance:
        with psycopg.connect(owner_url, autocommit=True) as owner:
            yield Ageing(maintenance, owner)
