"""What is an id, and what is remembered of those that are none."""

import tracemalloc

import pytest

from shared.device_ids import DEVICE_ID_MAX_LENGTH, is_device_id


@pytest.mark.parametrize("text", ["a", "meter-001", "VIN:1.2_x", "x" * DEVICE_ID_MAX_LENGTH])
def test_an_id_is_made_of_a_few_characters(text: str) -> None:
    assert is_device_id(text)


@pytest.mark.parametrize("text", ["", "a b", "é", "a\n", "x" * (DEVICE_ID_MAX_LENGTH + 1)])
def test_everything_else_is_none(text: str) -> None:
    assert not is_device_id(text)


def test_long_texts_are_not_remembered() -> None:
    tracemalloc.start()
    try:
        for number in range(100):
            assert not is_device_id(f"{number}" * 100_000)
        kept_bytes, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert kept_bytes < 1_000_000
