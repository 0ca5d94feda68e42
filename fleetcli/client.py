"""Both services as an operator's command sees them."""

from pathlib import Path
from types import TracebackType
from typing import Self

from energyfleet.v1.analytics_service_pb2 import (
    Freshness,
    GetMeterStatusRequest,
    GetMeterStatusResponse,
    GetPerformanceSeriesRequest,
    GetPerformanceSeriesResponse,
    GetVehiclePerformanceResponse,
    GetVehicleStatusRequest,
    GetVehicleStatusResponse,
    ListVehiclePerformanceRequest,
    ListVehiclePerformanceResponse,
    VehiclePerformance,
    Verdict,
    VerdictTotals,
)
from energyfleet.v1.analytics_service_pb2_grpc import AnalyticsServiceStub
from energyfleet.v1.ingestion_service_pb2 import (
    ConflictingReading,
    ExchangeTelemetryRequest,
    ExchangeTelemetryResponse,
    IngestionSummary,
    RejectedReading,
    RejectionReason,
)
from energyfleet.v1.ingestion_service_pb2 import Mapping as MappingMessage
from energyfleet.v1.ingestion_service_pb2_grpc import IngestionServiceStub

from fleetcli.channel import CALL_TIMEOUT_S, open_channel, service_errors
from fleetcli.console import note
from fleetcli.errors import ServiceError
from fleetcli.messages import mapping_request, performance_request, unmapping_request
from fleetcli.uplink import Failure, OnAnswer, Uplink

Performance = GetVehiclePerformanceResponse
FleetPerformance = ListVehiclePerformanceResponse
FleetQuestion = ListVehiclePerformanceRequest
FleetVehicle = VehiclePerformance
Series = GetPerformanceSeriesResponse
SeriesQuestion = GetPerformanceSeriesRequest
VehicleStatus = GetVehicleStatusResponse
MeterStatus = GetMeterStatusResponse
Mapping = MappingMessage
Summary = IngestionSummary
Answer = ExchangeTelemetryResponse
ExchangeRequest = ExchangeTelemetryRequest
Refused = RejectedReading | ConflictingReading

PATIENCE_S = 10.0
"""Longer than a restart of the service, shorter than what a person takes for a hang."""


PAGE_MAX_VEHICLES = 1_000
"""What the service takes."""


def verdict_of(answer: Performance | VehiclePerformance | VerdictTotals) -> str:
    """The verdict's name without its prefix, `LOW_EFFICIENCY`; its number where this version does not know it."""
    try:
        return Verdict.Name(answer.verdict).removeprefix("VERDICT_")
    except ValueError:
        return str(answer.verdict)


def freshness_of(answer: VehicleStatus | MeterStatus) -> str:
    """A freshness' name without its prefix, `ONLINE`; its number where this version does not know it."""
    try:
        return Freshness.Name(answer.freshness).removeprefix("FRESHNESS_")
    except ValueError:
        return str(answer.freshness)


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

    async def map_vehicle(
        self, vehicle_id: str, meter_id: str, from_us: int | None, until_us: int | None = None
    ) -> tuple[Mapping, list[Mapping]]:
        """Registers which meter feeds a vehicle from an instant (None: now) on or until another; and what it closed."""
        with service_errors(self.address):
            answer = await self._stub.MapVehicle(
                mapping_request(vehicle_id, meter_id, from_us, until_us), timeout=CALL_TIMEOUT_S
            )
        return answer.mapping, list(answer.closed)

    async def unmap_vehicle(self, vehicle_id: str, from_us: int | None, until_us: int | None) -> list[Mapping]:
        """Registers that no meter feeds a vehicle from an instant (None: now) on or until another; what that took."""
        with service_errors(self.address):
            answer = await self._stub.UnmapVehicle(
                unmapping_request(vehicle_id, from_us, until_us), timeout=CALL_TIMEOUT_S
            )
        return list(answer.removed)

    def uplink(self, on_answer: OnAnswer | None = None) -> Uplink:
        """A way for readings that outlasts a short absence of the service, and says on standard error that it waits.

        Raises ServiceError or StreamCutShort when the service has been away for PATIENCE_S.
        """
        return Uplink(self._channel, self.address, on_answer=on_answer, on_wait=_tell_of_wait, patience_s=PATIENCE_S)


def _tell_of_wait(failure: Failure, wait_s: float) -> None:
    note(f"{failure}. Trying again in {wait_s:.1f} s; nothing is lost and nothing is counted twice.", "yellow")


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

    async def fleet(self, question: FleetQuestion, most: int | None = None) -> FleetPerformance:
        """How the fleet charged, its pages put together: the first `most` vehicles, or all of them."""
        whole = FleetPerformance()
        page = FleetQuestion()
        page.CopyFrom(question)
        while True:
            left = PAGE_MAX_VEHICLES if most is None else most - len(whole.vehicles)
            page.page_size = min(left, PAGE_MAX_VEHICLES)
            with service_errors(self.address):
                answer = await self._stub.ListVehiclePerformance(page, timeout=CALL_TIMEOUT_S)
            if not page.page_token:
                whole.MergeFrom(answer)
            else:
                whole.vehicles.extend(answer.vehicles)
            page.page_token = answer.next_page_token
            if not page.page_token or (most is not None and len(whole.vehicles) >= most):
                whole.ClearField("next_page_token")
                return whole

    async def series(self, question: SeriesQuestion) -> Series:
        """How one vehicle charged over time."""
        with service_errors(self.address):
            return await self._stub.GetPerformanceSeries(question, timeout=CALL_TIMEOUT_S)

    async def vehicle_status(self, vehicle_id: str) -> VehicleStatus | None:
        """A vehicle's newest reading; None for an unknown one."""
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
        """A meter's newest reading; None for an unknown one."""
        try:
            with service_errors(self.address):
                return await self._stub.GetMeterStatus(GetMeterStatusRequest(meter_id=meter_id), timeout=CALL_TIMEOUT_S)
        except ServiceError as error:
            if error.code == "NOT_FOUND":
                return None
            raise
