"""Page tokens of others' making are told to be none of ours."""

import json
from base64 import urlsafe_b64encode

import grpc
import pytest
from energyfleet.v1.analytics_service_pb2 import (
    ListChargingSessionsRequest,
    ListDevicesRequest,
    ListMeterPerformanceRequest,
    ListVehiclePerformanceRequest,
)
from energyfleet.v1.analytics_service_pb2_grpc import AnalyticsServiceStub
from energyfleet.v1.ingestion_service_pb2 import ListMappingsRequest
from energyfleet.v1.ingestion_service_pb2_grpc import IngestionServiceStub
from hypothesis import given
from hypothesis import strategies as st

from shared.device_ids import DEVICE_ID_MAX_LENGTH
from shared.requests import PLACE_NUMBER_MAX, page_token, place_of_page
from tests.acceptance.conftest import Running
from tests.acceptance.test_ingestion_service import bad_fields

pytestmark = pytest.mark.one_server


def encoded(value: bytes) -> str:
    return urlsafe_b64encode(value).decode()


NESTED = encoded(b"[" * 1_000 + b"]" * 1_000)
"""1.3 kB or so later it is more than Python's stack takes."""

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4),
)


@given(
    token=st.one_of(
        st.text(max_size=80),
        st.binary(max_size=80).map(encoded),
        json_values.map(lambda value: encoded(json.dumps(value).encode())),
        st.integers(1, 5_000).map(lambda depth: encoded(b"[" * depth)),
    )
)
def test_a_token_holds_a_place_or_nothing(token: str) -> None:
    place = place_of_page(token, str, int)
    assert place is None or (page_token(*place) == token and 0 <= int(place[1]) < 2**63)


@pytest.mark.parametrize("character", ["v", '"', "\\"])
def test_the_longest_of_our_tokens_names_its_place(character: str) -> None:
    longest_id = character * DEVICE_ID_MAX_LENGTH
    place: list[str | int] = [longest_id, PLACE_NUMBER_MAX, longest_id]
    assert place_of_page(page_token(*place), str, int, str) == place


@pytest.mark.parametrize(
    "token",
    [
        NESTED,
        encoded(b"[" * 900),
        page_token("m", 2**200),
        page_token("m", 2**63),
        page_token("m", -1),
        page_token("m", 1).rstrip("="),
        encoded(b'[ "m", 1]'),
        encoded(b'["m", true]'),
        encoded(b'["m", 1e3]'),
        encoded(b'["m", NaN]'),
        "x" * 100_000,
        "ä",
    ],
    ids=lambda token: token[:12],
)
async def test_a_page_token_that_is_none_of_ours_is_an_invalid_argument(
    ingestion: Running, analytics: Running, token: str
) -> None:
    for call in (
        IngestionServiceStub(ingestion.channel).ListMappings(ListMappingsRequest(page_token=token)),
        AnalyticsServiceStub(analytics.channel).ListVehiclePerformance(ListVehiclePerformanceRequest(page_token=token)),
        AnalyticsServiceStub(analytics.channel).ListMeterPerformance(ListMeterPerformanceRequest(page_token=token)),
        AnalyticsServiceStub(analytics.channel).ListDevices(ListDevicesRequest(page_token=token)),
        AnalyticsServiceStub(analytics.channel).ListChargingSessions(
            ListChargingSessionsRequest(vehicle_id="car", page_token=token)
        ),
    ):
        with pytest.raises(grpc.aio.AioRpcError) as raised:
            await call
        assert raised.value.code() == grpc.StatusCode.INVALID_ARGUMENT
        assert bad_fields(raised.value) == {"page_token"}
