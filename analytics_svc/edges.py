"""What of stretches of charging lies beyond their spans, or is yet to be reported: estimated and taken off, or cut."""

import numpy as np

from analytics_svc.charging import NO_READING, Flags, Numbers, Places, SideHours, Times
from analytics_svc.stretches import HALF_REPORTED, LEVEL_US, MORE_THAN_AN_HOUR, MOST_OF_AN_HOUR, Aside, Stretches, Sums
from shared.timestamps import US_PER_HOUR

NEGLIGIBLE_SHARE = 0.03
"""Share of a stretch that one side may be ahead by: less than the difference between healthy and worn."""

ESTIMATED_SHARE = 0.25
"""Share of a stretch, at most, that is estimated and taken off; beyond, the estimate would make the ratio."""

ESTIMATE_ERROR = 0.25
"""By what share such an estimate may be wrong where a charge goes on for hours: power changes."""

FAR_MORE = 3.0
"""How many times what was drawn within an hour a vehicle must report in it to have reported a whole charge."""

SOON = 1.5
"""Intervals between readings after which a side is silent, not merely due."""


def adjust_ends(stretches: Stretches) -> None:
    """Takes off what only one side has reported, where the other has not come back; marks where that is much."""
    by_meters, vehicle_due = _ahead(
        stretches, stretches.meters, stretches.hours.draws, stretches.ac_sums, stretches.vehicle
    )
    by_vehicle, meters_due = _ahead(
        stretches, stretches.vehicle, stretches.hours.takes, stretches.dc_sums, stretches.meters
    )
    by_meters[stretches.nothing_taken] = 0.0
    if not (np.count_nonzero(by_meters) or np.count_nonzero(by_vehicle)):
        return
    # More of the vehicle would come on top of a ratio that is healthy already.
    healthy = (by_meters > 0) & stretches.both & ~stretches.out_of_range()
    much = (by_meters > NEGLIGIBLE_SHARE * stretches.ac) | (by_vehicle > NEGLIGIBLE_SHARE * stretches.dc)
    stretches.dc_more += np.where(much, 0.0, by_meters)
    stretches.ac_more += np.where(much, 0.0, by_vehicle)
    some = stretches.both & ~healthy
    brief = stretches.last == stretches.first
    ac_off = some & (by_meters > NEGLIGIBLE_SHARE * stretches.ac) & (by_meters <= ESTIMATED_SHARE * stretches.ac)
    dc_off = some & (by_vehicle > NEGLIGIBLE_SHARE * stretches.dc) & (by_vehicle <= ESTIMATED_SHARE * stretches.dc)
    stretches.take_off(Aside.UNDER_WAY, np.where(dc_off, by_vehicle, 0.0), np.where(ac_off, by_meters, 0.0))
    stretches.ac_more += np.where(ac_off, by_meters, 0.0)
    in_last = np.maximum(stretches.meters.kwh[stretches.last, stretches.span] - by_meters, 0.0)
    stretches.ac_less += np.where(ac_off, np.where(brief, in_last, ESTIMATE_ERROR * by_meters), 0.0)
    stretches.dc_more += np.where(dc_off, by_vehicle, 0.0)
    in_last = np.maximum(stretches.vehicle.kwh[stretches.last, stretches.span] - by_vehicle, 0.0)
    stretches.dc_less += np.where(dc_off, np.where(brief, in_last, ESTIMATE_ERROR * by_vehicle), 0.0)
    stretches.open_end = much & some & ~ac_off & ~dc_off
    stretches.estimated_end = ac_off | dc_off
    unmatched = much & ~stretches.both
    due = vehicle_due | meters_due
    stretches.silent_end = stretches.open_end & ~due
    stretches.set_aside(Aside.UNDER_WAY, unmatched & due)
    stretches.set_aside(Aside.SILENT, unmatched & ~due)


