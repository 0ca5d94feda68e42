"""What counts of readings' energy, by the reading before each of them in time.

The rule is that of the schema's functions `plausible_kwh`, `counting_of` and `counted_kwh`, to the last bit.
"""

import numpy as np

from ingestion_svc.copy_format import Columns, Floats, Times


def simply_counted(
    rows: Columns, before_us: Times, before_register: Floats, max_kw: Floats, min_interval_s: float
) -> Floats:
    """The energy in kWh of each row that counts as sent, or with the rise of its register; NaN of all others.

    `before_us` and `before_register` are of the reading before each row; NaN where that has no register. `max_kw` and
    `min_interval_s` are as in `shared.power_limits.PowerLimits`.
    """
    plausible = max_kw * np.maximum((rows.ts_us - before_us) / 1e6, min_interval_s) / 3600
    with np.errstate(invalid="ignore"):
        rise = rows.register - before_register
        kwh = np.where(np.isnan(rows.kwh), np.where(rise >= 0, rise, np.nan), rows.kwh)
        return np.where(np.abs(kwh) <= plausible, kwh, np.nan)
