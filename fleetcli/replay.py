"""`energyfleet replay`: recorded telemetry, through the real API."""

import signal
import sys
import tempfile
from array import array
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from io import BufferedReader
from pathlib import Path
from shutil import copyfileobj
from typing import IO, Annotated, BinaryIO, cast

import typer

from fleetcli.client import IngestionClient, StreamRequest, Summary, reason_of
from fleetcli.console import complain, note, progress_bar, say
from fleetcli.errors import BadInput, CommandError
from fleetcli.messages import READINGS_PER_MESSAGE, request_of
from fleetcli.options import INGESTION_DEFAULT, Ca, Ingestion, moment_us, run
from fleetcli.readings_file import Format, Line, format_of, move, read_lines, time_us
from shared.device_ids import DEVICE_ID_ACCEPTED, is_device_id
from shared.timestamps import iso_from_us, system_clock

READINGS_PER_STREAM = 50_000
"""After so many the service is asked what became of them: it lists at most 100 rejections an answer."""

_SNIFFED_BYTES = 512


@dataclass(slots=True)
class Tally:
    """What became of a file's lines."""

    sent: int = 0
    stored: int = 0
    duplicate: int = 0
    conflicting: int = 0
    rejected: int = 0
    bad: int = 0

    @property
    def refused(self) -> int:
        """Lines whose reading is not stored."""
        return self.bad + self.rejected + self.conflicting

    def add(self, summary: Summary) -> None:
        """Counts a stream's answer."""
        self.sent += summary.received
        self.stored += summary.stored
        self.duplicate += summary.duplicate
        self.conflicting += summary.conflicting
        self.rejected += summary.rejected


@dataclass(slots=True)
class Recording:
    """A source of lines that can be read from its beginning more than once, if it is a file."""

    name: str
    source: BinaryIO
    form: Format
    oldest_us: int | None = None
    newest_us: int | None = None
    move_by_us: int = 0

    def survey(self) -> None:
        """Reads through it for its oldest and newest reading, and goes back to its beginning."""
        for line in self._parsed():
            us = time_us(line.reading) if line.reading is not None else None
            if us is not None:
                self.oldest_us = us if self.oldest_us is None else min(us, self.oldest_us)
                self.newest_us = us if self.newest_us is None else max(us, self.newest_us)
        self.source.seek(0)

    def lines(self) -> Iterator[Line]:
        """Its lines, with their readings moved in time."""
        for line in self._parsed():
            if line.reading is not None and self.move_by_us:
                move(line.reading, self.move_by_us)
            yield line

    def _parsed(self) -> Iterator[Line]:
        try:
            yield from read_lines(self.source, self.form)
        except BadInput as why:
            raise BadInput(f"{self.name}: {why}") from None


@dataclass(slots=True)
class Part:
    """What goes out over one stream, and from which lines it came."""

    numbers: "array[int]" = field(default_factory=lambda: array("Q"))
    bad: int = 0
    complete: bool = False
    """No line is left."""


def replay(
    file: Annotated[str, typer.Argument(metavar="FILE", help="CSV or newline-delimited JSON; - for standard input.")],
    ingestion: Ingestion = INGESTION_DEFAULT,
    ca: Ca = None,
    ending: Annotated[
        str | None,
        typer.Option(
            metavar="now|TIME", help="Move all readings in time so that the newest one is at this (RFC 3339)."
        ),
    ] = None,
    mappings: Annotated[
        list[str] | None,
        typer.Option(
            "--map", metavar="VEHICLE=METER", help="Register first that the meter feeds the vehicle. Repeatable."
        ),
    ] = None,
    form: Annotated[
        Format | None, typer.Option("--format", help="Default: by the file's name, or by how it begins.")
    ] = None,
) -> None:
    """Send recorded telemetry. Bad lines are reported with their numbers, the others are sent.

    CSV has one reading a row and names its columns in the first line, out of meterId, vehicleId, timestamp,
    kwhConsumedAc, voltage, kwhDeliveredDc, soc, batteryTemp. JSON has the contract's form,
    {"meter": {"meterId": ...}} or {"vehicle": {"vehicleId": ...}}. Sending a file twice is safe unless it is moved.

    Memory stays bounded whatever the file's size. With --ending or --map the file is read twice; standard input is kept
    in a temporary file for that.

    Exit code 0 when every reading is stored, 1 when any line was bad, rejected or conflicting.
    """
    pairs = [_pair(text) for text in mappings or ()]
    target_us = None if ending is None else moment_us("--ending", ending, system_clock())
    read_twice = bool(pairs) or target_us is not None
    with _recording(file, form, read_twice) as recording:
        if read_twice:
            recording.survey()
        if target_us is not None and recording.newest_us is not None:
            recording.move_by_us = target_us - recording.newest_us
        tally = run(_replay(ingestion, ca, recording, pairs))
    if not tally.sent and not tally.bad:
        raise BadInput(f"{recording.name}: no readings")
    moved = f", the newest one moved to {iso_from_us(target_us)}" if target_us is not None else ""
    say(
        f"{recording.name}: {tally.sent:,} readings sent{moved}: {tally.stored:,} stored,"
        f" {tally.duplicate:,} duplicate, {tally.conflicting:,} conflicting, {tally.rejected:,} rejected;"
        f" {tally.bad:,} bad lines."
    )
    if tally.refused:
        raise CommandError(f"{tally.refused:,} of {tally.sent + tally.bad:,} lines were not taken")


