"""What is written down of devices' clocks equals a plain-Python model."""

import asyncio
import random
from collections import Counter, defaultdict
from typing import Any

import psycopg
import pytest

from ingestion_svc import clock_evidence, device_evidence
from ingestion_svc.decode import decode
from ingestion_svc.device_evidence import DeviceEvidence
from ingestion_svc.readings import Decoded, MeterRow, Rejection, RejectionReason, TimeBounds, VehicleRow, Written
from shared.db.device_kind import VEHICLE
from shared.db.embedded import EmbeddedServer
from shared.db.engine import connection_parameters
from shared.timestamps import US_PER_SECOND, us_from_datetime
from tests.builders import NOW_US, a_meter_reading, a_vehicle_reading

_EVIDENCE = """
    SELECT meter_id, newest_ts, newest_age_us, late_readings, future_readings, conflicting_readings
    FROM meter_clock_evidence JOIN meters ON device_key = meter_key
"""


@pytest.fixture
def parameters(postgres: EmbeddedServer, database: str) -> dict[str, Any]:
    return connection_parameters(postgres.url(database, role="energyfleet_ingestion"), "test")


def register(url: str, *meter_ids: str) -> None:
    with psycopg.connect(url) as connection:
        for meter_id in meter_ids:
            connection.execute("INSERT INTO meters (meter_id) VALUES (%s)", (meter_id,))


def written_down(url: str) -> dict[str, tuple[int | None, ...]]:
    with psycopg.connect(url) as connection:
        return {
            meter_id: (None if newest is None else us_from_datetime(newest), *others)
            for meter_id, newest, *others in connection.execute(_EVIDENCE)
        }


def from_the_future(side: str, *device_ids: str) -> Decoded:
    """Rejected readings of these devices."""
    reason = RejectionReason.IN_FUTURE
    return Decoded(rejections=[Rejection(0, f"{side}.timestamp", reason, "", device_id) for device_id in device_ids])


def meter_row(meter_id: str, ts_us: int) -> MeterRow:
    return MeterRow(meter_id, ts_us, 1.0, None)


