"""Files that are whole or not there: written beside their place, then put into it."""

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

PRIVATE = 0o600
PUBLIC = 0o644


def write_new(path: Path, content: bytes, mode: int = PRIVATE) -> None:
    """Makes a file, with its directory, which only its owner may enter. Raises FileExistsError where there is one:
    of two processes that make the same file one succeeds."""
    with _beside(path, content, mode) as unfinished:
        try:
            os.link(unfinished, path)
        except FileExistsError:
            raise FileExistsError(f"{path} is there already") from None
        except OSError:  # a file system without links, such as a memory stick's
            if path.exists():
                raise FileExistsError(f"{path} is there already") from None
            unfinished.rename(path)


def replace(path: Path, content: bytes, mode: int = PRIVATE) -> None:
    """Makes a file in the place of the one that is there, if any, whose mode it keeps."""
    if path.exists():
        mode = path.stat().st_mode & 0o777
    with _beside(path, content, mode) as unfinished:
        unfinished.replace(path)


@contextmanager
def _beside(path: Path, content: bytes, mode: int) -> Iterator[Path]:
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    number, name = tempfile.mkstemp(prefix=".", suffix=".new", dir=path.parent)
    unfinished = Path(name)
    try:
        with os.fdopen(number, "wb") as file:
            os.fchmod(number, mode)  # whatever the umask says
            file.write(content)
            file.flush()
            os.fsync(number)
        yield unfinished
    finally:
        unfinished.unlink(missing_ok=True)
