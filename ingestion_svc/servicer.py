"""The door: parses, hands over, builds the answer."""

import asyncio
from collections.abc import AsyncIterator

from energyfleet.v1 import ingestion_service_pb2 as wire
from energyfleet.v1.ingestion_service_pb2_grpc import IngestionServiceServicer
from energyfleet.v1.telemetry_pb2 import Telemetry
from google.protobuf.internal.containers import RepeatedCompositeFieldContainer
from sqlalchemy.ext.asyncio import AsyncEngine

from ingestion_svc.batch import Batcher
from ingestion_svc.decode import TimeBounds, decode
from ingestion_svc.parse import parse_list_mappings, parse_map_vehicle
from ingestion_svc.receipt import Receipt
from shared.db.engine import database_errors, to_its_end
from shared.db.mappings import Mapping, list_mappings, map_vehicle
from shared.errors import InvalidRequest, ServiceStopping, Violation
from shared.guard import Context
from shared.requests import page_token
from shared.timestamps import Clock, proto_from_us

MESSAGE_MAX_READINGS = 10_000
"""Readings in a message: half a batch. More would only make the answer later and the memory larger."""


class IngestionServicer(IngestionServiceServicer):
    """The rpcs of `energyfleet.v1.IngestionService`; the contract is in its proto file."""

    def __init__(
        self, batcher: Batcher, engine: AsyncEngine, draining: asyncio.Event, retention_days: int, clock: Clock
    ) -> None:
        self._batcher = batcher
        self._engine = engine
        self._draining = draining
        self._retention_days = retention_days
        self._clock = clock

    async def StreamTelemetry(
        self, request_iterator: AsyncIterator[wire.StreamTelemetryRequest], context: Context
    ) -> wire.StreamTelemetryResponse:
        receipt = Receipt()
        await self._take_until_drained(request_iterator, receipt)
        await receipt.settled()
        return wire.StreamTelemetryResponse(summary=_summary(receipt))

    async def IngestTelemetry(
        self, request: wire.IngestTelemetryRequest, context: Context
    ) -> wire.IngestTelemetryResponse:
        if self._draining.is_set():
            raise ServiceStopping
        receipt = Receipt()
        await self._take(request.readings, receipt)
        await receipt.settled()
        return wire.IngestTelemetryResponse(summary=_summary(receipt))

    async def MapVehicle(self, request: wire.MapVehicleRequest, context: Context) -> wire.MapVehicleResponse:
        now_us = self._clock()
        order = parse_map_vehicle(request, now_us, TimeBounds.at(now_us, self._retention_days))
        async with database_errors():
            mapping, closed = await to_its_end(
                map_vehicle(self._engine, order.vehicle_id, order.meter_id, order.from_us)
            )
        return wire.MapVehicleResponse(
            mapping=_mapping_message(mapping), closed=[_mapping_message(each) for each in closed]
        )

    async def ListMappings(self, request: wire.ListMappingsRequest, context: Context) -> wire.ListMappingsResponse:
        asked = parse_list_mappings(request)
        async with database_errors():
            found = await to_its_end(
                list_mappings(self._engine, asked.vehicle_id, asked.meter_id, asked.after, asked.most + 1)
            )
        page = found[: asked.most]
        more = len(found) > asked.most
        return wire.ListMappingsResponse(
            mappings=[_mapping_message(each) for each in page],
            next_page_token=page_token(page[-1].vehicle_id, page[-1].from_us) if more else "",
        )

    async def _take(self, readings: RepeatedCompositeFieldContainer[Telemetry], receipt: Receipt) -> None:
        if len(readings) > MESSAGE_MAX_READINGS:
            raise InvalidRequest(
                [Violation("readings", f"{len(readings)} readings in a message; at most {MESSAGE_MAX_READINGS}")]
            )
        bounds = TimeBounds.at(self._clock(), self._retention_days)
        await self._batcher.submit(decode(readings, receipt.received, bounds), receipt)

    async def _take_until_drained(self, requests: AsyncIterator[wire.StreamTelemetryRequest], receipt: Receipt) -> None:
        """Takes a stream's readings until it ends, or the service drains, or some of them have failed.

        A read that is under way is left alone rather than cancelled, since each cancelled read leaks (grpc #43360): it
        ends with the call.
        """
        taking = asyncio.ensure_future(self._take_each(requests, receipt))
        others = [asyncio.ensure_future(self._draining.wait()), asyncio.ensure_future(receipt.failed())]
        try:
            await asyncio.wait((taking, *others), return_when=asyncio.FIRST_COMPLETED)
        finally:
            for other in others:
                other.cancel()
            taking.add_done_callback(_forget)
        if taking.done():
            taking.result()

    async def _take_each(self, requests: AsyncIterator[wire.StreamTelemetryRequest], receipt: Receipt) -> None:
        async for request in requests:
            if self._draining.is_set():
                return
            await self._take(request.readings, receipt)


def _forget(task: asyncio.Future[None]) -> None:
    """Takes note of how a task ended that nobody waits for any more, or asyncio complains."""
    if not task.cancelled():
        task.exception()


def _summary(receipt: Receipt) -> wire.IngestionSummary:
    return wire.IngestionSummary(
        received=receipt.received,
        stored=receipt.stored,
        duplicate=receipt.duplicate,
        conflicting=receipt.conflicting,
        rejected=receipt.rejected,
        rejections=[
            wire.RejectedReading(index=each.index, field=each.field, reason=each.reason, description=each.description)
            for each in receipt.rejections
        ],
        conflicts=[
            wire.ConflictingReading(index=each.index, device_id=each.device_id, timestamp=proto_from_us(each.ts_us))
            for each in receipt.conflicts
        ],
    )


def _mapping_message(mapping: Mapping) -> wire.Mapping:
    return wire.Mapping(
        vehicle_id=mapping.vehicle_id,
        meter_id=mapping.meter_id,
        effective_from=proto_from_us(mapping.from_us),
        effective_until=None if mapping.until_us is None else proto_from_us(mapping.until_us),
    )
