"""Whose streams are counted together."""

from typing import Any

import pytest

from ingestion_svc.servicer import _peer
from shared import caller
from shared.identity import ANYBODY, Identity, grants_of


class Context:
    def peer(self) -> str:
        return "ipv4:192.0.2.1:40000"


@pytest.mark.parametrize(
    ("urns", "by_name"),
    [
        ([], False),
        (["urn:energyfleet:meter:m-1"], True),
        (["urn:energyfleet:meter:m-1", "urn:energyfleet:vehicle:v-1"], True),
        (["urn:energyfleet:meter:depot-*"], False),
        (["urn:energyfleet:role:gateway"], False),
    ],
)
def test_a_device_is_counted_by_its_name_and_who_sends_for_many_by_connection(urns: list[str], by_name: bool) -> None:
    context: Any = Context()
    caller.set_identity(Identity("name", grants_of(urns)) if urns else ANYBODY)
    try:
        assert _peer(context) == ("name" if by_name else context.peer())
    finally:
        caller.set_identity(ANYBODY)
