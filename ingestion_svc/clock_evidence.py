"""What readings say of their devices' clocks: collected in memory, added to the database every ten seconds or so.

Fed from outcomes: a reading counts once it is stored, so that a resend is not late and nothing is counted of what was
never committed. Late means: stored after a newer reading of the same device that this process stored since it started.
To hold each reading against the database's current status would be exact, and dearer than all of this; so a device
that comes back through another process, or after a restart, has its first reading taken for timely. The counts are a
lower bound, the newest reading's age is exact. Device time itself is never rewritten.
"""

import asyncio
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from typing import Any, NamedTuple

import psycopg
import structlog
from psycopg import AsyncConnection

from ingestion_svc.readings import Decoded, MeterRow, VehicleRow, Written
from ingestion_svc.upkeep_sql import ADD_METER_EVIDENCE, ADD_VEHICLE_EVIDENCE
from shared.background import BackgroundLoop

_log = structlog.get_logger()

FLUSH_INTERVAL_S = 10.0
"""What a person who watches a device waits for at most; a tenth of it would cost as much as the readings themselves."""

DEVICES_MAX = 50_000
"""Devices of a kind that are remembered, about 200 bytes each: five times the fleet that one process is meant for."""

CHUNK_DEVICES = 100
"""Devices in one statement: taking and packing them holds the event loop up for a millisecond or two."""

FLUSH_COOLDOWN = 4
"""Times as long as a statement took, a flush rests after it, or live readings would wait behind the evidence of 10,000
devices: so that takes some seconds, and a fifth of one connection's time."""

FLUSH_COOLDOWN_MAX_S = 1.0
"""After a statement that an outage or a lock held up."""

CHUNK_TIMEOUT_S = 10.0
"""A database that takes longer to connect, or for a statement, gets the rest with the next flush."""


class EvidenceRow(NamedTuple):
    """What is to be added to a device's evidence. Of the newest reading None where only rejected ones came."""

    device_id: str
    newest_ts_us: int | None
    newest_age_us: int | None
    late_readings: int
    future_readings: int
    conflicting_readings: int


class DeviceClocks:
    """What was seen of one kind of device since the last flush, and each one's newest timestamp since the start."""

    def __init__(self) -> None:
        self.not_kept = 0
        """Readings that were not counted for want of room."""
        self._newest_us: dict[str, int] = {}
        self._arrived_us: dict[str, int] = {}
        self.late, self.future, self.conflicting = (Counter[str]() for _ in range(3))

    def __bool__(self) -> bool:
        return bool(self._arrived_us or self.late or self.future or self.conflicting)

    def stored(self, rows: Sequence[MeterRow] | Sequence[VehicleRow], arrived_us: int) -> None:
        """Takes in readings that were stored, in the order of their coming."""
        newest_us, arrived = self._newest_us, self._arrived_us
        for row in rows:
            device_id, ts_us = row[0], row[1]
            if ts_us > newest_us.get(device_id, -1):
                newest_us[device_id] = ts_us
                arrived[device_id] = arrived_us
            else:
                self.late[device_id] += 1
        if len(newest_us) > DEVICES_MAX or len(self.late) > DEVICES_MAX:
            self._forget()

    def count(self, counts: Counter[str], device_ids: Sequence[str]) -> None:
        """Counts a reading of each device named. Anybody can name devices: hence the bound."""
        for device_id in device_ids:
            if device_id in counts or len(counts) < DEVICES_MAX:
                counts[device_id] += 1
            else:
                self.not_kept += 1

    def take(self, most: int) -> Iterator[list[EvidenceRow]]:
        """What is collected now, a row for each device, in lists of at most so many; each is taken out when asked for.

        What comes meanwhile of a device that was taken out already is left for the next time.
        """
        for devices in (self._arrived_us, self.late, self.future, self.conflicting):
            left = len(devices)
            while left > 0 and devices:
                chunk = list(islice(devices, min(most, left)))
                left -= len(chunk)
                yield [self._take_out(device_id) for device_id in chunk]

    def _take_out(self, device_id: str) -> EvidenceRow:
        """A device's row; begins anew but for its newest timestamp."""
        arrived_us = self._arrived_us.pop(device_id, None)
        newest_us = None if arrived_us is None else self._newest_us[device_id]
        return EvidenceRow(
            device_id,
            newest_us,
            None if arrived_us is None or newest_us is None else arrived_us - newest_us,
            self.late.pop(device_id, 0),
            self.future.pop(device_id, 0),
            self.conflicting.pop(device_id, 0),
        )

    def put_back(self, rows: Sequence[EvidenceRow]) -> None:
        """Takes in again what was not written down."""
        for row in rows:
            ts_us, age_us = row.newest_ts_us, row.newest_age_us
            # Unless a newer one has come meanwhile.
            if ts_us is not None and age_us is not None and self._newest_us.get(row.device_id, -1) <= ts_us:
                self._newest_us[row.device_id] = ts_us
                self._arrived_us[row.device_id] = ts_us + age_us
            for counts, more in (
                (self.late, row.late_readings),
                (self.future, row.future_readings),
                (self.conflicting, row.conflicting_readings),
            ):
                if more:
                    counts[row.device_id] += more

    def _forget(self) -> None:
        """Makes room: forgets the newest timestamps of devices of which all is written down, or else all."""
        self._newest_us = {device_id: self._newest_us[device_id] for device_id in self._arrived_us}
        if len(self._newest_us) > DEVICES_MAX // 2 or len(self.late) > DEVICES_MAX // 2:
            self.not_kept += len(self._arrived_us) + self.late.total()
            for each in (self._newest_us, self._arrived_us, self.late):
                each.clear()


