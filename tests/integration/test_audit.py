"""Who changed what, when and why is stored with the change, whatever happens meanwhile."""

import asyncio
from collections.abc import AsyncIterator, Awaitable
from contextlib import asynccontextmanager
from typing import Any

import psycopg
import pytest
import pytest_asyncio
from alembic import command
from alembic.config import Config
from energyfleet.v1 import ingestion_service_pb2 as wire
from sqlalchemy import create_engine
from sqlalchemy.pool import NullPool

from ingestion_svc.mappings_sql import MAPPING_OPTIONS
from ingestion_svc.readings import MeterRow, TimeBounds
from ingestion_svc.servicer import IngestionServicer
from ingestion_svc.writer import Writer
from ingestion_svc.writer_sql import METERS
from shared import caller
from shared.config import Settings
from shared.db.embedded import EmbeddedServer
from shared.db.engine import connection_parameters, make_engine
from shared.db.migrate import MIGRATIONS, migrate
from shared.errors import DatabaseUnavailable
from shared.identity import Grants, Identity
from shared.power_limits import PowerLimits
from shared.timestamps import US_PER_DAY, US_PER_HOUR, datetime_from_us, proto_from_us
from tests.builders import NOW_US

NOTHING: Any = None
"""Stands for what these rpcs do not touch."""


@asynccontextmanager
async def a_door(url: str) -> AsyncIterator[IngestionServicer]:
    """A worker's rpcs, called without a channel: who calls is whoever the test says."""
    engine = make_engine(url, "test", pool_size=1, **MAPPING_OPTIONS)
    bounds = TimeBounds.at(NOW_US, 400, NOW_US - 400 * US_PER_DAY)
    yield IngestionServicer(NOTHING, NOTHING, engine, lambda: bounds, 1, PowerLimits())
    await engine.dispose()


@pytest.fixture
def url(postgres: EmbeddedServer, database: str) -> str:
    return postgres.url(database, role="energyfleet_ingestion")


@pytest_asyncio.fixture
async def door(url: str) -> AsyncIterator[IngestionServicer]:
    async with a_door(url) as its:
        yield its


async def by(name: str, call: Awaitable[Any]) -> Any:
    """What somebody's call is answered."""

    async def called() -> Any:
        caller.set_identity(Identity(name, Grants()))
        return await call

    return await asyncio.create_task(called())


def mapped(meter_id: str, from_h: float, until_h: float | None = None, **said: Any) -> wire.MapVehicleRequest:
    """Of vehicle `v`; times in hours from now, as below."""
    return wire.MapVehicleRequest(vehicle_id="v", meter_id=meter_id, **times(from_h, until_h), **said)


def unmapped(from_h: float, until_h: float | None = None, **said: Any) -> wire.UnmapVehicleRequest:
    return wire.UnmapVehicleRequest(vehicle_id="v", **times(from_h, until_h), **said)


def times(from_h: float, until_h: float | None) -> dict[str, Any]:
    ends = {"effective_from": from_h, "effective_until": until_h}
    return {name: proto_from_us(NOW_US + round(h * US_PER_HOUR)) for name, h in ends.items() if h is not None}


def span(message: Any, field: str = "") -> str:
    """A mapping such as `m -8..-6`; without an end `m -8..`; empty where there is none."""
    if field and not message.HasField(field):
        return ""
    mapping = getattr(message, field) if field else message
    start, end = (
        f"{(each.ToMicroseconds() - NOW_US) / US_PER_HOUR:g}"
        for each in (mapping.effective_from, mapping.effective_until)
    )
    return f"{mapping.meter_id} {start}..{end if mapping.HasField('effective_until') else ''}"


def said(message: Any, field: str) -> str | None:
    """Who did it, and why."""
    record = getattr(message, field)
    return f"{record.identity}: {record.note}" if message.HasField(field) else None


async def listed(door: IngestionServicer) -> list[tuple[str, str | None, str | None]]:
    answer = await door.ListMappings(wire.ListMappingsRequest(), NOTHING)
    return [(span(each), said(each, "registered"), said(each, "ended")) for each in answer.mappings]


async def changes(door: IngestionServicer, **asked: Any) -> list[tuple[str, str, str | None]]:
    """The newest first, all pages."""
    found: list[Any] = []
    question = wire.ListMappingChangesRequest(**asked)
    while True:
        page = await door.ListMappingChanges(question, NOTHING)
        assert len(page.changes) <= (question.page_size or 100)
        found += page.changes
        question.page_token = page.next_page_token
        if not question.page_token:
            return [(span(each, "before"), span(each, "after"), said(each, "record")) for each in found]


