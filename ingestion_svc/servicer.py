"""The door: parses, makes one call, builds the answer."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from functools import partial
from typing import Any

from energyfleet.v1 import ingestion_service_pb2 as wire
from energyfleet.v1.ingestion_service_pb2_grpc import IngestionServiceServicer
from sqlalchemy.ext.asyncio import AsyncEngine

from ingestion_svc.admission import Admission, Place
from ingestion_svc.correction_requests import parse_correct_reading, parse_list_corrections
from ingestion_svc.corrections import correct_reading, list_corrections
from ingestion_svc.decode import WireMessage
from ingestion_svc.devices import newest_timestamps
from ingestion_svc.exchange import Answer, Exchange, Request
from ingestion_svc.intake import Intake
from ingestion_svc.mapping_lists import list_mapping_changes, list_mappings
from ingestion_svc.mapping_requests import (
    parse_list_mapping_changes,
    parse_list_mappings,
    parse_map_vehicle,
    parse_opening,
    parse_unmap_vehicle,
)
from ingestion_svc.mappings import map_vehicle, unmap_vehicle
from ingestion_svc.ownership import require_own, require_own_opening
from ingestion_svc.readings import MESSAGE_MAX_READINGS, TimeBounds
from ingestion_svc.replies import (
    correction_message,
    mapping_change_message,
    mapping_message,
    opened_message,
    summary_message,
)
from shared import caller
from shared.identity import ANYBODY
from shared.interceptor import Context, ListLimits
from shared.list_limits import list_limits
from shared.power_limits import PowerLimits
from shared.requests import page_token

LIST_LIMITS: ListLimits = {
    "StreamTelemetry": list_limits(wire.StreamTelemetryRequest, readings=MESSAGE_MAX_READINGS),
    "ExchangeTelemetry": list_limits(wire.ExchangeTelemetryRequest, readings=MESSAGE_MAX_READINGS),
    "IngestTelemetry": list_limits(wire.IngestTelemetryRequest, readings=MESSAGE_MAX_READINGS),
}


class IngestionServicer(IngestionServiceServicer):
    """The rpcs of `energyfleet.v1.IngestionService`; the contract is in its proto file."""

    def __init__(
        self,
        admission: Admission,
        intake: Intake,
        engine: AsyncEngine,
        bounds: Callable[[], TimeBounds],
        unacknowledged_max_readings: int,
        limits: PowerLimits,
    ) -> None:
        self._admission = admission
        self._intake = intake
        self._engine = engine
        self._bounds = bounds
        self._unacknowledged_max_readings = unacknowledged_max_readings
        self._limits = limits

    async def StreamTelemetry(
        self, request_iterator: AsyncIterator[wire.StreamTelemetryRequest], context: Context
    ) -> wire.StreamTelemetryResponse:
        end = asyncio.Event()
        with self._admission.stream("StreamTelemetry", end.set, _peer(context)) as place:
            receipt = await self._intake.take_stream(_messages(request_iterator, place), end)
        return wire.StreamTelemetryResponse(summary=summary_message(receipt))

    async def ExchangeTelemetry(  # type: ignore[override]  # writes its answers itself
        self, request_iterator: AsyncIterator[wire.ExchangeTelemetryRequest], context: Context
    ) -> None:
        exchange = Exchange(self._intake, self._unacknowledged_max_readings)
        with self._admission.stream("ExchangeTelemetry", exchange.end, _peer(context)) as place:
            await exchange.run(self._requests(request_iterator, context, place), partial(_acknowledge, context))

    async def IngestTelemetry(
        self, request: wire.IngestTelemetryRequest, context: Context
    ) -> wire.IngestTelemetryResponse:
        require_own(request.readings)
        with self._admission.call(request.ByteSize()):
            receipt = await self._intake.take_call(WireMessage(request.readings))
        return wire.IngestTelemetryResponse(summary=summary_message(receipt))

    async def MapVehicle(self, request: wire.MapVehicleRequest, context: Context) -> wire.MapVehicleResponse:
        order = parse_map_vehicle(request, self._bounds())
        mapping, closed = await map_vehicle(self._engine, order, caller.identity().name)
        return wire.MapVehicleResponse(
            mapping=mapping_message(mapping), closed=[mapping_message(each) for each in closed]
        )

    async def UnmapVehicle(self, request: wire.UnmapVehicleRequest, context: Context) -> wire.UnmapVehicleResponse:
        order = parse_unmap_vehicle(request, self._bounds())
        removed = await unmap_vehicle(self._engine, order, caller.identity().name)
        return wire.UnmapVehicleResponse(removed=[mapping_message(each) for each in removed])

    async def ListMappings(self, request: wire.ListMappingsRequest, context: Context) -> wire.ListMappingsResponse:
        page, more = await list_mappings(self._engine, parse_list_mappings(request))
        return wire.ListMappingsResponse(
            mappings=[mapping_message(each) for each in page],
            next_page_token=page_token(page[-1].vehicle_id, page[-1].from_us, page[-1].meter_id) if more else "",
        )

    async def ListMappingChanges(
        self, request: wire.ListMappingChangesRequest, context: Context
    ) -> wire.ListMappingChangesResponse:
        page, more = await list_mapping_changes(self._engine, parse_list_mapping_changes(request))
        return wire.ListMappingChangesResponse(
            changes=[mapping_change_message(each) for each in page],
            next_page_token=page_token(page[-1].record.number) if more else "",
        )

    async def CorrectReading(
        self, request: wire.CorrectReadingRequest, context: Context
    ) -> wire.CorrectReadingResponse:
        order = parse_correct_reading(request)
        correction = await correct_reading(self._engine, order, self._limits, caller.identity().name)
        return wire.CorrectReadingResponse(correction=None if correction is None else correction_message(correction))

    async def ListCorrections(
        self, request: wire.ListCorrectionsRequest, context: Context
    ) -> wire.ListCorrectionsResponse:
        page, more = await list_corrections(self._engine, parse_list_corrections(request))
        return wire.ListCorrectionsResponse(
            corrections=[correction_message(each) for each in page],
            next_page_token=page_token(page[-1].number) if more else "",
        )

    async def _requests(
        self, requests: AsyncIterator[wire.ExchangeTelemetryRequest], context: Context, place: Place
    ) -> AsyncGenerator[Request, Any]:
        async for request in requests:
            first, place.begun = not place.begun, True
            if request.HasField("opening"):
                opening = parse_opening(request.opening, first=first)
                require_own_opening(opening)
                await context.write(opened_message(*await newest_timestamps(self._engine, opening)))
            require_own(request.readings)
            yield Request(request.sequence, WireMessage(request.readings))


def _peer(context: Context) -> str:
    """Whose stream it is: a device's, by its name, whatever connections it has. Who is nobody, or sends for many
    devices, may have many connections: then it is the connection's."""
    identity = caller.identity()
    return identity.name if identity is not ANYBODY and identity.grants.names_devices else context.peer()


async def _messages(
    requests: AsyncIterator[wire.StreamTelemetryRequest], place: Place
) -> AsyncGenerator[WireMessage, Any]:
    async for request in requests:
        place.begun = True
        require_own(request.readings)
        yield WireMessage(request.readings)


async def _acknowledge(context: Context, answer: Answer) -> None:
    summary = summary_message(answer)
    await context.write(wire.ExchangeTelemetryResponse(committed_sequence=answer.committed_sequence, summary=summary))
