"""Pages are parts of one result, which is kept for a while and within bounds."""

import numpy as np
import pytest

from analytics_svc import page_cache
from analytics_svc.__main__ import thresholds
from analytics_svc.baseline_result import Baselines
from analytics_svc.fleet_performance import FleetResult, GroupTotals
from analytics_svc.page_cache import PageCache
from analytics_svc.performance import judge
from analytics_svc.questions import Alignment, AskedWindow, FleetQuestion, Order, Window
from shared.config import AnalyticsSettings
from shared.errors import InvalidRequest, PageTokenExpired
from tests.fleets import a_fleet

ASKED = AskedWindow(None, None, Alignment.HOUR, "UTC")
QUESTION = FleetQuestion(ASKED, frozenset(), frozenset(), Order.RATIO)


class Watch:
    """Time that passes when it is told to."""

    now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def watch() -> Watch:
    return Watch()


def a_result(vehicles: int = 3) -> FleetResult:
    found = a_fleet(["v"] * vehicles)
    return FleetResult(
        Window(0, 1),
        found,
        judge(found, thresholds(AnalyticsSettings())),
        Baselines(np.zeros(vehicles), np.zeros(vehicles), np.zeros(vehicles, np.bool_)),
        range(vehicles),
        GroupTotals.of(found, np.arange(0)),
        {},
        None,
        None,
        (),
        0,
    )


def is_kept(kept: PageCache, name: str) -> bool:
    try:
        kept.find(name, QUESTION, 1)
    except PageTokenExpired:
        return False
    return True


def test_a_result_is_found_by_its_name_until_nobody_has_asked_for_ten_minutes(watch: Watch) -> None:
    kept, result = PageCache(watch), a_result()
    name = kept.keep(QUESTION, result)
    for watch.now_s in (600.0, 1_200.0):
        assert kept.find(name, QUESTION, 1) is result
    watch.now_s = 1_800.1
    assert not is_kept(kept, name)
    assert page_cache.RESULT_MAX_AGE_S == 600


def test_a_name_that_was_never_given_is_as_a_forgotten_one(watch: Watch) -> None:
    with pytest.raises(PageTokenExpired, match="ask for its first page again"):
        PageCache(watch).find("elsewhere", QUESTION, 1)


def test_another_question_and_a_page_that_is_not_there_are_refused(watch: Watch) -> None:
    kept = PageCache(watch)
    name = kept.keep(QUESTION, a_result())
    other = FleetQuestion(ASKED, frozenset(), frozenset({"v"}), Order.RATIO)
    with pytest.raises(InvalidRequest, match="page_token: belongs to a question with another window"):
        kept.find(name, other, 1)
    for offset in (-1, 0, 3, 2**70):
        with pytest.raises(InvalidRequest, match="page_token: not a next_page_token"):
            kept.find(name, QUESTION, offset)


def test_what_nobody_has_asked_for_the_longest_is_forgotten_first(watch: Watch) -> None:
    kept = PageCache(watch)
    half = page_cache.RESULTS_MAX_ROWS // 2
    first, second = (kept.keep(QUESTION, a_result(half)) for _ in range(2))
    assert is_kept(kept, second)
    assert is_kept(kept, first)
    third = kept.keep(QUESTION, a_result(half))
    assert [is_kept(kept, name) for name in (first, second, third)] == [True, False, True]


def test_a_fleet_beyond_the_bound_has_its_pages_and_nobody_else(watch: Watch) -> None:
    kept = PageCache(watch)
    first = kept.keep(QUESTION, a_result())
    large = kept.keep(QUESTION, a_result(page_cache.RESULTS_MAX_ROWS + 1))
    assert [is_kept(kept, name) for name in (first, large)] == [False, True]


def test_results_are_bounded_in_number_too(watch: Watch) -> None:
    kept = PageCache(watch)
    names = [kept.keep(QUESTION, a_result(2)) for _ in range(page_cache.RESULTS_MAX + 1)]
    assert [is_kept(kept, name) for name in names[:2]] == [False, True]
