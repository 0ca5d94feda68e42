"""Puts certificates into the deny-list that the services read."""

import fcntl
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path

from fleetcli.authority.new_files import PUBLIC, replace, write_new
from fleetcli.authority.refusals import CertificateRefused
from shared.deny_list import denied_serials

HEADING = b"# Serials of certificates that are revoked. `energyfleet certs revoke` adds to them.\n"


def make_deny_list(path: Path) -> bool:
    """Makes an empty one; whether there was none."""
    try:
        write_new(path, HEADING, PUBLIC)
    except FileExistsError:
        return False
    return True


def denied(path: Path) -> frozenset[str]:
    """The serials in a list; none where there is no list. Raises OSError, CertificateRefused."""
    return frozenset(_serials(path, _content(path)))


def deny(path: Path, names: Mapping[str, str], now: datetime) -> list[str]:
    """Adds serials, with the names of whom they name; which of them were not in it. Raises as `denied`.

    What is in the list stays, comments too. Services keep their last good list while a line is none, so a list with
    such a line is refused.
    """
    with _locked(path.parent):
        content = _content(path)
        known = {*_serials(path, content)}
        added = [serial for serial in names if serial not in known]
        lines = [f"{serial} {_in_a_line(names[serial])} revoked {now:%Y-%m-%dT%H:%M:%SZ}" for serial in added]
        if added:
            before = (content or HEADING.decode()).rstrip("\n")
            replace(path, "\n".join([before, *lines, ""]).encode(), PUBLIC)
    return added


@contextmanager
def _locked(directory: Path) -> Iterator[None]:
    """Of two who revoke at once the second one waits, or it would take the first one's lines away."""
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    number = os.open(directory, os.O_RDONLY)
    try:
        fcntl.flock(number, fcntl.LOCK_EX)
        yield
    finally:
        os.close(number)


def _content(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return ""
    except UnicodeDecodeError:
        raise CertificateRefused(f"{path}: not UTF-8: expected a deny-list") from None


def _serials(path: Path, content: str) -> list[str]:
    try:
        return denied_serials(content.splitlines(), str(path))
    except ValueError as why:
        raise CertificateRefused(f"{why}: expected the serial first, or a comment that begins with #") from None


def _in_a_line(name: str) -> str:
    """A certificate may say anything, and must not write lines of its own."""
    return name.encode("unicode_escape").decode()[:400]
