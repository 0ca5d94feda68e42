"""`energyfleet performance`, `status` and `health`: questions and how their answers look."""

import asyncio
import json
from collections.abc import Sequence
from functools import partial
from math import isinf
from typing import Annotated, Any

import typer
from energyfleet.v1.analytics_service_pb2 import Comparison
from google.protobuf.json_format import MessageToDict
from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp
from rich.table import Table
from rich.text import Text

from fleetcli.client.channel import PLAINTEXT, is_serving
from fleetcli.client.credentials import Credentials
from fleetcli.client.services import (
    AnalyticsClient,
    MeterStatus,
    Performance,
    VehicleStatus,
    finding_of,
    freshness_of,
    reason_of,
    verdict_of,
)
from fleetcli.commands.command_errors import CommandError
from fleetcli.commands.console import age_text, facts_table, measured, out, say, verdict_text, warn_similar
from fleetcli.commands.identity_options import takes_credentials
from fleetcli.commands.options import (
    ANALYTICS_DEFAULT,
    Analytics,
    AsJson,
    Ending,
    Vehicle,
    ask,
    checked_address,
    hours_option,
    window_us,
)

WINDOW_HOURS = 24.0

_STRETCHES_SHOWN = 5
"""The last ones; JSON has up to 100."""

# What a reading measures: a name for people, the field, and how it looks.
_OF_VEHICLE = (
    ("delivered (DC)", "kwh_delivered_dc", "{:,.4f} kWh"),
    ("state of charge", "soc", "{:.1f} %"),
    ("battery", "battery_temp", "{:.1f} °C"),
)
_OF_METER = (("drawn (AC)", "kwh_consumed_ac", "{:,.4f} kWh"), ("voltage", "voltage", "{:.1f} V"))


@takes_credentials
def performance(
    vehicle: Vehicle,
    analytics: Analytics = ANALYTICS_DEFAULT,
    hours: Annotated[float | None, hours_option("Length of the window. Default: 24.")] = None,
    ending: Ending = None,
    as_json: AsJson = False,
    credentials: Credentials = PLAINTEXT,
) -> None:
    """How efficiently a vehicle charged: over the last 24 hours, or any window."""
    start_us, end_us = window_us(hours, ending, WINDOW_HOURS)
    answer = ask(AnalyticsClient, analytics, credentials, lambda client: client.performance(vehicle, start_us, end_us))
    warn_similar("vehicle", vehicle, answer.evidence.similar_vehicle_ids)
    if as_json:
        typer.echo(json.dumps(_plain(answer), indent=2))
    else:
        _show_performance(answer)


@takes_credentials
def status(
    device: Annotated[
        str, typer.Argument(metavar="DEVICE", help="The id of a vehicle or a meter; after -- where it begins with -.")
    ],
    analytics: Analytics = ANALYTICS_DEFAULT,
    as_json: AsJson = False,
    credentials: Credentials = PLAINTEXT,
) -> None:
    """What a vehicle or a meter reported last."""
    vehicle, meter, (similar_vehicles, similar_meters) = ask(
        AnalyticsClient, analytics, credentials, partial(_status, device)
    )
    warn_similar("vehicle", device, similar_vehicles)
    warn_similar("meter", device, similar_meters)
    if vehicle is None and meter is None:
        raise CommandError(f"{device} is unknown, neither a vehicle nor a meter")
    if as_json:
        found = {"vehicle": vehicle, "meter": meter}
        typer.echo(json.dumps({kind: _plain(each) for kind, each in found.items() if each is not None}, indent=2))
        return
    if vehicle is not None:
        _show_status("vehicle", device, vehicle, _OF_VEHICLE)
    if meter is not None:
        _show_status("meter", device, meter, _OF_METER)


