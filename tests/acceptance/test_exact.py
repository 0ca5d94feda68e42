"""The exact run of the benchmarks, small: everything wrong at once, through two workers, equal to the model."""

from benchmarks.exact import check
from benchmarks.harness import Harness

SEED = 20_261_125


def test_a_fleet_with_everything_wrong_is_stored_as_the_model_has_it() -> None:
    with Harness() as harness:
        figures = check.measure(harness, readings=20_000, seed=SEED, workers=2, tell=print)
    found = {figure.name: figure.value for figure in figures}
    assert found["differences"] == 0
    assert found["stored"] == 20_000
    assert min(found[name] for name in ("duplicates", "conflicts", "rejections", "answers compared")) > 0
