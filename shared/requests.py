"""Checks that every request has in common. All violations of a call are told at once."""

import base64
import binascii
import json
from collections.abc import Sequence

from google.protobuf.timestamp_pb2 import Timestamp

from shared.device_ids import DEVICE_ID_ACCEPTED, is_device_id
from shared.errors import InvalidRequest, Violation
from shared.timestamps import TIMESTAMP_MAX_SECONDS, TIMESTAMP_MIN_SECONDS, us_from_proto

IDS_TOLD_MAX = 5
"""Wrong ids of a list that are told one by one. A status travels in headers, and over 8 KiB of them may be refused."""

ID_SHOWN_MAX = 40
"""Characters of a wrong id that are shown in a list, escapes included."""


class Checks:
    """Collects violations; `raise_if_any` tells them."""

    def __init__(self) -> None:
        self.violations: list[Violation] = []

    def add(self, field: str, description: str) -> None:
        self.violations.append(Violation(field, description))

    def device_id(self, field: str, device_id: str) -> str:
        if not device_id:
            self.add(field, f"required: {DEVICE_ID_ACCEPTED}")
        elif not is_device_id(device_id):
            self.add(field, f"{device_id[:80]!r} is not an id: {DEVICE_ID_ACCEPTED}")
        return device_id

    def device_ids(self, field: str, device_ids: Sequence[str]) -> None:
        """Notes what is no id, each by its position: the first few, and how many more there are."""
        wrong = [position for position, device_id in enumerate(device_ids) if not is_device_id(device_id)]
        for position in wrong[:IDS_TOLD_MAX]:
            shown = ascii(device_ids[position][:ID_SHOWN_MAX])[:ID_SHOWN_MAX]
            self.add(f"{field}[{position}]", f"{shown} is not an id: {DEVICE_ID_ACCEPTED}")
        if len(wrong) > IDS_TOLD_MAX:
            self.add(field, f"{len(wrong) - IDS_TOLD_MAX} more are not ids")

    def time_us(self, field: str, timestamp: Timestamp) -> int:
        """Notes what is no timestamp; returns whole microseconds, what is finer cut off."""
        if not (
            TIMESTAMP_MIN_SECONDS <= timestamp.seconds <= TIMESTAMP_MAX_SECONDS and 0 <= timestamp.nanos < 1_000_000_000
        ):
            self.add(field, "no timestamp between the years 1 and 9999")
            return 0
        return us_from_proto(timestamp)

    def raise_if_any(self) -> None:
        if self.violations:
            raise InvalidRequest(self.violations)


PAGE_TOKEN_MAX_LENGTH = 512
"""Characters. Ours have 380 at most: a place has two ids of 64 characters, and JSON may escape each character. So
short a text does not nest too deep."""

PLACE_NUMBER_MAX = 2**63 - 1
"""What PostgreSQL takes for a number."""


def page_token(*place: str | int) -> str:
    """An opaque token for the place where the next page begins."""
    return base64.urlsafe_b64encode(json.dumps(place).encode()).decode()


def place_of_page(token: str, *kinds: type) -> list[str | int] | None:
    """The place that a token names, or None where it is not what `page_token` makes of values of these kinds.

    Numbers are within 0 to PLACE_NUMBER_MAX; the caller checks what texts say.
    """
    if len(token) > PAGE_TOKEN_MAX_LENGTH:
        return None
    try:
        place = json.loads(base64.b64decode(token, altchars=b"-_", validate=True))
    except (binascii.Error, ValueError):
        return None
    if not isinstance(place, list) or [type(value) for value in place] != list(kinds):
        return None
    if any(isinstance(value, int) and not 0 <= value <= PLACE_NUMBER_MAX for value in place):
        return None
    return place if page_token(*place) == token else None
