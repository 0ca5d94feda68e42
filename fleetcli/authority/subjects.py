"""What a certificate names: devices and roles of a client, or the names under which a server is reached."""

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, ip_address
from urllib.parse import quote

from fleetcli.authority.refusals import CertificateRefused
from shared.device_ids import DEVICE_ID_ACCEPTED, is_device_id
from shared.identity import BadGrant, Role, device_urn, grants_of, prefix_urn, role_urn

ServerName = str | IPv4Address | IPv6Address

NAMES_MAX = 400
"""Devices and roles of one certificate. With the longest ids these are 90 kB, and TLS takes chains of up to 100 kB."""

_LABEL = re.compile(r"(?!-)[A-Za-z0-9_-]{1,63}(?<!-)")
_DNS_NAME_MAX = 253

SERVER_NAME_ACCEPTED = "a DNS name such as fleet.example.com or *.example.com, or an IP address, without a port"


@dataclass(frozen=True, slots=True)
class Subject:
    """A client: the name of its files, and the URNs that its certificate has, at least one."""

    name: str
    urns: tuple[str, ...]

    @property
    def file_name(self) -> str:
        """Without an ending; what a file system may take for something else is percent-encoded."""
        return quote(self.name, safe=" ")


def _option(field: str) -> str:
    return f"--{field}"


def subject(
    meters: Sequence[str],
    vehicles: Sequence[str],
    roles: Sequence[str],
    name: str = "",
    said: Callable[[str], str] = _option,
) -> Subject:
    """A client that has these devices, `abc*` being all whose ids begin so, and these roles.

    Its name is the first id, or else the roles, unless it has one. Raises CertificateRefused with everything that is
    wrong; `said` makes of `meter`, `vehicle`, `role` or `name` where it was said.
    """
    problems = [
        f"{said(kind)}: {device[:80]!r} is no id: expected {DEVICE_ID_ACCEPTED}, or the beginning of ids and *"
        for kind, devices in (("meter", meters), ("vehicle", vehicles))
        for device in devices
        if not _is_device(kind, device)
    ]
    problems += [
        f"{said('role')}: {role[:80]!r} is no role: expected {', '.join(Role)}" for role in roles if role not in {*Role}
    ]
    if name and not is_device_id(name):
        problems.append(f"{said('name')}: {name[:80]!r} is no name: expected {DEVICE_ID_ACCEPTED}")
    if not (meters or vehicles or roles):
        problems.append(f"{said('meter')}: nothing is named: expected a meter, a vehicle or a role at least")
    if len(meters) + len(vehicles) + len(roles) > NAMES_MAX:
        problems.append(
            f"{said('meter')}: more names than a certificate holds: expected {NAMES_MAX} at most, or a prefix (abc*)"
        )
    if problems:
        raise CertificateRefused(*problems)
    urns = [_urn(kind, device) for kind, devices in (("meter", meters), ("vehicle", vehicles)) for device in devices]
    urns += [role_urn(Role(role)) for role in roles]
    return Subject(name or next(iter([*meters, *vehicles]), "-".join(roles)), tuple(dict.fromkeys(urns)))


def server_names(names: Iterable[str]) -> list[ServerName]:
    """DNS names and addresses, each once, in their order. Raises CertificateRefused with all that are neither."""
    found: dict[ServerName, None] = {}
    problems = []
    for name in names:
        try:
            found[_server_name(name)] = None
        except ValueError as why:
            problems.append(f"NAME: {name[:80]!r} {why}: expected {SERVER_NAME_ACCEPTED}")
    if problems:
        raise CertificateRefused(*problems)
    return [*found]


def _server_name(name: str) -> ServerName:
    try:
        address = ip_address(name)
    except ValueError:
        pass
    else:
        if getattr(address, "scope_id", None):
            raise ValueError("is an address of one machine's interface")
        return address
    if not name.isascii():
        raise ValueError("is not ASCII (of a name with other letters, the form that begins with xn--)")
    labels = name.removeprefix("*.").split(".")
    if len(name) > _DNS_NAME_MAX or not all(map(_LABEL.fullmatch, labels)) or labels[-1].isdecimal():
        raise ValueError("is neither a DNS name nor an address")
    return name.lower()


def _is_device(kind: str, device: str) -> bool:
    try:
        grants_of([_urn(kind, device)])
    except (BadGrant, UnicodeEncodeError):
        return False
    return True


def _urn(kind: str, device: str) -> str:
    return prefix_urn(kind, device[:-1]) if device.endswith("*") else device_urn(kind, device)
