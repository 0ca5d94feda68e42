"""What the services tell Prometheus: names, types and labels as `docs/metrics.md` says, and right numbers."""

import asyncio
import re
import urllib.request
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from analytics_svc.request_metrics import AnalyticsMetrics
from ingestion_svc.batch import Batcher
from ingestion_svc.reading_metrics import IngestionMetrics
from ingestion_svc.readings import REJECTIONS_MAX, Decoded, Rejection, RejectionReason, Written
from ingestion_svc.receipt import Receipt
from ingestion_svc.storage_metrics import StorageMetrics
from ingestion_svc.supervisor import Workers
from shared.access_metrics import AccessMetrics
from shared.config import IngestionSettings, ServingSettings
from shared.db.device_kind import KINDS
from shared.db.storage import Storage
from shared.errors import DatabaseUnavailable, UnknownDevice
from shared.exporter import MetricsAddressTaken, exporting, new_registry, watching_event_loop
from tests.unit.test_batch import FakeWriter, NoWriter, some

TABLE = Path(__file__).parents[2] / "docs" / "metrics.md"
ROW = re.compile(r"^\| `(energyfleet_\w+)` \| (\w+) \| ([^|]*)\| (\w+) \|", re.MULTILINE)
UNIT = re.compile(r"_(seconds|days|bytes|readings|streams|workers)$")


def value(registry: CollectorRegistry, name: str, **labels: str) -> float | None:
    """A sample of the exposition; None where there is no such one."""
    for family in text_string_to_metric_families(generate_latest(registry).decode()):
        for sample in family.samples:
            if (sample.name, sample.labels) == (name, labels):
                return sample.value
    return None


def described(registry: CollectorRegistry) -> set[tuple[str, str, str]]:
    """Name, type and labels of every metric with a sample."""
    found = set()
    for family in text_string_to_metric_families(generate_latest(registry).decode()):
        name = f"{family.name}_total" if family.type == "counter" else family.name
        labels = sorted({label for sample in family.samples for label in sample.labels} - {"le"})
        assert family.samples, name
        found.add((name, family.type, ", ".join(labels)))
    return found


class Servicer:
    async def GetStatus(self, request: str, context: object) -> str:  # noqa: N802 (as the contract names rpcs)
        if request == "unknown":
            raise UnknownDevice("meter", "m")
        if request == "defect":
            raise ZeroDivisionError
        return "answer"


@pytest.fixture
def registry() -> CollectorRegistry:
    return new_registry()


@pytest.fixture
def metrics(registry: CollectorRegistry) -> IngestionMetrics:
    return IngestionMetrics(registry)


async def test_the_table_says_what_is_told(tmp_path: Path) -> None:
    ingestion, analytics, supervisor = new_registry(), new_registry(), new_registry()
    its = IngestionMetrics(ingestion)
    its.write_failed(DatabaseUnavailable("08006"))
    its.set_partitions_ahead(7)
    of_storage = StorageMetrics(ingestion)
    of_storage.measured(Storage(open_days={kind.name: {} for kind in KINDS}), 0, 2)
    of_storage.sealing_finished(0)
    its.set_archive_waiting(2)
    its.set_retention_held(0)
    servicer = Servicer()
    AnalyticsMetrics(analytics).observe(servicer)
    await servicer.GetStatus("known", None)
    for registry in (ingestion, analytics):
        access = AccessMetrics(registry)
        access.refused("MapVehicle", "PERMISSION_DENIED")
        access.set_expiry({"server": 1.0})
    Workers(IngestionSettings(), "127.0.0.1:1", tmp_path, supervisor)

    documented = set()
    for name, kind, labels, of in ROW.findall(TABLE.read_text()):
        ordered = ", ".join(sorted(re.findall(r"\w+", labels)))
        documented |= {(name, kind, ordered, each) for each in (("ingestion", "analytics") if of == "both" else (of,))}
    told = {
        (*each, of)
        for of, registry in (("ingestion", ingestion), ("analytics", analytics), ("workers", supervisor))
        for each in described(registry)
    }
    assert told == documented


def test_names_follow_prometheus_conventions() -> None:
    rows = ROW.findall(TABLE.read_text())
    assert len(rows) > 10
    for name, kind, _, _ in rows:
        assert name.endswith("_total") if kind == "counter" else UNIT.search(name), name


