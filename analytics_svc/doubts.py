"""What may be wrong in the sums of stretches whose ratio would accuse somebody: it widens their bounds."""

import numpy as np

from analytics_svc.charging import Places
from analytics_svc.stretches import LEVEL_US, MORE_THAN_AN_HOUR, PRECONDITIONING_KWH, Stretches
from shared.timestamps import US_PER_HOUR

OFTEN_READINGS = 6
"""Readings within an hour of a vehicle that does not charge for long without a report."""

MOST_OF_AN_HOUR = 0.8
"""Share of the most that a stretch draws in an hour; an hour of so much is one of charging."""

LONG_GAP_H = 3.0
"""A meter's reading that stands for longer may have that in it as well."""

UNKNOWN_SILENCE_H = 24.0
"""Hours that a meter's first reading stands for where it is not known since when. Of one that reports only while it
feeds: those in which it feeds."""

UNKNOWN_STANDBY_KW = 0.02
"""Standby where none was seen: a meter that reports only while it feeds seldom has more."""


def doubt(stretches: Stretches) -> None:
    """Widens the bounds of stretches whose ratio is out of range."""
    suspects = np.flatnonzero(stretches.both & stretches.out_of_range())
    if len(suspects):
        _doubt_before_first_report(stretches, suspects)
        _doubt_clocks(stretches, suspects)
        _doubt_first_readings(stretches, suspects)
        _doubt_standby(stretches, suspects)


def _doubt_before_first_report(stretches: Stretches, suspects: Places) -> None:
    """What the meters drew before the first report of the vehicle may be something else, if it is little and less
    than what charging draws in an hour; and so may a part of what they report in one piece."""
    readings = stretches.vehicle.readings
    for at in suspects.tolist():
        span, first, last = stretches.span[at], stretches.first[at], stretches.last[at]
        drawn = stretches.meters.kwh[first : last + 1, span]
        reports = readings[first : last + 1, span] > 0
        early = drawn[: int(reports.argmax())]
        less = early < MOST_OF_AN_HOUR * drawn.max()
        often = readings[first + len(early), span] >= OFTEN_READINGS
        count = len(early) if often or less.all() else int((~less).argmax())
        leading = early[:count].sum() - stretches.unclaimed_ac[at]
        spare = stretches.ac[at] - stretches.dc[at] / stretches.limits.implausible_above
        stretches.ac_less[at] += max(min(leading, spare, np.inf if often else PRECONDITIONING_KWH), 0.0)
        in_one_piece = stretches.hours.stands_for_h[first, span] > LONG_GAP_H
        if in_one_piece and last > first and drawn[0] > MORE_THAN_AN_HOUR * drawn[1:].max():
            stretches.ac_less[at] += PRECONDITIONING_KWH


def _doubt_clocks(stretches: Stretches, at: Places) -> None:
    """Clocks that differ move energy across the ends of a charge that is cut."""
    span, first, last = stretches.span[at], stretches.cut_first[at], stretches.cut_last[at]
    charging = stretches.hours.draws[0, span] | stretches.hours.takes[0, span]
    begun = stretches.open_beginning[at] | ((stretches.first[at] == 1) & charging)
    ends_us = stretches.spans.ends_us[:, span]
    lasts_h = np.maximum(np.diff(ends_us, axis=0, prepend=ends_us[:1] - US_PER_HOUR), LEVEL_US) / US_PER_HOUR
    power_kw, each = stretches.vehicle.kwh[:, span] / lasts_h, np.arange(len(at))
    goes_on = stretches.open_end[at] | stretches.at_end()[at]
    following = np.minimum(last + 1, len(power_kw) - 1)
    doubt = np.where(begun, np.maximum(power_kw[first, each], power_kw[first - 1, each]), 0.0)
    doubt += np.where(goes_on, np.maximum(power_kw[last, each], power_kw[following, each]), 0.0)
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
            if low[at] and owing_ac[at] and kwh > MORE_THAN_AN_HOUR * others:
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
    silent_h = np.maximum(stretches.hours.stands_for_h[stretches.first[at], span] - 1, 0.0)
    silent_h = np.where(stretches.fresh(stretches.meters)[at], UNKNOWN_SILENCE_H, silent_h)
    silent_h = np.where(stretches.reports_idle(stretches.meters)[at], silent_h, 0.0)
    stretches.ac_less[at] += standby_kw * (np.minimum(idle_h, count) + silent_h)
