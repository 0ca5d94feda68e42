"""The kinds of device, and what their readings measure: tables, statements and COPY's columns follow from it.

A statement about any kind is written once, with holes for names: `{device}` in those of tables and columns, `{energy}`,
`{returned}`, and the lists `{measurements}`, `{optional}` (those but the energy), `{averaged}` and `{totals}`.
"""

from collections.abc import Sequence
from dataclasses import dataclass

REGISTER = "register_kwh"
"""What a device's register shows, in the place of an interval's energy."""


class Names(tuple[str, ...]):
    """Names of columns. `{names}` lists them; `{names:old.#}` lists a pattern, with each name in the place of `#`.

    A pattern that begins with a comma continues a list: no names, nothing more in it.
    """

    def __format__(self, pattern: str) -> str:
        separator = "" if pattern.startswith(",") else ", "
        return separator.join((pattern or "#").replace("#", name) for name in self)


@dataclass(frozen=True, slots=True)
class DeviceKind:
    """What the readings of a kind of device measure; the names are those of columns."""

    name: str
    energy: str
    """The interval's energy in kWh: every reading has it. Negative: it flowed back."""
    returned: str
    """What flowed back, in kWh: the sum of the magnitudes of negative energies."""
    optional: Sequence[str]
    """What else a reading may have, in the order of its row; its register comes last."""
    averaged: Sequence[str] = ()
    """Those of which the rollups keep the sum and the number, for the average."""

    @property
    def history(self) -> str:
        return f"{self.name}_telemetry_history"

    @property
    def sealed(self) -> str:
        return f"{self.name}_sealed_days"

    @property
    def measurements(self) -> Names:
        """All that a reading may have, beside device and timestamp."""
        return Names((self.energy, *self.optional, REGISTER))

    @property
    def totals(self) -> Names:
        """What a rollup has, beside device and hour: sums, and the numbers of readings in them."""
        averages = (f"{name}_{total}" for name in self.averaged for total in ("sum", "readings"))
        return Names(("kwh", "kwh_returned", "readings", *averages))

    def render(self, statement: str) -> str:
        """A statement about any kind as one about this kind."""
        return statement.format(
            device=self.name,
            energy=self.energy,
            returned=self.returned,
            measurements=self.measurements,
            optional=Names((*self.optional, REGISTER)),
            averaged=Names(self.averaged),
            totals=self.totals,
        )


METER = DeviceKind("meter", energy="kwh_consumed_ac", returned="kwh_returned_ac", optional=("voltage",))
VEHICLE = DeviceKind(
    "vehicle",
    energy="kwh_delivered_dc",
    returned="kwh_returned_dc",
    optional=("soc", "battery_temp"),
    averaged=("battery_temp",),
)
KINDS = (METER, VEHICLE)
