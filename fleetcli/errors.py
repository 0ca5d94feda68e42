"""Everything that ends a command early, as one hierarchy. The message is what the operator reads; no traceback follows.

CommandError
├── BadInput          a file or an option is not what it should be
├── ServiceError      a service answered with a status other than OK
│   └── NotReachable  nobody answered at all
├── StreamCutShort    a service ended a stream before all of it was resolved, and its reason is not known
└── StackError        the database or a service could not be started, or ended by itself
"""

from collections.abc import Sequence


class CommandError(Exception):
    """The command could not do what it was asked to."""


class BadInput(CommandError):
    """A file or an option is not what it should be."""


class ServiceError(CommandError):
    """A service answered with a status other than OK; after `retry_after_s` seconds, where it says so, ask again."""

    retry_after_s: float | None

    def __init__(
        self, address: str, code: str, message: str, violations: Sequence[str], retry_after_s: float | None
    ) -> None:
        told = "; ".join(violations) or message or "it gives no reason"
        retry = f"; it may succeed in {retry_after_s:g} s" if retry_after_s is not None else ""
        super().__init__(f"{address} answered {code}: {told}{retry}")
        self.code = code
        self.retry_after_s = retry_after_s


class NotReachable(ServiceError):
    """Nobody answered at all."""

    def __init__(self, address: str, details: str) -> None:
        CommandError.__init__(
            self, f"no answer from {address} ({details}); is the service running? `energyfleet up` starts everything"
        )
        self.code = "UNAVAILABLE"
        self.retry_after_s = None


class StreamCutShort(CommandError):
    """A service ended a stream before all of it was resolved, and its reason is not known."""

    def __init__(self, address: str) -> None:
        super().__init__(f"{address} ended the stream early, because it is stopping or its database is away")


class StackError(CommandError):
    """The database or a service could not be started, or ended by itself."""
