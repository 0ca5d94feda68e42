"""Whether readings are of the caller's own devices. One that is not ends the call: nothing of its message is stored.

A rejection would be final for firmware, and a certificate that was issued wrongly would cost readings.
"""

from collections.abc import Sequence

from energyfleet.v1.telemetry_pb2 import Telemetry

from ingestion_svc.devices import Opening
from shared import caller
from shared.device_ids import remembered_device_id
from shared.errors import PermissionDenied
from shared.identity import Identity, device_urn


def require_own(readings: Sequence[Telemetry]) -> None:
    """Raises PermissionDenied where a reading is of a device that the caller does not send for.

    What is no id is nobody's, and left to be rejected.
    """
    identity = caller.identity()
    if identity.grants.any_device:
        return
    meters, vehicles = identity.grants.meters, identity.grants.vehicles
    for reading in readings:
        if reading.HasField("meter"):
            if reading.meter.meter_id not in meters:
                _refuse(identity, "meter", reading.meter.meter_id)
        elif reading.HasField("vehicle") and reading.vehicle.vehicle_id not in vehicles:
            _refuse(identity, "vehicle", reading.vehicle.vehicle_id)


def require_own_opening(opening: Opening) -> None:
    """Raises PermissionDenied where an opening asks for a device that the caller does not send for."""
    identity = caller.identity()
    for kind, device_id in (("meter", opening.meter_id), ("vehicle", opening.vehicle_id)):
        if device_id and not identity.grants.sends_for(kind, device_id):
            raise PermissionDenied(f"{identity.name} may not ask for {device_urn(kind, device_id)}")


def _refuse(identity: Identity, kind: str, device_id: str) -> None:
    if remembered_device_id(device_id) is not None:
        raise PermissionDenied(
            f"{identity.name} may not send readings of {device_urn(kind, device_id)}; nothing of this message is stored"
        )
