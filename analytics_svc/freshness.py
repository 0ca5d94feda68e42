"""Whether a device still reports. Pure: no clock, no database."""

from enum import StrEnum


class Freshness(StrEnum):
    """Whether a device still reports; the values are the contract's names."""

    ONLINE = "FRESHNESS_ONLINE"
    STALE = "FRESHNESS_STALE"
    NO_READING = "FRESHNESS_NO_READING"
    UNKNOWN_DEVICE = "FRESHNESS_NEVER_HEARD_OF"


def freshness(age_us: int | None, stale_after_us: int) -> Freshness:
    """Of a known device, by the age of its newest reading; None: it has none. Just `stale_after_us` old is online."""
    if age_us is None:
        return Freshness.NO_READING
    return Freshness.ONLINE if age_us <= stale_after_us else Freshness.STALE
