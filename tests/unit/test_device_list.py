"""The list of devices says of freshness what a device's status does."""

import numpy as np
import pytest

from analytics_svc.device_list import ABSENT, FRESHNESS_OF, Devices
from analytics_svc.freshness import freshness

NOW_US, STALE_AFTER_US = 1_800_000_000_000_000, 1_800_000_000


def a_device(newest_us: int = ABSENT) -> Devices:
    nothing = np.zeros(1, np.int64)
    absent = np.full(1, ABSENT)
    counts = (nothing,) * 6
    return Devices(["it"], np.zeros(1, np.bool_), np.array([newest_us]), absent, absent, *counts, absent)


@pytest.mark.parametrize(
    "age_us", [None, -(10**15), -1, 0, STALE_AFTER_US - 1, STALE_AFTER_US, STALE_AFTER_US + 1, NOW_US, NOW_US + 10**16]
)
def test_a_device_is_as_fresh_as_its_status_says(age_us: int | None) -> None:
    device = a_device() if age_us is None else a_device(NOW_US - age_us)
    states = [state for state, which in device.states(NOW_US, STALE_AFTER_US).items() if which.item()]
    assert [FRESHNESS_OF[state] for state in states] == [freshness(age_us, STALE_AFTER_US)]


def test_a_device_without_evidence_has_none() -> None:
    assert a_device().clock_evidence(0) is None
