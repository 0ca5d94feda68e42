"""The archive through the real services and commands: asked, checked, brought back, kept up by the service itself."""

from __future__ import annotations

import asyncio
import re
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import date, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import duckdb
import grpc
import psycopg
import pytest
from energyfleet.v1 import analytics_service_pb2 as analytics_wire
from energyfleet.v1 import ingestion_service_pb2 as wire
from energyfleet.v1.ingestion_service_pb2_grpc import IngestionServiceStub
from google.protobuf.empty_pb2 import Empty
from structlog.testing import capture_logs

import ingestion_svc.__main__
from fleetcli.commands.command_errors import BadInput
from fleetcli.commands.file_columns import Dialect
from fleetcli.commands.recording import opened
from shared.config import IngestionSettings
from shared.db.device_kind import KINDS, METER
from shared.db.embedded import EmbeddedServer
from shared.errors import StartRefused
from shared.exporter import new_registry
from shared.timestamps import US_PER_DAY, US_PER_HOUR, US_PER_MINUTE, proto_from_us
from tests.acceptance.conftest import Running
from tests.acceptance.forked import energyfleet
from tests.acceptance.processes import until
from tests.acceptance.test_cli_up import an_environment
from tests.archives import a_row, days_ago, in_archive, in_database, store
from tests.builders import NOW_US, a_meter_reading, a_vehicle_reading, clock, us
from tests.conftest import new_database
from tests.unit.test_metrics import value

if TYPE_CHECKING:  # in the stubs' types only
    from energyfleet.v1.analytics_service_pb2_grpc import AnalyticsServiceAsyncStub
    from energyfleet.v1.ingestion_service_pb2_grpc import IngestionServiceAsyncStub

pytestmark = pytest.mark.one_server

OPERATIONS = Path(__file__).parents[2] / "docs" / "operations.md"
UNTIL_US = us("2026-02-09T18:00:00Z")
YOUNG = date(2026, 2, 9)


async def send(ingest: IngestionServiceAsyncStub, readings: list[Any]) -> wire.IngestionSummary:
    return (await ingest.IngestTelemetry(wire.IngestTelemetryRequest(readings=readings))).summary


async def a_day_of_two_pairs(ingest: IngestionServiceAsyncStub) -> None:
    """Two cars that charge around midnight and on the bounds of the window; the second one changes its meter."""
    for vehicle, meter, begin_us in (
        ("vehicle-001", "meter-001", UNTIL_US - 3 * US_PER_DAY),
        ("vehicle-002", "meter-002", UNTIL_US - 3 * US_PER_DAY),
        ("vehicle-002", "meter-003", UNTIL_US - 12 * US_PER_HOUR),
    ):
        effective = proto_from_us(begin_us)
        await ingest.MapVehicle(wire.MapVehicleRequest(vehicle_id=vehicle, meter_id=meter, effective_from=effective))
    times = range(UNTIL_US - 30 * US_PER_HOUR, UNTIL_US + US_PER_HOUR, 15 * US_PER_MINUTE)
    readings = []
    for number, ts_us in enumerate(times):
        readings += [a_meter_reading(f"meter-00{at}", ts_us, 1.0 + number / 128) for at in (1, 2, 3)]
        readings += [
            a_vehicle_reading(f"vehicle-00{at}", ts_us, (1.0 + number / 128) * (0.75 + at / 16)) for at in (1, 2)
        ]
    assert (await send(ingest, readings)).stored == len(readings)


def blocks() -> list[str]:
    section = OPERATIONS.read_text().partition("\n## The archive\n")[2].partition("\n## ")[0]
    return re.findall(r"```sql\n(.*?)```", section, re.DOTALL)


