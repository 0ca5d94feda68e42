"""What a client shows to a service, and whom it trusts: PEM files and a token, checked before anything is sent.

    credentials = Credentials.read(ca="ca.pem", cert="meter-1.pem", key="meter-1.key")
    credentials = Credentials.read(ca="ca.pem", token="@token")      # a token as it is, or @ and a file that has it
    Credentials()                                                    # plaintext, and nothing to show

A certificate goes with its key. Both, and a token, need a CA: the authorities of the operating system are not trusted
by themselves, as any of them could sign for somebody else's service. A token never goes over plaintext, nor beside a
certificate, as a listener asks for one of the two.
"""

import json
import re
from base64 import urlsafe_b64decode
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.x509.oid import ExtendedKeyUsageOID

from fleetcli.client.errors import BadCredentials
from shared.certificates import UNNAMED, certificates_of, common_name_of, key_pair, uris_of
from shared.deny_list import serial_text
from shared.identity import is_ours
from shared.timestamps import US_PER_SECOND, iso_from_us, us_from_datetime

FILE_MAX_BYTES = 4 * 1024 * 1024
"""Ten times the authorities of an operating system: a file that never ends is not read to its end."""

NAMES_SHOWN = 3
"""Of what a certificate names: a charger's meter and vehicle, and one more."""

_TOKEN = re.compile(r"[A-Za-z0-9._~+/-]+=*")
"""What may follow `Bearer` (RFC 6750)."""


@dataclass(frozen=True, slots=True)
class Credentials:
    """Whom to trust and what to show, as PEM; without a CA: plaintext. Its repr has the names of the files alone."""

    ca: bytes | None = field(default=None, repr=False)
    certificate: bytes | None = field(default=None, repr=False)
    """A chain, the client's own certificate first."""
    key: bytes | None = field(default=None, repr=False)
    token: str | None = field(default=None, repr=False)
    files: Mapping[str, str] = field(default_factory=dict, compare=False)
    """Those that are read again, by `ca`, `cert`, `key` and `token`: all that are no pipes."""

    @classmethod
    def read(
        cls, ca: str | None = None, cert: str | None = None, key: str | None = None, token: str | None = None
    ) -> Self:
        """Reads and checks what is given. Raises BadCredentials."""
        _require_together(ca, cert, key, token)
        in_file = token is not None and token.startswith("@")
        given = {"ca": ca, "cert": cert, "key": key, "token": token[1:] if token is not None and in_file else None}
        names = {option: name for option, name in given.items() if name is not None}
        contents = {option: _content(option, name) for option, name in names.items()}
        if token is not None and not in_file:
            contents["token"] = token.encode()
        return cls(*_checked(contents, names), {each: name for each, name in names.items() if Path(name).is_file()})

    def renewed(self) -> "Credentials | None":
        """What the files have now; None where that is the same.

        Raises BadCredentials. Files change one after the other: what does not go together may do so a moment later.
        """
        held = {"ca": self.ca, "cert": self.certificate, "key": self.key, "token": (self.token or "").encode() or None}
        contents = {option: content for option, content in held.items() if content is not None}
        contents |= {option: _content(option, name) for option, name in self.files.items()}
        if contents == {option: content for option, content in held.items() if content is not None}:
            return None
        now = Credentials(*_checked(contents, self.files), self.files)
        return None if now == self else now

    @property
    def identity(self) -> str:
        """Who is shown, for people: what the certificate names, or the token's subject."""
        if self.certificate is not None:
            return f"the certificate of {_certificate_text(certificates_of(self.certificate)[0])}"
        return "a client without a certificate and a token" if self.token is None else _token_text(self.token)

    @property
    def authorities(self) -> str:
        """Who is trusted, for people."""
        return _listed([each.subject.rfc4514_string() for each in certificates_of(self.ca or b"")])

    def flaw(self, now_us: int) -> str:
        """Why nobody accepts the certificate at a time, after its name; empty where that is not seen here."""
        if self.certificate is None:
            return ""
        own = certificates_of(self.certificate)[0]
        if us_from_datetime(own.not_valid_after_utc) < now_us:
            return "has expired, by this machine's clock; renew it"
        if us_from_datetime(own.not_valid_before_utc) > now_us:
            return "is not valid yet, by this machine's clock"
        return "" if _is_for_clients(own) else "is not for clients: its extended key usage has no clientAuth"


