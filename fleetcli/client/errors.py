"""Everything that a call to a service can fail with, as one hierarchy. The message is a sentence for people.

ClientError
├── ServiceError      a service answered with a status other than OK
│   └── NotReachable  there was no answer at all
└── StreamCutShort    a service ended a stream before all of it was resolved, and its reason is not known
"""

from collections.abc import Sequence


class ClientError(Exception):
    """A call did not succeed."""


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


class NotReachable(ServiceError):
    """There was no answer at all."""

    def __init__(self, address: str, details: str) -> None:
        ClientError.__init__(self, f"no answer from {address} ({details})")
        self.code = "UNAVAILABLE"
        self.retry_after_s = None


class StreamCutShort(ClientError):
    """A service ended a stream before all of it was resolved, and its reason is not known."""

    def __init__(self, address: str) -> None:
        super().__init__(f"{address} ended the stream early, because it is stopping or its database is away")
