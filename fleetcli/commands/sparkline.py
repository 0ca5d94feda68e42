"""A vehicle's hours as a line of small bars: how high says how much energy, the colour how much of it arrived."""

from collections.abc import Sequence

from energyfleet.v1.analytics_service_pb2 import PerformanceBucket, PerformanceThresholds
from rich.text import Text

from fleetcli.commands.bucket_ratio import bucket_verdict
from fleetcli.commands.console import VERDICT_STYLES, out

_BARS = "▁▂▃▄▅▆▇█"
_BARS_IN_ASCII = "12345678"
_SILENT = "·"
_SILENT_IN_ASCII = "."

LEGEND = "Bars: energy of the last 24 hours, each vehicle on its own scale, coloured by ratio. Dots: no reading."


def sparkline(buckets: Sequence[PerformanceBucket], thresholds: PerformanceThresholds) -> Text:
    """A character a bucket. Its height is the energy that flowed either way, on the side that reported more of it, over
    the vehicle's highest."""
    ascii_only = not out.encoding.lower().startswith("utf")
    bars, silent = (_BARS_IN_ASCII, _SILENT_IN_ASCII) if ascii_only else (_BARS, _SILENT)
    energies = [
        max(bucket.kwh_delivered_dc + 2 * bucket.kwh_returned_dc, bucket.kwh_consumed_ac + 2 * bucket.kwh_returned_ac)
        for bucket in buckets
    ]
    highest = max(energies, default=0.0)
    line = Text()
    for bucket, kwh in zip(buckets, energies, strict=True):
        if bucket.empty:
            line.append(silent, "dim")
        else:
            level = round(kwh / highest * (len(bars) - 1)) if highest > 0 else 0
            line.append(bars[level], VERDICT_STYLES[bucket_verdict(bucket, thresholds)])
    return line
