"""What is an id, and what is remembered of those that are none."""

import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared import device_ids
from shared.device_ids import DEVICE_ID_MAX_LENGTH, is_device_id, remembered_device_id
from tests.builders import UNUSUAL_IDS


@pytest.mark.parametrize("text", UNUSUAL_IDS)
def test_an_id_is_made_of_printable_ascii(text: str) -> None:
    assert is_device_id(text)
    assert remembered_device_id(text) == text


def test_the_unusual_ids_have_every_character_that_ids_have() -> None:
    assert {*"".join(UNUSUAL_IDS)} == {chr(code) for code in range(0x20, 0x7F)}


@pytest.mark.parametrize("text", ["", " ", " a", "a ", "é", "a\n", "a\x7f", "a\tb", "x" * (DEVICE_ID_MAX_LENGTH + 1)])
def test_everything_else_is_none(text: str) -> None:
    assert not is_device_id(text)
    assert remembered_device_id(text) is None


@given(st.text(st.sampled_from(" !~aZ0\x1f\x7f\n\xa0é"), max_size=3) | st.text(st.sampled_from(" a"), min_size=60))
def test_what_is_an_id_is_told_by_its_length_its_characters_and_its_ends(text: str) -> None:
    printable = all(" " <= character <= "~" for character in text)
    assert is_device_id(text) == (printable and text == text.strip(" ") and 1 <= len(text) <= DEVICE_ID_MAX_LENGTH)


def test_equal_ids_become_one_object() -> None:
    first, second = (b"meter-one-object".decode() for _ in range(2))
    assert first is not second
    assert remembered_device_id(first) is remembered_device_id(second)


def test_ids_are_remembered_up_to_a_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device_ids, "IDS_REMEMBERED", 10)
    monkeypatch.setattr(device_ids, "_remembered", {})
    for number in range(25):
        assert remembered_device_id(f"meter-{number}") == f"meter-{number}"
        assert len(device_ids._remembered) <= 10


def test_long_texts_are_not_remembered() -> None:
    tracemalloc.start()
    try:
        for number in range(100):
            assert remembered_device_id(f"{number}" * 100_000) is None
        kept_bytes, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert kept_bytes < 1_000_000
