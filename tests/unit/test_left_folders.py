"""What the suite removes of earlier runs: only what is certainly its own."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import MARKER, remove_left


@pytest.fixture(scope="module")
def ended_pid() -> int:
    """The id of a process that has ended."""
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


def a_folder(path: Path, *, marked: bool = True) -> Path:
    path.mkdir()
    (path / "data").touch()
    if marked:
        (path / MARKER).touch()
    return path


def test_the_folder_of_a_run_that_has_ended_is_removed(tmp_path: Path, ended_pid: int) -> None:
    a_folder(tmp_path / f"ef-{ended_pid}")
    a_folder(tmp_path / f"ef-{os.getpid()}")  # its process id came round to us
    remove_left(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_the_folder_of_a_run_that_goes_on_stays(tmp_path: Path) -> None:
    running = a_folder(tmp_path / f"ef-{os.getppid()}")
    remove_left(tmp_path)
    assert (running / "data").exists()


@pytest.mark.parametrize("name", ["ef-something", "ef-{}-old", "ef-", "ef-²", "ef-{}.txt", "an-ef-{}"])
def test_a_folder_whose_name_only_resembles_ours_stays(name: str, tmp_path: Path, ended_pid: int) -> None:
    resembling = a_folder(tmp_path / name.format(ended_pid))
    remove_left(tmp_path)
    assert (resembling / "data").exists()


def test_a_folder_without_our_marker_stays(tmp_path: Path, ended_pid: int) -> None:
    unmarked = a_folder(tmp_path / f"ef-{ended_pid}", marked=False)
    remove_left(tmp_path)
    assert (unmarked / "data").exists()


def test_a_link_to_a_folder_and_a_file_stay(tmp_path: Path, ended_pid: int) -> None:
    elsewhere = a_folder(tmp_path / "elsewhere")
    (tmp_path / f"ef-{ended_pid}").symlink_to(elsewhere)
    remove_left(tmp_path)
    assert (elsewhere / "data").exists()
    (tmp_path / f"ef-{ended_pid}").unlink()
    (tmp_path / f"ef-{ended_pid}").touch()
    remove_left(tmp_path)
    assert (tmp_path / f"ef-{ended_pid}").exists()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may give a folder away")
def test_a_folder_of_another_user_stays(tmp_path: Path, ended_pid: int) -> None:
    of_another = a_folder(tmp_path / f"ef-{ended_pid}")
    os.chown(of_another, 65_534, 65_534)
    remove_left(tmp_path)
    assert (of_another / "data").exists()