class ClockEvidence(BackgroundLoop):
    """Collects the evidence of both kinds of device and adds it to the database, in the background and at the end."""

    def __init__(self, parameters: Mapping[str, Any], *, interval_s: float = FLUSH_INTERVAL_S) -> None:
        self._parameters = dict(parameters)
        self._meters = DeviceClocks()
        self._vehicles = DeviceClocks()
        super().__init__("clock_evidence", self.flush, interval_s, jittered=True, last_round=True)

    def rejected(self, decoded: Decoded) -> None:
        """Takes in what a message had of readings in the future."""
        for rejection in decoded.rejections:
            if rejection.reason.is_future:
                clocks = self._meters if rejection.field.startswith("meter.") else self._vehicles
                clocks.count(clocks.future, [rejection.device_id])

    def resolved(self, rows: Sequence[MeterRow] | Sequence[VehicleRow], written: Written, arrived_us: int) -> None:
        """Takes in the outcome of rows of one kind that arrived together, in the order of their coming."""
        clocks = self._meters if isinstance(rows[0], MeterRow) else self._vehicles
        if written.conflicts:
            clocks.count(clocks.conflicting, [rows[at][0] for at in written.conflicts])
        if written.duplicates or written.conflicts or written.refused:
            rows = _stored(rows, written)
        clocks.stored(rows, arrived_us)

    async def flush(self) -> None:
        """Writes down what was collected, throttled between statements unless it closes.

        Raises the driver's errors. What surely failed stays for the next time. Where the connection broke in the middle
        nobody knows, and that chunk is not repeated: evidence may be missing, but is never counted twice.
        """
        self._log_not_kept()
        if not self._meters and not self._vehicles:
            return
        async with asyncio.timeout(CHUNK_TIMEOUT_S):
            connection = await AsyncConnection.connect(**self._parameters, autocommit=True)
        async with connection:
            for clocks, add in ((self._meters, ADD_METER_EVIDENCE), (self._vehicles, ADD_VEHICLE_EVIDENCE)):
                for rows in clocks.take(CHUNK_DEVICES):
                    began = time.monotonic()
                    await _write(connection, clocks, rows, add)
                    cooldown_s = FLUSH_COOLDOWN * (time.monotonic() - began)
                    await self.closes_within(min(cooldown_s, FLUSH_COOLDOWN_MAX_S))

    def _log_not_kept(self) -> None:
        not_kept = self._meters.not_kept + self._vehicles.not_kept
        if not_kept:
            _log.warning("clock_evidence_not_kept", readings=not_kept)
            self._meters.not_kept = self._vehicles.not_kept = 0


async def _write(connection: AsyncConnection[Any], clocks: DeviceClocks, rows: list[EvidenceRow], add: str) -> None:
    """Commits rows of devices, each named once, and puts them back where the database refused them.

    Leaves out who is not registered. A newest reading counts where it is newer than the one already written down. The
    connection commits by itself, before anything else is added: otherwise two processes could deadlock.
    """
    ids, newest, ages, late, future, conflicting = (list(column) for column in zip(*rows, strict=True))
    columns = {"ids": ids, "newest": newest, "ages": ages, "late": late, "future": future, "conflicting": conflicting}
    try:
        async with asyncio.timeout(CHUNK_TIMEOUT_S):
            await connection.execute(add, columns)
    except psycopg.Error as error:
        if error.sqlstate is not None:
            clocks.put_back(rows)
        raise


def _stored(rows: Sequence[Any], written: Written) -> list[Any]:
    others = {*written.duplicates, *written.conflicts, *written.refused}
    return [row for at, row in enumerate(rows) if at not in others]
