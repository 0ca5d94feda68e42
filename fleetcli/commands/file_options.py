"""Options that say how a file is to be read, where that cannot be found out."""

from typing import Annotated
from zoneinfo import ZoneInfo

import typer

from fleetcli.commands.file_cells import Unit
from fleetcli.commands.file_columns import COLUMNS, DATE, ENERGY, Dialect, contract_name
from shared.device_ids import DEVICE_ID_ACCEPTED, is_device_id
from shared.time_zones import ACCEPTED, time_zone

Delimiter = Annotated[str | None, typer.Option(metavar="CHAR", help="Between the cells of CSV: , ; | or tab.")]
DecimalSign = Annotated[str | None, typer.Option("--decimal", metavar="SIGN", help="The decimal sign: . or ,")]
Columns = Annotated[
    list[str] | None,
    typer.Option(
        metavar="NAME=COLUMN,...",
        help="Where a value is, by the column's name or number, as in timestamp=Zeit,energy=3. Repeatable.",
    ),
]
EnergyUnit = Annotated[
    Unit | None,
    typer.Option("--unit", case_sensitive=False, help="Of energy and registers. Default: as columns say, or kWh."),
]
TimeZone = Annotated[
    str | None, typer.Option(metavar="ZONE", help="Of times without an offset from UTC, such as Europe/Berlin.")
]
OfMeter = Annotated[str | None, typer.Option("--meter", metavar="ID", help="The file is this meter's, and names none.")]
OfVehicle = Annotated[
    str | None, typer.Option("--vehicle", metavar="ID", help="The file is this vehicle's, and names none.")
]

_TABS = ("tab", "\\t", "\t")


def dialect_of(
    delimiter: str | None,
    decimal: str | None,
    columns: list[str],
    unit: Unit | None,
    time_zone: str | None,
    meter_id: str | None,
    vehicle_id: str | None,
) -> Dialect:
    """What the options say; a usage error that names the option for anything that is not understood."""
    if delimiter in _TABS:
        delimiter = "\t"
    if delimiter is not None and delimiter not in (",", ";", "|", "\t"):
        raise typer.BadParameter(f"{delimiter!r} is not one of , ; | tab", param_hint="--delimiter")
    if decimal not in (None, ".", ","):
        raise typer.BadParameter(f"{decimal!r} is neither . nor ,", param_hint="--decimal")
    if meter_id is not None and vehicle_id is not None:
        raise typer.BadParameter("a file that names no device is of one", param_hint="--meter, --vehicle")
    for option, device_id in (("--meter", meter_id), ("--vehicle", vehicle_id)):
        if device_id is not None and not is_device_id(device_id):
            raise typer.BadParameter(f"{device_id!r} is no id: {DEVICE_ID_ACCEPTED}", param_hint=option)
    said: dict[str, str] = {}
    for text in (text for texts in columns for text in texts.split(",")):
        name, column = _column(text)
        if name in said:
            raise typer.BadParameter(f"{name} is said twice", param_hint="--columns")
        said[name] = column
    zone = None if time_zone is None else _zone(time_zone)
    return Dialect(delimiter, decimal, said, unit, zone, meter_id, vehicle_id)


def _column(text: str) -> tuple[str, str]:
    name, _, column = text.partition("=")
    known = contract_name(name)
    if known is None or not column.strip():
        names = ", ".join((*COLUMNS, ENERGY, DATE))
        raise typer.BadParameter(f"{text!r} is not NAME=COLUMN with a name out of {names}", param_hint="--columns")
    return known, column.strip()


def _zone(key: str) -> ZoneInfo:
    zone = time_zone(key)
    if zone is None:
        raise typer.BadParameter(f"{key[:80]!r} is no IANA time zone; accepted: {ACCEPTED}", param_hint="--time-zone")
    return zone
