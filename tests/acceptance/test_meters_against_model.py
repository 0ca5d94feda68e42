"""Random histories, mappings and windows: the list by meter is what a plain-Python model says, and agrees with the
vehicles."""

from __future__ import annotations

import itertools
import math
from collections import Counter
from typing import TYPE_CHECKING

import pytest
from energyfleet.v1 import analytics_service_pb2 as wire
from hypothesis import HealthCheck, event, given, settings

from shared.timestamps import US_PER_HOUR
from tests.acceptance.test_against_model import close
from tests.acceptance.test_fleet_against_model import (
    METERS,
    VEHICLES,
    VERDICTS,
    Happened,
    check_window,
    happenings,
    let_age,
    let_happen,
    present,
    window_of,
)
from tests.ageing import Ageing
from tests.meter_model import MeterPerformance, known_meter, meter_performance
from tests.model import Model

if TYPE_CHECKING:  # in the stubs' types only
    from energyfleet.v1.analytics_service_pb2_grpc import AnalyticsServiceAsyncStub
    from energyfleet.v1.ingestion_service_pb2_grpc import IngestionServiceAsyncStub

UNKNOWN_METER_ID = "never-heard-of"
METER_VERDICTS = [name for name in VERDICTS if name != "VERDICT_NO_METER"]

_examples = itertools.count()


