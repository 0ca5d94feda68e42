"""What ingestion tells of itself; `docs/metrics.md` is the table for operators.

Observed once for a message or a batch, never for a reading.
"""

from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from functools import partial
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from ingestion_svc.readings import Decoded, RejectionReason, Written
from shared.db.device_kind import KINDS
from shared.errors import DatabaseUnavailable
from shared.exporter import LATENCY_BUCKETS_S, event_loop_lag

BATCH_BUCKETS_READINGS = (1, 10, 100, 500, 1_000, 2_000, 5_000, 10_000, 20_000, 50_000)
"""From a lonely unary call to the largest batch that can be configured."""

STREAMING_RPCS = ("StreamTelemetry", "ExchangeTelemetry")

CONNECTION_LOST = "none"
"""In place of a SQLSTATE class where the database said nothing: it could not be reached, or was too slow."""

DEFECT = "defect"
"""In place of a SQLSTATE class where the failure was ours."""


class IngestionMetrics:
    def __init__(self, registry: CollectorRegistry) -> None:
        self.event_loop_lag = event_loop_lag(registry)
        named: dict[str, Any] = {"namespace": "energyfleet", "subsystem": "ingestion", "registry": registry}
        counter: Callable[..., Counter] = partial(Counter, **named)
        seconds: Callable[..., Histogram] = partial(Histogram, **named, buckets=LATENCY_BUCKETS_S)
        self._gauge: Callable[..., Gauge] = partial(Gauge, **named)
        summed: Callable[..., Gauge] = partial(self._gauge, multiprocess_mode="livesum")
        readings = counter("readings_total", "Readings whose outcome is known", ["outcome"])
        self._stored = readings.labels("stored")
        self._duplicate = readings.labels("duplicate")
        self._conflicting = readings.labels("conflicting")
        self._rejected = readings.labels("rejected")
        self._failed = readings.labels("failed")
        self._rejections = counter("rejections_total", "Rejected readings by reason", ["reason"])
        for reason in RejectionReason:
            self._rejections.labels(_label(reason))
        self._omitted = counter("omitted_values_total", "Optional values that readings were taken without", ["field"])
        for kind in KINDS:
            for name in kind.optional:
                self._omitted.labels(name)
        self._doubted = counter("doubted_readings_total", "Stored readings whose energy does not count")
        self._batch_readings = Histogram(
            "batch_readings", "Readings of a batch", **named, buckets=BATCH_BUCKETS_READINGS
        )
        self._batch_age = seconds("batch_age_seconds", "How long a batch's oldest reading waited until it was closed")
        self._commit = seconds("commit_seconds", "From a batch's last attempt to its COMMIT")
        self._ack = seconds("ack_seconds", "From the queueing of a part of a message to its outcome, retries included")
        self._inflight = summed("inflight_readings", "Readings in memory whose outcome is not known yet")
        self._open_streams = summed("open_streams", "Streams that clients hold open", ["rpc"])
        for rpc in STREAMING_RPCS:
            self._open_streams.labels(rpc)
        self._write_failures = counter(
            "write_failures_total", "Failed attempts to commit a batch, by SQLSTATE class", ["sqlstate_class"]
        )
        self._partitions_ahead: Gauge | None = None
        self._archive_waiting: Gauge | None = None
        self._retention_held: Gauge | None = None

    def decoded(self, decoded: Decoded) -> None:
        """A slice of a message is in flight: counts what was rejected and omitted of it."""
        if decoded.rejections:
            self._rejected.inc(decoded.rejected)
            for rejection in decoded.rejections:
                self._rejections.labels(_label(rejection.reason)).inc()
        for omission in decoded.omissions:
            self._omitted.labels(omission.field.partition(".")[2]).inc()

    def batch_closed(self, readings: int, age_s: float) -> None:
        """A batch goes to the writer; its oldest reading has waited for so long."""
        self._batch_readings.observe(readings)
        self._batch_age.observe(age_s)

    def committed(self, readings: int, written: Written, took_s: float) -> None:
        refused = len(written.refused)
        self._stored.inc(readings - len(written.duplicates) - len(written.conflicts) - refused)
        self._duplicate.inc(len(written.duplicates))
        self._conflicting.inc(len(written.conflicts))
        if refused:
            self._rejected.inc(refused)
            self._rejections.labels(_label(RejectionReason.REFUSED_BY_DATABASE)).inc(refused)
        self._doubted.inc(len(written.doubted))
        self._commit.observe(took_s)

    def resolved(self, waited_s: Iterable[float]) -> None:
        """Parts of messages got their outcome, having waited for so long each."""
        for each in waited_s:
            self._ack.observe(each)

    def write_failed(self, error: Exception) -> None:
        if isinstance(error, DatabaseUnavailable):
            sqlstate_class = error.sqlstate[:2] if error.sqlstate else CONNECTION_LOST
        else:
            sqlstate_class = DEFECT
        self._write_failures.labels(sqlstate_class).inc()

    def gave_up(self, readings: int) -> None:
        """So many readings will not be committed; their senders are told to send them again."""
        self._failed.inc(readings)

    def set_inflight(self, readings: int) -> None:
        self._inflight.set(readings)

    def open_stream(self, rpc: str) -> AbstractContextManager[None]:
        """Counts a stream of one of STREAMING_RPCS for as long as the context lasts."""
        return self._open_streams.labels(rpc).track_inprogress()

    def set_partitions_ahead(self, days: float) -> None:
        """So many whole days after today have a history partition. Created on first use: absent, not 0, until then."""
        if self._partitions_ahead is None:
            self._partitions_ahead = self._gauge(
                "partitions_ahead_days",
                "Whole days after today that have a history partition, on both sides",
                multiprocess_mode="livemostrecent",
            )
        self._partitions_ahead.set(days)

    def set_archive_waiting(self, days: float) -> None:
        """So many closed days of a kind are not archived as they are now. Created on first use, as are the others."""
        if self._archive_waiting is None:
            self._archive_waiting = self._gauge(
                "archive_waiting_days",
                "Closed days of meters, and of vehicles, that are not archived as they are now",
                multiprocess_mode="livemostrecent",
            )
        self._archive_waiting.set(days)

    def set_retention_held(self, days: float) -> None:
        """So many days would be dropped if they were archived."""
        if self._retention_held is None:
            self._retention_held = self._gauge(
                "retention_held_days",
                "Days that are older than retention keeps, and stay because they are not archived",
                multiprocess_mode="livemostrecent",
            )
        self._retention_held.set(days)


def _label(reason: RejectionReason) -> str:
    return reason.name.lower()
