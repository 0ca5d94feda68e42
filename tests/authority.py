"""A certificate authority in memory, and what it signs; keys of tokens."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import grpc
import jwt
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

HOUR = timedelta(hours=1)


@dataclass(frozen=True)
class Issued:
    """A certificate and its key, PEM."""

    certificate: bytes
    key: bytes
    serial: str

    def write(self, folder: Path, name: str) -> tuple[str, str]:
        """Its files, for --cert and --key."""
        files = folder / f"{name}.crt", folder / f"{name}.key"
        for file, pem in zip(files, (self.certificate, self.key), strict=True):
            file.write_bytes(pem)
        return str(files[0]), str(files[1])


@dataclass
class Authority:
    """Signs certificates. Two of them differ, whatever their names."""

    name: str = "Test CA"
    _key: ec.EllipticCurvePrivateKey = field(default_factory=lambda: ec.generate_private_key(ec.SECP256R1()))

    def __post_init__(self) -> None:
        basic = x509.BasicConstraints(ca=True, path_length=0)
        self._certificate = _signed(_named(self.name), self._key, _named(self.name), self._key, HOUR, [(basic, True)])

    @property
    def pem(self) -> bytes:
        return self._certificate.public_bytes(Encoding.PEM)

    def server(self, name: str = "127.0.0.1", lasts: timedelta = HOUR) -> Issued:
        """For a service on a loopback address."""
        names = x509.SubjectAlternativeName([x509.DNSName("localhost"), x509.IPAddress(ip_address(name))])
        return self._issue(_named("service"), names, ExtendedKeyUsageOID.SERVER_AUTH, lasts)

    def client(self, *urns: str, common_name: str = "", lasts: timedelta = HOUR, begins: timedelta = -HOUR) -> Issued:
        """For whom URNs and a common name say."""
        names = x509.SubjectAlternativeName([x509.UniformResourceIdentifier(urn) for urn in urns]) if urns else None
        return self._issue(_named(common_name), names, ExtendedKeyUsageOID.CLIENT_AUTH, lasts, begins)

    def _issue(
        self,
        subject: x509.Name,
        names: x509.SubjectAlternativeName | None,
        usage: x509.ObjectIdentifier,
        lasts: timedelta,
        begins: timedelta = -HOUR,
    ) -> Issued:
        key = ec.generate_private_key(ec.SECP256R1())
        extensions: list[tuple[x509.ExtensionType, bool]] = [(x509.ExtendedKeyUsage([usage]), False)]
        if names is not None:
            extensions.append((names, False))
        certificate = _signed(subject, key, self._certificate.subject, self._key, lasts, extensions, begins)
        return Issued(
            certificate.public_bytes(Encoding.PEM),
            key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()),
            f"{certificate.serial_number:x}",
        )


def _named(common_name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)] if common_name else [])


def _signed(
    subject: x509.Name,
    key: ec.EllipticCurvePrivateKey,
    issuer: x509.Name,
    issuer_key: ec.EllipticCurvePrivateKey,
    lasts: timedelta,
    extensions: Sequence[tuple[x509.ExtensionType, bool]],
    begins: timedelta = -HOUR,
) -> x509.Certificate:
    now = datetime.now(UTC)
    builder = x509.CertificateBuilder(
        issuer, subject, key.public_key(), x509.random_serial_number(), now + begins, now + lasts
    )
    for extension, critical in extensions:
        builder = builder.add_extension(extension, critical)
    return builder.sign(issuer_key, SHA256())


class TokenKey:
    """Signs tokens."""

    def __init__(self, key_id: str) -> None:
        self.key_id = key_id
        self._key = ec.generate_private_key(ec.SECP256R1())

    @property
    def jwk(self) -> Mapping[str, Any]:
        """Its public half."""
        found: dict[str, Any] = jwt.algorithms.ECAlgorithm.to_jwk(self._key.public_key(), as_dict=True)
        return found | {"kid": self.key_id, "alg": "ES256"}

    def token(self, *roles: str, lasts_s: float = 86_400, **claims: Any) -> str:
        """By default it lasts longer than the suite does, some of whose tokens are made as it begins."""
        said = {"sub": "back-end", "aud": "energyfleet", "exp": datetime.now(UTC) + timedelta(seconds=lasts_s)}
        return jwt.encode(said | {"roles": list(roles)} | claims, self._key, "ES256", {"kid": self.key_id})


@dataclass(frozen=True)
class TlsFolder:
    """The files of a service with mutual TLS."""

    folder: Path
    authority: Authority
    keys: Sequence[TokenKey] = ()

    def __post_init__(self) -> None:
        self.show(self.authority.server())
        self.replace("ca.crt", self.authority.pem)
        self.replace("denied", b"")
        if self.keys:
            self.replace("jwks.json", json.dumps({"keys": [each.jwk for each in self.keys]}).encode())

    def show(self, issued: Issued) -> None:
        """Replaces the service's certificate and key."""
        self.replace("server.key", issued.key)
        self.replace("server.crt", issued.certificate)

    def replace(self, name: str, content: bytes) -> None:
        new = self.folder / f"{name}.new"
        new.write_bytes(content)
        new.replace(self.folder / name)

    @property
    def settings(self) -> Mapping[str, Any]:
        found: dict[str, Any] = {
            "tls_cert_file": self.folder / "server.crt",
            "tls_key_file": self.folder / "server.key",
            "tls_client_ca_file": self.folder / "ca.crt",
            "tls_deny_file": self.folder / "denied",
        }
        if self.keys:
            found |= {"backend_address": "127.0.0.1:0", "jwks_file": self.folder / "jwks.json"}
        return found


def channel(address: str, trusted: bytes, issued: Issued | None = None) -> grpc.aio.Channel:
    """A channel over TLS, with a certificate where there is one. No handshake is shared with another channel."""
    pair = (None, None) if issued is None else (issued.key, issued.certificate)
    options = (("grpc.use_local_subchannel_pool", 1),)
    return grpc.aio.secure_channel(address, grpc.ssl_channel_credentials(trusted, *pair), options=options)
