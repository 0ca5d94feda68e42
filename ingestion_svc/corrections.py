"""What counts of a stored reading's energy, where an operator says that it is not what was sent.

History's energy is what counts, and `sent_kwh` what was sent where that differs; `counting` says that it was corrected,
and no other reading that comes later changes it. Status and the rollup of the reading's
hour follow in the same transaction; the rollup is added up anew from history, by the statements of `verify --repair`.
"""

from dataclasses import dataclass
from typing import Any, Self

from sqlalchemy import Row
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from ingestion_svc.corrections_sql import (
    CHANGE_HISTORY,
    CHANGE_STATUS,
    FIND,
    LAST,
    LIST,
    LOCK_DEVICE,
    LOCK_TABLES,
    RECORD,
)
from shared.db.device_kind import DeviceKind
from shared.db.engine import shielded
from shared.db.verification_sql import HOURS
from shared.errors import UnknownReading
from shared.power_limits import PowerLimits
from shared.timestamps import US_PER_HOUR, datetime_from_us, us_from_datetime

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

    @classmethod
    def of(cls, row: Row[Any]) -> Self:
        """From a row of all columns."""
        number, kind, device_id, ts, *said, corrected_at = tuple(row)
        values: list[Any] = [number, kind, device_id, us_from_datetime(ts), *said, us_from_datetime(corrected_at)]
        return cls(*values)


@dataclass(frozen=True, slots=True)
class CorrectionsQuestion:
    """Which corrections: those of a device's readings (empty id: all), before a place, at most so many."""

    device_kind: str
    device_id: str
    before: int
    most: int


@shielded
async def correct_reading(engine: AsyncEngine, order: CorrectionOrder, limits: PowerLimits) -> Correction | None:
    """Makes an energy count, unless it does already. Returns the correction that says so, None where none ever did.

    Raises UnknownReading.
    """
    async with engine.begin() as connection:
        await connection.execute(LOCK_TABLES[order.kind])
        key = (await connection.execute(LOCK_DEVICE[order.kind], {"device_id": order.device_id})).scalar()
        reading = {"device_key": key, "ts": datetime_from_us(order.ts_us)}
        max_kw = limits.max_kw_of(order.kind.name, order.device_id)
        its_limits = {"max_kw": max_kw, "min_interval_s": limits.min_interval_s}
        found = (await connection.execute(FIND[order.kind], reading | its_limits)).one_or_none()
        if found is None:
            raise UnknownReading(order.kind.name, order.device_id, order.ts_us)
        named = {"device_kind": order.kind.name, "device_id": order.device_id, "ts": reading["ts"]}
        last = (await connection.execute(LAST, named)).one_or_none()
        before = None if last is None else Correction.of(last)
        if order.kwh is None:
            kwh, counting = found.uncorrected_kwh, found.uncorrected_counting
        else:
            kwh, counting = order.kwh, "corrected"
        voided_before = before is not None and before.voided
        if (kwh, counting, order.voided) == (found.kwh, found.counting, voided_before):
            return before
        await _count(connection, order.kind, reading, kwh, {"counting": counting, "sent_kwh": found.sent_kwh})
        recorded = await connection.execute(
            RECORD,
            named
            | {"sent_kwh": found.uncorrected_kwh, "kwh_before": found.kwh, "kwh": kwh, "voided": order.voided}
            | {"author": order.author, "note": order.note},
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


async def _count(
    connection: AsyncConnection, kind: DeviceKind, reading: dict[str, Any], kwh: float, sent: dict[str, Any]
) -> None:
    await connection.execute(CHANGE_HISTORY[kind], reading | sent | {"kwh": kwh})
    await connection.execute(CHANGE_STATUS[kind], reading | {"kwh": kwh})
    hour_us = (us_from_datetime(reading["ts"]) - 1) // US_PER_HOUR * US_PER_HOUR
    hour = {
        "keys": [reading["device_key"]],
        "hour": datetime_from_us(hour_us),
        "next_hour": datetime_from_us(hour_us + US_PER_HOUR),
    }
    hours = HOURS[kind]
    assert hours.mark_hours is not None
    await connection.exec_driver_sql(hours.remove, hour)
    await connection.exec_driver_sql(hours.add, hour)
    await connection.exec_driver_sql(hours.mark_hours, {"hours": [hour["hour"]]})
