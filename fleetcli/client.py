"""Both services as an operator's command sees them."""

import asyncio
from collections.abc import Callable, Iterable
from pathlib import Path
from types import TracebackType
from typing import Self

from energyfleet.v1.analytics_service_pb2 import (
    GetMeterStatusRequest,
    GetMeterStatusResponse,
    GetVehiclePerformanceResponse,
    GetVehicleStatusRequest,
    GetVehicleStatusResponse,
    Verdict,
)
from energyfleet.v1.analytics_service_pb2_grpc import AnalyticsServiceStub
from energyfleet.v1.ingestion_service_pb2 import IngestionSummary, RejectionReason, StreamTelemetryRequest
from energyfleet.v1.ingestion_service_pb2_grpc import IngestionServiceStub

from fleetcli.channel import CALL_TIMEOUT_S, open_channel, service_errors
from fleetcli.errors import ServiceError, StreamCutShort
from fleetcli.messages import mapping_request, performance_request

Performance = GetVehiclePerformanceResponse
VehicleStatus = GetVehicleStatusResponse
MeterStatus = GetMeterStatusResponse
Summary = IngestionSummary
StreamRequest = StreamTelemetryRequest

Progress = Callable[[int], None]
"""Told how many more readings have been handed over."""


def verdict_of(answer: Performance) -> str:
    """The verdict's name without its prefix, `LOW_EFFICIENCY`; its number where this version does not know it."""
    try:
        return Verdict.Name(answer.verdict).removeprefix("VERDICT_")
    except ValueError:
        return str(answer.verdict)


def reason_of(reason: RejectionReason.ValueType) -> str:
    """A rejection reason's name without its prefix, `OUT_OF_RANGE`; its number where this version does not know it."""
    try:
        return RejectionReason.Name(reason).removeprefix("REJECTION_REASON_")
    except ValueError:
        return str(reason)


class _Client:
    def __init__(self, address: str, ca_file: Path | None) -> None:
        self.address = address
        self._channel = open_channel(address, ca_file)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._channel.close(None)


class IngestionClient(_Client):
    """Towards `ingestion_svc`. Every method raises ServiceError."""

    def __init__(self, address: str, ca_file: Path | None = None) -> None:
        super().__init__(address, ca_file)
        self._stub = IngestionServiceStub(self._channel)

    async def map_vehicle(self, vehicle_id: str, meter_id: str, effective_from_us: int) -> None:
        """Registers which meter feeds a vehicle from an instant on."""
        with service_errors(self.address):
            await self._stub.MapVehicle(
                mapping_request(vehicle_id, meter_id, effective_from_us), timeout=CALL_TIMEOUT_S
            )

    async def stream(self, requests: Iterable[StreamRequest], progress: Progress) -> Summary:
        """Sends messages over one stream; returns when every reading is committed or refused.

        Raises StreamCutShort where the service ended the stream before it had read all of it.
        """
        call = self._stub.StreamTelemetry(None)
        sent = 0
        with service_errors(self.address):
            try:
                for request in requests:
                    sent += len(request.readings)
                    await call.write(request)
                    progress(len(request.readings))
                await call.done_writing()
            except asyncio.InvalidStateError:
                pass  # the service has answered already, and its answer says why
            except BaseException:
                call.cancel()
                raise
            summary = (await call).summary
        if summary.received != sent:
            raise StreamCutShort(self.address, f"the first {summary.received:,} readings are settled")
        return summary


class AnalyticsClient(_Client):
    """Towards `analytics_svc`. Every method raises ServiceError."""

    def __init__(self, address: str, ca_file: Path | None = None) -> None:
        super().__init__(address, ca_file)
        self._stub = AnalyticsServiceStub(self._channel)

    async def performance(self, vehicle_id: str, start_us: int | None = None, end_us: int | None = None) -> Performance:
        """How efficiently a vehicle charged within `(start_us, end_us]`; the service says which window where None."""
        with service_errors(self.address):
            return await self._stub.GetVehiclePerformance(
                performance_request(vehicle_id, start_us, end_us), timeout=CALL_TIMEOUT_S
            )

    async def vehicle_status(self, vehicle_id: str) -> VehicleStatus | None:
        """A vehicle's newest reading; None for one never heard of."""
        try:
            with service_errors(self.address):
                return await self._stub.GetVehicleStatus(
                    GetVehicleStatusRequest(vehicle_id=vehicle_id), timeout=CALL_TIMEOUT_S
                )
        except ServiceError as error:
            if error.code == "NOT_FOUND":
                return None
            raise

    async def meter_status(self, meter_id: str) -> MeterStatus | None:
        """A meter's newest reading; None for one never heard of."""
        try:
            with service_errors(self.address):
                return await self._stub.GetMeterStatus(GetMeterStatusRequest(meter_id=meter_id), timeout=CALL_TIMEOUT_S)
        except ServiceError as error:
            if error.code == "NOT_FOUND":
                return None
            raise
