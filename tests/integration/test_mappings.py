"""The questions about mappings find their answers by index, in a fleet that has thousands of them."""

from collections.abc import AsyncIterator, Iterator
from typing import Any

import psycopg
import pytest
import pytest_asyncio
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from ingestion_svc.mappings_sql import LIST, MAPPING_OPTIONS, OVERLAPPING
from shared.db.engine import make_engine
from shared.timestamps import datetime_from_us
from tests.builders import NOW_US

DEVICES = 3_000


@pytest.fixture
def mapped(database_url: str) -> None:
    """A mapping after another for each vehicle, of two meters in turn."""
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
    with psycopg.connect(database_url, autocommit=True) as connection:
        connection.execute("VACUUM (ANALYZE) vehicles, meters, vehicle_meter_map")


@pytest_asyncio.fixture
async def engine(database_url: str) -> AsyncIterator[AsyncEngine]:
    engine = make_engine(database_url, "test", pool_size=1, **MAPPING_OPTIONS)
    yield engine
    await engine.dispose()


def scans(plan: dict[str, Any]) -> Iterator[tuple[str, float]]:
    """How a plan reads its tables and indexes, and how many rows that gives."""
    if "Relation Name" in plan or "Index Name" in plan:
        yield plan["Node Type"], plan["Actual Rows"] * plan["Actual Loops"]
    for inner in plan.get("Plans", ()):
        yield from scans(inner)


NOBODY = {"vehicle_id": "", "meter_id": ""}
ASKED: list[tuple[Any, dict[str, Any]]] = [
    (LIST, {"vehicle_id": "vehicle-7"}),
    (LIST, {"meter_id": "meter-7"}),
    (LIST, {"vehicle_id": "vehicle-7", "meter_id": "meter-8"}),
    (LIST, {}),
    (LIST, {"after_vehicle_id": "vehicle-5", "after": datetime_from_us(NOW_US)}),
    (OVERLAPPING, {"vehicle_id": "vehicle-7", "meter_id": "meter-9"}),
    (OVERLAPPING, {"vehicle_id": "vehicle-7", "until": datetime_from_us(NOW_US)}),
]


async def test_no_question_reads_all_mappings(mapped: None, engine: AsyncEngine) -> None:
    for statement, asked in ASKED:
        place: dict[str, Any] = {"after_vehicle_id": "", "after": datetime_from_us(0), "after_meter_id": "", "most": 21}
        parameters = NOBODY | (place if statement is LIST else {"after": place["after"], "until": None}) | asked
        async with engine.connect() as connection:
            explained = await connection.execute(text(f"EXPLAIN (ANALYZE, FORMAT JSON) {statement.text}"), parameters)
            plan = explained.scalar_one()[0]["Plan"]
        found = list(scans(plan))
        assert plan["Actual Rows"] > 0, asked
        assert not [node for node, _ in found if node == "Seq Scan"], (asked, found)
        assert sum(rows for _, rows in found) < 300, (asked, found)
