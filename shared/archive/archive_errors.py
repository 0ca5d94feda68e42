"""What can go wrong with the archive. Each message says what to do.

    ArchiveError
    ├── BadArchiveUrl       not the URL of a place that readings can be archived to
    ├── ExtraMissing        pyarrow is not installed
    ├── PackingFailed       a day could not be written to a file beside us
    ├── StoreFailed         the directory or object store refused, or could not be reached
    ├── StoreTooSlow        it did not answer in time
    ├── BadDayFile          not a file of the archive, or not whole
    ├── NotWhatWasWritten   what was read back is not what was read from the database
    └── ArchiverBusy        another session seals or archives

No caller of a service ever sees one.
"""

from shared.errors import FleetError


class ArchiveError(FleetError):
    """The archive could not be written, read or checked."""


class BadArchiveUrl(ArchiveError):
    """Not the URL of a place that readings can be archived to."""


class ExtraMissing(ArchiveError):
    """pyarrow is not installed."""

    def __init__(self) -> None:
        super().__init__("the archive needs pyarrow: pip install 'energy-fleet[archive]'")


class PackingFailed(ArchiveError):
    """A day could not be written to a file beside us."""

    def __init__(self, directory: str, why: str) -> None:
        super().__init__(
            f"{directory}: packing a day failed: {why}; see that the temporary directory has room for one, or set"
            " TMPDIR to another one"
        )


class StoreFailed(ArchiveError):
    """The directory or object store refused, or could not be reached."""

    def __init__(self, place: str, what: str, why: str) -> None:
        super().__init__(
            f"{place}: {what} failed: {why}; see that the place is there, that it may be written to and read, and by"
            " which credentials (those of the environment, or of the instance)"
        )


class StoreTooSlow(ArchiveError):
    """The directory or object store did not answer in time."""

    def __init__(self, place: str, what: str, timeout_s: float) -> None:
        super().__init__(
            f"{place}: {what} took longer than {timeout_s:g} s; see that the place can be reached, or raise"
            " ENERGYFLEET_ARCHIVE_TIMEOUT_S"
        )


class BadDayFile(ArchiveError):
    """Not a file of the archive, or not whole. The message says why."""


class NotWhatWasWritten(ArchiveError):
    """What was read back is not what was read from the database."""

    def __init__(self, place: str, what: str) -> None:
        super().__init__(
            f"{place}: {what}; the day does not count as archived, and is tried again the next time. Where it fails"
            " again, look at the place's disks and at memory"
        )


class ArchiverBusy(ArchiveError):
    """Another session seals or archives."""

    def __init__(self) -> None:
        super().__init__("another session is sealing or archiving; run the command again when it is done")
