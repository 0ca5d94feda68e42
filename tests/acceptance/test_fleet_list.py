"""The fleet's list: pages that stay what they were, and history that is dropped before its rollups."""

from __future__ import annotations

from typing import TYPE_CHECKING

import grpc
import psycopg
import pytest
from energyfleet.v1 import analytics_service_pb2 as wire
from energyfleet.v1 import ingestion_service_pb2 as ingestion_wire

from shared.timestamps import US_PER_HOUR, datetime_from_us, proto_from_us, us_from_proto
from tests.builders import NOW_US, a_meter_reading, a_vehicle_reading
from tests.verified import repaired

if TYPE_CHECKING:  # in the stubs' types only
    from energyfleet.v1.analytics_service_pb2_grpc import AnalyticsServiceAsyncStub
    from energyfleet.v1.ingestion_service_pb2_grpc import IngestionServiceAsyncStub

VEHICLES = 5
MIDNIGHT_US = NOW_US - US_PER_HOUR // 2


async def send(ingest: IngestionServiceAsyncStub, ts_us: int, ratios: list[float]) -> None:
    """Every vehicle and its meter report once: 1 kWh drawn."""
    readings = [a_vehicle_reading(f"car-{number}", ts_us, ratio) for number, ratio in enumerate(ratios)]
    readings += [a_meter_reading(f"meter-{number}", ts_us, 1.0) for number in range(len(ratios))]
    await ingest.IngestTelemetry(ingestion_wire.IngestTelemetryRequest(readings=readings))


@pytest.fixture
async def fleet(ingest: IngestionServiceAsyncStub) -> None:
    """`car-0` charges the worst, `car-4` the best."""
    for number in range(VEHICLES):
        await ingest.MapVehicle(
            ingestion_wire.MapVehicleRequest(
                vehicle_id=f"car-{number}",
                meter_id=f"meter-{number}",
                effective_from=proto_from_us(NOW_US - 48 * US_PER_HOUR),
            )
        )
    await send(ingest, NOW_US - US_PER_HOUR, [0.5, 0.6, 0.7, 0.8, 0.9])


async def refused(
    call: grpc.aio.UnaryUnaryCall[wire.ListVehiclePerformanceRequest, wire.ListVehiclePerformanceResponse],
) -> grpc.aio.AioRpcError:
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await call
    return raised.value


@pytest.mark.usefixtures("fleet")
async def test_later_pages_are_what_they_were_when_the_first_was_given(
    ingest: IngestionServiceAsyncStub, ask: AnalyticsServiceAsyncStub
) -> None:
    whole = await ask.ListVehiclePerformance(wire.ListVehiclePerformanceRequest())
    assert [row.vehicle_id for row in whole.vehicles] == [f"car-{number}" for number in range(VEHICLES)]
    first = await ask.ListVehiclePerformance(wire.ListVehiclePerformanceRequest(page_size=2))
    # The best becomes the worst, and another vehicle appears.
    await send(ingest, NOW_US, [0.9, 0.8, 0.7, 0.6, 0.0, 0.1])

    rows, token = list(first.vehicles), first.next_page_token
    while token:
        page = await ask.ListVehiclePerformance(wire.ListVehiclePerformanceRequest(page_size=1, page_token=token))
        assert (page.totals, page.window, page.matched) == (whole.totals, whole.window, VEHICLES)
        rows += page.vehicles
        token = page.next_page_token
    assert rows == list(whole.vehicles)
    anew = await ask.ListVehiclePerformance(wire.ListVehiclePerformanceRequest())
    assert (anew.vehicles[0].vehicle_id, anew.matched) == ("car-4", VEHICLES + 1)


@pytest.mark.usefixtures("fleet")
async def test_a_token_of_another_question_or_of_no_result_is_refused_with_what_to_do(
    ask: AnalyticsServiceAsyncStub,
) -> None:
    token = (await ask.ListVehiclePerformance(wire.ListVehiclePerformanceRequest(page_size=2))).next_page_token
    for other in (
        wire.ListVehiclePerformanceRequest(page_token=token, verdicts=[wire.VERDICT_OK]),
        wire.ListVehiclePerformanceRequest(page_token=token, vehicle_ids=["car-1"]),
        wire.ListVehiclePerformanceRequest(page_token=token, order=wire.PERFORMANCE_ORDER_KWH_LOST),
        wire.ListVehiclePerformanceRequest(page_token=token, window=wire.TimeWindow(end=proto_from_us(NOW_US))),
    ):
        error = await refused(ask.ListVehiclePerformance(other))
        assert error.code() == grpc.StatusCode.INVALID_ARGUMENT
        assert "page_token: belongs to a question with another window" in str(error.details())
    error = await refused(
        ask.ListVehiclePerformance(wire.ListVehiclePerformanceRequest(page_token="WyJlbHNld2hlcmUiLCAyXQ=="))
    )
    assert error.code() == grpc.StatusCode.FAILED_PRECONDITION
    assert "ask for its first page again" in str(error.details())


