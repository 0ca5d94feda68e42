"""The place that has the archive: a directory, or any object store that pyarrow's filesystems know.

A file is put aside first, under a name that no reader looks for, and then renamed: readers of `*/*/*.parquet` see the
old one or the new one, whole, and never both. On object stores, where putting and copying an object is atomic, renaming
is copying and deleting.
"""

import asyncio
import hashlib
import os
import re
import threading
from collections.abc import Callable
from contextlib import suppress
from datetime import date
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import parse_qs
from uuid import uuid4

import pyarrow as pa
from pyarrow import fs

from shared.archive.archive_errors import BadArchiveUrl, StoreFailed, StoreTooSlow
from shared.archive.archive_url import ArchiveUrl
from shared.errors import reason_of

FILE = "readings.parquet"
"""One file for each kind and day, always of this name: a new version takes the place of the old one at once."""

ASIDE = ".aside"
"""The folder of files that are not whole yet, or not compared."""

CONNECT_TIMEOUT_S = 10.0
"""For an object store; a store across an ocean takes a second."""

REQUEST_TIMEOUT_S = 30.0
"""Without a byte, for an object store."""

ATTEMPTS = 3
"""Of a request to an object store, which pauses in between: what goes on for longer is told."""

_CHUNK_BYTES = 1 << 20

Answer = TypeVar("Answer")


def file_of(kind: str, day: date) -> str:
    """The name of a day's file below the archive's URL."""
    return f"kind={kind}/day={day.isoformat()}/{FILE}"


def day_of(file: str) -> tuple[str, date] | None:
    """The kind and the day that a file's name below the archive's URL says; None where it is no day's."""
    found = re.fullmatch(r"kind=(meter|vehicle)/day=(\d{4}-\d\d-\d\d)/[^/]+\.parquet", file)
    try:
        return (found[1], date.fromisoformat(found[2])) if found else None
    except ValueError:
        return None


