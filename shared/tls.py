"""The certificates that a service shows and trusts, read again when their files change.

A connection keeps what it was made with: a rotation ends no stream.
"""

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple, TypeVar

import grpc

from shared.certificates import KeyPair, certificates_of, expires_at_us, key_pair
from shared.timestamps import Clock
from shared.watched_files import WatchedFiles

Found = TypeVar("Found")


class TlsFiles(NamedTuple):
    """PEM files."""

    certificate: Path
    key: Path
    client_ca: Path | None
    """Whose certificates clients must have; None: nobody is asked for one."""


class _Loaded(NamedTuple):
    pair: KeyPair
    client_ca: bytes | None
    expires_at_us: dict[str, int]
    """By what it is."""


class ServerTls:
    """TLS of a service's listeners. Raises OSError or ValueError where a file cannot be used."""

    def __init__(self, files: TlsFiles, clock: Clock) -> None:
        self._files = files
        self._clock = clock
        self._loaded = WatchedFiles("certificates", [each for each in files if each is not None], self._read)

    def refresh(self) -> None:
        """Reads what has changed; handshakes from now on are made with it."""
        self._loaded.refresh()

    @property
    def expiry_s(self) -> dict[str, float]:
        """In how many seconds what ends, negative where it has ended: `server`, and `client_ca` where there is one."""
        now_us = self._clock()
        return {what: (ends_us - now_us) / 1e6 for what, ends_us in self._loaded.value.expires_at_us.items()}

    def credentials(self, *, asks_for_certificate: bool) -> grpc.ServerCredentials:
        """For a listener. Whether clients must show a certificate that the client CA has signed."""
        shown = self._loaded.value

        def configured(loaded: _Loaded) -> grpc.ServerCertificateConfiguration:
            pairs = [(loaded.pair.key, loaded.pair.chain)]
            return grpc.ssl_server_certificate_configuration(pairs, loaded.client_ca if asks_for_certificate else None)

        def fetch() -> grpc.ServerCertificateConfiguration | None:
            """Called in each handshake; None: as before."""
            nonlocal shown
            if self._loaded.value is shown:
                return None
            shown = self._loaded.value
            return configured(shown)

        # Its stubs do not know that nothing new is None.
        return grpc.dynamic_ssl_server_credentials(configured(shown), fetch, asks_for_certificate)  # type: ignore[arg-type]

    def _read(self) -> _Loaded:
        certificate, key, client_ca = self._files
        pair = _of_file(certificate, lambda: key_pair(certificate.read_bytes(), key.read_bytes()))
        expires = {"server": pair.expires_at_us}
        trusted = None
        if client_ca is not None:
            trusted = client_ca.read_bytes()
            expires["client_ca"] = _of_file(client_ca, lambda: expires_at_us(certificates_of(client_ca.read_bytes())))
        for what, path in (("server", certificate), ("client_ca", client_ca)):
            if what in expires and expires[what] <= self._clock():
                raise ValueError(f"{path}: it has expired")
        return _Loaded(pair, trusted, expires)


def _of_file(path: Path, read: Callable[[], Found]) -> Found:
    try:
        return read()
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
