"""Verdicts over what the field sends: each case once through the single answer and once through the list.

A reading every so many minutes: the first one interval after the beginning, the last one at the end.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pytest
from energyfleet.v1 import analytics_service_pb2 as wire
from energyfleet.v1.ingestion_service_pb2 import MapVehicleRequest
from energyfleet.v1.telemetry_pb2 import MeterReading, Telemetry

from shared.timestamps import US_PER_DAY, US_PER_HOUR, US_PER_MINUTE, proto_from_us
from tests.acceptance.field_cases import EVENING_US, send
from tests.builders import a_meter_reading, a_vehicle_reading

if TYPE_CHECKING:  # in the stubs' types only
    from energyfleet.v1.analytics_service_pb2_grpc import AnalyticsServiceAsyncStub
    from energyfleet.v1.ingestion_service_pb2_grpc import IngestionServiceAsyncStub

pytestmark = pytest.mark.one_server

DAY_US = EVENING_US - 18 * US_PER_HOUR
VEHICLE, METER = "vehicle-001", "meter-001"


def at(clock: str, day: int = 0) -> int:
    """When it is `HH:MM`, perhaps with seconds, so many days later."""
    hours, minutes, *seconds = clock.split(":")
    total_s = (int(hours) * 60 + int(minutes)) * 60 + sum(map(int, seconds))
    return DAY_US + day * US_PER_DAY + total_s * 1_000_000


def every(minutes: float, start_us: int, end_us: int) -> Iterable[int]:
    step_us = round(minutes * US_PER_MINUTE)
    return range(start_us + step_us, end_us + 1, step_us)


def meter(
    minutes: float, kwh: float, start: str = "00:00", end: str = "24:00", day: int = 0, **other: Any
) -> Sequence[Telemetry]:
    return [
        a_meter_reading(ts_us=ts_us, kwh_consumed_ac=kwh, **other)
        for ts_us in every(minutes, at(start, day), at(end, day))
    ]


def vehicle(
    minutes: float, kwh: float, start: str = "00:00", end: str = "24:00", day: int = 0, **other: Any
) -> Sequence[Telemetry]:
    return [
        a_vehicle_reading(ts_us=ts_us, kwh_delivered_dc=kwh, **other)
        for ts_us in every(minutes, at(start, day), at(end, day))
    ]


def standby_but(start: str, end: str, minutes: int, standby: float, kwh: float) -> Sequence[Telemetry]:
    """A meter at standby all day, but for some hours."""
    return [
        *meter(minutes, standby, "00:00", start),
        *meter(minutes, kwh, start, end),
        *meter(minutes, standby, end, "24:00"),
    ]


def nights(before: tuple[float, float], today: tuple[float, float]) -> Sequence[Telemetry]:
    """Three hours each evening of four weeks: drawn and delivered in a quarter of an hour, then and today."""
    return [
        reading
        for day in range(-28, 1)
        for drawn, delivered in [before if day else today]
        for reading in (*meter(15, drawn, "18:00", "21:00", day), *vehicle(15, delivered, "18:00", "21:00", day))
    ]


@dataclass(frozen=True)
class Case:
    readings: Sequence[Telemetry]
    verdict: str
    ratio: float | None = None
    """Of what is compared."""
    findings: Sequence[str] = ()
    start_us: int = DAY_US
    end_us: int = DAY_US + US_PER_DAY
    mapped: tuple[int, int | None] = (DAY_US - 30 * US_PER_DAY, None)
    told: Callable[[wire.VehiclePerformance | wire.GetVehiclePerformanceResponse], object] = field(
        default=lambda _: True
    )
    """What else must be true."""
    reason: str = ""
    """A part of it."""


WAKEFUL = [*vehicle(15, 0, "00:00", "18:00"), *vehicle(15, 1.665, "18:00", "19:00"), *vehicle(15, 0, "19:00", "24:00")]
OUTAGE = [
    a_meter_reading(ts_us=at("17:45", -3), kwh_consumed_ac=0.01),
    a_meter_reading(ts_us=at("18:15"), kwh_consumed_ac=61.85),
    *meter(15, 1.85, "18:15", "20:00"),
    *(reading for day in (-3, -2, -1) for reading in vehicle(15, 2.25, "18:00", "20:00", day)),
    *vehicle(15, 1.665, "18:00", "20:00"),
]

CASES = {
    "standby meter, sleeping car": Case(
        [*standby_but("18:00", "20:00", 15, 0.0075, 1.85), *vehicle(15, 1.665, "18:00", "20:00")],
        "OK",
        0.90,
        ["STANDBY"],
        told=lambda it: it.kwh_consumed_ac_idle == pytest.approx(88 * 0.0075) and it.coverage == 1,
    ),
    "standby, wakeful car": Case(
        [*standby_but("18:00", "19:00", 15, 0.015, 1.85), *WAKEFUL],
        "OK",
        0.90,
        ["STANDBY"],
        told=lambda it: it.efficiency_ratio == pytest.approx(6.66 / (7.4 + 92 * 0.015)),
    ),
    "preconditioning": Case(
        [*meter(15, 1.9, "06:00", "07:00"), *vehicle(15, 0)],
        "INSUFFICIENT_DATA",
        None,
        ["NOTHING_TAKEN"],
        told=lambda it: it.kwh_consumed_ac == pytest.approx(7.6) and (it.kwh_delivered_dc, it.alert) == (0.0, ""),
        reason="Nothing was charged",
    ),
    "late report": Case(
        [*meter(1, 0.1233, "18:00", "22:00"), a_vehicle_reading(ts_us=at("22:03"), kwh_delivered_dc=26.6)],
        "OK",
        26.6 / (240 * 0.1233),
    ),
    "charge under way": Case(
        [*meter(15, 1.85, "18:00", "18:15"), *vehicle(1, 0.111, "18:00", "18:29")],
        "INSUFFICIENT_DATA",
        None,
        ["CHARGE_UNDER_WAY"],
        start_us=at("18:29:30", -1),
        end_us=at("18:29:30"),
        reason="under way",
    ),
    "charged elsewhere": Case(
        [
            *meter(15, 0.925, "20:00", "30:00", -1),
            *vehicle(15, 0.8325, "20:00", "30:00", -1),
            *vehicle(5, 4.1667, "12:00", "12:30", -1),
        ],
        "OK",
        0.90,
        ["CHARGED_ELSEWHERE"],
        start_us=at("06:00", -1),
        end_us=at("06:00"),
        mapped=(at("20:00", -1), at("06:00")),
        told=lambda it: (
            it.kwh_delivered_dc_unmapped == pytest.approx(6 * 4.1667)
            and it.kwh_delivered_dc == pytest.approx(6 * 4.1667 + 40 * 0.8325)
        ),
    ),
    "frozen meter": Case(
        [*meter(15, 0, "18:00", "21:00"), *vehicle(15, 1.665, "18:00", "21:00")],
        "IMPLAUSIBLE",
        None,
        ["NOTHING_DRAWN"],
        reason="19.980 kWh were delivered while the meters drew nothing",
    ),
    "an outage in one piece, a day": Case(OUTAGE, "OK", 0.90),
    "an outage in one piece, four days": Case(OUTAGE, "OK", 0.90, start_us=DAY_US - 3 * US_PER_DAY),
    "low power": Case(
        [*meter(15, 0.575, "18:00", "24:00"), *vehicle(15, 0.4359, "18:00", "24:00")],
        "LOW_EFFICIENCY",
        0.4359 / 0.575,
        ["LOW_POWER"],
        told=lambda it: it.comparison.mean_power_kw == pytest.approx(2.3),
        reason="2.3 kW",
    ),
    "a car that fell from 91 to 87 percent": Case(
        nights((1.85, 1.6835), (1.85, 1.6095)),
        "OK",
        0.87,
        ["RATIO_DROPPED"],
        told=lambda it: [it.baseline_ratio, it.ratio_change] == pytest.approx([0.91, -0.04]),
        reason="dropped by 4.0 points",
    ),
    "a car that has always lost much at low power": Case(
        nights((0.575, 0.4359), (0.575, 0.4359)),
        "LOW_EFFICIENCY",
        0.4359 / 0.575,
        told=lambda it: (
            it.baseline_ratio == pytest.approx(0.4359 / 0.575)
            and it.ratio_change == pytest.approx(0)
            and wire.FINDING_KIND_RATIO_DROPPED not in {each.kind for each in it.findings}
        ),
    ),
    "a car that nobody knew before": Case(
        [*meter(15, 1.85, "18:00", "21:00"), *vehicle(15, 1.6095, "18:00", "21:00")],
        "OK",
        0.87,
        told=lambda it: not (it.HasField("baseline_ratio") or it.HasField("ratio_change")),
    ),
    "coarse register steps, after others": Case(
        [
            *(
                Telemetry(meter=MeterReading(meter_id=METER, timestamp=proto_from_us(at(clock)), register_kwh=kwh))
                for clock, kwh in [
                    *((f"{hour:02}:00", 4021) for hour in range(19)),
                    ("18:15", 4021),
                    ("18:30", 4022),
                    ("18:45", 4022),
                    *((f"{hour:02}:00", 4023) for hour in range(19, 24)),
                ]
            ),
            *vehicle(15, 0, "00:00", "18:00"),
            *vehicle(15, 0.515, "18:00", "19:00"),
            *vehicle(15, 0, "19:00", "24:00"),
        ],
        "INSUFFICIENT_DATA",
        1.03,
        ["TOO_COARSE"],
        told=lambda it: (
            it.comparison.efficiency_ratio_at_least == pytest.approx(2.06 / 3)
            and it.comparison.efficiency_ratio_at_most == pytest.approx(2.06 / 1)
        ),
    ),
    "coarse register steps": Case(
        [
            *(
                Telemetry(meter=MeterReading(meter_id=METER, timestamp=proto_from_us(at(clock)), register_kwh=kwh))
                for clock, kwh in [("17:45", 4021), ("18:15", 4021), ("18:30", 4022), ("18:45", 4022), ("19:00", 4023)]
            ),
            *vehicle(15, 0.515, "18:00", "19:00"),
        ],
        "INSUFFICIENT_DATA",
        1.03,
        ["TOO_COARSE"],
    ),
    "clock five hours off": Case(
        [
            *standby_but("10:00", "14:00", 15, 0.0, 1.85),
            *vehicle(15, 0, "00:00", "15:00"),
            *vehicle(15, 1.665, "15:00", "19:00"),
            *vehicle(15, 0, "19:00", "24:00"),
        ],
        "IMPLAUSIBLE",
        None,
        ["NOTHING_DRAWN", "NOTHING_TAKEN", "SIDES_APART"],
        told=lambda it: [each.hours_apart for each in it.findings if each.HasField("hours_apart")] == [5],
        reason="a clock",
    ),
    "clock five hours off, silent otherwise": Case(
        [*meter(15, 1.85, "10:00", "14:00"), *vehicle(15, 1.665, "15:00", "19:00")],
        "INSUFFICIENT_DATA",
        None,
        ["METER_SILENT", "SIDES_APART"],
        told=lambda it: [each.hours_apart for each in it.findings if each.HasField("hours_apart")] == [5],
    ),
}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
@pytest.mark.parametrize("through", ["single", "list"])
async def test_a_verdict_holds_for_what_the_field_sends(
    case: Case, through: str, ingest: IngestionServiceAsyncStub, ask: AnalyticsServiceAsyncStub
) -> None:
    await send(ingest, *case.readings)
    since_us, until_us = case.mapped
    await ingest.MapVehicle(
        MapVehicleRequest(
            vehicle_id=VEHICLE,
            meter_id=METER,
            effective_from=proto_from_us(since_us),
            effective_until=None if until_us is None else proto_from_us(until_us),
        )
    )
    window = wire.TimeWindow(start=proto_from_us(case.start_us), end=proto_from_us(case.end_us))
    answer: wire.VehiclePerformance | wire.GetVehiclePerformanceResponse
    if through == "single":
        answer = await ask.GetVehiclePerformance(wire.GetVehiclePerformanceRequest(vehicle_id=VEHICLE, window=window))
    else:
        [answer] = (await ask.ListVehiclePerformance(wire.ListVehiclePerformanceRequest(window=window))).vehicles
    assert wire.Verdict.Name(answer.verdict) == f"VERDICT_{case.verdict}", answer
    if case.ratio is None:
        assert not answer.HasField("comparison"), answer
    else:
        assert answer.comparison.efficiency_ratio == pytest.approx(case.ratio), answer
    assert {wire.FindingKind.Name(each.kind).removeprefix("FINDING_KIND_") for each in answer.findings} >= {
        *case.findings
    }, answer
    assert case.told(answer), answer
    assert case.reason in answer.verdict_reason


async def test_a_fleet_of_sleeping_cars_beside_standby_is_healthy_and_has_a_ratio(
    ingest: IngestionServiceAsyncStub, ask: AnalyticsServiceAsyncStub
) -> None:
    for number in range(20):
        pair: tuple[dict[str, Any], dict[str, Any]] = {"meter_id": f"m-{number}"}, {"vehicle_id": f"v-{number}"}
        await send(
            ingest,
            *meter(15, 0.0075, "00:00", "18:00", **pair[0]),
            *meter(15, 1.85, "18:00", "20:00", **pair[0]),
            *meter(15, 0.0075, "20:00", "24:00", **pair[0]),
            *vehicle(15, 1.665, "18:00", "20:00", **pair[1]),
        )
        await ingest.MapVehicle(
            MapVehicleRequest(**pair[0], **pair[1], effective_from=proto_from_us(DAY_US - US_PER_DAY))
        )
    window = wire.TimeWindow(start=proto_from_us(DAY_US), end=proto_from_us(DAY_US + US_PER_DAY))
    listed = await ask.ListVehiclePerformance(wire.ListVehiclePerformanceRequest(window=window))
    assert {each.verdict for each in listed.vehicles} == {wire.VERDICT_OK}
    assert listed.totals.efficiency_ratio == pytest.approx(0.90)
    assert listed.totals.kwh_consumed_ac_idle == pytest.approx(20 * 88 * 0.0075)


async def test_a_worn_charger_is_named_beside_each_of_its_cars(
    ingest: IngestionServiceAsyncStub, ask: AnalyticsServiceAsyncStub
) -> None:
    for number, hour in enumerate((6, 12, 18)):
        start, end, until = (f"{at_hour:02}:00" for at_hour in (hour, hour + 3, hour + 6))
        await send(
            ingest,
            *meter(15, 1.85, start, end),
            *meter(15, 0.0, end, until),
            *vehicle(15, 1.4, start, end, vehicle_id=f"v-{number}"),
        )
        await ingest.MapVehicle(
            MapVehicleRequest(vehicle_id=f"v-{number}", meter_id=METER, effective_from=proto_from_us(at(start)))
        )
    window = wire.TimeWindow(start=proto_from_us(DAY_US), end=proto_from_us(DAY_US + US_PER_DAY))
    listed = await ask.ListVehiclePerformance(wire.ListVehiclePerformanceRequest(window=window))
    assert [each.verdict for each in listed.vehicles] == [wire.VERDICT_LOW_EFFICIENCY] * 3
    for row in listed.vehicles:
        assert f"Vehicle {row.vehicle_id} at meter {METER} loses" in row.alert
        single = await ask.GetVehiclePerformance(
            wire.GetVehiclePerformanceRequest(vehicle_id=row.vehicle_id, window=window)
        )
        assert single.alert == row.alert
