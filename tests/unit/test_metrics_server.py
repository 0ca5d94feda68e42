"""The metrics' server as scrapers and attackers meet it: what it answers, whom it shuts out, what it holds."""

import asyncio
import http.client
import socket
import ssl
import threading
import time
import urllib.error
import urllib.request
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry, Gauge
from structlog.testing import capture_logs

from shared import metrics_server
from shared.config import ServingSettings
from shared.errors import StartRefused
from shared.exporter import exporting
from shared.identity import Role, device_urn, role_urn
from shared.metrics_server import CONNECTIONS_MAX, REQUEST_MAX_BYTES, MetricsServer
from shared.metrics_tls import MetricsTls
from tests.authority import Authority, Issued, TlsFolder

READER = role_urn(Role.READER)


@dataclass
class Served:
    """What a server under test renders, and how often it did."""

    port: int = 0
    text: bytes = b"energyfleet_up 1\n"
    renderings: int = 0
    at_a_time: int = 0
    most_at_a_time: int = 0
    go_on: threading.Event | None = None
    """Rendering waits for it."""

    def render(self) -> bytes:
        self.renderings += 1
        self.at_a_time += 1
        self.most_at_a_time = max(self.most_at_a_time, self.at_a_time)
        if self.go_on is not None:
            self.go_on.wait(10)
        self.at_a_time -= 1
        return self.text

    def get(self, path: str = "/metrics", method: str = "GET", tls: ssl.SSLContext | None = None) -> tuple[int, bytes]:
        if tls is not None:
            connection: http.client.HTTPConnection = http.client.HTTPSConnection(
                "127.0.0.1", self.port, timeout=10, context=tls
            )
        else:
            connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=10)
        try:
            connection.request(method, path)
            answer = connection.getresponse()
            assert answer.getheader("Server") is None
            return answer.status, answer.read()
        finally:
            connection.close()

    async def gets(self, path: str = "/metrics", method: str = "GET") -> tuple[int, bytes]:
        return await asyncio.to_thread(self.get, path, method)

    @contextmanager
    def connected(self) -> Iterator[socket.socket]:
        with socket.create_connection(("127.0.0.1", self.port), timeout=10) as connection:
            yield connection


@asynccontextmanager
async def serving(served: Served, tls: MetricsTls | None = None) -> AsyncIterator[Served]:
    server = MetricsServer(served.render, tls)
    served.port = await server.start("127.0.0.1", 0)
    try:
        yield served
    finally:
        await server.close()


@pytest.fixture(autouse=True)
def _unpaced(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metrics_server, "ACCEPT_PAUSE_S", 0.0)


@pytest.fixture
async def served() -> AsyncIterator[Served]:
    async with serving(Served()) as its:
        yield its


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/metrics", 200),
        ("GET", "/metrics?name[]=up", 200),
        ("GET", "/", 404),
        ("GET", "/metrics/../etc/passwd", 404),
        ("POST", "/metrics", 405),
        ("HEAD", "/metrics", 405),
        ("OPTIONS", "/metrics", 405),
    ],
)
async def test_only_get_of_the_metrics_is_answered(served: Served, method: str, path: str, status: int) -> None:
    found, body = await served.gets(path, method)
    assert found == status
    assert (body == served.text) == (status == 200)


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        (b"\x16\x03\x01\x02\x00\x01" + bytes(600) + b"\r\n\r\n", 400),
        (b"GET /metrics\r\n\r\n", 400),
        (b"GET /metrics HTTP/1.1\r\nCookie: " + b"x" * (REQUEST_MAX_BYTES + 1), 431),
    ],
)
async def test_what_is_no_request_is_refused(served: Served, sent: bytes, status: int) -> None:
    def answer() -> bytes:
        with served.connected() as connection:
            connection.sendall(sent)
            return connection.recv(12)

    assert await asyncio.to_thread(answer) == b"HTTP/1.1 %d" % status
    assert served.renderings == 0


