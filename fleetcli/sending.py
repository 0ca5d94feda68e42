"""Sends a simulated fleet through the real API."""

import time
from dataclasses import dataclass

from fleetcli.client import IngestionClient, Summary, reason_of
from fleetcli.console import complain, progress_bar
from fleetcli.messages import requests_of_bursts
from fleetcli.simulator import Fleet

REJECTIONS_SHOWN = 10
"""A simulated fleet has no reason to be refused; ten lines show any pattern."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a fleet's readings, and how long it took until all of them were committed."""

    summary: Summary
    elapsed_s: float

    @property
    def readings_per_s(self) -> float:
        """Readings over time, the simulator's own work included."""
        return self.summary.received / self.elapsed_s


async def send_fleet(client: IngestionClient, fleet: Fleet) -> Outcome:
    """Registers a fleet's mappings and sends its readings. Raises ServiceError or StreamCutShort."""
    with progress_bar() as progress:
        mappings = fleet.mappings
        mapping_task = progress.add_task("mappings", total=len(mappings))
        for mapping in mappings:
            await client.map_vehicle(mapping.vehicle_id, mapping.meter_id, mapping.effective_from_us)
            progress.advance(mapping_task)
        readings_task = progress.add_task("readings", total=fleet.readings_expected)
        begun = time.perf_counter()
        async with client.uplink(lambda answer: progress.advance(readings_task, answer.summary.received)) as uplink:
            for request in requests_of_bursts(fleet.bursts()):
                await uplink.send(request)
        elapsed_s = time.perf_counter() - begun
    return Outcome(uplink.totals, elapsed_s)


def unexpected(fleet: Fleet, summary: Summary) -> list[str]:
    """In what a first sending's summary differs from what the fleet sent, a phrase each."""
    sent = fleet.sent
    expected = (
        ("received", sent.total, summary.received),
        ("stored", sent.distinct, summary.stored),
        ("duplicate", sent.repeated, summary.duplicate),
        ("conflicting", 0, summary.conflicting),
        ("rejected", 0, summary.rejected),
    )
    return [f"{counted:,} {name} instead of {due:,}" for name, due, counted in expected if counted != due]


def complain_of_refused(summary: Summary) -> None:
    """Tells of the first readings that were rejected or conflicting."""
    for rejection in summary.rejections[:REJECTIONS_SHOWN]:
        complain(f"rejected: {rejection.field} {reason_of(rejection.reason)}: {rejection.description}")
    for conflict in summary.conflicts[:REJECTIONS_SHOWN]:
        complain(f"conflicting: {conflict.device_id} at {conflict.timestamp.ToJsonString()} has other values already")
