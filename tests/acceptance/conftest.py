"""Real services on free ports, and stubs that speak to them over real channels."""

from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import grpc
import pytest
from energyfleet.v1.analytics_service_pb2_grpc import AnalyticsServiceStub
from energyfleet.v1.ingestion_service_pb2_grpc import IngestionServiceStub

import analytics_svc.__main__
import ingestion_svc.__main__
from shared.config import AnalyticsSettings, IngestionSettings
from shared.db.embedded import EmbeddedServer
from shared.serve import Service
from tests.ageing import Ageing, ageing_of
from tests.builders import clock

if TYPE_CHECKING:  # in the stubs' types only
    from energyfleet.v1.analytics_service_pb2_grpc import AnalyticsServiceAsyncStub
    from energyfleet.v1.ingestion_service_pb2_grpc import IngestionServiceAsyncStub


@dataclass
class Running:
    """A service under test: where it listens and what its parts are."""

    service: Service
    address: str
    channel: grpc.aio.Channel


@pytest.fixture
async def ingestion(postgres: EmbeddedServer, database: str) -> AsyncIterator[Running]:
    """The ingestion service, limited to its role, with a clock that stands still."""
    settings = IngestionSettings(
        database_url=postgres.url(database, role="energyfleet_ingestion"),
        ingestion_address="127.0.0.1:0",
        shutdown_grace_s=5,
        outage_grace_s=0.5,
        health_interval_s=0.1,
    )
    async with (
        ingestion_svc.__main__.serving(settings, clock) as (service, address),
        grpc.aio.insecure_channel(address) as channel,
    ):
        yield Running(service, address, channel)


@pytest.fixture
def ingest(ingestion: Running) -> "IngestionServiceAsyncStub":
    """The ingestion service's rpcs."""
    return IngestionServiceStub(ingestion.channel)


@pytest.fixture
async def analytics(postgres: EmbeddedServer, database: str) -> AsyncIterator[Running]:
    """The analytics service, limited to its role, with a clock that stands still."""
    settings = AnalyticsSettings(
        database_url=postgres.url(database, role="energyfleet_analytics"),
        analytics_address="127.0.0.1:0",
        shutdown_grace_s=5,
        health_interval_s=0.1,
    )
    async with (
        analytics_svc.__main__.serving(settings, clock) as (service, address),
        grpc.aio.insecure_channel(address) as channel,
    ):
        yield Running(service, address, channel)


@pytest.fixture
def ask(analytics: Running) -> "AnalyticsServiceAsyncStub":
    """The analytics service's rpcs."""
    return AnalyticsServiceStub(analytics.channel)


@pytest.fixture
async def ageing(postgres: EmbeddedServer, database: str, database_url: str) -> AsyncIterator[Ageing]:
    async with ageing_of(postgres.url(database, role="energyfleet_ingestion"), database_url) as found:
        yield found
