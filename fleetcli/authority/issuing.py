"""A certificate authority, and what it signs."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, load_pem_private_key
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from fleetcli.authority.new_files import PUBLIC, write_new
from fleetcli.authority.refusals import CertificateRefused
from fleetcli.authority.signing_request import PublicKey, checked_key
from fleetcli.authority.subjects import ServerName, Subject

CA_DAYS = 3_650
"""Ten years. To change it every device has to learn of the new one."""

SERVER_DAYS = 397
"""Clients may refuse certificates of servers that live longer."""

CLIENT_DAYS = 90
"""What a stolen key is worth where a deny-list was not kept up, and yet a charger can be away for a season's building
site, and renewing it a month ahead leaves a month to notice that this fails."""

DAYS_MAX = 3_650

BACKDATED = timedelta(hours=1)
"""How far ahead of a device's clock ours may be: a new certificate must not be one of the future to it."""

ORGANISATION = "Energy Fleet"

NAME_MAX = 64
"""Characters of a name in a certificate's subject: X.520's upper bound."""

_MALFORMED = (x509.DuplicateExtension, x509.InvalidVersion, x509.UnsupportedGeneralNameType)
"""What is wrong with certificates and is no ValueError."""

PrivateKey = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey


@dataclass(frozen=True, slots=True)
class Authority:
    """Signs. `certificate` is one of an authority, and `key` is its own."""

    certificate: x509.Certificate
    key: PrivateKey
    name: str
    """Of its directory, for messages."""

    def client(self, subject: Subject, key: PublicKey, days: int, now: datetime) -> x509.Certificate:
        """For a client, also one without URNs, who may do no more than be known. Raises CertificateRefused where the
        certificate would outlive the authority.

        The URNs alone say what it may do. Without them there is no common name either: a service may have been told to
        take the id of a device from that.
        """
        names = [x509.UniformResourceIdentifier(urn) for urn in subject.urns]
        shown = NameOID.COMMON_NAME if names else NameOID.ORGANIZATIONAL_UNIT_NAME
        return self._signed(_named(shown, subject.name), names, ExtendedKeyUsageOID.CLIENT_AUTH, key, days, now)

    def server(self, names: Sequence[ServerName], key: PublicKey, days: int, now: datetime) -> x509.Certificate:
        """For a server that is reached under these names, one at least. Raises CertificateRefused as `client` does."""
        alternatives = [x509.DNSName(each) if isinstance(each, str) else x509.IPAddress(each) for each in names]
        return self._signed(
            _named(NameOID.COMMON_NAME, "server"), alternatives, ExtendedKeyUsageOID.SERVER_AUTH, key, days, now
        )

    def renewed(self, certificate: x509.Certificate, key: PublicKey, days: int, now: datetime) -> x509.Certificate:
        """What a certificate of this authority says of its holder, with a new validity. Raises CertificateRefused."""
        if not self.has_signed(certificate):
            raise CertificateRefused(f"it is not signed by the authority in {self.name}: expected one that is")
        used = purposes(certificate)
        if len(used) != 1:
            raise CertificateRefused("it is for neither a client nor a server: expected one that this command made")
        return self._signed(certificate.subject, alternative_names(certificate), used[0], key, days, now)

    def has_signed(self, certificate: x509.Certificate) -> bool:
        return is_signed_by(certificate, self.certificate)

    def chain(self, certificate: x509.Certificate) -> bytes:
        """The PEM that is shown in handshakes: with the authority's own, unless that is a root, which everybody has."""
        pem = certificate.public_bytes(Encoding.PEM)
        root = self.certificate.issuer == self.certificate.subject
        return pem if root else pem + self.certificate.public_bytes(Encoding.PEM)

    def days_left(self, now: datetime) -> int:
        """Whole days that a certificate of now may live."""
        return (self.certificate.not_valid_after_utc - now).days

    def _signed(
        self,
        subject: x509.Name,
        names: Sequence[x509.GeneralName],
        purpose: x509.ObjectIdentifier,
        key: PublicKey,
        days: int,
        now: datetime,
    ) -> x509.Certificate:
        if days > self.days_left(now):
            ends = f"ends at {self.certificate.not_valid_after_utc:%Y-%m-%d %H:%M} UTC"
            expected = f"expected up to {self.days_left(now)} days, or" if self.days_left(now) > 0 else "expected"
            raise CertificateRefused(
                f"--days: {days}, but the authority in {self.name} {ends}: {expected} a new authority"
            )
        builder = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self.certificate.subject)
            .public_key(key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(max(now - BACKDATED, self.certificate.not_valid_before_utc))
            .not_valid_after(now + timedelta(days=days))
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_key_usage(digital_signature=True), critical=True)
            .add_extension(x509.ExtendedKeyUsage([purpose]), critical=False)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
            .add_extension(_issuer_key(self.certificate), critical=False)
        )
        if names:
            builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
        return builder.sign(self.key, hashes.SHA256())


def is_signed_by(certificate: x509.Certificate, authority: x509.Certificate) -> bool:
    """Whether a certificate is of an authority, whether or not it is valid now."""
    try:
        certificate.verify_directly_issued_by(authority)
    except (ValueError, TypeError, InvalidSignature, UnsupportedAlgorithm):
        return False
    return True


