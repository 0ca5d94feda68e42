"""Which column of a table, or which key of a JSON object, holds what of a reading."""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from zoneinfo import ZoneInfo

from fleetcli.commands.file_cells import BadLine, Numbers, Unit

REGISTER = "registerKwh"
"""What the register of a meter or of a vehicle shows."""

COLUMNS = (
    "meterId",
    "vehicleId",
    "timestamp",
    "kwhConsumedAc",
    "voltage",
    "kwhDeliveredDc",
    "soc",
    "batteryTemp",
    REGISTER,
)
"""The contract's JSON names, both sides in one table; a file may leave out what it does not have."""

ENERGY = "energy"
"""The energy of whichever side a row is of: what `energy` or `kwh` says for a column's name."""

DATE = "date"
"""The day of a timestamp whose column has the time of day alone."""

INTERVALS = frozenset({"kwhConsumedAc", "kwhDeliveredDc", ENERGY})
"""The energy of an interval."""

ENERGIES = INTERVALS | {REGISTER}
"""What is in Wh or kWh: a row fills in the energy of an interval, or a register."""

NAMES_SHOWN = 20
"""Columns that a message names at most."""

_ALIASES = {
    "meterId": "meterid meter meternumber meterserial chargerid charger chargepointid chargepoint evseid evse",
    "vehicleId": "vehicleid vehicle vin evid ev carid car",
    "timestamp": "timestamp time datetime ts timestampend intervalend endtime end unixtime epoch",
    "kwhConsumedAc": "kwhconsumedac consumedac energyconsumedac consumed energyconsumed energyac acenergy",
    "voltage": "voltage volts volt",
    "kwhDeliveredDc": "kwhdelivereddc delivereddc energydelivereddc delivered energydelivered energydc dcenergy",
    "soc": "soc stateofcharge",
    "batteryTemp": "batterytemp batterytemperature",
    REGISTER: "registerkwh register registerreading energyregister meterreading energycounter cumulativeenergy"
    " energycumulative lifetimeenergy energylifetime energyactiveimportregister",
    ENERGY: "energy",
    DATE: "date",
}
"""In lower case, letters and digits alone. The first of each is its own name.

A total is no register until --columns says so: it may be that of the phases, or of a session.
"""

_OCPP_REGISTER = "energyactiveimportregister"
"""OCPP's measurand, whose values are in Wh unless a message says kWh."""

_NAME_OF = {alias: name for name, aliases in _ALIASES.items() for alias in aliases.split()}
_UNITS_OF = {name: {"kwh", "wh"} for name in ENERGIES} | {
    "timestamp": {"utc", "s", "ms", "us", "ns"},
    "voltage": {"v", "volt", "volts"},
    "soc": {"%", "percent", "pct"},
    "batteryTemp": {"c", "degc", "celsius"},
}
_UNIT_WORDS = ("kwh", "wh", "utc", "ms", "us", "ns", "percent", "pct", "celsius", "degc", "v", "c", "s")
"""Units as the beginning or the end of a name; `kwh` before `wh`, which it ends in."""

_NO_UNITS_OF_OURS = frozenset({"mwh", "gwh", "mj", "kj", "kv", "mv", "f", "degf", "fahrenheit", "kelvin"})
"""A column that says one is not read as something else, not even where --columns says so."""


@dataclass(frozen=True, slots=True)
class Dialect:
    """How a file is to be read, as far as somebody said it; the rest is found out."""

    delimiter: str | None = None
    decimal: str | None = None
    columns: Mapping[str, str] = field(default_factory=dict)
    """Of a name out of COLUMNS, ENERGY or DATE: the column's name or its number, from 1."""
    unit: Unit | None = None
    zone: ZoneInfo | None = None
    meter_id: str | None = None
    vehicle_id: str | None = None


@dataclass(frozen=True, slots=True)
class Layout:
    """Where the values of a row are: by the contract's name, ENERGY or DATE, the index of the column."""

    headers: Sequence[str]
    places: Mapping[str, int]
    units: Mapping[str, Unit]
    """Of the names that are energy."""
    zone: ZoneInfo | None
    """Of times without an offset."""

    def described(self, name: str) -> str:
        """The column of a name, for people."""
        unit = f", in {self.units[name]}" if name in self.units else ""
        zone = f", {self.zone.key} where no offset is given" if name == "timestamp" and self.zone else ""
        return f"{self.headers[self.places[name]][:40]!r}{unit}{zone}"


@dataclass(slots=True)
class Findings:
    """What was found out while a file was read, for people; bounded whatever the file."""

    tell_left_out: Callable[[str], None]
    """Called with names of columns that are not read, once for each."""
    delimiter: str | None = None
    numbers: Numbers | None = None
    columns: dict[str, str] = field(default_factory=dict)
    """By the contract's name: the column that it was first read from."""
    _left_out: set[str] = field(default_factory=set)

    def add(self, layout: Layout) -> None:
        for name in layout.places:
            self.columns.setdefault(name, layout.described(name))
        read = set(layout.places.values())
        names = [header for place, header in enumerate(layout.headers) if place not in read and header]
        new = [name for name in names if name not in self._left_out]
        if new and len(self._left_out) < NAMES_SHOWN:
            self.tell_left_out(shown(new))
            self._left_out.update(new[:NAMES_SHOWN])


