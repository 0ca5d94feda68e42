"""The list by meter: which charger is worn, whatever cars charge there and however little each of them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import grpc
import psycopg
import pytest
from energyfleet.v1 import analytics_service_pb2 as wire
from energyfleet.v1 import ingestion_service_pb2 as ingestion_wire
from energyfleet.v1.telemetry_pb2 import MeterReading, Telemetry

from shared.timestamps import US_PER_HOUR, datetime_from_us, proto_from_us
from tests.acceptance.field_cases import EVENING_US, QUARTER_US, send
from tests.acceptance.test_ingestion_service import bad_fields
from tests.builders import NOW_US, a_meter_reading, a_vehicle_reading

if TYPE_CHECKING:  # in the stubs' types only
    from energyfleet.v1.analytics_service_pb2_grpc import AnalyticsServiceAsyncStub
    from energyfleet.v1.ingestion_service_pb2_grpc import IngestionServiceAsyncStub

pytestmark = pytest.mark.one_server

HOUR_US = US_PER_HOUR
MIDNIGHT_US = NOW_US - US_PER_HOUR // 2
JOIN = ingestion_wire.MAPPING_MODE_JOIN


async def map_(
    ingest: IngestionServiceAsyncStub,
    vehicle_id: str,
    meter_id: str,
    from_us: int = NOW_US - 48 * HOUR_US,
    mode: ingestion_wire.MappingMode.ValueType = ingestion_wire.MAPPING_MODE_REPLACE,
) -> None:
    await ingest.MapVehicle(
        ingestion_wire.MapVehicleRequest(
            vehicle_id=vehicle_id, meter_id=meter_id, effective_from=proto_from_us(from_us), mode=mode
        )
    )


def drew(meter_id: str, start_us: int, hours: float, kwh: float) -> list[Telemetry]:
    """The same in each quarter of an hour."""
    return [a_meter_reading(meter_id, start_us + n * QUARTER_US, kwh) for n in range(1, round(hours * 4) + 1)]


def took(vehicle_id: str, start_us: int, hours: float, kwh: float) -> list[Telemetry]:
    return [a_vehicle_reading(vehicle_id, start_us + n * QUARTER_US, kwh) for n in range(1, round(hours * 4) + 1)]


async def by_meter(ask: AnalyticsServiceAsyncStub, **question: object) -> dict[str, wire.MeterPerformance]:
    answer = await ask.ListMeterPerformance(wire.ListMeterPerformanceRequest(**question))  # type: ignore[arg-type]
    return {row.meter_id: row for row in answer.meters}


async def test_a_worn_charger_is_found_though_each_car_charged_too_little_there(
    ingest: IngestionServiceAsyncStub, ask: AnalyticsServiceAsyncStub
) -> None:
    for number in range(4):
        start_us = EVENING_US - (8 - 2 * number) * HOUR_US
        await map_(ingest, f"car-{number}", "worn", start_us - HOUR_US // 2)
        await send(
            ingest, *drew("worn", start_us - HOUR_US, 1, 0.0), *took(f"car-{number}", start_us - HOUR_US, 1, 0.0)
        )
        await send(ingest, *drew("worn", start_us, 1, 0.11), *took(f"car-{number}", start_us, 1, 0.077))
    await map_(ingest, "car-9", "healthy")
    await send(ingest, *drew("healthy", EVENING_US, 1, 1.85), *took("car-9", EVENING_US, 1, 1.665))

    vehicles = await ask.ListVehiclePerformance(wire.ListVehiclePerformanceRequest())
    of_cars = {row.vehicle_id: row.verdict for row in vehicles.vehicles}
    assert {of_cars[f"car-{number}"] for number in range(4)} == {wire.VERDICT_INSUFFICIENT_DATA}
    meters = await by_meter(ask)
    assert list(meters) == ["worn", "healthy"]
    worn = meters["worn"]
    assert worn.verdict == wire.VERDICT_LOW_EFFICIENCY
    assert list(worn.vehicle_ids) == [f"car-{number}" for number in range(4)]
    assert (worn.vehicle_count, worn.mapping_count, list(worn.shared_with)) == (4, 4, [])
    assert worn.comparison.kwh_consumed_ac == pytest.approx(1.76)
    assert worn.verdict_reason.startswith("1.232 kWh were delivered of 1.760 kWh drawn, 70.0 %: ")
    assert worn.alert == (
        "Inspect the charger at meter worn: 0.528 kWh of 1.760 kWh were lost while it charged 4 vehicles."
    )
    assert (meters["healthy"].verdict, meters["healthy"].alert) == (wire.VERDICT_OK, "")


async def test_one_worn_on_board_charger_among_many_does_not_condemn_the_charger(
    ingest: IngestionServiceAsyncStub, ask: AnalyticsServiceAsyncStub
) -> None:
    for number in range(11):
        start_us = NOW_US - US_PER_HOUR // 2 - (22 - 2 * number) * HOUR_US
        await map_(ingest, f"car-{number:02}", "depot", start_us)
        ratio = 0.7 if number == 4 else 0.9
        await send(ingest, *drew("depot", start_us, 1, 1.85), *took(f"car-{number:02}", start_us, 1, 1.85 * ratio))

    vehicles = await ask.ListVehiclePerformance(wire.ListVehiclePerformanceRequest())
    low = [row.vehicle_id for row in vehicles.vehicles if row.verdict == wire.VERDICT_LOW_EFFICIENCY]
    assert low == ["car-04"]
    depot = (await by_meter(ask))["depot"]
    assert (depot.verdict, depot.vehicle_count) == (wire.VERDICT_OK, 11)
    assert depot.comparison.efficiency_ratio == pytest.approx((10 * 0.9 + 0.7) / 11)


async def test_an_alert_about_one_car_says_that_it_may_be_the_car(
    ingest: IngestionServiceAsyncStub, ask: AnalyticsServiceAsyncStub
) -> None:
    await map_(ingest, "car", "meter")
    await send(ingest, *drew("meter", EVENING_US, 3, 1.85), *took("car", EVENING_US, 3, 1.4))
    assert (await by_meter(ask))["meter"].alert == (
        "Inspect the charger at meter meter: 5.400 kWh of 22.200 kWh were lost while it charged 1 vehicle."
        " It may be vehicle car as well: no other one charged there."
    )


async def test_meters_that_fed_a_vehicle_together_are_compared_together_and_say_so(
    ingest: IngestionServiceAsyncStub, ask: AnalyticsServiceAsyncStub
) -> None:
    phases = [f"phase-{number}" for number in (1, 2, 3)]
    for meter_id in phases:
        await map_(ingest, "car", meter_id, mode=JOIN)
        await send(ingest, *drew(meter_id, EVENING_US, 2, 0.6))
    await send(ingest, *took("car", EVENING_US, 2, 1.62))
    await map_(ingest, "alone", "other")
    await send(ingest, *drew("other", EVENING_US, 2, 1.8), *took("alone", EVENING_US, 2, 1.62))

    meters = await by_meter(ask)
    for meter_id in phases:
        row = meters[meter_id]
        others = [each for each in phases if each != meter_id]
        assert list(row.shared_with) == others
        assert row.kwh_consumed_ac == pytest.approx(4.8)
        assert (row.comparison.kwh_consumed_ac, row.comparison.kwh_delivered_dc) == pytest.approx((14.4, 12.96))
        assert (row.HasField("efficiency_ratio"), row.HasField("kwh_lost")) == (False, False)
        assert row.verdict == wire.VERDICT_OK
        assert row.verdict_reason.endswith(
            f" Counted together with meters {others[0]} and {others[1]}, which fed a vehicle at the same time."
        )
    assert list(meters["other"].shared_with) == []
    assert meters["other"].efficiency_ratio == pytest.approx(0.9)
    named = await by_meter(ask, meter_ids=["phase-2"])
    assert named == {"phase-2": meters["phase-2"]}


async def test_what_a_meter_drew_before_between_and_after_its_vehicles_stands_apart(
    ingest: IngestionServiceAsyncStub, ask: AnalyticsServiceAsyncStub
) -> None:
    half_us = EVENING_US + 2 * HOUR_US + HOUR_US // 2
    await map_(ingest, "first", "meter", EVENING_US)
    await ingest.UnmapVehicle(
        ingestion_wire.UnmapVehicleRequest(vehicle_id="first", effective_from=proto_from_us(EVENING_US + HOUR_US))
    )
    await map_(ingest, "second", "meter", half_us)
    await send(ingest, *drew("meter", EVENING_US - HOUR_US, 6, 1.0), *drew("fed-none", EVENING_US, 1, 0.01))
    await send(ingest, *took("first", EVENING_US, 1, 0.9), *took("second", half_us, 2, 0.9))

    meters = await by_meter(ask)
    meter, fed_none = meters["meter"], meters["fed-none"]
    assert list(meter.vehicle_ids) == ["first", "second"]
    # An hour of the first, and two and a half of the second one, who charged for two of them.
    assert (meter.kwh_consumed_ac, meter.meter_readings, meter.vehicle_readings) == (4.0 + 10.0, 14, 12)
    assert (meter.kwh_consumed_ac_unmapped, meter.meter_readings_unmapped) == (10.0, 10)
    assert (fed_none.verdict, fed_none.vehicle_count) == (wire.VERDICT_INSUFFICIENT_DATA, 0)
    assert fed_none.verdict_reason == "The meter was mapped to no vehicle within the window."
    assert fed_none.kwh_consumed_ac_unmapped == pytest.approx(0.04)
    assert not fed_none.HasField("kwh_consumed_ac")
    window = wire.TimeWindow(start=proto_from_us(NOW_US - 72 * HOUR_US), end=proto_from_us(NOW_US))
    longer = await by_meter(ask, window=window)
    assert (longer["meter"].kwh_consumed_ac_unmapped, longer["meter"].kwh_consumed_ac) == (10.0, 14.0)


async def test_a_list_follows_late_and_repeated_readings_and_mappings_at_once(
    ingest: IngestionServiceAsyncStub, ask: AnalyticsServiceAsyncStub
) -> None:
    await map_(ingest, "car", "meter")
    await send(ingest, *drew("meter", EVENING_US, 1, 1.0), *took("car", EVENING_US, 1, 0.9))
    before = (await by_meter(ask))["meter"]
    assert (before.kwh_consumed_ac, before.verdict) == (4.0, wire.VERDICT_OK)
    await send(ingest, *drew("meter", EVENING_US, 1, 1.0), *took("car", EVENING_US, 1, 0.9))
    assert (await by_meter(ask))["meter"] == before
    await send(ingest, *drew("meter", EVENING_US - HOUR_US, 1, 2.0), *drew("new", EVENING_US, 1, 0.5))
    meters = await by_meter(ask)
    assert (meters["meter"].kwh_consumed_ac, meters["new"].kwh_consumed_ac_unmapped) == (12.0, 2.0)
    await map_(ingest, "car", "new", NOW_US - 36 * HOUR_US)
    meters = await by_meter(ask)
    assert (meters["meter"].kwh_consumed_ac_unmapped, meters["meter"].vehicle_count) == (12.0, 0)
    assert (meters["new"].kwh_consumed_ac, meters["new"].kwh_delivered_dc) == pytest.approx((2.0, 3.6))
    assert meters["new"].comparison.efficiency_ratio == pytest.approx(1.8)


async def test_before_the_retention_floor_hours_tell_what_a_meter_s_readings_told(
    ingest: IngestionServiceAsyncStub, ask: AnalyticsServiceAsyncStub, database_url: str
) -> None:
    await map_(ingest, "car", "meter")
    for ts_us in (MIDNIGHT_US - 2 * HOUR_US, MIDNIGHT_US - 1, MIDNIGHT_US, MIDNIGHT_US + 1):
        readings = [a_meter_reading(each, ts_us, 1.0) for each in ("meter", "alone")]
        await send(ingest, *readings, a_vehicle_reading("car", ts_us, 0.9))
    window = wire.TimeWindow(start=proto_from_us(MIDNIGHT_US - 3 * HOUR_US), end=proto_from_us(MIDNIGHT_US + HOUR_US))

    async def readings_told() -> tuple[int, int, int]:
        meters = await by_meter(ask, window=window)
        meter = meters["meter"]
        return meter.meter_readings, meter.vehicle_readings, meters["alone"].meter_readings_unmapped

    assert await readings_told() == (4, 4, 4)
    day = datetime_from_us(MIDNIGHT_US).date()
    with psycopg.connect(database_url, autocommit=True) as owner:
        owner.execute("UPDATE retention SET floor_day = %s", (day,))
        assert await readings_told() == (4, 4, 4)
        for side in ("vehicle", "meter"):
            owner.execute("SELECT drop_oldest_history_partition(%s)", (f"{side}_telemetry_history",))
    assert await readings_told() == (4, 4, 4)


async def test_whole_kilowatt_hours_are_too_coarse_for_one_session_and_not_for_many(
    ingest: IngestionServiceAsyncStub, ask: AnalyticsServiceAsyncStub
) -> None:
    def shown(start_us: int, kwh: int) -> Telemetry:
        return Telemetry(meter=MeterReading(meter_id="meter", timestamp=proto_from_us(start_us), register_kwh=kwh))

    await map_(ingest, "car", "meter")
    start_us = EVENING_US - HOUR_US // 4
    await send(ingest, *(shown(start_us + n * QUARTER_US, kwh) for n, kwh in enumerate((4021, 4021, 4022, 4022, 4024))))
    await send(ingest, *took("car", EVENING_US, 0.75, 0.82))
    meter = (await by_meter(ask))["meter"]
    vehicle = await ask.GetVehiclePerformance(wire.GetVehiclePerformanceRequest(vehicle_id="car"))
    assert (meter.verdict, meter.verdict_reason) == (vehicle.verdict, vehicle.verdict_reason)
    assert wire.FINDING_KIND_TOO_COARSE in [each.kind for each in meter.findings]
    await send(ingest, *(shown(start_us + n * QUARTER_US, 4024 + 2 * (n - 4)) for n in range(5, 25)))
    await send(ingest, *took("car", EVENING_US + 3 * QUARTER_US, 5, 1.5))
    assert (await by_meter(ask))["meter"].verdict == wire.VERDICT_LOW_EFFICIENCY


async def test_pages_are_parts_of_one_result_and_their_tokens_are_good_for_nothing_else(
    ingest: IngestionServiceAsyncStub, ask: AnalyticsServiceAsyncStub
) -> None:
    for number in range(5):
        await map_(ingest, f"car-{number}", f"meter-{number}")
        await send(
            ingest,
            *drew(f"meter-{number}", EVENING_US, 1, 1.0),
            *took(f"car-{number}", EVENING_US, 1, 0.5 + 0.1 * number),
        )
    whole = await ask.ListMeterPerformance(wire.ListMeterPerformanceRequest())
    assert [row.meter_id for row in whole.meters] == [f"meter-{number}" for number in range(5)]
    first = await ask.ListMeterPerformance(wire.ListMeterPerformanceRequest(page_size=2))
    await send(ingest, *drew("meter-4", EVENING_US + HOUR_US, 1, 9.0), *took("car-4", EVENING_US + HOUR_US, 1, 0.5))
    rows, token = list(first.meters), first.next_page_token
    while token:
        page = await ask.ListMeterPerformance(wire.ListMeterPerformanceRequest(page_size=1, page_token=token))
        assert (page.totals, page.window, page.matched) == (whole.totals, whole.window, 5)
        rows += page.meters
        token = page.next_page_token
    assert rows == list(whole.meters)

    of_vehicles = await ask.ListVehiclePerformance(wire.ListVehiclePerformanceRequest(page_size=1))
    token = first.next_page_token
    for call in (
        ask.ListMeterPerformance(wire.ListMeterPerformanceRequest(page_token=of_vehicles.next_page_token)),
        ask.ListVehiclePerformance(wire.ListVehiclePerformanceRequest(page_token=token)),
        ask.ListMeterPerformance(wire.ListMeterPerformanceRequest(page_token=token, meter_ids=["meter-1"])),
        ask.ListMeterPerformance(wire.ListMeterPerformanceRequest(page_token=token, verdicts=[wire.VERDICT_OK])),
    ):
        with pytest.raises(grpc.aio.AioRpcError, match="belongs to a question with another window") as raised:
            await call
        assert raised.value.code() == grpc.StatusCode.INVALID_ARGUMENT
        assert bad_fields(raised.value) == {"page_token"}
