"""A client for each service: a method for each rpc, which raises ClientError."""

from typing import Any, Self, cast

from energyfleet.v1.analytics_service_pb2 import (
    BatchGetStatusRequest,
    ChargingSession,
    ClockEvidence,
    DeviceState,
    Finding,
    FindingKind,
    Freshness,
    GetMeterStatusRequest,
    GetMeterStatusResponse,
    GetPerformanceSeriesRequest,
    GetPerformanceSeriesResponse,
    GetVehiclePerformanceRequest,
    GetVehiclePerformanceResponse,
    GetVehicleStatusRequest,
    GetVehicleStatusResponse,
    ListChargingSessionsRequest,
    ListChargingSessionsResponse,
    ListDevicesRequest,
    ListDevicesResponse,
    ListedDevice,
    ListMeterPerformanceRequest,
    ListMeterPerformanceResponse,
    ListVehiclePerformanceRequest,
    ListVehiclePerformanceResponse,
    MeterPerformance,
    MeterVerdictTotals,
    VehiclePerformance,
    Verdict,
    VerdictTotals,
)
from energyfleet.v1.analytics_service_pb2_grpc import AnalyticsServiceStub
from energyfleet.v1.ingestion_service_pb2 import (
    ChangeRecord,
    ConflictingReading,
    CorrectReadingRequest,
    ExchangeTelemetryResponse,
    IngestionSummary,
    ListCorrectionsRequest,
    ListCorrectionsResponse,
    ListMappingChangesRequest,
    ListMappingChangesResponse,
    ListMappingsRequest,
    ListMappingsResponse,
    MappingMode,
    MapVehicleRequest,
    OmittedValue,
    RejectedReading,
    RejectionReason,
    UnmapVehicleRequest,
)
from energyfleet.v1.ingestion_service_pb2 import Correction as CorrectionMessage
from energyfleet.v1.ingestion_service_pb2 import Mapping as MappingMessage
from energyfleet.v1.ingestion_service_pb2 import MappingChange as MappingChangeMessage
from energyfleet.v1.ingestion_service_pb2_grpc import IngestionServiceStub
from google.protobuf.message import Message

from fleetcli.client.channel import CALL_TIMEOUT_S, PLAINTEXT, open_channel, service_errors
from fleetcli.client.credentials import Credentials
from fleetcli.client.errors import ServiceError
from fleetcli.client.messages import timestamp, window
from fleetcli.client.uplink import OnAnswer, OnWait, Uplink

Performance = GetVehiclePerformanceResponse
FleetPerformance = ListVehiclePerformanceResponse
FleetQuestion = ListVehiclePerformanceRequest
FleetVehicle = VehiclePerformance
Meters = ListMeterPerformanceResponse
MetersQuestion = ListMeterPerformanceRequest
ListedMeter = MeterPerformance
DeviceList = ListDevicesResponse
Device = ListedDevice
Clock = ClockEvidence
DevicesQuestion = ListDevicesRequest
Series = GetPerformanceSeriesResponse
SeriesQuestion = GetPerformanceSeriesRequest
Session = ChargingSession
Sessions = ListChargingSessionsResponse
SessionsQuestion = ListChargingSessionsRequest
VehicleStatus = GetVehicleStatusResponse
MeterStatus = GetMeterStatusResponse
Mapping = MappingMessage
Mappings = ListMappingsResponse
MappingChange = MappingChangeMessage
MappingChanges = ListMappingChangesResponse
Record = ChangeRecord
Correction = CorrectionMessage
Corrections = ListCorrectionsResponse
Summary = IngestionSummary
Answer = ExchangeTelemetryResponse
Refused = RejectedReading | ConflictingReading | OmittedValue

PATIENCE_S = 10.0
"""Longer than a restart of the service, shorter than what a person takes for a hang."""

PAGE_MAX_ROWS = 1_000
"""What the service takes."""

PAGE_MAX_NOTED_ROWS = 250
"""With the longest notes, two a row, half of the 4 MiB that a channel takes of an answer."""


def verdict_of(answer: Performance | VehiclePerformance | VerdictTotals | MeterPerformance | MeterVerdictTotals) -> str:
    """The verdict's name without its prefix, `LOW_EFFICIENCY`; its number where this version does not know it."""
    return _name(Verdict, answer.verdict, "VERDICT_")


def finding_of(finding: Finding) -> str:
    """A finding's kind without its prefix, `STANDBY`; its number where this version does not know it."""
    return _name(FindingKind, finding.kind, "FINDING_KIND_")


def state_of(state: DeviceState.ValueType) -> str:
    """A device state's name without its prefix, `CLOCK_OFF`; its number where this version does not know it."""
    return _name(DeviceState, state, "DEVICE_STATE_")


