"""Keeps what first pages were cut from, so that later pages are parts of the same result whatever arrives meanwhile."""

import secrets
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

from analytics_svc.fleet_performance import FleetResult
from analytics_svc.questions import FleetQuestion
from shared.errors import InvalidRequest, PageTokenExpired, Violation

RESULT_MAX_AGE_S = 600.0
"""Seconds that a result outlives the last page that was asked for: a person reads a page, a program never waits."""

RESULTS_MAX_VEHICLES = 100_000
"""Vehicles that all results kept are about, some 300 bytes each: ten readers of a fleet of 10,000 at a time. The newest
result is kept however long it is."""

RESULTS_MAX = 1_000
"""PageCache kept, however short: each has its question, of at most 1,000 ids."""


@dataclass(slots=True)
class _Kept:
    question: FleetQuestion
    result: FleetResult
    asked_s: float


class PageCache:
    """The results of one process, by a name that cannot be guessed; those that nobody asks for are forgotten."""

    def __init__(self, monotonic_s: Callable[[], float]) -> None:
        self._monotonic_s = monotonic_s
        self._kept: OrderedDict[str, _Kept] = OrderedDict()
        self._vehicles = 0

    def keep(self, question: FleetQuestion, result: FleetResult) -> str:
        """Keeps a result for the pages to come; its name."""
        name = secrets.token_urlsafe(12)
        self._kept[name] = _Kept(question, result, self._monotonic_s())
        self._vehicles += len(result.found)
        self._forget()
        return name

    def find(self, name: str, question: FleetQuestion, offset: int) -> FleetResult:
        """The result of that name. Raises PageTokenExpired, and InvalidRequest where question or offset are not its."""
        self._forget()
        kept = self._kept.get(name)
        if kept is None:
            raise PageTokenExpired
        if kept.question != question:
            raise InvalidRequest(
                [Violation("page_token", "belongs to a question with another window, other verdicts, ids or order")]
            )
        if not 0 < offset < len(kept.result.positions):
            raise InvalidRequest([Violation("page_token", "not a next_page_token of this rpc")])
        kept.asked_s = self._monotonic_s()
        self._kept.move_to_end(name)
        return kept.result

    def _forget(self) -> None:
        """Forgets what is too old or too much, first what nobody has asked for the longest."""
        oldest_s = self._monotonic_s() - RESULT_MAX_AGE_S
        while self._kept:
            name, first = next(iter(self._kept.items()))
            too_much = self._vehicles > RESULTS_MAX_VEHICLES or len(self._kept) > RESULTS_MAX
            if first.asked_s >= oldest_s and not (too_much and len(self._kept) > 1):
                return
            del self._kept[name]
            self._vehicles -= len(first.result.found)
