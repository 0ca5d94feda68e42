"""Memory that was freed and that the C library keeps for itself."""

import ctypes


def trim_memory() -> None:
    """Gives it back to the system, which takes some milliseconds. Only glibc has to be asked: malloc_trim(3)."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)
