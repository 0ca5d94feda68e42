"""Readings as all of ingestion sees them: rows and their bounds, why one is rejected, what became of a batch."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import NamedTuple, Protocol, TypeVar

from shared.timestamps import US_PER_DAY, US_PER_SECOND

INTERVAL_MIN_KWH, INTERVAL_MAX_KWH = -1_000.0, 1_000_000.0
"""One reading's energy, negative where it flowed back. What of it is plausible depends on the time that it stands for;
a megawatt takes six weeks for the most."""

VOLTAGE_MAX = 2_000.0
"""Volts. Above the 1,500 V of the largest direct-current systems."""

REGISTER_MAX_KWH = 1e9
"""What a register shows: more digits than any has, and few enough that a difference is exact to a watt-hour."""

SOC_MAX = 100.0
"""Percent."""

BATTERY_TEMP_MIN, BATTERY_TEMP_MAX = -60.0, 150.0
"""Degrees Celsius: below any winter, above a burning cell's neighbour."""

FUTURE_SKEW_US = 5 * 60 * US_PER_SECOND
"""How far a device's clock may be ahead of ours. More would pin its current status for as long."""

NOT_YET_MAX_US = US_PER_DAY
"""Up to so far ahead a reading may come again later: a time zone taken for UTC. Further ahead a clock is wrong."""

MESSAGE_MAX_READINGS = 10_000
"""Readings in a message: half a batch. More would only make the answer later and the memory larger."""

REJECTIONS_MAX = 100
"""Rejections, conflicts and omissions that an answer lists, each; the counts are whole. 100 show any pattern within 20
KiB."""


class MeterRow(NamedTuple):
    """A meter's reading, checked. Energy or register in kWh, voltage in volts or None, time in microseconds."""

    meter_id: str
    ts_us: int
    kwh_consumed_ac: float | None
    """Of the interval. None: the register tells it."""
    voltage: float | None
    register_kwh: float | None = None


class VehicleRow(NamedTuple):
    """A vehicle's reading, checked. Energy or register in kWh, soc in percent or None, battery_temp in °C or None."""

    vehicle_id: str
    ts_us: int
    kwh_delivered_dc: float | None
    """Of the interval. None: the register tells it."""
    soc: float | None
    battery_temp: float | None
    register_kwh: float | None = None


AnyRow = TypeVar("AnyRow", bound=MeterRow | VehicleRow)

Values = tuple[float | None, ...]
"""What a row measures: all but device and timestamp."""


class TimeBounds(NamedTuple):
    """The timestamps that are accepted, in microseconds, both ends included."""

    earliest_us: int
    latest_us: int

    @property
    def now_us(self) -> int:
        """When the readings arrived."""
        return self.latest_us - FUTURE_SKEW_US

    @classmethod
    def at(cls, now_us: int, retention_days: int, floor_us: int | None = None) -> "TimeBounds":
        """What is accepted now: back to the retention floor, ahead by the skew that clocks are allowed.

        `floor_us` is the database's own floor, where it is known: what lies before it is dropped and would be refused
        there, whatever our setting says.
        """
        earliest_us = now_us - retention_days * US_PER_DAY
        if floor_us is not None and floor_us > earliest_us:
            earliest_us = floor_us
        return cls(earliest_us, now_us + FUTURE_SKEW_US)


class RejectionReason(StrEnum):
    """Why a reading is not stored; the values are the contract's names."""

    MISSING = "REJECTION_REASON_MISSING"
    MALFORMED = "REJECTION_REASON_MALFORMED"
    OUT_OF_RANGE = "REJECTION_REASON_OUT_OF_RANGE"
    IN_FUTURE = "REJECTION_REASON_IN_FUTURE"
    TOO_OLD = "REJECTION_REASON_TOO_OLD"
    REFUSED_BY_DATABASE = "REJECTION_REASON_REFUSED_BY_DATABASE"
    NOT_YET = "REJECTION_REASON_NOT_YET"

    @property
    def is_future(self) -> bool:
        return self in (RejectionReason.NOT_YET, RejectionReason.IN_FUTURE)


