"""What readings say of their devices' clocks, collected in memory until `device_evidence` writes it down.

Fed from outcomes: a reading counts once it is stored, so that a resend is not late and nothing is counted of what was
never committed. Late means: stored after a newer reading of the same device that this process stored since it started.
To hold each reading against the database's current status would be exact, and dearer than all of this; so a device
that comes back through another process, or after a restart, has its first reading taken for timely. The counts are a
lower bound, the newest reading's age is exact. Device time itself is never rewritten.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import islice
from typing import NamedTuple

from ingestion_svc.readings import MeterRow, VehicleRow

DEVICES_MAX = 50_000
"""Devices of a kind that are remembered, about 200 bytes each: five times the fleet that one process is meant for."""


class EvidenceRow(NamedTuple):
    """What is to be added to a device's evidence. Of the newest reading None where only rejected ones came."""

    device_id: str
    newest_ts_us: int | None
    newest_age_us: int | None
    late_readings: int
    future_readings: int
    conflicting_readings: int


class DeviceClocks:
    """What was seen of one kind of device since the last flush, and each one's newest timestamp since the start.

    `add` is the statement that adds it to the database.
    """

    def __init__(self, add: str) -> None:
        self.add = add
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
