"""The metrics of analytics; `docs/metrics.md` is the table for operators."""

import inspect
import re
import time
from collections.abc import Awaitable, Callable
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from shared.errors import FleetError
from shared.exporter import LATENCY_BUCKETS_S, event_loop_lag

Answering = Callable[[Any, Any], Awaitable[Any]]
"""An rpc of a servicer: takes the request and the call's context."""


class AnalyticsMetrics:
    def __init__(self, registry: CollectorRegistry) -> None:
        self.event_loop_lag = event_loop_lag(registry)
        self._requests = Counter(
            "energyfleet_analytics_requests_total", "Requests by outcome", ["rpc", "outcome"], registry=registry
        )
        self._seconds = Histogram(
            "energyfleet_analytics_request_duration_seconds",
            "From a request's arrival to its answer or failure",
            ["rpc"],
            buckets=LATENCY_BUCKETS_S,
            registry=registry,
        )
        self._replica_lag = Gauge(
            "energyfleet_analytics_replica_lag_seconds",
            "Replication lag of the database that analytics reads",
            registry=registry,
        )

    def set_replica_lag(self, seconds: float) -> None:
        """The replication lag; 0 of a primary."""
        self._replica_lag.set(seconds)

    def observe(self, servicer: object) -> None:
        """Makes every rpc of a servicer's own class count and time its requests from now on."""
        for rpc, method in inspect.getmembers(servicer, inspect.iscoroutinefunction):
            if not rpc.startswith("_"):
                setattr(servicer, rpc, self._observed(rpc, method))

    def _observed(self, rpc: str, answer: Answering) -> Answering:
        answered = self._requests.labels(rpc, "ok")
        seconds = self._seconds.labels(rpc)

        async def observed(request: Any, context: Any) -> Any:
            began = time.perf_counter()
            try:
                response = await answer(request, context)
                answered.inc()
                return response
            except BaseException as error:
                self._requests.labels(rpc, _outcome(error)).inc()
                raise
            finally:
                seconds.observe(time.perf_counter() - began)

        return observed


def _outcome(error: BaseException) -> str:
    """An error of `shared.errors` by its name there, as unknown_device; `defect` and `cancelled` for what is none."""
    if isinstance(error, FleetError):
        return re.sub(r"(?<!^)(?=[A-Z])", "_", type(error).__name__).lower()
    return "defect" if isinstance(error, Exception) else "cancelled"
