"""Devices whose energies rise and rise, as those of a device that sends its session's register as each interval's.

What is remembered of each is enough to suspect it; history decides, see `shared.db.session_registers_sql`.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ingestion_svc.copy_format import Floats, Positions
from shared.db.session_registers_sql import RISE_FACTOR, RISE_READINGS

_STEPS = RISE_READINGS - 1


class Rising(NamedTuple):
    """Of rows of several devices: which are of a device that is suspected, and of the last one of each device (`last`)
    what Rises keeps."""

    suspected: NDArray[np.bool_]
    last: Positions
    kwh: Floats
    first_kwh: Floats
    steps: NDArray[np.int32]


class Rises:
    """By slot: the newest energy as it was sent, and of the readings up to it without a fall how many steps there are,
    and the first energy. Where nothing is known, whatever does not fall is suspected."""

    def __init__(self, slots: int) -> None:
        self._kwh = np.zeros(slots)
        self._first_kwh = np.zeros(slots)
        self._steps = np.zeros(slots, np.int32)

    def after(self, slots: Positions, first: Positions, kwh: Floats) -> Rising:
        """Rows of several devices, each of whose rows follow one another, and where those of each begin.

        The energy is NaN where a reading has a register of its own.
        """
        before = np.roll(kwh, 1)
        before[first] = self._kwh[slots[first]]
        with np.errstate(invalid="ignore"):
            broken = ~((before > 0) & (kwh >= before))
        at = np.arange(len(kwh))
        begins = broken.copy()
        begins[first] = True
        start = np.maximum.accumulate(np.where(begins, at, 0))
        carried = ~broken[start]
        first_kwh = np.where(carried, self._first_kwh[slots], kwh[start])
        steps = at - start + np.where(carried, self._steps[slots] + 1, 0)
        with np.errstate(invalid="ignore"):
            suspected = ~broken & (steps >= _STEPS) & (kwh >= RISE_FACTOR * first_kwh)
        of_suspected = np.repeat(np.logical_or.reduceat(suspected, first), np.diff(first, append=len(kwh)))
        last = np.append(first[1:], len(kwh)) - 1
        return Rising(of_suspected, last, kwh[last], first_kwh[last], steps[last].astype(np.int32))

    def forget(self, slots: Positions) -> None:
        self.learn(slots, np.full(len(slots), np.nextafter(0, 1)), np.zeros(len(slots)))

    def learn(self, slots: Positions, kwh: Floats, first_kwh: Floats, steps: NDArray[np.int32] | int = _STEPS) -> None:
        """Remembers the newest energy of some devices, and those before it that matter."""
        self._kwh[slots] = np.nan_to_num(kwh)
        self._first_kwh[slots] = first_kwh
        self._steps[slots] = np.minimum(steps, _STEPS)