@dataclass(frozen=True, slots=True)
class Rejection:
    """Why the reading at `index` of a call was not stored. `field` is a path from `Telemetry`."""

    index: int
    field: str
    reason: RejectionReason
    description: str
    device_id: str = ""
    """Empty: it names none, or what it names is not an id."""
    sequence: int = 0
    """Of its request in an exchange; `index` then counts within that."""

    @classmethod
    def by_database(cls, index: int, device_id: str) -> "Rejection":
        """For a reading that looked right and that the database alone refused; our log has its reason."""
        why = "the database refused this reading"
        return cls(index, "reading", RejectionReason.REFUSED_BY_DATABASE, why, device_id)


@dataclass(frozen=True, slots=True)
class Omission:
    """The reading at `index` of a call was taken without an optional value. `field` is a path from `Telemetry`."""

    index: int
    device_id: str
    field: str
    description: str
    sequence: int = 0
    """Of its request in an exchange; `index` then counts within that."""


@dataclass(frozen=True, slots=True)
class Conflict:
    """The reading at `index` of a call found its device and timestamp taken by another reading."""

    index: int
    sent: MeterRow | VehicleRow
    stored: MeterRow | VehicleRow
    sequence: int = 0
    """Of its request in an exchange; `index` then counts within that."""


@dataclass(slots=True)
class Summary:
    """What became of a number of readings. The lists hold the first REJECTIONS_MAX."""

    received: int = 0
    stored: int = 0
    duplicate: int = 0
    conflicting: int = 0
    rejected: int = 0
    not_yet: int = 0
    """Of those that are rejected."""
    omitted: int = 0
    """Values, not readings."""
    doubted: int = 0
    """Of those that are stored."""
    rejections: list[Rejection] = field(default_factory=list)
    conflicts: list[Conflict] = field(default_factory=list)
    omissions: list[Omission] = field(default_factory=list)


@dataclass(slots=True)
class Decoded:
    """The readings of a slice of a message: rows with the index of each in the call, and what was rejected."""

    meters: list[MeterRow] = field(default_factory=list)
    meter_indexes: list[int] = field(default_factory=list)
    vehicles: list[VehicleRow] = field(default_factory=list)
    vehicle_indexes: list[int] = field(default_factory=list)
    rejections: list[Rejection] = field(default_factory=list)
    omissions: list[Omission] = field(default_factory=list)
    arrived_us: int = 0
    """The server's clock when the message came."""

    @property
    def rejected(self) -> int:
        """How many readings are not stored."""
        return len(self.rejections)


class Message(Protocol):
    """The readings of one message, not decoded yet."""

    def __len__(self) -> int: ...

    def age_us(self, now_us: int) -> int:
        """How old the first reading says that it is, to the second; meaningless where its timestamp is."""

    def device_ids(self) -> Iterable[str]:
        """The well-formed id of each reading."""

    def decode(self, part: slice, first_index: int, bounds: TimeBounds) -> Decoded:
        """Checks a part, whose first reading is the call's reading number `first_index`."""


@dataclass(slots=True)
class Written:
    """What became of a batch: every row is stored but those at the positions listed here."""

    duplicates: list[int] = field(default_factory=list)
    conflicts: list[int] = field(default_factory=list)
    refused: list[int] = field(default_factory=list)
    stored: dict[int, Values] = field(default_factory=dict)
    """By position in `conflicts`: the values that were there and stay."""
    doubted: list[int] = field(default_factory=list)
    """Rows that are stored, but whose energy does not count."""
    session_registers: list[int] = field(default_factory=list)
    """Those of them whose energies rise as the register of a session."""

    def add(self, other: "Written", offset: int) -> None:
        """Adds the outcome of the rows that begin at a position of ours."""
        self.duplicates += [offset + position for position in other.duplicates]
        self.conflicts += [offset + position for position in other.conflicts]
        self.refused += [offset + position for position in other.refused]
        self.doubted += [offset + position for position in other.doubted]
        self.session_registers += [offset + position for position in other.session_registers]
        self.stored |= {offset + position: values for position, values in other.stored.items()}

    def of(self, positions: Sequence[int]) -> "Written":
        """The outcome of a batch of whose rows ours were those at some positions."""
        return Written(
            [positions[position] for position in self.duplicates],
            [positions[position] for position in self.conflicts],
            [positions[position] for position in self.refused],
            {positions[position]: values for position, values in self.stored.items()},
            [positions[position] for position in self.doubted],
            [positions[position] for position in self.session_registers],
        )
