"""What counts of a stored reading's energy, where an operator says that it is not what was sent.

History's energy is what counts, and `sent_kwh` what was sent where that differs; `counting` says that it was corrected,
and no other reading that comes later changes it. Status and the rollup of the reading's
hour follow in the same transaction; the rollup is added up anew from history, by the statements of `verify --repair`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from typing import Any, Self

import numpy as np
from sqlalchemy import Row
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from ingestion_svc.corrections_sql import (
    CHANGE_HISTORY,
    CHANGE_STATUS,
    COUNTED,
    FIND,
    LAST,
    LIST,
    LOCK_DEVICE,
    LOCK_TABLES,
    RECORD,
)
from ingestion_svc.sealed_days import SealedDays
from ingestion_svc.session_registers import Suspects, count_sessions
from shared.db.device_kind import DeviceKind
from shared.db.engine import shielded
from shared.db.partitions import ENSURE
from shared.db.sealing import missing_days
from shared.db.verification_sql import HOURS, of_hours
from shared.errors import UnknownReading
from shared.power_limits import PowerLimits
from shared.timestamps import US_PER_DAY, US_PER_HOUR, datetime_from_us, us_from_datetime

CORRECTED = "corrected"
"""What `counting` says of a reading that an operator corrected."""

PARTITION_TRIES = 4
"""Each may find partitions missing of sealed days that it opens: of the reading's day, and of those further away."""

NEWEST = 2**63 - 1
"""The place before the newest correction."""


@dataclass(frozen=True, slots=True)
class CorrectionOrder:
    """This energy in kWh shall count of a device's reading; None: what was sent. A void reading's is 0."""

    kind: DeviceKind
    device_id: str
    ts_us: int
    kwh: float | None
    voided: bool
    author: str
    note: str


@dataclass(frozen=True, slots=True)
class Correction:
    """What an operator said of one reading; energy in kWh, times in microseconds. `sent_kwh` counts without it."""

    number: int
    device_kind: str
    device_id: str
    ts_us: int
    sent_kwh: float
    kwh_before: float
    kwh: float
    voided: bool
    author: str
    note: str
    corrected_us: int
    identity: str | None
    """Whose order it was. None: nobody knows."""

    @classmethod
    def of(cls, row: Row[Any]) -> Self:
        """From a row of all columns."""
        number, kind, device_id, ts, *said, corrected_at, identity = tuple(row)
        corrected_us = us_from_datetime(corrected_at)
        values: list[Any] = [number, kind, device_id, us_from_datetime(ts), *said, corrected_us, identity]
        return cls(*values)


@dataclass(frozen=True, slots=True)
class CorrectionsQuestion:
    """Which corrections: those of a device's readings (empty id: all), before a place, at most so many."""

    device_kind: str
    device_id: str
    before: int
    most: int


@shielded
async def correct_reading(
    engine: AsyncEngine, order: CorrectionOrder, limits: PowerLimits, identity: str
) -> Correction | None:
    """Makes an energy count, unless it does already. Returns the correction that says so, None where none ever did.

    `identity` is whose order it is. Raises UnknownReading.
    """
    for _ in range(PARTITION_TRIES):
        try:
            return await _correct(engine, order, limits, identity)
        except DBAPIError as error:
            days = missing_days(error.orig)
            if not days:
                raise
        for day in sorted(days):
            async with engine.begin() as connection:
                place = {"parent": order.kind.history, "day": datetime_from_us(day * US_PER_DAY).date()}
                await connection.exec_driver_sql(ENSURE, place)
    return await _correct(engine, order, limits, identity)