def _require_together(ca: str | None, cert: str | None, key: str | None, token: str | None) -> None:
    if (cert is None) != (key is None):
        missing = "key" if key is None else "cert"
        raise BadCredentials(missing, None, "--cert and --key go together: a certificate is shown by who has its key")
    if token is not None and cert is not None:
        raise BadCredentials(
            "token", None, "either --token or --cert and --key, not both; variables count as options do"
        )
    if ca is None and (cert is not None or token is not None):
        shown = "a certificate is shown" if token is None else "a token is sent"
        why = f"{shown} over TLS alone: say with --ca whose certificate the service must have"
        raise BadCredentials("ca", None, why)


def _content(option: str, name: str) -> bytes:
    try:
        with Path(name).open("rb") as file:
            content = file.read(FILE_MAX_BYTES + 1)
    except (OSError, ValueError) as error:  # ValueError: a name with a null byte
        raise BadCredentials(option, name, getattr(error, "strerror", None) or str(error)) from None
    if len(content) > FILE_MAX_BYTES:
        raise BadCredentials(option, name, f"larger than {FILE_MAX_BYTES:,} bytes")
    return content


def _checked(
    contents: Mapping[str, bytes], names: Mapping[str, str]
) -> tuple[bytes | None, bytes | None, bytes | None, str | None]:
    """CA, certificate, key and token. Raises BadCredentials."""
    ca, cert, key, token = (contents.get(option) for option in ("ca", "cert", "key", "token"))
    for option, pem in (("ca", ca), ("cert", cert)):
        if pem is not None:
            try:
                certificates_of(pem)
            except ValueError as error:
                raise BadCredentials(option, names.get(option), str(error)) from None
    if cert is not None and key is not None:
        try:
            key_pair(cert, key)
        except (ValueError, UnsupportedAlgorithm) as error:
            raise BadCredentials("key", names.get("key"), f"{error} ({names.get('cert', 'a pipe')})") from None
    if token is None:
        return ca, cert, key, None
    text = token.decode(errors="replace").strip()
    if not _TOKEN.fullmatch(text):
        raise BadCredentials("token", names.get("token"), "expected a bearer token, or @ and a file with one")
    return ca, cert, key, text


def _certificate_text(certificate: x509.Certificate) -> str:
    urns = [uri for uri in uris_of(certificate) if is_ours(uri)]
    common_name = common_name_of(certificate)
    name = _listed(urns) if urns else f"CN={common_name}" if common_name else UNNAMED
    until = iso_from_us(us_from_datetime(certificate.not_valid_after_utc))
    issuer = certificate.issuer.rfc4514_string() or "nobody named"
    return f"{name} (serial {serial_text(certificate.serial_number)}, issued by {issuer}, valid until {until})"


def _is_for_clients(certificate: x509.Certificate) -> bool:
    try:
        usage = certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    except x509.ExtensionNotFound:
        return True  # for anything
    return not {ExtendedKeyUsageOID.CLIENT_AUTH, ExtendedKeyUsageOID.ANY_EXTENDED_KEY_USAGE}.isdisjoint(usage)


def _token_text(token: str) -> str:
    """What a JWT says of itself: the service alone can check it. Nothing that would let anybody use it."""
    try:
        part = token.split(".")[1]
        claims: Any = json.loads(urlsafe_b64decode(part + "=" * (-len(part) % 4)))
        until = f" (valid until {iso_from_us(int(claims['exp']) * US_PER_SECOND)})" if "exp" in claims else ""
        return f"the token of {str(claims['sub'])[:200]}{until}"
    except (ValueError, LookupError, TypeError, OverflowError):
        return "the token"


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - NAMES_SHOWN:,} more" if len(names) > NAMES_SHOWN else ""
    return ", ".join(names[:NAMES_SHOWN]) + more
