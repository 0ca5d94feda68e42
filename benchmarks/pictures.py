"""`python -m benchmarks.pictures`: draws the pictures of docs/verdicts.md, from simulated readings.

What is shaded is what analytics compares of these readings.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from analytics_svc.questions import Window
from analytics_svc.span_tables import DeviceHours, MappedPart, VehicleHours, VehicleSpan, totals_of
from analytics_svc.stretches import CompareLimits
from benchmarks.verdicts.visible import device_hours
from shared.config import AnalyticsSettings
from shared.timestamps import US_PER_HOUR, US_PER_MINUTE

FOLDER = Path(__file__).parents[1] / "docs" / "pictures"

Readings = Sequence[tuple[float, float]]
"""When, in hours since the first midnight, and how much, in kWh."""


def every(minutes: int, kwh: float, start: float, end: float) -> Readings:
    """A reading every so many minutes from one hour to another: the first one interval later, the last at the end."""
    count = round((end - start) * 60 / minutes)
    return [(start + (number + 1) * minutes / 60, kwh) for number in range(count)]


@dataclass(frozen=True)
class Picture:
    name: str
    title: str
    meter: Readings
    vehicle: Readings
    hours: float
    """How long the window is; it starts at the first midnight."""
    shown_from: int = 0
    note: tuple[float, float, str] = (0, 0, "")
    """Something to say: at which hour, how high of 1, and what."""


PICTURES = (
    Picture(
        "standby",
        "A meter that stands by, and a car that sleeps until it charges",
        [*every(15, 0.0075, 0, 18), *every(15, 1.85, 18, 20), *every(15, 0.0075, 20, 24)],
        every(15, 1.665, 18, 20),
        24,
        note=(9, 0.12, "0.03 kWh an hour: standby"),
    ),
    Picture(
        "late-report",
        "A car that reports its whole charge at once, at 22:03",
        every(1, 0.1233, 18, 22),
        [(22 + 3 / 60, 26.6)],
        24,
        shown_from=16,
        note=(22.5, 0.95, "26.6 kWh\nof four hours"),
    ),
    Picture(
        "under-way",
        "A charge that goes on, asked about at 19:45: the meter reports every hour",
        every(60, 7.4, 17, 19),
        every(1, 0.111, 17, 19.75),
        19.75,
        shown_from=14,
        note=(19.375, 0.95, "the meter has\nyet to report"),
    ),
    Picture(
        "outage",
        "A meter that was silent for three days, and reports them in one piece",
        [(17.75, 0.01), (72 + 18.25, 61.85), *every(15, 1.85, 72 + 18.25, 72 + 20)],
        [each for day in range(3) for each in every(15, 2.25, 24 * day + 18, 24 * day + 20)]
        + list(every(15, 1.665, 72 + 18, 72 + 20)),
        96,
        note=(82, 0.9, "61.85 kWh\nof three days"),
    ),
)


def compared(picture: Picture) -> list[tuple[float, float, float, float]]:
    """Each stretch that is compared: from which hour to which, delivered and drawn."""
    window = Window(0, round(picture.hours * US_PER_HOUR))
    vehicle, meter = _device(picture.vehicle), _device(picture.meter)
    span = VehicleSpan(window.start_us, window.end_us, vehicle, [meter])
    mappings = {MappedPart(1, window.start_us, window.end_us): [meter]}
    settings = AnalyticsSettings.model_construct()
    limits = CompareLimits(settings.standby_kw, settings.low_efficiency_below, settings.implausible_above)
    _, its = totals_of(window, ["vehicle"], [VehicleHours([span], mappings)], limits)
    begins, ends = its.begins_us / US_PER_HOUR, its.ends_us / US_PER_HOUR
    return list(zip(begins.tolist(), ends.tolist(), its.dc.tolist(), its.ac.tolist(), strict=True))


def _device(readings: Readings) -> DeviceHours:
    """What a device reported, hour by hour."""
    ts_us = np.array([round(hour * 60 * US_PER_MINUTE) for hour, _ in readings], np.int64)
    kwh = np.array([each for _, each in readings])
    numbers, of = np.unique((ts_us - 1) // US_PER_HOUR + 1, return_inverse=True)
    last_us = np.zeros(len(numbers), np.int64)
    np.maximum.at(last_us, of, ts_us)
    return device_hours(numbers, last_us, np.bincount(of), np.bincount(of, kwh).astype(np.float64))


def by_hour(readings: Readings, hours: int) -> NDArray[np.float64]:
    device = _device(readings)
    found = np.zeros(hours)
    found[device.numbers - 1] = device.kwh
    return found


def draw(picture: Picture, folder: Path) -> Path:
    """Writes a picture, the same each time; returns its file."""
    file = folder / f"{picture.name}.svg"
    with mpl.rc_context({"svg.hashsalt": picture.name, "svg.fonttype": "none", "font.size": 9}):
        figure = Figure(figsize=(8, 2.8), layout="constrained")
        axes = figure.subplots()
        count = int(np.ceil(picture.hours))
        hours = np.arange(count)
        for at, label, color, readings in (
            (0.3, "drawn (AC)", "0.55", picture.meter),
            (0.7, "delivered (DC)", "tab:blue", picture.vehicle),
        ):
            axes.bar(hours + at, by_hour(readings, count), 0.36, color=color, label=label, zorder=2)
        for number, (begins, ends, dc, ac) in enumerate(compared(picture)):
            label = "" if number else f"compared: {dc:.2f} of {ac:.2f} kWh, {dc / ac:.1%}"
            axes.axvspan(begins, ends, color="tab:green", alpha=0.18, linewidth=0, label=label, zorder=1)
        axes.set_xlim(picture.shown_from, count)
        top = axes.get_ylim()[1] * 1.25
        axes.set_ylim(0, top)
        if picture.hours % 1:
            axes.axvline(picture.hours, color="black", linewidth=1, linestyle="--", label="asked")
        hour, height, text = picture.note
        axes.text(hour, height * top, text, ha="center", va="top", fontsize="small")
        step = max(1, (count - picture.shown_from) // 12)
        ticks = range(picture.shown_from, count + 1, step)
        axes.set_xticks(ticks, [f"{hour % 24:02}:00" for hour in ticks])
        axes.set_ylabel("kWh an hour")
        axes.set_title(picture.title, loc="left", fontsize="medium")
        figure.legend(loc="outside lower center", ncols=4, frameon=False, fontsize="small")
        folder.mkdir(parents=True, exist_ok=True)
        figure.savefig(file, metadata={"Date": None, "Creator": None})
    return file


if __name__ == "__main__":
    for each in PICTURES:
        print(draw(each, FOLDER).relative_to(Path.cwd()))
