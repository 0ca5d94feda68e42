"""What is written down of refused readings, and how much of it is kept."""

from typing import Any

import psycopg
import pytest

from ingestion_svc import device_evidence
from ingestion_svc.decode import decode
from ingestion_svc.device_evidence import DeviceEvidence
from ingestion_svc.readings import MeterRow, TimeBounds, Written
from shared.db.embedded import EmbeddedServer
from shared.db.engine import connection_parameters
from shared.timestamps import datetime_from_us
from tests.builders import NOW_US, a_meter_reading, a_vehicle_reading

_REFUSALS = "SELECT device_id, field, reason, count, last_at FROM {device}_refusals ORDER BY 1, 2, 3"


@pytest.fixture
def parameters(postgres: EmbeddedServer, database: str) -> dict[str, Any]:
    return connection_parameters(postgres.url(database, role="energyfleet_ingestion"), "test")


def written_down(url: str, device: str = "meter") -> list[tuple[Any, ...]]:
    with psycopg.connect(url) as connection:
        return connection.execute(_REFUSALS.format(device=device)).fetchall()


async def test_two_processes_add_up_and_the_last_refusal_stays(parameters: dict[str, Any], database_url: str) -> None:
    one, other = DeviceEvidence(parameters), DeviceEvidence(parameters)
    readings = [
        a_meter_reading("m", kwh_consumed_ac=None),
        a_meter_reading("m", voltage=6553.5),
        a_meter_reading(" not an id", kwh_consumed_ac=None),
        a_vehicle_reading("m", soc=255, battery_temp=-127),
    ]
    for evidence, now_us in ((one, NOW_US + 7), (other, NOW_US)):
        evidence.decoded(decode(readings, 0, TimeBounds.at(now_us, 400)))
        await evidence.flush()

    last = datetime_from_us(NOW_US + 7)
    assert written_down(database_url) == [
        ("m", "meter.kwh_consumed_ac", "REJECTION_REASON_MISSING", 2, last),
        ("m", "meter.voltage", "REJECTION_REASON_OUT_OF_RANGE", 2, last),
    ]
    assert written_down(database_url, "vehicle") == [
        ("m", "vehicle.battery_temp", "REJECTION_REASON_OUT_OF_RANGE", 2, last),
        ("m", "vehicle.soc", "REJECTION_REASON_OUT_OF_RANGE", 2, last),
    ]


async def test_a_reading_that_the_database_refused_is_among_them(parameters: dict[str, Any], database_url: str) -> None:
    evidence = DeviceEvidence(parameters)
    evidence.resolved([MeterRow("m", NOW_US, 1.0, None)], Written(refused=[0]), NOW_US)
    await evidence.flush()

    assert written_down(database_url) == [
        ("m", "reading", "REJECTION_REASON_REFUSED_BY_DATABASE", 1, datetime_from_us(NOW_US))
    ]


async def test_of_devices_that_were_never_stored_only_the_last_ones_are_kept(
    parameters: dict[str, Any], database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(device_evidence, "STRANGERS_MAX", 3)
    with psycopg.connect(database_url) as connection:
        connection.execute("INSERT INTO meters (meter_id) VALUES ('known')")
    evidence = DeviceEvidence(parameters)
    for at, meter_id in enumerate(["known", *(f"ghost{number}" for number in range(8)), "ghost2"]):
        bounds = TimeBounds.at(NOW_US + at, 400)
        evidence.decoded(decode([a_meter_reading(meter_id, kwh_consumed_ac=None)], 0, bounds))
        if at % 2:
            await evidence.flush()
    await evidence.flush()

    assert [row[0] for row in written_down(database_url)] == ["ghost2", "ghost6", "ghost7", "known"]
