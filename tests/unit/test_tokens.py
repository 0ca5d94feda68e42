"""What is asked of a token."""

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import rsa

from shared.errors import Unauthenticated
from shared.identity import Role, device_urn
from shared.tokens import TokenRules, Tokens
from tests.authority import TokenKey

KEY = TokenKey("ours")
RSA_KEY = rsa.generate_private_key(65_537, 2_048)
RSA_JWK: dict[str, Any] = jwt.algorithms.RSAAlgorithm.to_jwk(RSA_KEY.public_key(), as_dict=True) | {"kid": "rsa"}


@pytest.fixture
def tokens(tmp_path: Path) -> Tokens:
    path = tmp_path / "jwks.json"
    path.write_text(json.dumps({"keys": [KEY.jwk, RSA_JWK]}))
    return Tokens(TokenRules(path, "energyfleet", "https://issuer.example", "roles"))


def good(**claims: Any) -> dict[str, Any]:
    return {
        "sub": "alice",
        "aud": ["others", "energyfleet"],
        "iss": "https://issuer.example",
        "exp": datetime.now(UTC) + timedelta(days=1),
        "roles": ["reader"],
    } | claims


def test_a_token_names_its_subject_and_grants_what_its_roles_say(tokens: Tokens) -> None:
    token = KEY.token(iss="https://issuer.example", roles=["reader", "billing", device_urn("meter", "m 1")])

    identity = tokens.identity(f"bearer {token}")

    assert identity.name == "token:back-end"
    assert identity.grants.roles == {Role.READER}
    assert identity.grants.sends_for("meter", "m 1")
    assert identity.expires_at_us is not None
    assert not identity.serial


def test_rsa_keys_sign_too_and_roles_may_stand_in_one_text(tokens: Tokens) -> None:
    token = jwt.encode(good(roles="gateway openid"), RSA_KEY, "RS256", {"kid": "rsa"})

    assert tokens.identity(f"Bearer {token}").grants.any_device


@pytest.mark.parametrize(
    ("authorization", "why"),
    [
        ("Basic YTpi", "expected `Bearer`"),
        ("Bearer", "expected `Bearer`"),
        ("Bearer nonsense", "no token"),
        ("Bearer " + jwt.encode(good(), "", "none", {"kid": "rsa"}), "must be signed by RS256 or ES256"),
        ("Bearer " + jwt.encode(good(), b"x" * 32, "HS256", {"kid": "rsa"}), "must be signed by RS256 or ES256"),
        ("Bearer " + KEY.token(iss="https://issuer.example", aud="others"), "somebody else"),
        ("Bearer " + KEY.token(iss="https://other.example"), "another issuer's"),
        ("Bearer " + KEY.token(), "it has no iss"),
        ("Bearer " + KEY.token(iss="https://issuer.example", nbf=2**33), "not valid yet"),
        ("Bearer " + KEY.token(iss="https://issuer.example", lasts_s=-60), "has expired"),
        ("Bearer " + KEY.token(iss="https://issuer.example", sub="a\nb"), "printable"),
        ("Bearer " + KEY.token(iss="https://issuer.example", sub=""), "printable"),
        ("Bearer " + KEY.token(iss="https://issuer.example", roles=7), "list of texts"),
        ("Bearer " + KEY.token(iss="https://issuer.example", roles=["urn:energyfleet:role:root"]), "one of the roles"),
        ("Bearer " + jwt.encode(good(), RSA_KEY, "RS256", {"kid": "rsa"})[:-8] + "A" * 8, "signature is wrong"),
        ("Bearer " + jwt.encode(good(), RSA_KEY, "RS256", {"kid": "other"}), "no key of its kid"),
        ("Bearer " + jwt.encode(good(), RSA_KEY, "RS256"), "no key of its kid"),
    ],
)
def test_what_is_wrong_with_a_token_is_told_and_nothing_of_it(authorization: str, why: str, tokens: Tokens) -> None:
    with pytest.raises(Unauthenticated) as refusal:
        tokens.identity(authorization)
    assert why in str(refusal.value)
    assert authorization.rpartition(" ")[2][:20] not in str(refusal.value).replace("`Bearer`", "")


@pytest.mark.parametrize(
    "content",
    ["", "[]", "{}", '{"keys": []}', '{"keys": [7]}', json.dumps({"keys": [{"kty": "oct", "k": "c2VjcmV0"}]})],
)
def test_a_file_without_usable_keys_is_refused_by_name(content: str, tmp_path: Path) -> None:
    path = tmp_path / "jwks.json"
    path.write_text(content)
    with pytest.raises(ValueError, match=r"jwks\.json"):
        Tokens(TokenRules(path, "energyfleet", None, "roles"))
