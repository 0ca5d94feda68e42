"""Where the archive is: a directory, or a bucket of an object store and a path in it."""

import re
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from shared.archive.archive_errors import BadArchiveUrl

ACCEPTED = "a directory, file:///DIRECTORY, s3://BUCKET/PATH or gs://BUCKET/PATH"

_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")
_SECRET = re.compile(r"(secret|password|token|access_?key|credential)", re.IGNORECASE)
_SCHEMES = ("s3", "gs", "gcs", "abfs", "abfss")


@dataclass(frozen=True, slots=True)
class ArchiveUrl:
    """A place that readings are archived to."""

    scheme: str
    path: str
    """Absolute; of an object store, the bucket and the path in it. Without a slash at its end."""
    query: str = ""
    """Options of the object store, as `endpoint_override=HOST:PORT&scheme=http`."""

    @property
    def is_directory(self) -> bool:
        return self.scheme == "file"

    def __str__(self) -> str:
        """What is logged and recorded: without options, which say how the place is reached, and not which it is."""
        return f"{self.scheme}://{self.path}"

    @property
    def whole(self) -> str:
        return f"{self}?{self.query}" if self.query else str(self)


def archive_url(text: str) -> ArchiveUrl:
    """The place behind a URL or a plain path; BadArchiveUrl where it is none, or has a secret in it.

    No message has the URL: it may have a secret where nobody looks for one.
    """
    if not _SCHEME.match(text):
        return ArchiveUrl("file", str(Path(text).expanduser().absolute()))
    try:
        parts = urlsplit(text)
    except ValueError:
        raise BadArchiveUrl(f"not {ACCEPTED}") from None
    scheme = parts.scheme.lower()
    if "@" in parts.netloc and parts.netloc.rpartition("@")[0] != "anonymous":
        raise BadArchiveUrl(
            "a URL with a name or a password in it is refused, for URLs are logged and stored: credentials come from"
            " the environment (as AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY), their usual files, or the instance"
        )
    if _SECRET.search(parts.query):
        raise BadArchiveUrl("a URL with a secret among its options is refused: credentials come from the environment")
    if scheme == "file" and parts.netloc in ("", "localhost") and not parts.query:
        return ArchiveUrl("file", parts.path.rstrip("/") or "/")
    if scheme not in _SCHEMES or not parts.netloc or parts.fragment:
        raise BadArchiveUrl(f"not {ACCEPTED}")
    return ArchiveUrl(scheme, f"{parts.netloc}{parts.path}".rstrip("/"), parts.query)
