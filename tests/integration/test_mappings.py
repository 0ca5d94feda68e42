"""The questions about mappings find their answers by index, in a fleet that has thousands of them."""

from collections.abc import AsyncIterator, Iterator
from typing import Any

import psycopg
import pytest
import pytest_asyncio
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from ingestion_svc.mappings_sql import LIST, LIST_CHANGES, MAPPING_OPTIONS, OVERLAPPING
from shared.db.engine import make_engine
from shared.requests import PLACE_NUMBER_MAX
from shared.timestamps import datetime_from_us
from tests.builders import NOW_US

DEVICES = 3_000


@pytest.fixture
def mapped(database_url: str) -> None:
    """A mapping after another for each vehicle, of two meters in turn, each with the change that registered it."""
    with psycopg.connect(database_url) as connection:
        for kind in ("vehicle", "meter"):
            connection.execute(
                f"INSERT INTO {kind}s ({kind}_id)"
                f" SELECT '{kind}-' || n FROM generate_series(1, {DEVICES}) AS n".encode()
            )
        connection.execute(
            "INSERT INTO vehicle_meter_map SELECT n, 1 + (n + day) %% %s,"
            " timestamptz '2026-01-01Z' + day * interval '1 day', timestamptz '2026-01-02Z' + day * interval '1 day'"
            " FROM generate_series(1, %s) AS n, generate_series(0, 1) AS day",
            (DEVICES, DEVICES),
        )
        connection.execute(
            "INSERT INTO mapping_changes (vehicle_id, meter_id, from_after, until_after, identity)"
            " SELECT 'vehicle-' || vehicle_key, 'meter-' || meter_key, effective_from, effective_until, 'somebody'"
            " FROM vehicle_meter_map"
        )
        connection.execute(
            "UPDATE vehicle_meter_map SET registered_change = change_id FROM mapping_changes"
            " WHERE (vehicle_id, from_after) = ('vehicle-' || vehicle_key, effective_from)"
        )
    with psycopg.connect(database_url, autocommit=True) as connection:
        connection.execute("VACUUM (ANALYZE) vehicles, meters, vehicle_meter_map, mapping_changes")


@pytest_asyncio.fixture
async def engine(database_url: str) -> AsyncIterator[AsyncEngine]:
    engine = make_engine(database_url, "test", pool_size=1, **MAPPING_OPTIONS)
    yield engine
    await engine.dispose()


def scans(plan: dict[str, Any]) -> Iterator[tuple[str, float]]:
    """How a plan reads its tables and indexes, and how many rows it looks at for that."""
    if "Relation Name" in plan or "Index Name" in plan:
        yield plan["Node Type"], (plan["Actual Rows"] + plan.get("Rows Removed by Filter", 0)) * plan["Actual Loops"]
    for inner in plan.get("Plans", ()):
        yield from scans(inner)


NOBODY = {"vehicle_id": "", "meter_id": ""}
PLACES: dict[Any, dict[str, Any]] = {
    LIST: {"after_vehicle_id": "", "after": datetime_from_us(0), "after_meter_id": "", "most": 21},
    LIST_CHANGES: {"before": PLACE_NUMBER_MAX, "most": 21},
    OVERLAPPING: {"after": datetime_from_us(0), "until": None},
}
ASKED: list[tuple[Any, dict[str, Any]]] = [
    (LIST, {"vehicle_id": "vehicle-7"}),
    (LIST, {"meter_id": "meter-7"}),
    (LIST, {"vehicle_id": "vehicle-7", "meter_id": "meter-8"}),
    (LIST, {}),
    (LIST, {"after_vehicle_id": "vehicle-5", "after": datetime_from_us(NOW_US)}),
    (OVERLAPPING, {"vehicle_id": "vehicle-7", "meter_id": "meter-9"}),
    (OVERLAPPING, {"vehicle_id": "vehicle-7", "until": datetime_from_us(NOW_US)}),
    (LIST_CHANGES, {"vehicle_id": "vehicle-7"}),
    (LIST_CHANGES, {"meter_id": "meter-7"}),
    (LIST_CHANGES, {"vehicle_id": "vehicle-7", "meter_id": "meter-8"}),
    (LIST_CHANGES, {}),
]


async def test_no_question_reads_all_mappings(mapped: None, engine: AsyncEngine) -> None:
    for statement, asked in ASKED:
        parameters = NOBODY | PLACES[statement] | asked
        async with engine.connect() as connection:
            explained = await connection.execute(text(f"EXPLAIN (ANALYZE, FORMAT JSON) {statement.text}"), parameters)
            plan = explained.scalar_one()[0]["Plan"]
        found = list(scans(plan))
        assert plan["Actual Rows"] > 0, asked
        assert not [node for node, _ in found if node == "Seq Scan"], (asked, found)
        assert sum(rows for _, rows in found) < 300, (asked, found)
