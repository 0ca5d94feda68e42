"""Finds, filters, orders and adds up the verdicts of a fleet. Pure."""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import fsum
from typing import NamedTuple

import numpy as np

from analytics_svc.baseline_result import NO_BASELINE, Baseline, Baselines
from analytics_svc.charging import Numbers, Places
from analytics_svc.performance import Judgement, Performance, VerdictReason
from analytics_svc.questions import FleetQuestion, Order, Verdict, Window
from analytics_svc.reader import QueryResult
from analytics_svc.totals import FleetTotals, Totals

_COMPARABLE = (Verdict.OK, Verdict.LOW_EFFICIENCY)
"""The verdicts of vehicles with enough evidence on both sides, and plausible numbers."""


class JudgedVehicle(NamedTuple):
    vehicle_id: str
    totals: Totals
    performance: Performance
    meter_ids: Sequence[str]
    """The meters that fed it, where its charger should be inspected."""
    baseline: Baseline = NO_BASELINE
    """What is normal for it."""


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
    kwh_consumed_ac_idle: float | None
    kwh_delivered_dc_unmapped: float | None

    @classmethod
    def of(cls, found: FleetTotals, positions: Places) -> "GroupTotals":
        """Of the vehicles at these positions, the same in any order."""
        vehicle_readings = int(found.vehicle_readings[positions].sum())
        meter_readings = int(found.meter_readings[positions].sum())

        def energy(values: Numbers, readings: int) -> float | None:
            its = values[positions]
            return (fsum(its.tolist()) if its.any() else 0.0) if readings else None

        return cls(
            len(positions),
            energy(found.kwh_delivered_dc, vehicle_readings),
            energy(found.kwh_consumed_ac, meter_readings),
            vehicle_readings,
            meter_readings,
            energy(found.kwh_returned_dc, vehicle_readings),
            energy(found.kwh_returned_ac, meter_readings),
            energy(found.comparison.idle, meter_readings),
            energy(found.kwh_delivered_dc_unmapped, vehicle_readings),
        )

    @classmethod
    def combined(cls, groups: Sequence["GroupTotals"]) -> "GroupTotals":
        """Of groups that have no vehicle in common."""

        def energy(name: str) -> float | None:
            present = [value for each in groups if (value := getattr(each, name)) is not None]
            return fsum(present) if present else None

        return cls(
            vehicles=sum(each.vehicles for each in groups),
            kwh_delivered_dc=energy("kwh_delivered_dc"),
            kwh_consumed_ac=energy("kwh_consumed_ac"),
            vehicle_readings=sum(each.vehicle_readings for each in groups),
            meter_readings=sum(each.meter_readings for each in groups),
            kwh_returned_dc=energy("kwh_returned_dc"),
            kwh_returned_ac=energy("kwh_returned_ac"),
            kwh_consumed_ac_idle=energy("kwh_consumed_ac_idle"),
            kwh_delivered_dc_unmapped=energy("kwh_delivered_dc_unmapped"),
        )


@dataclass(frozen=True, slots=True)
class FleetResult:
    """The answer to a FleetQuestion, of which pages are parts."""

    window: Window
    found: FleetTotals
    """All vehicles that the question is about, whatever their verdict."""
    judgement: Judgement
    baselines: Baselines
    positions: Sequence[int]
    """Of the vehicles in `found` that have one of the question's verdicts, in its order."""
    totals: GroupTotals
    """Of all that are in `found`."""
    by_verdict: dict[Verdict, GroupTotals]
    efficiency_ratio: float | None
    """This and the next are of what is compared of the vehicles whose verdicts are OK or LOW_EFFICIENCY."""
    kwh_lost: float | None
    unknown_vehicle_ids: Sequence[str]
    as_of_us: int
    """Up to when it is complete."""
    meters_of: Mapping[str, Sequence[str]] = field(default_factory=dict)
    """The meters of the vehicles whose charger should be inspected."""

    @property
    def rows(self) -> int:
        return len(self.found)

    def page(self, start: int, end: int) -> list[JudgedVehicle]:
        """The vehicles from one of `positions` up to another."""
        its = self.positions[start:end]
        totals = self.found.of(its)
        performances = self.judgement.of(its, totals, self.found.comparison)
        vehicle_ids = [self.found.vehicle_ids[position] for position in its]
        meter_ids = [self.meters_of.get(vehicle_id, ()) for vehicle_id in vehicle_ids]
        baselines = map(self.baselines.at, its)
        return list(map(JudgedVehicle, vehicle_ids, totals, performances, meter_ids, baselines))

    @property
    def low_efficiency_ids(self) -> list[str]:
        """The vehicles on its pages whose charger should be inspected."""
        low = self.judgement.reasons == VerdictReason.BELOW_LIMIT.number
        return [self.found.vehicle_ids[position] for position in self.positions if low[position]]


async def fleet_result(
    question: FleetQuestion,
    window: Window,
    answer: QueryResult[FleetTotals],
    judgement: Judgement,
    baselines: Baselines,
) -> FleetResult:
    """The verdicts, order and totals of the vehicles that were found. Lets other calls run in between."""
    found = answer.value
    positions = positions_by_verdict(judgement)
    by_verdict = {verdict: GroupTotals.of(found, its) for verdict, its in positions.items()}
    await asyncio.sleep(0)
    comparable = np.concatenate([positions[verdict] for verdict in _COMPARABLE])
    dc, ac = fsum(judgement.dc[comparable].tolist()), fsum(judgement.ac[comparable].tolist())
    wanted = np.concatenate([positions[verdict] for verdict in question.verdicts or Verdict])
    return FleetResult(
        window,
        found,
        judgement,
        baselines,
        worst_first(wanted, found.by_id, _ranked(question.order, judgement, baselines)),
        GroupTotals.combined(list(by_verdict.values())),
        by_verdict,
        dc / ac if len(comparable) else None,
        ac - dc if len(comparable) else None,
        sorted(question.vehicle_ids.difference(found.vehicle_ids)),
        answer.as_of_us,
    )


def positions_by_verdict(judgement: Judgement) -> dict[Verdict, Places]:
    """The positions of what has each verdict."""
    return {
        verdict: np.flatnonzero(
            np.isin(judgement.reasons, [each.number for each in VerdictReason if each.verdict is verdict])
        )
        for verdict in Verdict
    }


def _ranked(order: Order, judgement: Judgement, baselines: Baselines) -> Numbers:
    return baselines.change if order is Order.DROP else ranked_by(order, judgement)


def ranked_by(order: Order, judgement: Judgement) -> Numbers:
    """The numbers that an order goes by, the worst the smallest; NaN where nothing can be compared."""
    return judgement.dc - judgement.ac if order is Order.KWH_LOST else judgement.ratio


def worst_first(positions: Places, by_id: Sequence[int], numbers: Numbers) -> list[int]:
    """Some vehicles, the smallest number first and those without one, NaN, last; of equal ones the lower id first."""
    wanted = np.zeros(len(numbers), np.bool_)
    wanted[positions] = True
    its = np.asarray(by_id, np.intp)
    its = its[wanted[its]]
    found: list[int] = its[np.argsort(numbers[its], kind="stable")].tolist()
    return found