async def test_a_request_that_does_not_arrive_in_time_is_hung_up_on(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(metrics_server, "REQUEST_MAX_WAIT_S", 0.2)

    def trickle() -> bytes:
        with served.connected() as connection:
            for _ in range(200):  # bytes that come slowly give no more time
                connection.sendall(b"G")
                connection.settimeout(0.05)
                try:
                    return connection.recv(1)
                except TimeoutError:
                    continue
            return b"still there"

    assert await asyncio.to_thread(trickle) == b""


async def test_an_answer_that_nobody_takes_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metrics_server, "ANSWER_MAX_WAIT_S", 0.2)
    async with serving(Served(text=b"x" * 64 * 1024 * 1024)) as served:

        def takes_late() -> int:
            with socket.socket() as connection:
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
                connection.settimeout(10)
                connection.connect(("127.0.0.1", served.port))
                connection.sendall(b"GET /metrics HTTP/1.1\r\n\r\n")
                ended.wait(10)
                taken = 0
                while chunk := connection.recv(1024 * 1024):
                    taken += len(chunk)
                return taken

        ended = threading.Event()
        taking = asyncio.create_task(asyncio.to_thread(takes_late))
        await until_given_up(served)
        ended.set()
        assert await taking < len(served.text)


async def until_given_up(served: Served) -> None:
    """Waits until nothing but the listener is left of the server's connections: all of them are answered or ended."""
    async with asyncio.timeout(10):
        while not served.renderings:
            await asyncio.sleep(0.01)
        while [each for each in asyncio.all_tasks() if "_connected" in repr(each)]:
            await asyncio.sleep(0.01)


async def test_silent_connections_lock_out_nobody_and_are_not_kept(served: Served) -> None:
    def attacked() -> tuple[tuple[int, bytes], int]:
        with ExitStack() as stack:
            silent = [stack.enter_context(served.connected()) for _ in range(200)]
            answer = served.get()
            kept = 0
            for each in silent:
                each.settimeout(0.001)
                try:
                    each.recv(1)
                except TimeoutError:
                    kept += 1
                except ConnectionResetError:
                    pass
            return answer, kept

    answer, kept = await asyncio.to_thread(attacked)
    assert answer == (200, served.text)
    assert 0 < kept <= CONNECTIONS_MAX