@pytest.mark.parametrize("seed", range(3))
async def test_the_evidence_equals_a_plain_model(
    parameters: dict[str, Any], database_url: str, monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    monkeypatch.setattr(device_evidence, "CHUNK_DEVICES", 3)
    rng = random.Random(seed)
    ids = [f"m{at}" for at in range(10)]
    register(database_url, *ids)
    evidence = DeviceEvidence(parameters)
    newest: dict[str, tuple[int, int]] = {}
    counts: defaultdict[str, Counter[str]] = defaultdict(Counter)
    for _ in range(60):
        now_us = NOW_US + rng.randrange(10**9)
        rows = [meter_row(rng.choice(ids), NOW_US - rng.randrange(10**12)) for _ in range(rng.randint(1, 20))]
        outcome = [rng.choice(("stored", "stored", "stored", "duplicates", "conflicts", "refused")) for _ in rows]
        kinds: dict[str, Any] = {
            kind: [at for at, each in enumerate(outcome) if each == kind] for kind in outcome if kind != "stored"
        }
        for (meter_id, ts_us, *_), each in zip(rows, outcome, strict=True):
            if each == "conflicts":
                counts[meter_id]["conflicting"] += 1
            elif each == "stored":
                if ts_us > newest.get(meter_id, (0, 0))[0]:
                    newest[meter_id] = (ts_us, now_us)
                else:
                    counts[meter_id]["late"] += 1
        evidence.resolved(rows, Written(**kinds), now_us)
        future = [rng.choice(ids) for _ in range(rng.randrange(3))]
        for meter_id in future:
            counts[meter_id]["future"] += 1
        evidence.decoded(from_the_future("meter", *future))
        if rng.random() < 0.2:
            await evidence.flush()
    await evidence.flush()

    assert written_down(database_url) == {
        meter_id: (
            newest[meter_id][0],
            newest[meter_id][1] - newest[meter_id][0],
            counts[meter_id]["late"],
            counts[meter_id]["future"],
            counts[meter_id]["conflicting"],
        )
        for meter_id in ids
    }


async def test_a_rejected_reading_registers_no_device_and_is_evidence_of_a_known_one(
    parameters: dict[str, Any], database_url: str
) -> None:
    register(database_url, "known")
    ahead_us = NOW_US + 3_600 * US_PER_SECOND
    readings = [
        a_meter_reading("known", ahead_us),
        a_meter_reading("ghost", ahead_us),
        a_vehicle_reading("ghost", ahead_us),
        a_meter_reading("known", kwh_consumed_ac=None),
    ]
    evidence = DeviceEvidence(parameters)
    decoded = decode(readings, 0, TimeBounds.at(NOW_US, 400))
    assert [each.device_id for each in decoded.rejections] == ["known", "ghost", "ghost", "known"]
    assert decoded.arrived_us == NOW_US
    evidence.decoded(decoded)
    await evidence.flush()

    assert written_down(database_url) == {"known": (None, None, 0, 1, 0)}


async def test_what_could_not_be_written_down_is_written_the_next_time_and_once(
    parameters: dict[str, Any], database_url: str
) -> None:
    register(database_url, "m")
    evidence = DeviceEvidence(parameters)
    evidence.resolved([meter_row("m", NOW_US), meter_row("m", NOW_US - 1)], Written(), NOW_US + 5)
    host = evidence._parameters["host"]
    evidence._parameters["host"] = "/nonexistent"
    with pytest.raises(psycopg.OperationalError):
        await evidence.flush()
    evidence._parameters["host"] = host
    with psycopg.connect(database_url, autocommit=True) as owner:
        owner.execute("REVOKE INSERT ON meter_clock_evidence FROM energyfleet_ingestion")
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            await evidence.flush()
        assert written_down(database_url) == {}
        owner.execute("GRANT INSERT ON meter_clock_evidence TO energyfleet_ingestion")
    await evidence.flush()
    await evidence.flush()

    assert written_down(database_url) == {"m": (NOW_US, 5, 1, 0, 0)}


async def test_a_flush_rests_between_its_parts_and_not_when_it_closes(
    parameters: dict[str, Any], database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(device_evidence, "CHUNK_DEVICES", 1)
    monkeypatch.setattr(device_evidence, "FLUSH_COOLDOWN", 1e9)
    monkeypatch.setattr(device_evidence, "FLUSH_COOLDOWN_MAX_S", 3_600.0)
    ids = ["m0", "m1", "m2"]
    register(database_url, *ids)
    evidence = DeviceEvidence(parameters, interval_s=0.0)
    evidence.resolved([meter_row(meter_id, NOW_US) for meter_id in ids], Written(), NOW_US)
    evidence.start()
    async with asyncio.timeout(30):
        while not written_down(database_url):
            await asyncio.sleep(0)
        assert len(written_down(database_url)) == 1
        await evidence.close()

    assert sorted(written_down(database_url)) == ids


async def test_two_processes_add_up_and_the_newest_reading_s_age_stays(
    parameters: dict[str, Any], database_url: str
) -> None:
    register(database_url, "m")
    one, other = DeviceEvidence(parameters), DeviceEvidence(parameters)
    one.resolved([meter_row("m", NOW_US), meter_row("m", NOW_US - 9)], Written(), NOW_US + 1)
    other.resolved([meter_row("m", NOW_US - 5), meter_row("m", NOW_US - 6)], Written(), NOW_US + 2)
    await one.flush()
    await other.flush()

    assert written_down(database_url) == {"m": (NOW_US, 1, 2, 0, 0)}


async def test_memory_is_bounded_whatever_names_are_sent(
    parameters: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(clock_evidence, "DEVICES_MAX", 100)
    evidence = DeviceEvidence(parameters)
    for at in range(1_000):
        evidence.decoded(from_the_future("vehicle", f"ghost{at}"))
        evidence.resolved([VehicleRow(f"v{at}", NOW_US, 1.0, None, None)], Written(), NOW_US)

    assert evidence._clocks[VEHICLE].not_kept >= 900
    assert sum(len(rows) for rows in evidence._clocks[VEHICLE].take(30)) <= 200
    assert len(evidence._clocks[VEHICLE]._newest_us) <= 101
