"""HTTP/2 frame by frame, for peers that do not keep its rules."""

from __future__ import annotations

import asyncio
import struct
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field

from hpack import Decoder, Encoder
from hyperframe.frame import (
    ContinuationFrame,
    DataFrame,
    Frame,
    GoAwayFrame,
    HeadersFrame,
    PingFrame,
    RstStreamFrame,
    SettingsFrame,
)

FRAME_MAX_BYTES = 16_384

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"

WINDOW = SettingsFrame.INITIAL_WINDOW_SIZE

NO_WINDOW: Mapping[int, int] = {WINDOW: 0}
"""Settings of a peer that takes no answer."""

_MESSAGE_PREFIX = struct.Struct(">?I")


def message(body: bytes = b"") -> bytes:
    """A message as gRPC puts it into DATA frames."""
    return _MESSAGE_PREFIX.pack(False, len(body)) + body


@dataclass
class Stream:
    """What came back on a stream."""

    headers: dict[str, str] = field(default_factory=dict)
    data: bytearray = field(default_factory=bytearray)
    reset: int | None = None
    """The code of RST_STREAM, where the stream was ended by it."""
    ended: bool = False

    @property
    def status(self) -> int | None:
        """The gRPC status code; None while there is none."""
        return int(self.headers["grpc-status"]) if "grpc-status" in self.headers else None


class RawConnection:
    """A connection on which frames are made by hand. Streams get the ids 1, 3, 5 and so on."""

    def __init__(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, address: str, *, acknowledge: bool = True
    ) -> None:
        self.streams: dict[int, Stream] = {}
        self.settings: dict[int, int] = {}
        """What the service said of itself."""
        self.pongs = 0
        """Our pings that were answered."""
        self.goaway: GoAwayFrame | None = None
        self.closed = False
        self.changed = asyncio.Event()
        self._address = address
        self._acknowledge = acknowledge
        self._reader, self._writer = reader, writer
        self._encoder, self._decoder = Encoder(), Decoder()
        self._next_id = 1
        self._reading: asyncio.Task[None] | None = None

    def write(self, *frames: Frame | bytes) -> None:
        self._writer.write(b"".join(each if isinstance(each, bytes) else each.serialize() for each in frames))

    async def send(self, *frames: Frame | bytes) -> None:
        """Writes, and waits where the service takes nothing. Raises ConnectionError where it has left."""
        self.write(*frames)
        await self._writer.drain()

    def headers(self, method: str, extra: Iterable[tuple[str, str]] = ()) -> tuple[int, bytes]:
        """The head of a call on a new stream: that stream's id, and the bytes of HEADERS and CONTINUATION frames."""
        stream_id, self._next_id = self._next_id, self._next_id + 2
        self.streams[stream_id] = Stream()
        block = self._encoder.encode(
            [
                (":method", "POST"),
                (":scheme", "http"),
                (":path", f"/energyfleet.v1.{method}"),
                (":authority", self._address),
                ("te", "trailers"),
                ("content-type", "application/grpc"),
                *extra,
            ],
            huffman=False,  # which takes its time in Python
        )
        parts = [block[at : at + FRAME_MAX_BYTES] for at in range(0, len(block), FRAME_MAX_BYTES)]
        frames = [HeadersFrame(stream_id, parts[0]), *(ContinuationFrame(stream_id, part) for part in parts[1:])]
        frames[-1].flags.add("END_HEADERS")
        return stream_id, b"".join(frame.serialize() for frame in frames)

    def call(
        self, method: str, body: bytes = b"", extra: Iterable[tuple[str, str]] = (), *, more: bool = False
    ) -> tuple[int, bytes]:
        """A whole call of one message, or its beginning where there is more to come; its stream's id and its bytes."""
        stream_id, head = self.headers(method, extra)
        data = DataFrame(stream_id, message(body), flags=[] if more else ["END_STREAM"])
        return stream_id, head + data.serialize()

    async def until(self, condition: Callable[[], object], timeout_s: float = 20) -> None:
        """Waits for what comes back to make a condition true; TimeoutError where it does not."""
        async with asyncio.timeout(timeout_s):
            while not condition():
                self.changed.clear()
                await self.changed.wait()

    def begin_reading(self) -> None:
        self._reading = asyncio.create_task(self._read())

    async def close(self) -> None:
        if self._reading is not None:
            self._reading.cancel()
            await asyncio.wait([self._reading])
        self._writer.transport.abort()
        with suppress(OSError):
            await self._writer.wait_closed()

    async def _read(self) -> None:
        try:
            while True:
                frame, length = Frame.parse_frame_header(memoryview(await self._reader.readexactly(9)))
                frame.parse_body(memoryview(await self._reader.readexactly(length)))
                self._take(frame)
                self.changed.set()
        except (asyncio.IncompleteReadError, OSError):
            self.closed = True
            self.changed.set()

    def _take(self, frame: Frame) -> None:
        stream = self.streams.get(frame.stream_id, Stream())
        if isinstance(frame, HeadersFrame):
            stream.headers.update((str(name), str(value)) for name, value in self._decoder.decode(bytes(frame.data)))
        elif isinstance(frame, DataFrame):
            stream.data += frame.data
        elif isinstance(frame, RstStreamFrame):
            stream.reset, stream.ended = frame.error_code, True
        elif isinstance(frame, GoAwayFrame):
            self.goaway = frame
        elif isinstance(frame, SettingsFrame) and "ACK" not in frame.flags:
            self.settings.update(frame.settings)
            if self._acknowledge:
                self.write(SettingsFrame(flags=["ACK"]))
        elif isinstance(frame, PingFrame) and "ACK" in frame.flags:
            self.pongs += 1
        elif isinstance(frame, PingFrame) and self._acknowledge:
            self.write(PingFrame(opaque_data=frame.opaque_data, flags=["ACK"]))
        if "END_STREAM" in frame.flags:
            stream.ended = True


@asynccontextmanager
async def raw_connection(
    address: str, settings: Mapping[int, int] | None = None, *, acknowledge: bool = True
) -> AsyncIterator[RawConnection]:
    """Connects and says hello. `acknowledge` False: neither SETTINGS nor pings are.

    No window is ever opened: of each connection 65,535 bytes of answers are taken, or none with NO_WINDOW.
    """
    host, _, port = address.rpartition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    connection = RawConnection(reader, writer, address, acknowledge=acknowledge)
    try:
        connection.write(PREFACE, SettingsFrame(settings=dict(settings or {})))
        connection.begin_reading()
        yield connection
    finally:
        await connection.close()
