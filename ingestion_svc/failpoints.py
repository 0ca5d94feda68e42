"""Places where a test can end the process, to show that what was acked is there and what was not can be sent again.

`ENERGYFLEET_FAIL_POINTS=after_commit:3` kills the process (SIGKILL) the third time that it comes to that place. Without
the variable nothing happens, and nothing is looked up while serving.
"""

import os
import signal
from collections.abc import Callable, Mapping

FailPoints = Callable[[str], None]
"""Called with the name of the place that is being passed."""


def fail_points_from(environment: Mapping[str, str]) -> FailPoints:
    """The fail points that an environment asks for; ValueError if it does not read `place:count[,place:count...]`."""
    asked = environment.get("ENERGYFLEET_FAIL_POINTS")
    if not asked:
        return lambda place: None
    left = {place: int(count) for place, _, count in (each.partition(":") for each in asked.split(","))}

    def pass_place(place: str) -> None:
        if place not in left:
            return
        left[place] -= 1
        if left[place] == 0:
            os.kill(os.getpid(), signal.SIGKILL)

    return pass_place
