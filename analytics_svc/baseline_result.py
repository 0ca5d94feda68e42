"""What is normal for vehicles, and how they differ from it."""

from typing import NamedTuple

import numpy as np

from analytics_svc.charging import Flags, Numbers


class Baseline(NamedTuple):
    """What is normal for one vehicle. None means absent, never 0."""

    ratio: float | None = None
    change: float | None = None
    """What is compared, less that."""
    dropped: bool = False
    """By so much that it is worth saying, whatever the bounds."""


NO_BASELINE = Baseline()


class Baselines(NamedTuple):
    """Of vehicles; `[vehicles]`."""

    ratio: Numbers
    """NaN where nobody can say, here and below."""
    change: Numbers
    dropped: Flags

    def at(self, position: int) -> Baseline:
        ratio, change = self.ratio.item(position), self.change.item(position)
        return Baseline(
            None if np.isnan(ratio) else ratio, None if np.isnan(change) else change, bool(self.dropped[position])
        )
