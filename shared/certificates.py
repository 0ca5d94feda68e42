"""What certificates say: whom they name, until when, and whether a key belongs to them."""

import warnings
from collections.abc import Sequence
from typing import NamedTuple

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_private_key
from cryptography.utils import CryptographyDeprecationWarning
from cryptography.x509.oid import NameOID

from shared.deny_list import serial_text
from shared.identity import CnTemplate, Identity, grants_of, is_ours
from shared.timestamps import us_from_datetime

UNNAMED = "a certificate without a name"


def identity_of(pem: bytes, templates: Sequence[CnTemplate] = ()) -> Identity:
    """Whom a certificate names. Raises ValueError, BadGrant above all.

    A device is shown by its URN, and people by their common name, as all operators have the same URN.
    """
    certificate = x509.load_pem_x509_certificate(pem)
    urns = [urn for urn in uris_of(certificate) if is_ours(urn)]
    common_name = common_name_of(certificate)
    if not urns and common_name:
        urns = [template.urn(common_name) for template in templates]
    grants = grants_of(urns)
    names_device = grants.meters or grants.vehicles
    return Identity(
        f"CN={common_name}" if common_name and not names_device else urns[0] if urns else UNNAMED,
        grants,
        serial_text(certificate.serial_number),
        us_from_datetime(certificate.not_valid_after_utc),
    )


class KeyPair(NamedTuple):
    """A certificate chain and its key, both PEM."""

    chain: bytes
    key: bytes
    expires_at_us: int
    """When the first certificate of the chain ends, or the one that does so first."""


def key_pair(chain: bytes, key: bytes) -> KeyPair:
    """Raises ValueError where a key does not belong to its certificate, or one of them is none."""
    certificates = certificates_of(chain)
    try:
        private = load_pem_private_key(key, None)
    except TypeError:
        raise ValueError(
            "the key is encrypted; expected one without a password, in a file that others cannot read"
        ) from None
    except UnsupportedAlgorithm as error:
        raise ValueError(f"the key is of a kind that is not known: {error}") from None
    except ValueError:
        raise ValueError("the key is not a private key in PEM form") from None
    form = Encoding.DER, PublicFormat.SubjectPublicKeyInfo
    if private.public_key().public_bytes(*form) != certificates[0].public_key().public_bytes(*form):
        raise ValueError("the key does not belong to the certificate")
    return KeyPair(chain, key, expires_at_us(certificates))


def certificates_of(pem: bytes) -> Sequence[x509.Certificate]:
    """One or more. Raises ValueError."""
    try:
        with warnings.catch_warnings():
            # Old authorities of operating systems have serials that are not positive; nobody here goes by them.
            warnings.simplefilter("ignore", CryptographyDeprecationWarning)
            return x509.load_pem_x509_certificates(pem)
    except ValueError:
        raise ValueError("not a certificate in PEM form") from None


def expires_at_us(certificates: Sequence[x509.Certificate]) -> int:
    """When the first of them ends."""
    return min(us_from_datetime(each.not_valid_after_utc) for each in certificates)


def uris_of(certificate: x509.Certificate) -> list[str]:
    """The URIs among its subject's alternative names."""
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return []
    return names.get_values_for_type(x509.UniformResourceIdentifier)


def common_name_of(certificate: x509.Certificate) -> str:
    """Its subject's; empty where it has none."""
    names = certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    return str(names[0].value) if names else ""
