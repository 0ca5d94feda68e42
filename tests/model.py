"""The fleet in plain Python: what must come out of whatever was sent. Slow, obvious, and without a database."""

import itertools
import math
from collections import Counter, defaultdict
from collections.abc import Container, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from energyfleet.v1.telemetry_pb2 import Telemetry

from analytics_svc.performance import Compared
from shared.timestamps import US_PER_DAY, US_PER_HOUR, US_PER_SECOND
from tests.builders import NOW_US
from tests.charging_model import FedSpan, Judged, judge_vehicle

Device = tuple[str, str]
"""`("meter", id)` or `("vehicle", id)`."""

Values = tuple[float | None, ...]
"""(kWh, volts, register) or (kWh, percent, degrees Celsius, register); of kWh and register one is None."""

NEVER_US = -1
"""Before all that is sent here."""


class Span(NamedTuple):
    """A meter feeds a vehicle for `from_us < t <= until_us`."""

    vehicle_id: str
    meter_id: str
    from_us: int
    until_us: int | None

    def holds(self, ts_us: int) -> bool:
        return self.from_us < ts_us and (self.until_us is None or ts_us <= self.until_us)

    def place(self) -> tuple[int, str, str]:
        """In what is told."""
        return self.from_us, self.vehicle_id, self.meter_id

    def within(self, from_us: int, until_us: int | None) -> "Span | None":
        """What of it lies within a time, if anything does."""
        ends = [end_us for end_us in (self.until_us, until_us) if end_us is not None]
        part = self._replace(from_us=max(self.from_us, from_us), until_us=min(ends, default=None))
        return part if part.until_us is None or part.from_us < part.until_us else None


class Contradiction(Exception):
    """The mapping contradicts what is registered."""


@dataclass
class Counts:
    received: int = 0
    stored: int = 0
    duplicate: int = 0
    conflicting: int = 0
    rejected: int = 0
    not_yet: int = 0
    """Of those that are rejected."""
    omitted: int = 0
    """Optional values that readings were taken without."""


@dataclass
class Performance:
    """Sums over `start_us < t <= end_us`, over all meters while each of them fed; None where nothing was reported."""

    dc: float | None
    ac: float | None
    temp: float | None
    vehicle_readings: int
    meter_readings: int
    mapped: bool
    hours_either: int
    hours_both: int
    vehicle_ends: tuple[int | None, int] | None
    """When the vehicle reported first and last; of the first nothing is known where readings are not kept."""
    meter_ends: tuple[int | None, int] | None
    feedings: list[tuple[str, int, int, float | None, int, float | None]]
    """Meter, from and until within the window, kWh, readings, kWh that flowed back."""
    returned_dc: float | None
    """The magnitudes of the negative energies, which `dc` and `ac` have as they are."""
    returned_ac: float | None
    judged: Judged

    @property
    def ratio(self) -> float | None:
        """Of a sum in which as much flowed back as was drawn, rounding may leave some 1e-16 of it: nothing."""
        if self.dc is None or self.ac is None or self.returned_ac is None:
            return None
        return self.dc / self.ac if self.ac > 1e-9 * self.returned_ac else None

    @property
    def lost(self) -> float | None:
        return self.ac - self.dc if self.dc is not None and self.ac is not None else None

    @property
    def verdict(self) -> str:
        return self.judged.performance.verdict

    @property
    def coverage(self) -> float | None:
        return self.judged.performance.coverage

    @property
    def compared(self) -> Compared | None:
        return self.judged.performance.compared

    @property
    def idle(self) -> float | None:
        return None if self.ac is None else self.judged.idle

    @property
    def unmapped(self) -> float | None:
        return None if self.dc is None else self.judged.unmapped


def count(
    ts_us: int, sent: Values, before: tuple[int, Values] | None, max_kw: float = 500.0
) -> tuple[float, str | None]:
    """The energy that counts of a reading after another one in time, and why if it is not simply what was sent."""
    kwh, register = sent[0], sent[-1]
    seconds = 0.0 if before is None else max((ts_us - before[0]) / 1e6, 900.0)
    plausible = 1_000.0 if before is None else max_kw * seconds / 3_600
    if kwh is not None:
        return (kwh, None) if abs(kwh) <= plausible else (0.0, "doubted")
    assert register is not None
    register_before = None if before is None else before[1][-1]
    if register_before is None:
        return 0.0, "baseline"
    if register >= register_before:
        rise = register - register_before
        return (rise, None) if rise <= plausible else (0.0, "jump")
    return (register, "reset") if register <= plausible else (0.0, "jump")


