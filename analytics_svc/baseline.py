"""What is normal for vehicles, and whether they have dropped below it. Pure, for many vehicles at a time."""

import numpy as np

from analytics_svc.baseline_charges import Sums
from analytics_svc.baseline_result import Baselines
from analytics_svc.performance import RELATIVE_TOLERANCE, Judgement, Thresholds, VerdictReason, ratio_bounds
from analytics_svc.totals import FleetTotals

_BELIEVED = [VerdictReason.HEALTHY.number, VerdictReason.BELOW_LIMIT.number]
"""Reasons beside which a drop is told."""


def baselines(sums: Sums, found: FleetTotals, judgement: Judgement, thresholds: Thresholds) -> Baselines:
    """What is normal for vehicles, and how what is compared of them differs from it."""
    dc, ac, returned_dc, returned_ac = sums
    share = thresholds.returned_max_share * (1 + RELATIVE_TOLERANCE)
    much = (returned_dc > share * dc) | (returned_ac > share * ac)
    dc, net_ac = np.where(much, dc, dc - returned_dc), np.where(much, ac, ac - returned_ac)
    enough = (ac >= thresholds.baseline_min_kwh * (1 - RELATIVE_TOLERANCE)) & (net_ac > 0)
    ratio = np.where(enough, dc, np.nan) / np.where(enough, net_ac, 1.0)
    change = judgement.ratio - ratio
    dropped = change <= -thresholds.ratio_drop_min * (1 - RELATIVE_TOLERANCE)
    if np.count_nonzero(dropped):
        dropped &= np.isin(judgement.reasons, _BELIEVED)
        _, at_most = ratio_bounds(found.comparison, judgement.dc, judgement.ac, dropped)
        dropped &= at_most - ratio <= -thresholds.ratio_drop_min * (1 - RELATIVE_TOLERANCE)
    return Baselines(ratio, change, dropped)
