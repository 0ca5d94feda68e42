"""What vehicles and meters both account for: the charging that a verdict compares. Pure, for many spans at a time.

Stretches of charging are compared as wholes, so that it does not matter where in them readings lie. A stretch is a run
of hours in which a side charged, or several where a side that was silent reports in a later one. Where a span cuts a
charge, the energy that only one side has reported is estimated and taken off; where it is much, the stretch is cut
where both sides are level, or set aside. What may be wrong in this is kept as bounds, and nobody is accused within
them. Of a span with nothing but a `plain_charge` that is all found out sooner.
`docs/verdicts.md` explains it with pictures.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import NamedTuple

import numpy as np

from analytics_svc.charging import Flags, Numbers, Places, Spans, Times, hours_of, runs_of
from analytics_svc.doubts import doubt
from analytics_svc.edges import adjust_beginnings, adjust_ends, cut
from analytics_svc.plain_charge import PlainCharge, plain_charge
from analytics_svc.stretches import Aside, CompareLimits, Stretches, Sums

APART_MAX_H = 14
"""Hours that a clock is wrong by at most where it has another zone's time."""

APART_MATCHING = 0.9
"""Share of the vehicle's energy that the meters must have drawn, hour by hour, when they are shifted."""


@dataclass(frozen=True, slots=True)
class Comparison:
    """Of each span, or of each vehicle, in kWh; `[spans]` or `[vehicles]`."""

    dc: Numbers
    """What was delivered of what is compared; whatever flowed back is not taken off."""
    ac: Numbers
    """What was drawn of it."""
    returned_dc: Numbers
    returned_ac: Numbers
    dc_less: Numbers
    """By how much `dc` may be less than it seems; the next ones likewise."""
    dc_more: Numbers
    ac_less: Numbers
    ac_more: Numbers
    ac_squared_kw: Numbers
    """What is compared of each stretch by its mean power, which is weighted by energy: over `ac` that of charging."""
    idle: Numbers
    """What meters drew at standby."""
    hours_apart: Numbers
    """By how much later the vehicle's hours are than the meters', where they match when shifted; else 0."""
    step_kwh: Numbers
    """How finely the meters tell energy, where it is known to be coarse; else 0."""
    dc_aside: Numbers
    """`[Aside, spans]`"""
    ac_aside: Numbers

    @classmethod
    def joined(cls, parts: Sequence["Comparison"]) -> "Comparison":
        """Those of slices, one after another."""
        return cls(*(np.concatenate([getattr(part, each.name) for part in parts], axis=-1) for each in fields(cls)))

    def by_vehicle(self, vehicle_of: Places, vehicles: int) -> "Comparison":
        """The sums of each vehicle's spans, and the hours that they lie apart where all that do agree."""

        if len(vehicle_of) == vehicles == 1:
            return self

        def added(values: Numbers) -> Numbers:
            if values.ndim == 1:
                return np.bincount(vehicle_of, weights=values, minlength=vehicles).astype(np.float64)
            return np.stack([added(each) for each in values])

        sums = Comparison(*(added(getattr(self, each.name)) for each in fields(self)))
        apart = self.hours_apart != 0
        most, least = np.full(vehicles, -np.inf), np.full(vehicles, np.inf)
        np.maximum.at(most, vehicle_of[apart], self.hours_apart[apart])
        np.minimum.at(least, vehicle_of[apart], self.hours_apart[apart])
        return replace(sums, hours_apart=np.where(most == least, most, 0.0))


class ComparedStretches(NamedTuple):
    """What was compared, by span and time; `[stretches]`."""

    span: Places
    begins_us: Times
    ends_us: Times
    dc: Numbers
    ac: Numbers


def compare(spans: Spans, limits: CompareLimits) -> tuple[Comparison, ComparedStretches]:
    """What can be compared of each span, and the stretches that this is."""
    charge = plain_charge(spans, limits)
    if charge is not None:
        return _as_it_is(charge, spans)
    hours = hours_of(spans, limits.standby_kw)
    stretches = Stretches(spans, hours, runs_of(hours), limits)
    adjust_ends(stretches)
    adjust_beginnings(stretches)
    cut(stretches)
    doubt(stretches)
    return _summed(stretches)


