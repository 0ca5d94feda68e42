"""A vehicle's hours as a line of bars."""

import pytest
from energyfleet.v1.analytics_service_pb2 import LimitByPower, PerformanceBucket, PerformanceThresholds, TimeWindow

from fleetcli.commands.bucket_ratio import bucket_ratio, bucket_verdict
from fleetcli.commands.sparkline import sparkline
from shared.timestamps import US_PER_HOUR, proto_from_us

LIMITS = PerformanceThresholds(
    low_efficiency_below=0.85, implausible_above=1.02, returned_max_share=0.01, standby_kw=0.2
)


def an_hour(ac: float, ratio: float, hours: int = 1) -> PerformanceBucket:
    return PerformanceBucket(
        window=TimeWindow(start=proto_from_us(0), end=proto_from_us(hours * US_PER_HOUR)),
        kwh_consumed_ac=ac,
        kwh_delivered_dc=ac * ratio,
        efficiency_ratio=ratio,
        kwh_lost=ac - ac * ratio,
    )


def test_height_is_energy_and_colour_is_the_ratio_within_its_limits() -> None:
    hours = [
        PerformanceBucket(empty=True),
        an_hour(7.0, 0.9),
        an_hour(1.0, 0.85),
        an_hour(3.5, 0.849),
        an_hour(2.0, 1.03),
        PerformanceBucket(kwh_delivered_dc=3.0),
    ]
    line = sparkline(hours, LIMITS)
    assert line.plain == "·█▂▅▃▄"
    assert [str(span.style) for span in line.spans] == ["dim", "green", "green", "bold red", "bold magenta", "yellow"]


def test_what_flows_back_has_height_and_charging_the_colour() -> None:
    hours = [
        an_hour(8.0, 0.9),
        PerformanceBucket(
            kwh_consumed_ac=2.0,
            kwh_delivered_dc=1.4,
            efficiency_ratio=0.7,
            kwh_lost=0.6,
            kwh_returned_ac=1.0,
            kwh_returned_dc=1.3,
        ),
        PerformanceBucket(
            kwh_consumed_ac=-7.2, kwh_delivered_dc=-8.0, kwh_lost=0.8, kwh_returned_ac=7.2, kwh_returned_dc=8.0
        ),
    ]
    line = sparkline(hours, LIMITS)
    assert line.plain == "█▅█"
    assert [str(span.style) for span in line.spans] == ["green", "green", "yellow"]


@pytest.mark.parametrize(("hours", "plain"), [([], ""), ([PerformanceBucket(kwh_delivered_dc=0.0)] * 2, "▁▁")])
def test_hours_without_energy_have_the_lowest_bars(hours: list[PerformanceBucket], plain: str) -> None:
    assert sparkline(hours, LIMITS).plain == plain


@pytest.mark.parametrize(
    ("bucket", "ratio"),
    [
        (an_hour(0.2, 0.0), None),
        (an_hour(0.2, 0.5), None),
        (an_hour(0.21, 0.5), 0.5),
        (an_hour(0.1, 5.0), 5.0),
        (an_hour(7.6, 0.0), None),
        (an_hour(2.0, 0.9, hours=24), 0.9),
        (PerformanceBucket(kwh_consumed_ac=7.4), None),
    ],
    ids=["standby", "a little beside", "more", "from nowhere", "preconditioning", "a day", "one side"],
)
def test_what_is_no_charging_has_no_ratio(bucket: PerformanceBucket, ratio: float | None) -> None:
    assert bucket_ratio(bucket, LIMITS) == ratio


def test_where_limits_go_by_power_the_one_for_an_hours_power_colours_it() -> None:
    by_power = [(2.3, 0.72), (7.0, 0.85)]
    limits = PerformanceThresholds(
        low_efficiency_below=0.85,
        implausible_above=1.02,
        low_efficiency_by_power=[LimitByPower(from_kw=kw, low_efficiency_below=below) for kw, below in by_power],
    )
    hours = [an_hour(1.0, 0.71), an_hour(1.0, 0.72), an_hour(6.9, 0.8), an_hour(7.0, 0.8), an_hour(14.0, 0.8, hours=4)]
    low, ok = "LOW_EFFICIENCY", "OK"
    assert [bucket_verdict(each, limits) for each in hours] == [low, ok, ok, low, ok]