@takes_credentials
def health(
    address: Annotated[str, typer.Argument(metavar="HOST:PORT", callback=checked_address)],
    service: Annotated[str, typer.Option(help="A service's name. Default: the whole server.")] = "",
    credentials: Credentials = PLAINTEXT,
) -> None:
    """Whether a service is serving: exit code 0 if so, 1 if not."""
    serving, state = asyncio.run(is_serving(address, credentials, service))
    if not serving:
        raise CommandError(f"{address} is {state}")
    say(f"{address} is {state}")


async def _status(
    device_id: str, client: AnalyticsClient
) -> tuple[VehicleStatus | None, MeterStatus | None, tuple[list[str], list[str]]]:
    """The status of each kind of device with that id, and the similar ids of each."""
    statuses = await client.vehicle_status(device_id), await client.meter_status(device_id)
    return *statuses, await client.similar_ids(device_id, device_id)


def _plain(answer: Message) -> dict[str, Any]:
    """The contract's JSON form; what is absent is absent, what is 0 or empty is there."""
    return MessageToDict(answer, always_print_fields_with_no_presence=True)


def _show_performance(answer: Performance) -> None:
    table = facts_table(answer.vehicle_id)
    start, end = (_clock(moment) for moment in (answer.window.start, answer.window.end))
    table.add_row("window", f"{start} to {end}")
    table.add_row("verdict", verdict_text(verdict_of(answer)))
    table.add_row("because", Text(answer.verdict_reason))
    if answer.alert:
        table.add_row("alert", Text(answer.alert, "bold red"))
    _add_comparison(table, answer)
    for finding in answer.findings:
        since = f" Since {_clock(finding.since)}." if finding.HasField("since") else ""
        table.add_row("finding", Text(f"{finding_of(finding)}: {finding.text}{since}"))
    table.add_section()
    table.add_row("delivered (DC), in all", measured(answer, "kwh_delivered_dc", "{:,.4f} kWh"))
    if answer.kwh_delivered_dc_unmapped:
        table.add_row("while unmapped (DC)", measured(answer, "kwh_delivered_dc_unmapped", "{:,.4f} kWh"))
    table.add_row("drawn (AC), in all", measured(answer, "kwh_consumed_ac", "{:,.4f} kWh"))
    if answer.kwh_consumed_ac_idle:
        table.add_row("at standby (AC)", measured(answer, "kwh_consumed_ac_idle", "{:,.4f} kWh"))
    if answer.kwh_returned_dc or answer.kwh_returned_ac:
        table.add_row("returned (DC)", measured(answer, "kwh_returned_dc", "{:,.4f} kWh"))
        table.add_row("returned (AC)", measured(answer, "kwh_returned_ac", "{:,.4f} kWh"))
    table.add_row("DC / AC, in all", measured(answer, "efficiency_ratio", "{:.4f}"))
    table.add_row("battery, on average", measured(answer, "average_battery_temp", "{:.1f} °C"))
    table.add_row("readings", f"{answer.vehicle_readings:,} of the vehicle, {answer.meter_readings:,} of its meters")
    for side, quality in (("vehicle", answer.evidence.vehicle_quality), ("meters", answer.evidence.meter_quality)):
        for counted in quality.ListFields():
            table.add_row(f"{side}: {counted[0].name.replace('_', ' ')}", f"{counted[1]:,}")
    if answer.evidence.mapping_count > 1:
        fed_by = (
            f"{each.meter_id}: {measured(each, 'kwh_consumed_ac', '{:,.4f} kWh')}, {each.meter_readings:,} readings,"
            f" {_clock(each.window.start)} to {_clock(each.window.end)}"
            for each in answer.evidence.mappings
        )
        table.add_row(f"fed by {answer.evidence.mapping_count:,} mappings", Text("\n".join(fed_by)))
    out.print(table)


