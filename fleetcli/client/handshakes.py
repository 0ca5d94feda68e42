"""Why a connection came to nothing, from what gRPC says of it: its TLS library tells it in words of its own.

A service that does not accept a client's certificate says nothing: it closes the connection, as a stopping one does.
"""

import re
from collections.abc import Sequence

from fleetcli.client.credentials import Credentials
from fleetcli.client.errors import HandshakeFailed
from shared.timestamps import Clock, system_clock

_VERIFY_FAILED = re.compile(r"CERTIFICATE_VERIFY_FAILED: (.*?)(?:: OK)?$")

_UNTRUSTED = ("unable to get", "self signed", "self-signed", "unable to verify")
"""How it begins where no trusted authority has signed a certificate (X509_verify_cert_error_string)."""

_SAYS: Sequence[tuple[str, str]] = (
    (
        "Hostname Verification Check failed",
        "the certificate of {address} is for other names; connect by a name that it has, or give the service one that"
        " has this name",
    ),
    ("WRONG_VERSION_NUMBER", "{address} does not speak TLS; without --ca this client does not, and shows nothing"),
    ("Failed to create security handshaker", "TLS cannot use the certificate or key that {address} shall be shown"),
)
"""By a part of what gRPC says."""

_CLOSED = re.compile(r"failed to connect to all addresses.*(Socket closed|Connection reset by peer|Broken pipe)")


def handshake_failure(
    address: str, details: str, credentials: Credentials, clock: Clock = system_clock
) -> HandshakeFailed | None:
    """What gRPC's details of UNAVAILABLE mean, None where they are not of a handshake."""
    if (found := _VERIFY_FAILED.search(details)) is not None:
        return HandshakeFailed(
            f"the certificate of {address} is not trusted: {_why(found[1], credentials)}", lasting=True
        )
    for part, sentence in _SAYS:
        if part in details:
            return HandshakeFailed(sentence.format(address=address), lasting=True)
    if _CLOSED.search(details):
        return HandshakeFailed(f"no answer from {address}: {_closed(credentials, clock())}", lasting=False)
    return None


def _why(reason: str, credentials: Credentials) -> str:
    if reason.startswith(_UNTRUSTED):
        return f"none of those in --ca has signed it ({credentials.authorities})"
    return f"{reason}, by this machine's clock" if "expired" in reason or "not yet" in reason else reason


def _closed(credentials: Credentials, now_us: int) -> str:
    closed = "it closed the connection"
    if credentials.ca is None:
        return f"{closed} at once, as one with TLS does, or one that stops; --ca makes this client speak TLS"
    if credentials.token is not None:
        return f"{closed} during the handshake; it may want a certificate, and tokens go to an address of their own"
    if credentials.certificate is None:
        return f"{closed} during the handshake; it may want a certificate, which --cert and --key show"
    if flaw := credentials.flaw(now_us):
        return f"{closed} during the handshake; {credentials.identity} {flaw}"
    return f"{closed} during the handshake; it may not trust who issued {credentials.identity}"
