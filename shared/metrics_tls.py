"""Who may see metrics: over TLS, whoever has a certificate of the fleet with the role reader or operator.

Without a client CA, which a service with TLS has only where it serves anonymous clients, anybody may.
"""

import ssl
from pathlib import Path

from shared.certificates import identity_of
from shared.config import ServingSettings
from shared.deny_list import DenyList
from shared.permissions import READ
from shared.watched_files import WatchedFiles


class NotAllowed(Exception):
    """A client may not see the metrics. The message says who it is, and what it would need."""

    def __init__(self, name: str, message: str) -> None:
        super().__init__(message)
        self.name = name


class MetricsTls:
    """TLS of the metrics' listener. Raises OSError or ValueError where a file cannot be used."""

    def __init__(self, certificate: Path, key: Path, client_ca: Path | None, deny_file: Path | None) -> None:
        self._certificate = certificate
        self._key = key
        self._client_ca = client_ca
        files = [each for each in (certificate, key, client_ca) if each is not None]
        self._context = WatchedFiles("metrics_certificates", files, self._read)
        self._denied = DenyList(deny_file, "metrics_deny_list")

    @classmethod
    def of(cls, settings: ServingSettings) -> "MetricsTls | None":
        """As configured; None where the service talks plaintext."""
        if settings.tls_cert_file is None or settings.tls_key_file is None:
            return None
        return cls(settings.tls_cert_file, settings.tls_key_file, settings.tls_client_ca_file, settings.tls_deny_file)

    async def refresh(self) -> None:
        """Reads files that have changed; connections from now on are made with them."""
        self._context.refresh()
        self._denied.refresh()

    @property
    def context(self) -> ssl.SSLContext:
        """For the next connection."""
        return self._context.value

    def require_allowed(self, connection: ssl.SSLObject) -> None:
        """Raises NotAllowed. The handshake has proved the client's certificate."""
        if self._client_ca is None:
            return
        shown = connection.getpeercert(binary_form=True)
        assert shown is not None, "the handshake asks for one"
        try:
            identity = identity_of(ssl.DER_cert_to_PEM_cert(shown).encode())
        except ValueError as error:
            raise NotAllowed("", f"the certificate names nobody: {error}") from None
        if refusal := self._denied.refusal(identity.serial, identity.name):
            raise NotAllowed(identity.name, refusal)
        if not READ.met_by(identity.grants):
            raise NotAllowed(identity.name, f"metrics need {READ.said}, which {identity.name} has not")

    def _read(self) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self._certificate, self._key, password=lambda: b"")  # or it would ask at a terminal
        if self._client_ca is not None:
            context.verify_mode = ssl.CERT_REQUIRED
            context.load_verify_locations(self._client_ca)
        return context
