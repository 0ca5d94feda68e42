"""Finds, filters, orders and adds up the verdicts of a fleet. Pure."""

import asyncio
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import fsum
from operator import itemgetter
from typing import NamedTuple

from analytics_svc.performance import Performance, Thresholds, efficiency_ratio, judge, kwh_lost
from analytics_svc.questions import FleetQuestion, Order, Verdict, Window
from analytics_svc.reader import QueryResult
from analytics_svc.totals import SLICE_VEHICLES, FleetTotals, Totals

_COMPARABLE = (Verdict.OK, Verdict.LOW_EFFICIENCY)
"""The verdicts of vehicles with enough evidence on both sides, and plausible numbers."""


class JudgedVehicle(NamedTuple):
    vehicle_id: str
    totals: Totals
    performance: Performance


@dataclass(frozen=True, slots=True)
class GroupTotals:
    """The sums of some vehicles. Energy in kWh, None without a reading."""

    vehicles: int
    kwh_delivered_dc: float | None
    kwh_consumed_ac: float | None
    vehicle_readings: int
    meter_readings: int
    kwh_returned_dc: float | None
    kwh_returned_ac: float | None

    @classmethod
    def of(cls, found: FleetTotals, positions: Sequence[int]) -> "GroupTotals":
        """Of the vehicles at these positions, the same in any order."""
        delivered = _sum(map(found.kwh_delivered_dc.__getitem__, positions))
        consumed = _sum(map(found.kwh_consumed_ac.__getitem__, positions))
        # Most have returned nothing.
        returned_dc = fsum(filter(None, map(found.kwh_returned_dc.__getitem__, positions)))
        returned_ac = fsum(filter(None, map(found.kwh_returned_ac.__getitem__, positions)))
        return cls(
            len(positions),
            delivered,
            consumed,
            sum(map(found.vehicle_readings.__getitem__, positions)),
            sum(map(found.meter_readings.__getitem__, positions)),
            None if delivered is None else returned_dc,
            None if consumed is None else returned_ac,
        )

    @classmethod
    def combined(cls, groups: Sequence["GroupTotals"]) -> "GroupTotals":
        """Of groups that have no vehicle in common."""
        return cls(
            sum(each.vehicles for each in groups),
            _sum(each.kwh_delivered_dc for each in groups),
            _sum(each.kwh_consumed_ac for each in groups),
            sum(each.vehicle_readings for each in groups),
            sum(each.meter_readings for each in groups),
            _sum(each.kwh_returned_dc for each in groups),
            _sum(each.kwh_returned_ac for each in groups),
        )


@dataclass(frozen=True, slots=True)
class FleetResult:
    """The answer to a FleetQuestion, of which pages are parts."""

    window: Window
    found: FleetTotals
    """All vehicles that the question is about, whatever their verdict."""
    positions: Sequence[int]
    """Of the vehicles in `found` that have one of the question's verdicts, in its order."""
    totals: GroupTotals
    """Of all that are in `found`."""
    by_verdict: dict[Verdict, GroupTotals]
    efficiency_ratio: float | None
    """This and the next of the vehicles whose verdicts are OK or LOW_EFFICIENCY."""
    kwh_lost: float | None
    unknown_vehicle_ids: Sequence[str]
    as_of_us: int
    """Up to when it is complete."""

    def page(self, start: int, end: int, thresholds: Thresholds) -> list[JudgedVehicle]:
        """The vehicles from one of `positions` up to another."""
        page = [(self.found.vehicle_ids[position], self.found.at(position)) for position in self.positions[start:end]]
        return [JudgedVehicle(vehicle_id, totals, judge(totals, thresholds)) for vehicle_id, totals in page]


async def judge_fleet(
    question: FleetQuestion, window: Window, answer: QueryResult[FleetTotals], thresholds: Thresholds
) -> FleetResult:
    """The verdicts, order and totals of the vehicles that were found. Lets other calls run in between."""
    found, by_loss = answer.value, question.order is Order.KWH_LOST
    positions: dict[Verdict, list[int]] = {verdict: [] for verdict in Verdict}
    numbers: list[float | None] = []
    for start in range(0, len(found), SLICE_VEHICLES):
        for totals in found.within(start, start + SLICE_VEHICLES):
            performance = judge(totals, thresholds)
            positions[performance.verdict].append(len(numbers))
            numbers.append(performance.kwh_lost if by_loss else performance.compared_ratio)
        await asyncio.sleep(0)
    by_verdict = {verdict: GroupTotals.of(found, its) for verdict, its in positions.items()}
    comparable = GroupTotals.combined([by_verdict[verdict] for verdict in _COMPARABLE])
    await asyncio.sleep(0)
    wanted = [position for verdict in question.verdicts or Verdict for position in positions[verdict]]
    wanted.sort(key=found.vehicle_ids.__getitem__)
    return FleetResult(
        window,
        found,
        worst_first(wanted, numbers, by_loss=by_loss),
        GroupTotals.combined(list(by_verdict.values())),
        by_verdict,
        efficiency_ratio(comparable.kwh_delivered_dc, comparable.kwh_consumed_ac, comparable.kwh_returned_ac),
        kwh_lost(comparable.kwh_delivered_dc, comparable.kwh_consumed_ac),
        sorted(question.vehicle_ids.difference(found.vehicle_ids)),
        answer.as_of_us,
    )


def worst_first(positions: Sequence[int], numbers: Sequence[float | None], *, by_loss: bool) -> list[int]:
    """The smallest ratio or the greatest loss first, those without the number last; equal ones stay in their order."""
    numbered = [(number, position) for position in positions if (number := numbers[position]) is not None]
    numbered.sort(key=itemgetter(0), reverse=by_loss)
    return [position for _, position in numbered] + [position for position in positions if numbers[position] is None]


def _sum(energies: Iterable[float | None]) -> float | None:
    present = [energy for energy in energies if energy is not None]
    return fsum(present) if present else None