async def test_every_mapping_and_every_change_tells_who_made_it_and_why(door: IngestionServicer) -> None:
    steps: list[tuple[str, Any, Any]] = [
        ("ada", door.MapVehicle, mapped("m", -8, note="moved in")),
        ("bob", door.UnmapVehicle, unmapped(-6, -5, note="a journey")),
        ("cay", door.MapVehicle, mapped("n", -3)),
        ("bob", door.MapVehicle, mapped("n", -4, mode=wire.MAPPING_MODE_JOIN, note="earlier")),
        ("cay", door.UnmapVehicle, unmapped(-9, -7)),
        ("ada", door.UnmapVehicle, unmapped(-5, -1, note="never")),
    ]
    answers = []
    for who, rpc, request in steps:
        answers.append(await by(who, rpc(request, NOTHING)))
        traces = await changes(door)
        # Again, by whomever and for whatever reason: nothing changes, and there is no further trace.
        request.note = "again"
        await by("eve", rpc(request, NOTHING))
        assert await changes(door) == traces

    told = [
        ("", "m -8..", "ada: moved in"),
        ("m -8..", "m -8..-6", "bob: a journey"),
        ("m -8..", "m -5..", "bob: a journey"),
        ("m -5..", "m -5..-3", "cay: "),
        ("", "n -3..", "cay: "),
        ("n -3..", "n -4..", "bob: earlier"),
        ("m -8..-6", "m -7..-6", "cay: "),
        ("m -5..-3", "", "ada: never"),
        ("n -4..", "n -1..", "ada: never"),
    ]
    assert await changes(door) == await changes(door, page_size=2, vehicle_id="v") == told[::-1]
    assert await changes(door, meter_id="n") == [each for each in told[::-1] if "n " in each[0] + each[1]]
    assert await changes(door, vehicle_id="m") == []
    assert await listed(door) == [("m -7..-6", "ada: moved in", "bob: a journey"), ("n -1..", "bob: earlier", None)]
    # The answers said the same.
    third, fourth, last = answers[2], answers[3], answers[5]
    assert [said(third.closed[0], each) for each in ("registered", "ended")] == ["ada: moved in", "cay: "]
    assert [said(each, "registered") for each in (third.mapping, fourth.mapping)] == ["cay: ", "bob: earlier"]
    assert [(said(each, "registered"), said(each, "ended")) for each in last.removed] == [
        ("ada: moved in", "cay: "),
        ("bob: earlier", None),
    ]
    # And so the changes are those of one transaction each.
    assert third.closed[0].ended.changed_at == third.mapping.registered.changed_at


async def test_a_correction_tells_whose_call_it_was_beside_its_author(door: IngestionServicer, url: str) -> None:
    writer = Writer(METERS, connection_parameters(url, "test"), 10, lambda place: None)
    await writer.write([MeterRow("m", NOW_US, 1.0, None)])
    await writer.close()
    request = wire.CorrectReadingRequest(
        meter_id="m", timestamp=proto_from_us(NOW_US), kwh=2.0, author="Ada Lovelace", note="a test"
    )
    for name in ("ada", "eve"):  # who says the same again corrects nothing
        answer = await by(name, door.CorrectReading(request, NOTHING))
        assert (answer.correction.identity, answer.correction.author) == ("ada", "Ada Lovelace")
    page = await door.ListCorrections(wire.ListCorrectionsRequest(), NOTHING)
    assert list(page.corrections) == [answer.correction]


@pytest.mark.one_server
async def test_of_two_workers_that_are_told_the_same_one_changes_it_and_leaves_a_trace(url: str) -> None:
    async with a_door(url) as one, a_door(url) as other:
        traces = 0
        for request, expected in ((mapped("m", -8), 1), (unmapped(-4), 1), (mapped("m", -4), 1), (unmapped(-9, 0), 2)):
            rpc = "MapVehicle" if isinstance(request, wire.MapVehicleRequest) else "UnmapVehicle"
            workers = {"ada": one, "bob": other, "cay": one, "dan": other}
            await asyncio.gather(*(by(name, getattr(each, rpc)(request, NOTHING)) for name, each in workers.items()))
            new = (await changes(one))[: -traces or None]
            assert len(new) == expected
            assert len({told for *_, told in new}) == 1
            traces += expected


