"""A meter with all that is said of it."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from analytics_svc.performance import Performance
from analytics_svc.totals import Totals

IDS_TOLD_MAX = 20
"""Vehicles of a meter that are told by id, and meters beside it: a shared charger's day."""


@dataclass(frozen=True, slots=True)
class Told:
    """Some ids: the first ones in order, and how many there are."""

    count: int
    ids: Sequence[str]

    @classmethod
    def of(cls, ids: Iterable[str]) -> "Told":
        found = sorted(set(ids))
        return cls(len(found), found[:IDS_TOLD_MAX])


class JudgedMeter(NamedTuple):
    meter_id: str
    totals: Totals
    """What it drew while it fed vehicles, and what they took meanwhile."""
    performance: Performance
    kwh_unmapped: float | None
    """What it drew while it fed none."""
    readings_unmapped: int
    vehicles: Told
    shared_with: Told
    """The meters that fed one of the vehicles at the same time."""