async def test_the_documents_lines_answer_from_the_archive_what_analytics_answered_when_the_day_was_young(
    ingest: IngestionServiceAsyncStub,
    ask: AnalyticsServiceAsyncStub,
    ingestion: Running,
    database_url: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    await a_day_of_two_pairs(ingest)
    window = analytics_wire.TimeWindow(end=proto_from_us(UNTIL_US))
    answers = [
        await ask.GetVehiclePerformance(analytics_wire.GetVehiclePerformanceRequest(vehicle_id=each, window=window))
        for each in ("vehicle-001", "vehicle-002")
    ]
    expected = [
        (each.vehicle_id, each.kwh_delivered_dc, each.kwh_consumed_ac, each.kwh_delivered_dc / each.kwh_consumed_ac)
        for each in answers
    ]
    environment = an_environment(tmp_path, DATABASE_URL=database_url, INGESTION_ADDRESS=ingestion.address)
    written = await asyncio.to_thread(
        energyfleet, "archive", "--to", str(tmp_path / "archive"), environment=environment
    )
    assert written.returncode == 0, written.stderr
    assert "2026-02-09" in written.stdout
    listed = await asyncio.to_thread(energyfleet, "mappings", "--json", environment=environment)
    (tmp_path / "mappings.json").write_text(listed.stdout)

    monkeypatch.chdir(tmp_path)
    one, fleet = blocks()
    with duckdb.connect() as connection:
        assert connection.execute(one).fetchall() == [pytest.approx(expected[0][1:])]
        assert connection.execute(fleet).fetchall() == [
            (each[0], *(pytest.approx(number) for number in each[1:]))
            for each in sorted(expected, key=lambda row: row[3])
        ]


async def test_the_command_tells_what_it_wrote_and_what_was_damaged_and_repairs_it(
    ingest: IngestionServiceAsyncStub, database_url: str, tmp_path: Path
) -> None:
    await a_day_of_two_pairs(ingest)
    environment = an_environment(tmp_path, DATABASE_URL=database_url, ARCHIVE_URL=str(tmp_path / "archive"))

    def run(*arguments: str) -> Any:
        return energyfleet("archive", *arguments, environment=environment)

    told = await asyncio.to_thread(run)
    assert told.returncode == 0, told.stderr
    assert f"Archived to file://{tmp_path}/archive" in told.stdout
    assert re.search(r"2026-02-09 . meter +. +228 . +[\d,]+ . +[\d.]+ ", told.stdout), told.stdout
    assert "Nothing to archive" in (await asyncio.to_thread(run)).stdout
    right = await asyncio.to_thread(run, "--check")
    assert (right.returncode, right.stderr) == (0, "")
    assert "4 files of" in right.stdout

    file = tmp_path / f"archive/kind=meter/day={YOUNG}/readings.parquet"
    file.write_bytes(file.read_bytes()[:-1])
    wrong = await asyncio.to_thread(run, "--check")
    assert wrong.returncode == 1
    assert f"{file} has" in wrong.stderr
    assert "--repair" in wrong.stderr
    assert (await asyncio.to_thread(run, "--check", "--repair")).returncode == 0
    assert (await asyncio.to_thread(run, "--check")).returncode == 0


async def test_a_day_is_brought_back_as_it_was_sent_and_once(
    postgres: EmbeddedServer, ingest: IngestionServiceAsyncStub, database_url: str, tmp_path: Path
) -> None:
    noon_us = us("2026-02-09T12:00:00Z")
    readings = [a_meter_reading(f"m{at}", noon_us + at, 0.1 + at) for at in range(3)]
    readings += [a_vehicle_reading("v", noon_us + at, 0.25, soc=None if at else 50.0) for at in range(3)]
    readings += [a_meter_reading("doubted", noon_us + at * US_PER_MINUTE, 400.0) for at in range(2)]
    for at in range(3):
        reading = a_meter_reading("register", noon_us + at * US_PER_HOUR, None)
        reading.meter.register_kwh = 1_000.0 + at
        readings.append(reading)
    assert (await send(ingest, readings)).stored == len(readings)
    correction = wire.CorrectReadingRequest(
        meter_id="m0", timestamp=proto_from_us(noon_us), voided=Empty(), author="me", note="a test"
    )
    before = {kind: in_database(database_url, kind, YOUNG) for kind in KINDS}
    assert {row[-1] for row in before[METER]} == {None, "doubted", "baseline"}
    await ingest.CorrectReading(correction)
    environment = an_environment(tmp_path, DATABASE_URL=database_url, ARCHIVE_URL=str(tmp_path / "archive"))
    await asyncio.to_thread(energyfleet, "archive", environment=environment)

    with new_database(postgres) as fresh:
        settings = IngestionSettings(
            database_url=postgres.url(fresh, role="energyfleet_ingestion"), ingestion_address="127.0.0.1:0"
        )
        async with ingestion_svc.__main__.serving(settings, clock) as (_, address):
            environment["ENERGYFLEET_INGESTION_ADDRESS"] = address
            for outcome in ("stored", "duplicate"):
                for kind in KINDS:
                    file = str(tmp_path / f"archive/kind={kind.name}/day={YOUNG}/readings.parquet")
                    sent = await asyncio.to_thread(energyfleet, "replay", file, environment=environment)
                    assert sent.returncode == 0, sent.stderr
                    assert f"{len(before[kind])} {outcome}" in sent.stdout
                    assert ("1 readings had been corrected; corrections are not in" in sent.stderr) == (kind is METER)
        assert {kind: in_database(postgres.url(fresh), kind, YOUNG) for kind in KINDS} == before


def test_what_is_no_day_of_the_archive_is_refused_in_a_sentence(tmp_path: Path) -> None:
    file = tmp_path / "day.parquet"
    for content, said in ((b"PAR1", "no Parquet file, or cut short"), (None, "no such file")):
        if content is None:
            file.unlink()
        else:
            file.write_bytes(content)
        with pytest.raises(BadInput, match=said), opened(str(file), None, Dialect(), False) as recording:
            list(recording.lines())
    with pytest.raises(BadInput, match="refused") as refused, opened("s3://a:b@c/d.parquet", None, Dialect(), False):
        pass
    assert "a:b" not in str(refused.value)


async def test_maintain_archives_before_it_drops_and_drops_nothing_while_the_store_is_away(
    postgres: EmbeddedServer, database: str, database_url: str, tmp_path: Path
) -> None:
    old = days_ago(50)
    async with await psycopg.AsyncConnection.connect(database_url, autocommit=True) as owner:
        await store(owner, METER, old, {("m", 7): a_row(METER)})
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        away = f"s3://fleet/x?endpoint_override=127.0.0.1:{bound.getsockname()[1]}&scheme=http&region=any"
        variables = {"DATABASE_URL": postgres.url(database, role="energyfleet_maintenance"), "RETENTION_DAYS": "45"}
        environment = an_environment(tmp_path, **variables, SEAL_AFTER_DAYS="0", ARCHIVE_URL=away)
        environment |= {"AWS_ACCESS_KEY_ID": "any", "AWS_SECRET_ACCESS_KEY": "any"}
        failed = await asyncio.to_thread(energyfleet, "maintain", environment=environment)
    assert failed.returncode == 1
    assert f"{old} and later days stay, for that day is not archived to s3://fleet/x as it is now" in failed.stderr
    assert "see that the place is there" in failed.stderr
    assert "Nothing to archive" not in failed.stdout
    assert f"readings are kept from {old} on." in failed.stdout

    environment["ENERGYFLEET_ARCHIVE_URL"] = str(tmp_path / "archive")
    done = await asyncio.to_thread(energyfleet, "maintain", environment=environment)
    assert done.returncode == 0, done.stderr
    assert f"dropped meter_telemetry_history_{old:%Y%m%d}\n" in done.stdout
    assert len(in_archive(tmp_path / "archive", METER, old)) == 1


@asynccontextmanager
async def _captured() -> AsyncIterator[list[Any]]:
    with capture_logs() as lines:
        yield lines


async def test_the_service_archives_by_itself_and_takes_readings_while_it_cannot(
    postgres: EmbeddedServer, database: str, database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ingestion_svc.archiver.RETRY_S", 0.5)
    monkeypatch.setattr("ingestion_svc.archiver.BUSY_S", 0.2)  # the service seals, too
    async with await psycopg.AsyncConnection.connect(database_url, autocommit=True) as owner:
        await store(owner, METER, YOUNG - timedelta(days=3), {("m", 7): a_row(METER)})
    place = tmp_path / "archive"
    place.write_text("in the way")
    settings = IngestionSettings(
        database_url=postgres.url(database, role="energyfleet_ingestion"),
        ingestion_address="127.0.0.1:0",
        archive_url=str(place),
    )
    registry = new_registry()
    name = "energyfleet_ingestion_archive_waiting_days"
    async with (
        _captured() as logs,
        ingestion_svc.__main__.serving(settings, clock, registry) as (_, address),
        grpc.aio.insecure_channel(address) as channel,
    ):
        await until(lambda: "archive_failed" in [each["event"] for each in logs])
        assert value(registry, name) == 1
        assert (await send(IngestionServiceStub(channel), [a_meter_reading(ts_us=NOW_US)])).stored == 1
        place.unlink()
        await until(lambda: value(registry, name) == 0)
    assert len(in_archive(place, METER, YOUNG - timedelta(days=3))) == 1


async def test_without_the_extra_the_service_and_the_command_say_what_to_install(
    postgres: EmbeddedServer, database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shared.archive.archive_extra.find_spec", lambda name: None)
    settings = IngestionSettings(
        database_url=postgres.url(database, role="energyfleet_ingestion"),
        ingestion_address="127.0.0.1:0",
        archive_url="s3://bucket/fleet",
    )
    with pytest.raises(StartRefused, match=r"ENERGYFLEET_ARCHIVE_URL is set: .*pip install 'energy-fleet\[archive\]'"):
        async with ingestion_svc.__main__.serving(settings, clock):
            pass
    with (
        pytest.raises(BadInput, match=r"pip install 'energy-fleet\[archive\]'"),
        opened("day.parquet", None, Dialect(), False),
    ):
        pass