def layout_of(headers: Sequence[str], dialect: Dialect) -> Layout:
    """What each header holds. BadLine where that is not clear, and where it is not enough for a reading."""
    places = {name: place for name, column in dialect.columns.items() if (place := find(column, headers)) is not None}
    units = {name: _unit_said(name, headers[place], dialect) for name, place in places.items()}
    found: dict[str, list[tuple[int, str]]] = {}
    for place, header in enumerate(headers):
        name, unit = meaning(header)
        if name and name not in places and place not in places.values():
            found.setdefault(name, []).append((place, unit))
    for name in ENERGIES & found.keys():
        if _gives_way(name, {*found, *places}, places.keys() & ENERGIES):
            del found[name]
    if "timestamp" not in {*found, *places} and DATE in found:
        found["timestamp"] = found.pop(DATE)
    for name, candidates in found.items():
        own = [each for each in candidates if _key(headers[each[0]]) == name.lower()] or candidates
        if len(own) > 1:
            rivals = shown([headers[place] for place, _ in own])
            raise BadLine(f"each of {rivals} may be {name}: say --columns {name}=COLUMN")
        ((places[name], units[name]),) = own
    _check_enough(headers, places, dialect)
    return Layout(
        headers,
        places,
        {name: _energy_unit(headers[places[name]], units[name], dialect) for name in ENERGIES & places.keys()},
        dialect.zone or (ZoneInfo("UTC") if units.get("timestamp") == "utc" else None),
    )


def contract_name(text: str) -> str | None:
    """The name out of COLUMNS, ENERGY or DATE that a text is in whatever case and spelling; None for others."""
    name = _NAME_OF.get(_key(text))
    return name if name is not None and _key(text) == name.lower() else None


def find(column: str, headers: Sequence[str]) -> int | None:
    """The index of the column of that name, in whatever case, or number; None where there is none."""
    names = [header.casefold() for header in headers]
    if column in headers:
        return headers.index(column)
    if column.casefold() in names:
        return names.index(column.casefold())
    return int(column) - 1 if column.isdecimal() and 0 < int(column[:9]) <= len(headers) else None


def meaning(header: str) -> tuple[str, str]:
    """The contract's name, ENERGY or DATE that a header says, and its unit; empty where it does not."""
    bare, unit = _bracketed(header)
    key = _key(bare)
    candidates = [(key, unit)]
    if not unit:
        candidates += [(key.removesuffix(word), word) for word in _UNIT_WORDS if key.endswith(word)]
        candidates += [(key.removeprefix(word), word) for word in _UNIT_WORDS if key.startswith(word)]
    for rest, said in candidates:
        name = _NAME_OF.get(rest) or (ENERGY if said and not rest else "")
        if name and (not said or said in _UNITS_OF.get(name, ())):
            return name, said
    return "", ""


def _gives_way(name: str, names: set[str], said: set[str]) -> bool:
    """Whether an energy that was found is left out, for one that --columns says or one that says its side."""
    if name == REGISTER:
        return bool(said)
    return bool(said & {ENERGY, REGISTER}) or (name == ENERGY and len(INTERVALS & names) > 1)


def _energy_unit(header: str, unit: str, dialect: Dialect) -> Unit:
    if not unit and dialect.unit is None and _key(header) == _OCPP_REGISTER:
        raise BadLine(f"{header[:40]!r} may be in Wh, as OCPP has it where no unit is given, or in kWh: say --unit")
    return dialect.unit or (Unit.WH if unit == "wh" else Unit.KWH)


def _unit_said(name: str, header: str, dialect: Dialect) -> str:
    """The unit that the header of a column says about which --columns says what it is."""
    unit = _bracketed(header)[1] or re.split(r"[\W_]+", header.lower())[-1]
    if unit in _NO_UNITS_OF_OURS and not (name in ENERGIES and dialect.unit):
        raise BadLine(f"column {header[:40]!r} says a unit in which {name} is not read")
    return unit if unit in _UNITS_OF.get(name, ()) else ""


def _bracketed(header: str) -> tuple[str, str]:
    """`Energy [Wh]` as `Energy` and `wh`; a header without a unit in brackets as it is."""
    if header.endswith(("]", ")")):
        bare, _, unit = header[:-1].rpartition("[" if header.endswith("]") else "(")
        if bare:
            return bare, re.sub("[^a-z%]", "", unit.lower())
    return header, ""


def _check_enough(headers: Sequence[str], places: Mapping[str, int], dialect: Dialect) -> None:
    said = dialect.meter_id or dialect.vehicle_id
    devices = [headers[places[name]] for name in ("meterId", "vehicleId") if name in places]
    if said and devices:
        raise BadLine(f"--meter and --vehicle are for what names no device, and here {devices[0][:40]!r} does")
    missing = [] if "timestamp" in places else ["timestamp"]
    if not said and not devices:
        missing.append("meterId or vehicleId (or else --meter ID or --vehicle ID)")
    if not ENERGIES & places.keys():
        missing.append("kwhConsumedAc or kwhDeliveredDc or registerKwh")
    if missing:
        raise BadLine(
            f"no {', no '.join(missing)} among {shown(headers)}: say --columns NAME=COLUMN,... with the name or the"
            " number of a column"
        )


def shown(names: Sequence[str]) -> str:
    more = f" and {len(names) - NAMES_SHOWN:,} more" if len(names) > NAMES_SHOWN else ""
    return (", ".join(repr(name[:40]) for name in names[:NAMES_SHOWN]) or "nothing") + more


def _key(text: str) -> str:
    return re.sub("[^a-z0-9]", "", text.lower())
