"""What a writer remembers of its devices, so that it need not ask, and which rows it may try to append.

The newest reading of a device is a hint. Another process may have written since, so history's primary key decides in
the end: too low a hint costs a transaction that is rolled back, too high a one costs the slow path, neither an error.
"""

from collections.abc import Sequence
from itertools import islice, repeat
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ingestion_svc.copy_format import Columns, Floats, Keys, Positions, Times
from ingestion_svc.counting import simply_counted
from ingestion_svc.rises import Newest, rise
from shared.power_limits import PowerLimits

DEVICE_KEYS_MAX = 100_000
"""Devices that a writer remembers, about 150 bytes each: ten times the fleet that one writer is meant for."""

APPEND_MIN_READINGS = 1_000
"""Below, what appending saves PostgreSQL is spent here: few readings share a device, and there are two more COPYs."""

PAUSE_MAX_BATCHES = 64
"""Batches without a try after appending failed again and again: a try in vain costs half a batch."""

NOT_KNOWN = -1
"""The slot of a device that is not remembered."""


class Appendable(NamedTuple):
    """Rows that may be appended: where they are in their batch, what counts of each in kWh, whether its device is
    suspected, what that has risen from then, and of its newest reading before the timestamp and what it had risen
    from."""

    positions: Positions
    kwh: Floats
    suspected: NDArray[np.bool_]
    from_kwh: Floats
    previous_us: Times
    previous_from_kwh: Floats


_NONE = np.empty(0)
NOTHING = Appendable(np.empty(0, np.intp), _NONE, np.empty(0, np.bool_), _NONE, np.empty(0, np.int64), _NONE)


