"""Everything that can go wrong for a caller, as one hierarchy.

    FleetError
    ├── Unauthenticated        who calls is not known, or not any more
    ├── PermissionDenied       who calls may not do that
    ├── InvalidRequest         the request breaks the contract; lists every violation
    ├── MalformedRequest       the bytes are no message of the rpc's type
    ├── UnknownDevice          it has sent no reading and is in no mapping
    ├── UnknownReading         no such reading is stored
    ├── MappingContradiction   a registered mapping says otherwise
    ├── PageTokenExpired       the result that a page token belongs to is not kept any more
    ├── SlowConsumer           the client does not read its answers
    ├── SilentStream           the client sends nothing on its stream
    ├── HeadersTooLarge        the headers of the call are too many or too long
    ├── DeadlinePassed         the caller waited no longer
    ├── DatabaseUnavailable    may succeed later
    ├── LimitExceeded          may succeed later
    └── ServiceStopping        may succeed elsewhere, or later

`shared.status` says which status code each one leaves as. Anything else is a defect: it is logged and leaves as
INTERNAL. What stops a process from starting is a StartRefused; no caller ever sees one.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from shared.timestamps import iso_from_us


class FleetError(Exception):
    """The request could not be answered."""


class Unauthenticated(FleetError):
    """Who calls is not known, or not any more. The message says why, and nothing of keys or tokens."""


class PermissionDenied(FleetError):
    """Who calls may not do that. The message names him and what he would need."""


@dataclass(frozen=True, slots=True)
class Violation:
    """One thing that is wrong with a request: where, and what would be accepted instead."""

    field: str
    description: str


class InvalidRequest(FleetError):
    """The request breaks the contract."""

    def __init__(self, violations: list[Violation]) -> None:
        super().__init__("; ".join(f"{violation.field}: {violation.description}" for violation in violations))
        self.violations = violations


class MalformedRequest(FleetError):
    """The bytes are not this rpc's request message."""

    def __init__(self, method: str) -> None:
        super().__init__(f"the bytes are not a request message of {method}")


class UnknownDevice(FleetError):
    """The device is unknown. `similar_ids` are known: they differ from its id only in case."""

    def __init__(self, kind: str, device_id: str, similar_ids: Sequence[str] = ()) -> None:
        known = f"; {', '.join(similar_ids)} {'is' if len(similar_ids) == 1 else 'are'} known" if similar_ids else ""
        super().__init__(f"{kind} {device_id} is unknown: it has sent no reading and is in no mapping{known}")


class UnknownReading(FleetError):
    """No such reading is stored."""

    def __init__(self, kind: str, device_id: str, ts_us: int) -> None:
        super().__init__(f"{kind} {device_id} has no stored reading of {iso_from_us(ts_us)}")


class MappingContradiction(FleetError):
    """A registered mapping says otherwise. The message names it."""


class PageTokenExpired(FleetError):
    """The result that a page token belongs to is not kept any more, or not by this process."""

    def __init__(self) -> None:
        super().__init__(
            "the result that this page_token belongs to is not kept here any more; ask for its first page again,"
            " without a page_token"
        )


class SlowConsumer(FleetError):
    """The client does not read the answers of its stream."""

    def __init__(self, timeout_s: float) -> None:
        super().__init__(f"an answer was not taken within {timeout_s:g} s")


class SilentStream(FleetError):
    """The client has opened a stream and sends nothing on it."""

    def __init__(self, timeout_s: float) -> None:
        super().__init__(
            f"no request came within {timeout_s:g} s of the stream's beginning; open a stream again when there is one"
        )


class HeadersTooLarge(FleetError):
    """The headers of the call are too many or too long."""

    def __init__(self, max_bytes: int) -> None:
        super().__init__(f"the headers of the call are too large; at most {max_bytes:,} bytes")


class DeadlinePassed(FleetError):
    """The caller's deadline passed before there was an answer."""

    def __init__(self) -> None:
        super().__init__("the deadline passed before the database answered")


class RetryLater(FleetError):
    """The same request may succeed after `retry_after_s`."""

    retry_after_s = 1.0


class LimitExceeded(RetryLater):
    """A limit is reached. The message says which."""

    def __init__(self, limit: str, retry_after_s: float) -> None:
        super().__init__(limit)
        self.retry_after_s = retry_after_s


class DatabaseUnavailable(RetryLater):
    """The database cannot be reached or does not answer.

    `sqlstate` and `reason` are what it or the driver said last, if anything: for our log, never for the caller.
    """

    def __init__(self, sqlstate: str | None = None, reason: str = "") -> None:
        super().__init__("the database is unavailable")
        self.sqlstate = sqlstate
        self.reason = reason


class StartRefused(Exception):
    """The process cannot start as things are. The message says what to change."""


class ServiceStopping(RetryLater):
    """The service is stopping."""

    def __init__(self) -> None:
        super().__init__("the service is stopping")


def reason_of(error: BaseException) -> str:
    """What an error says, in a line. Of what PostgreSQL says, the message without the excerpt of our statement."""
    message = getattr(getattr(error, "diag", None), "message_primary", None)
    return message or " ".join(str(error).split()) or type(error).__name__
