"""Who a peer is, and what it may do: what its certificate or token grants.

A grant is a URN of ours. Ids are percent-encoded; a `*` at the end stands for all ids that begin so:

    urn:energyfleet:meter:<id>       sends this meter's readings
    urn:energyfleet:vehicle:<id>     sends this vehicle's readings
    urn:energyfleet:role:reader      asks
    urn:energyfleet:role:operator    asks, maps, unmaps, corrects
    urn:energyfleet:role:gateway     sends readings of any device

SPIFFE has one URI a certificate, and a charger has two ids: hence URNs of our own.
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import NamedTuple
from urllib.parse import quote, unquote

from shared.db.device_kind import KINDS
from shared.device_ids import DEVICE_ID_ACCEPTED, is_device_id

URN_PREFIX = "urn:energyfleet:"

DEVICE_KINDS = tuple(kind.name for kind in KINDS)

CN = "{cn}"
"""Where a template has the subject's common name."""

_TEMPLATE = re.compile(r"(meter|vehicle):([^{}]*\{cn\}[^{}]*)")


class Role(StrEnum):
    """What somebody may do who is no device."""

    READER = "reader"
    OPERATOR = "operator"
    GATEWAY = "gateway"


class BadGrant(ValueError):
    """A URN of ours that grants nothing. The message says what would be accepted."""


@dataclass(frozen=True, slots=True)
class DeviceIds:
    """Ids of one kind of device: some, and all that begin in some ways."""

    ids: frozenset[str] = frozenset()
    prefixes: tuple[str, ...] = ()

    def __contains__(self, device_id: str) -> bool:
        return device_id in self.ids or device_id.startswith(self.prefixes)

    def __bool__(self) -> bool:
        return bool(self.ids or self.prefixes)


@dataclass(frozen=True, slots=True)
class Grants:
    """What somebody may do. Nothing, unless it is said."""

    roles: frozenset[Role] = frozenset()
    meters: DeviceIds = DeviceIds()
    vehicles: DeviceIds = DeviceIds()

    @property
    def any_device(self) -> bool:
        """Whether readings of all devices may be sent."""
        return Role.GATEWAY in self.roles

    @property
    def names_devices(self) -> bool:
        """Whether readings of single devices may be sent, each by its id, and of no other ones."""
        return not (self.any_device or self.meters.prefixes or self.vehicles.prefixes)

    def sends_for(self, kind: str, device_id: str) -> bool:
        """Whether readings of that `meter` or `vehicle` may be sent."""
        return self.any_device or device_id in (self.meters if kind == "meter" else self.vehicles)


@dataclass(frozen=True, slots=True)
class Identity:
    """A peer, by the name that people see and changes are stored with."""

    name: str
    grants: Grants
    serial: str = ""
    """Of its certificate, in lower-case hex; empty where it has none."""
    expires_at_us: int | None = field(default=None, compare=False)
    """When its certificate or token ends; None: never."""


ANYBODY = Identity("anonymous", Grants(frozenset(Role)))
"""Whoever reaches a service that asks nobody who he is: one without TLS on a loopback address, for the most part."""


def grants_of(urns: Iterable[str]) -> Grants:
    """What URNs grant together; those that are not ours grant nothing. Raises BadGrant."""
    roles: set[Role] = set()
    ids: dict[str, set[str]] = {kind: set() for kind in DEVICE_KINDS}
    prefixes: dict[str, set[str]] = {kind: set() for kind in DEVICE_KINDS}
    for urn in urns:
        if not is_ours(urn):
            continue
        kind, _, value = urn[len(URN_PREFIX) :].partition(":")
        if kind.lower() == "role":
            roles.add(_role(urn, value))
        elif kind.lower() in DEVICE_KINDS:
            begins = value.endswith("*")
            device_id = unquote(value.removesuffix("*"), errors="strict")
            if not (begins and not device_id) and not is_device_id(device_id.rstrip(" ") if begins else device_id):
                raise BadGrant(f"{urn}: an id has {DEVICE_ID_ACCEPTED}, percent-encoded")
            (prefixes if begins else ids)[kind.lower()].add(device_id)
        else:
            raise BadGrant(f"{urn}: expected {URN_PREFIX} and then meter, vehicle or role")
    meters, vehicles = (DeviceIds(frozenset(ids[kind]), tuple(sorted(prefixes[kind]))) for kind in DEVICE_KINDS)
    return Grants(frozenset(roles), meters, vehicles)


class CnTemplate(NamedTuple):
    """The device that a certificate stands for whose subject's common name is its id, for fleets that have them."""

    kind: str
    pattern: str

    def urn(self, common_name: str) -> str:
        """The URN of the device. Raises BadGrant where that is no id."""
        device_id = self.pattern.replace(CN, common_name)
        if not is_device_id(device_id):
            raise BadGrant(f"the common name {common_name[:80]!r} makes no {self.kind}'s id")
        return device_urn(self.kind, device_id)


def cn_templates(text: str) -> Sequence[CnTemplate]:
    """From `vehicle:{cn}`, or several of them, separated by commas. Raises ValueError."""
    found = [_TEMPLATE.fullmatch(each.strip()) for each in text.split(",")]
    if not all(found):
        raise ValueError(f"expected {' or '.join(f'{kind}:{CN}' for kind in DEVICE_KINDS)}, or both with a comma")
    return [CnTemplate(each[1], each[2]) for each in found if each]


def is_ours(urn: str) -> bool:
    """Whether a URI is one of these; the scheme and what follows it do not depend on case (RFC 8141)."""
    return urn[: len(URN_PREFIX)].lower() == URN_PREFIX


def device_urn(kind: str, device_id: str) -> str:
    """For a `meter` or a `vehicle`: exactly this id."""
    return f"{URN_PREFIX}{kind}:{quote(device_id, safe='')}"


def prefix_urn(kind: str, prefix: str) -> str:
    """For all devices of a kind whose ids begin so; empty: for all."""
    return f"{device_urn(kind, prefix)}*"


def role_urn(role: Role) -> str:
    return f"{URN_PREFIX}role:{role}"


def _role(urn: str, value: str) -> Role:
    try:
        return Role(value.lower())
    except ValueError:
        raise BadGrant(f"{urn}: expected one of the roles {', '.join(Role)}") from None