def _add_comparison(table: Table, answer: Performance) -> None:
    """What the verdict goes by."""
    if not answer.HasField("comparison"):
        table.add_row("compared", "nothing")
        _add_normal(table, answer)
        return
    its = answer.comparison
    table.add_row("compared", f"{its.kwh_delivered_dc:,.4f} kWh delivered of {its.kwh_consumed_ac:,.4f} kWh drawn")
    table.add_row("efficiency", _efficiency(its))
    table.add_row("limit", f"{its.low_efficiency_below:g} at {its.mean_power_kw:,.1f} kW on average")
    _add_normal(table, answer)
    table.add_row("lost", f"{its.kwh_lost:,.4f} kWh")
    table.add_row("share compared", measured(answer, "coverage", "{:.0%}"))
    stretches = [f"{_clock(each.start)} to {_clock(each.end)}" for each in its.spans[-_STRETCHES_SHOWN:]]
    if len(its.spans) > _STRETCHES_SHOWN:
        stretches.insert(0, f"{len(its.spans) - _STRETCHES_SHOWN:,} earlier")
    table.add_row("stretches", "\n".join(stretches))


def _add_normal(table: Table, answer: Performance) -> None:
    """What is normal for the vehicle, and by how much its ratio differs; an older service does not say."""
    if answer.HasField("baseline_ratio"):
        change = measured(answer, "ratio_change", "; {:+.4f}") if answer.HasField("ratio_change") else ""
        table.add_row("normal for it", f"{answer.baseline_ratio:.4f} on the 28 days before{change}")
    elif answer.thresholds.ratio_drop_min:
        least = f"less than {answer.thresholds.baseline_min_kwh:g} kWh"
        table.add_row("normal for it", f"unknown: {least} in charges of the 28 days before")


def _efficiency(its: Comparison) -> str:
    """The ratio, and between what it lies where that is open."""
    least, most = its.efficiency_ratio_at_least, its.efficiency_ratio_at_most
    if least == most:
        return f"{its.efficiency_ratio:.4f}"
    between = f"at least {least:.4f}" if isinf(most) else f"{least:.4f} to {most:.4f}"
    return f"{its.efficiency_ratio:.4f}; it may be {between}"


def _show_status(
    kind: str, device_id: str, answer: VehicleStatus | MeterStatus, facts: Sequence[tuple[str, str, str]]
) -> None:
    table = facts_table(f"{kind} {device_id}")
    if answer.HasField("reading"):
        table.add_row("newest reading", _newest(answer))
        for name, field, form in facts:
            table.add_row(name, measured(answer.reading, field, form))
        if answer.reading.HasField("register_kwh"):
            table.add_row("register", measured(answer.reading, "register_kwh", "{:,.4f} kWh"))
    else:
        table.add_row("newest reading", "none was stored")
    if answer.HasField("clock"):
        table.add_row("clock", _clock_evidence(answer))
    if answer.doubted_readings:
        table.add_row("doubted", f"{answer.doubted_readings:,} readings, whose energy is not plausible")
    for name, refusals in (("rejected", answer.rejections), ("left out", answer.omissions)):
        for each in refusals:
            what = f"{each.count:,} times {each.field} {reason_of(each.reason)}"
            table.add_row(name, Text(f"{what}, last {_clock(each.last_at)}: {each.last_description}"))
    out.print(table)


def _clock(moment: Timestamp) -> str:
    return f"{moment.ToDatetime():%Y-%m-%d %H:%M:%S} UTC"


def _clock_evidence(answer: VehicleStatus | MeterStatus) -> str:
    seen = answer.clock
    counts = (
        f"{seen.late_readings:,} late, {seen.future_readings:,} from the future,"
        f" {seen.conflicting_readings:,} conflicting"
    )
    if not seen.HasField("newest_age_at_arrival"):
        return counts
    age_s = seen.newest_age_at_arrival.ToMicroseconds() / 1_000_000
    return f"newest reading {age_s:,.1f} s old on arrival; {counts}"


def _newest(answer: VehicleStatus | MeterStatus) -> str:
    return f"{_clock(answer.reading.timestamp)}, {age_text(answer.age)}: {freshness_of(answer)}"
