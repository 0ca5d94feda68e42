"""What is taken out of the refusals, part by part, while more of them come."""

import pytest

from ingestion_svc import refusals
from ingestion_svc.refusals import RefusalRow, Refusals


def refused(device_id: str, at_us: int = 1, count: int = 1) -> RefusalRow:
    return RefusalRow(device_id, "meter.timestamp", "REJECTION_REASON_NOT_YET", count, at_us, f"at {at_us}")


def test_refusals_of_one_kind_are_added_up_and_the_last_one_is_told() -> None:
    collected = Refusals("")
    for at_us in (5, 9, 7):
        collected.note(refused("a", at_us))
    collected.note(refused("a")._replace(field="meter.kwh_consumed_ac"))
    [rows] = collected.take(10)

    assert [(row.field, row.times, row.last_us, row.last_description) for row in rows] == [
        ("meter.timestamp", 3, 9, "at 9"),
        ("meter.kwh_consumed_ac", 1, 1, "at 1"),
    ]
    assert not collected


def test_what_comes_between_two_parts_and_what_is_put_back_is_taken_the_next_time() -> None:
    collected = Refusals("")
    for device_id in "abc":
        collected.note(refused(device_id))
    parts = collected.take(2)
    first = next(parts)
    collected.note(refused("a", 2))
    collected.put_back(first)
    assert list(parts) == [[refused("c")]]
    assert list(collected.take(9)) == [[refused("a", 2, 2), refused("b")]]


def test_no_more_are_remembered_than_there_is_room_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(refusals, "REFUSALS_MAX", 3)
    collected = Refusals("")
    for device_id in "abcde":
        collected.note(refused(device_id))
        collected.note(refused("a"))

    assert [(row.device_id, row.times) for [row] in collected.take(1)] == [("a", 6), ("b", 1), ("c", 1)]
    assert collected.not_kept == 2
