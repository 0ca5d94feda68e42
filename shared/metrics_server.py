"""A server of HTTP/1.1 for one text, small enough to be bounded in everything: connections, their time, their bytes.

It answers `GET /metrics`, one request a connection. Of the servers that one could take over instead, none both bounds
how long a request takes to arrive and says which certificate a client has shown.
"""

import asyncio
import socket
from collections.abc import Callable
from contextlib import suppress
from email.utils import formatdate
from functools import partial
from http import HTTPStatus

import structlog

from shared.background import retrieve
from shared.errors import reason_of
from shared.logs import quietly
from shared.metrics_tls import MetricsTls, NotAllowed

_log = structlog.get_logger()

PATH = "/metrics"

CONNECTIONS_MAX = 32
"""At a time; a scrape every few seconds needs one. Each may hold REQUEST_MAX_BYTES twice, and an answer's rest."""

REQUEST_MAX_BYTES = 8 * 1024
"""Of a request's head. Prometheus sends some 300 bytes, with a proxy's and a tracer's headers a few thousand."""

REQUEST_MAX_WAIT_S = 5.0
"""For a handshake and a request to arrive: several times what the slowest network takes."""

ANSWER_MAX_WAIT_S = 10.0
"""For the text to be made and the answer to be taken: Prometheus' own limit for a scrape."""

BACKLOG = 512
"""Connections that the kernel keeps for us. Were it short, a flood would make it drop those of others for a second."""

ACCEPT_PAUSE_S = 0.005
"""After each connection: at most 200 a second. A handshake takes a millisecond of the service's event loop, so a flood
of them takes a fifth of it at most, and a scrape's turn comes within seconds."""

ACCEPT_RETRY_S = 1.0
"""Before the next attempt to take a connection where the system has no room for one."""

REUSED_FOR_S = 0.25
"""How long a text is good for more than one answer. Gauges are sampled as often, and the files of workers are read four
times a second at most, however many ask."""

_METRICS = "text/plain; version=0.0.4; charset=utf-8"
"""Prometheus' text format, in the version that every scraper reads."""

_TEXT = "text/plain; charset=utf-8"


class _Refused(Exception):
    """The request gets another answer than the text."""

    def __init__(self, status: HTTPStatus, message: str, *headers: str) -> None:
        super().__init__(message)
        self.answer = _answer(status, message.encode() + b"\n", _TEXT, *headers)