def _ahead(
    stretches: Stretches, side: SideHours, charges: Flags, sums: Sums, other: SideHours
) -> tuple[Numbers, Flags]:
    """What a side has reported of each stretch after the other's last reading, where that has not come back; and
    whether that is due.

    In the hour in which the other's last reading lies the energy is spread evenly, unless the charge ended there:
    then a silent side has reported all.
    """
    energy, due = np.zeros(len(stretches.span)), np.zeros(len(stretches.span), np.bool_)
    span, first, last = stretches.span, stretches.first, stretches.last
    other_us = other.last_us[last, span]
    ahead = side.last_us[last, span] > other_us
    if not np.count_nonzero(ahead):
        return energy, due
    in_hour = np.where(charges[last, span], last, np.maximum(last - 1, first))
    reported_us = side.last_us[in_hour, span]
    open_ = (other.last_us[-1, span] == other_us) & (reported_us > other_us) & charges[in_hour, span]
    at = open_.nonzero()[0]
    if not len(at):
        return energy, due
    span, first, other_us, in_hour, reported_us = span[at], first[at], other_us[at], in_hour[at], reported_us[at]
    due[at] = _due(stretches, other, span, other_us)
    before_us = side.last_us[in_hour - 1, span]
    in_previous = np.maximum(in_hour - 1, 1)
    part = _part_after(other_us, before_us, reported_us, side.kwh[in_hour, span])
    previous_us = side.last_us[in_previous - 1, span]
    previous_part = _part_after(other_us, previous_us, before_us, side.kwh[in_previous, span])
    since = np.clip(stretches.hour_number(span, other_us), first - 1, in_hour)
    deep = np.maximum(sums.within(span, since + 1, in_hour), side.kwh[in_hour, span])
    straddles = before_us < other_us
    previous = ~straddles & (in_hour > first) & (previous_us < other_us) & (before_us > other_us)
    ended = ~due[at] & ~_fell_silent(stretches, side, at)
    earlier = np.where(previous, side.kwh[in_hour, span] + previous_part, deep)
    energy[at] = np.where(straddles, np.where(ended, 0.0, part), earlier)
    return energy, due


def _fell_silent(stretches: Stretches, side: SideHours, at: Places) -> Flags:
    """Whether so little was reported by the other side that the charge cannot have ended with its last reading."""
    dc, ac = stretches.dc[at], stretches.ac[at]
    silent: Flags = dc < HALF_REPORTED * ac if side is stretches.meters else HALF_REPORTED * dc > ac
    return silent


def _due(stretches: Stretches, side: SideHours, span: Places, last_us: Times) -> Flags:
    """Whether so little time has passed since a side's last readings that more may be on the way."""
    at = stretches.hour_number(span, last_us)
    readings = np.maximum(side.readings[at, span], side.readings[np.maximum(at - 1, 0), span])
    known = last_us != NO_READING
    passed_us = np.where(known, stretches.spans.ends_us[-1, span] - last_us, 0)
    due: Flags = known & (passed_us * np.maximum(readings, 1) <= SOON * US_PER_HOUR)
    return due


def adjust_beginnings(stretches: Stretches) -> None:
    """Takes off what a side's first readings have of the time before the span; marks where that is much."""
    dc_off, dc_doubt, dc_back = _from_before(stretches, stretches.vehicle, stretches.meters, stretches.hours.draws)
    ac_off, ac_doubt, ac_back = _from_before(stretches, stretches.meters, stretches.vehicle, stretches.hours.takes)
    _leave_out_first_readings(stretches)
    if not (np.count_nonzero(dc_off) or np.count_nonzero(ac_off)):
        return
    much = (dc_off > ESTIMATED_SHARE * stretches.dc) | (ac_off > ESTIMATED_SHARE * stretches.ac)
    for at in (much & stretches.both).nonzero()[0].tolist():
        if np.isinf(dc_off[at]):
            dc_off[at] = _least_from_before(stretches, at)
        if np.isfinite(dc_off[at]) and np.isfinite(ac_off[at]):
            least_ac = stretches.ac[at] - ac_off[at] - ac_doubt[at]
            most_dc = stretches.dc[at] - dc_off[at] + dc_back[at]
            much[at] = most_dc >= stretches.limits.low_efficiency_below * least_ac
    stretches.open_beginning |= much
    for off in (dc_off, ac_off, dc_doubt, ac_doubt, dc_back, ac_back):
        off[stretches.open_beginning] = 0.0
    stretches.take_off(Aside.BEYOND, dc_off, ac_off)
    stretches.dc_less += dc_doubt
    stretches.dc_more += dc_back
    stretches.ac_less += ac_doubt
    stretches.ac_more += ac_back