def _pair(text: str) -> tuple[str, str]:
    vehicle_id, _, meter_id = text.partition("=")
    if not is_device_id(vehicle_id) or not is_device_id(meter_id):
        raise typer.BadParameter(f"{text!r} is not VEHICLE=METER; an id is {DEVICE_ID_ACCEPTED}", param_hint="--map")
    return vehicle_id, meter_id


@contextmanager
def _recording(file: str, form: Format | None, read_twice: bool) -> Iterator[Recording]:
    """The recording behind a name, its format found out. BadInput where it cannot be opened."""
    if file == "-" and not read_twice:
        yield _recognised("standard input", form, sys.stdin.buffer)
    elif file == "-":
        with tempfile.TemporaryFile(prefix="energyfleet-replay-") as kept:
            copyfileobj(sys.stdin.buffer, kept)
            kept.seek(0)
            yield _recognised("standard input", form, kept)
    else:
        with _open(file) as source:
            yield _recognised(file, form, source)


def _open(file: str) -> BinaryIO:
    try:
        return Path(file).open("rb")
    except OSError as error:
        raise BadInput(f"{file}: {error.strerror}") from None


def _recognised(name: str, form: Format | None, source: IO[bytes]) -> Recording:
    buffered = cast(BufferedReader, source)  # what open() and the standard streams give
    return Recording(name, buffered, form or format_of(Path(name).suffix, buffered.peek(_SNIFFED_BYTES)))


async def _replay(address: str, ca: Path | None, recording: Recording, pairs: list[tuple[str, str]]) -> Tally:
    # asyncio would only note a Ctrl-C, and the next read from a terminal or a pipe would wait for a line nevertheless.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    tally = Tally()
    async with IngestionClient(address, ca) as client:
        for vehicle_id, meter_id in pairs:
            await _map(client, recording, vehicle_id, meter_id)
        with progress_bar() as progress:
            task = progress.add_task("readings", total=None)
            lines = recording.lines()
            part = Part()
            while not part.complete:
                part = Part()
                summary = await client.stream(
                    _requests(recording.name, lines, part), lambda sent: progress.advance(task, sent)
                )
                tally.add(summary)
                tally.bad += part.bad
                _report(recording.name, part, summary)
    return tally


async def _map(client: IngestionClient, recording: Recording, vehicle_id: str, meter_id: str) -> None:
    if recording.oldest_us is None:
        raise BadInput(f"{recording.name}: no reading has a timestamp, so there is no instant to map from")
    from_us = recording.oldest_us + recording.move_by_us - 1  # exclusive, and the oldest reading shall count
    await client.map_vehicle(vehicle_id, meter_id, from_us)
    note(f"{meter_id} feeds {vehicle_id} from {iso_from_us(from_us)}")


def _requests(name: str, lines: Iterator[Line], part: Part) -> Iterator[StreamRequest]:
    """The messages of one stream; reports bad lines as it meets them."""
    readings = []
    for line in lines:
        if line.reading is None:
            part.bad += 1
            complain(f"{name}:{line.number}: {line.problem}")
            continue
        part.numbers.append(line.number)
        readings.append(line.reading)
        if len(readings) == READINGS_PER_MESSAGE:
            yield request_of(readings)
            readings = []
        if len(part.numbers) == READINGS_PER_STREAM:
            break
    else:
        part.complete = True
    if readings:
        yield request_of(readings)


def _report(name: str, part: Part, summary: Summary) -> None:
    """Tells which lines the service did not take."""
    for rejection in summary.rejections:
        number = part.numbers[rejection.index]
        complain(f"{name}:{number}: {rejection.field} {reason_of(rejection.reason)}: {rejection.description}")
    for conflict in summary.conflicts:
        number = part.numbers[conflict.index]
        complain(f"{name}:{number}: {conflict.device_id} has other values stored for this timestamp; they stay")
    untold = summary.rejected - len(summary.rejections) + summary.conflicting - len(summary.conflicts)
    if untold:
        complain(f"{name}: and {untold:,} more")