def judge(
    readings: Mapping[int, Values], max_kw: float = 500.0, corrected: Container[int] = ()
) -> dict[int, tuple[float, str | None]]:
    """What counts of each reading of a device, and why if it is not simply what was sent; corrections do not matter,
    but that what has been corrected keeps no session going."""
    found: dict[int, tuple[float, str | None]] = {}
    before: tuple[int, Values] | None = None
    for ts_us, values in sorted(readings.items()):
        found[ts_us] = count(ts_us, values, before, max_kw)
        before = ts_us, values
    return found | dict.fromkeys(session_registers(readings, corrected), (0.0, "session"))


def session_registers(readings: Mapping[int, Values], corrected: Container[int]) -> set[int]:
    """When the readings came whose energies are those of a session until then: eight that rise steadily from next to
    nothing, and what goes on without a fall."""
    rows = [(ts_us, values[0]) for ts_us, values in sorted(readings.items())]
    rising = {
        ts_us for eight in zip(*(rows[at:] for at in range(8)), strict=False) if rises(eight) for ts_us, _ in eight
    }
    found: set[int] = set()
    last_us: int | None = None
    before_kwh: float | None = None
    for ts_us, kwh in rows:
        if kwh is None or before_kwh is None or kwh < before_kwh:
            last_us = None
        if ts_us in rising or (last_us is not None and ts_us - last_us <= US_PER_DAY):
            found.add(ts_us)
            if ts_us in rising or ts_us not in corrected:
                last_us = ts_us
        else:
            last_us = None
        before_kwh = kwh
    return found


def rises(rows: Sequence[tuple[int, float | None]]) -> bool:
    """Whether energies are those of a register that began near zero, at a steady power of at least 1.3 kW."""
    rates = []
    for (before_us, before_kwh), (ts_us, kwh) in itertools.pairwise(rows):
        if kwh is None or before_kwh is None or before_kwh <= 0 or kwh - before_kwh <= 1e-9:
            return False
        rates.append((kwh - before_kwh) / ((ts_us - before_us) / 1e6))
    (first_us, first_kwh), (last_us, last_kwh) = rows[0], rows[-1]
    assert first_kwh is not None
    assert last_kwh is not None
    return (
        max(rates) <= 2 * min(rates)
        and last_kwh >= 4.5 * first_kwh
        and 60 * US_PER_SECOND <= last_us - first_us <= US_PER_DAY
        and min(rates) * 3_600 >= 1.3
    )


def hour_start_us(ts_us: int) -> int:
    """The hour `(h, h + 1 h]` that a timestamp belongs to."""
    return (ts_us - 1) // US_PER_HOUR * US_PER_HOUR


