"""The list of devices: what it says of each is what the device's status says, whatever is known of them."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, Any

import grpc
import psycopg
import pytest
from energyfleet.v1 import analytics_service_pb2 as wire
from energyfleet.v1 import ingestion_service_pb2 as ingestion_wire
from energyfleet.v1.ingestion_service_pb2_grpc import IngestionServiceStub

import ingestion_svc.__main__
from shared.config import AnalyticsSettings, IngestionSettings
from shared.db.device_kind import KINDS, METER, VEHICLE, DeviceKind
from shared.db.embedded import EmbeddedServer
from shared.timestamps import US_PER_HOUR, US_PER_SECOND, datetime_from_us, proto_from_us, us_from_proto
from tests.acceptance.test_ingestion_service import bad_fields
from tests.builders import NOW_US, UNUSUAL_IDS, a_meter_reading, a_vehicle_reading, clock

if TYPE_CHECKING:  # in the stubs' types only
    from energyfleet.v1.analytics_service_pb2_grpc import AnalyticsServiceAsyncStub
    from energyfleet.v1.ingestion_service_pb2_grpc import IngestionServiceAsyncStub

pytestmark = pytest.mark.one_server

SEED = 20_260_210
BY_TIME = [
    ingestion_wire.RejectionReason.Value(f"REJECTION_REASON_{name}") for name in ("IN_FUTURE", "NOT_YET", "TOO_OLD")
]
STALE_AFTER_US = round(AnalyticsSettings().stale_after_s * US_PER_SECOND)
STATES = {name: number for name, number in wire.DeviceState.items() if number}
AGES_US = (-90, -61, -60, -1, 0, 7, 60, STALE_AFTER_US // US_PER_SECOND, STALE_AFTER_US // US_PER_SECOND + 1, 18_000)
"""In seconds: on both sides of each limit."""


def rows_of(kind: DeviceKind, chosen: random.Random) -> dict[str, list[tuple[Any, ...]]]:
    """What may be stored of the devices of a kind: each thing of some of them, and several alike."""
    ids = [f"{kind.name}-{number:02}" for number in range(40)] + list(UNUSUAL_IDS)
    found: dict[str, list[tuple[Any, ...]]] = {"devices": [], "status": [], "clock": [], "refusals": []}
    for key, device_id in enumerate(ids, 1):
        if chosen.random() < 0.85:
            found["devices"].append((device_id,))
            key = len(found["devices"])
            age_us = chosen.choice(AGES_US) * US_PER_SECOND
            if chosen.random() < 0.8:
                found["status"].append((key, datetime_from_us(NOW_US - age_us)))
            if chosen.random() < 0.7:
                age = None if chosen.random() < 0.2 else chosen.choice(AGES_US) * US_PER_SECOND
                found["clock"].append((key, age, *(chosen.choice((0, 0, 3)) for _ in range(3))))
        for field, reason in (
            (f"{kind.name}.timestamp", "REJECTION_REASON_TOO_OLD"),
            (f"{kind.name}.timestamp", "REJECTION_REASON_NOT_YET"),
            (f"{kind.name}.{kind.energy}", "REJECTION_REASON_OUT_OF_RANGE"),
            (f"{kind.name}.{kind.optional[0]}", "REJECTION_REASON_OUT_OF_RANGE"),
            (f"{kind.name}.{kind.energy}", "DOUBTED"),
        ):
            if chosen.random() < 0.15:
                at = datetime_from_us(NOW_US - chosen.choice((1, 2)) * US_PER_HOUR)
                found["refusals"].append((device_id, field, reason, chosen.choice((1, 2)), at, "why"))
    return found


_INSERT = {
    "devices": "INSERT INTO {device}s ({device}_id) VALUES (%s)",
    "status": "INSERT INTO {device}_current_status ({device}_key, ts, {energy}, hour_start) VALUES (%s, %s, 1, now())",
    "clock": "INSERT INTO {device}_clock_evidence (device_key, newest_age_us, late_readings, future_readings,"
    " conflicting_readings) VALUES (%s, %s, %s, %s, %s)",
    "refusals": "INSERT INTO {device}_refusals VALUES (%s, %s, %s, %s, %s, %s)",
}


@pytest.fixture
def devices(database_url: str) -> dict[DeviceKind, set[str]]:
    """Puts all sorts of devices into the tables; the ids that are known of each kind."""
    chosen, known = random.Random(SEED), {}
    with psycopg.connect(database_url, autocommit=True) as connection, connection.cursor() as cursor:
        for kind in KINDS:
            rows = rows_of(kind, chosen)
            for table, its in rows.items():
                cursor.executemany(kind.render(_INSERT[table]).encode(), its)
            known[kind] = {row[0] for row in [*rows["devices"], *rows["refusals"]]}
    return known


async def listed(ask: AnalyticsServiceAsyncStub, **question: Any) -> list[wire.ListedDevice]:
    """All pages of 1,000."""
    answer = await ask.ListDevices(wire.ListDevicesRequest(page_size=1_000, **question))
    assert answer.matched == len(answer.devices)
    return list(answer.devices)


def id_of(row: wire.ListedDevice) -> tuple[DeviceKind, str]:
    return (VEHICLE, row.vehicle_id) if row.HasField("vehicle_id") else (METER, row.meter_id)


async def statuses(
    ask: AnalyticsServiceAsyncStub, known: dict[DeviceKind, set[str]]
) -> dict[tuple[DeviceKind, str], Any]:
    ids = {kind: sorted(its) for kind, its in known.items()}
    batch = await ask.BatchGetStatus(wire.BatchGetStatusRequest(vehicle_ids=ids[VEHICLE], meter_ids=ids[METER]))
    of_vehicles = {(VEHICLE, each.vehicle_id): each for each in batch.vehicles}
    return of_vehicles | {(METER, each.meter_id): each for each in batch.meters}


def states_of(status: Any) -> set[str]:
    """By what the contract says, from a device's status."""
    found = {f"DEVICE_STATE_{wire.Freshness.Name(status.freshness).removeprefix('FRESHNESS_')}"}
    its = status.clock
    age_us = its.newest_age_at_arrival.ToMicroseconds()
    by_time = any(each.reason in BY_TIME for each in status.rejections)
    trusted = -60 * US_PER_SECOND <= age_us <= STALE_AFTER_US
    if by_time or its.future_readings or its.conflicting_readings or not trusted:
        found.add("DEVICE_STATE_CLOCK_OFF")
    if status.rejections or status.omissions:
        found.add("DEVICE_STATE_REFUSED")
    if status.doubted_readings:
        found.add("DEVICE_STATE_DOUBTED")
    return found


