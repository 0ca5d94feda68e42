"""`energyfleet replay`: recorded telemetry, through the real API."""

import asyncio
import signal
from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Annotated

import typer
from energyfleet.v1.ingestion_service_pb2 import ExchangeTelemetryRequest
from energyfleet.v1.telemetry_pb2 import Telemetry

from fleetcli.client.channel import PLAINTEXT
from fleetcli.client.credentials import Credentials
from fleetcli.client.services import Answer, IngestionClient, Refused, Summary, reason_of
from fleetcli.client.uplink import READINGS_PER_MESSAGE
from fleetcli.commands.command_errors import BadInput, CommandError
from fleetcli.commands.console import complain, note, note_wait, progress_bar, say
from fleetcli.commands.file_check import check
from fleetcli.commands.file_formats import Format
from fleetcli.commands.file_options import (
    Columns,
    DecimalSign,
    Delimiter,
    EnergyUnit,
    OfMeter,
    OfVehicle,
    TimeZone,
    dialect_of,
)
from fleetcli.commands.identity_options import takes_credentials
from fleetcli.commands.options import INGESTION_DEFAULT, Ingestion, moment_us
from fleetcli.commands.recording import Recording, opened
from shared.device_ids import DEVICE_ID_ACCEPTED, is_device_id
from shared.timestamps import iso_from_us, system_clock


@dataclass(slots=True)
class Tally:
    """What became of a file's lines: of those that were sent, and how many could not be."""

    sent: Summary = field(default_factory=Summary)
    bad: int = 0


class Report:
    """Tells which lines the service did not take whole. Knows the lines of the requests that are not resolved yet."""

    def __init__(self, name: str) -> None:
        self.told = 0
        self._name = name
        self._numbers: dict[int, Sequence[int]] = {}

    def expect(self, sequence: int, numbers: Sequence[int]) -> None:
        """From which lines a request's readings came."""
        self._numbers[sequence] = numbers

    def answered(self, answer: Answer) -> None:
        """Tells what an answer lists, and forgets the requests that it resolves."""
        for rejection in answer.summary.rejections:
            self._tell(rejection, f"{rejection.field} {reason_of(rejection.reason)}: {rejection.description}")
        for conflict in answer.summary.conflicts:
            self._tell(
                conflict,
                f"{conflict.device_id} has other values stored for this time, which stay: {_values(conflict.stored)}",
            )
        for omission in answer.summary.omissions:
            self._tell(omission, f"stored without {omission.field}: {omission.description}")
        while self._numbers and (oldest := next(iter(self._numbers))) <= answer.committed_sequence:
            del self._numbers[oldest]

    def _tell(self, refused: Refused, why: str) -> None:
        self.told += 1
        complain(f"{self._name}:{self._numbers[refused.sequence][refused.index]}: {why}")


@takes_credentials
def replay(
    file: Annotated[
        str, typer.Argument(metavar="FILE", help="CSV, JSON, or a day of the archive (.parquet); - for standard input.")
    ],
    ingestion: Ingestion = INGESTION_DEFAULT,
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
        Format | None,
        typer.Option(
            "--format", help="ndjson: a reading a line; json: an array. Default: by the file's name and how it begins."
        ),
    ] = None,
    delimiter: Delimiter = None,
    decimal: DecimalSign = None,
    columns: Columns = None,
    unit: EnergyUnit = None,
    time_zone: TimeZone = None,
    meter: OfMeter = None,
    vehicle: OfVehicle = None,
    check_only: Annotated[
        bool, typer.Option("--check", help="Send nothing; say how the file is read and what is wrong with it.")
    ] = False,
    credentials: Credentials = PLAINTEXT,
) -> None:
    """Send recorded telemetry. Bad lines are reported with their numbers, the others are sent.

    CSV has one reading a row and names its columns in the first line: meterId, vehicleId, timestamp, kwhConsumedAc,
    voltage, kwhDeliveredDc, soc, batteryTemp, registerKwh. A row has the energy of an interval, or what its device's
    register shows. JSON has objects with those names, or in the contract's form, {"meter": {"meterId": ...}} or
    {"vehicle": {"vehicleId": ...}}, one a line or in an array. Other usual names, delimiters and decimal signs are
    found out; what could mean two things is refused until an option says it. What was found out is what --check prints.
    Sending a file twice is safe unless it is moved.

    A day of the archive, a file or a URL that ends in .parquet, is sent as it once was: registers as registers,
    energies before they were doubted or corrected. Corrections are not brought back.

    Memory stays bounded whatever the file's size. With --ending or --map the file is read twice; standard input is kept
    in a temporary file for that.

    Exit code 0 when every reading is stored, or with --check could be sent; 1 when any line was bad, rejected or
    conflicting.
    """
    pairs = [_pair(text) for text in mappings or ()]
    target_us = None if ending is None else moment_us("--ending", ending, system_clock())
    dialect = dialect_of(delimiter, decimal, columns or [], unit, time_zone, meter, vehicle)
    read_twice = not check_only and (bool(pairs) or target_us is not None)
    with opened(file, form, dialect, read_twice) as recording:
        if check_only:
            check(recording)
            return
        if read_twice:
            recording.survey()
        if target_us is not None and recording.newest_us is not None:
            recording.move_by_us = target_us - recording.newest_us
        tally = asyncio.run(_replay(ingestion, credentials, recording, pairs))
    sent, refused = tally.sent, tally.bad + tally.sent.rejected + tally.sent.conflicting
    if not sent.received and not tally.bad:
        raise BadInput(f"{recording.name}: no readings")
    moved = f", the newest one moved to {iso_from_us(target_us)}" if target_us is not None else ""
    say(
        f"{recording.name}: {sent.received:,} readings sent{moved}: {sent.stored:,} stored,"
        f" {sent.duplicate:,} duplicate, {sent.conflicting:,} conflicting, {sent.rejected:,} rejected;"
        f" {tally.bad:,} bad lines; {sent.omitted_values:,} optional values left out."
    )
    if refused:
        raise CommandError(f"{refused:,} of {sent.received + tally.bad:,} lines were not taken")


