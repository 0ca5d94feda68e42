"""What readings say of their devices beside what they measure, added to the database every ten seconds or so."""

import asyncio
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Protocol

import psycopg
import structlog
from psycopg import AsyncConnection

from ingestion_svc.clock_evidence import DeviceClocks
from ingestion_svc.readings import Decoded, MeterRow, Rejection, RejectionReason, VehicleRow, Written
from ingestion_svc.refusals import RefusalRow, Refusals
from ingestion_svc.upkeep_sql import ADD_CLOCK_EVIDENCE, ADD_REFUSALS, FORGET_STRANGERS, STRANGERS_MAX
from shared.background import BackgroundLoop
from shared.db.device_kind import KINDS, METER, VEHICLE, DeviceKind

_log = structlog.get_logger()

FLUSH_INTERVAL_S = 10.0
"""What a person who watches a device waits for at most; a tenth of it would cost as much as the readings themselves."""

CHUNK_DEVICES = 100
"""Devices in one statement: taking and packing them holds the event loop up for a millisecond or two."""

FLUSH_COOLDOWN = 4
"""Times as long as a statement took, a flush rests after it, or live readings would wait behind the evidence of 10,000
devices: so that takes some seconds, and a fifth of one connection's time."""

FLUSH_COOLDOWN_MAX_S = 1.0
"""After a statement that an outage or a lock held up."""

DOUBTED = "DOUBTED"
"""In place of a reason where a reading is stored and its energy does not count."""

CHUNK_TIMEOUT_S = 10.0
"""A database that takes longer to connect, or for a statement, gets the rest with the next flush."""


class Collected(Protocol):
    """Evidence in memory, and the statement that adds rows of it to the database."""

    add: str
    not_kept: int

    def __bool__(self) -> bool: ...

    def take(self, most: int) -> Iterator[list[Any]]:
        """Named tuples, in lists of at most so many; each is taken out when asked for."""

    def put_back(self, rows: Sequence[Any]) -> None:
        """Takes in again what was not written down."""


class DeviceEvidence(BackgroundLoop):
    """Collects the evidence of both kinds of device and adds it to the database, in the background and at the end."""

    def __init__(self, parameters: Mapping[str, Any], *, interval_s: float = FLUSH_INTERVAL_S) -> None:
        self._parameters = dict(parameters)
        self._clocks = {kind: DeviceClocks(ADD_CLOCK_EVIDENCE[kind]) for kind in KINDS}
        self._refusals = {kind: Refusals(ADD_REFUSALS[kind]) for kind in KINDS}
        self._collected: Sequence[Collected] = [*self._clocks.values(), *self._refusals.values()]
        super().__init__("device_evidence", self.flush, interval_s, jittered=True, last_round=True)

    def decoded(self, decoded: Decoded) -> None:
        """Takes in what was rejected and omitted of a slice of a message."""
        for rejection in decoded.rejections:
            if rejection.device_id:
                kind = _kind(rejection.field)
                self._refused(kind, rejection, decoded.arrived_us)
                if rejection.reason.is_future:
                    clocks = self._clocks[kind]
                    clocks.count(clocks.future, [rejection.device_id])
        for each in decoded.omissions:
            row = RefusalRow(
                each.device_id, each.field, RejectionReason.OUT_OF_RANGE, 1, decoded.arrived_us, each.description
            )
            self._refusals[_kind(each.field)].note(row)

    def resolved(self, rows: Sequence[MeterRow] | Sequence[VehicleRow], written: Written, arrived_us: int) -> None:
        """Takes in the outcome of rows of one kind that arrived together, in the order of their coming."""
        kind = METER if isinstance(rows[0], MeterRow) else VEHICLE
        clocks = self._clocks[kind]
        if written.conflicts:
            clocks.count(clocks.conflicting, [rows[at][0] for at in written.conflicts])
        for at in written.refused:
            self._refused(kind, Rejection.by_database(at, rows[at][0]), arrived_us)
        session_registers = set(written.session_registers)
        for at in written.doubted:
            energy = f"{kind.name}.{kind.energy}"
            why = f"{rows[at][2]:g} kWh are more than is plausible since the reading before"
            if at in session_registers:
                why = f"{rows[at][2]:g} kWh seem to be the energy since the session began, not since the reading before"
            self._refusals[kind].note(RefusalRow(rows[at][0], energy, DOUBTED, 1, arrived_us, why))
        if written.duplicates or written.conflicts or written.refused:
            rows = _stored(rows, written)
        clocks.stored(rows, arrived_us)

    async def flush(self) -> None:
        """Writes down what was collected, throttled between statements unless it closes.

        Raises the driver's errors. What surely failed stays for the next time. Where the connection broke in the middle
        nobody knows, and that chunk is not repeated: evidence may be missing, but is never counted twice.
        """
        self._log_not_kept()
        if not any(self._collected):
            return
        refused = [kind for kind, refusals in self._refusals.items() if refusals]
        async with asyncio.timeout(CHUNK_TIMEOUT_S):
            connection = await AsyncConnection.connect(**self._parameters, autocommit=True)
        async with connection:
            for collected in self._collected:
                for rows in collected.take(CHUNK_DEVICES):
                    began = time.monotonic()
                    await _write(connection, collected, rows)
                    cooldown_s = FLUSH_COOLDOWN * (time.monotonic() - began)
                    await self.closes_within(min(cooldown_s, FLUSH_COOLDOWN_MAX_S))
            for kind in refused:
                await connection.execute(FORGET_STRANGERS[kind], {"most": STRANGERS_MAX})

    def _refused(self, kind: DeviceKind, rejection: Rejection, arrived_us: int) -> None:
        row = RefusalRow(rejection.device_id, rejection.field, rejection.reason, 1, arrived_us, rejection.description)
        self._refusals[kind].note(row)

    def _log_not_kept(self) -> None:
        not_kept = sum(collected.not_kept for collected in self._collected)
        if not_kept:
            _log.warning("device_evidence_not_kept", readings=not_kept)
            for collected in self._collected:
                collected.not_kept = 0


async def _write(connection: AsyncConnection[Any], collected: Collected, rows: list[Any]) -> None:
    """Commits rows, whose keys differ, and puts them back where the database refused them.

    The connection commits by itself, before anything else is added: otherwise two processes could deadlock.
    """
    columns = zip(rows[0]._fields, map(list, zip(*rows, strict=True)), strict=True)
    try:
        async with asyncio.timeout(CHUNK_TIMEOUT_S):
            await connection.execute(collected.add, dict(columns))
    except psycopg.Error as error:
        if error.sqlstate is not None:
            collected.put_back(rows)
        raise


def _kind(field: str) -> DeviceKind:
    """Whose reading a path from `Telemetry` leads into."""
    return METER if field.startswith("meter.") else VEHICLE


def _stored(rows: Sequence[Any], written: Written) -> list[Any]:
    others = {*written.duplicates, *written.conflicts, *written.refused}
    return [row for at, row in enumerate(rows) if at not in others]