def freshness_of(answer: VehicleStatus | MeterStatus | ListedDevice) -> str:
    """A freshness' name without its prefix, `ONLINE`; its number where this version does not know it."""
    return _name(Freshness, answer.freshness, "FRESHNESS_")


def reason_of(reason: RejectionReason.ValueType) -> str:
    """A rejection reason's name without its prefix, `OUT_OF_RANGE`; its number where this version does not know it."""
    return _name(RejectionReason, reason, "REJECTION_REASON_")


def _name(enum: Any, number: int, prefix: str) -> str:
    return enum.Name(number).removeprefix(prefix) if number in enum.values() else str(number)


def _device(meter: str | None, vehicle: str | None) -> dict[str, Any]:
    """The field that names a device; none where neither is given."""
    if vehicle is not None:
        return {"vehicle_id": vehicle}
    return {} if meter is None else {"meter_id": meter}


class _Client:
    def __init__(self, address: str, credentials: Credentials) -> None:
        self.address = address
        self._credentials = credentials
        self._channel = open_channel(address, credentials)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._channel.close(None)

    async def _call(self, method: Any, request: Message) -> Any:
        with service_errors(self.address, self._credentials):
            return await method(request, timeout=CALL_TIMEOUT_S)

    async def _whole(
        self, method: Any, question: Any, rows: str, most: int | None, page_max_rows: int = PAGE_MAX_ROWS
    ) -> Any:
        """The first answer, with the rows of later pages as far as they are wanted."""
        page = type(question)()
        page.CopyFrom(question)
        page.page_size = min(most or page_max_rows, page_max_rows)
        whole = await self._call(method, page)
        its = getattr(whole, rows)
        while whole.next_page_token and (most is None or len(its) < most):
            page.page_token = whole.next_page_token
            page.page_size = page_max_rows if most is None else min(most - len(its), page_max_rows)
            answer = await self._call(method, page)
            its.extend(getattr(answer, rows))
            whole.next_page_token = answer.next_page_token
        whole.ClearField("next_page_token")
        return whole


class IngestionClient(_Client):
    """Of `ingestion_svc`; over TLS where the credentials have a CA."""

    def __init__(self, address: str, credentials: Credentials = PLAINTEXT) -> None:
        super().__init__(address, credentials)
        self._stub = IngestionServiceStub(self._channel)

    async def map_vehicle(
        self,
        vehicle_id: str,
        meter_id: str,
        from_us: int | None,
        until_us: int | None = None,
        *,
        join: bool = False,
        note: str = "",
    ) -> tuple[Mapping, list[Mapping]]:
        """Maps a vehicle to a meter from an instant (None: now) until another (None: no end); also what that closed.

        The meter takes the place of the vehicle's other meters, or joins them.
        """
        request = MapVehicleRequest(
            vehicle_id=vehicle_id,
            meter_id=meter_id,
            effective_from=timestamp(from_us),
            effective_until=timestamp(until_us),
            mode=MappingMode.MAPPING_MODE_JOIN if join else MappingMode.MAPPING_MODE_REPLACE,
            note=note,
        )
        answer = await self._call(self._stub.MapVehicle, request)
        return answer.mapping, list(answer.closed)

    async def unmap_vehicle(
        self, vehicle_id: str, from_us: int | None, until_us: int | None, meter_id: str = "", note: str = ""
    ) -> list[Mapping]:
        """Unmaps a vehicle from an instant (None: now) until another (None: no end); the mappings that this removed.

        From its meters, or from that one.
        """
        request = UnmapVehicleRequest(
            vehicle_id=vehicle_id,
            effective_from=timestamp(from_us),
            effective_until=timestamp(until_us),
            meter_id=meter_id,
            note=note,
        )
        answer = await self._call(self._stub.UnmapVehicle, request)
        return list(answer.removed)

    async def mappings(self, vehicle_id: str, meter_id: str, most: int | None = None) -> Mappings:
        """Mappings of a vehicle, of a meter (empty: of all), pages put together: the first `most`, or all of them."""
        question = ListMappingsRequest(vehicle_id=vehicle_id, meter_id=meter_id)
        whole: Mappings = await self._whole(self._stub.ListMappings, question, "mappings", most, PAGE_MAX_NOTED_ROWS)
        return whole

    async def mapping_changes(self, vehicle_id: str, meter_id: str, most: int | None = None) -> MappingChanges:
        """What became of them, the newest change first; likewise."""
        question = ListMappingChangesRequest(vehicle_id=vehicle_id, meter_id=meter_id)
        whole: MappingChanges = await self._whole(
            self._stub.ListMappingChanges, question, "changes", most, PAGE_MAX_NOTED_ROWS
        )
        return whole

    async def correct(
        self, meter: str | None, vehicle: str | None, ts_us: int, energy: float | str | None, author: str, note: str
    ) -> Correction | None:
        """Makes an energy in kWh count of a reading, "void" for none or None for what was sent; None where it did."""
        request = CorrectReadingRequest(timestamp=timestamp(ts_us), author=author, note=note, **_device(meter, vehicle))
        if isinstance(energy, float):
            request.kwh = energy
        else:
            (request.as_sent if energy is None else request.voided).SetInParent()
        answer = await self._call(self._stub.CorrectReading, request)
        return answer.correction if answer.HasField("correction") else None

    async def corrections(self, meter: str | None, vehicle: str | None, most: int | None = None) -> Corrections:
        """Corrections of a device's readings, of all where neither is given, the newest first; likewise."""
        question = ListCorrectionsRequest(**_device(meter, vehicle))
        whole: Corrections = await self._whole(
            self._stub.ListCorrections, question, "corrections", most, PAGE_MAX_NOTED_ROWS
        )
        return whole

    def uplink(self, on_answer: OnAnswer | None = None, on_wait: OnWait | None = None) -> Uplink:
        """An uplink that gives up, with ClientError, when the service has been away for PATIENCE_S."""
        return Uplink(
            self._channel, self.address, self._credentials, on_answer=on_answer, on_wait=on_wait, patience_s=PATIENCE_S
        )


