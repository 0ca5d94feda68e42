"""The door: parses, hands over, builds the answer."""

import asyncio
from collections.abc import AsyncIterator

from energyfleet.v1 import ingestion_service_pb2 as wire
from energyfleet.v1.ingestion_service_pb2_grpc import IngestionServiceServicer
from energyfleet.v1.telemetry_pb2 import Telemetry
from google.protobuf.internal.containers import RepeatedCompositeFieldContainer
from sqlalchemy.ext.asyncio import AsyncEngine

from ingestion_svc.admission import DeviceRates, Streams
from ingestion_svc.batch import Batcher
from ingestion_svc.clock_evidence import ClockEvidence
from ingestion_svc.decode import WireMessage
from ingestion_svc.exchange import Exchange
from ingestion_svc.intake import Intake
from ingestion_svc.maintenance import Maintenance
from ingestion_svc.mapping_requests import (
    Opening,
    parse_list_mappings,
    parse_map_vehicle,
    parse_opening,
    parse_unmap_vehicle,
)
from ingestion_svc.mappings import list_mappings, map_vehicle, unmap_vehicle
from ingestion_svc.newest import newest_timestamps
from ingestion_svc.reading_metrics import IngestionMetrics
from ingestion_svc.readings import TimeBounds
from ingestion_svc.receipt import Receipt
from ingestion_svc.replies import mapping_message, opened_message, summary_message
from shared.config import IngestionSettings
from shared.db.engine import database_errors, shielded
from shared.errors import ServiceStopping, SlowConsumer
from shared.interceptor import Context
from shared.requests import page_token
from shared.timestamps import Clock

ANSWER_MAX_WAIT_S = 30.0
"""What a client gets to take an answer: longer than a radio's bad minute, shorter than anybody's patience."""


