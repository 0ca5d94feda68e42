"""Everything that can go wrong for a caller, as one hierarchy.

    FleetError
    ├── InvalidRequest         the request breaks the contract; lists every violation
    ├── MalformedRequest       the bytes are no message of the rpc's type
    ├── UnknownDevice          never heard of
    ├── MappingContradiction   a registered mapping says otherwise
    ├── DatabaseUnavailable    may succeed later
    └── ServiceStopping        may succeed elsewhere, or later

`shared.status` says which status code each one leaves as. Anything else is a defect: it is logged and leaves as
INTERNAL. What stops a process from starting is a StartRefused; no caller ever sees one.
"""

from dataclasses import dataclass
from typing import ClassVar


class FleetError(Exception):
    """The request could not be answered."""


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
    """The device was never heard of."""

    def __init__(self, kind: str, device_id: str) -> None:
        super().__init__(f"{kind} {device_id} was never heard of: it has sent no reading and is in no mapping")
        self.kind = kind
        self.device_id = device_id


class MappingContradiction(FleetError):
    """A registered mapping says otherwise. The message names it."""


class RetryLater(FleetError):
    """The same request may succeed later."""

    retry_after_s: ClassVar[float] = 1.0


class DatabaseUnavailable(RetryLater):
    """The database cannot be reached or does not answer."""

    def __init__(self) -> None:
        super().__init__("the database is unavailable")


class StartRefused(Exception):
    """The process cannot start as things are. The message says what to change."""


class ServiceStopping(RetryLater):
    """The service is stopping."""

    def __init__(self) -> None:
        super().__init__("the service is stopping")
