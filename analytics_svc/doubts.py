"""What may be wrong in the sums of stretches whose ratio would accuse somebody: it widens their bounds."""

import numpy as np

from analytics_svc.charging import NO_READING, Places
from analytics_svc.stretches import LEVEL_US, MORE_THAN_AN_HOUR, MOST_OF_AN_HOUR, PRECONDITIONING_KWH, Stretches
from shared.timestamps import US_PER_HOUR

OFTEN_READINGS = 6
"""Readings within an hour of a vehicle that does not charge for long without a report."""

LONG_GAP_H = 3.0
"""A meter's reading that stands for longer may have that in it as well."""

UNKNOWN_POWER_KW = 11.0
"""Power that a charge may have that began in its span's last hour: few have more."""

UNKNOWN_SILENCE_H = 24.0
"""Hours that a meter's first reading stands for where it is not known since when. Of one that reports only while it
feeds: those in which it feeds."""

UNKNOWN_STANDBY_KW = 0.02
"""Standby where none was seen: a meter that reports only while it feeds seldom has more."""


def doubt(stretches: Stretches) -> None:
    """Widens the bounds of stretches whose ratio is out of range."""
    suspects = (stretches.both & stretches.out_of_range()).nonzero()[0]
    if len(suspects):
        _doubt_before_first_report(stretches, suspects)
        _doubt_clocks(stretches, suspects)
        _doubt_first_readings(stretches, suspects)
        _doubt_standby(stretches, suspects)


def _doubt_before_first_report(stretches: Stretches, suspects: Places) -> None:
    """What the meters drew before the first report of the vehicle may be something else, if it is little and less
    than what charging draws in an hour, or if a pause came after it; and so may a part of what they report in one
    piece."""
    vehicle, limits = stretches.vehicle, stretches.limits
    for at in suspects.tolist():
        span, first, last = stretches.span[at], stretches.first[at], stretches.last[at]
        drawn = stretches.meters.kwh[first : last + 1, span]
        report = stretches.first_report(at)
        silent_h = report - first
        early, less = drawn[:silent_h], drawn[:silent_h] < MOST_OF_AN_HOUR * drawn.max()
        often = vehicle.readings[report, span] >= OFTEN_READINGS
        often &= vehicle.kwh[report, span] <= limits.implausible_above * drawn[silent_h]  # or it was silent by a fault
        count = silent_h if often or less.all() else int((~less).argmax())
        leading = early[:count].sum() - stretches.unclaimed_ac[at]
        paused = less[1:count].any() or drawn[silent_h] <= limits.standby_kw < drawn[silent_h:].max()
        spare = stretches.ac[at] - stretches.dc[at] / limits.implausible_above
        stretches.ac_less[at] += max(min(leading, spare, np.inf if often or paused else PRECONDITIONING_KWH), 0.0)
        stretches.ac_less[at] += _before_charging(stretches, at)
        in_one_piece = stretches.hours.stands_for_h[first, span] > LONG_GAP_H
        if in_one_piece and last > first and drawn[0] > MORE_THAN_AN_HOUR * drawn[1:].max():
            stretches.ac_less[at] += PRECONDITIONING_KWH


def _before_charging(stretches: Stretches, at: int) -> float:
    """Of the meters' reading in the hour in which the vehicle began to charge: what stands for time up to its last
    report that it took nothing, or before the intervals that it reports."""
    span, first, last = stretches.span[at], stretches.first[at], stretches.last[at]
    hour = first + int(stretches.hours.takes[first : last + 1, span].argmax())
    vehicle, meters = stretches.vehicle, stretches.meters
    if meters.readings[hour, span] != 1:
        return 0.0
    readings = vehicle.readings[hour, span]
    in_full_hour = vehicle.readings[hour:last, span].max(initial=0)
    if vehicle.readings[hour - 1, span]:
        begun_us = vehicle.last_us[hour - 1, span] if vehicle.kwh[hour - 1, span] == 0 else NO_READING
    elif in_full_hour > readings:
        begun_us = vehicle.last_us[hour, span] - readings * US_PER_HOUR // in_full_hour
    else:
        return 0.0
    since_us, until_us = meters.last_us[hour - 1, span], meters.last_us[hour, span]
    if begun_us <= since_us:
        return 0.0
    most_kw = meters.kwh[hour : last + 1, span].max()
    charged_kwh = most_kw * max(until_us - begun_us, 0) / US_PER_HOUR
    return float(np.clip(meters.kwh[hour, span] - charged_kwh, 0.0, PRECONDITIONING_KWH))