async def test_every_device_is_listed_once_with_what_its_status_says(
    devices: dict[DeviceKind, set[str]], ask: AnalyticsServiceAsyncStub
) -> None:
    answer = await ask.ListDevices(wire.ListDevicesRequest(page_size=1_000))
    of_each = await statuses(ask, devices)
    rows = {id_of(row): row for row in answer.devices}
    assert len(rows) == len(answer.devices) == answer.matched
    assert rows.keys() == of_each.keys()
    for device, row in rows.items():
        status = of_each[device]
        assert status.freshness != wire.FRESHNESS_NEVER_HEARD_OF
        assert row.freshness == status.freshness
        assert row.HasField("newest_reading") == status.HasField("reading")
        if status.HasField("reading"):
            assert (row.newest_reading, row.age) == (status.reading.timestamp, status.age)
        assert row.HasField("clock") == status.HasField("clock")
        assert row.clock == status.clock
        assert row.rejected_readings == sum(each.count for each in status.rejections)
        assert row.omitted_values == sum(each.count for each in status.omissions)
        assert row.doubted_readings == status.doubted_readings
        times = [us_from_proto(each.last_at) for each in [*status.rejections, *status.omissions]]
        assert (us_from_proto(row.last_refused) if row.HasField("last_refused") else None) == max(times, default=None)
        assert {wire.DeviceState.Name(state) for state in row.states} == states_of(status)
        assert list(row.states) == sorted(row.states)
    assert [(each.state, each.vehicles, each.meters) for each in answer.by_state] == [
        (
            number,
            *(
                sum(kind is of and name in states_of(status) for (of, _), status in of_each.items())
                for kind in (VEHICLE, METER)
            ),
        )
        for name, number in STATES.items()
    ]
    assert all(each.vehicles + each.meters > 3 for each in answer.by_state), "of each there are some"
    assert answer.stale_after.ToMicroseconds() == STALE_AFTER_US


