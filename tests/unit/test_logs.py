"""What log lines look like to whoever reads them."""

import io
import json
import sys

import pytest
import structlog

from shared.logs import configure_logs


def test_a_line_is_one_write_so_that_processes_with_one_standard_error_do_not_mix_theirs(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    written: list[str] = []
    stream = io.StringIO()
    monkeypatch.setattr(stream, "write", written.append)
    monkeypatch.setattr(sys, "stderr", stream)
    try:
        configure_logs("INFO", "test")
        structlog.get_logger().info("told", readings=2)
    finally:
        structlog.reset_defaults()
        structlog.contextvars.clear_contextvars()

    [line] = written
    assert line.endswith("\n")
    assert json.loads(line).items() >= {"event": "told", "readings": 2, "service": "test", "level": "info"}.items()