def _doubt_clocks(stretches: Stretches, at: Places) -> None:
    """Clocks that differ move energy across the ends of a charge that is cut."""
    span, first, last = stretches.span[at], stretches.cut_first[at], stretches.cut_last[at]
    charging = stretches.hours.draws[0, span] | stretches.hours.takes[0, span]
    begun = stretches.open_beginning[at] | ((stretches.first[at] == 1) & charging)
    ends_us = stretches.spans.ends_us[:, span]
    lasts_h = np.maximum(np.diff(ends_us, axis=0, prepend=ends_us[:1] - US_PER_HOUR), LEVEL_US) / US_PER_HOUR
    power_kw, each = stretches.vehicle.kwh[:, span] / lasts_h, np.arange(len(at))
    for number, (its_span, begin, end) in enumerate(zip(span, first, last, strict=True)):
        if end > begin:  # what comes at once in the last minutes says nothing about power
            most = stretches.meters.kwh[begin : end + 1, its_span].max()
            power_kw[:, number] = np.minimum(power_kw[:, number], most)
    goes_on = stretches.open_end[at] | stretches.at_end()[at]
    following = np.minimum(last + 1, len(power_kw) - 1)
    doubt = np.where(begun, np.maximum(power_kw[first, each], power_kw[first - 1, each]), 0.0)
    at_end_kw = np.maximum(power_kw[last, each], power_kw[following, each])
    doubt += np.where(goes_on, np.where(first == last, np.maximum(at_end_kw, UNKNOWN_POWER_KW), at_end_kw), 0.0)
    stretches.dc_more[at] += doubt * LEVEL_US / US_PER_HOUR
    stretches.dc_less[at] += doubt * LEVEL_US / US_PER_HOUR


def _doubt_first_readings(stretches: Stretches, suspects: Places) -> None:
    """A side's first reading after silence may stand for energy from before the span, or a register's first for
    less than was drawn."""
    fresh_dc, fresh_ac = stretches.fresh(stretches.vehicle), stretches.fresh(stretches.meters)
    owing_ac = stretches.may_owe_energy()
    crosses = stretches.crosses(stretches.vehicle)
    low = stretches.dc < stretches.ac
    for at in suspects[crosses[suspects] | fresh_ac[suspects]].tolist():
        its = stretches.span[at]
        if low[at]:
            pass  # more of the vehicle's energy from before would make it lower still
        elif fresh_dc[at]:
            hour = int(stretches.hours.takes[1:, its].argmax()) + 1
            stretches.dc_less[at] += stretches.vehicle.kwh[hour, its]
        elif crosses[at]:
            hour = stretches.first[at]
            kwh, readings = stretches.vehicle.kwh[hour, its], stretches.vehicle.readings[hour, its]
            stretches.dc_less[at] += kwh / max(readings, 1)
        if fresh_ac[at]:
            hour = int(stretches.hours.draws[1:, its].argmax()) + 1
            kwh, readings = stretches.meters.kwh[hour, its], stretches.meters.readings[hour, its]
            others = stretches.meters.kwh[hour + 1 :, its].max(initial=0.0)
            if low[at] and owing_ac[at] and hour >= stretches.cut_first[at] and kwh > MORE_THAN_AN_HOUR * others:
                stretches.ac_less[at] += kwh
            if not low[at]:
                stretches.ac_more[at] += kwh / (readings - 1) if readings > 1 else max(kwh, others)


def _doubt_standby(stretches: Stretches, at: Places) -> None:
    """Standby within a stretch is no part of charging: in hours in which the vehicle charged for some minutes, and
    in the time that a meter's first reading after silence stands for."""
    span, first, last = stretches.span[at], stretches.cut_first[at], stretches.cut_last[at]
    idle = stretches.idle()[:, span]
    idle_h = np.where(idle, stretches.hours.stands_for_h[:, span], 0.0).sum(axis=0)
    idle_kwh = np.where(idle, stretches.meters.kwh[:, span], 0.0).sum(axis=0)
    standby_kw = np.where(idle_h > 0, idle_kwh / np.maximum(idle_h, 1e-9), UNKNOWN_STANDBY_KW)
    count = last - first + 1
    begin, end = stretches.vehicle.kwh[first, span], stretches.vehicle.kwh[last, span]
    inner = np.where(count > 2, (stretches.dc[at] - begin - end) / np.maximum(count - 2, 1), 0.0)
    full = np.maximum(np.maximum(inner, begin), np.maximum(end, 1e-9))
    idle_h = np.clip(count - stretches.dc[at] / full, 0, count) + np.where(count <= 2, 0.75, 0.25)
    ends = zip(span, stretches.first[at], stretches.last[at], strict=True)
    longest_h = np.array([stretches.hours.stands_for_h[begin : end + 1, its].max() for its, begin, end in ends])
    silent_h = np.maximum(longest_h - 1, 0.0)
    silent_h = np.where(stretches.fresh(stretches.meters)[at], UNKNOWN_SILENCE_H, silent_h)
    silent_h = np.where(stretches.reports_idle(stretches.meters)[at], silent_h, 0.0)
    stretches.ac_less[at] += standby_kw * (np.minimum(idle_h, count) + silent_h)
