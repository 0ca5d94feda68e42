"""Finds, filters, orders and adds up the verdicts of meters. Pure.

A meter is judged as a vehicle is, by the same judge: by all that is compared of the vehicles that it fed.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import fsum
from typing import NamedTuple

import numpy as np

from analytics_svc.charging import Counts, Numbers, Places
from analytics_svc.fleet_performance import positions_by_verdict, ranked_by, worst_first
from analytics_svc.judged_meter import JudgedMeter, Told
from analytics_svc.meter_tables import MeterTable
from analytics_svc.performance import Judgement, Performance, Thresholds, VerdictReason, judge
from analytics_svc.questions import MeterQuestion, Verdict, Window
from analytics_svc.reader import QueryResult
from analytics_svc.totals import Totals


class MeterGroup(NamedTuple):
    """The sums of some meters. Energy in kWh, None without a reading."""

    meters: int
    kwh_consumed_ac: float | None
    kwh_unmapped: float | None
    readings: int
    readings_unmapped: int

    @classmethod
    def of(cls, found: MeterTable, positions: Places) -> "MeterGroup":
        """Of the meters at these positions, the same in any order."""

        def energy(kwh: Numbers, readings: Counts) -> tuple[float | None, int]:
            count = int(readings[positions].sum())
            return (fsum(kwh[positions].tolist()) if count else None), count

        kwh, readings = energy(found.fed.kwh_consumed_ac, found.fed.meter_readings)
        kwh_unmapped, readings_unmapped = energy(found.unmapped.kwh, found.unmapped.readings)
        return cls(len(positions), kwh, kwh_unmapped, readings, readings_unmapped)


@dataclass(frozen=True, slots=True)
class MeterResult:
    """The answer to a MeterQuestion, of which pages are parts."""

    window: Window
    found: MeterTable
    """All meters that the question is about, whatever their verdict."""
    judgement: Judgement
    positions: Sequence[int]
    """Of the meters in `found` that have one of the question's verdicts, in its order."""
    totals: MeterGroup
    """Of all that are in `found`."""
    by_verdict: dict[Verdict, MeterGroup]
    unknown_meter_ids: Sequence[str]
    as_of_us: int
    """Up to when it is complete."""

    @property
    def rows(self) -> int:
        return len(self.found.fed)

    def page(self, start: int, end: int) -> list[JudgedMeter]:
        """The meters from one of `positions` up to another."""
        its, fed = self.positions[start:end], self.found.fed
        totals = fed.of(its)
        performances = self.judgement.of(its, totals, fed.comparison)
        return list(map(self._judged, its, totals, performances))

    def _judged(self, position: int, totals: Totals, performance: Performance) -> JudgedMeter:
        found = self.found
        meter_id = found.fed.vehicle_ids[position]
        readings_unmapped = found.unmapped.readings.item(position)
        shared_with = Told.of(found.shared_with.get(meter_id, ()))
        if shared_with.count:  # what the vehicles took is not its own
            performance = performance._replace(efficiency_ratio=None, kwh_lost=None)
        return JudgedMeter(
            meter_id,
            totals,
            performance,
            found.unmapped.kwh.item(position) if readings_unmapped else None,
            readings_unmapped,
            Told.of(found.vehicles.get(meter_id, ())),
            shared_with,
        )


def judge_meters(found: MeterTable, thresholds: Thresholds) -> Judgement:
    """The verdicts of meters: never NO_METER."""
    judgement = judge(found.fed, thresholds)
    fed_none = judgement.reasons == VerdictReason.NO_MAPPING.number
    judgement.reasons[fed_none] = VerdictReason.FED_NO_VEHICLE.number
    return judgement


def meter_result(
    question: MeterQuestion, window: Window, answer: QueryResult[MeterTable], judgement: Judgement
) -> MeterResult:
    """The verdicts, order and totals of the meters that were found."""
    found = answer.value
    positions = positions_by_verdict(judgement)
    wanted = np.concatenate([positions[verdict] for verdict in question.verdicts or Verdict])
    return MeterResult(
        window,
        found,
        judgement,
        worst_first(wanted, found.fed.by_id, ranked_by(question.order, judgement)),
        MeterGroup.of(found, np.arange(len(found.fed))),
        {verdict: MeterGroup.of(found, its) for verdict, its in positions.items() if verdict is not Verdict.NO_METER},
        sorted(question.meter_ids.difference(found.fed.vehicle_ids)),
        answer.as_of_us,
    )
