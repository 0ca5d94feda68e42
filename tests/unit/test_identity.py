"""What URNs grant."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.identity import DEVICE_KINDS, BadGrant, DeviceIds, Grants, Role, device_urn, grants_of, prefix_urn, role_urn

DEVICE_IDS = st.text(st.characters(min_codepoint=33, max_codepoint=126), min_size=1, max_size=64)
KINDS = st.sampled_from(DEVICE_KINDS)


def devices(grants: Grants, kind: str) -> DeviceIds:
    return grants.meters if kind == "meter" else grants.vehicles


@given(KINDS, DEVICE_IDS, DEVICE_IDS)
def test_a_device_sends_for_itself_alone_whatever_its_id_is_made_of(kind: str, device_id: str, other: str) -> None:
    grants = grants_of([device_urn(kind, device_id)])
    [other_kind] = {*DEVICE_KINDS} - {kind}
    assert grants.sends_for(kind, device_id)
    assert grants.sends_for(kind, other) == (other == device_id)
    assert not devices(grants, other_kind)
    assert not grants.roles


@given(KINDS, st.text(st.characters(min_codepoint=33, max_codepoint=126), max_size=8), DEVICE_IDS)
def test_a_prefix_stands_for_the_ids_that_begin_so(kind: str, prefix: str, device_id: str) -> None:
    assert grants_of([prefix_urn(kind, prefix)]).sends_for(kind, device_id) == device_id.startswith(prefix)


def test_a_star_within_an_id_is_a_character_and_not_a_prefix() -> None:
    grants = grants_of([device_urn("meter", "m*")])
    assert grants.sends_for("meter", "m*")
    assert not grants.sends_for("meter", "m1")


def test_roles_add_up_and_a_gateway_sends_for_everybody() -> None:
    grants = grants_of(
        [role_urn(Role.READER), "URN:EnergyFleet:Role:Gateway", "https://example.com", "urn:other:role:operator"]
    )
    assert grants.roles == {Role.READER, Role.GATEWAY}
    assert grants.sends_for("meter", "any")
    assert grants.sends_for("vehicle", "any")


@pytest.mark.parametrize(
    "urn",
    [
        "urn:energyfleet:role:root",
        "urn:energyfleet:role:",
        "urn:energyfleet:charger:1",
        "urn:energyfleet:meter:",
        "urn:energyfleet:meter:%20a",
        "urn:energyfleet:meter:caf%C3%A9",
        "urn:energyfleet:vehicle:" + "a" * 65,
        "urn:energyfleet:",
    ],
)
def test_what_grants_nothing_is_refused_as_a_whole(urn: str) -> None:
    with pytest.raises(BadGrant, match="urn:energyfleet"):
        grants_of([role_urn(Role.READER), urn])