def _as_it_is(charge: PlainCharge, spans: Spans) -> tuple[Comparison, ComparedStretches]:
    comparison = Comparison(*np.zeros((12, 1)), *np.zeros((2, len(Aside), 1)))
    comparison.dc[0], comparison.ac[0] = charge.dc, charge.ac
    comparison.ac_squared_kw[0], comparison.idle[0] = charge.ac_squared_kw, charge.idle
    begins_us, ends_us = spans.ends_us[charge.first - 1], spans.ends_us[charge.last]
    return comparison, ComparedStretches(np.zeros(1, np.intp), begins_us, ends_us, comparison.dc, comparison.ac)


def _summed(stretches: Stretches) -> tuple[Comparison, ComparedStretches]:
    span = stretches.span
    if np.count_nonzero(stretches.both) < len(span):
        alone_dc, alone_ac = ~stretches.both & (stretches.dc > 0), ~stretches.both & (stretches.ac > 0)
        beyond = _mostly_unknown(stretches, alone_dc)
        stretches.set_aside(Aside.BEYOND, beyond)
        stretches.set_aside(Aside.NOTHING_DRAWN, alone_dc & ~beyond)
        stretches.set_aside(Aside.NOTHING_TAKEN, alone_ac)
    emptied = stretches.both & ((stretches.dc <= 0) | (stretches.ac <= 0))  # all of one side is estimated
    stretches.set_aside(Aside.BEYOND, emptied)
    if np.count_nonzero(stretches.unclaimed_ac):
        stretches.add_aside(Aside.NOTHING_TAKEN, np.arange(len(span)), np.zeros(len(span)), stretches.unclaimed_ac)
    brief = stretches.both & (stretches.first == stretches.last)
    if np.count_nonzero(brief):
        brief &= stretches.at_end()
        high = stretches.dc > stretches.limits.implausible_above * stretches.ac
        stretches.set_aside(Aside.UNDER_WAY, brief & (high | (stretches.estimated_end & stretches.out_of_range())))
    both = stretches.both & (stretches.ac > 0)
    compared = slice(None) if np.count_nonzero(both) == len(span) else both.nonzero()[0]
    count, its = len(stretches.spans.starts_us), span[compared]
    first, last = stretches.cut_first, stretches.cut_last
    taken, drawn_sums = stretches.charging, stretches.ac_sums
    if np.count_nonzero(stretches.hours.nothing_taken):
        taken = taken & ~stretches.hours.nothing_taken
        drawn_sums = Sums(stretches.meters.kwh, taken)
    drawn = drawn_sums.within(span, first, last)
    squared = Sums(stretches.meters.kwh**2 / _charged_h(stretches), taken)
    mean_kw = squared.within(span, first, last) / np.where(drawn > 0, drawn, np.inf)
    returned_dc, returned_ac = (
        Sums(side.kwh_returned, stretches.charging).within(span, first, last)
        if np.count_nonzero(side.kwh_returned)
        else np.zeros(len(span))
        for side in (stretches.vehicle, stretches.meters)
    )
    columns = {
        "dc": stretches.dc,
        "ac": stretches.ac,
        "returned_dc": returned_dc,
        "returned_ac": returned_ac,
        "dc_less": stretches.dc_less,
        "dc_more": stretches.dc_more,
        "ac_less": stretches.ac_less,
        "ac_more": stretches.ac_more,
        "ac_squared_kw": stretches.ac * mean_kw,
    }
    of_stretches = np.array([*columns.values()])[:, compared]
    if count == 1:
        sums = np.add.reduce(of_stretches, axis=1, keepdims=True)
    else:
        sums = np.array([np.bincount(its, weights=each, minlength=count) for each in of_stretches], np.float64)
    aside = np.zeros((2, len(Aside), count))
    for reason, energies in stretches.aside.items():
        for side, values in enumerate(energies):
            aside[side, reason] = np.bincount(span, weights=values, minlength=count)
    comparison = Comparison(
        **dict(zip(columns, sums, strict=True)),
        idle=np.add.reduce(np.where(stretches.charging[1:], 0.0, stretches.meters.kwh[1:])),
        hours_apart=_hours_apart(stretches, aside),
        step_kwh=np.zeros(count),
        dc_aside=aside[0],
        ac_aside=aside[1],
    )
    first, last, ends_us = first[compared], last[compared], stretches.spans.ends_us
    return comparison, ComparedStretches(
        its, ends_us[first - 1, its], ends_us[last, its], stretches.dc[compared], stretches.ac[compared]
    )


