"""`energyfleet demo`: the whole path on this machine, held against what was simulated."""

import asyncio
import os
import tempfile
from collections.abc import Sequence
from math import inf
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table
from rich.text import Text

from fleetcli.client.channel import PLAINTEXT
from fleetcli.client.errors import ClientError
from fleetcli.client.services import AnalyticsClient, finding_of, verdict_of
from fleetcli.commands.command_errors import CommandError
from fleetcli.commands.console import compared, complain, measured, note, out, say, verdict_text
from fleetcli.commands.options import window_start_us
from fleetcli.commands.signals import INTERRUPTED, run_until_asked_to_stop
from fleetcli.commands.simulate import Chargers, Every, Hours, complain_of_refused, send
from fleetcli.commands.stack import Stack, running
from fleetcli.simulation.charger import PHASES
from fleetcli.simulation.check import Checked, check_fleet
from fleetcli.simulation.sending import unexpected
from fleetcli.simulation.simulator import Fleet, FleetPlan
from shared.config import Settings
from shared.timestamps import iso_from_us, system_clock

WORST_SHOWN = 10
PARTLY_SHOWN = 5
PARTLY_BELOW = 0.9
"""Share compared of a vehicle that is worth a look."""
GIVING_BACK_SHOWN = 3
BY_PHASE_SHOWN = 2
DROPPED_SHOWN = 3
DIFFERENCES_SHOWN = 20
LOG_LINES_SHOWN = 20


def demo(
    chargers: Chargers = 200,
    hours: Hours = 24,
    every: Every = 60,
    seed: Annotated[int, typer.Option(min=0, help="Which fleet.")] = 1,
) -> None:
    """Show everything: start it on free ports, stream a simulated day, compare every vehicle with the truth, stop.

    Works in a temporary directory and takes no ENERGYFLEET_* variable into account. Exit code 1 on any difference.
    """
    if asyncio.run(run_until_asked_to_stop(_demo(chargers, hours, every, seed))):
        note("Stopped; nothing is left behind.")
        raise SystemExit(INTERRUPTED)


async def _demo(chargers: int, hours: float, every: int, seed: int) -> None:
    with tempfile.TemporaryDirectory(prefix="energyfleet-demo-") as directory:
        log_file = Path(directory) / "services.log"
        settings = Settings.model_construct(database_url=None, data_dir=Path(directory) / "data", log_level="WARNING")
        environment = {name: value for name, value in os.environ.items() if not name.startswith("ENERGYFLEET_")} | {
            "ENERGYFLEET_INGESTION_ADDRESS": "127.0.0.1:0",
            "ENERGYFLEET_ANALYTICS_ADDRESS": "127.0.0.1:0",
            "ENERGYFLEET_LOG_LEVEL": "WARNING",
        }
        try:
            with log_file.open("wb") as log:
                note("Starting PostgreSQL and both services ...")
                async with running(settings, environment, log) as stack:
                    end_us = system_clock()
                    plan = FleetPlan(chargers, window_start_us(end_us, hours), end_us, every, seed)
                    await _stream_and_check(stack, Fleet(plan))
        except (ClientError, CommandError):
            for line in log_file.read_text(errors="replace").splitlines()[-LOG_LINES_SHOWN:]:
                note(line)
            raise


async def _stream_and_check(stack: Stack, fleet: Fleet) -> None:
    plan = fleet.plan
    say(
        f"{plan.chargers:,} chargers, a reading every {plan.every_s} s, {iso_from_us(plan.start_us)} to"
        f" {iso_from_us(plan.end_us)}, seed {plan.seed}"
    )
    say(f"Broken on purpose: {fleet.faults}")
    outcome = await send(stack.ingestion_address, PLAINTEXT, fleet)
    summary = outcome.summary
    say(
        f"{summary.received:,} readings committed in {outcome.elapsed_s:.1f} s: {outcome.readings_per_s:,.0f} a second."
        f" {summary.duplicate:,} came twice and were counted once, {fleet.sent.late:,} came late."
    )
    async with AnalyticsClient(stack.analytics_address) as analytics:
        checked = await check_fleet(analytics, fleet.truth, plan.start_us, plan.end_us)
    out.print(_table(checked))
    wrong = unexpected(fleet, summary)
    differing = [each for each in checked if each.differences]
    complain_of_refused(summary)
    for phrase in wrong:
        complain(f"ingestion: {phrase}")
    for each in differing[:DIFFERENCES_SHOWN]:
        complain(f"{each.truth.vehicle_id} ({each.truth.story}): {'; '.join(each.differences)}")
    if wrong or differing:
        raise CommandError(
            f"The services and the simulator differ: {len(differing):,} of {len(checked):,} vehicles,"
            f" {len(wrong)} of the stream's counts."
        )
    say(
        f"All {len(checked):,} vehicles are as simulated: energy, ratio and temperature within 1e-9, counts exactly,"
        " verdicts as they have to be.",
        "green",
    )


def _table(checked: Sequence[Checked]) -> Table:
    """The worst vehicles, the lowest ratio first, then some that dropped below what is normal for them, some that are
    compared in part or not at all, some that gave back, and some with three meters."""
    judged = [each for each in checked if verdict_of(each.answer) in ("LOW_EFFICIENCY", "IMPLAUSIBLE", "OK")]
    judged.sort(key=_ratio_or_last)
    giving_back = [each for each in checked if each.answer.kwh_returned_ac]
    by_phase = [each for each in checked if each.answer.evidence.mapping_count == len(PHASES)]
    dropped = [each for each in checked if any(finding_of(its) == "RATIO_DROPPED" for its in each.answer.findings)]
    others = [each for each in checked if each not in judged[:WORST_SHOWN]]
    partly = [each for each in others if each not in judged or each.answer.coverage < PARTLY_BELOW]
    table = Table(title=f"The worst of {len(checked):,} vehicles", title_justify="left")
    for name in ("vehicle", "DC kWh", "AC kWh", "ratio"):
        table.add_column(name, justify="left" if name == "vehicle" else "right")
    for name in ("verdict", "what was simulated", "agrees"):
        table.add_column(name)
    unusual = (partly[:PARTLY_SHOWN], giving_back[:GIVING_BACK_SHOWN], by_phase[:BY_PHASE_SHOWN])
    for rows in (judged[:WORST_SHOWN], dropped[:DROPPED_SHOWN], *unusual):
        for each in rows:
            table.add_row(*_row(each))
        table.add_section()
    return table


def _ratio_or_last(checked: Checked) -> float:
    """As the fleet's list has them: vehicles of which nothing is compared come last."""
    answer = checked.answer
    return answer.comparison.efficiency_ratio if answer.HasField("comparison") else inf


def _row(checked: Checked) -> tuple[str | Text, ...]:
    answer = checked.answer
    dropped = f", {answer.ratio_change * 100:+.1f} points" if answer.HasField("ratio_change") else ""
    returned = f", {answer.kwh_returned_ac:,.0f} kWh back" if answer.kwh_returned_ac else ""
    return (
        answer.vehicle_id,
        measured(answer, "kwh_delivered_dc", "{:,.3f}"),
        measured(answer, "kwh_consumed_ac", "{:,.3f}"),
        compared(answer, "efficiency_ratio", "{:.4f}"),
        verdict_text(verdict_of(answer)),
        checked.truth.story + returned + dropped,
        Text("no", "bold red") if checked.differences else Text("yes", "green"),
    )
