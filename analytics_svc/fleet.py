"""Judges a fleet: which vehicles answer a question, in which order, and what they come to together. Pure."""

import asyncio
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import fsum
from operator import itemgetter
from typing import NamedTuple

from analytics_svc.fleet_queries import SLICE_VEHICLES, FleetTotals
from analytics_svc.parse import FleetQuestion, Order, Window
from analytics_svc.performance import Performance, Totals, Verdict, efficiency_ratio, judge, kwh_lost
from shared.config import AnalyticsSettings
from shared.db.reader import Answer

_COMPARABLE = (Verdict.OK, Verdict.LOW_EFFICIENCY)
"""The verdicts whose vehicles have both sides whole."""


class JudgedVehicle(NamedTuple):
    """A vehicle of a list."""

    vehicle_id: str
    totals: Totals
    performance: Performance


@dataclass(frozen=True, slots=True)
class GroupTotals:
    """What some vehicles come to together. Energy in kWh, None where no reading came."""

    vehicles: int
    kwh_delivered_dc: float | None
    kwh_consumed_ac: float | None
    vehicle_readings: int
    meter_readings: int

    @classmethod
    def of(cls, vehicles: Sequence[JudgedVehicle]) -> "GroupTotals":
        """Of vehicles, the same in any order."""
        totals = [each.totals for each in vehicles]
        return cls(
            len(totals),
            _sum(each.kwh_delivered_dc for each in totals),
            _sum(each.kwh_consumed_ac for each in totals),
            sum(each.vehicle_readings for each in totals),
            sum(each.meter_readings for each in totals),
        )

    @classmethod
    def together(cls, groups: Sequence["GroupTotals"]) -> "GroupTotals":
        """Of groups that have no vehicle in common."""
        return cls(
            sum(each.vehicles for each in groups),
            _sum(each.kwh_delivered_dc for each in groups),
            _sum(each.kwh_consumed_ac for each in groups),
            sum(each.vehicle_readings for each in groups),
            sum(each.meter_readings for each in groups),
        )


@dataclass(frozen=True, slots=True)
class FleetResult:
    """The answer to a question about a fleet, of which pages are parts."""

    window: Window
    vehicles: Sequence[JudgedVehicle]
    """Those that were asked for, in the order that was asked for."""
    totals: GroupTotals
    """Of all vehicles that the question is about, whatever their verdict."""
    by_verdict: dict[Verdict, GroupTotals]
    efficiency_ratio: float | None
    """Of the vehicles that have both sides whole, and so is the next."""
    kwh_lost: float | None
    unknown_vehicle_ids: Sequence[str]
    as_of_us: int
    """Up to when it is complete."""


async def judge_fleet(
    question: FleetQuestion, window: Window, answer: Answer[FleetTotals], limits: AnalyticsSettings
) -> FleetResult:
    """The verdicts, order and totals of the vehicles that were found. Lets other calls have their turn in between."""
    found = answer.told
    judged: list[JudgedVehicle] = []
    for start in range(0, len(found), SLICE_VEHICLES):
        judged += [
            JudgedVehicle(vehicle_id, totals, judge(totals, limits))
            for vehicle_id, totals in found[start : start + SLICE_VEHICLES]
        ]
        await asyncio.sleep(0)
    groups: dict[Verdict, list[JudgedVehicle]] = {verdict: [] for verdict in Verdict}
    for each in judged:
        groups[each.performance.verdict].append(each)
    await asyncio.sleep(0)
    by_verdict = {verdict: GroupTotals.of(group) for verdict, group in groups.items()}
    comparable = GroupTotals.together([by_verdict[verdict] for verdict in _COMPARABLE])
    await asyncio.sleep(0)
    wanted = [each for verdict in question.verdicts or Verdict for each in groups[verdict]]
    return FleetResult(
        window,
        in_order(wanted, question.order),
        GroupTotals.together(list(by_verdict.values())),
        by_verdict,
        efficiency_ratio(comparable.kwh_delivered_dc, comparable.kwh_consumed_ac),
        kwh_lost(comparable.kwh_delivered_dc, comparable.kwh_consumed_ac),
        sorted(question.vehicle_ids - {each.vehicle_id for each in judged}) if question.vehicle_ids else (),
        answer.as_of_us,
    )


def in_order(vehicles: Iterable[JudgedVehicle], order: Order) -> list[JudgedVehicle]:
    """The worst first; those without the number that counts last; alike ones by id."""
    by_loss = order is Order.KWH_LOST
    numbered: list[tuple[float, JudgedVehicle]] = []
    unnumbered: list[JudgedVehicle] = []
    # Sorted by one plain value after the other: by a tuple it would take three times as long.
    for vehicle in sorted(vehicles, key=itemgetter(0)):
        performance = vehicle.performance
        number = performance.kwh_lost if by_loss else performance.efficiency_ratio
        if number is None:
            unnumbered.append(vehicle)
        else:
            numbered.append((-number if by_loss else number, vehicle))
    numbered.sort(key=itemgetter(0))
    return [vehicle for _, vehicle in numbered] + unnumbered


def _sum(energies: Iterable[float | None]) -> float | None:
    """None where there are none."""
    present = [energy for energy in energies if energy is not None]
    return fsum(present) if present else None