async def _correct(
    engine: AsyncEngine, order: CorrectionOrder, limits: PowerLimits, identity: str
) -> Correction | None:
    async with engine.begin() as connection:
        await connection.execute(LOCK_TABLES[order.kind])
        key = (await connection.execute(LOCK_DEVICE[order.kind], {"device_id": order.device_id})).scalar()
        place = {"device_key": key, "ts": datetime_from_us(order.ts_us)}
        sealed = SealedDays(order.kind.name, partial(_executed, connection))
        if key is not None:
            day = datetime_from_us(order.ts_us).date()
            await sealed.open([key], [day], [day])
        max_kw = limits.max_kw_of(order.kind.name, order.device_id)
        its_limits = {"max_kw": max_kw, "min_interval_s": limits.min_interval_s}
        found = (await connection.execute(FIND[order.kind], place | its_limits)).one_or_none()
        if found is None:
            raise UnknownReading(order.kind.name, order.device_id, order.ts_us)
        named = {"device_kind": order.kind.name, "device_id": order.device_id, "ts": place["ts"]}
        last = (await connection.execute(LAST, named)).one_or_none()
        before = None if last is None else Correction.of(last)
        voided_before = before is not None and before.voided
        stays = order.kwh == found.kwh if found.counting == CORRECTED else order.kwh is None
        if stays and order.voided == voided_before:
            return before
        reading = _Reading(connection, order.kind, place, max_kw, limits.min_interval_s, sealed)
        uncorrected = found.kwh, found.counting
        if found.counting == CORRECTED:
            await reading.count(found.uncorrected_kwh, found.uncorrected_counting, found.sent_kwh)
            uncorrected = await reading.counted()
        kwh, counting = uncorrected if order.kwh is None else (order.kwh, CORRECTED)
        if counting == CORRECTED:
            await reading.count(kwh, counting, found.sent_kwh)
        await reading.add_up()
        recorded = await connection.execute(
            RECORD,
            named
            | {"sent_kwh": uncorrected[0], "kwh_before": found.kwh, "kwh": kwh, "voided": order.voided}
            | {"author": order.author, "note": order.note, "identity": identity},
        )
        return Correction.of(recorded.one())


@shielded
async def list_corrections(engine: AsyncEngine, question: CorrectionsQuestion) -> tuple[list[Correction], bool]:
    """The corrections that are asked for, and whether there are more."""
    asked = {
        "device_kind": question.device_kind,
        "device_id": question.device_id,
        "before": question.before,
        "most": question.most + 1,
    }
    async with engine.connect() as connection:
        found = [Correction.of(row) for row in await connection.execute(LIST, asked)]
    return found[: question.most], len(found) > question.most


class _Reading:
    """A stored reading in a transaction that has locked its device."""

    def __init__(
        self,
        connection: AsyncConnection,
        kind: DeviceKind,
        place: dict[str, Any],
        max_kw: float,
        min_interval_s: float,
        sealed: SealedDays,
    ) -> None:
        self._connection = connection
        self._kind = kind
        self._place = place
        self._max_kw = max_kw
        self._min_interval_s = min_interval_s
        self._sealed = sealed
        self._anew: set[tuple[int, datetime]] = set()

    async def count(self, kwh: float, counting: str | None, sent_kwh: float | None) -> None:
        """Makes an energy count, and what follows from it of the readings near it."""
        values = {"kwh": kwh, "counting": counting, "sent_kwh": sent_kwh}
        await self._connection.execute(CHANGE_HISTORY[self._kind], self._place | values)
        await self._connection.execute(CHANGE_STATUS[self._kind], self._place | values)
        ts_us = us_from_datetime(self._place["ts"])
        self._anew.add((self._place["device_key"], datetime_from_us((ts_us - 1) // US_PER_HOUR * US_PER_HOUR)))
        suspect = Suspects(
            np.zeros(1, np.intp),
            np.array([self._place["device_key"]], np.int32),
            np.array([ts_us], np.int64),
            np.array([self._max_kw]),
        )
        execute = partial(_executed, self._connection)
        sessions = await count_sessions(execute, self._sealed, self._kind.name, suspect, self._min_interval_s)
        self._anew |= sessions.anew

    async def counted(self) -> tuple[float, str | None]:
        """The energy that counts, and why if it is not simply what was sent."""
        row = (await self._connection.execute(COUNTED[self._kind], self._place)).one()
        return row.kwh, row.counting

    async def add_up(self) -> None:
        """Adds the hours up anew in which something else counts now."""
        if not self._anew:
            return
        await self._sealed.open_of_hours(self._anew)
        hours, anew = HOURS[self._kind], of_hours(self._anew)
        for statement in (hours.remove, hours.add, hours.mark_hours):
            assert statement is not None
            await self._connection.exec_driver_sql(statement, anew)


async def _executed(connection: AsyncConnection, statement: str, parameters: dict[str, Any]) -> Sequence[Row[Any]]:
    return (await connection.exec_driver_sql(statement, parameters)).all()
