"""Whom a certificate names, and which files are refused."""

import pytest

from shared.certificates import UNNAMED, identity_of, key_pair
from shared.identity import BadGrant, Role, cn_templates, device_urn, role_urn
from tests.authority import Authority

AUTHORITY = Authority()


def test_a_certificate_is_named_by_its_first_urn_and_grants_all_of_them() -> None:
    issued = AUTHORITY.client("https://example.com", device_urn("vehicle", "Käfer"[0] + "*1"), role_urn(Role.READER))

    identity = identity_of(issued.certificate)

    assert identity.name == "urn:energyfleet:vehicle:K%2A1"
    assert identity.serial == issued.serial
    assert identity.grants.sends_for("vehicle", "K*1")
    assert not identity.grants.sends_for("vehicle", "K1")
    assert identity.grants.roles == {Role.READER}


def test_a_common_name_is_an_id_where_a_template_says_so_and_no_urn_does() -> None:
    templates = cn_templates("vehicle:{cn}, meter:{cn}-ac")
    named, both = AUTHORITY.client(common_name="CP 7"), AUTHORITY.client(role_urn(Role.READER), common_name="CP 7")

    grants = identity_of(named.certificate, templates).grants

    assert grants.sends_for("vehicle", "CP 7")
    assert grants.sends_for("meter", "CP 7-ac")
    assert not grants.sends_for("meter", "CP 7")
    assert not identity_of(both.certificate, templates).grants.vehicles
    assert identity_of(named.certificate).name == "CN=CP 7"
    assert identity_of(both.certificate).name == "CN=CP 7"
    assert identity_of(AUTHORITY.client(role_urn(Role.READER)).certificate).name == role_urn(Role.READER)
    assert not identity_of(named.certificate).grants.vehicles
    assert identity_of(AUTHORITY.client().certificate).name == UNNAMED
    with pytest.raises(BadGrant, match="makes no vehicle's id"):
        identity_of(AUTHORITY.client(common_name=" 7").certificate, templates)


@pytest.mark.parametrize(
    "text", ["{cn}", "car:{cn}", "vehicle:{id}", "vehicle:", "vehicle:{cn}{cn}{x}", "vehicle:{cn},"]
)
def test_a_template_that_makes_no_id_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="expected"):
        cn_templates(text)


def test_a_key_of_another_certificate_and_what_is_no_key_are_refused() -> None:
    one, other = AUTHORITY.server(), AUTHORITY.server()
    assert key_pair(one.certificate, one.key).expires_at_us > 0
    for key, why in (
        (other.key, "does not belong"),
        (b"nothing", "not a private key"),
        (one.certificate, "not a private"),
    ):
        with pytest.raises(ValueError, match=why):
            key_pair(one.certificate, key)
    with pytest.raises(ValueError, match="not a certificate"):
        key_pair(one.key, one.key)
