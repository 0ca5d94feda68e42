"""The certificates of a benchmark's fleet, and channels over mutual TLS."""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

import grpc
from cryptography.hazmat.primitives.serialization import Encoding

from fleetcli.authority.issuing import key_pem, make_authority, new_key, open_authority
from fleetcli.authority.pairs import make_pair
from fleetcli.authority.subjects import server_names, subject

DAYS = 1


class Credentials(NamedTuple):
    """What a client trusts and shows, PEM."""

    authority: bytes
    certificate: bytes
    key: bytes


class Fleet:
    """An authority and a service's certificate, in a directory."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        now = datetime.now(UTC)
        authority = make_authority(directory, now)
        names = server_names(["127.0.0.1"])
        make_pair(authority, directory / "server.crt", lambda key: authority.server(names, key, DAYS, now))

    @property
    def variables(self) -> Mapping[str, str]:
        """Of a service's environment."""
        return {
            "ENERGYFLEET_TLS_CERT_FILE": str(self.directory / "server.crt"),
            "ENERGYFLEET_TLS_KEY_FILE": str(self.directory / "server.key"),
            "ENERGYFLEET_TLS_CLIENT_CA_FILE": str(self.directory / "ca.crt"),
        }


def credentials_of(directory: Path, *, meters: Sequence[str] = (), roles: Sequence[str] = ()) -> Credentials:
    """A new certificate of the authority in a directory, for these meters and roles."""
    authority, key = open_authority(directory), new_key()
    certificate = authority.client(subject(meters, (), roles), key.public_key(), DAYS, datetime.now(UTC))
    pem = certificate.public_bytes(Encoding.PEM)
    return Credentials(authority.certificate.public_bytes(Encoding.PEM), pem, key_pem(key))


def open_channel(
    address: str, credentials: Credentials | None, options: Sequence[tuple[str, int]] = ()
) -> grpc.aio.Channel:
    """A channel in plaintext, or over mutual TLS."""
    if credentials is None:
        return grpc.aio.insecure_channel(address, options)
    shown = grpc.ssl_channel_credentials(credentials.authority, credentials.key, credentials.certificate)
    return grpc.aio.secure_channel(address, shown, options)
