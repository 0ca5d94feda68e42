"""How many files a service may have open."""

import resource
from collections.abc import Iterator

import pytest
from structlog.testing import capture_logs

from shared.files import raise_file_limit


@pytest.fixture
def hard() -> Iterator[int]:
    """The hard limit, beside a soft one of what a login shell gives."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (1_024, hard))
    yield hard
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.mark.parametrize("needed_more", [0, 1])
def test_the_soft_limit_is_raised_and_a_hard_one_that_is_too_low_is_told(hard: int, needed_more: int) -> None:
    if hard in (1_024, resource.RLIM_INFINITY) or hard > 1 << 20:
        pytest.skip("the hard limit of this machine is nothing to raise to")
    with capture_logs() as lines:
        most = raise_file_limit(hard + needed_more)

    assert most == hard == resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    assert [(line["event"], line["open_files_max"]) for line in lines] == [("file_limit_low", hard)] * needed_more
