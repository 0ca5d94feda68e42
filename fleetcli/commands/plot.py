"""`energyfleet plot`: a vehicle's hours or days as a picture, or those of a charging session."""

from datetime import UTC
from enum import StrEnum
from math import nan
from pathlib import Path
from typing import Annotated
from zoneinfo import ZoneInfo

import typer

from fleetcli.client.channel import PLAINTEXT
from fleetcli.client.credentials import Credentials
from fleetcli.client.messages import series_request, sessions_request
from fleetcli.client.services import AnalyticsClient, Series, Session
from fleetcli.commands.bucket_ratio import bucket_ratio, bucket_verdict
from fleetcli.commands.command_errors import BadInput, CommandError
from fleetcli.commands.console import say
from fleetcli.commands.identity_options import takes_credentials
from fleetcli.commands.options import (
    ANALYTICS_DEFAULT,
    Analytics,
    Ending,
    Vehicle,
    ask,
    hours_option,
    moment_us,
    window_us,
)
from fleetcli.commands.sessions import session_line
from shared.timestamps import US_PER_DAY, system_clock, us_from_proto

FORMATS = (".png", ".svg", ".pdf")

_COLORS = {"OK": "tab:green", "LOW_EFFICIENCY": "tab:red", "IMPLAUSIBLE": "tab:purple", "INSUFFICIENT_DATA": "none"}

_HOURS_OF_DAYS = 30 * 24.0
_HOURS_OF_HOURS = 24.0

_AROUND_US = 16 * US_PER_DAY
"""In which a session is looked for, before and after a time: half of what the service takes."""


class Granularity(StrEnum):
    HOUR = "hour"
    DAY = "day"


@takes_credentials
def plot(
    vehicle: Vehicle,
    to: Annotated[Path, typer.Option("--out", metavar="FILE", help="The picture: .png, .svg or .pdf.")],
    analytics: Analytics = ANALYTICS_DEFAULT,
    by: Annotated[Granularity, typer.Option(help="What a bar stands for.")] = Granularity.HOUR,
    hours: Annotated[float | None, hours_option("Length of the window. Default: 24, by days 30 days.")] = None,
    ending: Ending = None,
    time_zone: Annotated[
        str, typer.Option(metavar="ZONE", help="Where hours and days begin, such as Europe/Berlin.")
    ] = "UTC",
    session: Annotated[
        str | None,
        typer.Option(metavar="last|TIME", help="Instead of a window, the session at that time, or the last one."),
    ] = None,
    credentials: Credentials = PLAINTEXT,
) -> None:
    """Draw how a vehicle charged over time: energy of both sides, their ratio, the battery's temperature."""
    if session is not None and (hours is not None or ending is not None or by is not Granularity.HOUR):
        raise typer.BadParameter("a session has a window of its own, by hours", param_hint="--session")
    if to.suffix.lower() not in FORMATS:
        raise typer.BadParameter(f"{str(to)!r} does not end in {', '.join(FORMATS)}", param_hint="--out")
    start_us, end_us = window_us(hours, ending, _HOURS_OF_HOURS if by is Granularity.HOUR else _HOURS_OF_DAYS)
    _require_matplotlib()
    found = None
    if session is not None:
        found = _session(session, vehicle, analytics, credentials)
        start_us, end_us = us_from_proto(found.window.start), us_from_proto(found.window.end)
    question = series_request(vehicle, start_us, end_us, by.name, time_zone)
    series = ask(AnalyticsClient, analytics, credentials, lambda client: client.series(question))
    draw(series, to, "" if found is None else session_line(found))
    what = f"a session of {vehicle}" if found is not None else vehicle
    say(f"{to} shows {what} by the {by}: {len(series.buckets):,} {by}s.")


def _session(session: str, vehicle: str, analytics: str, credentials: Credentials) -> Session:
    """The session of a time, or the last one of a month. CommandError where there is none."""
    now_us = system_clock()
    at_us = None if session == "last" else moment_us("--session", session, now_us)
    end_us = now_us if at_us is None else at_us + _AROUND_US
    question = sessions_request(vehicle, None, end_us - 2 * _AROUND_US, end_us)
    answer = ask(AnalyticsClient, analytics, credentials, lambda client: client.sessions(question))
    found: list[Session] = [
        each
        for each in answer.sessions
        if at_us is None or us_from_proto(each.window.start) < at_us <= us_from_proto(each.window.end)
    ]
    if not found:
        raise CommandError(f"{vehicle} was in no session {'of the last 32 days' if at_us is None else 'at that time'}")
    return found[-1]


