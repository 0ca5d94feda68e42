"""Devices whose energies rise and rise, as those of a device that sends its session's register as each interval's.

What is known of the newest reading of each is enough to suspect it; history decides, see
`shared.db.session_registers_sql`.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ingestion_svc.copy_format import Floats, Keys, Positions, Times
from shared.db.session_registers_sql import RISE_FACTOR


class Rising(NamedTuple):
    """Of rows of several devices: which are of one that is suspected, and of each device what it has risen from."""

    suspected: NDArray[np.bool_]
    from_kwh: Floats


def rise(first: Positions, kwh: Floats, before_kwh: Floats, before_from_kwh: Floats) -> Rising:
    """How the energies of devices rise: where the rows of each begin, which follow one another in time, the energy of
    each as it was sent, and for each device the energy of the reading before and what it had risen from until then.

    What a device has risen from is no more than the first of the readings that led to its newest without a fall. NaN is
    the energy of a reading that has a register, and of none.
    """
    counts = np.diff(first, append=len(kwh))
    before = np.roll(kwh, 1)
    before[first] = before_kwh
    with np.errstate(invalid="ignore"):
        goes_on = (before > 0) & (kwh >= before)
        begins = ~goes_on
        begins[first] = True
        begin = np.maximum.accumulate(np.where(begins, np.arange(len(kwh)), 0))
        from_kwh = np.where(goes_on[begin], np.repeat(before_from_kwh, counts), kwh[begin])
        suspected = goes_on & (kwh >= RISE_FACTOR * from_kwh)
        # As long as that suspects nobody it stays, since to change it may cost an update.
        last = np.append(first[1:], len(kwh)) - 1
        stays = ~(kwh[last] > 0) | ((before_from_kwh <= from_kwh[last]) & (kwh[last] < RISE_FACTOR * before_from_kwh))
    return Rising(
        np.repeat(np.logical_or.reduceat(suspected, first), counts), np.where(stays, before_from_kwh, from_kwh[last])
    )


class Newest(NamedTuple):
    """The newest readings of some devices by their keys, which ascend: microseconds, 0 where there is none, the energy
    as it was sent, and the one that it has risen from."""

    keys: Keys
    ts_us: Times
    kwh: Floats
    from_kwh: Floats

    @classmethod
    def of(cls, keys: Keys, rows: Sequence[tuple[int, int, float | None, float | None]]) -> "Newest":
        """From rows of these values, of those devices that have a reading."""
        newest = cls(keys, np.zeros(len(keys), np.int64), np.full(len(keys), np.nan), np.full(len(keys), np.nan))
        if rows:
            found, ts_us, kwh, from_kwh = zip(*rows, strict=True)
            at = np.searchsorted(keys, np.array(found, np.int32))
            newest.ts_us[at] = ts_us
            newest.kwh[at] = np.array(kwh, np.float64)  # None is NaN
            newest.from_kwh[at] = np.array(from_kwh, np.float64)
        return newest

    def at(self, places: Positions) -> "Newest":
        return Newest(self.keys[places], self.ts_us[places], self.kwh[places], self.from_kwh[places])


class Merged(NamedTuple):
    """What rows change of their devices' newest readings, and which of them come late or near a rise."""

    newest: Newest
    late: NDArray[np.bool_]
    suspected: NDArray[np.bool_]
    """All rows of a device that is suspected, or has a late one."""
    changed: Positions
    """The devices, by their places among `newest`, that have risen from something else now; of new ones, than from
    their newest energy."""


def merge(before: Newest, keys: Keys, ts_us: Times, kwh: Floats) -> Merged:
    """Rows in any order, some perhaps twice, with energies as they were sent; NaN is a register."""
    device = np.searchsorted(before.keys, keys)
    late = ts_us <= before.ts_us[device]
    newest = before.at(np.arange(len(before.keys)))
    may_begin = np.flatnonzero(late & (kwh > 0))
    with np.errstate(invalid="ignore"):
        np.minimum.at(newest.from_kwh, device[may_begin], kwh[may_begin])
    suspected = late.copy()
    order = np.flatnonzero(~late)
    if len(order):
        order = order[np.lexsort((order, ts_us[order], keys[order]))]
        again = (np.diff(keys[order], prepend=-1) == 0) & (np.diff(ts_us[order], prepend=-1) == 0)
        order = order[~again]
        first = np.flatnonzero(np.diff(keys[order], prepend=-1))
        its = device[order[first]]
        rising = rise(first, kwh[order], before.kwh[its], newest.from_kwh[its])
        suspected[order] = rising.suspected
        last = np.append(first[1:], len(order)) - 1
        newest.ts_us[its] = ts_us[order[last]]
        newest.kwh[its] = kwh[order[last]]
        newest.from_kwh[its] = rising.from_kwh
    stored_from_kwh = np.where((before.ts_us == 0) & (newest.kwh > 0), newest.kwh, before.from_kwh)
    changed = np.flatnonzero((newest.from_kwh != stored_from_kwh) & ~np.isnan(newest.from_kwh))
    return Merged(newest, late, np.isin(keys, keys[suspected]), changed)
