"""What ingestion tells of stored readings and of sealing; `docs/metrics.md` is the table for operators.

Measured after each round of sealing, once an hour.
"""

from collections.abc import Sequence

from prometheus_client import CollectorRegistry, Gauge

from shared.db.device_kind import KINDS
from shared.db.storage import Storage
from shared.timestamps import US_PER_SECOND


class StorageMetrics:
    def __init__(self, registry: CollectorRegistry) -> None:
        self._registry = registry
        labels = ["kind", "state"]
        self._days = self._gauge("history_days", "UTC days that have readings", labels)
        self._readings = self._gauge("history_readings", "Stored readings, some of them estimated", labels)
        self._bytes = self._gauge("history_bytes", "Bytes on disk of stored readings, with indexes", labels)
        self._unsealed = self._gauge("unsealed_days", "UTC days that are old enough and not sealed", ["kind"])
        self._finished: Gauge | None = None

    def _gauge(self, name: str, meaning: str, labels: Sequence[str] = ()) -> Gauge:
        # Of several workers whichever measured last is right.
        return Gauge(
            name,
            meaning,
            labels,
            namespace="energyfleet",
            subsystem="ingestion",
            registry=self._registry,
            multiprocess_mode="livemostrecent",
        )

    def measured(self, storage: Storage, now_us: int, seal_after_days: int) -> None:
        """What was stored, so many whole days after which days should be sealed; 0: never."""
        for kind in KINDS:
            for state, held in ("open", storage.open(kind.name)), ("sealed", storage.sealed(kind.name)):
                self._days.labels(kind.name, state).set(held.days)
                self._readings.labels(kind.name, state).set(held.readings)
                self._bytes.labels(kind.name, state).set(held.bytes)
            self._unsealed.labels(kind.name).set(storage.unsealed_days(kind.name, now_us, seal_after_days))

    def sealing_finished(self, now_us: int) -> None:
        """A round has sealed all there was. Created on first use: absent, not 0, until then."""
        if self._finished is None:
            self._finished = self._gauge(
                "sealing_finished_timestamp_seconds", "Unix time at which a round of sealing last had nothing left"
            )
        self._finished.set(now_us / US_PER_SECOND)