@pytest.mark.usefixtures("fleet")
async def test_before_the_retention_floor_hours_tell_what_readings_told(
    ingest: IngestionServiceAsyncStub, ask: AnalyticsServiceAsyncStub, database_url: str
) -> None:
    for ts_us in (MIDNIGHT_US - 2 * US_PER_HOUR, MIDNIGHT_US - 1, MIDNIGHT_US, MIDNIGHT_US + 1):
        await send(ingest, ts_us, [0.9] * VEHICLES)
    window = wire.TimeWindow(
        start=proto_from_us(MIDNIGHT_US - 3 * US_PER_HOUR), end=proto_from_us(MIDNIGHT_US + US_PER_HOUR)
    )

    told: list[int | None] = []

    async def readings() -> int:
        """Of each side; the list and the question about the vehicle alone agree on it."""
        listed = await ask.ListVehiclePerformance(wire.ListVehiclePerformanceRequest(window=window))
        one = await ask.GetVehiclePerformance(wire.GetVehiclePerformanceRequest(vehicle_id="car-3", window=window))
        row = next(row for row in listed.vehicles if row.vehicle_id == "car-3")
        assert (row.vehicle_readings, row.meter_readings) == (one.vehicle_readings, one.meter_readings)
        assert (row.coverage, row.verdict, row.verdict_reason) == (one.coverage, one.verdict, one.verdict_reason)
        assert row.vehicle_readings == row.meter_readings
        assert (listed.readings_since, listed.window_aligned) == (one.readings_since, False)
        told.append(us_from_proto(one.readings_since) if one.HasField("readings_since") else None)
        return row.vehicle_readings

    assert await readings() == 5
    day = datetime_from_us(MIDNIGHT_US).date()
    with psycopg.connect(database_url, autocommit=True) as owner:
        owner.execute("UPDATE retention SET floor_day = %s", (day,))
        assert await readings() == 5
        for side in ("vehicle", "meter"):
            owner.execute("SELECT drop_oldest_history_partition(%s)", (f"{side}_telemetry_history",))
    assert await readings() == 5
    assert told == [None, MIDNIGHT_US, MIDNIGHT_US]


@pytest.mark.usefixtures("fleet")
async def test_a_list_follows_late_readings_repairs_and_mappings_at_once(
    ingest: IngestionServiceAsyncStub, ask: AnalyticsServiceAsyncStub, database_url: str
) -> None:
    async def listed() -> list[tuple[str, int, int, float]]:
        answer = await ask.ListVehiclePerformance(
            wire.ListVehiclePerformanceRequest(order=wire.PERFORMANCE_ORDER_RATIO)
        )
        return sorted(
            (row.vehicle_id, row.vehicle_readings, row.meter_readings, row.kwh_consumed_ac) for row in answer.vehicles
        )

    assert await listed() == [(f"car-{number}", 1, 1, 1.0) for number in range(VEHICLES)]
    with psycopg.connect(database_url, autocommit=True) as owner:
        owner.execute("UPDATE meter_closed_hours SET kwh = 7")
        owner.execute("UPDATE meter_current_status SET hour_kwh = 7")
    await send(ingest, NOW_US - 5 * US_PER_HOUR, [0.9] * (VEHICLES + 1))
    await send(ingest, NOW_US - US_PER_HOUR - 1, [0.9])
    damaged = [("car-0", 3, 3, 9.0), *((f"car-{number}", 2, 2, 8.0) for number in range(1, VEHICLES))]
    assert await listed() == [*damaged, (f"car-{VEHICLES}", 1, 0, 0.0)]
    assert await repaired(database_url)
    whole = [("car-0", 3, 3, 3.0), *((f"car-{number}", 2, 2, 2.0) for number in range(1, VEHICLES))]
    assert await listed() == [*whole, (f"car-{VEHICLES}", 1, 0, 0.0)]
    await ingest.UnmapVehicle(
        ingestion_wire.UnmapVehicleRequest(vehicle_id="car-0", effective_from=proto_from_us(NOW_US - 4 * US_PER_HOUR))
    )
    assert await listed() == [("car-0", 3, 1, 1.0), *whole[1:], (f"car-{VEHICLES}", 1, 0, 0.0)]
