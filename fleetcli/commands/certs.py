"""`energyfleet certs`: an authority, certificates of servers, devices and people, and which of them are denied."""

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Annotated

import typer
from rich.text import Text

from fleetcli.authority.denying import denied, deny, make_deny_list
from fleetcli.authority.description import Description, describe, kind_of, named
from fleetcli.authority.issuing import (
    CLIENT_DAYS,
    DAYS_MAX,
    SERVER_DAYS,
    Authority,
    authority_files,
    is_signed_by,
    make_authority,
    open_authority,
    read_certificate,
)
from fleetcli.authority.pairs import certificate_file, is_made, key_file, make_certificate, make_pair
from fleetcli.authority.pairs import renew as renew_pair
from fleetcli.authority.refusals import CertificateRefused
from fleetcli.authority.signing_request import requested_key
from fleetcli.authority.subject_table import read_subjects
from fleetcli.authority.subjects import Subject, server_names, subject
from fleetcli.commands.command_errors import BadInput
from fleetcli.commands.console import facts_table, note, out, progress_bar, say
from fleetcli.commands.options import AsJson
from fleetcli.commands.signals import INTERRUPTED, noticing_signals
from shared.deny_list import serial_text
from shared.device_ids import is_device_id
from shared.timestamps import datetime_from_us, system_clock

AUTHORITY_DEFAULT = Path("deploy/secrets")
TLS = "tls"
"""The directory, within an authority's, of what services read. The authority's key is not in it."""

app = typer.Typer(
    name="certs",
    help="Make, renew, deny and show certificates: who may reach the services, and what they may do there.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
)

AuthorityDir = Annotated[
    Path,
    typer.Option("--authority", envvar="ENERGYFLEET_AUTHORITY", metavar="DIR", help="Where ca.crt and ca.key are."),
]
Out = Annotated[
    Path | None, typer.Option(metavar="DIR", help="Where the files go. Default: clients in the authority's.")
]
Force = Annotated[bool, typer.Option("--force", help="Replace certificates that are there, and their keys.")]
Name = Annotated[
    str, typer.Option(metavar="NAME", help="For people, and of the files. Default: the first id, or the roles.")
]
DenyList = Annotated[
    Path | None,
    typer.Option(
        envvar="ENERGYFLEET_TLS_DENY_FILE",
        metavar="FILE",
        help=f"The list that the services read. Default: {TLS}/denied in the authority's directory.",
    ),
]
Files = Annotated[list[Path], typer.Argument(metavar="FILE...", help="Certificates in PEM form.", show_default=False)]


@app.command()
def ca(directory: Annotated[Path, typer.Argument(metavar="DIR", help="Where its certificate and its key go.")]) -> None:
    """Make a certificate authority: DIR/ca.crt, which everybody trusts, and DIR/ca.key, which is nobody else's.

    It is valid for ten years. One that is there is never overwritten. Whoever has the key can make certificates for
    every device and role: keep it where no service runs, and give it back to --authority only to sign.
    """
    with refusing():
        authority = make_authority(directory, now())
        make_deny_list(directory / TLS / "denied")
    certificate, key = authority_files(directory)
    say(f"made {certificate} and {key}, valid until {_day(authority.certificate.not_valid_after_utc)}")


@app.command()
def server(
    names: Annotated[list[str], typer.Argument(metavar="NAME...", help="DNS names and IP addresses of the services.")],
    authority: AuthorityDir = AUTHORITY_DEFAULT,
    out: Annotated[
        Path | None, typer.Option(metavar="DIR", help=f"Where the files go. Default: {TLS} in the authority's.")
    ] = None,
    name: Annotated[str, typer.Option(metavar="NAME", help="Of the files.")] = "server",
    days: Annotated[int, typer.Option(min=1, max=SERVER_DAYS, help="How long it is valid.")] = SERVER_DAYS,
    force: Force = False,
) -> None:
    """Make the certificate of a server: server.crt, a PEM chain, and server.key.

    Clients reach it under the names that the certificate has, and under no other.
    """
    with wrong_usage():
        alternatives = server_names(names)
        _require_file_name(name)
    with refusing():
        signer, at = open_authority(authority), now()
        file = certificate_file(out or authority / TLS, name)
        make_pair(signer, file, lambda key: signer.server(alternatives, key, days, at), force=force)
    _say_made(file, with_key=True)


