"""Certificate and key as files beside each other: `<name>.crt` and `<name>.key`.

The key is written first. A key without a certificate is thus what a run that was cut short has left, and is used.
"""

from collections.abc import Callable
from datetime import datetime
from pathlib import Path

from cryptography import x509

from fleetcli.authority.issuing import (
    BACKDATED,
    Authority,
    PrivateKey,
    alternative_names,
    key_like,
    key_pem,
    new_key,
    read_certificate,
    read_key,
)
from fleetcli.authority.new_files import PRIVATE, PUBLIC, replace, write_new
from fleetcli.authority.refusals import CertificateRefused
from fleetcli.authority.signing_request import PublicKey, checked_key
from fleetcli.authority.subjects import Subject

Issue = Callable[[PublicKey], x509.Certificate]


def certificate_file(directory: Path, file_name: str) -> Path:
    """Not `with_suffix`: a name may have dots."""
    return directory / f"{file_name}.crt"


def key_file(certificate: Path) -> Path:
    return certificate.with_suffix(".key")


def make_pair(authority: Authority, file: Path, issue: Issue, *, force: bool = False, key_mode: int = PRIVATE) -> None:
    """Makes a certificate and its key. Raises FileExistsError where there is a certificate, unless `force` replaces
    both."""
    _require_free(file, force)
    if force and file.exists():
        key: PrivateKey = new_key()
        chain = authority.chain(issue(key.public_key()))
        replace(key_file(file), key_pem(key), key_mode)
        replace(file, chain, PUBLIC)
        return
    if not key_file(file).exists():
        write_new(key_file(file), key_pem(new_key()), key_mode)
    key = read_key(key_file(file))
    write_new(file, authority.chain(issue(key.public_key())), PUBLIC)


def make_certificate(authority: Authority, file: Path, key: PublicKey, issue: Issue, *, force: bool = False) -> None:
    """Makes a certificate alone, for a key that is elsewhere. Raises FileExistsError likewise."""
    _require_free(file, force)
    (replace if force else write_new)(file, authority.chain(issue(key)), PUBLIC)


def is_made(authority: Authority, file: Path, subject: Subject) -> bool:
    """Whether a client's certificate and key are there. Raises CertificateRefused where they are not those."""
    if not file.exists():
        return False
    certificate = read_certificate(file)
    if not authority.has_signed(certificate):
        raise CertificateRefused(
            f"{file}: is there, and not of the authority in {authority.name}: expected --force, or --out"
        )
    if {*client_urns(certificate)} != {*subject.urns}:
        raise CertificateRefused(
            f"{file}: is there, and names something else: expected --force, or another name or --out"
        )
    if not key_file(file).exists():
        raise CertificateRefused(f"{file}: is there without its key: expected --force, or another name or --out")
    return True


def client_urns(certificate: x509.Certificate) -> tuple[str, ...]:
    """All URIs of a certificate."""
    uris = (each for each in alternative_names(certificate) if isinstance(each, x509.UniformResourceIdentifier))
    return tuple(each.value for each in uris)


def renew(authority: Authority, file: Path, days: int | None, now: datetime) -> bool:
    """Replaces a certificate by one for the same holder, valid for as many days as before unless said; whether its key
    is new. Raises OSError, CertificateRefused.

    Where the key lies beside it that is replaced, too, by one of its type. Else the holder keeps his. A key that is
    another one than the certificate's is what a renewal has left that was cut short: it gets its certificate now.
    """
    certificate = read_certificate(file)
    if days is None:
        lived = certificate.not_valid_after_utc - certificate.not_valid_before_utc - BACKDATED
        days = max(1, round(lived.total_seconds() / 86_400))
    try:
        key = read_key(key_file(file))
    except FileNotFoundError:
        public = checked_key(certificate.public_key(), str(file))
        replace(file, authority.chain(_renewed(authority, file, certificate, public, days, now)))
        return False
    if key.public_key() == certificate.public_key():
        key = key_like(key)
    chain = authority.chain(_renewed(authority, file, certificate, key.public_key(), days, now))
    replace(key_file(file), key_pem(key))
    replace(file, chain)
    return True


def _renewed(
    authority: Authority, file: Path, certificate: x509.Certificate, key: PublicKey, days: int, now: datetime
) -> x509.Certificate:
    try:
        return authority.renewed(certificate, key, days, now)
    except CertificateRefused as why:
        raise CertificateRefused(*(f"{file}: {each}" for each in why.problems)) from None


def _require_free(file: Path, force: bool) -> None:
    if file.exists() and not force:
        raise FileExistsError(
            f"{file} is there already: `energyfleet certs renew` renews it, and --force replaces certificate and key"
        )
