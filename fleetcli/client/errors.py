"""Everything that a call to a service can fail with, as one hierarchy. The message is a sentence for people.

ClientError
├── BadCredentials           what a client shall show or trust cannot be used; nothing was sent
├── ServiceError             a service answered with a status other than OK
│   ├── IdentityRefused      it does not accept who calls, or does not let him do that
│   └── NotReachable         there was no answer at all
│       └── HandshakeFailed  one side does not accept the other, before any call
└── StreamCutShort           a service ended a stream before all of it was resolved, and its reason is not known
"""

from collections.abc import Sequence


class ClientError(Exception):
    """A call did not succeed."""


class BadCredentials(ClientError):
    """What a client shall show or trust cannot be used. The message names the option and what would be accepted."""

    def __init__(self, option: str, file: str | None, problem: str) -> None:
        """`option`: ca, cert, key or token; `file`: which one it names, None where the problem is not in a file."""
        super().__init__(f"--{option}{f' {file}' if file is not None else ''}: {problem}")
        self.option = option
        self.file = file
        self.problem = problem


class ServiceError(ClientError):
    """A service answered with a status other than OK. Where `retry_after_s` is given, a retry may succeed after it."""

    retry_after_s: float | None

    def __init__(
        self, address: str, code: str, message: str, violations: Sequence[str], retry_after_s: float | None
    ) -> None:
        reason = "; ".join(violations) or message or "it gives no reason"
        retry = f"; it may succeed in {retry_after_s:g} s" if retry_after_s is not None else ""
        super().__init__(f"{address} answered {code}: {reason}{retry}")
        self.code = code
        self.retry_after_s = retry_after_s


class IdentityRefused(ServiceError):
    """A service does not accept who calls (UNAUTHENTICATED), or does not let him do that (PERMISSION_DENIED).

    The same call is refused until the certificate or token is another, or the service knows better.
    """

    def __init__(self, address: str, code: str, identity: str, message: str) -> None:
        """`identity`: who was shown; `message`: what the service says."""
        advice = {
            "UNAUTHENTICATED": "--cert and --key show another certificate, --token a token",
            "PERMISSION_DENIED": "--cert and --key, or --token, show one that grants it",
        }[code]
        reason = message or "it gives no reason"
        ClientError.__init__(self, f"{address} refuses {identity}: {reason} ({code}); {advice}")
        self.code = code
        self.retry_after_s = None


class NotReachable(ServiceError):
    """There was no answer at all."""

    def __init__(self, address: str, details: str) -> None:
        self._unavailable(f"no answer from {address} ({details})")

    def _unavailable(self, message: str) -> None:
        ClientError.__init__(self, message)
        self.code = "UNAVAILABLE"
        self.retry_after_s = None


class HandshakeFailed(NotReachable):
    """One side does not accept the other, before any call. The message says which, why, and what to do.

    `lasting`: it stays so until somebody changes something; otherwise the service may also have been stopping.
    """

    def __init__(self, message: str, *, lasting: bool) -> None:
        self._unavailable(message)
        self.lasting = lasting


class StreamCutShort(ClientError):
    """A service ended a stream before all of it was resolved, and its reason is not known."""

    def __init__(self, address: str) -> None:
        super().__init__(f"{address} ended the stream early, because it is stopping or its database is away")