def round_half_up(at_us: int, to_us: int) -> int:
    return (at_us + to_us // 2) // to_us * to_us


def energies(readings: Mapping[Any, Values]) -> list[float]:
    """The kWh of some readings; negative: they flowed back."""
    return [values[0] or 0.0 for values in readings.values()]


def returned(energies: list[float]) -> float:
    """What flowed back of some energies, in kWh."""
    return math.fsum(-kwh for kwh in energies if kwh < 0)


@dataclass
class Model:
    history: dict[Device, dict[int, Values]] = field(default_factory=lambda: defaultdict(dict))
    """As sent."""
    corrected: dict[tuple[Device, int], float] = field(default_factory=dict)
    """The energy that counts of a device's reading of a time, where it is not what was sent."""
    mappings: list[Span] = field(default_factory=list)
    mapped: set[str] = field(default_factory=set)
    """Vehicles that were in a mapping at some time, also where none is left."""
    kept_since_us: int = NEVER_US
    """When the first day begins of which readings are kept, and not their hours alone."""

    def send(self, readings: list[Telemetry]) -> Counts:
        counts = Counts()
        for reading in readings:
            counts.received += 1
            checked = self._checked(reading)
            if checked is None:
                counts.rejected += 1
                counts.not_yet += self._is_not_yet(reading)
                continue
            device, ts_us, sent = checked
            values = tuple(value if _within_bounds(at, device[0], value) else None for at, value in enumerate(sent))
            counts.omitted += values.count(None) - sent.count(None)
            places = self.history[device]
            if ts_us not in places:
                places[ts_us] = values
                counts.stored += 1
            elif places[ts_us] == values:
                counts.duplicate += 1
            else:
                counts.conflicting += 1
        return counts

    def correct(self, device: Device, ts_us: int, kwh: float | None) -> bool:
        """Makes an energy count, None: what was sent; whether there is such a reading."""
        if ts_us not in self.history[device]:
            return False
        self.corrected.pop((device, ts_us), None)
        if kwh is not None:
            self.corrected[device, ts_us] = kwh
        return True

    def counted(self, device: Device) -> dict[int, Values]:
        """Its readings, with the energy that counts."""
        return {ts_us: (kwh, *values[1:]) for ts_us, (kwh, _), values in self._judged(device)}

    def told(self, device: Device, start_us: int, end_us: int) -> Counter[str]:
        """How many of its readings within a window do not simply count as sent, by why."""
        return Counter(why for ts_us, (_, why), _ in self._judged(device) if why and start_us < ts_us <= end_us)

    def _judged(self, device: Device) -> Iterator[tuple[int, tuple[float, str | None], Values]]:
        readings = self.history.get(device, {})
        corrected = {ts_us: (kwh, "corrected") for (whose, ts_us), kwh in self.corrected.items() if whose == device}
        judged = judge(readings, corrected=corrected) | corrected
        for ts_us, values in sorted(readings.items()):
            yield ts_us, judged[ts_us], values

    def map(
        self, vehicle_id: str, meter_id: str, from_us: int, until_us: int | None = None, *, join: bool = False
    ) -> list[Span]:
        """What is closed by it, in its order."""
        touching = [
            span
            for span in self.mappings
            if (span.vehicle_id == vehicle_id or span.meter_id == meter_id) and span.within(from_us, until_us)
        ]
        others = [span for span in touching if (span.vehicle_id, span.meter_id) != (vehicle_id, meter_id)]
        pair = [span for span in touching if span not in others]
        if join:
            others = [span for span in others if span.vehicle_id != vehicle_id]
        wanted = Span(vehicle_id, meter_id, from_us, until_us)
        covered = any(span.within(from_us, until_us) == wanted for span in pair)
        if until_us is not None:
            if covered:
                return []
            if pair or others:
                raise Contradiction
            self._register(wanted)
            return []
        if any(span.from_us == from_us for span in pair) or (covered and join):
            return []
        if any(span.until_us is not None for span in pair):
            raise Contradiction
        if any(span.until_us is not None or span.from_us >= from_us for span in others):
            raise Contradiction
        closed = [span._replace(until_us=from_us) for span in sorted(others, key=Span.place)]
        self.mappings = [span for span in self.mappings if span not in others] + closed
        if not covered:
            self.mappings = [span for span in self.mappings if span not in pair]
            self._register(wanted)
        return closed

    def _register(self, wanted: Span) -> None:
        self.mappings.append(wanted)
        self.mapped.add(wanted.vehicle_id)

    def unmap(self, vehicle_id: str, from_us: int, until_us: int | None = None, meter_id: str = "") -> list[Span]:
        """What is taken away, in its order; of every meter unless one is named."""
        its = [span for span in self.mappings if span.vehicle_id == vehicle_id and meter_id in ("", span.meter_id)]
        if until_us is None and any(span.from_us > from_us for span in its):
            raise Contradiction
        outside: list[tuple[int, int | None]] = [(NEVER_US, from_us)]
        if until_us is not None:
            outside.append((until_us, None))
        for span in its:
            self.mappings.remove(span)
            self.mappings += [part for time in outside if (part := span.within(*time))]
        return [part for span in sorted(its, key=Span.place) if (part := span.within(from_us, until_us))]

    def knows(self, vehicle_id: str) -> bool:
        return vehicle_id in self.mapped or bool(self.history.get(("vehicle", vehicle_id)))

    def newest(self, device: Device) -> tuple[int, Values] | None:
        return max(self.counted(device).items(), default=None)

    def hourly(self, device: Device) -> dict[int, tuple[float, float, int, int]]:
        """(kWh, kWh that flowed back, readings, when the last one came) by the start of the hour."""
        hours: dict[int, dict[int, Values]] = defaultdict(dict)
        for ts_us, values in self.counted(device).items():
            hours[hour_start_us(ts_us)][ts_us] = values
        return {
            hour: (math.fsum(kwh := energies(its)), returned(kwh), len(its), max(its)) for hour, its in hours.items()
        }

    def looked_at(self, start_us: int, end_us: int) -> tuple[int, int]:
        """A window as far as it can be told: from hour to hour where readings are not kept."""
        if start_us < self.kept_since_us:
            start_us = start_us // US_PER_HOUR * US_PER_HOUR
        if end_us < self.kept_since_us:
            end_us = -(-end_us // US_PER_HOUR) * US_PER_HOUR
        return start_us, end_us

    def mapped_within(self, start_us: int, end_us: int) -> list[Span]:
        """The mappings as far as they lie within a window, and as far as they can be told."""
        told = (
            span._replace(
                from_us=self._kept_edge(span.from_us),
                until_us=None if span.until_us is None else self._kept_edge(span.until_us),
            )
            for span in self.mappings
        )
        return [part for span in told if (part := span.within(start_us, end_us))]

    def _kept_edge(self, at_us: int) -> int:
        return at_us if at_us >= self.kept_since_us else round_half_up(at_us, US_PER_HOUR)

    def performance(self, vehicle_id: str, start_us: int, end_us: int) -> Performance:
        """Of a window as it can be told."""
        spans = [part for part in self.mapped_within(start_us, end_us) if part.vehicle_id == vehicle_id]
        dc = self._within(("vehicle", vehicle_id), start_us, end_us)
        ac = {
            (span.meter_id, ts_us): values
            for span in spans
            for ts_us, values in self._within(("meter", span.meter_id), start_us, end_us).items()
            if span.holds(ts_us)
        }
        dc_hours = {hour_start_us(ts_us) for ts_us in dc}
        ac_hours = {hour_start_us(ts_us) for _, ts_us in ac}
        temps = [values[2] for values in dc.values() if values[2] is not None]
        return Performance(
            dc=math.fsum(energies(dc)) if dc else None,
            ac=math.fsum(energies(ac)) if ac else None,
            temp=math.fsum(temps) / len(temps) if temps else None,
            vehicle_readings=len(dc),
            meter_readings=len(ac),
            mapped=bool(spans),
            hours_either=len(dc_hours | ac_hours),
            hours_both=len(dc_hours & ac_hours),
            vehicle_ends=self._ends(start_us, list(dc)),
            meter_ends=self._ends(start_us, [ts_us for _, ts_us in ac]),
            feedings=[
                self._feeding(span, span.from_us, span.until_us or end_us) for span in sorted(spans, key=Span.place)
            ],
            returned_dc=returned(energies(dc)) if dc else None,
            returned_ac=returned(energies(ac)) if ac else None,
            judged=judge_vehicle(
                (start_us, end_us),
                self._fed_spans(vehicle_id, start_us, end_us, spans),
                mappings=len(spans),
                dc=energies(dc),
                ac=energies(ac),
            ),
        )

    def _ends(self, start_us: int, times_us: list[int]) -> tuple[int | None, int] | None:
        if not times_us:
            return None
        return None if start_us < self.kept_since_us else min(times_us), max(times_us)

    def _fed_spans(self, vehicle_id: str, start_us: int, end_us: int, mappings: list[Span]) -> list[FedSpan]:
        """The parts of a window in which the same meters fed a vehicle, by time."""
        ends = [(mapping.from_us, mapping.until_us or end_us) for mapping in mappings]
        edges = sorted({start_us, end_us, *itertools.chain.from_iterable(ends)})
        return [
            FedSpan(
                since_us,
                until_us,
                self.energies_of_span(("vehicle", vehicle_id), since_us),
                [
                    self.energies_of_span(("meter", mapping.meter_id), since_us)
                    for mapping, (from_us, to_us) in zip(mappings, ends, strict=True)
                    if from_us <= since_us and until_us <= to_us
                ],
            )
            for since_us, until_us in itertools.pairwise(edges)
        ]

    def energies(self, device: Device) -> dict[int, float]:
        """The energies of its readings that count, by their time."""
        return {ts_us: values[0] or 0.0 for ts_us, values in self.counted(device).items()}

    def energies_of_span(self, device: Device, since_us: int) -> dict[int, float]:
        """Likewise; but without the hour before a span that begins within an hour, where its readings are not kept."""
        found = self.energies(device)
        if since_us % US_PER_HOUR and since_us - US_PER_HOUR < self.kept_since_us:
            return {ts_us: kwh for ts_us, kwh in found.items() if ts_us > since_us}
        return found

    def known(self, vehicle_id: str) -> bool:
        """Whether the vehicle was ever heard of."""
        return bool(self.history.get(("vehicle", vehicle_id))) or any(
            span.vehicle_id == vehicle_id for span in self.mappings
        )

    def _feeding(
        self, span: Span, from_us: int, until_us: int
    ) -> tuple[str, int, int, float | None, int, float | None]:
        kwh = energies(self._within(("meter", span.meter_id), from_us, until_us))
        sums = (math.fsum(kwh), returned(kwh)) if kwh else (None, None)
        return span.meter_id, from_us, until_us, sums[0], len(kwh), sums[1]

    def _within(self, device: Device, start_us: int, end_us: int) -> dict[int, Values]:
        return {ts: values for ts, values in self.counted(device).items() if start_us < ts <= end_us}

    def _is_not_yet(self, reading: Telemetry) -> bool:
        """Whether nothing but its time, which is ahead by up to a day, speaks against the reading."""
        side = reading.WhichOneof("reading")
        it = reading.meter if side == "meter" else reading.vehicle
        ts_us = it.timestamp.seconds * US_PER_SECOND + it.timestamp.nanos // 1_000
        if not NOW_US + 300 * US_PER_SECOND < ts_us <= NOW_US + US_PER_DAY:
            return False
        in_time = Telemetry()
        in_time.CopyFrom(reading)
        getattr(in_time, side or "meter").timestamp.seconds = NOW_US // US_PER_SECOND
        return self._checked(in_time) is not None

    def _checked(self, reading: Telemetry) -> tuple[Device, int, Values] | None:
        """The tests' readings are wrong in few ways: no side, not one of energy and register, either or a time out of
        bounds."""
        side = reading.WhichOneof("reading")
        if side is None:
            return None
        it: Any = reading.meter if side == "meter" else reading.vehicle
        ts_us = it.timestamp.seconds * US_PER_SECOND + it.timestamp.nanos // 1_000
        if not NOW_US - 400 * US_PER_DAY <= ts_us <= NOW_US + 300 * US_PER_SECOND:
            return None
        names = ("kwh_consumed_ac", "voltage") if side == "meter" else ("kwh_delivered_dc", "soc", "battery_temp")
        values = tuple(_or_none(it, name) for name in (*names, "register_kwh"))
        kwh, register = values[0], values[-1]
        if (kwh is None) == (register is None) or not _within_bounds(
            0 if register is None else -1, side, kwh if register is None else register
        ):
            return None
        return (side, it.meter_id if side == "meter" else it.vehicle_id), ts_us, values


_BOUNDS = {
    "meter": ((-1_000, 1_000_000), (0, 2_000), (0, 1e9)),
    "vehicle": ((-1_000, 1_000_000), (0, 100), (-60, 150), (0, 1e9)),
}


def _within_bounds(at: int, side: str, value: float | None) -> bool:
    """Whether a reading is taken with this value, the one at a position of its values."""
    least, most = _BOUNDS[side][at]
    return value is not None and least <= value <= most


def _or_none(reading: object, name: str) -> float | None:
    return getattr(reading, name) if reading.HasField(name) else None  # type: ignore[attr-defined]  # any message
