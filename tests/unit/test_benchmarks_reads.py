"""The read benchmarks' rules: what a plan may do, what is stored, and that two ways to a sum must agree."""

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from benchmarks.client import BenchmarkError
from benchmarks.history import ROWS_MIN, Stored, full_hour, minutes_of_a_day
from benchmarks.load import GO_ON_STEP_US, _later_requests
from benchmarks.plans import PlanLog, faults, save
from benchmarks.raw_fleet import require_same
from benchmarks.reads import fleet_question, questions
from shared.timestamps import US_PER_DAY, US_PER_HOUR, us_from_proto

START, END = datetime(2026, 11, 24, 11, tzinfo=UTC), datetime(2026, 11, 25, 11, tzinfo=UTC)
STORED = Stored(pairs=3, interval_us=US_PER_HOUR, end_us=20_000 * US_PER_DAY + 11 * US_PER_HOUR, days=7)

GOOD = """\
Query Text: SELECT sum(kwh_consumed_ac) FROM meter_telemetry_history
Aggregate  (cost=8.44..8.45 rows=1 width=8) (actual time=0.015..0.015 rows=1.00 loops=1)
  ->  Append  (cost=0.42..8.44 rows=1 width=8) (actual time=0.013..0.013 rows=0.00 loops=1)
        ->  Index Only Scan using meter_telemetry_history_20261124_pkey on meter_telemetry_history_20261124
        ->  Index Only Scan Backward using meter_telemetry_history_20261125_pkey on meter_telemetry_history_20261125 m
              Heap Fetches: 0
        ->  Seq Scan on vehicle_meter_map  (cost=0.00..1.01 rows=1 width=4)
"""


def test_history_read_from_its_covering_index_and_the_windows_days_is_right() -> None:
    assert faults(GOOD, START, END) == []


@pytest.mark.parametrize(
    ("line", "fault"),
    [
        ("->  Seq Scan on meter_telemetry_history_20261125", "is read by Seq Scan"),
        ("->  Parallel Seq Scan on vehicle_telemetry_history_20261125 v", "is read by Parallel Seq Scan"),
        ("->  Index Scan using x_pkey on vehicle_telemetry_history_20261125", "is read by Index Scan"),
        ("      Heap Fetches: 127", "Heap Fetches: 127"),
        ("->  Bitmap Heap Scan on vehicle_telemetry_history_20261125", "is read by Bitmap Heap Scan"),
        ("->  Index Only Scan using x_pkey on vehicle_telemetry_history_20261123", "is read for 2026-11-24 11:00:00"),
        ("->  Index Only Scan using x_pkey on vehicle_telemetry_history_20261126 v", "to 2026-11-25 11:00:00"),
    ],
)
def test_any_other_way_to_history_is_a_fault(line: str, fault: str) -> None:
    [found] = faults(
        f"{GOOD}{line}  (cost=0.42..8.44 rows=1 width=8) (actual time=0.01..0.01 rows=0.00 loops=1)\n", START, END
    )
    assert fault in found


def test_what_was_not_executed_took_no_way_to_history() -> None:
    line = "->  Seq Scan on meter_telemetry_history_20261125  (cost=0.00..1.01 rows=1 width=4) (never executed)\n"
    assert faults(GOOD + line, START, END) == []


def test_a_window_that_ends_at_midnight_has_that_reading() -> None:
    assert faults(GOOD, START, datetime(2026, 11, 25, tzinfo=UTC)) == []


def test_plans_are_read_from_the_log_since_the_last_look(tmp_path: Path) -> None:
    log = tmp_path / "server.log"
    log.write_text("2026-11-25 11:00:00.1 UTC [1] LOG:  duration: 1.1 ms  plan:\n\tSeq Scan on old\n")
    plans = PlanLog(log)
    assert plans.since() == []
    with log.open("a") as more:
        more.write("2026-11-25 11:00:00.1 UTC [1] LOG:  checkpoint starting: time\n")
        for text in (
            GOOD,
            "Query Text: SELECT 1\nResult  (cost=0.00..0.01 rows=1 width=4)\n",
            "Index Scan using pg_type_oid_index on pg_type t\n",
        ):
            indented = "".join(f"\t{line}\n" for line in text.splitlines())
            more.write(f"2026-11-25 11:00:00.1 UTC [1] LOG:  duration: 0.031 ms  plan:\n{indented}")
    assert plans.since() == [GOOD]
    assert plans.since() == []


def test_plans_are_saved_whether_they_are_right_or_not(tmp_path: Path) -> None:
    assert save(tmp_path / "plans", "one", [GOOD], START, END).read_text() == GOOD
    wrong = GOOD + "->  Seq Scan on meter_telemetry_history_20261125\n"
    with pytest.raises(BenchmarkError, match=r"two\.txt: meter_telemetry_history_20261125 is read by Seq Scan"):
        save(tmp_path / "plans", "two", [GOOD, wrong], START, END)
    assert (tmp_path / "plans" / "two.txt").read_text().endswith(wrong)
    with pytest.raises(BenchmarkError, match="no plan of three"):
        save(tmp_path / "plans", "three", [], START, END)


def test_a_number_of_rows_is_a_day_of_whole_pairs() -> None:
    assert minutes_of_a_day(28_800_000, 0).pairs == 10_000
    assert minutes_of_a_day(2 * ROWS_MIN - 1, 0).pairs == 1
    with pytest.raises(BenchmarkError, match="less than the day of one pair"):
        minutes_of_a_day(ROWS_MIN - 1, 0)
    assert STORED.a_day == 24
    assert STORED.rows == 3 * 2 * 24 * 7


def test_questions_are_about_the_last_24_hours_between_full_hours() -> None:
    assert full_hour(STORED.end_us + US_PER_HOUR - 1) == STORED.end_us
    for window in (fleet_question(STORED).window, *(each.window for each in questions(STORED, 3))):
        assert us_from_proto(window.end) == STORED.end_us
        assert us_from_proto(window.start) == STORED.end_us - US_PER_DAY


def test_what_comes_after_a_history_has_each_device_in_turn_and_no_reading_twice() -> None:
    make = _later_requests(range(1, 6, 2), 1_000, 4)
    keys = [
        (reading.vehicle.vehicle_id, us_from_proto(reading.vehicle.timestamp))
        for _ in range(3)
        for reading in make().readings
    ]
    assert keys == [
        (f"vehicle-{pair:05d}", 1_000 + step * GO_ON_STEP_US) for step in range(1, 5) for pair in range(3)
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("rollups", "right"),
    [
        ([("a", 0.3, 1.0, 5, 6)], True),
        ([("a", 0.1 + 0.2, 1.0, 5, 6)], True),
        ([("a", 0.3001, 1.0, 5, 6)], False),
        ([("a", 0.3, 1.0, 5, 7)], False),
        ([("b", 0.3, 1.0, 5, 6)], False),
        ([], False),
    ],
)
def test_raw_rows_and_rollups_must_say_the_same(rollups: list[tuple[Any, ...]], right: bool) -> None:
    raw: list[tuple[Any, ...]] = [("a", 0.3, 1.0, 5, 6)]
    if right:
        require_same(raw, rollups, 1)
    else:
        with pytest.raises(BenchmarkError):
            require_same(raw, rollups, 1)
