"""PostgreSQL plans every statement that is rendered for a kind of device, under the role that says it."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from types import ModuleType
from typing import Any

import psycopg
import pytest
from sqlalchemy import TextClause
from sqlalchemy.dialects.postgresql.base import PGDialect

from analytics_svc import baseline_sql, device_sql, fleet_sql, meter_sql, queries_sql, reader_sql, sessions_sql
from analytics_svc.readings_sql import OfReadings
from ingestion_svc import mappings_sql, upkeep_sql
from ingestion_svc.clock_evidence import EvidenceRow
from ingestion_svc.count_sessions_sql import COUNT_SESSIONS, FIND_RISES
from ingestion_svc.refusals import RefusalRow
from ingestion_svc.upkeep_sql import ADD_CLOCK_EVIDENCE, ADD_REFUSALS, FORGET_STRANGERS
from ingestion_svc.writer_sql import METERS, VEHICLES, Target
from shared.db.device_kind import KINDS, DeviceKind
from shared.db.embedded import EmbeddedServer
from shared.db.engine import connection_parameters
from shared.db.hour_changes import FORGET_HOURS
from shared.db.verification_sql import SIDES, Side

HOUR = datetime(2026, 2, 9, tzinfo=UTC)
PARAMETERS = {
    **dict.fromkeys(("hour", "first", "start", "day"), HOUR),
    **dict.fromkeys(("next_hour", "last", "end", "next_day"), HOUR + timedelta(hours=1)),
    **{name: [1] for name in ("keys", "ordinals", "firsts_us", "lasts_us")},
    "hours": [HOUR],
    "bounded": True,
    "following": 32,
    "rising_from_kwh": [1.0],
    "ids": ["a"],
    "max_kw": 500.0,
    "limits_kw": [500.0],
    "min_interval_s": 900.0,
}
NO_ROWS = b"PGCOPY\n\xff\r\n\x00" + bytes(8) + b"\xff\xff"
"""A binary COPY of none."""


@pytest.fixture
def ingestion(postgres: EmbeddedServer, database: str) -> Iterator[psycopg.Connection[Any]]:
    with connected(postgres.url(database, role="energyfleet_ingestion")) as connection:
        yield connection


@pytest.fixture
def owner(database_url: str) -> Iterator[psycopg.Connection[Any]]:
    with connected(database_url) as connection:
        yield connection


@contextmanager
def connected(url: str) -> Iterator[psycopg.Connection[Any]]:
    with psycopg.connect(**connection_parameters(url, "test"), autocommit=True) as connection:
        yield connection


def plan(connection: psycopg.Connection[Any], statement: str, given: Mapping[str, Any] = PARAMETERS) -> None:
    """Has a statement planned; commands without a plan run, without a row or to be rolled back."""
    if statement.split()[0] == "COPY":
        with connection.cursor().copy(statement) as copy:
            copy.write(NO_ROWS)
    elif statement.split()[0] == "LOCK":
        with connection.transaction(force_rollback=True):
            connection.execute(statement)
    else:
        assert psycopg.ClientCursor(connection).execute(f"EXPLAIN {statement}", given).fetchall()


def plan_prepared(connection: psycopg.Connection[Any], statement: TextClause) -> None:
    """Has a statement planned for any parameters."""
    compiled = statement.compile(dialect=PGDialect(paramstyle="numeric_dollar"))  # type: ignore[no-untyped-call]
    parameters = f"({', '.join('NULL' for _ in compiled.positiontup)})" if compiled.positiontup else ""
    connection.execute("SET plan_cache_mode = force_generic_plan")
    connection.execute(f"PREPARE asked AS {compiled}")
    assert connection.execute(f"EXPLAIN EXECUTE asked {parameters}").fetchall()
    connection.execute("DEALLOCATE asked")


def statements(owner: Any) -> list[str]:
    """All statements that a dataclass holds, itself or in others."""
    found = []
    for value in asdict(owner).values():
        values = value.values() if isinstance(value, dict) else [value]
        found += [each for each in values if isinstance(each, str) and " " in each]
    return found


@pytest.mark.parametrize("target", [METERS, VEHICLES], ids=["meters", "vehicles"])
def test_a_writer_s_statements_are_planned(target: Target[Any], ingestion: psycopg.Connection[Any]) -> None:
    for statement in target.open_session:
        ingestion.execute(statement)
    assert len(statements(target)) == 18
    for statement in statements(target):
        plan(ingestion, statement.replace(")r", ")s"))  # the writer fills in what is configured


def test_late_rows_are_not_looked_at_once_more_for_each_device_of_the_fleet(
    ingestion: psycopg.Connection[Any], owner: psycopg.Connection[Any]
) -> None:
    """A few devices bring the hours before a midnight, at which the whole fleet has a reading. No statistics yet."""
    fleet, senders, late = 200, 14, 1_000
    day = datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    owner.execute(
        "INSERT INTO meter_telemetry_history (meter_key, ts, kwh_consumed_ac)"
        " SELECT key, %s + at * interval '1 minute', 1"
        " FROM generate_series(1, %s) AS key, generate_series(0, 99) AS at",
        (day, fleet),
    )
    for statement in METERS.open_session:
        ingestion.execute(statement)
    with ingestion.transaction():
        ingestion.execute(
            "INSERT INTO staged_readings (ordinal, device_key, ts, kwh_consumed_ac, max_kw, late, stored, after_ts)"
            " SELECT key * 1000 + at, key, %(day)s - at * interval '1 second', 1, 500, true, false, %(day)s"
            " FROM generate_series(1, %(senders)s) AS key, generate_series(1, %(late)s) AS at",
            {"day": day, "senders": senders, "late": late},
        )
        explained = psycopg.ClientCursor(ingestion).execute(
            f"EXPLAIN (ANALYZE, TIMING OFF, FORMAT JSON) {METERS.count_anew}",
            {"first": day, "last": day, "min_interval_s": 900.0},
        )
        [([found],)] = explained.fetchall()

    def rows(node: dict[str, Any]) -> float:
        below = [rows(each) for each in node.get("Plans", [])]
        return max([float(node["Actual Rows"] * node["Actual Loops"]), *below])

    assert rows(found["Plan"]) <= max(fleet * senders, senders * late)


@pytest.mark.parametrize("device", ["meter", "vehicle"])
@pytest.mark.parametrize("statement", [FIND_RISES, COUNT_SESSIONS], ids=["find rises", "count sessions"])
def test_statements_about_sessions_are_planned(
    statement: dict[str, str], device: str, ingestion: psycopg.Connection[Any]
) -> None:
    plan(ingestion, statement[device])


@pytest.mark.parametrize("side", SIDES, ids=["meters", "vehicles"])
def test_statements_of_verify_are_planned(side: Side, owner: psycopg.Connection[Any]) -> None:
    assert len(statements(side)) == 22
    for statement in statements(side):
        plan(owner, statement)


@pytest.mark.parametrize("kind", KINDS, ids=["meters", "vehicles"])
def test_statements_of_maintenance_are_planned(kind: DeviceKind, ingestion: psycopg.Connection[Any]) -> None:
    plan(ingestion, kind.render(FORGET_HOURS))


@pytest.mark.parametrize(
    "module",
    [upkeep_sql, mappings_sql, fleet_sql, meter_sql, device_sql, sessions_sql, queries_sql, reader_sql, baseline_sql],
    ids=lambda m: m.__name__,
)
def test_the_services_other_statements_are_planned(module: ModuleType, postgres: EmbeddedServer, database: str) -> None:
    role = f"energyfleet_{module.__name__.partition('_')[0]}"
    with connected(postgres.url(database, role=role)) as connection:
        for name, statement in vars(module).items():
            by_kind = statement.values() if isinstance(statement, dict) else [statement]
            for each in by_kind:
                for form in each if isinstance(each, OfReadings) else [each]:
                    if isinstance(form, TextClause):
                        plan_prepared(connection, form)
            if isinstance(statement, str) and name == "BEAT":
                plan(connection, statement)


@pytest.mark.parametrize("statements", [ADD_CLOCK_EVIDENCE, ADD_REFUSALS, FORGET_STRANGERS])
def test_statements_of_evidence_are_planned(
    statements: dict[DeviceKind, str], ingestion: psycopg.Connection[Any]
) -> None:
    names = (*EvidenceRow._fields, *RefusalRow._fields)
    texts = ("device_id", "field", "reason", "last_description")
    given = {name: ["a"] if name in texts else [1] for name in names}
    for kind in KINDS:
        plan(ingestion, statements[kind], given | {"most": 1})