def _least_from_before(stretches: Stretches, at: int) -> float:
    """Of what a vehicle that was silent for an hour before the span reports of a charge under way: what belongs to that
    hour, if the meters drew in it as in the others up to the report; it may be more. Infinite if they did not."""
    span, first, last = stretches.span[at], stretches.first[at], stretches.last[at]
    ends_us, start_us = stretches.spans.ends_us[:, span], stretches.spans.starts_us[span]
    drawn_up_to_report = stretches.hours.draws[first : stretches.first_report(at), span].all()
    throughout = ends_us[first - 1] - start_us < LEVEL_US and drawn_up_to_report
    before, most = stretches.meters.kwh[0, span], stretches.meters.kwh[first : last + 1, span].max()
    if not throughout or before < MOST_OF_AN_HOUR * most:
        return np.inf
    return float(stretches.dc[at] * before / (stretches.ac[at] + before))


def _from_before(
    stretches: Stretches, side: SideHours, other: SideHours, other_charges: Flags
) -> tuple[Numbers, Numbers, Numbers]:
    """The energy in a side's first readings of each stretch from before the other's last reading before the span,
    infinite where it cannot be told; by how much more it may be, and by how much less."""
    energy, doubt, too_much = np.zeros((3, len(stretches.span)))
    at = other_charges[0, stretches.span].nonzero()[0]
    if not len(at):
        return energy, doubt, too_much
    span, first = stretches.span[at], stretches.first[at]
    starts_us = stretches.spans.starts_us[span]
    since_us, other_us = side.last_us[0, span], other.last_us[0, span]
    readings = side.readings[0, span]
    gap_us = np.where(since_us == NO_READING, 0, starts_us - since_us)
    silent = (readings > 1) & (gap_us * readings > SOON * US_PER_HOUR)
    complete = _complete(stretches, side, span)
    crosses = (side.last_us[first - 1, span] <= starts_us) & (since_us < other_us) & ~silent & (complete < 2)
    at = at[crosses]
    if not len(at):
        return energy, doubt, too_much
    span, first, last = stretches.span[at], stretches.first[at], stretches.last[at]
    since_us, other_us, complete = since_us[crosses], other_us[crosses], complete[crosses]
    number = np.arange(len(side.readings))[:, None]
    hour = np.minimum(((side.readings[:, span] > 0) & (number >= first)).argmax(axis=0), last)
    hour = np.maximum(hour, first)
    kwh, others = side.kwh[hour, span], other.kwh[0, span]
    unknown = since_us == NO_READING
    since_us = np.where(unknown, other_us - 1, since_us)
    share = (other_us - since_us) / np.maximum(side.last_us[hour, span] - since_us, 1)
    found = np.minimum(kwh * np.where(unknown, 1.0, np.clip(share, 0.0, 1.0)), 1.05 * others)
    steady = others > 0.5 * other.kwh[np.minimum(first + 1, last), span]
    found[(unknown & steady) | (kwh <= 0)] = np.inf
    energy[at] = found
    found = np.where(np.isfinite(found), found, 0.0)
    at_once = last == hour
    most = np.minimum(kwh, others if side is stretches.vehicle else others / stretches.limits.low_efficiency_below)
    doubt[at] = np.where(at_once, np.maximum(most - found, 0.0), ESTIMATE_ERROR * found)
    too_much[at] = np.where((complete == 1) | unknown, found, ESTIMATE_ERROR * found)
    return energy, doubt, too_much