def _values(reading: Telemetry) -> str:
    """`kwh_consumed_ac 1.5, voltage 230.0`, exactly, without device and timestamp."""
    side = reading.meter if reading.HasField("meter") else reading.vehicle
    return ", ".join(f"{field.name} {value!r}" for field, value in side.ListFields() if isinstance(value, float))


def _pair(text: str) -> tuple[str, str]:
    """The ids on both sides of the one = that has an id on each side."""
    parts = text.split("=")
    splits = [("=".join(parts[:at]), "=".join(parts[at:])) for at in range(1, len(parts))]
    pairs = [pair for pair in splits if all(map(is_device_id, pair))]
    if not pairs:
        raise typer.BadParameter(f"{text!r} is not VEHICLE=METER; an id is {DEVICE_ID_ACCEPTED}", param_hint="--map")
    if len(pairs) > 1:
        why = "several = could divide it; map the two with `energyfleet map` first"
        raise typer.BadParameter(f"{text!r} is not clear: {why}", param_hint="--map")
    return pairs[0]


async def _replay(address: str, credentials: Credentials, recording: Recording, pairs: list[tuple[str, str]]) -> Tally:
    # asyncio would only note a Ctrl-C, and the next read from a terminal or a pipe would wait for a line nevertheless.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    tally = Tally()
    async with IngestionClient(address, credentials) as client:
        for vehicle_id, meter_id in pairs:
            await _map(client, recording, vehicle_id, meter_id)
        report = Report(recording.name)
        with progress_bar() as progress:
            task = progress.add_task("readings", total=None)
            async with client.uplink(report.answered, note_wait) as uplink:
                for request, numbers in _requests(recording, tally):
                    report.expect(await uplink.send(request), numbers)
                    progress.advance(task, len(numbers))
    tally.sent = uplink.totals
    untold = tally.sent.rejected + tally.sent.conflicting + tally.sent.omitted_values - report.told
    if untold:
        complain(f"{recording.name}: and {untold:,} more")
    return tally


async def _map(client: IngestionClient, recording: Recording, vehicle_id: str, meter_id: str) -> None:
    if recording.oldest_us is None:
        raise BadInput(f"{recording.name}: no reading has a timestamp, so there is no instant to map from")
    from_us = recording.oldest_us + recording.move_by_us - 1  # exclusive, and the oldest reading shall count
    await client.map_vehicle(vehicle_id, meter_id, from_us)
    note(f"{meter_id} feeds {vehicle_id} from {iso_from_us(from_us)}")


def _requests(recording: Recording, tally: Tally) -> Iterator[tuple[ExchangeTelemetryRequest, Sequence[int]]]:
    """The requests, each with the numbers of its lines; reports and counts bad lines as it meets them."""
    readings: list[Telemetry] = []
    numbers = array("Q")
    for line in recording.lines():
        if line.reading is None:
            tally.bad += 1
            complain(f"{recording.name}:{line.number}: {line.problem}")
            continue
        readings.append(line.reading)
        numbers.append(line.number)
        if len(readings) == READINGS_PER_MESSAGE:
            yield ExchangeTelemetryRequest(readings=readings), numbers
            readings, numbers = [], array("Q")
    if readings:
        yield ExchangeTelemetryRequest(readings=readings), numbers
