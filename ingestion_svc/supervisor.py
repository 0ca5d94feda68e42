"""Several ingestion processes behind one port, and the process that keeps them running: `--workers N`.

Each worker is a whole ingestion service, spawned and never forked, and listens on the port itself (SO_REUSEPORT): the
kernel gives each new connection to one of them, and the supervisor sees none. What one device sends through several
workers stays exact, because what is a repeat is decided by the database.

- The port is the supervisor's from first to last. It binds it and never listens: connections go to listeners only.
- Health is the sum: a connection belongs to one worker, and that worker answers for itself. It is NOT_SERVING while
  its own database connection is away or while it drains. A worker that starts does not listen before it can serve, so
  the port answers through the others meanwhile; it refuses connections only while no worker is up.
- A worker that dies takes its connections with it: their clients see UNAVAILABLE, reconnect to another worker and send
  again what was not acknowledged. It is started again at once, and less and less often when it keeps dying.
- A worker that cannot start when everything starts ends everything: the others would fail alike. The first one starts
  alone, so that the reason is said once. Later on it is tried again, since the others may be outliving an outage.
- SIGTERM and SIGINT drain all workers at once. When the supervisor is killed the system tells them to drain.
"""

import asyncio
import os
import random
import signal
import socket
import tempfile
from contextlib import closing
from pathlib import Path

import structlog
from prometheus_client import CollectorRegistry, Counter, Gauge

from shared.child import Child, ChildFailed
from shared.config import IngestionSettings
from shared.exporter import DIRECTORY_VARIABLE, exporting, forget_worker, registry_of_workers
from shared.serve import ListenError, announce_ready

_log = structlog.get_logger()

MODULE = "ingestion_svc"

RESTART_MIN_S = 0.1
"""A worker that was killed is back at once."""

RESTART_MAX_S = 10.0
"""A worker that keeps dying costs a start every ten seconds, and is back within that when the cause is gone."""

STEADY_S = 60.0
"""A worker that has served for so long has not died of its start: its next restart is prompt again."""

STOP_MARGIN_S = 15.0
"""What a worker gets beyond its grace period: for its last batches, and to let go of its connections."""


class WorkersFailed(Exception):
    """A worker did not end as it should. The message says which and how."""


def hold_port(address: str) -> tuple[socket.socket, str]:
    """Binds HOST:PORT for sharing without listening: the socket, and the address with the port that it got.

    Raises ListenError where the address cannot be had, which includes that others share it already.
    """
    host, _, port = address.rpartition(":")
    try:
        family, kind, _, _, where = socket.getaddrinfo(host.strip("[]"), int(port), type=socket.SOCK_STREAM)[0]
        with closing(socket.socket(family, kind)) as alone:  # fails where anybody listens, willing to share or not
            alone.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            alone.bind(where)
        held = socket.socket(family, kind)
        try:
            held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            held.bind(where)
        except BaseException:
            held.close()
            raise
    except OSError as error:
        raise ListenError(f"cannot listen on {address}: it is in use, or not of this machine") from error
    return held, f"{host}:{held.getsockname()[1]}"


async def supervise(settings: IngestionSettings) -> None:
    """Serves through `settings.workers` workers until SIGTERM or SIGINT, then drains them.

    Raises StartRefused or SystemExit where the workers cannot start (SystemExit: a worker has said why), and
    WorkersFailed where one had to be killed in the end.
    """
    stop = asyncio.Event()
    for signal_number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(signal_number, stop.set)
    held, address = hold_port(settings.ingestion_address)
    with held, tempfile.TemporaryDirectory(prefix="energyfleet-workers-") as name:
        directory = Path(name)
        registry = registry_of_workers(directory)
        async with exporting(settings.ingestion_metrics_address, registry, settings):
            workers = Workers(settings, address, directory, registry)
            keeping = asyncio.create_task(workers.keep())
            stopping = asyncio.create_task(stop.wait())
            try:
                await asyncio.wait((keeping, stopping), return_when=asyncio.FIRST_COMPLETED)
            finally:
                stopping.cancel()
                complaints = await workers.stop(keeping)
            if not keeping.cancelled():
                try:
                    keeping.result()
                except ChildFailed as failure:
                    if failure.exit_code is not None and failure.exit_code > 0:
                        raise SystemExit(failure.exit_code) from None  # the worker has said why
                    raise
    if complaints:
        raise WorkersFailed("; ".join(complaints))


class Workers:
    """The worker processes, by number. Their number stays when they are restarted."""

    def __init__(self, settings: IngestionSettings, address: str, directory: Path, registry: CollectorRegistry) -> None:
        self._address = address
        self._directory = directory
        self._count = settings.workers
        self._stop_timeout_s = settings.shutdown_grace_s + STOP_MARGIN_S
        self._children: dict[int, Child] = {}
        self._environment = {**os.environ, "ENERGYFLEET_INGESTION_ADDRESS": address}
        if self._environment.pop("ENERGYFLEET_INGESTION_METRICS_ADDRESS", None):
            self._environment[DIRECTORY_VARIABLE] = str(directory)
        self._serving = Gauge("energyfleet_ingestion_workers", "Worker processes that serve", registry=registry)
        self._restarts = Counter(
            "energyfleet_ingestion_worker_restarts_total", "Workers started again after they ended", registry=registry
        )

    async def keep(self) -> None:
        """Starts the workers, announces the service when all of them serve, and restarts those that end; for ever.

        Raises ChildFailed where a worker does not serve in the beginning.
        """
        await self._spawn(0)
        await self._ready(0)
        for number in range(1, self._count):
            await self._spawn(number)
        for number in range(1, self._count):
            await self._ready(number)
        announce_ready(self._address)
        _log.info("serving", address=self._address, workers=self._count)
        await asyncio.gather(*(self._keep_one(number) for number in range(self._count)))

    async def stop(self, keeping: asyncio.Task[None]) -> list[str]:
        """Ends `keep` and drains the workers, all at once; what there is to complain of."""
        keeping.cancel()
        await asyncio.wait((keeping,))
        _log.info("draining", workers=len(self._children))
        complaints = await asyncio.gather(*(child.stop(self._stop_timeout_s) for child in self._children.values()))
        return [each for each in complaints if each]

    async def _spawn(self, number: int) -> None:
        self._children[number] = await Child.start(
            MODULE,
            self._environment,
            self._directory,
            arguments=("--worker", str(number)),
            name=f"{MODULE} worker {number}",
        )

    async def _ready(self, number: int) -> None:
        await self._children[number].ready()
        self._serving.inc()

    async def _keep_one(self, number: int) -> None:
        loop = asyncio.get_running_loop()
        delay_s = RESTART_MIN_S
        while True:
            began = loop.time()
            told = await self._children[number].ended()
            self._serving.dec()
            if loop.time() - began > STEADY_S:
                delay_s = RESTART_MIN_S
            while True:
                forget_worker(self._directory, number)
                _log.error("worker_ended", told=told, restart_in_s=round(delay_s, 2))
                await asyncio.sleep(delay_s * random.uniform(0.5, 1.0))  # noqa: S311 (jitter protects nothing)
                delay_s = min(2 * delay_s, RESTART_MAX_S)
                self._restarts.inc()
                try:
                    await self._spawn(number)
                    await self._ready(number)
                    break
                except ChildFailed as failure:
                    told = str(failure)
                    await self._children[number].stop(self._stop_timeout_s)  # one that stalls
            _log.warning("worker_back", worker=number, pid=self._children[number].pid)
