"""A gRPC server from its first breath to its last: health, reflection, TLS, signals, draining."""

import asyncio
import gc
import os
import signal
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from pathlib import Path
from typing import Any

import grpc
import structlog
import uvloop
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection
from prometheus_client import CollectorRegistry

from shared import caller, status
from shared.access_metrics import AccessMetrics
from shared.authentication import Authentication
from shared.background import BackgroundLoop
from shared.config import MESSAGE_MAX_BYTES, ServingSettings
from shared.errors import FleetError, StartRefused
from shared.files import FILES_RESERVED, raise_file_limit
from shared.interceptor import HEADERS_MAX_BYTES, Interceptor, ListLimits
from shared.logs import quietly
from shared.timestamps import Clock, system_clock
from shared.tls import ServerTls, TlsFiles
from shared.tokens import TokenRules, Tokens

_log = structlog.get_logger()

# The two sides of keepalive must agree, or clients are sent away with `too_many_pings`.
KEEPALIVE_TIME_MS = 60_000
KEEPALIVE_TIMEOUT_MS = 20_000
CLIENT_PING_MIN_INTERVAL_MS = 10_000

CONNECTION_IDLE_MS = 120_000
"""A connection without a call is closed then: whoever reports every minute keeps his, and does not shake hands anew."""

HANDSHAKE_TIMEOUT_MS = 30_000
"""For TLS and HTTP/2's first words: several times what a bad radio needs. gRPC would wait for two minutes."""

SETTINGS_TIMEOUT_MS = 20_000
"""For a client to acknowledge the server's limits, which hold from then on; as long as for a ping."""

PENDING_CALLS = 12_000
PENDING_CALLS_MAX = 16_000
"""Calls that have come and that nobody has looked at yet, some 14 KiB each: beyond the first number gRPC answers more
and more of them with CANCELLED, beyond the second all. A fleet that comes back at once must fit in. gRPC's own numbers
are 1,000 and 3,000: what a single peer that opens and resets streams could fill, with CANCELLED for everybody."""

OPTIONS: Sequence[tuple[str, int]] = (
    ("grpc.max_receive_message_length", MESSAGE_MAX_BYTES),
    # Until the client has acknowledged them, only the interceptor knows these two.
    ("grpc.max_metadata_size", HEADERS_MAX_BYTES),
    ("grpc.absolute_max_metadata_size", HEADERS_MAX_BYTES),
    ("grpc.http2.settings_timeout", SETTINGS_TIMEOUT_MS),
    ("grpc.server_handshake_timeout_ms", HANDSHAKE_TIMEOUT_MS),
    ("grpc.max_connection_idle_ms", CONNECTION_IDLE_MS),
    ("grpc.server.max_pending_requests", PENDING_CALLS),
    ("grpc.server.max_pending_requests_hard_limit", PENDING_CALLS_MAX),
    ("grpc.keepalive_time_ms", KEEPALIVE_TIME_MS),
    ("grpc.keepalive_timeout_ms", KEEPALIVE_TIMEOUT_MS),
    ("grpc.http2.min_ping_interval_without_data_ms", CLIENT_PING_MIN_INTERVAL_MS),
    ("grpc.keepalive_permit_without_calls", 1),
)

IDENTITY_FILES_INTERVAL_S = 1.0
"""Between two looks at the files of certificates, keys and serials: a revoked peer's streams end within seconds."""

DatabaseCheck = Callable[[], Awaitable[bool]]
"""Returns within bounded time whether the database is fit to serve from. To raise means that it is not."""


class ListenError(StartRefused):
    """The address cannot be listened on."""


