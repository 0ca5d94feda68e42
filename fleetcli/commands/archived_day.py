"""A day of the archive, as Parquet, made readings again as they were sent."""

import asyncio
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from energyfleet.v1.telemetry_pb2 import MeterReading, Telemetry, VehicleReading

from fleetcli.commands.command_errors import BadInput
from fleetcli.commands.readings_file import Line
from shared.archive.archive_errors import ArchiveError
from shared.archive.archive_extra import require_extra
from shared.archive.archive_url import ArchiveUrl, archive_url
from shared.db.device_kind import METER, REGISTER
from shared.timestamps import set_us

if TYPE_CHECKING:
    import pyarrow as pa

SUFFIX = ".parquet"

CORRECTED = "corrected"
"""The `counting` of a reading whose energy an operator has replaced."""

FETCH_TIMEOUT_S = 600.0
"""For a file of an object store."""


def is_archived_day(file: str) -> bool:
    """Whether a file's name, or its URL, says that it is one."""
    return file.partition("?")[0].lower().endswith(SUFFIX)


@contextmanager
def local_day(file: str) -> Iterator[Path]:
    """The file itself, or a copy of an object store's, to be read more than once. BadInput where there is none."""
    try:
        require_extra()
        url = archive_url(file)
    except ArchiveError as error:
        raise BadInput(str(error)) from None
    if url.is_directory:
        if not Path(url.path).is_file():
            raise BadInput(f"{file}: no such file")
        yield Path(url.path)
        return
    with tempfile.TemporaryDirectory(prefix="energyfleet-replay-") as directory:
        local = Path(directory) / "day.parquet"
        _fetch(url, local)
        yield local


def _fetch(url: ArchiveUrl, local: Path) -> None:
    from shared.archive.day_store import DayStore

    folder, _, name = url.path.rpartition("/")
    try:
        store = DayStore(ArchiveUrl(url.scheme, folder, url.query), FETCH_TIMEOUT_S)
        fetched = asyncio.run(store.fetch(name, local))
    except ArchiveError as error:
        raise BadInput(str(error)) from None
    if fetched is None:
        raise BadInput(f"{url}: no such file")


def lines_of(file: Path, on_corrected: Callable[[int], None]) -> Iterator[Line]:
    """A day's readings as they were sent, by their numbers in the file, in bounded memory; at its end, how many of them
    were corrected, if some were. BadInput where it is no day of the archive, or not whole."""
    from shared.archive.day_file import kind_of, tables_of

    try:
        kind, _ = kind_of(file)
        side = _Side(kind.name, kind.energy, [*kind.optional], MeterReading if kind is METER else VehicleReading)
        number = corrected = 0
        for table in tables_of(file):
            corrected += table["counting"].to_pylist().count(CORRECTED)
            for reading in _readings(table, side):
                number += 1
                yield Line(number, reading)
        if corrected:
            on_corrected(corrected)
    except ArchiveError as error:
        raise BadInput(str(error)) from None


class _Side(NamedTuple):
    name: str
    energy: str
    optional: list[str]
    message: Callable[..., Any]


def _readings(table: "pa.Table", side: _Side) -> Iterator[Telemetry]:
    """A register as a register, an energy as it was sent: what counts of either is found out anew."""
    import pyarrow as pa

    ids, times = table[f"{side.name}_id"].to_pylist(), table["ts"].cast(pa.int64()).to_pylist()
    counted, sent, registers = (table[name].to_pylist() for name in (side.energy, "sent_kwh", REGISTER))
    optional = [table[name].to_pylist() for name in side.optional]
    for at, device_id in enumerate(ids):
        values = {name: column[at] for name, column in zip(side.optional, optional, strict=True)}
        if registers[at] is not None:
            values[REGISTER] = registers[at]
        else:
            values[side.energy] = counted[at] if sent[at] is None else sent[at]
        reading = side.message(**{f"{side.name}_id": device_id}, **values)
        set_us(reading.timestamp, times[at])
        yield Telemetry(**{side.name: reading})
