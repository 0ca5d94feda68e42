"""Files that are read again when they change."""

from pathlib import Path

import pytest

from shared.deny_list import denied_serials, read_deny_list, serial_text
from shared.watched_files import WatchedFiles


def replace(path: Path, text: str) -> None:
    new = path.with_suffix(".new")
    new.write_text(text)
    new.replace(path)


def test_what_changed_is_read_and_what_is_broken_keeps_the_last_good(tmp_path: Path) -> None:
    path = tmp_path / "denied"
    replace(path, "ab1 meter-1\n")
    watched = WatchedFiles("deny_list", [path], lambda: read_deny_list(path))
    assert watched.value == {"ab1"}
    assert not watched.refresh()
    replace(path, "ab1\nab2 # lost\n# none\n\n")
    assert watched.refresh()
    assert watched.value == {"ab1", "ab2"}
    replace(path, "ab1\nnot a serial\n")
    assert not watched.refresh()
    path.unlink()
    assert not watched.refresh()
    assert watched.value == {"ab1", "ab2"}
    replace(path, "")
    assert watched.refresh()
    assert watched.value == frozenset()


def test_a_broken_file_goes_through_at_the_start(tmp_path: Path) -> None:
    path = tmp_path / "denied"
    with pytest.raises(FileNotFoundError):
        WatchedFiles("deny_list", [path], lambda: read_deny_list(path))


@pytest.mark.parametrize("line", ["AB1", "0ab", "ab:cd", "xyz", "a" * 65])
def test_a_line_that_is_no_serial_is_named(line: str) -> None:
    with pytest.raises(ValueError, match="denied, line 2"):
        denied_serials(["ab1", line], "denied")


def test_a_serial_stands_in_the_list_as_it_is_written() -> None:
    assert denied_serials([serial_text(0xAB0F) + " meter-1, 2026-11-29"], "denied") == ["ab0f"]