class IngestionServicer(IngestionServiceServicer):
    """The rpcs of `energyfleet.v1.IngestionService`; the contract is in its proto file."""

    def __init__(
        self,
        batcher: Batcher,
        engine: AsyncEngine,
        draining: asyncio.Event,
        settings: IngestionSettings,
        metrics: IngestionMetrics,
        evidence: ClockEvidence,
        maintenance: Maintenance,
        clock: Clock,
    ) -> None:
        self._engine = engine
        self._draining = draining
        self._retention_days = settings.retention_days
        self._unacknowledged_max_readings = settings.inflight_max_readings_per_stream
        self._metrics = metrics
        self._evidence = evidence
        self._maintenance = maintenance
        self._clock = clock
        self._streams = Streams(settings.streams_max, settings.stream_max_age_s)
        rates = DeviceRates(settings.device_max_readings_per_s)
        self._intake = Intake(batcher, evidence, rates, lambda: self._bounds(self._clock()))
        self._exchanges: set[Exchange] = set()
        self._drain_watch = asyncio.ensure_future(self._end_exchanges_when_draining())

    async def StreamTelemetry(
        self, request_iterator: AsyncIterator[wire.StreamTelemetryRequest], context: Context
    ) -> wire.StreamTelemetryResponse:
        receipt = Receipt(on_resolved=self._evidence.resolved)
        with self._streams.admit() as max_age_s, self._metrics.open_stream("StreamTelemetry"):
            await self._take_until_drained(request_iterator, receipt, max_age_s)
            await receipt.completed()
        return wire.StreamTelemetryResponse(summary=summary_message(receipt))

    async def ExchangeTelemetry(  # type: ignore[override]  # writes its answers itself, within a deadline
        self, request_iterator: AsyncIterator[wire.ExchangeTelemetryRequest], context: Context
    ) -> None:
        with self._streams.admit() as max_age_s, self._metrics.open_stream("ExchangeTelemetry"):
            exchange = Exchange(self._unacknowledged_max_readings)
            age = asyncio.get_running_loop().call_later(max_age_s, exchange.end)
            self._exchanges.add(exchange)
            taking = asyncio.ensure_future(self._take_each_of_exchange(request_iterator, exchange, context))
            taking.add_done_callback(lambda _: exchange.changed.set())
            try:
                await self._answer_until_completed(exchange, taking, context)
            finally:
                age.cancel()
                self._exchanges.discard(exchange)
                taking.add_done_callback(_forget)

    async def IngestTelemetry(
        self, request: wire.IngestTelemetryRequest, context: Context
    ) -> wire.IngestTelemetryResponse:
        if self._draining.is_set():
            raise ServiceStopping
        receipt = Receipt(on_resolved=self._evidence.resolved)
        await self._take(request.readings, receipt)
        await receipt.completed()
        return wire.IngestTelemetryResponse(summary=summary_message(receipt))

    async def MapVehicle(self, request: wire.MapVehicleRequest, context: Context) -> wire.MapVehicleResponse:
        now_us = self._clock()
        wanted = parse_map_vehicle(request, now_us, self._bounds(now_us))
        async with database_errors():
            mapping, closed = await shielded(map_vehicle(self._engine, wanted))
        return wire.MapVehicleResponse(
            mapping=mapping_message(mapping), closed=[mapping_message(each) for each in closed]
        )

    async def UnmapVehicle(self, request: wire.UnmapVehicleRequest, context: Context) -> wire.UnmapVehicleResponse:
        now_us = self._clock()
        order = parse_unmap_vehicle(request, now_us, self._bounds(now_us))
        async with database_errors():
            removed = await shielded(unmap_vehicle(self._engine, order.vehicle_id, order.from_us, order.until_us))
        return wire.UnmapVehicleResponse(removed=[mapping_message(each) for each in removed])

    async def ListMappings(self, request: wire.ListMappingsRequest, context: Context) -> wire.ListMappingsResponse:
        asked = parse_list_mappings(request)
        async with database_errors():
            found = await shielded(
                list_mappings(self._engine, asked.vehicle_id, asked.meter_id, asked.after, asked.most + 1)
            )
        page = found[: asked.most]
        more = len(found) > asked.most
        return wire.ListMappingsResponse(
            mappings=[mapping_message(each) for each in page],
            next_page_token=page_token(page[-1].vehicle_id, page[-1].from_us) if more else "",
        )

    def _bounds(self, now_us: int) -> TimeBounds:
        return TimeBounds.at(now_us, self._retention_days, self._maintenance.floor_us)

    async def _take(self, readings: RepeatedCompositeFieldContainer[Telemetry], receipt: Receipt) -> None:
        await self._intake.take(WireMessage(readings), receipt)

    async def _take_each_of_exchange(
        self, requests: AsyncIterator[wire.ExchangeTelemetryRequest], exchange: Exchange, context: Context
    ) -> None:
        first = True
        async for request in requests:
            if exchange.ending:
                return
            if request.HasField("opening"):
                await self._tell_newest(parse_opening(request.opening, first=first), context)
            first = False
            exchange.check(request.sequence, len(request.readings))
            if not request.sequence:
                continue
            await exchange.room_for(len(request.readings))
            receipt = exchange.new_receipt(self._evidence.resolved)
            await self._take(request.readings, receipt)
            exchange.take(request.sequence, receipt)

    async def _tell_newest(self, opening: Opening, context: Context) -> None:
        async with database_errors():
            meter_us, vehicle_us = await shielded(newest_timestamps(self._engine, opening.meter_id, opening.vehicle_id))
        await context.write(opened_message(meter_us, vehicle_us))

    async def _answer_until_completed(self, exchange: Exchange, taking: asyncio.Future[None], context: Context) -> None:
        """Acknowledges what is resolved until the exchange ends and all that was taken of it is acknowledged."""
        while True:
            await exchange.changed.wait()
            exchange.changed.clear()
            answer = exchange.next_answer()
            if answer is not None:
                try:
                    async with asyncio.timeout(ANSWER_MAX_WAIT_S):
                        await context.write(
                            wire.ExchangeTelemetryResponse(
                                committed_sequence=answer.committed_sequence, summary=summary_message(answer)
                            )
                        )
                except TimeoutError:
                    raise SlowConsumer(ANSWER_MAX_WAIT_S) from None
                exchange.changed.set()  # there may be more, or it was the last
            elif exchange.resolved and (exchange.ending or taking.done()):
                if taking.done():
                    taking.result()
                return

    async def _end_exchanges_when_draining(self) -> None:
        await self._draining.wait()
        for exchange in self._exchanges:
            exchange.end()

    async def _take_until_drained(
        self, requests: AsyncIterator[wire.StreamTelemetryRequest], receipt: Receipt, max_age_s: float
    ) -> None:
        """Takes a stream's readings until it ends or is too old, the service drains, or some of them have failed.

        A read that is under way is left alone rather than cancelled, since each cancelled read leaks (grpc #43360): it
        ends with the call.
        """
        taking = asyncio.ensure_future(self._take_each(requests, receipt))
        others = [asyncio.ensure_future(self._draining.wait()), asyncio.ensure_future(receipt.failed())]
        try:
            await asyncio.wait((taking, *others), timeout=max_age_s, return_when=asyncio.FIRST_COMPLETED)
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