async def test_outcomes_reasons_and_batches_are_counted(registry: CollectorRegistry, metrics: IngestionMetrics) -> None:
    writer = FakeWriter()
    writer.outcome = Written(duplicates=[0, 1], conflicts=[2], refused=[3], stored={2: (1.0, None, None)})
    batcher = Batcher([writer], [NoWriter()], IngestionSettings(batch_max_age_s=0), metrics)
    await batcher.start()
    decoded = some(10)
    decoded.rejections = [Rejection(0, "f", RejectionReason.TOO_OLD, "") for _ in range(REJECTIONS_MAX)]
    receipt = Receipt()
    writer.gate.clear()
    await batcher.submit(decoded, receipt)
    inflight = batcher.inflight_readings
    writer.gate.set()
    await receipt.completed()
    await batcher.close()

    outcomes = {
        outcome: value(registry, "energyfleet_ingestion_readings_total", outcome=outcome)
        for outcome in ("stored", "duplicate", "conflicting", "rejected", "failed")
    }
    rejected = REJECTIONS_MAX + 1
    assert outcomes == {"stored": 6, "duplicate": 2, "conflicting": 1, "rejected": rejected, "failed": 0}
    reasons = {
        reason: value(registry, "energyfleet_ingestion_rejections_total", reason=reason)
        for reason in ("too_old", "refused_by_database", "in_future")
    }
    assert reasons == {"too_old": REJECTIONS_MAX, "refused_by_database": 1, "in_future": 0}
    assert value(registry, "energyfleet_ingestion_batch_readings_sum") == 10
    for name in ("batch_age", "commit", "ack"):
        assert value(registry, f"energyfleet_ingestion_{name}_seconds_count") == 1
    assert (inflight, batcher.inflight_readings) == (10, 0)


@pytest.mark.parametrize(("sqlstate", "told"), [("57P01", "57"), ("08006", "08"), (None, "none")])
async def test_failed_writes_are_counted_by_sqlstate_class_and_given_up_readings_as_failed(
    registry: CollectorRegistry, metrics: IngestionMetrics, sqlstate: str | None, told: str
) -> None:
    class Away(FakeWriter):
        async def write(self, rows: Any, /) -> Written:
            raise DatabaseUnavailable(sqlstate)

    settings = IngestionSettings(batch_max_age_s=0, outage_grace_s=0.001)
    batcher = Batcher([Away()], [NoWriter()], settings, metrics)
    await batcher.start()
    receipt = Receipt()
    await batcher.submit(some(3), receipt)
    with pytest.raises(DatabaseUnavailable):
        await receipt.completed()
    await batcher.close()

    assert value(registry, "energyfleet_ingestion_write_failures_total", sqlstate_class=told) == 1
    assert value(registry, "energyfleet_ingestion_readings_total", outcome="failed") == 3


def test_a_stream_is_open_until_it_ends(registry: CollectorRegistry, metrics: IngestionMetrics) -> None:
    def open_streams() -> float | None:
        return value(registry, "energyfleet_ingestion_open_streams", rpc="ExchangeTelemetry")

    with metrics.open_stream("ExchangeTelemetry"):
        assert open_streams() == 1
    assert open_streams() == 0


def test_partitions_ahead_are_not_told_before_somebody_has_looked(
    registry: CollectorRegistry, metrics: IngestionMetrics
) -> None:
    assert value(registry, "energyfleet_ingestion_partitions_ahead_days") is None
    metrics.set_partitions_ahead(6)
    metrics.set_partitions_ahead(7)
    assert value(registry, "energyfleet_ingestion_partitions_ahead_days") == 7


async def test_questions_are_counted_by_how_they_ended(registry: CollectorRegistry) -> None:
    servicer = Servicer()
    AnalyticsMetrics(registry).observe(servicer)
    assert await servicer.GetStatus("known", None) == "answer"
    with pytest.raises(UnknownDevice):
        await servicer.GetStatus("unknown", None)
    with pytest.raises(ZeroDivisionError):
        await servicer.GetStatus("defect", None)

    outcomes = [
        value(registry, "energyfleet_analytics_requests_total", rpc="GetStatus", outcome=outcome)
        for outcome in ("ok", "unknown_device", "defect")
    ]
    assert outcomes == [1, 1, 1]
    assert value(registry, "energyfleet_analytics_request_duration_seconds_count", rpc="GetStatus") == 3


async def test_a_loop_that_is_held_up_is_seen(registry: CollectorRegistry, metrics: IngestionMetrics) -> None:
    looked = asyncio.Event()
    async with watching_event_loop(metrics.event_loop_lag, looked.set):
        await asyncio.wait_for(looked.wait(), 5)
    assert value(registry, "energyfleet_event_loop_lag_seconds_count") == 1


async def test_metrics_are_served_over_http_and_an_address_that_is_taken_is_an_error(
    registry: CollectorRegistry, metrics: IngestionMetrics
) -> None:
    metrics.set_inflight(3)
    async with exporting("127.0.0.1:0", registry, ServingSettings()) as address:
        assert address is not None
        text = await asyncio.to_thread(lambda: urllib.request.urlopen(f"http://{address}/metrics").read().decode())
        with pytest.raises(MetricsAddressTaken, match=address):
            async with exporting(address, registry, ServingSettings()):
                pass
    assert "\nenergyfleet_ingestion_inflight_readings 3.0\n" in text
    assert "_created" not in text


async def test_nothing_is_served_where_no_address_is_named(registry: CollectorRegistry) -> None:
    async with exporting(None, registry, ServingSettings()) as address:
        assert address is None


def test_the_readings_of_a_message_without_rejections_cost_no_counting(
    registry: CollectorRegistry, metrics: IngestionMetrics
) -> None:
    metrics.decoded(Decoded())
    assert value(registry, "energyfleet_ingestion_readings_total", outcome="rejected") == 0