def _require_matplotlib() -> None:
    try:
        import matplotlib  # noqa: F401 (before the service is asked)
    except ImportError:
        raise CommandError("`energyfleet plot` needs matplotlib: pip install 'energy-fleet[plot]'") from None


def draw(series: Series, to: Path, more: str = "") -> None:
    """Writes the picture, in the format that the file's name ends in, with `more` below its title. Raises BadInput
    where it cannot be written."""
    from matplotlib.dates import AutoDateLocator, ConciseDateFormatter
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 7), layout="constrained")
    energy, ratio, temperature = figure.subplots(3, sharex=True, height_ratios=(3, 2, 1))
    # Positions are in UTC: in a time zone, Python takes hours from each other as if the clock was never changed.
    starts = [each.window.start.ToDatetime(UTC) for each in series.buckets]
    widths = [each.window.end.ToDatetime(UTC) - start for each, start in zip(series.buckets, starts, strict=True)]
    middles = [start + width / 2 for start, width in zip(starts, widths, strict=True)]

    drawn = [each.kwh_consumed_ac for each in series.buckets]
    delivered = [each.kwh_delivered_dc for each in series.buckets]
    energy.bar(starts, drawn, widths, align="edge", color="lightgray", edgecolor="white", label="drawn (AC)")
    energy.bar(middles, delivered, [0.6 * width for width in widths], color="tab:blue", label="delivered (DC)")
    energy.set_ylabel("kWh")

    limits = series.thresholds
    ratios = [nan if ratio is None else ratio for ratio in (bucket_ratio(each, limits) for each in series.buckets)]
    colors = [_COLORS[bucket_verdict(each, limits)] for each in series.buckets]
    ratio.scatter(middles, ratios, c=colors, s=16, zorder=3)
    by_power = {
        f"low below, from {each.from_kw:g} kW": each.low_efficiency_below for each in limits.low_efficiency_by_power
    }
    for label, limit in (by_power or {"low below": limits.low_efficiency_below}).items():
        ratio.axhline(limit, color="tab:red", linewidth=1, linestyle="--", label=label)
    ratio.axhline(limits.implausible_above, color="tab:purple", linewidth=1, linestyle="--", label="implausible above")
    ratio.set_ylabel("DC / AC")

    # Not a number: there the line has a gap.
    temps = [each.average_battery_temp if each.HasField("average_battery_temp") else nan for each in series.buckets]
    temperature.plot(middles, temps, "o-", color="tab:orange", markersize=3)
    temperature.set_ylabel("battery, °C")

    for axes in (energy, ratio, temperature):
        for start, width, bucket in zip(starts, widths, series.buckets, strict=True):
            if bucket.empty:
                axes.axvspan(start, start + width, color="0.95", zorder=0)
        axes.grid(axis="y", linewidth=0.5, alpha=0.5)
    for axes in (energy, ratio):
        axes.legend(loc="lower right", bbox_to_anchor=(1, 1), ncols=2, frameon=False, fontsize="small")
    zone = ZoneInfo(series.time_zone)
    locator = AutoDateLocator(tz=zone)  # type: ignore[no-untyped-call]  # matplotlib.dates has no types
    temperature.xaxis.set_major_locator(locator)
    formatter = ConciseDateFormatter(locator, tz=zone)  # type: ignore[no-untyped-call]  # matplotlib.dates has no types
    temperature.xaxis.set_major_formatter(formatter)
    temperature.set_xlim(starts[0], starts[-1] + widths[-1])
    window = " to ".join(
        f"{moment.ToDatetime(zone):%Y-%m-%d %H:%M}" for moment in (series.window.start, series.window.end)
    )
    title = f"{series.vehicle_id}, {window} ({series.time_zone})"
    figure.suptitle(f"{title}\n{more}" if more else title, parse_math=False)
    temperature.set_xlabel("shaded: nothing was reported")
    try:
        figure.savefig(to, dpi=120)
    except OSError as error:
        raise BadInput(f"--out {to}: {error.strerror}") from None
