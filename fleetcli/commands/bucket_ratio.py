"""How well a vehicle charged within an hour or a day, for a colour: a bucket is too short for a verdict of its own."""

from energyfleet.v1.analytics_service_pb2 import PerformanceBucket, PerformanceThresholds

from shared.timestamps import US_PER_HOUR, us_from_proto

_ROUNDING = 1e-9
"""Relative error of sums of doubles."""


def bucket_ratio(bucket: PerformanceBucket, thresholds: PerformanceThresholds) -> float | None:
    """Energy delivered over energy drawn, net or, where much flowed back, of charging alone.

    None where a side is absent, the vehicle took nothing, or its meters only stood by.
    """
    dc, ac = (bucket.kwh_delivered_dc + bucket.kwh_returned_dc, bucket.kwh_consumed_ac + bucket.kwh_returned_ac)
    if not bucket.HasField("kwh_lost") or dc <= 0 or ac <= _ROUNDING * bucket.kwh_returned_ac:
        return None
    if ac <= thresholds.standby_kw * min(_hours(bucket), 1.0) and dc < ac:
        return None
    share = thresholds.returned_max_share
    if bucket.kwh_returned_dc > share * dc or bucket.kwh_returned_ac > share * ac:
        return dc / ac
    return bucket.efficiency_ratio if bucket.HasField("efficiency_ratio") else None


def bucket_verdict(bucket: PerformanceBucket, thresholds: PerformanceThresholds) -> str:
    """The verdict whose colour a bucket has."""
    ratio = bucket_ratio(bucket, thresholds)
    if ratio is None:
        return "INSUFFICIENT_DATA"
    if ratio < _low_efficiency_below(bucket, thresholds):
        return "LOW_EFFICIENCY"
    return "IMPLAUSIBLE" if ratio > thresholds.implausible_above else "OK"


def _low_efficiency_below(bucket: PerformanceBucket, thresholds: PerformanceThresholds) -> float:
    """The limit at the power that was drawn on average; that of charging is not less."""
    by_power = thresholds.low_efficiency_by_power
    if not by_power:
        return thresholds.low_efficiency_below
    power_kw = (bucket.kwh_consumed_ac + bucket.kwh_returned_ac) / _hours(bucket)
    reached = [each.low_efficiency_below for each in by_power if each.from_kw <= power_kw * (1 + _ROUNDING)]
    return reached[-1] if reached else by_power[0].low_efficiency_below


def _hours(bucket: PerformanceBucket) -> float:
    return (us_from_proto(bucket.window.end) - us_from_proto(bucket.window.start)) / US_PER_HOUR
