"""What the id of a meter or a vehicle looks like."""

import re

DEVICE_ID_MAX_LENGTH = 64
"""Characters. Enough for a UUID, an EVSE id or a VIN with a prefix; few enough to keep 100,000 ids in memory."""

DEVICE_ID_ACCEPTED = f"1 to {DEVICE_ID_MAX_LENGTH} characters out of A-Z a-z 0-9 . _ : -"
"""What is accepted, in words for people."""

_PATTERN = re.compile(rf"[A-Za-z0-9._:-]{{1,{DEVICE_ID_MAX_LENGTH}}}")

is_device_id = _PATTERN.fullmatch
"""A match for a well-formed id, None for anything else."""