@app.command()
def device(
    meter: Annotated[
        list[str] | None, typer.Option(metavar="ID", help="A meter, or with abc* all whose ids begin so.")
    ] = None,
    vehicle: Annotated[list[str] | None, typer.Option(metavar="ID", help="A vehicle, likewise.")] = None,
    role: Annotated[list[str] | None, typer.Option(metavar="ROLE", help="reader, operator or gateway.")] = None,
    csr: Annotated[Path | None, typer.Option(metavar="FILE", help="A signing request of the device's own key.")] = None,
    csv: Annotated[Path | None, typer.Option(metavar="FILE", help="Many: meter_id, vehicle_id, name, role.")] = None,
    authority: AuthorityDir = AUTHORITY_DEFAULT,
    out: Out = None,
    name: Name = "",
    days: Annotated[int, typer.Option(min=1, max=DAYS_MAX, help="How long it is valid.")] = CLIENT_DAYS,
    force: Force = False,
) -> None:
    """Make the certificate of a device, a back end or a person: what it names is all that its holder may do.

    --meter, --vehicle and --role may be repeated. In quotes: --meter 'DE*ABC*E1*', where the last * stands for any end.
    Of a --csr only the public key is taken, and its signature checked: names come from here alone.

    A --csv has a line for each certificate. Nothing is made while one of them is wrong. Run again after Ctrl-C it makes
    those that are missing.
    """
    meters, vehicles, roles, to = meter or [], vehicle or [], role or [], out or authority / "clients"
    if csv is not None:
        if meters or vehicles or roles or name or csr is not None:
            raise typer.BadParameter(
                "names come from the file alone: expected no other option of names", param_hint="--csv"
            )
        with refusing():
            _make_many(open_authority(authority), read_subjects(csv.read_bytes(), str(csv)), to, days, force)
        return
    with wrong_usage():
        holder = subject(meters, vehicles, roles, name)
    with refusing():
        signer, at = open_authority(authority), now()
        if csr is None:
            file = _make_client(signer, holder, to, days, at, force)
        else:
            file, key = certificate_file(to, holder.file_name), requested_key(csr.read_bytes(), str(csr))
            make_certificate(signer, file, key, lambda key: signer.client(holder, key, days, at), force=force)
    _say_made(file, with_key=csr is None)


@app.command()
def renew(
    files: Files,
    authority: AuthorityDir = AUTHORITY_DEFAULT,
    days: Annotated[int | None, typer.Option(min=1, max=DAYS_MAX, help="How long. Default: as long as before.")] = None,
    deny_list: DenyList = None,
) -> None:
    """Renew certificates: the same names, a new validity, and where the key lies beside it, a new key of the same type.

    Only what this authority has signed, and is not denied. What cannot be renewed is told at the end.
    """
    problems: list[str] = []
    with refusing():
        signer = open_authority(authority)
        refused = denied(_deny_list(deny_list, authority))
        for file in files:
            try:
                _renew(signer, file, days, refused)
            except CertificateRefused as why:
                problems += why.problems
        if problems:
            raise CertificateRefused(*problems)


@app.command()
def revoke(files: Files, authority: AuthorityDir = AUTHORITY_DEFAULT, deny_list: DenyList = None) -> None:
    """Deny certificates of clients: the services end their streams within seconds and answer them no more.

    To deny one whose file is lost, write its serial into the list, in lower-case hex on a line of its own.
    """
    path = _deny_list(deny_list, authority)
    with refusing():
        names = {}
        own_file, _ = authority_files(authority)
        own = read_certificate(own_file) if own_file.exists() else None
        for file in files:
            certificate = read_certificate(file)
            if kind_of(certificate) != "client":
                raise CertificateRefused(
                    f"{file}: not a client's: expected one of a client; clients read no list, so a server gets a new"
                    " certificate, and an authority is no longer trusted"
                )
            if own is not None and not is_signed_by(certificate, own):
                note(f"{file}: not of the authority in {authority}; its serial is denied all the same", "yellow")
            names[serial_text(certificate.serial_number)] = named(certificate)
        added = deny(path, names, now())
    for serial, holder in names.items():
        say(f"{'denied' if serial in added else 'was denied already:'} {holder} (serial {serial})")
    note(f"The services read {path} where ENERGYFLEET_TLS_DENY_FILE names it.")


@app.command()
def show(
    files: Files, authority: AuthorityDir = AUTHORITY_DEFAULT, deny_list: DenyList = None, as_json: AsJson = False
) -> None:
    """Show certificates: whom they name, what that allows, how long they are valid, and whether they are denied."""
    path = _deny_list(deny_list, authority)
    with refusing():
        refused = denied(path)
        found = [(file, describe(read_certificate(file), refused, now())) for file in files]
    if as_json:
        typer.echo(json.dumps([{"file": str(file)} | each.as_json() for file, each in found], indent=2))
        return
    for file, each in found:
        _show(str(file), each, path)


