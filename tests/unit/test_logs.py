"""What log lines look like to whoever reads them, and how many there are."""

import io
import json
import logging
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import structlog

from shared.logs import QUIET_KEYS_MAX, QUIET_S, configure_logs, quietly


class Clock:
    """Monotonic seconds."""

    now_s = 1_000.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(time, "monotonic", clock)
    return clock


Lines = Callable[[], list[dict[str, Any]]]


@pytest.fixture
def lines(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> Iterator[Lines]:
    """A service's log: what was written since it was asked for last, a write a line."""
    written: list[str] = []
    stream = io.StringIO()
    monkeypatch.setattr(stream, "write", written.append)
    monkeypatch.setattr(sys, "stderr", stream)

    for handler in logging.root.handlers[:]:  # pytest's, which come back by themselves: a service has none
        logging.root.removeHandler(handler)

    def new_lines() -> list[dict[str, Any]]:
        assert all(line.endswith("\n") for line in written)
        found = [json.loads(line) for line in written]
        written.clear()
        return found

    configure_logs("INFO", "test")
    [ours] = logging.root.handlers
    yield new_lines
    logging.root.removeHandler(ours)
    structlog.reset_defaults()
    structlog.contextvars.clear_contextvars()


def test_a_line_is_one_write_so_that_processes_with_one_standard_error_do_not_mix_theirs(lines: Lines) -> None:
    structlog.get_logger().info("told", readings=2)
    [line] = lines()
    assert line.items() >= {"event": "told", "readings": 2, "service": "test", "level": "info"}.items()


def test_a_quiet_event_is_told_once_a_minute_for_each_key(lines: Lines, clock: Clock) -> None:
    log = structlog.get_logger()
    for _ in range(3):
        for peer in ("a", "b"):
            quietly(log.warning, "refused", key=peer, peer=peer)
        quietly(log.warning, "other")
    told = lines()
    assert [(line["event"], line.get("peer")) for line in told] == [("refused", "a"), ("refused", "b"), ("other", None)]
    assert not any("suppressed" in line for line in told)

    clock.now_s += QUIET_S - 1
    quietly(log.warning, "refused", key="a", peer="a")
    assert lines() == []

    clock.now_s += 1
    quietly(log.warning, "refused", key="a", peer="a")
    quietly(log.warning, "refused", key="b", peer="b")
    assert [(line["peer"], line.get("suppressed")) for line in lines()] == [("a", 5), ("b", None)]


def test_a_peer_that_makes_up_keys_writes_no_more_and_holds_no_more(lines: Lines, clock: Clock) -> None:
    log = structlog.get_logger()
    for number in range(10 * QUIET_KEYS_MAX):
        quietly(log.warning, "refused", key=number)
    assert len(lines()) == QUIET_KEYS_MAX
    clock.now_s += QUIET_S
    quietly(log.warning, "refused", key="honest")
    [line] = lines()
    assert line["suppressed"] == 9 * QUIET_KEYS_MAX


def test_what_libraries_log_is_a_line_of_ours_and_quiet(lines: Lines, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logging.root, "handlers", logging.root.handlers[:1])  # ours

    def fail() -> None:
        raise OSError("nobody there")

    for number in range(3):
        try:
            fail()
        except OSError:
            logging.getLogger("grpc._cython.cygrpc").exception("Unexpected error of call %d", number)
    logging.getLogger("asyncio").warning("a format that %d does not fit", "its argument")
    logging.getLogger("asyncio").info("of no interest")
    first, second = lines()
    assert first["event"] == second["event"] == "library_message"
    assert (first["level"], first["logger"], first["message"]) == (
        "error",
        "grpc._cython.cygrpc",
        "Unexpected error of call 0",
    )
    assert first["exception"].endswith("OSError: nobody there")
    assert (second["level"], second["message"]) == ("warning", "a format that %d does not fit")