async def test_connections_are_taken_one_after_the_other_with_a_pause(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(metrics_server, "ACCEPT_PAUSE_S", 0.05)
    began = time.monotonic()
    await asyncio.gather(*(served.gets() for _ in range(5)))
    assert time.monotonic() - began > 3 * 0.05


async def test_two_hundred_scrapes_at_once_cost_few_renderings_and_one_at_a_time() -> None:
    async with serving(Served(go_on=threading.Event())) as served:
        assert served.go_on is not None

        async def scrape() -> int:
            try:
                reader, writer = await asyncio.open_connection("127.0.0.1", served.port)
                writer.write(b"GET /metrics HTTP/1.1\r\n\r\n")
                head = await reader.read()
                writer.close()
            except OSError:
                return 0
            return int(head[9:12]) if head else 0

        scrapes = [asyncio.create_task(scrape()) for _ in range(200)]
        async with asyncio.timeout(10):
            while sum(each.done() for each in scrapes) < 200 - CONNECTIONS_MAX:
                await asyncio.sleep(0.01)
        served.go_on.set()
        statuses = await asyncio.gather(*scrapes)
        assert statuses.count(200) == CONNECTIONS_MAX
        assert (served.renderings, served.most_at_a_time) == (1, 1)


async def test_a_text_that_cannot_be_made_is_an_internal_error() -> None:
    served = Served()
    served.render = lambda: 1 // 0  # type: ignore[assignment,method-assign,return-value]
    async with serving(served):
        assert await served.gets() == (500, b"internal error\n")


async def test_the_text_is_made_anew_after_a_moment(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metrics_server, "REUSED_FOR_S", 0.0)
    await served.gets()
    served.text = b"energyfleet_up 2\n"
    assert await served.gets() == (200, served.text)


@pytest.fixture(scope="module")
def authority() -> Authority:
    return Authority()


@pytest.fixture
def files(tmp_path: Path, authority: Authority) -> TlsFolder:
    return TlsFolder(tmp_path, authority)


def metrics_tls(files: TlsFolder) -> MetricsTls:
    tls = MetricsTls.of(ServingSettings(**files.settings))
    assert tls is not None
    return tls


def client(files: TlsFolder, issued: Issued | None) -> ssl.SSLContext:
    context = ssl.create_default_context(cadata=files.authority.pem.decode())
    if issued is not None:
        pair = files.folder / f"client-{issued.serial}"
        pair.write_bytes(issued.certificate + issued.key)
        context.load_cert_chain(pair)
    return context


async def test_over_tls_metrics_are_for_readers_and_operators(files: TlsFolder, authority: Authority) -> None:
    with capture_logs() as lines:
        await _ask_as_everybody(files, authority)
    assert {line["event"] for line in lines} == {"metrics_refused"}


async def _ask_as_everybody(files: TlsFolder, authority: Authority) -> None:
    async with serving(Served(), metrics_tls(files)) as served:

        async def status(issued: Issued | None) -> int:
            try:
                return (await asyncio.to_thread(served.get, tls=client(files, issued)))[0]
            except (ssl.SSLError, ConnectionError):
                return 0  # no handshake

        found = [
            await status(each)
            for each in (
                authority.client(READER),
                authority.client(device_urn("meter", "m-1"), role_urn(Role.OPERATOR)),
                authority.client(role_urn(Role.GATEWAY)),
                authority.client(device_urn("meter", "m-1")),
                authority.client(common_name="reader"),
                authority.client("urn:energyfleet:role:king"),
                Authority().client(READER),
                None,
            )
        ]
        assert found == [200, 200, 403, 403, 403, 403, 0, 0]
        with pytest.raises(ConnectionError):  # plaintext
            await served.gets()


async def test_whoever_is_refused_is_told_as_whom_and_why(files: TlsFolder, authority: Authority) -> None:
    urn = device_urn("vehicle", "ev-1")
    async with serving(Served(), metrics_tls(files)) as served:
        status, body = await asyncio.to_thread(served.get, tls=client(files, authority.client(urn)))
    assert (status, body.decode()) == (403, f"metrics need the role reader or operator, which {urn} has not\n")


async def test_certificates_and_the_deny_list_are_read_again(files: TlsFolder, authority: Authority) -> None:
    tls, reader = metrics_tls(files), authority.client(READER)
    async with serving(Served(), tls) as served:

        def serial_shown() -> int:
            context = client(files, reader)
            with context.wrap_socket(
                socket.create_connection(("127.0.0.1", served.port)), server_hostname="127.0.0.1"
            ) as c:
                shown = c.getpeercert()
                assert shown is not None
                return int(str(shown["serialNumber"]), 16)

        before = await asyncio.to_thread(serial_shown)
        files.show(new := authority.server())
        files.replace("denied", f"{reader.serial} stolen\n".encode())
        await tls.refresh()
        assert before != await asyncio.to_thread(serial_shown) == int(new.serial, 16)
        assert (await asyncio.to_thread(served.get, tls=client(files, reader)))[0] == 403

        files.replace("server.key", b"no key")  # broken: what was good goes on
        await tls.refresh()
        assert await asyncio.to_thread(serial_shown) == int(new.serial, 16)


async def test_slow_and_bad_handshakes_lock_out_nobody(files: TlsFolder, authority: Authority) -> None:
    reader = client(files, authority.client(READER))

    async with serving(Served(), metrics_tls(files)) as served:

        def attacked() -> tuple[int, bytes]:
            with ExitStack() as stack:
                for number in range(100):
                    connection = stack.enter_context(served.connected())
                    connection.sendall(b"\x16\x03\x01" if number % 2 else b"GET /metrics HTTP/1.1\r\n\r\n")
                return served.get(tls=reader)

        assert await asyncio.to_thread(attacked) == (200, served.text)


async def test_certificates_that_cannot_be_used_stop_the_start(files: TlsFolder) -> None:
    files.replace("server.key", b"no key")
    with pytest.raises(StartRefused, match="TLS of the metrics"):
        async with exporting("127.0.0.1:0", CollectorRegistry(), ServingSettings(**files.settings)):
            pass


async def test_a_registry_is_served_in_the_text_format() -> None:
    registry = CollectorRegistry()
    Gauge("energyfleet_up", "Up", registry=registry).set(3)
    async with exporting("localhost:0", registry, ServingSettings()) as address:
        with await asyncio.to_thread(urllib.request.urlopen, f"http://{address}/metrics") as answer:
            assert answer.headers["Content-Type"] == "text/plain; version=0.0.4; charset=utf-8"
            assert b"\nenergyfleet_up 3.0\n" in answer.read()
        with pytest.raises(urllib.error.HTTPError, match="404"):
            await asyncio.to_thread(urllib.request.urlopen, f"http://{address}/")
