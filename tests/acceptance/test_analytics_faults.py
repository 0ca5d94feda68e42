"""The analytics service while its database is away or slow, its callers cancel, or it is told to stop."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from typing import TYPE_CHECKING, LiteralString

import grpc
import psycopg
import pytest
import pytest_asyncio
from energyfleet.v1 import analytics_service_pb2 as wire
from energyfleet.v1.analytics_service_pb2_grpc import AnalyticsServiceStub
from google.rpc import error_details_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc

from analytics_svc.__main__ import NAME
from shared.db.embedded import EmbeddedServer
from tests.acceptance.test_analytics_service import NOW_US, details_of, error_of, running
from tests.integration.test_analytics_queries import Rows

if TYPE_CHECKING:
    from energyfleet.v1.analytics_service_pb2_grpc import AnalyticsServiceAsyncStub


@pytest.fixture
def rows(database_url: str) -> Iterator[Rows]:
    with psycopg.connect(database_url, autocommit=True) as connection:
        yield Rows(connection)


@pytest_asyncio.fixture
async def channel(postgres: EmbeddedServer, database: str) -> AsyncIterator[grpc.aio.Channel]:
    async with running(postgres, database) as (_, channel):
        yield channel


@pytest.fixture
def stub(channel: grpc.aio.Channel) -> "AnalyticsServiceAsyncStub":
    return AnalyticsServiceStub(channel)


async def health_becomes(channel: grpc.aio.Channel, state: health_pb2.HealthCheckResponse.ServingStatus) -> None:
    """Waits until both the service and the whole process are in that state."""
    async with asyncio.timeout(20):
        for service in ("", NAME):
            watch = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest(service=service))
            async for answer in watch:
                if answer.status == state:
                    break
            watch.cancel()


async def test_a_database_away_is_unavailable_with_a_time_to_retry_and_comes_back(
    rows: Rows, postgres: EmbeddedServer, database: str, channel: grpc.aio.Channel, stub: "AnalyticsServiceAsyncStub"
) -> None:
    rows.mapping(rows.vehicle("car"), rows.meter("meter"), NOW_US)
    await health_becomes(channel, health_pb2.HealthCheckResponse.SERVING)
    with psycopg.connect(postgres.url(), autocommit=True) as admin:
        admin.execute(f"ALTER DATABASE {database} WITH ALLOW_CONNECTIONS false".encode())
        admin.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s", (database,))
        for call in (
            stub.GetVehiclePerformance(wire.GetVehiclePerformanceRequest(vehicle_id="car")),
            stub.ListChargingSessions(wire.ListChargingSessionsRequest(vehicle_id="car")),
            stub.ListChargingSessions(wire.ListChargingSessionsRequest(meter_id="meter")),
            stub.GetVehicleStatus(wire.GetVehicleStatusRequest(vehicle_id="car")),
            stub.GetMeterStatus(wire.GetMeterStatusRequest(meter_id="meter")),
            stub.ListMeterPerformance(wire.ListMeterPerformanceRequest()),
            stub.ListMeterPerformance(wire.ListMeterPerformanceRequest(meter_ids=["meter"])),
            stub.ListDevices(wire.ListDevicesRequest()),
        ):
            error = await error_of(call)
            assert (error.code(), error.details()) == (grpc.StatusCode.UNAVAILABLE, "the database is unavailable")
            status = details_of(error)
            retry_info = error_details_pb2.RetryInfo()
            assert status is not None
            assert status.details[0].Unpack(retry_info)
            assert retry_info.retry_delay.ToMilliseconds() == 1_000
        await health_becomes(channel, health_pb2.HealthCheckResponse.NOT_SERVING)
        admin.execute(f"ALTER DATABASE {database} WITH ALLOW_CONNECTIONS true".encode())
    await health_becomes(channel, health_pb2.HealthCheckResponse.SERVING)
    assert (await stub.GetVehicleStatus(wire.GetVehicleStatusRequest(vehicle_id="car"))).vehicle_id == "car"
    by_meter = await stub.ListMeterPerformance(wire.ListMeterPerformanceRequest())
    assert [row.meter_id for row in by_meter.meters] == ["meter"]
    assert (await stub.ListDevices(wire.ListDevicesRequest())).matched == 2


@pytest.mark.parametrize(
    ("broken", "repaired"),
    [
        ("REVOKE SELECT ON heartbeat FROM energyfleet_analytics", "GRANT SELECT ON heartbeat TO energyfleet_analytics"),
        ("ALTER TABLE heartbeat RENAME TO gone", "ALTER TABLE gone RENAME TO heartbeat"),
    ],
    ids=["no right", "no table"],
)
async def test_a_look_at_the_database_that_fails_in_an_unforeseen_way_is_not_serving_and_the_next_one_comes(
    rows: Rows, channel: grpc.aio.Channel, broken: LiteralString, repaired: LiteralString
) -> None:
    await health_becomes(channel, health_pb2.HealthCheckResponse.SERVING)
    rows.connection.execute(broken)
    await health_becomes(channel, health_pb2.HealthCheckResponse.NOT_SERVING)
    rows.connection.execute(repaired)
    await health_becomes(channel, health_pb2.HealthCheckResponse.SERVING)


async def test_a_service_that_is_merely_busy_stays_serving(
    rows: Rows, database_url: str, channel: grpc.aio.Channel, stub: "AnalyticsServiceAsyncStub"
) -> None:
    rows.vehicle("car")
    with psycopg.connect(database_url) as lock:
        lock.execute("LOCK TABLE vehicles IN ACCESS EXCLUSIVE MODE")
        calls = [stub.GetVehicleStatus(wire.GetVehicleStatusRequest(vehicle_id="car")) for _ in range(10)]
        await sessions(rows, waiting=True, expected=3)
        looked = "SELECT max(query_start) FROM pg_stat_activity WHERE application_name = 'energyfleet analytics health'"
        before = rows.connection.execute(looked).fetchone()
        async with asyncio.timeout(5):
            while rows.connection.execute(looked).fetchone() == before:
                await asyncio.sleep(0.01)
        answer = await health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(service=NAME))
        assert answer.status == health_pb2.HealthCheckResponse.SERVING
    assert [answer.vehicle_id for answer in await asyncio.gather(*calls)] == ["car"] * 10


@pytest.mark.parametrize("leaving", ["by deadline", "by cancelling"])
async def test_callers_that_leave_take_their_questions_with_them_and_leave_the_service_as_it_was(
    rows: Rows, database_url: str, stub: "AnalyticsServiceAsyncStub", leaving: str
) -> None:
    rows.mapping(rows.vehicle("car"), rows.meter("meter"), NOW_US)
    request = wire.GetVehiclePerformanceRequest(vehicle_id="car")
    await asyncio.gather(*(stub.GetVehiclePerformance(request) for _ in range(20)))
    pids = await sessions(rows, waiting=False, expected=3)
    timeout_s = 0.05 if leaving == "by deadline" else None
    with psycopg.connect(database_url) as lock:
        lock.execute("LOCK TABLE vehicles IN ACCESS EXCLUSIVE MODE")
        calls = [stub.GetVehiclePerformance(request, timeout=timeout_s) for _ in range(200)]
        if leaving == "by cancelling":
            assert await sessions(rows, waiting=True, expected=3) == pids
            for call in calls:
                call.cancel()
        codes = {await call.code() for call in calls}
        assert codes == {grpc.StatusCode.DEADLINE_EXCEEDED if timeout_s else grpc.StatusCode.CANCELLED}
        async with asyncio.timeout(5):  # half of what a question may take
            assert await sessions(rows, waiting=False, expected=3) == pids
            while await active(rows):
                await asyncio.sleep(0.01)
    answers = await asyncio.gather(*(stub.GetVehiclePerformance(request) for _ in range(20)))
    assert [answer.vehicle_id for answer in answers] == ["car"] * 20
    assert await sessions(rows, waiting=False, expected=3) == pids


async def active(rows: Rows) -> int:
    """How many questions of the service the database is busy with."""
    found = rows.connection.execute(
        "SELECT FROM pg_stat_activity WHERE datname = current_database()"
        " AND application_name = 'energyfleet analytics' AND state <> 'idle'"
    )
    return len(found.fetchall())


async def test_a_call_under_way_is_answered_before_the_service_stops(
    rows: Rows, postgres: EmbeddedServer, database: str, database_url: str
) -> None:
    rows.vehicle("car")
    async with running(postgres, database) as (service, channel):
        with psycopg.connect(database_url) as lock:
            lock.execute("LOCK TABLE vehicles IN ACCESS EXCLUSIVE MODE")
            stub = AnalyticsServiceStub(channel)
            call = stub.GetVehicleStatus(wire.GetVehicleStatusRequest(vehicle_id="car"))
            await sessions(rows, waiting=True, expected=1)
            stopping = asyncio.create_task(service.drain())
            await service.draining.wait()
        assert (await call).vehicle_id == "car"
        await stopping


async def sessions(rows: Rows, *, waiting: bool, expected: int) -> set[int]:
    """The service's sessions at the database, as soon as so many of them wait for a lock, or do not."""
    while True:
        found = rows.connection.execute(
            "SELECT pid FROM pg_stat_activity WHERE datname = current_database()"
            " AND application_name = 'energyfleet analytics' AND (wait_event_type IS NOT DISTINCT FROM 'Lock') = %s",
            (waiting,),
        ).fetchall()
        if len(found) == expected:
            return {pid for (pid,) in found}
        await asyncio.sleep(0.01)