class AnalyticsClient(_Client):
    """Of `analytics_svc`; over TLS where the credentials have a CA."""

    def __init__(self, address: str, credentials: Credentials = PLAINTEXT) -> None:
        super().__init__(address, credentials)
        self._stub = AnalyticsServiceStub(self._channel)

    async def performance(self, vehicle_id: str, start_us: int | None = None, end_us: int | None = None) -> Performance:
        """How efficiently a vehicle charged within `(start_us, end_us]`; the service chooses an end that is None."""
        request = GetVehiclePerformanceRequest(vehicle_id=vehicle_id, window=window(start_us, end_us))
        answer: Performance = await self._call(self._stub.GetVehiclePerformance, request)
        return answer

    async def fleet(self, question: FleetQuestion, most: int | None = None) -> FleetPerformance:
        """How the fleet charged, its pages put together: the first `most` vehicles, or all of them."""
        whole: FleetPerformance = await self._whole(self._stub.ListVehiclePerformance, question, "vehicles", most)
        return whole

    async def meters(self, question: MetersQuestion, most: int | None = None) -> Meters:
        """How vehicles charged at meters; likewise."""
        whole: Meters = await self._whole(self._stub.ListMeterPerformance, question, "meters", most)
        return whole

    async def devices(self, question: DevicesQuestion, most: int | None = None) -> DeviceList:
        """How devices report; likewise."""
        whole: DeviceList = await self._whole(self._stub.ListDevices, question, "devices", most)
        return whole

    async def series(self, question: SeriesQuestion) -> Series:
        answer: Series = await self._call(self._stub.GetPerformanceSeries, question)
        return answer

    async def sessions(self, question: SessionsQuestion) -> Sessions:
        """All charging sessions of a window, its pages put together."""
        whole: Sessions = await self._whole(self._stub.ListChargingSessions, question, "sessions", None)
        return whole

    async def vehicle_status(self, vehicle_id: str) -> VehicleStatus | None:
        """A vehicle's newest reading; None for an unknown one."""
        request = GetVehicleStatusRequest(vehicle_id=vehicle_id)
        return cast(VehicleStatus | None, await self._found(self._stub.GetVehicleStatus, request))

    async def meter_status(self, meter_id: str) -> MeterStatus | None:
        """A meter's newest reading; None for an unknown one."""
        request = GetMeterStatusRequest(meter_id=meter_id)
        return cast(MeterStatus | None, await self._found(self._stub.GetMeterStatus, request))

    async def similar_ids(self, vehicle_id: str, meter_id: str) -> tuple[list[str], list[str]]:
        """Of known vehicles and of known meters the ids that differ from these only in case."""
        request = BatchGetStatusRequest(vehicle_ids=[vehicle_id], meter_ids=[meter_id])
        answer = await self._call(self._stub.BatchGetStatus, request)
        return list(answer.vehicles[0].similar_ids), list(answer.meters[0].similar_ids)

    async def _found(self, method: Any, request: Message) -> Any:
        try:
            return await self._call(method, request)
        except ServiceError as error:
            if error.code == "NOT_FOUND":
                return None
            raise
