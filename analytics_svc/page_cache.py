"""Keeps results whose first page was sent: later pages are parts of the same result, whatever arrives meanwhile."""

import secrets
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

from shared.errors import InvalidRequest, PageTokenExpired, Violation

RESULT_MAX_AGE_S = 600.0
"""Seconds that a result is kept after its last request: enough for a person to read a page."""

RESULTS_MAX_VEHICLES = 100_000
"""Vehicles of all results together, some 400 bytes each: ten readers of a fleet of 10,000 at a time. The newest result
is kept however long it is."""

RESULTS_MAX_SESSIONS = 10_000
"""Charging sessions of all results together, up to 10 KiB each: ten of the longest lists at a time."""

RESULTS_MAX = 1_000
"""Results, however short: each has its question, of at most 1,000 ids."""


class PagedResult(Protocol):
    """What pages are parts of."""

    @property
    def weight(self) -> int:
        """What it takes of the memory that all results have together, in vehicles or sessions."""

    def __len__(self) -> int:
        """Of what its pages have."""


Question = TypeVar("Question")
Result = TypeVar("Result", bound=PagedResult)


@dataclass(slots=True)
class _Kept(Generic[Question, Result]):
    question: Question
    result: Result
    used_s: float


class PageCache(Generic[Question, Result]):
    """The results of one process, by names that cannot be guessed; the least recently used are evicted.

    `asked` names what a question is made of, for who asks another one.
    """

    def __init__(self, monotonic_s: Callable[[], float], max_weight: int, asked: str) -> None:
        self._monotonic_s = monotonic_s
        self._max_weight = max_weight
        self._asked = asked
        self._kept: OrderedDict[str, _Kept[Question, Result]] = OrderedDict()
        self._weight = 0

    def keep(self, question: Question, result: Result) -> str:
        name = secrets.token_urlsafe(12)
        self._kept[name] = _Kept(question, result, self._monotonic_s())
        self._weight += result.weight
        self._evict()
        return name

    def find(self, name: str, question: Question, offset: int) -> Result:
        """The result of that name. Raises PageTokenExpired; InvalidRequest for another question or a wrong offset."""
        self._evict()
        kept = self._kept.get(name)
        if kept is None:
            raise PageTokenExpired
        if kept.question != question:
            raise InvalidRequest([Violation("page_token", f"belongs to a question with {self._asked}")])
        if not 0 < offset < len(kept.result):
            raise InvalidRequest([Violation("page_token", "not a next_page_token of this rpc")])
        kept.used_s = self._monotonic_s()
        self._kept.move_to_end(name)
        return kept.result

    def _evict(self) -> None:
        """Evicts what is too old or too much, the least recently used first."""
        oldest_s = self._monotonic_s() - RESULT_MAX_AGE_S
        while self._kept:
            name, first = next(iter(self._kept.items()))
            too_much = self._weight > self._max_weight or len(self._kept) > RESULTS_MAX
            if first.used_s >= oldest_s and not (too_much and len(self._kept) > 1):
                return
            del self._kept[name]
            self._weight -= first.result.weight
