"""A fleet of chargers and what its devices report over a span of time. Pure: no clock, no network, one seed.

Each charger has a meter and a vehicle that comes and goes. Some chargers are broken on purpose. Devices report in
bursts, as out of a buffer; some bursts come late, some come twice.
"""

from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import ceil
from random import Random

from fleetcli.simulation.charger import INTERVALS_JOIN, Burst, Charger, Correction, Faulty, Mapping
from fleetcli.simulation.truth import VehicleTruth
from shared.timestamps import US_PER_SECOND

BUFFER_S = 900
"""Seconds of readings in a burst: what firmware keeps before it sends, and what is late or repeated together."""

LAG_MAX_BURSTS = 16
"""Four hours: the longest that a late burst lags behind."""


@dataclass(frozen=True, slots=True)
class Faults:
    """On what share of the chargers (of the bursts, for `late` and `repeated`) something is wrong, 0 to 1.

    A share above 0 means at least one charger, as long as there are enough of them.
    """

    worn: float = 0.06
    """Chargers that lose so much that the ratio falls below 0.85."""

    silent: float = 0.02
    """Meters that stop reporting for good."""

    moved: float = 0.03
    """Vehicles that change to another meter; strangers charge at both meters."""

    uneven: float = 0.1
    """Chargers whose two sides report at different intervals."""

    late: float = 0.02
    """Bursts that arrive up to four hours late."""

    repeated: float = 0.02
    """Bursts that arrive twice, the second time up to four hours late."""

    v2g: float = 0.02
    """Vehicles that give back to the grid some of what they took."""

    by_phase: float = 0.03
    """Chargers that have a meter for each phase; all of them feed the vehicle together."""

    register: float = 0.05
    """Meters that send what their register shows."""

    sentinel: float = 0.02
    """Vehicles whose battery's temperature is a sentinel now and then."""

    glitch: float = 0.01
    """Meters with one reading that cannot be, which an operator corrects."""

    wearing: float = 0.005
    """Chargers that wear slowly, which have reported for weeks before."""


@dataclass(frozen=True, slots=True)
class FleetPlan:
    """What to simulate: readings with `start_us < timestamp <= end_us`, from most devices every `every_s` seconds."""

    chargers: int
    start_us: int
    end_us: int
    every_s: int
    seed: int
    faults: Faults = Faults()


@dataclass(slots=True)
class Sent:
    """How many readings were made, and how many of them came late or a second time."""

    distinct: int = 0
    late: int = 0
    repeated: int = 0

    @property
    def total(self) -> int:
        return self.distinct + self.repeated


class Fleet:
    """The chargers of a plan. The same plan gives the same mappings, readings and truth."""

    def __init__(self, plan: FleetPlan) -> None:
        self.plan = plan
        self.sent = Sent()
        self._chargers = [
            Charger(number, fault, uneven, plan.seed, plan.start_us, plan.end_us, plan.every_s)
            for number, fault, uneven in _assigned(plan)
        ]

    @property
    def mappings(self) -> list[Mapping]:
        """In the order in which they have to be registered, before the first reading is sent."""
        return [mapping for charger in self._chargers for mapping in charger.mappings]

    @property
    def truth(self) -> Sequence[VehicleTruth]:
        """What is true of each vehicle; complete when `bursts` has ended."""
        return [charger.truth for charger in self._chargers]

    @property
    def corrections(self) -> list[Correction]:
        """What an operator has to correct; complete when `bursts` has ended."""
        return [correction for charger in self._chargers for correction in charger.corrections]

    @property
    def faults(self) -> str:
        """How many chargers have which fault, in words."""
        found = Counter(charger.fault for charger in self._chargers if charger.fault is not None)
        words = [f"{found[fault]} {fault.value}" for fault in Faulty if found[fault]]
        uneven = sum(charger.uneven for charger in self._chargers)
        return ", ".join([*words, f"{uneven} with uneven intervals"] if uneven else words) or "none"

    @property
    def readings_expected(self) -> int:
        """About how many readings there will be, for a progress bar."""
        steps = (self.plan.end_us - self.plan.start_us) // (self.plan.every_s * US_PER_SECOND)
        meters = sum(len(charger.meter_ids) for charger in self._chargers)
        return steps * (meters + len(self._chargers))

    def bursts(self) -> Iterator[Burst]:
        """What the devices send, in the order in which it arrives. Can be run through once."""
        faults = self.plan.faults
        random = Random(f"{self.plan.seed}/bursts")
        steps_each = INTERVALS_JOIN * max(1, BUFFER_S // (INTERVALS_JOIN * self.plan.every_s))
        steps = max((charger.steps for charger in self._chargers), default=0)
        lagging: defaultdict[int, list[Burst]] = defaultdict(list)
        rounds = ceil(steps / steps_each)
        for charger in self._chargers:
            for burst in charger.past_bursts():
                self.sent.distinct += len(burst)
                yield burst
        for turn in range(rounds):
            yield from lagging.pop(turn, ())
            for charger in self._chargers:
                for burst in charger.next_bursts(steps_each):
                    self.sent.distinct += len(burst)
                    late = random.random() < faults.late
                    if late:
                        self.sent.late += len(burst)
                        lagging[turn + random.randint(1, LAG_MAX_BURSTS)].append(burst)
                    else:
                        yield burst
                    if random.random() < faults.repeated:
                        self.sent.repeated += len(burst)
                        lagging[turn + random.randint(1, LAG_MAX_BURSTS)].append(burst)
        for turn in sorted(lagging):
            yield from lagging[turn]


def _assigned(plan: FleetPlan) -> Iterator[tuple[int, Faulty | None, bool]]:
    """The number of each charger, what is wrong with it, and whether its two sides report at different intervals."""
    random = Random(f"{plan.seed}/fleet")
    numbers = list(range(1, plan.chargers + 1))
    random.shuffle(numbers)
    faulty: list[Faulty] = []
    for fault, share in (
        (Faulty.WORN, plan.faults.worn),
        (Faulty.SILENT, plan.faults.silent),
        (Faulty.MOVED, plan.faults.moved),
        (Faulty.V2G, plan.faults.v2g),
        (Faulty.BY_PHASE, plan.faults.by_phase),
        (Faulty.REGISTER, plan.faults.register),
        (Faulty.SENTINEL, plan.faults.sentinel),
        (Faulty.GLITCH, plan.faults.glitch),
        (Faulty.WEARING, plan.faults.wearing),
    ):
        faulty += [fault] * _count(share, plan.chargers)
    of_number = dict(zip(numbers, faulty, strict=False))
    uneven = set(random.sample(numbers, _count(plan.faults.uneven, plan.chargers)))
    for number in sorted(numbers):
        yield number, of_number.get(number), number in uneven


def _count(share: float, chargers: int) -> int:
    return max(1, round(share * chargers)) if share > 0 and chargers else 0
