"""docs/verdicts.md: whatever it says that the service answers, is answered for the readings that it names."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from energyfleet.v1 import analytics_service_pb2 as wire
from energyfleet.v1.ingestion_service_pb2 import MapVehicleRequest
from energyfleet.v1.telemetry_pb2 import Telemetry

from shared.timestamps import US_PER_DAY, proto_from_us
from tests.acceptance.field_cases import send
from tests.acceptance.test_verdict_cases import CASES, DAY_US, Case, at, meter, vehicle
from tests.builders import a_vehicle_reading

if TYPE_CHECKING:  # in the stubs' types only
    from energyfleet.v1.analytics_service_pb2_grpc import AnalyticsServiceAsyncStub
    from energyfleet.v1.ingestion_service_pb2_grpc import IngestionServiceAsyncStub

pytestmark = pytest.mark.one_server

DOCUMENT = Path(__file__).parents[2] / "docs" / "verdicts.md"
SAID = re.compile(r"^> (.+)$", re.MULTILINE)

OTHERS = {
    "worn charger": Case([*meter(15, 1.85, "06:00", "09:00"), *vehicle(15, 1.4, "06:00", "09:00")], "LOW_EFFICIENCY"),
    "half a meter": Case([*meter(15, 0.925, "18:00", "22:00"), *vehicle(15, 1.665, "18:00", "22:00")], "IMPLAUSIBLE"),
    "a depot's meter": Case([*meter(15, 1.85, "18:00", "22:00"), *vehicle(15, 0.37, "18:00", "22:00")], "IMPLAUSIBLE"),
    "too little": Case([*meter(15, 0.1, "18:00", "19:00"), *vehicle(15, 0.09, "18:00", "19:00")], "INSUFFICIENT_DATA"),
    "parked": Case([], "INSUFFICIENT_DATA"),
    "another day's mapping": Case(
        [a_vehicle_reading(ts_us=at("19:00"), kwh_delivered_dc=6.66)],
        "NO_METER",
        mapped=(DAY_US - 3 * US_PER_DAY, DAY_US - US_PER_DAY),
    ),
    "silent car": Case(
        [*meter(15, 1.85, "18:00", "22:00"), a_vehicle_reading(ts_us=at("18:00"), kwh_delivered_dc=0.0)],
        "INSUFFICIENT_DATA",
        end_us=at("22:00"),
    ),
    "absent car": Case(meter(15, 1.85, "18:00", "22:00"), "INSUFFICIENT_DATA"),
    "Wh for kWh": Case(
        [*meter(15, 0, "17:45", "18:00"), *meter(15, 905, "18:00", "21:00"), *vehicle(15, 0.8, "18:00", "21:00")],
        "IMPLAUSIBLE",
    ),
    "the window begins in a long interval": Case(
        [*meter(15, 1.85, "16:00", "20:00"), a_vehicle_reading(ts_us=at("20:03"), kwh_delivered_dc=26.64)],
        "INSUFFICIENT_DATA",
        start_us=at("18:00"),
    ),
    "a charge goes on": Case(
        [*meter(60, 7.4, "17:00", "19:00"), *vehicle(1, 0.111, "17:00", "19:45")], "OK", end_us=at("19:45")
    ),
}


def under(name: str, reading: Telemetry) -> Telemetry:
    """The same of another pair."""
    renamed = Telemetry()
    renamed.CopyFrom(reading)
    if renamed.HasField("meter"):
        renamed.meter.meter_id = f"meter of {name}"
    else:
        renamed.vehicle.vehicle_id = f"vehicle of {name}"
    return renamed


async def test_every_sentence_that_is_quoted_is_answered_for_one_of_the_cases(
    ingest: IngestionServiceAsyncStub, ask: AnalyticsServiceAsyncStub
) -> None:
    said: set[str] = set()
    cases = CASES | OTHERS
    for name, case in (cases | {"PARKED": OTHERS["parked"]}).items():
        if case.readings:
            await send(ingest, *(under(name, each) for each in case.readings))
        since_us, until_us = case.mapped
        await ingest.MapVehicle(
            MapVehicleRequest(
                vehicle_id=f"vehicle of {name}",
                meter_id=f"meter of {name}",
                effective_from=proto_from_us(since_us),
                effective_until=None if until_us is None else proto_from_us(until_us),
            )
        )
    for name, case in cases.items():
        window = wire.TimeWindow(start=proto_from_us(case.start_us), end=proto_from_us(case.end_us))
        question = wire.GetVehiclePerformanceRequest(vehicle_id=f"vehicle of {name}", window=window)
        answer = await ask.GetVehiclePerformance(question)
        assert wire.Verdict.Name(answer.verdict) == f"VERDICT_{case.verdict}", (name, answer)
        said |= {answer.verdict_reason, answer.alert, *(each.text for each in answer.findings)}
    quoted = SAID.findall(DOCUMENT.read_text())
    assert len(quoted) > len(wire.FindingKind.values())
    assert [sentence for sentence in quoted if sentence not in said] == []