class MetricsServer:
    """Serves what `render` returns, which is called in a thread, once at a time; with `tls` to whom that allows."""

    def __init__(self, render: Callable[[], bytes], tls: MetricsTls | None = None) -> None:
        self._render = render
        self._tls = tls
        self._accepting: asyncio.Task[None] | None = None
        self._arriving: dict[asyncio.Task[None], None] = {}
        """Connections whose request has not arrived, the oldest first."""
        self._answering: set[asyncio.Task[None]] = set()
        self._rendering: asyncio.Task[bytes] | None = None
        self._good_until_s = 0.0

    async def start(self, host: str, port: int) -> int:
        """Listens; the port that it got. Raises OSError."""
        loop = asyncio.get_running_loop()
        family, kind, _, _, where = (await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM))[0]
        self._listener = listener = socket.socket(family, kind)
        try:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(where)
            listener.listen(BACKLOG)
        except OSError:
            listener.close()
            raise
        listener.setblocking(False)
        self._accepting = asyncio.create_task(self._accept(listener))
        return int(listener.getsockname()[1])

    async def close(self) -> None:
        """Ends connections, too. Does nothing where it has not begun."""
        if self._accepting is None:
            return
        tasks = [self._accepting, *self._arriving, *self._answering]
        for each in tasks:
            each.cancel()
        await asyncio.wait(tasks)
        self._listener.close()
        if self._rendering is not None:
            await asyncio.wait((self._rendering,))

    async def _accept(self, listener: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        while True:
            try:
                connection, _ = await loop.sock_accept(listener)
            except OSError as error:  # no descriptor is left, for one
                quietly(_log.warning, "metrics_accept_failed", error=reason_of(error))
                await asyncio.sleep(ACCEPT_RETRY_S)
                continue
            if self._has_place():
                task = asyncio.create_task(self._connected(connection))
                task.add_done_callback(partial(_hang_up, connection))  # of one that never began, too
                self._arriving[task] = None
            else:
                _hang_up(connection)
            await asyncio.sleep(ACCEPT_PAUSE_S)

    def _has_place(self) -> bool:
        """Whether one more may come in. The oldest without a request goes for it: slow ones lock nobody out."""
        if len(self._arriving) + len(self._answering) < CONNECTIONS_MAX:
            return True
        oldest = next(iter(self._arriving), None)
        if oldest is None:
            return False
        del self._arriving[oldest]
        oldest.cancel()
        return True

    async def _connected(self, connection: socket.socket) -> None:
        task = asyncio.current_task()
        assert task is not None
        try:
            await self._serve(connection, task)
        except (OSError, EOFError):  # it left, spoke no TLS, or was too slow: TimeoutError is an OSError
            pass
        except Exception as defect:
            quietly(_log.error, "metrics_failed", key=type(defect), exc_info=defect)
        finally:
            self._arriving.pop(task, None)
            self._answering.discard(task)

    async def _serve(self, connection: socket.socket, task: "asyncio.Task[None]") -> None:
        reader = asyncio.StreamReader(limit=REQUEST_MAX_BYTES)
        protocol = asyncio.StreamReaderProtocol(reader)
        loop = asyncio.get_running_loop()
        transport: asyncio.Transport | None = None
        try:
            async with asyncio.timeout(REQUEST_MAX_WAIT_S):
                transport, _ = await loop.connect_accepted_socket(
                    lambda: protocol, connection, ssl=None if self._tls is None else self._tls.context
                )
                head = await _head(reader)
            del self._arriving[task]
            self._answering.add(task)
            async with asyncio.timeout(ANSWER_MAX_WAIT_S):
                writer = asyncio.StreamWriter(transport, protocol, reader, loop)
                writer.write(await self._answer_to(head, transport))
                writer.close()
                await writer.wait_closed()
        finally:
            if transport is not None:
                transport.abort()  # what was to be sent is sent

    async def _answer_to(self, head: bytes, transport: asyncio.Transport) -> bytes:
        try:
            self._require_allowed(transport)
            _require_metrics(head)
            return _answer(HTTPStatus.OK, await self._text(), _METRICS)
        except _Refused as refused:
            return refused.answer

    def _require_allowed(self, transport: asyncio.Transport) -> None:
        if self._tls is None:
            return
        try:
            self._tls.require_allowed(transport.get_extra_info("ssl_object"))
        except NotAllowed as error:
            quietly(_log.warning, "metrics_refused", key=error.name, identity=error.name, reason=str(error))
            raise _Refused(HTTPStatus.FORBIDDEN, str(error)) from None

    async def _text(self) -> bytes:
        """Made anew or a moment old. Whoever waits may leave: the others get it all the same."""
        now_s = asyncio.get_running_loop().time()
        if self._rendering is None or (self._rendering.done() and now_s >= self._good_until_s):
            self._good_until_s = now_s + REUSED_FOR_S
            self._rendering = asyncio.create_task(asyncio.to_thread(self._render))
            self._rendering.add_done_callback(retrieve)
        try:
            return await asyncio.shield(self._rendering)
        except Exception as defect:
            quietly(_log.error, "metrics_failed", key=type(defect), exc_info=defect)
            raise _Refused(HTTPStatus.INTERNAL_SERVER_ERROR, "internal error") from None


def _hang_up(connection: socket.socket, _: object = None) -> None:
    with suppress(OSError):  # where it is closed already
        connection.shutdown(socket.SHUT_RDWR)
    connection.close()


async def _head(reader: asyncio.StreamReader) -> bytes:
    """A request up to its empty line; empty where it is too long."""
    try:
        return await reader.readuntil(b"\r\n\r\n")
    except asyncio.LimitOverrunError:
        return b""


def _require_metrics(head: bytes) -> None:
    """Raises _Refused unless a request's head, empty where it is too long, asks for the metrics."""
    if not head:
        raise _Refused(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE, f"more than {REQUEST_MAX_BYTES:,} bytes")
    words = head.partition(b"\r\n")[0].decode("latin-1").split(" ")
    if len(words) != 3 or not words[2].startswith("HTTP/1."):
        raise _Refused(HTTPStatus.BAD_REQUEST, "no request of HTTP/1.1")
    method, target, _ = words
    if target.partition("?")[0] != PATH:
        raise _Refused(HTTPStatus.NOT_FOUND, f"there is only {PATH}")
    if method != "GET":
        raise _Refused(HTTPStatus.METHOD_NOT_ALLOWED, "there is only GET", "Allow: GET")


def _answer(status: HTTPStatus, body: bytes, content_type: str, *headers: str) -> bytes:
    lines = [
        f"HTTP/1.1 {status.value} {status.phrase}",
        f"Date: {formatdate(usegmt=True)}",
        f"Content-Type: {content_type}",
        f"Content-Length: {len(body)}",
        "Cache-Control: no-store",
        "Connection: close",
        *headers,
    ]
    return "\r\n".join([*lines, "", ""]).encode("latin-1") + body
