"""What was refused of devices' readings, collected in memory until `device_evidence` writes it down.

Readings that were rejected, and optional values that readings were taken without, each time they came. A device none of
whose readings was ever stored can be seen by this alone.
"""

from collections.abc import Iterator, Sequence
from itertools import islice
from typing import NamedTuple

REFUSALS_MAX = 20_000
"""Devices of a kind, fields and reasons that are remembered, about 500 bytes each: twice the fleet, one fault each."""


class RefusalRow(NamedTuple):
    """What is to be added to a device's refusals for one reason. `last_us` is the server's clock, in microseconds."""

    device_id: str
    field: str
    reason: str
    times: int
    last_us: int
    last_description: str


class Refusals:
    """What was refused of one kind of device since the last flush; `add` is the statement that adds it to the database.

    Anybody can name devices: hence the bound.
    """

    def __init__(self, add: str) -> None:
        self.add = add
        self.not_kept = 0
        """Refusals that were not counted for want of room."""
        self._rows: dict[tuple[str, str, str], RefusalRow] = {}

    def __bool__(self) -> bool:
        return bool(self._rows)

    def note(self, row: RefusalRow) -> None:
        """Adds to what was refused of the device for the reason."""
        known = self._rows.get(row[:3])
        if known is not None:
            last = max(known, row, key=lambda each: each.last_us)
            self._rows[row[:3]] = last._replace(times=known.times + row.times)
        elif len(self._rows) < REFUSALS_MAX:
            self._rows[row[:3]] = row
        else:
            self.not_kept += row.times

    def take(self, most: int) -> Iterator[list[RefusalRow]]:
        """What is collected now, in lists of at most so many; each row is taken out when asked for."""
        left = len(self._rows)
        while left > 0 and self._rows:
            chunk = list(islice(self._rows, min(most, left)))
            left -= len(chunk)
            yield [self._rows.pop(key) for key in chunk]

    def put_back(self, rows: Sequence[RefusalRow]) -> None:
        """Takes in again what was not written down."""
        for row in rows:
            self.note(row)
