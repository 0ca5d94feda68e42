"""What a writer remembers of its devices, so that it need not ask, and which rows it may try to append.

The newest reading of a device is a hint. Another process may have written since, so history's primary key decides in
the end: too low a hint costs a transaction that is rolled back, too high a one costs the careful way, neither an error.
"""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from operator import itemgetter

from ingestion_svc.writer_sql import AnyRow

DEVICE_KEYS_MAX = 100_000
"""Devices that a writer remembers, about 250 bytes each: ten times the fleet that one writer is meant for."""

APPEND_MIN_READINGS = 1_000
"""Below, what appending saves PostgreSQL is spent here: few readings share a device, and there are two more COPYs."""

PAUSE_MAX_BATCHES = 64
"""Batches without a try after appending failed again and again: a try in vain costs half a batch."""


class KnownDevices:
    """Keys and newest readings, both only of what was committed; who has a newest reading here has its key here."""

    def __init__(self) -> None:
        self.keys: dict[str, int] = {}
        self._newest_us: dict[str, int] = {}
        self._pause = 0
        self._next_pause = 1

    def ahead(self, rows: Sequence[AnyRow]) -> dict[str, list[AnyRow]]:
        """The rows of those devices of whom every row is newer than the one before and than all that is known.

        Nothing where appending so few would not pay, or has failed of late.
        """
        if self._pause:
            self._pause -= 1
            return {}
        if len(rows) < APPEND_MIN_READINGS:
            return {}
        by_device: defaultdict[str, list[AnyRow]] = defaultdict(list)
        for row in rows:
            by_device[row[0]].append(row)
        ahead: dict[str, list[AnyRow]] = {}
        readings = 0
        for device_id, its_rows in by_device.items():
            newest_us = self._newest_us.get(device_id)
            if newest_us is None:
                continue
            for row in its_rows:
                if row[1] <= newest_us:
                    break
                newest_us = row[1]
            else:
                ahead[device_id] = its_rows
                readings += len(its_rows)
        return ahead if readings >= APPEND_MIN_READINGS else {}

    def with_keys(self, ahead: dict[str, list[AnyRow]]) -> list[tuple[int, list[AnyRow]]]:
        """What `ahead` gave, by key and in the order of the keys: that of the indexes, and the same for all writers."""
        keys = self.keys
        return sorted(((keys[device_id], rows) for device_id, rows in ahead.items()), key=itemgetter(0))

    def learn(
        self,
        new_keys: dict[str, int],
        appended: dict[str, list[AnyRow]],
        merged: Sequence[AnyRow],
        not_inserted: Iterable[int],
    ) -> None:
        """Remembers what a transaction committed: the devices that were new here, the rows that it appended, and those
        that it took the careful way, of which history did not take the ones at some positions.

        Of their devices history knew more than we did, because another process writes them or they send a past again.
        The newest of such a device is forgotten until it comes with nothing but new rows.
        """
        if len(self.keys) + len(new_keys) > DEVICE_KEYS_MAX:
            self.keys.clear()  # rare, and cheaper than keeping an order
            self._newest_us.clear()
        self.keys |= new_keys
        keys, newest_us = self.keys, self._newest_us
        for device_id, rows in appended.items():
            if device_id in keys:
                newest_us[device_id] = rows[-1][1]
        for device_id, ts_us, *_ in merged:
            if device_id in keys and ts_us > newest_us.get(device_id, 0):
                newest_us[device_id] = ts_us
        for position in not_inserted:
            newest_us.pop(merged[position][0], None)
        if appended:
            self._next_pause = 1

    def hold_off(self) -> None:
        """Appending failed: no try for a batch, then for two, for four ..., until it succeeds again."""
        self._pause = self._next_pause
        self._next_pause = min(2 * self._next_pause, PAUSE_MAX_BATCHES)