@pytest.mark.timeout(600)
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(happened=happenings)
async def test_meters_are_what_the_model_says_and_agree_with_the_vehicles(
    happened: Happened, ingest: IngestionServiceAsyncStub, ask: AnalyticsServiceAsyncStub, ageing: Ageing
) -> None:
    model, prefix = Model(), f"f{next(_examples)}-"
    await let_happen(happened, ingest, model, prefix, ageing)
    let_age(happened.aged, happened.anchor_us, ageing, model)
    for start, end in happened.windows:
        start_us, end_us = (
            (happened.anchor_us + start) // US_PER_HOUR * US_PER_HOUR,
            -(-(happened.anchor_us + end) // US_PER_HOUR) * US_PER_HOUR,
        )
        ours = await check_meters(ask, model, prefix, happened, start_us, end_us)
        await check_vehicles(ask, model, prefix, ours, start_us, end_us)


async def check_meters(
    ask: AnalyticsServiceAsyncStub, model: Model, prefix: str, happened: Happened, start_us: int, end_us: int
) -> dict[str, wire.MeterPerformance]:
    """Of all verdicts, and then of some of them, in pages."""
    known = [meter_id for number in METERS if known_meter(model, meter_id := f"{prefix}m{number}")]
    named = [f"{prefix}m{number}" for number in METERS] + [UNKNOWN_METER_ID] if happened.named else []
    order = wire.PERFORMANCE_ORDER_KWH_LOST if happened.by_loss else wire.PERFORMANCE_ORDER_RATIO
    request = wire.ListMeterPerformanceRequest(
        window=window_of(start_us, end_us), meter_ids=named, order=order, page_size=1_000
    )
    whole = await ask.ListMeterPerformance(request)
    assert check_window(whole, model, start_us, end_us) == (start_us, end_us)
    check_order(list(whole.meters), by_loss=happened.by_loss)
    ours = {row.meter_id: row for row in whole.meters if row.meter_id.startswith(prefix)}
    assert set(ours) == set(known)
    expected = {meter_id: meter_performance(model, meter_id, start_us, end_us) for meter_id in known}
    for meter_id, row in ours.items():
        event(wire.Verdict.Name(row.verdict))
        check_meter(row, expected[meter_id])
    if happened.named:
        assert list(whole.unknown_meter_ids) == sorted(set(named) - set(known))
        check_totals(whole, expected)

    request.verdicts.extend(wire.Verdict.Value(each) for each in happened.verdicts & set(METER_VERDICTS))
    request.page_size = happened.page_size if happened.named else 1_000
    pages = [await ask.ListMeterPerformance(request)]
    while pages[-1].next_page_token:
        request.page_token = pages[-1].next_page_token
        pages.append(await ask.ListMeterPerformance(request))
    rows = [row for page in pages for row in page.meters]
    assert rows == [row for row in whole.meters if not request.verdicts or row.verdict in request.verdicts]
    assert all(len(page.meters) == request.page_size for page in pages[:-1])
    for page in pages:
        assert (page.window, page.matched, page.totals) == (whole.window, len(rows), whole.totals)
    return ours


def check_meter(row: wire.MeterPerformance, expected: MeterPerformance) -> None:
    assert (list(row.vehicle_ids), row.vehicle_count) == (expected.vehicle_ids, len(expected.vehicle_ids))
    assert (row.mapping_count, list(row.shared_with)) == (expected.mappings, expected.shared_with)
    assert (row.meter_readings, row.meter_readings_unmapped, row.vehicle_readings) == (
        expected.meter_readings,
        expected.unmapped_readings,
        expected.vehicle_readings,
    )
    for name, value in (
        ("kwh_consumed_ac", expected.ac),
        ("kwh_returned_ac", expected.returned_ac),
        ("kwh_consumed_ac_unmapped", expected.unmapped),
        ("kwh_delivered_dc", expected.dc),
        ("kwh_returned_dc", expected.returned_dc),
        ("kwh_lost", expected.lost),
        ("coverage", expected.judged.performance.coverage),
        ("kwh_consumed_ac_idle", expected.idle),
    ):
        assert close(present(row, name), value), name
    ratio = present(row, "efficiency_ratio")
    assert (ratio is None) == (expected.ratio is None)
    assert ratio is None or expected.ratio is None or math.isclose(ratio, expected.ratio, rel_tol=1e-9)
    assert wire.Verdict.Name(row.verdict) == expected.verdict
    assert bool(row.alert) == (expected.verdict == "VERDICT_LOW_EFFICIENCY")
    compared = expected.judged.performance.compared
    assert row.HasField("comparison") == (compared is not None)
    if compared is None:
        return
    told = row.comparison
    for name in ("kwh_delivered_dc", "kwh_consumed_ac", "efficiency_ratio", "mean_power_kw", "low_efficiency_below"):
        assert close(getattr(told, name), getattr(compared, name)), name
    assert close(told.kwh_lost, compared.kwh_lost)
    assert close(told.efficiency_ratio_at_least, compared.at_least)
    assert close(told.efficiency_ratio_at_most, compared.at_most)


async def check_vehicles(
    ask: AnalyticsServiceAsyncStub,
    model: Model,
    prefix: str,
    meters: dict[str, wire.MeterPerformance],
    start_us: int,
    end_us: int,
) -> None:
    """A meter that fed one vehicle alone and throughout says of it what the vehicle does; and where no two meters fed a
    vehicle at a time, the compared energies of all meters are those of all vehicles."""
    window = window_of(start_us, end_us)
    listed = await ask.ListVehiclePerformance(wire.ListVehiclePerformanceRequest(window=window, page_size=1_000))
    vehicles = {row.vehicle_id: row for row in listed.vehicles if row.vehicle_id.startswith(prefix)}
    assert vehicles.keys() == {vehicle_id for number in VEHICLES if model.known(vehicle_id := f"{prefix}v{number}")}
    for mapping in model.mappings:
        throughout = mapping.from_us <= start_us and (mapping.until_us is None or mapping.until_us >= end_us)
        if throughout and vehicles[mapping.vehicle_id].mapping_count == 1:
            event("alone and throughout")
            meter, vehicle = meters[mapping.meter_id], vehicles[mapping.vehicle_id]
            names = ("comparison", "coverage", "verdict", "kwh_delivered_dc", "vehicle_readings", "meter_readings")
            for name in names:
                assert getattr(meter, name) == getattr(vehicle, name), name
            assert close(present(meter, "kwh_consumed_ac"), present(vehicle, "kwh_consumed_ac"))
            assert close(present(meter, "kwh_consumed_ac_idle"), present(vehicle, "kwh_consumed_ac_idle"))
            assert [each.kind for each in meter.findings] == [
                each.kind for each in vehicle.findings if each.kind != wire.FINDING_KIND_CHARGED_ELSEWHERE
            ]
    # Where much flowed back a verdict compares other sums, of a meter perhaps than of one of its vehicles.
    returned = any(row.kwh_returned_dc or row.kwh_returned_ac for row in vehicles.values())
    if not returned and not any(row.shared_with for row in meters.values()):
        event("sums compared")
        for name in ("kwh_delivered_dc", "kwh_consumed_ac"):
            by_meter, by_vehicle = (
                math.fsum(getattr(row.comparison, name) for row in rows.values()) for rows in (meters, vehicles)
            )
            assert close(by_meter, by_vehicle), name


def check_order(rows: list[wire.MeterPerformance], *, by_loss: bool) -> None:
    def place(row: wire.MeterPerformance) -> tuple[bool, float, str]:
        name = "kwh_lost" if by_loss else "efficiency_ratio"
        number = getattr(row.comparison, name) if row.HasField("comparison") else None
        return number is None, (number or 0.0) * (-1 if by_loss else 1), row.meter_id

    assert [row.meter_id for row in rows] == [row.meter_id for row in sorted(rows, key=place)]


def check_totals(answer: wire.ListMeterPerformanceResponse, expected: dict[str, MeterPerformance]) -> None:
    def total(values: list[float | None]) -> float | None:
        present_ones = [value for value in values if value is not None]
        return math.fsum(present_ones) if present_ones else None

    everybody, totals = list(expected.values()), answer.totals
    assert totals.meters == len(everybody)
    assert totals.meter_readings == sum(each.meter_readings for each in everybody)
    assert totals.meter_readings_unmapped == sum(each.unmapped_readings for each in everybody)
    assert close(present(totals, "kwh_consumed_ac"), total([each.ac for each in everybody]))
    assert close(present(totals, "kwh_consumed_ac_unmapped"), total([each.unmapped for each in everybody]))
    counted = Counter(each.verdict for each in everybody)
    assert [(wire.Verdict.Name(each.verdict), each.meters) for each in totals.by_verdict] == [
        (verdict, counted[verdict]) for verdict in METER_VERDICTS
    ]
    for each in totals.by_verdict:
        among = [one.ac for one in everybody if one.verdict == wire.Verdict.Name(each.verdict)]
        assert close(present(each, "kwh_consumed_ac"), total(among))