@pytest.mark.parametrize("kind", [None, VEHICLE, METER], ids=["both", "vehicles", "meters"])
@pytest.mark.parametrize(
    "states", [(), *((state,) for state in STATES), ("DEVICE_STATE_STALE", "DEVICE_STATE_DOUBTED")]
)
async def test_kind_and_states_choose(
    kind: DeviceKind | None,
    states: tuple[str, ...],
    devices: dict[DeviceKind, set[str]],
    ask: AnalyticsServiceAsyncStub,
) -> None:
    number = wire.DEVICE_KIND_UNSPECIFIED if kind is None else wire.DeviceKind.Value(f"DEVICE_KIND_{kind.name.upper()}")
    rows = await listed(ask, kind=number, states=[STATES[state] for state in states])
    expected = {
        device
        for device, status in (await statuses(ask, devices)).items()
        if kind in (None, device[0]) and (not states or states_of(status) & {*states})
    }
    assert {id_of(row) for row in rows} == expected


def place_of(row: wire.ListedDevice, status: Any, order: str) -> tuple[Any, ...]:
    """By what the contract says, of a device and its status."""
    kind, device_id = id_of(row)
    newest_us = us_from_proto(row.newest_reading) if row.HasField("newest_reading") else None
    away_us = abs(row.clock.newest_age_at_arrival.ToMicroseconds())
    seen = row.clock.HasField("newest_age_at_arrival")
    by_time = sum(each.count for each in status.rejections if each.reason in BY_TIME)
    only_rejected = not seen and (row.HasField("clock") or by_time > 0)
    first: dict[str, tuple[Any, ...]] = {
        "FRESHNESS": (newest_us is not None, newest_us or 0),
        "CLOCK": (not only_rejected, -away_us if seen else 1, -by_time),
        "REFUSED": (-row.rejected_readings - row.omitted_values, -us_from_proto(row.last_refused)),
        "DOUBTED": (-row.doubted_readings,),
    }
    return *first[order], kind is METER, device_id


@pytest.mark.parametrize("order", ["FRESHNESS", "CLOCK", "REFUSED", "DOUBTED"])
async def test_an_order_is_what_it_says_and_pages_are_parts_of_one_result(
    order: str, devices: dict[DeviceKind, set[str]], ask: AnalyticsServiceAsyncStub, database_url: str
) -> None:
    number = wire.DeviceOrder.Value(f"DEVICE_ORDER_{order}")
    rows = await listed(ask, order=number)
    assert len(rows) == sum(map(len, devices.values()))
    of_each = await statuses(ask, devices)
    assert rows == sorted(rows, key=lambda row: place_of(row, of_each[id_of(row)], order))
    page = await ask.ListDevices(wire.ListDevicesRequest(order=number, page_size=37))
    first, found = page, list(page.devices)
    with psycopg.connect(database_url, autocommit=True) as owner:
        owner.execute("DELETE FROM vehicle_current_status")
        owner.execute("DELETE FROM meter_refusals")
    while page.next_page_token:
        page = await ask.ListDevices(
            wire.ListDevicesRequest(order=number, page_size=50, page_token=page.next_page_token)
        )
        assert (page.matched, page.by_state, page.as_of) == (first.matched, first.by_state, first.as_of)
        found += page.devices
    assert found == rows
    assert await listed(ask, order=number) != rows