def _complete(stretches: Stretches, side: SideHours, span: Places) -> Places:
    """Whether a side may have reported all of what the other charged in the hour before, 1, or surely has, 2."""
    dc, ac, limits = stretches.vehicle.kwh[0, span], stretches.meters.kwh[0, span], stretches.limits
    if side is stretches.vehicle:
        complete: Places = (dc >= limits.low_efficiency_below * ac).astype(np.intp) + (dc > FAR_MORE * ac)
    else:
        complete = (dc <= limits.implausible_above * ac).astype(np.intp)
    return complete


def _leave_out_first_readings(stretches: Stretches) -> None:
    """Marks stretches that begin with more than charging explains: a first reading after silence that stands for
    more time than the span has."""
    suspects = stretches.both & stretches.out_of_range()
    if not np.count_nonzero(suspects):
        return
    fresh_dc, fresh_ac = stretches.fresh(stretches.vehicle), stretches.fresh(stretches.meters)
    fresh_ac &= stretches.may_owe_energy()
    suspects &= fresh_dc | fresh_ac
    for at in suspects.nonzero()[0].tolist():
        low = stretches.dc[at] < stretches.ac[at]
        side, fresh = (stretches.meters, fresh_ac) if low else (stretches.vehicle, fresh_dc)
        if not fresh[at]:
            continue
        kwh = side.kwh[stretches.first[at] : stretches.last[at] + 1, stretches.span[at]]
        hour = int((kwh > 0).argmax())
        others = kwh[hour + 1 :]
        if len(others) and kwh[hour] > MORE_THAN_AN_HOUR * others.max():
            stretches.open_beginning[at] = True
            stretches.first_known[at] = stretches.first[at] + hour


def cut(stretches: Stretches) -> None:
    """Cuts open stretches where both sides are level."""
    at = ((stretches.open_end | stretches.open_beginning) & stretches.both).nonzero()[0]
    if not len(at):
        return
    span = stretches.span[at]
    vehicle_us, meters_us = stretches.vehicle.last_us[:, span], stretches.meters.last_us[:, span]
    level = (np.abs(vehicle_us - meters_us) <= LEVEL_US) & (vehicle_us > stretches.spans.ends_us[:, span] - US_PER_HOUR)
    number, each = np.arange(len(level))[:, None], np.arange(len(at))
    next_level = np.minimum.accumulate(np.where(level, number, len(level))[::-1], axis=0)[::-1]
    last_level = np.maximum.accumulate(np.where(level, number, -1), axis=0)
    ends_open, first, last = stretches.open_end[at], stretches.first[at], stretches.last[at]
    first = np.where(stretches.open_beginning[at], next_level[stretches.first_known[at], each] + 1, first)
    last = np.where(ends_open, last_level[last, each], last)
    some = first <= last
    first, last = np.where(some, first, 1), np.where(some, last, 1)
    dc = stretches.dc_sums.within(span, first, last) - stretches.off_dc[at]
    ac = stretches.ac_sums.within(span, first, last) - stretches.off_ac[at]
    some &= (dc > 0) & (ac > 0)
    dc, ac = np.where(some, dc, 0.0), np.where(some, ac, 0.0)
    left_dc, left_ac = np.maximum(stretches.dc[at] - dc, 0.0), np.maximum(stretches.ac[at] - ac, 0.0)
    silent = stretches.silent_end[at]
    reasons = ((Aside.SILENT, silent), (Aside.UNDER_WAY, ends_open & ~silent), (Aside.BEYOND, ~ends_open & ~silent))
    for aside, its in reasons:
        stretches.add_aside(aside, at[its], left_dc[its], left_ac[its])
    stretches.dc[at], stretches.ac[at] = dc, ac
    stretches.cut_first, stretches.cut_last = stretches.first.copy(), stretches.last.copy()
    stretches.cut_first[at], stretches.cut_last[at] = first, last
    stretches.both[at] &= some


def _part_after(us: Times, since_us: Times, until_us: Times, kwh: Numbers) -> Numbers:
    """What of energies that stand for some time came after an instant in it, spread evenly over an hour of it."""
    since_us = np.maximum(since_us, us - US_PER_HOUR)
    part: Numbers = kwh * np.clip((until_us - us) / np.maximum(until_us - since_us, 1), 0.0, 1.0)
    return part
