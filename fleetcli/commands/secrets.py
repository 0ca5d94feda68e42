"""`energyfleet secrets`: what compose.yaml needs in deploy/secrets."""

import secrets as randomness
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated

import typer
from cryptography import x509

from fleetcli.authority.denying import make_deny_list
from fleetcli.authority.issuing import (
    CLIENT_DAYS,
    SERVER_DAYS,
    Authority,
    alternative_names,
    authority_files,
    make_authority,
    open_authority,
    read_certificate,
)
from fleetcli.authority.new_files import PRIVATE, PUBLIC, write_new
from fleetcli.authority.pairs import make_pair
from fleetcli.authority.refusals import CertificateRefused
from fleetcli.authority.signing_request import PublicKey
from fleetcli.authority.subjects import ServerName, Subject, server_names
from fleetcli.commands.certs import AUTHORITY_DEFAULT, TLS, now, refusing, wrong_usage
from fleetcli.commands.console import note, say
from shared.identity import Role, role_urn

DATABASE_ROLES = ("postgres", "owner", "ingestion", "analytics", "maintenance")
SERVER_NAMES = ("localhost", "ingestion", "analytics", "127.0.0.1", "::1")
PASSWORD_BYTES = 24
OPERATOR = Subject("operator", (role_urn(Role.OPERATOR), role_urn(Role.READER)))
HEALTH = Subject("health", ())
"""May be known, and so ask for the health of a service; nothing else."""


def secrets(
    words: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[DIR] [NAME...]",
            help="DIR has a / in it, such as ./here. Further NAMEs or addresses of the services.",
            show_default=False,
        ),
    ] = None,
) -> None:
    """Make what compose.yaml needs in deploy/secrets: passwords, a certificate authority, certificates and a deny-list.

    It makes what is missing and never overwrites: run it again whenever you like. Names count when the server's
    certificate is made. To change a password, remove its file, run this, and let `energyfleet migrate --roles` set it;
    that of postgres is changed in PostgreSQL (ALTER ROLE). To renew certificates: `energyfleet certs renew`.
    """
    directory, names = AUTHORITY_DEFAULT, words or []
    if names and "/" in names[0]:
        directory, names = Path(names[0]), names[1:]
    with wrong_usage():
        reached = server_names([*SERVER_NAMES, *names])
    with refusing():
        # The directory keeps others out. What containers get is readable, because their users are not the host's.
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        if directory.stat().st_mode & 0o077:
            raise CertificateRefused(
                f"{directory}: others may enter it: expected one of its own, by `chmod 700 {directory}`"
            )
        tls = directory / TLS
        tls.mkdir(exist_ok=True)
        tls.chmod(0o755)
        for role in DATABASE_ROLES:
            _make(directory / f"{role}_password", f"{randomness.token_hex(PASSWORD_BYTES)}\n".encode(), PUBLIC)
        at = now()
        ca, _ = authority_files(directory)
        if not ca.exists():
            if (tls / "ca.crt").exists():
                raise CertificateRefused(
                    f"{ca} is not there: expected the authority that {tls / 'ca.crt'} is a copy of"
                )
            make_authority(directory, at)
            say(f"made {ca}")
        _make(tls / "ca.crt", ca.read_bytes(), PUBLIC)
        if make_deny_list(tls / "denied"):
            say(f"made {tls / 'denied'}")
        _make_pair(directory, tls / "server.crt", PUBLIC, lambda by, key: by.server(reached, key, SERVER_DAYS, at))
        _make_pair(directory, tls / "health.crt", PUBLIC, lambda by, key: by.client(HEALTH, key, SERVER_DAYS, at))
        _make_pair(
            directory, directory / "operator.crt", PRIVATE, lambda by, key: by.client(OPERATOR, key, CLIENT_DAYS, at)
        )
        _note_missing_names(tls / "server.crt", reached)


def _make(file: Path, content: bytes, mode: int) -> None:
    if not file.exists():
        write_new(file, content, mode)
        say(f"made {file}")


def _make_pair(
    directory: Path, file: Path, key_mode: int, issue: Callable[[Authority, PublicKey], x509.Certificate]
) -> None:
    """Takes the authority's key only where something is to be signed: it may be kept elsewhere."""
    if not file.exists():
        authority = open_authority(directory)
        make_pair(authority, file, lambda key: issue(authority, key), key_mode=key_mode)
        say(f"made {file}")


def _note_missing_names(server: Path, reached: Sequence[ServerName]) -> None:
    known = {name.value for name in alternative_names(read_certificate(server))}
    if unknown := [str(name) for name in reached if name not in known]:
        note(f"{server} was made before, and not for {', '.join(unknown)}: remove it, and run this again", "yellow")
