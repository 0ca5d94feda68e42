"""What counts of readings' energy, by the reading before each of them in time.

The rule is that of the schema's functions `plausible_kwh`, `counting_of` and `counted_kwh`, to the last bit.
"""

from dataclasses import dataclass

import numpy as np

from ingestion_svc.copy_format import Columns, Floats, Times
from shared.config import POWER_MAX_KW, POWER_MIN_INTERVAL_S


@dataclass(frozen=True, slots=True)
class PowerLimit:
    """What a reading's power may be: its energy over the time since the reading before it, at least so long."""

    max_kw: float = POWER_MAX_KW
    min_interval_s: float = POWER_MIN_INTERVAL_S


def simply_counted(rows: Columns, before_us: Times, before_register: Floats, limit: PowerLimit) -> Floats:
    """The energy in kWh of each row that counts as sent, or with the rise of its register; NaN of all others.

    `before_us` and `before_register` are of the reading before each row; NaN where that has no register.
    """
    plausible = limit.max_kw * np.maximum((rows.ts_us - before_us) / 1e6, limit.min_interval_s) / 3600
    with np.errstate(invalid="ignore"):
        rise = rows.register - before_register
        kwh = np.where(np.isnan(rows.kwh), np.where(rise >= 0, rise, np.nan), rows.kwh)
        return np.where(np.abs(kwh) <= plausible, kwh, np.nan)
