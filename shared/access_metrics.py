"""What a service tells of who is let in: calls that were refused, and when certificates end."""

from collections.abc import Mapping

from prometheus_client import CollectorRegistry, Counter, Gauge


class AccessMetrics:
    """The metrics, in a registry."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._refused = Counter(
            "energyfleet_refused_calls",
            "Calls of somebody who is not known, or who may not do that",
            ["rpc", "code"],
            registry=registry,
        )
        self._expiry = Gauge(
            "energyfleet_certificate_expiry_seconds",
            "In how many seconds a certificate that the service shows or trusts ends, negative where it has",
            ["certificate"],
            registry=registry,
            multiprocess_mode="min",
        )

    def refused(self, rpc: str, code: str) -> None:
        """An rpc, by its name alone, answered with a status code."""
        self._refused.labels(rpc, code).inc()

    def set_expiry(self, seconds: Mapping[str, float]) -> None:
        """By what the certificate is: `server`, `client_ca`."""
        for certificate, its_seconds in seconds.items():
            self._expiry.labels(certificate).set(its_seconds)
