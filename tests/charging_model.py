"""The hours of a vehicle and its meters in plain Python, reading by reading, and what the judge says of them.

The tables of hours are made anew here; `compare` and `judge` are those of the service, which have tests of their own.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from analytics_svc.__main__ import thresholds
from analytics_svc.charging import NO_READING, SideHours, Spans
from analytics_svc.comparison import compare
from analytics_svc.performance import Performance, judge
from shared.config import AnalyticsSettings
from shared.timestamps import US_PER_HOUR
from tests.fleets import a_comparison, a_fleet

THRESHOLDS = thresholds(AnalyticsSettings())
"""The limits that are configured by default."""

Energies = Mapping[int, float]
"""The kWh of a device's readings, by their time; negative: they flowed back."""


class FedSpan(NamedTuple):
    """A part of a window in which the same meters fed a vehicle, perhaps none; with all that the devices ever sent."""

    since_us: int
    until_us: int
    vehicle: Energies
    meters: Sequence[Energies]


@dataclass(frozen=True)
class Judged:
    performance: Performance
    """What the judge says."""
    idle: float
    """What meters drew at standby, in kWh."""
    unmapped: float
    """What the vehicle took while no meter fed it, less what flowed back, in kWh."""
    compared_us: list[tuple[int, int]]
    """From when to when the compared stretches last."""


def hour_of(ts_us: int) -> int:
    """The number of the hour `(h, h + 1 h]` that a timestamp lies in."""
    return (ts_us - 1) // US_PER_HOUR


def device_hours(energies: Energies, window_us: tuple[int, int], since_us: int, until_us: int) -> SideHours:
    """The column of a device in a span: row 0 is the hour before it, and row 1 the hour in which the window starts."""
    first = window_us[0] // US_PER_HOUR
    rows = hour_of(window_us[1]) - first + 2
    kwh, returned, readings, last_us = [0.0] * rows, [0.0] * rows, [0] * rows, [NO_READING] * rows
    for ts_us, energy in sorted(energies.items()):
        if not since_us - US_PER_HOUR < ts_us <= until_us:
            continue
        row = 0 if ts_us <= since_us else hour_of(ts_us) - first + 1
        kwh[row] += max(energy, 0.0)
        returned[row] += max(-energy, 0.0)
        readings[row] += 1
        last_us[row:] = [ts_us] * (rows - row)
    return SideHours(np.array(kwh), np.array(returned), np.array(readings), np.array(last_us))


def side_hours(devices: Sequence[SideHours]) -> SideHours:
    """What some devices reported together."""
    return SideHours(
        np.sum([each.kwh for each in devices], axis=0),
        np.sum([each.kwh_returned for each in devices], axis=0),
        np.sum([each.readings for each in devices], axis=0),
        np.min([each.last_us for each in devices], axis=0),
    )


def spans_table(window_us: tuple[int, int], spans: Sequence[FedSpan]) -> Spans:
    """Spans in which meters fed a vehicle, one beside the other."""
    start_us, end_us = window_us
    full_us = [hour * US_PER_HOUR for hour in range(start_us // US_PER_HOUR + 1, hour_of(end_us) + 2)]

    def side(of_span: list[SideHours]) -> SideHours:
        return SideHours(
            np.stack([each.kwh for each in of_span], axis=1),
            np.stack([each.kwh_returned for each in of_span], axis=1),
            np.stack([each.readings for each in of_span], axis=1),
            np.stack([each.last_us for each in of_span], axis=1),
        )

    return Spans(
        start_us,
        np.array([span.since_us for span in spans]),
        np.array(
            [
                [span.since_us, *(min(max(hour_us, span.since_us), span.until_us) for hour_us in full_us)]
                for span in spans
            ]
        ).T,
        side([device_hours(span.vehicle, window_us, span.since_us, span.until_us) for span in spans]),
        side(
            [
                side_hours([device_hours(each, window_us, span.since_us, span.until_us) for each in span.meters])
                for span in spans
            ]
        ),
    )


def judge_vehicle(
    window_us: tuple[int, int], spans: Sequence[FedSpan], *, mappings: int, dc: Sequence[float], ac: Sequence[float]
) -> Judged:
    """The judge's verdict over the spans of a vehicle. `dc` and `ac` are the energies of all readings that count."""
    fed = [span for span in spans if span.meters]
    comparison, compared_us = a_comparison(), []
    if fed:
        by_span, stretches = compare(spans_table(window_us, fed), THRESHOLDS.comparing)
        comparison = by_span.by_vehicle(np.zeros(len(fed), np.intp), 1)
        compared_us = list(zip(stretches.begins_us.tolist(), stretches.ends_us.tolist(), strict=True))
    unmapped = [
        energy
        for span in spans
        if not span.meters
        for ts_us, energy in span.vehicle.items()
        if span.since_us < ts_us <= span.until_us
    ]

    found = a_fleet(
        [""],
        comparison,
        mappings=mappings,
        kwh_delivered_dc=sum(dc),
        kwh_consumed_ac=sum(ac),
        vehicle_readings=len(dc),
        meter_readings=len(ac),
        kwh_returned_dc=sum(-each for each in dc if each < 0),
        kwh_returned_ac=sum(-each for each in ac if each < 0),
        kwh_delivered_dc_unmapped=sum(unmapped),
    )
    return Judged(judge(found, THRESHOLDS).at(0, found), comparison.idle[0].item(), sum(unmapped), compared_us)
