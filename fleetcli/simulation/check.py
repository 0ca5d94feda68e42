"""Holds the analytics service's answers against the simulator's ground truth."""

import asyncio
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import isclose

from google.protobuf.message import Message

from fleetcli.client.services import AnalyticsClient, Performance, finding_of, verdict_of
from fleetcli.simulation.truth import VehicleTruth

SUMS_AGREE_WITHIN = 1e-9
"""Relative. A day's sum of doubles differs by 1e-13 or so with the order of its terms; a reading too many by 1e-4."""

NORMAL_WITHIN = 0.01
"""Relative. The first charges and the last ones before the span may be left out."""

_QUESTIONS_AT_ONCE = 8


@dataclass(frozen=True, slots=True)
class Checked:
    """One vehicle's answer, what was true, and in what they differ: a phrase each."""

    truth: VehicleTruth
    answer: Performance
    differences: Sequence[str]


async def check_fleet(
    client: AnalyticsClient, truths: Sequence[VehicleTruth], start_us: int, end_us: int
) -> list[Checked]:
    """Asks about every vehicle over `(start_us, end_us]`. Raises ClientError."""
    free = asyncio.Semaphore(_QUESTIONS_AT_ONCE)

    async def check(truth: VehicleTruth) -> Checked:
        async with free:
            answer = await client.performance(truth.vehicle_id, start_us, end_us)
        return Checked(truth, answer, list(differences(truth, answer)))

    return await asyncio.gather(*(check(truth) for truth in truths))


def differences(truth: VehicleTruth, answer: Performance) -> Iterator[str]:
    """In what an answer differs from the truth. Sums may differ by SUMS_AGREE_WITHIN, everything else must be equal."""
    for name, value in (
        ("kwh_delivered_dc", truth.kwh_delivered_dc),
        ("kwh_consumed_ac", truth.kwh_consumed_ac),
        ("kwh_returned_dc", truth.kwh_returned_dc),
        ("kwh_returned_ac", truth.kwh_returned_ac),
        ("efficiency_ratio", truth.efficiency_ratio),
        ("average_battery_temp", truth.average_battery_temp),
    ):
        answered = _answered(answer, name)
        if not _agree(value, answered):
            yield f"{name} is {answered!r} instead of {value!r}"
    for name, count in (("vehicle_readings", truth.vehicle_readings), ("meter_readings", truth.meter_readings)):
        if getattr(answer, name) != count:
            yield f"{name} is {getattr(answer, name)} instead of {count}"
    answered_normal = _answered(answer, "baseline_ratio")
    if not _agree(truth.baseline_ratio, answered_normal, NORMAL_WITHIN):
        yield f"baseline_ratio is {answered_normal!r} instead of {truth.baseline_ratio!r}"
    told = any(finding_of(each) == "RATIO_DROPPED" for each in answer.findings)
    if truth.has_dropped not in (None, told):
        yield f"RATIO_DROPPED is {'' if told else 'not '}told"
    if verdict_of(answer) not in truth.verdicts:
        yield f"verdict is {verdict_of(answer)} instead of {truth.verdict}"


def _answered(answer: Message, field: str) -> float | None:
    return getattr(answer, field) if answer.HasField(field) else None


def _agree(value: float | None, answered: float | None, within: float = SUMS_AGREE_WITHIN) -> bool:
    if value is None or answered is None:
        return value is answered
    return isclose(value, answered, rel_tol=within)
