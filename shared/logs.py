"""Structured logs on standard error: one JSON object a line, or columns for people when it is a terminal.

What somebody else can cause, and so as often as he likes, is logged `quietly`.
"""

import logging
import sys
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import structlog

QUIET_S = 60.0
"""Seconds in which an event is told once for each key: soon enough for whoever looks, and 1,440 lines on a bad day."""

QUIET_KEYS_MAX = 100
"""Keys of an event that are told apart in that time: more than anybody reads, and the bound for a peer that makes up
keys: some 30 KiB of log a minute, and as much memory, for each event."""

_KEY = "quiet_key"


def configure_logs(level: str, service: str) -> None:
    """Sends this process's log lines of `level` and above to standard error, each naming the service.

    So are those of libraries that log by Python's `logging`, from WARNING on, quietly: peers cause most of them.
    """
    renderer: structlog.typing.Processor = (
        structlog.dev.ConsoleRenderer() if sys.stderr.isatty() else structlog.processors.JSONRenderer()
    )
    structlog.configure(
        processors=[
            QuietEvents(time.monotonic),
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.getLevelNamesMapping()[level]),
        # A line is one write: workers have one standard error, and `print` may write a line's end by itself.
        logger_factory=structlog.WriteLoggerFactory(sys.stderr),
        cache_logger_on_first_use=True,
    )
    structlog.contextvars.bind_contextvars(service=service)
    logging.basicConfig(handlers=[_ToStructlog()], level=logging.WARNING)


def quietly(log: Callable[..., Any], event: str, *, key: object = "", **fields: object) -> None:
    """Logs an event, with `_log.warning` for example, at most once in QUIET_S for each key, and QUIET_KEYS_MAX keys.

    The next line of the event that is written has `suppressed`: how many were not since the one before, of all keys.
    `key` is what one occurrence is told from another by, as a peer's name. It is not logged by itself.
    """
    log(event, **{_KEY: key}, **fields)


@dataclass(slots=True)
class _Told:
    """Lines of one event."""

    suppressed: int = 0
    at_s: OrderedDict[object, float] = field(default_factory=OrderedDict)
    """By key, in the order of time."""

    def admits(self, key: object, now_s: float) -> bool:
        while self.at_s and now_s - next(iter(self.at_s.values())) >= QUIET_S:
            self.at_s.popitem(last=False)
        if key in self.at_s or len(self.at_s) >= QUIET_KEYS_MAX:
            self.suppressed += 1
            return False
        self.at_s[key] = now_s
        return True


class QuietEvents:
    """Drops lines that are to be quiet. Our events are as many as there are in the code: that bounds the memory."""

    def __init__(self, clock_s: Callable[[], float]) -> None:
        self._clock_s = clock_s
        self._told: dict[object, _Told] = {}

    def __call__(self, _: Any, __: str, line: structlog.typing.EventDict) -> structlog.typing.EventDict:
        if _KEY not in line:
            return line
        key = line.pop(_KEY)
        told = self._told.setdefault(line["event"], _Told())
        if not told.admits(key, self._clock_s()):
            raise structlog.DropEvent
        if told.suppressed:
            line["suppressed"], told.suppressed = told.suppressed, 0
        return line


class _ToStructlog(logging.Handler):
    """Makes lines of ours out of those of `logging`: what gRPC and asyncio have to say about a failed callback."""

    def emit(self, record: logging.LogRecord) -> None:
        log = structlog.get_logger()
        quietly(
            log.error if record.levelno >= logging.ERROR else log.warning,
            "library_message",
            key=(record.name, record.msg if isinstance(record.msg, str) else ""),
            logger=record.name,
            message=_message(record),
            exc_info=record.exc_info,
        )


def _message(record: logging.LogRecord) -> str:
    try:
        return record.getMessage()
    except (TypeError, ValueError):  # a format that does not fit its arguments must not end who logs
        return str(record.msg)