def _charged_h(stretches: Stretches) -> Numbers:
    """For how many hours of charging what the meters drew in each hour stands: of a first reading after silence for no
    more than the other hours' energy explains."""
    hours_h = np.maximum(stretches.hours.stands_for_h, 1.0)
    after_silence = stretches.hours.after_silence
    if np.count_nonzero(after_silence):
        kwh = stretches.meters.kwh
        full = np.where(after_silence, 0.0, kwh).max(axis=0)
        needed = np.where(full > 0, kwh / np.maximum(full, 1e-9), 1.0)
        hours_h = np.where(after_silence, np.clip(needed, 1.0, hours_h), hours_h)
    return hours_h


def _mostly_unknown(stretches: Stretches, which: Flags) -> Flags:
    """Those of some stretches of the vehicle alone whose energy may for the most part be of the time before the span,
    or be what a register's first reading hides: a side's first reading after silence."""
    if not np.count_nonzero(which):
        return which
    vehicle, meters = stretches.vehicle, stretches.meters
    fresh_ac, reports_idle = stretches.fresh(meters), stretches.reports_idle(vehicle)
    crosses = stretches.crosses(vehicle)
    found = np.zeros(len(which), np.bool_)
    for at in np.flatnonzero(which & (crosses | fresh_ac)).tolist():
        span, hours = stretches.span[at], slice(stretches.first[at], stretches.last[at] + 1)
        kwh, unknown = vehicle.kwh[hours, span], 0.0
        if crosses[at]:
            hour = int((kwh > 0).argmax())
            unknown = kwh[hour] if reports_idle[at] else kwh[hour] / max(vehicle.readings[hours, span][hour], 1)
        if fresh_ac[at]:
            reported = meters.readings[hours, span] > 0
            unknown = max(unknown, kwh[: int(reported.argmax()) + 1].sum() if reported.any() else kwh.sum())
        found[at] = kwh.sum() - unknown < kwh.sum() / 2
    return found


def _hours_apart(stretches: Stretches, aside: Numbers) -> Numbers:
    """By how much later the vehicle's hours are, of spans in which nothing meets and both sides charged."""
    found = np.zeros(aside.shape[-1])
    if not stretches.aside:
        return found
    alone = [Aside.NOTHING_DRAWN, Aside.NOTHING_TAKEN, Aside.SILENT]
    dc, ac = aside[:, alone].sum(axis=1)
    met = np.bincount(stretches.span, weights=stretches.dc * stretches.both, minlength=len(found))
    for span in np.flatnonzero((dc > 0) & (ac > 0) & (met == 0)).tolist():
        its_dc, its_ac = (
            stretches.vehicle.kwh[1:, span],
            np.where(stretches.hours.draws[1:, span], stretches.meters.kwh[1:, span], 0.0),
        )
        shifts = [*range(-APART_MAX_H, 0), *range(1, APART_MAX_H + 1)]
        common = [np.minimum(its_dc, _shifted(its_ac, shift)).sum() for shift in shifts]
        best = int(np.argmax(common))
        if common[best] >= APART_MATCHING * its_dc.sum():
            found[span] = shifts[best]
    return found


def _shifted(values: Numbers, hours: int) -> Numbers:
    """Later by some hours, or earlier; what leaves the window is lost."""
    found = np.zeros(len(values))
    if abs(hours) < len(values):
        found[max(hours, 0) : len(values) + min(hours, 0)] = values[max(-hours, 0) : len(values) - max(hours, 0)]
    return found
