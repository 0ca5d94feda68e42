"""What people say of themselves and of what they do: short lines of text."""

from shared.requests import Checks

NOTE_MAX_LENGTH = 1_000
"""Characters: enough for a ticket's link and three sentences."""


def check_line(checks: Checks, field: str, line: str, most: int = NOTE_MAX_LENGTH, *, required: bool = False) -> None:
    """Notes what is empty but required, blank, longer than so many characters, or has control characters."""
    if not line and not required:
        return
    if not 0 < len(line) <= most or not line.isprintable() or line.isspace():
        bounds = f"required: 1 to {most:,}" if required else f"at most {most:,}"
        checks.add(field, f"{bounds} characters, none of them a control character, and not all of them blank")
