"""What a certificate says, for people and for programs."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from cryptography import x509
from cryptography.x509.oid import ExtendedKeyUsageOID

from fleetcli.authority.issuing import alternative_names, is_authority, purposes
from fleetcli.authority.pairs import client_urns
from shared.deny_list import serial_text
from shared.identity import BadGrant, DeviceIds, Grants, Role, grants_of, is_ours

ALLOWED: Mapping[Role, str] = {
    Role.READER: "ask: performance, status and all lists",
    Role.OPERATOR: "map, unmap and correct, and ask everything",
    Role.GATEWAY: "send readings of any device",
}


@dataclass(frozen=True, slots=True)
class Description:
    """A certificate in plain words."""

    kind: str
    """`client`, `server`, `authority` or `unknown`."""
    names: tuple[str, ...]
    allows: tuple[str, ...]
    serial: str
    issuer: str
    not_before: datetime
    not_after: datetime
    state: str
    """`valid`, `expired` or `not yet valid`."""
    days_left: int
    """Whole days until it ends; negative where it has ended."""
    denied: bool

    def as_json(self) -> dict[str, Any]:
        return {
            "kind": self.kind,
            "names": [*self.names],
            "allows": [*self.allows],
            "serial": self.serial,
            "issuer": self.issuer,
            "notBefore": _iso(self.not_before),
            "notAfter": _iso(self.not_after),
            "state": self.state,
            "daysLeft": self.days_left,
            "denied": self.denied,
        }


def describe(certificate: x509.Certificate, denied: frozenset[str], now: datetime) -> Description:
    """What it names and allows, whoever has signed it; `denied` are the serials of the deny-list."""
    kind = kind_of(certificate)
    names, allows = _client(certificate) if kind == "client" else _others(certificate, kind)
    begins, ends = certificate.not_valid_before_utc, certificate.not_valid_after_utc
    serial = serial_text(certificate.serial_number)
    state = "not yet valid" if now < begins else "expired" if now > ends else "valid"
    return Description(
        kind,
        tuple(map(printable, names)),
        tuple(allows),
        serial,
        printable(certificate.issuer.rfc4514_string()),
        begins,
        ends,
        state,
        (ends - now).days,
        serial in denied,
    )


def kind_of(certificate: x509.Certificate) -> str:
    """`client`, `server`, `authority` or `unknown`."""
    if is_authority(certificate):
        return "authority"
    used = purposes(certificate)
    if ExtendedKeyUsageOID.CLIENT_AUTH in used:
        return "client"
    return "server" if used else "unknown"


def named(certificate: x509.Certificate) -> str:
    """Whom a client's certificate names, in a line."""
    return " ".join(map(printable, client_urns(certificate))) or printable(certificate.subject.rfc4514_string())


def printable(text: str) -> str:
    """A certificate may say anything: what a terminal would obey is escaped."""
    return "".join(each if each.isprintable() else each.encode("unicode_escape").decode() for each in text)


def _client(certificate: x509.Certificate) -> tuple[Sequence[str], Sequence[str]]:
    urns = client_urns(certificate)
    try:
        grants = grants_of(urns)
    except BadGrant as why:
        return urns, [f"nothing, the services refuse it: {printable(str(why))}"]
    names = [
        *_devices("meter", grants.meters),
        *_devices("vehicle", grants.vehicles),
        *(f"role {role}" for role in sorted(grants.roles)),
        *(f"{urn} (not ours)" for urn in urns if not is_ours(urn)),
    ]
    return names, _allowed(grants) or ["nothing but to look at the services' health"]


def _devices(kind: str, devices: DeviceIds) -> list[str]:
    exact = [f"{kind} {each}" for each in sorted(devices.ids)]
    return exact + [
        f"every {kind} whose id begins with {each}" if each else f"every {kind}" for each in devices.prefixes
    ]


def _allowed(grants: Grants) -> list[str]:
    devices = [*_devices("meter", grants.meters), *_devices("vehicle", grants.vehicles)]
    own = [f"send readings of {', '.join(devices)}"] if devices else []
    return own + [ALLOWED[role] for role in sorted(grants.roles)]


def _others(certificate: x509.Certificate, kind: str) -> tuple[Sequence[str], Sequence[str]]:
    names = [str(each.value) for each in alternative_names(certificate)]
    if kind == "authority":
        return [certificate.subject.rfc4514_string()], ["sign certificates"]
    return names, ["serve under these names"] if kind == "server" else ["nothing: neither a client nor a server"]


def _iso(moment: datetime) -> str:
    return f"{moment:%Y-%m-%dT%H:%M:%SZ}"
