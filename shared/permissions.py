"""Which rpc needs what: the one table. An rpc that is not in it is nobody's."""

from collections.abc import Callable, Mapping
from typing import NamedTuple

from shared.identity import Grants, Role


class Need(NamedTuple):
    """What a caller must have."""

    said: str
    """In words for people."""
    met_by: Callable[[Grants], bool]


def _reads(grants: Grants) -> bool:
    return bool(grants.roles & {Role.READER, Role.OPERATOR})


def _operates(grants: Grants) -> bool:
    return Role.OPERATOR in grants.roles


def _sends(grants: Grants) -> bool:
    return bool(grants.any_device or grants.meters or grants.vehicles)


def _is_known(_: Grants) -> bool:
    return True


READ = Need("the role reader or operator", _reads)
OPERATE = Need("the role operator", _operates)
SEND = Need("a device of its own or the role gateway", _sends)
"""Whether a device is the caller's own is asked of each reading."""
BE_KNOWN = Need("any certificate of the fleet, or a token", _is_known)

_INGESTION = "/energyfleet.v1.IngestionService"
_ANALYTICS = "/energyfleet.v1.AnalyticsService"

NEEDS: Mapping[str, Need] = {
    f"{_INGESTION}/StreamTelemetry": SEND,
    f"{_INGESTION}/ExchangeTelemetry": SEND,
    f"{_INGESTION}/IngestTelemetry": SEND,
    f"{_INGESTION}/MapVehicle": OPERATE,
    f"{_INGESTION}/UnmapVehicle": OPERATE,
    f"{_INGESTION}/ListMappings": READ,
    f"{_INGESTION}/ListMappingChanges": READ,
    f"{_INGESTION}/CorrectReading": OPERATE,
    f"{_INGESTION}/ListCorrections": READ,
    f"{_ANALYTICS}/GetVehiclePerformance": READ,
    f"{_ANALYTICS}/ListVehiclePerformance": READ,
    f"{_ANALYTICS}/ListMeterPerformance": READ,
    f"{_ANALYTICS}/GetPerformanceSeries": READ,
    f"{_ANALYTICS}/ListChargingSessions": READ,
    f"{_ANALYTICS}/GetVehicleStatus": READ,
    f"{_ANALYTICS}/GetMeterStatus": READ,
    f"{_ANALYTICS}/BatchGetStatus": READ,
    f"{_ANALYTICS}/ListDevices": READ,
    "/grpc.health.v1.Health/Check": BE_KNOWN,
    "/grpc.health.v1.Health/List": BE_KNOWN,
    "/grpc.health.v1.Health/Watch": BE_KNOWN,
    "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo": READ,
}
"""By the path of the rpc."""
