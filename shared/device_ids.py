"""What the id of a meter or a vehicle looks like."""

DEVICE_ID_MAX_LENGTH = 64
"""Characters. Enough for a UUID, an EVSE id or a VIN with a prefix; few enough to keep 100,000 ids in memory."""

DEVICE_ID_ACCEPTED = f"1 to {DEVICE_ID_MAX_LENGTH} characters of printable ASCII, no space at either end"
"""What is accepted, in words for people. Case counts."""

IDS_REMEMBERED = 100_000
"""Well-formed ids that are remembered, about 200 bytes each: ten times the fleet."""

_remembered: dict[str, str] = {}


def is_device_id(text: str) -> bool:
    return 0 < len(text) <= DEVICE_ID_MAX_LENGTH and text.isascii() and text.isprintable() and text == text.strip()


def remembered_device_id(text: str) -> str | None:
    """The id that a text is, None where it is none: of equal texts the same object each time.

    Every later look-up of that object is three times as fast as of another with the same characters: its hash is known
    and nothing has to be compared. And readings in memory share it.
    """
    known = _remembered.get(text)
    if known is None and is_device_id(text):
        if len(_remembered) >= IDS_REMEMBERED:
            _remembered.clear()  # rare, and cheaper than keeping an order
        known = _remembered[text] = text
    return known