def purposes(certificate: x509.Certificate) -> list[x509.ObjectIdentifier]:
    """What a certificate is for: a client or a server, or neither, as that of an authority."""
    try:
        used = certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    except x509.ExtensionNotFound:
        return []
    return [each for each in used if each in (ExtendedKeyUsageOID.CLIENT_AUTH, ExtendedKeyUsageOID.SERVER_AUTH)]


def alternative_names(certificate: x509.Certificate) -> list[x509.GeneralName]:
    try:
        return list(certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value)
    except x509.ExtensionNotFound:
        return []


def new_key() -> ec.EllipticCurvePrivateKey:
    return ec.generate_private_key(ec.SECP256R1())


def key_like(key: PrivateKey) -> PrivateKey:
    """A new key of the same type and size."""
    if isinstance(key, rsa.RSAPrivateKey):
        return rsa.generate_private_key(65_537, key.key_size)
    return ec.generate_private_key(key.curve)


def key_pem(key: PrivateKey) -> bytes:
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def read_key(path: Path) -> PrivateKey:
    """A private key that the services' TLS takes. Raises OSError, CertificateRefused."""
    try:
        key = load_pem_private_key(path.read_bytes(), None)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        raise CertificateRefused(f"{path}: not a private key: expected PEM, without a password") from None
    checked_key(key.public_key(), str(path))
    assert isinstance(key, ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey)
    return key


def read_certificate(path: Path) -> x509.Certificate:
    """The first certificate of a file. Raises OSError, CertificateRefused."""
    try:
        certificate = x509.load_pem_x509_certificate(path.read_bytes())
        _ = certificate.extensions, certificate.public_key()  # parsed when they are first asked for
    except (ValueError, UnsupportedAlgorithm, *_MALFORMED):
        raise CertificateRefused(f"{path}: not a certificate: expected PEM (-----BEGIN CERTIFICATE-----)") from None
    return certificate


def authority_files(directory: Path) -> tuple[Path, Path]:
    """The certificate and the key."""
    return directory / "ca.crt", directory / "ca.key"


def make_authority(directory: Path, now: datetime) -> Authority:
    """Makes an authority in a directory. Raises OSError; FileExistsError where there is one.

    The key comes first. Where only that is there, a run was cut short, and this one goes on.
    """
    certificate_file, key_file = authority_files(directory)
    if certificate_file.exists():
        raise FileExistsError(f"{certificate_file} is there already")
    if not key_file.exists():
        write_new(key_file, key_pem(new_key()))
    key = read_key(key_file)
    identifier = x509.SubjectKeyIdentifier.from_public_key(key.public_key())
    # A name of its own for each, so that the certificates of an old and a new authority are not taken for each other's.
    name = _named(NameOID.COMMON_NAME, f"CA {identifier.digest.hex()[:8]}")
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - BACKDATED)
        .not_valid_after(now + timedelta(days=CA_DAYS))
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_key_usage(key_cert_sign=True, crl_sign=True), critical=True)
        .add_extension(identifier, critical=False)
        .sign(key, hashes.SHA256())
    )
    write_new(certificate_file, certificate.public_bytes(Encoding.PEM), PUBLIC)
    return Authority(certificate, key, str(directory))


def open_authority(directory: Path) -> Authority:
    """The authority in a directory. Raises OSError, CertificateRefused."""
    certificate_file, key_file = authority_files(directory)
    for file in (certificate_file, key_file):
        if not file.exists():
            raise CertificateRefused(
                f"{file} is not there: expected an authority, as `energyfleet certs ca {directory}` makes one, or"
                " --authority with the directory of another"
            )
    certificate, key = read_certificate(certificate_file), read_key(key_file)
    if key.public_key() != certificate.public_key():
        raise CertificateRefused(
            f"{key_file}: not the key of {certificate_file}: expected the two that belong together"
        )
    if not is_authority(certificate):
        raise CertificateRefused(
            f"{certificate_file}: not an authority's certificate: expected one that may sign others"
        )
    return Authority(certificate, key, str(directory))


def is_authority(certificate: x509.Certificate) -> bool:
    try:
        return certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    except x509.ExtensionNotFound:
        return False


def _named(kind: x509.ObjectIdentifier, name: str) -> x509.Name:
    organisation = x509.NameAttribute(NameOID.ORGANIZATION_NAME, ORGANISATION)
    return x509.Name([organisation, x509.NameAttribute(kind, name[:NAME_MAX])])


def _issuer_key(certificate: x509.Certificate) -> x509.AuthorityKeyIdentifier:
    try:
        own = certificate.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
    except x509.ExtensionNotFound:
        key = certificate.public_key()
        return x509.AuthorityKeyIdentifier.from_issuer_public_key(key)  # type: ignore[arg-type]  # any of them signs
    return x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(own)


def _key_usage(
    *, digital_signature: bool = False, key_cert_sign: bool = False, crl_sign: bool = False
) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=digital_signature,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=key_cert_sign,
        crl_sign=crl_sign,
        encipher_only=False,
        decipher_only=False,
    )
