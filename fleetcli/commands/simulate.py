"""`energyfleet simulate`: a fleet over a span of time, through the real API."""

import asyncio
import random
from typing import Annotated, Any

import typer

from fleetcli.client.channel import PLAINTEXT
from fleetcli.client.credentials import Credentials
from fleetcli.client.services import IngestionClient, Summary, reason_of
from fleetcli.commands.command_errors import CommandError
from fleetcli.commands.console import complain, note, note_wait, progress_bar, say
from fleetcli.commands.identity_options import takes_credentials
from fleetcli.commands.options import HOURS_MAX, INGESTION_DEFAULT, Ingestion, moment_us, window_start_us
from fleetcli.simulation.sending import Outcome, send_fleet
from fleetcli.simulation.simulator import Faults, Fleet, FleetPlan
from shared.timestamps import iso_from_us, system_clock

SEEDS = 1_000_000
"""Seeds that are drawn where none is given: short enough to be typed again."""

REJECTIONS_SHOWN = 10
"""A simulated fleet has no reason to be refused; ten lines show any pattern."""

_FAULTS = Faults()

Chargers = Annotated[int, typer.Option(min=1, max=100_000, help="Charging points, each with a meter and a vehicle.")]
Hours = Annotated[float, typer.Option(min=0.01, max=HOURS_MAX, help="How long a span to simulate.")]
Every = Annotated[int, typer.Option(min=1, max=3_600, metavar="SECONDS", help="Time between two readings of a device.")]


def _share(meaning: str) -> Any:
    return typer.Option(min=0, max=1, metavar="SHARE", help=meaning)


@takes_credentials
def simulate(
    ingestion: Ingestion = INGESTION_DEFAULT,
    chargers: Chargers = 50,
    hours: Hours = 24,
    ending: Annotated[str, typer.Option(metavar="now|TIME", help="When the span ends: RFC 3339.")] = "now",
    every: Every = 60,
    seed: Annotated[int | None, typer.Option(min=0, help="Repeats a simulation. Default: drawn, and printed.")] = None,
    worn: Annotated[float, _share("Chargers so worn that the ratio falls below 0.85.")] = _FAULTS.worn,
    silent: Annotated[float, _share("Meters that stop reporting.")] = _FAULTS.silent,
    moved: Annotated[float, _share("Vehicles that change to another meter.")] = _FAULTS.moved,
    uneven: Annotated[float, _share("Chargers whose two sides report at different intervals.")] = _FAULTS.uneven,
    late: Annotated[float, _share("Bursts of readings that arrive up to 4 hours late.")] = _FAULTS.late,
    repeated: Annotated[float, _share("Bursts of readings that arrive twice.")] = _FAULTS.repeated,
    v2g: Annotated[float, _share("Vehicles that give some of their charge back to the grid.")] = _FAULTS.v2g,
    by_phase: Annotated[float, _share("Chargers with a meter for each phase.")] = _FAULTS.by_phase,
    register: Annotated[float, _share("Meters that send their register.")] = _FAULTS.register,
    sentinel: Annotated[float, _share("Vehicles with a broken temperature sensor.")] = _FAULTS.sentinel,
    glitch: Annotated[float, _share("Meters with a glitch that gets corrected.")] = _FAULTS.glitch,
    wearing: Annotated[float, _share("Chargers that wear slowly, with a month of history before.")] = _FAULTS.wearing,
    credentials: Credentials = PLAINTEXT,
) -> None:
    """Simulate a fleet of chargers, some of them broken on purpose, and send what its devices report.

    The seed is part of every device's id (ev-SEED-00001, meter-SEED-00001). A share above 0 means at least one charger.
    """
    if seed is None:
        seed = random.SystemRandom().randrange(SEEDS)
    end_us = moment_us("--ending", ending, system_clock())
    faults = Faults(worn, silent, moved, uneven, late, repeated, v2g, by_phase, register, sentinel, glitch, wearing)
    fleet = Fleet(FleetPlan(chargers, window_start_us(end_us, hours), end_us, every, seed, faults))
    say(f"{chargers:,} chargers, a reading every {every} s, {hours:g} hours up to {iso_from_us(end_us)}, seed {seed}")
    say(f"Broken on purpose: {fleet.faults}")
    outcome = asyncio.run(send(ingestion, credentials, fleet))
    summary = outcome.summary
    say(
        f"{summary.received:,} readings in {outcome.elapsed_s:.1f} s, {outcome.readings_per_s:,.0f}/s:"
        f" {summary.stored:,} stored, {summary.duplicate:,} duplicate, {summary.conflicting:,} conflicting,"
        f" {summary.rejected:,} rejected. {fleet.sent.repeated:,} were sent twice, {fleet.sent.late:,} late."
    )
    broken = [truth for truth in fleet.truth if not truth.story.startswith("healthy")]
    for truth in broken[:5] or fleet.truth[:1]:
        note(f"  energyfleet performance {truth.vehicle_id}   # {truth.story}")
    if summary.rejected or summary.conflicting:
        complain_of_refused(summary)
        raise CommandError(f"{summary.rejected + summary.conflicting:,} readings were not taken")


async def send(address: str, credentials: Credentials, fleet: Fleet) -> Outcome:
    """Sends a fleet, with a progress bar on a terminal. Raises ClientError."""
    async with IngestionClient(address, credentials) as client:
        with progress_bar() as progress:
            mappings = progress.add_task("mappings", total=len(fleet.mappings))
            readings = progress.add_task("readings", total=fleet.readings_expected)
            return await send_fleet(
                client,
                fleet,
                on_mapped=lambda: progress.advance(mappings),
                on_committed=lambda committed: progress.advance(readings, committed),
                on_wait=note_wait,
            )


def complain_of_refused(summary: Summary) -> None:
    """Prints the first readings that were rejected or conflicting."""
    for rejection in summary.rejections[:REJECTIONS_SHOWN]:
        complain(f"rejected: {rejection.field} {reason_of(rejection.reason)}: {rejection.description}")
    for conflict in summary.conflicts[:REJECTIONS_SHOWN]:
        complain(f"conflicting: {conflict.device_id} at {conflict.timestamp.ToJsonString()} has other values already")
