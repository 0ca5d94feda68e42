"""A vehicle's hours as a line of bars."""

import pytest
from energyfleet.v1.analytics_service_pb2 import PerformanceBucket, PerformanceThresholds

from fleetcli.commands.sparkline import sparkline

LIMITS = PerformanceThresholds(low_efficiency_below=0.85, implausible_above=1.02, returned_max_share=0.01)


def an_hour(ac: float, ratio: float) -> PerformanceBucket:
    return PerformanceBucket(kwh_consumed_ac=ac, kwh_delivered_dc=ac * ratio, efficiency_ratio=ratio)


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
