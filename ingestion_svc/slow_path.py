"""The slow path of a batch: its rows are staged, and what is new among them is stored.

The rows go by COPY into a temporary table. Then one statement inserts into history what is new there and, from the rows
that it really inserted, brings current status forward and adds to the hourly rollups. A resend can therefore never be
counted twice, whatever happened between COMMIT and the answer. What counts of a row depends on the reading before it,
so a late row changes what counts of the one after it: that follows in the same transaction.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Generic

import numpy as np
import psycopg
from numpy.typing import NDArray

from ingestion_svc.copy_format import Columns, Keys, Positions, staged_readings
from ingestion_svc.known_devices import NOT_KNOWN, KnownDevices
from ingestion_svc.readings import AnyRow, Values, Written
from ingestion_svc.rises import Merged, Newest, merge
from ingestion_svc.sealed_days import SealedDays
from ingestion_svc.session_registers import EVER, NO_SUSPECTS, Suspects
from ingestion_svc.writer_sql import Target
from shared.power_limits import PowerLimits
from shared.timestamps import US_PER_DAY, datetime_from_us

Flags = NDArray[np.bool_]

NEIGHBOUR_MAX_US = US_PER_DAY
"""How far from a batch's late rows the readings before and after them are looked for, before all days are looked at."""


@dataclass(frozen=True, slots=True)
class Merging:
    """What became of rows that went the slow path; nothing where none did."""

    written: Written = field(default_factory=Written)
    new_keys: dict[str, int] = field(default_factory=dict)
    """Of devices that were not known here, by id."""
    suspects: Suspects = NO_SUSPECTS
    newest: tuple[Positions, Newest] | None = None
    """Their devices' newest readings now, with the position of a row of each."""
    anew: set[tuple[int, datetime]] = field(default_factory=set)
    """The hours that have to be added up anew, after the keys of the devices whose they are."""


