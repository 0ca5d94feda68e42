"""Numbers and times as people's files write them. What could mean two things is refused, never guessed."""

import re
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from zoneinfo import ZoneInfo

from google.protobuf.timestamp_pb2 import Timestamp

from shared.timestamps import TIMESTAMP_MAX_SECONDS, TIMESTAMP_MIN_SECONDS, US_PER_SECOND, us_from_datetime

_SHOWN = 40
"""Characters of a cell that a message shows."""

_NUMBER = re.compile(
    r"[+-]?(?:\d+(?:[.,]\d*)?|[.,]\d+)(?:e[+-]?\d{1,4})?|[+-]?(?:nan|inf|infinity)", re.IGNORECASE | re.ASCII
)
_MAY_BE_GROUPED = re.compile(r"[+-]?[1-9]\d{0,2}[.,]\d{3}", re.ASCII)
_GROUPED = re.compile(r"[+-]?\d{1,3}([., '\u2019\u00a0\u202f]\d{3})+([.,]\d*)?", re.ASCII)
_TIME = re.compile(
    r"(?:(?P<year>\d{4})(?P<dash>[-/])(?P<month>\d\d)(?P=dash)(?P<day>\d\d)"
    r"|(?P<day0>\d\d?)\.(?P<month0>\d\d?)\.(?P<year0>\d{4}))"
    r"[Tt ](?P<hour>\d\d?):(?P<minute>\d\d)(?::(?P<second>\d\d)(?:[.,](?P<fraction>\d{1,9}))?)?"
    r" ?(?P<offset>[Zz]|UTC|(?P<east>[+-])(?P<hours>[01]\d|2[0-3])(?::?(?P<minutes>[0-5]\d))?)?",
    re.ASCII,
)
_UNIX = re.compile(r"(?P<seconds>1\d{9})(?:\.(?P<fraction>\d{1,9})|(?P<finer>\d{3}|\d{6}|\d{9}))?", re.ASCII)
"""Time since 1970, from 2001 to 2033. Ten digits are seconds; three, six or nine more make it finer."""


class BadLine(Exception):
    """The message says what is wrong with a line."""


class Literal(str):
    """A number as it stands in JSON, where its decimal sign is always a point."""

    __slots__ = ()


class Unit(StrEnum):
    KWH = "kWh"
    WH = "Wh"


class Numbers:
    """Reads the numbers of one file, which has one decimal sign: what was said, else that of the first number with one.

    That first number must not be one that may group thousands: of three digits after a comma where `commas_rare`, for
    they stand between the cells, and in any file of Wh, for nobody measures thousandths of them, and of what is
    `large`: a register shows thousands as often as thousandths.
    """

    def __init__(self, sign: str | None, *, commas_rare: bool) -> None:
        self.sign = sign
        self._commas_rare = commas_rare

    def value(self, name: str, cell: str, unit: Unit = Unit.KWH, *, large: bool = False) -> float:
        """The number nearest to what the cell says; of Wh, in kWh."""
        if not _NUMBER.fullmatch(cell):
            why = ": thousands separators are not read" if _GROUPED.fullmatch(cell) else ""
            raise BadLine(f"{name}: {cell[:_SHOWN]!r} is no number{why}")
        if not isinstance(cell, Literal):
            self._check_sign(name, cell, large or unit is Unit.WH)
        plain = cell.replace(",", ".").lower()
        if unit is Unit.WH and not plain.endswith(("n", "f", "y")):  # nan, inf, infinity
            mantissa, _, exponent = plain.partition("e")
            plain = f"{mantissa}e{int(exponent or 0) - 3}"  # shifted in decimal, rounded once
        return float(plain)

    def _check_sign(self, name: str, cell: str, large: bool) -> None:
        sign = "," if "," in cell else "." if "." in cell else self.sign
        if self.sign is None:
            doubtful = large or (sign == "," and self._commas_rare)
            if doubtful and _MAY_BE_GROUPED.fullmatch(cell):
                raise BadLine(
                    f"{name}: {cell!r} may have three decimals or be in thousands: say --decimal {sign} if it has"
                    " decimals; thousands separators are not read"
                )
            self.sign = sign
        if sign != self.sign:
            raise BadLine(
                f"{name}: {cell[:_SHOWN]!r} in a file whose decimal sign is {self.sign!r}, as was said or as its first"
                " number has it: say --decimal if that is wrong; thousands separators are not read"
            )


def timestamp(cell: str, zone: ZoneInfo | None) -> Timestamp:
    """An instant, exact to the nanosecond. Without an offset it is local time in the zone."""
    unix = _UNIX.fullmatch(cell)
    if unix is not None:
        return Timestamp(seconds=int(unix["seconds"]), nanos=_nanos(unix["fraction"] or unix["finer"]))
    match = _TIME.fullmatch(cell)
    if match is None:
        raise BadLine(f"timestamp: {cell[:_SHOWN]!r} is no time such as 2026-02-09T10:00:00Z")
    try:
        local = datetime(
            int(match["year"] or match["year0"]),
            int(match["month"] or match["month0"]),
            int(match["day"] or match["day0"]),
            tzinfo=UTC,
        ) + _time_of_day(int(match["hour"]), int(match["minute"]), int(match["second"] or 0), match["fraction"])
    except (ValueError, OverflowError):
        raise BadLine(f"timestamp: {cell!r} is not in the calendar or on the clock") from None
    seconds = us_from_datetime(local) // US_PER_SECOND - _offset_s(cell, match, local, zone)
    if not TIMESTAMP_MIN_SECONDS <= seconds <= TIMESTAMP_MAX_SECONDS:
        raise BadLine(f"timestamp: {cell!r} is not within the years 1 to 9999")
    return Timestamp(seconds=seconds, nanos=_nanos(match["fraction"]))


def _time_of_day(hour: int, minute: int, second: int, fraction: str | None) -> timedelta:
    """24:00:00 is the end of a day, as meters write it. ValueError where no clock shows it."""
    if (hour, minute, second, _nanos(fraction)) > (24, 0, 0, 0) or minute > 59 or second > 59:
        raise ValueError
    return timedelta(hours=hour, minutes=minute, seconds=second)


def _nanos(fraction: str | None) -> int:
    return int((fraction or "").ljust(9, "0"))


def _offset_s(cell: str, match: re.Match[str], local: datetime, zone: ZoneInfo | None) -> int:
    """Seconds that the time is ahead of UTC."""
    if match["east"]:
        seconds = int(match["hours"]) * 3_600 + int(match["minutes"] or 0) * 60
        return seconds if match["east"] == "+" else -seconds
    if match["offset"]:
        return 0
    if zone is None:
        raise BadLine(f"timestamp: {cell!r} has no offset from UTC: say --time-zone, as in --time-zone Europe/Berlin")
    # Where the clock is changed, the first and the second reading of a local time differ: PEP 495.
    first, second = (local.replace(tzinfo=zone, fold=fold).utcoffset() or timedelta() for fold in (0, 1))
    if first < second:
        raise BadLine(f"timestamp: {cell!r} was never on the clocks of {zone.key}: they were set forward over it")
    if first > second:
        raise BadLine(
            f"timestamp: {cell!r} was on the clocks of {zone.key} twice, before and after they were set back: write it"
            " with its offset from UTC"
        )
    return int(first.total_seconds())