async def test_tokens_are_good_for_their_question_alone(
    devices: dict[DeviceKind, set[str]], ask: AnalyticsServiceAsyncStub
) -> None:
    token = (await ask.ListDevices(wire.ListDevicesRequest(page_size=1))).next_page_token
    vehicles = await ask.ListVehiclePerformance(wire.ListVehiclePerformanceRequest(page_size=1))
    for call in (
        ask.ListDevices(wire.ListDevicesRequest(page_token=token, kind=wire.DEVICE_KIND_METER)),
        ask.ListDevices(wire.ListDevicesRequest(page_token=token, states=[wire.DEVICE_STATE_STALE])),
        ask.ListDevices(wire.ListDevicesRequest(page_token=token, order=wire.DEVICE_ORDER_CLOCK)),
        ask.ListDevices(wire.ListDevicesRequest(page_token=vehicles.next_page_token)),
        ask.ListVehiclePerformance(wire.ListVehiclePerformanceRequest(page_token=token)),
        ask.ListMeterPerformance(wire.ListMeterPerformanceRequest(page_token=token)),
    ):
        with pytest.raises(grpc.aio.AioRpcError) as raised:
            await call
        assert raised.value.code() == grpc.StatusCode.INVALID_ARGUMENT
        assert bad_fields(raised.value) == {"page_token"}
    same = wire.ListDevicesRequest(page_token=token, order=wire.DEVICE_ORDER_FRESHNESS)
    assert len((await ask.ListDevices(same)).devices) == 100


async def test_an_empty_fleet_has_an_empty_list(ask: AnalyticsServiceAsyncStub) -> None:
    answer = await ask.ListDevices(wire.ListDevicesRequest())
    assert (list(answer.devices), answer.matched, answer.next_page_token) == ([], 0, "")
    assert [(each.vehicles, each.meters) for each in answer.by_state] == [(0, 0)] * len(STATES)


async def test_what_devices_sent_comes_through_from_ingestion(
    postgres: EmbeddedServer, database: str, ask: AnalyticsServiceAsyncStub
) -> None:
    settings = IngestionSettings(
        database_url=postgres.url(database, role="energyfleet_ingestion"), ingestion_address="127.0.0.1:0"
    )

    def ago(seconds: int) -> int:
        return NOW_US - seconds * US_PER_SECOND

    async with (
        ingestion_svc.__main__.serving(settings, clock) as (_, address),
        grpc.aio.insecure_channel(address) as channel,
    ):
        ingest: IngestionServiceAsyncStub = IngestionServiceStub(channel)
        for reading in (
            a_vehicle_reading("live", ago(30)),
            a_vehicle_reading("live", ago(60)),
            a_vehicle_reading("live", ago(30)),
            a_vehicle_reading("silent", ago(18_000)),
            a_vehicle_reading("ahead", ago(-100)),
            a_meter_reading("future", ago(-90_000)),
            a_meter_reading("glitch", ago(10), 900.0),
            a_meter_reading("glitch", ago(5), 900.0),
            a_meter_reading("no volts", ago(5), voltage=-1.0),
        ):
            await ingest.IngestTelemetry(ingestion_wire.IngestTelemetryRequest(readings=[reading]))
        await ingest.MapVehicle(
            ingestion_wire.MapVehicleRequest(
                vehicle_id="mapped", meter_id="live", effective_from=proto_from_us(ago(90_000))
            )
        )

    def names(row: wire.ListedDevice) -> set[str]:
        return {wire.DeviceState.Name(state).removeprefix("DEVICE_STATE_") for state in row.states}

    rows = {id_of(row): names(row) for row in await listed(ask)}
    assert rows == {
        (VEHICLE, "live"): {"ONLINE"},
        (VEHICLE, "silent"): {"STALE", "CLOCK_OFF"},
        (VEHICLE, "ahead"): {"ONLINE", "CLOCK_OFF"},
        (VEHICLE, "mapped"): {"NO_READING"},
        (METER, "live"): {"NO_READING"},
        (METER, "future"): {"NO_READING", "CLOCK_OFF", "REFUSED"},
        (METER, "glitch"): {"ONLINE", "DOUBTED"},
        (METER, "no volts"): {"ONLINE", "REFUSED"},
    }
