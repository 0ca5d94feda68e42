"""Keeps results whose first page was sent: later pages are parts of the same result, whatever arrives meanwhile."""

import secrets
from collections import OrderedDict
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from shared.errors import InvalidRequest, PageTokenExpired, Violation

RESULT_MAX_AGE_S = 600.0
"""Seconds that a result is kept after its last request: enough for a person to read a page."""

RESULTS_MAX_ROWS = 100_000
"""Vehicles, meters and devices of all results together, some 400 bytes each: ten readers of a fleet of 10,000 at a
time, or four of the longest lists of charging sessions. The newest result is kept however long it is."""

RESULTS_MAX = 1_000
"""Results, however short: each has its question, of at most 1,000 ids."""


class Result(Protocol):
    """An answer of which pages are parts."""

    @property
    def rows(self) -> int:
        """How many there are of what it keeps: vehicles, meters or devices, on its pages or not; or what takes as much
        memory as so many."""

    @property
    def positions(self) -> Sequence[int]:
        """Of those on its pages, in their order."""


@dataclass(slots=True)
class _Kept:
    question: Hashable
    result: Result
    used_s: float


class PageCache:
    """The results of one process, by names that cannot be guessed; the least recently used are evicted."""

    def __init__(self, monotonic_s: Callable[[], float]) -> None:
        self._monotonic_s = monotonic_s
        self._kept: OrderedDict[str, _Kept] = OrderedDict()
        self._rows = 0

    def keep(self, question: Hashable, result: Result) -> str:
        name = secrets.token_urlsafe(12)
        self._kept[name] = _Kept(question, result, self._monotonic_s())
        self._rows += result.rows
        self._evict()
        return name

    def find(self, name: str, question: Hashable, offset: int) -> Any:
        """The result of that name, of the kind that such a question has. Raises PageTokenExpired; InvalidRequest for
        another question or a wrong offset."""
        self._evict()
        kept = self._kept.get(name)
        if kept is None:
            raise PageTokenExpired
        if kept.question != question:
            raise InvalidRequest(
                [Violation("page_token", "belongs to a question with another window, other filters, ids or order")]
            )
        if not 0 < offset < len(kept.result.positions):
            raise InvalidRequest([Violation("page_token", "not a next_page_token of this rpc")])
        kept.used_s = self._monotonic_s()
        self._kept.move_to_end(name)
        return kept.result

    def _evict(self) -> None:
        """Evicts what is too old or too much, the least recently used first."""
        oldest_s = self._monotonic_s() - RESULT_MAX_AGE_S
        while self._kept:
            name, first = next(iter(self._kept.items()))
            too_much = self._rows > RESULTS_MAX_ROWS or len(self._kept) > RESULTS_MAX
            if first.used_s >= oldest_s and not (too_much and len(self._kept) > 1):
                return
            del self._kept[name]
            self._rows -= first.result.rows
