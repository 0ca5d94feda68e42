"""A certificate signing request that somebody else made: only its public key is taken."""

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from fleetcli.authority.refusals import CertificateRefused

PublicKey = ec.EllipticCurvePublicKey | rsa.RSAPublicKey

RSA_BITS = range(2048, 4096 + 1)
"""Shorter keys are too weak; longer ones cost every handshake more."""

KEYS_ACCEPTED = "an EC key on P-256 or P-384, or an RSA key of 2,048 to 4,096 bits"
"""What the services' TLS (BoringSSL) takes of a client: neither P-521 nor Ed25519."""


def requested_key(pem: bytes, name: str) -> PublicKey:
    """The public key of a request. Raises CertificateRefused.

    The request's signature shows that whoever made it has the private key. What else it says, names above all, is not
    looked at: who asks does not decide what it may do.
    """
    try:
        request = x509.load_pem_x509_csr(pem)
        key, signed = request.public_key(), request.is_signature_valid
    except (ValueError, TypeError, UnsupportedAlgorithm, x509.InvalidVersion):
        raise CertificateRefused(
            f"{name}: not a certificate signing request: expected PEM (-----BEGIN CERTIFICATE REQUEST-----) with"
            f" {KEYS_ACCEPTED}"
        ) from None
    if not signed:
        raise CertificateRefused(
            f"{name}: its signature is not of its own key: expected one that was signed with its private key"
        )
    return checked_key(key, name)


def checked_key(key: object, name: str) -> PublicKey:
    """A public key that the services' TLS takes. Raises CertificateRefused."""
    if isinstance(key, ec.EllipticCurvePublicKey) and isinstance(key.curve, ec.SECP256R1 | ec.SECP384R1):
        return key
    if isinstance(key, rsa.RSAPublicKey) and key.key_size in RSA_BITS:
        return key
    raise CertificateRefused(f"{name}: its key is not one that the services take: expected {KEYS_ACCEPTED}")
