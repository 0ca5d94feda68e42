"""Whether what the archive needs is installed."""

from importlib.util import find_spec

from shared.archive.archive_errors import ExtraMissing


def require_extra() -> None:
    """ExtraMissing where it is not. To be called before anything that imports pyarrow is imported."""
    if find_spec("pyarrow") is None:
        raise ExtraMissing