def now() -> datetime:
    return datetime_from_us(system_clock())


@contextmanager
def refusing() -> Iterator[None]:
    """Makes a BadInput of what keeps certificates and their files from being made or read."""
    try:
        yield
    except CertificateRefused as why:
        raise BadInput(str(why)) from None
    except OSError as error:
        raise BadInput(f"{error.filename}: {error.strerror}" if error.strerror else str(error)) from None


@contextmanager
def wrong_usage() -> Iterator[None]:
    """Makes a usage error of what is wrong with options and arguments."""
    try:
        yield
    except CertificateRefused as why:
        raise typer.BadParameter(str(why)) from None


def _deny_list(said: Path | None, authority: Path) -> Path:
    return said or authority / TLS / "denied"


def _require_file_name(name: str) -> None:
    if not is_device_id(name) or "/" in name:
        raise CertificateRefused(f"--name: {name[:80]!r} is no name of a file: expected letters, digits, - and _")


def _renew(authority: Authority, file: Path, days: int | None, refused: frozenset[str]) -> None:
    if serial_text(read_certificate(file).serial_number) in refused:
        raise CertificateRefused(f"{file}: is denied: expected a new one, by `energyfleet certs device`")
    new_key = renew_pair(authority, file, days, now())
    until = _day(read_certificate(file).not_valid_after_utc)
    say(f"renewed {file}{f' and {key_file(file)}' if new_key else ', for the same key'}, valid until {until}")


def _make_many(authority: Authority, subjects: Sequence[Subject], directory: Path, days: int, force: bool) -> None:
    at = now()
    missing = _missing(authority, subjects, directory, force)
    made = 0
    with noticing_signals() as asked_to_stop, progress_bar() as bar:
        for each in bar.track(missing, description="certificates"):
            if asked_to_stop():
                break
            _make_client(authority, each, directory, days, at, force)
            made += 1
    say(f"made {made:,} certificates and keys in {directory}; {len(subjects) - len(missing):,} were there already")
    if made < len(missing):
        note(f"Stopped: {len(missing) - made:,} are missing. The same command makes them.", "yellow")
        raise typer.Exit(INTERRUPTED)


def _make_client(authority: Authority, holder: Subject, directory: Path, days: int, at: datetime, force: bool) -> Path:
    file = certificate_file(directory, holder.file_name)
    make_pair(authority, file, lambda key: authority.client(holder, key, days, at), force=force)
    return file


def _missing(authority: Authority, subjects: Sequence[Subject], directory: Path, force: bool) -> list[Subject]:
    """Whose files are not there. Raises CertificateRefused with everything that is in the way."""
    if force:
        return [*subjects]
    missing = []
    problems: list[str] = []
    for each in subjects:
        try:
            if not is_made(authority, certificate_file(directory, each.file_name), each):
                missing.append(each)
        except CertificateRefused as why:
            problems += why.problems
    if problems:
        raise CertificateRefused(*problems)
    return missing


def _say_made(file: Path, *, with_key: bool) -> None:
    certificate = read_certificate(file)
    made = describe(certificate, frozenset(), now())
    files = f"{file} and {key_file(file)}" if with_key else f"{file}, without a key"
    say(f"made {files}, valid until {_day(made.not_after)}")
    say(f"for {', '.join(made.names)}: may {'; '.join(made.allows)}")


def _show(file: str, certificate: Description, deny_list: Path) -> None:
    ends = f"{_day(certificate.not_after)}: {certificate.state}"
    left = f", {certificate.days_left:,} days left" if certificate.state == "valid" else ""
    table = facts_table(file)
    table.add_row("kind", certificate.kind)
    table.add_row("names", Text("\n".join(certificate.names) or "nobody"))
    table.add_row("may", Text("\n".join(certificate.allows)))
    table.add_row("serial", certificate.serial)
    table.add_row("valid", f"from {_day(certificate.not_before)} until {ends}{left}")
    table.add_row("issuer", Text(certificate.issuer))
    where = "" if deny_list.exists() else f" ({deny_list} is not there)"
    table.add_row("denied", Text("yes" if certificate.denied else f"no{where}"))
    out.print(table)


def _day(moment: datetime) -> str:
    return f"{moment:%Y-%m-%d %H:%M} UTC"