class Service:
    """One gRPC service on one address.

    The port is its own, and one that is taken is an error rather than a silent half of the traffic, unless
    `shared_port` says that other processes of the same service listen on it too.
    """

    def __init__(
        self,
        name: str,
        settings: ServingSettings,
        address: str,
        database_answers: DatabaseCheck,
        limits: ListLimits,
        *,
        registry: CollectorRegistry,
        calls_per_connection: int,
        connections: int,
        clock: Clock = system_clock,
        shared_port: bool = False,
    ) -> None:
        """Raises StartRefused where a file of certificates, keys or serials cannot be used.

        `calls_per_connection`: at a time, streams among them; a call that was reset counts until it is cleared away.
        `connections`: how many there must be room for. More than the limit of open files leaves room for are closed at
        once. gRPC counts them for a listener; it has no limit for an address.
        """
        self.name = name
        self.backend_address: str | None = None
        self.draining = asyncio.Event()
        self.on_drain: list[Callable[[], None]] = []
        """Called when the service drains, once health has said so."""
        files_needed = connections + FILES_RESERVED
        options = (
            *OPTIONS,
            ("grpc.max_concurrent_streams", calls_per_connection),
            ("grpc.max_allowed_incoming_connections", max(1, raise_file_limit(files_needed) - FILES_RESERVED)),
            ("grpc.so_reuseport", int(shared_port)),
        )
        self._metrics = AccessMetrics(registry)
        try:
            self._tls = server_tls(settings, clock)
            self._authentication = authentication(settings, clock)
        except (OSError, ValueError) as error:
            raise StartRefused(f"TLS cannot be set up: {error}") from None
        interceptor = Interceptor(limits, self._authentication, self._refused)
        self.server = grpc.aio.server(interceptors=(interceptor,), options=options)
        self._settings = settings
        self._address = address
        self._database_answers = database_answers
        self._answered = True
        self._started = False
        self._watch = BackgroundLoop("health_check", self._check_health, settings.health_interval_s)
        self._health = health.aio.HealthServicer()  # type: ignore[attr-defined]  # grpc-stubs does not have it
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self.server)
        if settings.reflection:
            reflection.enable_server_reflection((name, health.SERVICE_NAME, reflection.SERVICE_NAME), self.server)
        self._identity_files = BackgroundLoop("identity_files", self._refresh, IDENTITY_FILES_INTERVAL_S)

    async def start(self) -> str:
        """Listens, and returns HOST:PORT with the port that it got; ListenError where that cannot be had.

        Where clients with tokens have a listener of their own, `backend_address` is where.
        """
        # Before the port is opened: on a shared one its clients would wait for us while others could serve them.
        await self._set_health(await self._database_answers())
        address = self._listen(self._address, asks_for_certificate=self._settings.tls_client_ca_file is not None)
        if self._settings.backend_address is not None:
            self.backend_address = self._listen(self._settings.backend_address, asks_for_certificate=False)
        await self.server.start()
        self._started = True
        self._watch.start()
        self._identity_files.start()
        return address

    def _listen(self, address: str, *, asks_for_certificate: bool) -> str:
        """Returns HOST:PORT with the port that it got. Raises ListenError."""
        try:
            if self._tls is None:
                port = self.server.add_insecure_port(address)
            else:
                credentials = self._tls.credentials(asks_for_certificate=asks_for_certificate)
                port = self.server.add_secure_port(address, credentials)
        except RuntimeError as error:
            raise ListenError(f"cannot listen on {address}: it is in use, or not of this machine") from error
        return f"{address.rpartition(':')[0]}:{port}"

    async def until_signal(self, address: str) -> None:
        """Announces the service and returns on SIGTERM or SIGINT; the caller then drains it."""
        stop = asyncio.Event()
        loop = asyncio.get_running_loop()
        for signal_number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(signal_number, stop.set)
        announce_ready(address)
        _log.info("serving", address=address, backend_address=self.backend_address, tls=self._tls is not None)
        if self._settings.allow_anonymous and self._tls is not None:
            _log.warning("anonymous_allowed", consequence="whoever reaches the port may do everything")
        await stop.wait()

    async def drain(self) -> None:
        """Tells health, then the handlers, and gives calls the grace period to end in. Nothing before the start."""
        if not self._started:
            return
        _log.info("draining", grace_s=self._settings.shutdown_grace_s)
        await self._health.enter_graceful_shutdown()
        self.draining.set()
        for drain in self.on_drain:
            drain()
        await asyncio.gather(
            self.server.stop(self._settings.shutdown_grace_s), self._watch.close(), self._identity_files.close()
        )
        _log.info("stopped")

    async def _refresh(self) -> None:
        """Reads the files that say who is who, where they have changed."""
        if self._tls is not None:
            self._tls.refresh()
            self._metrics.set_expiry(self._tls.expiry_s)
        self._authentication.refresh()

    def _refused(self, rpc: str, peer: str, error: FleetError) -> None:
        code = status.termination(error).code.name
        self._metrics.refused(rpc.rpartition("/")[2], code)
        # Many may share an address; with the port each connection would be another peer.
        key = (caller.identity().name, peer.rpartition(":")[0])
        quietly(_log.warning, code.lower(), key=key, rpc=rpc, peer=peer, reason=str(error))

    async def _check_health(self) -> None:
        try:
            answers = await self._database_answers()
        except Exception:
            await self._set_health(answers=False)
            raise
        await self._set_health(answers)

    async def _set_health(self, answers: bool) -> None:
        if answers != self._answered:
            _log.warning("serving_again" if answers else "not_serving")
            self._answered = answers
        state = health_pb2.HealthCheckResponse.SERVING if answers else health_pb2.HealthCheckResponse.NOT_SERVING
        for name in ("", self.name):
            await self._health.set(name, state)


def server_tls(settings: ServingSettings, clock: Clock) -> ServerTls | None:
    """The certificates of a service; None where it talks plaintext. Raises OSError or ValueError."""
    if settings.tls_cert_file is None or settings.tls_key_file is None:
        return None
    return ServerTls(TlsFiles(settings.tls_cert_file, settings.tls_key_file, settings.tls_client_ca_file), clock)


def authentication(settings: ServingSettings, clock: Clock) -> Authentication:
    """Who calls, as configured. Raises OSError or ValueError."""
    tokens = None
    if settings.jwks_file is not None:
        rules = TokenRules(settings.jwks_file, settings.jwt_audience, settings.jwt_issuer, settings.jwt_roles_claim)
        tokens = Tokens(rules)
    return Authentication(
        clock,
        client_certificates=settings.tls_client_ca_file is not None,
        templates=settings.cn_templates,
        deny_file=settings.tls_deny_file,
        tokens=tokens,
    )


def run(main: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """Runs a process to its end. A StartRefused is said on standard error, and the exit code is 1."""
    try:
        uvloop.run(main())
    except StartRefused as error:
        raise SystemExit(f"{error}") from None


def tune_gc() -> None:
    """Lets the garbage collector look at the objects of start-up no more, and at the others less often.

    Rows and messages are no cycles and go by reference counting; looking through them took a seventh of the time.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 100)


def announce_ready(address: str) -> None:
    """Writes the address as a line to the file that ENERGYFLEET_READY_FILE names, for whoever started this process."""
    ready_file = os.environ.get("ENERGYFLEET_READY_FILE")
    if ready_file:
        unfinished = Path(ready_file + ".new")
        unfinished.write_text(address + "\n")
        unfinished.rename(ready_file)