class SlowPath(Generic[AnyRow]):
    """Of one kind of reading, through connections whose sessions were opened for it."""

    def __init__(self, target: Target[AnyRow], devices: KnownDevices, limits: PowerLimits) -> None:
        self._target = target
        self._devices = devices
        self._limits = limits
        self._min_interval = {"min_interval_s": limits.min_interval_s}
        # Without parameters PostgreSQL plans it once: to plan it takes longer than to run it for a few rows.
        self._insert = target.insert % self._min_interval

    async def merge(
        self,
        rows: Sequence[AnyRow],
        columns: Columns,
        positions: Positions,
        old: Flags,
        sealed: SealedDays,
        cursor: psycopg.AsyncCursor[Any],
    ) -> Merging:
        """Stores rows, which have these positions in their batch; those that are `old` lie in days that may be
        sealed."""
        target = self._target
        keys, new_keys = await self._resolve(rows, columns.slots, cursor)
        devices, of_devices, device_of = np.unique(keys, return_index=True, return_inverse=True)
        merged = merge(await self._lock(devices, cursor), keys, columns.ts_us, columns.kwh)
        max_kw = np.array([self._limits.max_kw_of(target.device, rows[at][0]) for at in of_devices.tolist()])[device_of]
        async with cursor.copy(target.copy_to_staging) as copy:
            await copy.write(staged_readings(keys, columns, max_kw))
        if old.any():
            await sealed.open_of_rows(keys[old], columns.ts_us[old])
        followed = await self._find_neighbours(columns, merged, sealed, cursor)
        await cursor.execute(self._insert, prepare=True)
        [(inserted, missed, doubted)] = await cursor.fetchall()
        if len(merged.changed):
            changed = merged.newest.at(merged.changed)
            its = {"keys": changed.keys.tolist(), "rising_from_kwh": changed.from_kwh.tolist()}
            await cursor.execute(target.change_rises, its, prepare=False)
        anew = set[tuple[int, datetime]]()
        if followed is not None:
            for key, hour in await executed(cursor, target.count_anew, self._min_interval | followed):
                anew.add((key, hour))
        written = Written(doubted=sorted(doubted))
        if inserted < len(rows):
            stored = await self._find_stored(columns, missed, cursor) if missed else {}
            _compare(rows, set(missed), stored, written)
        suspected = merged.suspected
        suspected[[*written.duplicates, *written.conflicts, *written.refused]] = False
        suspects = Suspects(positions, keys, columns.ts_us, max_kw).at(np.flatnonzero(suspected))
        newest = positions[of_devices], merged.newest
        return Merging(written.of(positions.tolist()), new_keys, suspects, newest, anew)

    async def _lock(self, keys: Keys, cursor: psycopg.AsyncCursor[Any]) -> Newest:
        """Locks devices, whose keys ascend, and returns their newest readings."""
        target, its_keys = self._target, {"keys": keys.tolist()}
        await cursor.execute(target.lock_status, its_keys, prepare=True)
        if cursor.rowcount < len(keys):
            await cursor.execute(target.lock_new_devices, prepare=True)
            await cursor.execute(target.lock_status, its_keys, prepare=True)
        await cursor.execute(target.find_newest, its_keys, prepare=True)
        return Newest.of(keys, await cursor.fetchall())

    async def _find_neighbours(
        self, columns: Columns, merged: Merged, sealed: SealedDays, cursor: psycopg.AsyncCursor[Any]
    ) -> dict[str, datetime] | None:
        """Finds between which stored readings late rows belong.

        The first and the last timestamp of stored readings that now come after late rows; None where there are none.
        """
        target = self._target
        if not merged.late.any():
            return None
        near = {
            "first": datetime_from_us(int(columns.ts_us.min()) - NEIGHBOUR_MAX_US),
            "last": datetime_from_us(int(columns.ts_us.max()) + NEIGHBOUR_MAX_US),
        }
        [(beyond, first, last, keys, days)] = await executed(cursor, target.find_neighbours, near)
        if beyond:
            [(_, first, last, keys, days)] = await executed(cursor, target.find_neighbours, EVER)
        await sealed.open(keys, days, days)
        return None if first is None else {"first": first, "last": last}

    async def _resolve(
        self, rows: Sequence[AnyRow], slots: Positions, cursor: psycopg.AsyncCursor[Any]
    ) -> tuple[Keys, dict[str, int]]:
        """The devices' keys, and which of them were not known here; unknown devices are registered."""
        keys = self._devices.keys(slots)
        at_unknown = np.flatnonzero(slots == NOT_KNOWN).tolist()
        if not at_unknown:
            return keys, {}
        unknown = {rows[at][0] for at in at_unknown}
        new_keys = await find_devices(self._target, unknown, cursor)
        if len(new_keys) < len(unknown):
            await cursor.execute(self._target.add_devices, {"ids": list(unknown - new_keys.keys())})
            new_keys = await find_devices(self._target, unknown, cursor)
        keys[at_unknown] = [new_keys[rows[at][0]] for at in at_unknown]
        return keys, new_keys

    async def _find_stored(
        self, rows: Columns, missed: list[int], cursor: psycopg.AsyncCursor[Any]
    ) -> dict[int, Values]:
        """The values that were sent for the slots of the rows that history did not take."""
        times = rows.ts_us[missed]
        bounds = {"first": datetime_from_us(int(times.min())), "last": datetime_from_us(int(times.max()))}
        await cursor.execute(self._target.find_stored, {**bounds, "ordinals": missed}, prepare=False)
        return {
            ordinal: (None if register is not None else kwh if sent_kwh is None else sent_kwh, *others, register)
            for ordinal, sent_kwh, kwh, *others, register in await cursor.fetchall()
        }


async def find_devices(target: Target[Any], ids: set[str], cursor: psycopg.AsyncCursor[Any]) -> dict[str, int]:
    """The keys of those of some devices that are registered."""
    await cursor.execute(target.find_devices, {"ids": list(ids)})
    return dict(await cursor.fetchall())


async def executed(
    cursor: psycopg.AsyncCursor[Any], statement: str, parameters: dict[str, Any]
) -> Sequence[tuple[Any, ...]]:
    await cursor.execute(statement, parameters, prepare=False)
    return await cursor.fetchall()


def _compare(rows: Sequence[AnyRow], missed: set[int], stored: dict[int, Values], written: Written) -> None:
    """Tells duplicates from conflicts.

    A row is held against what history has in its slot: what was found there (`missed`, `stored`), or else the first
    row of the batch with its device and timestamp.
    """
    inserted: dict[tuple[str, int], int] = {}
    for position, row in enumerate(rows):
        if position in missed:
            values = stored.get(position)
        else:
            first = inserted.setdefault((row[0], row.ts_us), position)
            if first == position:
                continue
            values = rows[first][2:]
        if values is None:
            written.refused.append(position)  # its partition was dropped between two statements: older than the floor
        elif values == row[2:]:
            written.duplicates.append(position)
        else:
            written.conflicts.append(position)
            written.stored[position] = values