class KnownDevices:
    """Keys and newest readings, both only of what was committed."""

    def __init__(self, kind: str, limits: PowerLimits) -> None:
        self._kind = kind
        self._limits = limits
        self._slots: dict[str, int] = {}
        # By slot:
        self._keys = np.zeros(DEVICE_KEYS_MAX, np.int32)
        self._high_water_us = np.zeros(DEVICE_KEYS_MAX, np.int64)  # 0 where nothing is known
        self._high_water_register = np.full(DEVICE_KEYS_MAX, np.nan)  # of the same reading
        self._max_kw = np.zeros(DEVICE_KEYS_MAX)
        self._high_water_kwh = np.full(DEVICE_KEYS_MAX, np.nan)  # of the same reading, as it was sent
        self._rising_from_kwh = np.full(DEVICE_KEYS_MAX, np.nan)
        self._pause = 0
        self._next_pause = 1

    def __len__(self) -> int:
        return len(self._slots)

    def slots(self, ids: Sequence[str]) -> Positions:
        """Where each of some devices is remembered; NOT_KNOWN."""
        return np.fromiter(map(self._slots.get, ids, repeat(NOT_KNOWN)), np.intp, len(ids))

    def keys(self, slots: Positions) -> Keys:
        """The database's keys of remembered devices; anything for NOT_KNOWN."""
        return self._keys[slots]

    def limits_kw(self, slots: Positions) -> Floats:
        """What the power of remembered devices' readings may be."""
        return self._max_kw[slots]

    def appendable(self, rows: Columns, sealed_before_us: int = 0) -> Appendable:
        """The rows of those devices of whom each is newer than the one before and than all that is known, lies in a day
        that is not sealed, and counts as it was sent or with the rise of its register.

        By the devices' keys (the order of the indexes, and the same for all writers), and of a device as they came.
        Nothing where appending so few would not pay, or has failed of late.
        """
        if self._pause:
            self._pause -= 1
            return NOTHING
        if len(rows) < APPEND_MIN_READINGS:
            return NOTHING
        positions = np.flatnonzero(rows.slots != NOT_KNOWN)
        positions = positions[np.argsort(self._keys[rows.slots[positions]], kind="stable")]
        known = rows.at(positions)
        first = np.flatnonzero(np.diff(known.slots, prepend=NOT_KNOWN))
        before_us, before_register = np.roll(known.ts_us, 1), np.roll(known.register, 1)
        before_us[first] = self._high_water_us[known.slots[first]]
        before_register[first] = self._high_water_register[known.slots[first]]
        kwh = simply_counted(known, before_us, before_register, self._max_kw[known.slots], self._limits.min_interval_s)
        goes_on = (before_us > 0) & (before_us < known.ts_us) & (known.ts_us >= sealed_before_us) & ~np.isnan(kwh)
        kept = np.repeat(np.logical_and.reduceat(goes_on, first), np.diff(first, append=len(positions)))
        if np.count_nonzero(kept) < APPEND_MIN_READINGS:
            return NOTHING
        slots = known.slots[kept]
        first = np.flatnonzero(np.diff(slots, prepend=NOT_KNOWN))
        its = slots[first]
        rising = rise(first, known.kwh[kept], self._high_water_kwh[its], self._rising_from_kwh[its])
        from_kwh = np.repeat(rising.from_kwh, np.diff(first, append=len(slots)))
        before_us, before_from_kwh = self._high_water_us[slots], self._rising_from_kwh[slots]
        return Appendable(positions[kept], kwh[kept], rising.suspected, from_kwh, before_us, before_from_kwh)

    def remember(self, new_keys: dict[str, int]) -> None:
        """Remembers the keys of devices that a transaction committed. Whoever has slots must ask for them anew."""
        if len(self) + len(new_keys) > DEVICE_KEYS_MAX:
            self._slots.clear()  # rare, and cheaper than keeping an order
        for device_id, key in islice(new_keys.items(), DEVICE_KEYS_MAX):
            slot = self._slots.setdefault(device_id, len(self))
            self._keys[slot] = key
            self._high_water_us[slot] = 0
            self._max_kw[slot] = self._limits.max_kw_of(self._kind, device_id)

    def learn(
        self,
        slots: Positions,
        rows: Columns,
        not_inserted: Sequence[int],
        appended: Appendable,
        merged: tuple[Positions, Newest] | None,
    ) -> None:
        """Remembers the rows that a transaction committed, of which history did not take the ones at some positions;
        some of them were appended, and of the devices of others `merged` has the newest, with a row of each.

        Of the devices of those history knew more than we did, because another process writes them or they send a past
        again. The newest of such a device is forgotten until it comes with nothing but new rows.
        """
        remembered = slots != NOT_KNOWN
        slots_of, ts_us = slots[remembered], rows.ts_us[remembered]
        np.maximum.at(self._high_water_us, slots_of, ts_us)
        newest = ts_us == self._high_water_us[slots_of]
        self._high_water_register[slots_of[newest]] = rows.register[remembered][newest]
        unsure = slots[np.asarray(not_inserted, np.intp)]
        self._high_water_us[unsure[unsure != NOT_KNOWN]] = 0
        if len(appended.positions):
            self._next_pause = 1
            last = np.flatnonzero(np.diff(slots[appended.positions], append=NOT_KNOWN))
            at = appended.positions[last]
            self._learn_rises(slots[at], rows.kwh[at], appended.from_kwh[last])
        if merged is not None:
            at, of_devices = merged
            self._learn_rises(slots[at], of_devices.kwh, of_devices.from_kwh)

    def _learn_rises(self, slots: Positions, kwh: Floats, from_kwh: Floats) -> None:
        known = slots != NOT_KNOWN
        self._high_water_kwh[slots[known]] = kwh[known]
        self._rising_from_kwh[slots[known]] = from_kwh[known]

    def hold_off(self) -> None:
        """Appending failed: no try for a batch, then for two, for four ..., until it succeeds again."""
        self._pause = self._next_pause
        self._next_pause = min(2 * self._next_pause, PAUSE_MAX_BATCHES)
