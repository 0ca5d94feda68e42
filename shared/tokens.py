"""Bearer tokens of back ends and people: JWTs, signed by a key of a JWKS file (RFC 7515, 7517, 7519)."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jwt

from shared.errors import Unauthenticated
from shared.identity import URN_PREFIX, BadGrant, Identity, Role, grants_of, role_urn
from shared.timestamps import US_PER_SECOND
from shared.watched_files import WatchedFiles

ALGORITHMS = ("RS256", "ES256")
"""Signatures; none that a public key could forge, as `none` and HS256."""

LEEWAY_S = 30
"""By which the clocks of an issuer and ours may differ."""

SUBJECT_MAX_LENGTH = 200
"""Characters of a subject: more than a UUID, an e-mail address or a service's URL has."""

_SCHEME = "bearer "


class TokenRules(NamedTuple):
    """What is asked of a token beside its signature and its time."""

    jwks_file: Path
    audience: str
    issuer: str | None
    """None: any that the file has the keys of."""
    roles_claim: str
    """It lists roles, or URNs as certificates have them; in a text they are apart by blanks."""


class Tokens:
    """Says whom a token names. Raises OSError or ValueError where the file of keys cannot be used."""

    def __init__(self, rules: TokenRules) -> None:
        self._rules = rules
        self._keys = WatchedFiles("jwks", [rules.jwks_file], self._read)

    def refresh(self) -> None:
        """Reads the keys again where they have changed."""
        self._keys.refresh()

    def identity(self, authorization: str) -> Identity:
        """From the metadatum `authorization`. Raises Unauthenticated."""
        if authorization[: len(_SCHEME)].lower() != _SCHEME:
            raise Unauthenticated("expected `Bearer` and a token in `authorization`")
        try:
            token = authorization[len(_SCHEME) :].strip()
            claims = self._verified(token)
        except jwt.ExpiredSignatureError:
            raise Unauthenticated("the token has expired") from None
        except (jwt.PyJWTError, ValueError, TypeError, OverflowError) as error:
            raise Unauthenticated(f"the token is not accepted: {_why(error)}") from None
        subject = str(claims["sub"])
        if not 0 < len(subject) <= SUBJECT_MAX_LENGTH or not subject.isprintable():
            raise Unauthenticated(f"the token's sub must have 1 to {SUBJECT_MAX_LENGTH} printable characters")
        try:
            grants = grants_of(_urns(claims.get(self._rules.roles_claim, [])))
        except (BadGrant, TypeError) as error:
            raise Unauthenticated(f"the token's {self._rules.roles_claim}: {error}") from None
        return Identity(f"token:{subject}", grants, expires_at_us=int(claims["exp"] + LEEWAY_S) * US_PER_SECOND)

    def _verified(self, token: str) -> Mapping[str, Any]:
        key = self._key(jwt.get_unverified_header(token).get("kid"))
        if key.algorithm_name not in ALGORITHMS:
            raise jwt.InvalidAlgorithmError
        return jwt.decode(
            token,
            key.key,
            algorithms=[key.algorithm_name],  # the key's own, whatever the token says
            audience=self._rules.audience,
            issuer=self._rules.issuer,
            leeway=LEEWAY_S,
            options={"require": ["exp", "sub", "aud"]},
        )

    def _key(self, key_id: object) -> jwt.PyJWK:
        keys = self._keys.value
        if key_id is None and len(keys) == 1:
            return next(iter(keys.values()))
        if not isinstance(key_id, str) or key_id not in keys:
            raise jwt.InvalidKeyError
        return keys[key_id]

    def _read(self) -> Mapping[str, jwt.PyJWK]:
        path = self._rules.jwks_file
        try:
            read = json.loads(path.read_text(encoding="utf-8"))
            keys = jwt.PyJWKSet.from_dict(read).keys
        except (jwt.PyJWTError, ValueError, TypeError, AttributeError):
            raise ValueError(f"{path}: not a JSON Web Key Set") from None
        if any(secret in each for each in read["keys"] for secret in ("d", "k")):
            raise ValueError(f"{path}: it has private keys; expected public ones alone")
        usable = {key.key_id or "": key for key in keys if key.algorithm_name in ALGORITHMS}
        if not usable:
            raise ValueError(f"{path}: it has no key for {' or '.join(ALGORITHMS)}")
        return usable


def _urns(claim: object) -> list[str]:
    listed = claim.split() if isinstance(claim, str) else claim
    if not isinstance(listed, list) or not all(isinstance(each, str) for each in listed):
        raise TypeError("expected a list of texts")
    return [each if each.startswith(URN_PREFIX) else role_urn(Role(each)) for each in listed if _is_known(each)]


def _is_known(grant: str) -> bool:
    """Whether it is ours: issuers put other services' roles into the same claim."""
    return grant.startswith(URN_PREFIX) or grant in list(Role)


def _why(error: Exception) -> str:
    """A word for the caller, from the kind of the error: its text may have parts of the token."""
    kinds = {
        jwt.InvalidAudienceError: "it is for somebody else (aud)",
        jwt.InvalidIssuerError: "another issuer's (iss)",
        jwt.ImmatureSignatureError: "it is not valid yet (nbf)",
        jwt.InvalidIssuedAtError: "it was issued in the future (iat)",
        jwt.InvalidSignatureError: "its signature is wrong",
        jwt.InvalidAlgorithmError: f"it must be signed by {' or '.join(ALGORITHMS)}",
        jwt.InvalidKeyError: "no key of its kid is known",
    }
    if isinstance(error, jwt.MissingRequiredClaimError):
        return f"it has no {error.claim}"
    return next((why for kind, why in kinds.items() if isinstance(error, kind)), "it is no token")