class DayStore:
    """Files below a URL. Each call is bounded in time and does not block the event loop. Raises ArchiveError.

    Credentials come from where the store's own tools look for them, and from nowhere else.
    """

    def __init__(self, url: ArchiveUrl, timeout_s: float) -> None:
        self.url = url
        self._timeout_s = timeout_s
        self._connected: fs.FileSystem | None = None

    async def put_aside(self, local: Path, kind: str, day: date) -> str:
        """Copies a local file into the archive, under a name that no reader looks for; returns that."""
        aside = f"{ASIDE}/{kind}-{day.isoformat()}-{uuid4().hex}.parquet"
        await self._in_time(f"writing {aside}", lambda: self._put(local, aside))
        return aside

    async def publish(self, aside: str, file: str) -> None:
        """Gives what was put aside its name, in the place of what had that before."""
        await self._in_time(f"renaming {aside} to {file}", lambda: self._move(aside, file))

    async def fetch(self, file: str, local: Path | None = None) -> tuple[int, str] | None:
        """Reads a file to its end, into a local one if that is named: its bytes and SHA-256; None where it is not
        there."""
        return await self._in_time(f"reading {file}", lambda: self._fetch(file, local))

    async def files(self) -> dict[str, int]:
        """All files below the URL but those put aside, with their bytes."""
        return await self._in_time("listing", self._files)

    async def remove_asides(self) -> None:
        """Removes what an archiver that was killed had put aside."""
        await self._in_time(f"emptying {ASIDE}", self._remove_asides)

    def _put(self, local: Path, file: str) -> None:
        path = self._path(file)
        filesystem = self._filesystem()
        if self.url.is_directory:
            filesystem.create_dir(os.path.dirname(path), recursive=True)  # noqa: PTH120 (a path of the store)
        with local.open("rb") as source, filesystem.open_output_stream(path) as sink:
            while chunk := source.read(_CHUNK_BYTES):
                sink.write(chunk)
        self._sync(path)

    def _move(self, source: str, file: str) -> None:
        path = self._path(file)
        if self.url.is_directory:
            self._filesystem().create_dir(os.path.dirname(path), recursive=True)  # noqa: PTH120
        self._filesystem().move(self._path(source), path)
        self._sync(os.path.dirname(path))  # noqa: PTH120

    def _fetch(self, file: str, local: Path | None) -> tuple[int, str] | None:
        filesystem, path = self._filesystem(), self._path(file)
        if filesystem.get_file_info(path).type == fs.FileType.NotFound:
            return None
        size, digest = 0, hashlib.sha256()
        with filesystem.open_input_stream(path) as source, (local or Path(os.devnull)).open("wb") as sink:
            while chunk := source.read(_CHUNK_BYTES):
                size += len(chunk)
                digest.update(chunk)
                sink.write(chunk)
        return size, digest.hexdigest()

    def _files(self) -> dict[str, int]:
        base = self._path("")
        found = self._filesystem().get_file_info(fs.FileSelector(base, allow_not_found=True, recursive=True))
        names = {each.path[len(base) :].lstrip("/"): each.size for each in found if each.type == fs.FileType.File}
        return {name: size for name, size in names.items() if not name.startswith(f"{ASIDE}/")}

    def _remove_asides(self) -> None:
        selector = fs.FileSelector(self._path(ASIDE), allow_not_found=True)
        for each in self._filesystem().get_file_info(selector):
            if each.type == fs.FileType.File:
                self._filesystem().delete_file(each.path)

    def _path(self, file: str) -> str:
        return f"{self.url.path}/{file}".rstrip("/")

    def _sync(self, path: str) -> None:
        """Has a local file, or a folder's names, on the disk before we go on."""
        if not self.url.is_directory:
            return
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

    def _filesystem(self) -> fs.FileSystem:
        if self._connected is None:
            self._connected = _filesystem(self.url)
        return self._connected

    async def _in_time(self, what: str, work: Callable[[], Answer]) -> Answer:
        """Runs it in a thread of its own, which is left alone where it takes too long: none can be ended."""
        loop = asyncio.get_running_loop()
        done: asyncio.Future[Any] = loop.create_future()

        def run() -> None:
            try:
                _resolve(loop, done, work(), None)
            except BaseException as error:
                _resolve(loop, done, None, error)

        threading.Thread(target=run, name="archive", daemon=True).start()
        try:
            async with asyncio.timeout(self._timeout_s):
                answer: Answer = await done
        except TimeoutError:
            raise StoreTooSlow(str(self.url), what, self._timeout_s) from None
        except (OSError, pa.ArrowException) as error:
            raise StoreFailed(str(self.url), what, reason_of(error)) from None
        return answer


def _resolve(
    loop: asyncio.AbstractEventLoop, done: "asyncio.Future[Any]", answer: Any, error: BaseException | None
) -> None:
    def resolve() -> None:
        if done.done():
            return
        if error is not None:
            done.set_exception(error)
        else:
            done.set_result(answer)

    with suppress(RuntimeError):  # the loop is closed: nobody waits any more
        loop.call_soon_threadsafe(resolve)


def _filesystem(url: ArchiveUrl) -> fs.FileSystem:
    if url.is_directory:
        return fs.LocalFileSystem()
    if url.scheme == "s3":
        return _s3(url)
    try:
        filesystem, _ = fs.FileSystem.from_uri(url.whole)
    except (pa.ArrowException, ValueError) as error:
        raise BadArchiveUrl(f"{url}: {reason_of(error)}") from None
    return filesystem


_S3_OPTIONS = ("endpoint_override", "region", "scheme")


def _s3(url: ArchiveUrl) -> fs.FileSystem:
    options = {name: values[-1] for name, values in parse_qs(url.query).items()}
    if unknown := options.keys() - set(_S3_OPTIONS):
        raise BadArchiveUrl(f"{url}: unknown option {min(unknown)}; there are {', '.join(_S3_OPTIONS)}")
    if "region" not in options and "endpoint_override" not in options and not _region_of_environment():
        options["region"] = fs.resolve_s3_bucket_region(url.path.partition("/")[0])
    return fs.S3FileSystem(
        connect_timeout=CONNECT_TIMEOUT_S,
        request_timeout=REQUEST_TIMEOUT_S,
        retry_strategy=fs.AwsStandardS3RetryStrategy(max_attempts=ATTEMPTS),
        **options,
    )


def _region_of_environment() -> bool:
    return bool(os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION"))