@pytest.mark.one_server
async def test_an_outage_in_the_middle_leaves_neither_a_change_nor_its_trace(
    door: IngestionServicer, database_url: str
) -> None:
    await by("ada", door.MapVehicle(mapped("m", -8), NOTHING))
    before = await listed(door), await changes(door)
    owner = psycopg.connect(database_url, autocommit=True)
    with owner:
        owner.execute(
            "CREATE FUNCTION outage() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER AS"
            " 'BEGIN PERFORM pg_terminate_backend(pg_backend_pid()); RETURN NULL; END'"
        )
        # Of the rows of this call one is recorded and changed by then.
        owner.execute("CREATE TRIGGER outage AFTER INSERT OR DELETE ON vehicle_meter_map EXECUTE FUNCTION outage()")
        for call in (door.UnmapVehicle(unmapped(-6, -5), NOTHING), door.MapVehicle(mapped("n", -4), NOTHING)):
            with pytest.raises(DatabaseUnavailable):
                await by("bob", call)
        assert (await listed(door), await changes(door)) == before
        owner.execute("DROP TRIGGER outage ON vehicle_meter_map")
    for _ in range(2):
        await by("bob", door.MapVehicle(mapped("n", -4), NOTHING))
    assert await listed(door) == [("m -8..-4", "ada: ", "bob: "), ("n -4..", "bob: ", None)]
    assert len(await changes(door)) == 3


@pytest.mark.one_server
async def test_of_what_was_there_before_the_migration_nobody_is_named(postgres: EmbeddedServer, database: str) -> None:
    settings = Settings(ENERGYFLEET_SCHEMA="older")
    owner_url = settings.in_schema(postgres.url(database))
    with psycopg.connect(owner_url, autocommit=True) as owner:
        owner.execute("CREATE SCHEMA older")
        _migrate_to("0001", owner_url)
        owner.execute("INSERT INTO meters (meter_id) VALUES ('m'), ('n')")
        owner.execute("INSERT INTO vehicles (vehicle_id) VALUES ('v')")
        owner.execute(
            "INSERT INTO vehicle_meter_map (vehicle_key, meter_key, effective_from, effective_until)"
            " VALUES (1, 1, %(first)s, %(second)s), (1, 1, %(second)s, NULL)",
            {"first": _hours(-8), "second": _hours(-6)},
        )
        owner.execute(
            "INSERT INTO corrections (device_kind, device_id, ts, sent_kwh, kwh_before, kwh, voided, author, note)"
            " VALUES ('meter', 'm', now(), 1, 1, 2, false, 'Ada', 'a test')"
        )
        migrate(owner_url)

        async with a_door(settings.in_schema(postgres.url(database, role="energyfleet_ingestion"))) as door:
            assert await listed(door) == [("m -8..-6", None, None), ("m -6..", None, None)]
            assert await changes(door) == []
            (correction,) = (await door.ListCorrections(wire.ListCorrectionsRequest(), NOTHING)).corrections
            assert (correction.author, correction.HasField("identity")) == ("Ada", False)

            await by("bob", door.UnmapVehicle(unmapped(-9, -7), NOTHING))
            await by("bob", door.MapVehicle(mapped("n", -4), NOTHING))
            assert await listed(door) == [
                ("m -7..-6", None, None),
                ("m -6..-4", None, "bob: "),
                ("n -4..", "bob: ", None),
            ]
            assert await changes(door) == [
                ("", "n -4..", "bob: "),
                ("m -6..", "m -6..-4", "bob: "),
                ("m -8..-6", "m -7..-6", "bob: "),
            ]
            # What an older version changes meanwhile is nobody's either, and not what bob said.
            owner.execute(
                "UPDATE vehicle_meter_map SET effective_until = %s WHERE effective_until = %s", (_hours(-5), _hours(-4))
            )
            owner.execute("UPDATE vehicle_meter_map SET effective_from = %s WHERE meter_key = 2", (_hours(-5),))
            assert await listed(door) == [("m -7..-6", None, None), ("m -6..-5", None, None), ("n -5..", None, None)]


def _hours(h: float) -> Any:
    return datetime_from_us(NOW_US + round(h * US_PER_HOUR))


def _migrate_to(revision: str, url: str) -> None:
    """As an older version did."""
    parameters = connection_parameters(url, "test")
    engine = create_engine("postgresql+psycopg://", creator=lambda: psycopg.connect(**parameters), poolclass=NullPool)
    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS))
    with engine.connect() as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, revision)
        connection.commit()
