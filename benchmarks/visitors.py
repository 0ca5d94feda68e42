"""Devices that come, send one reading, wait until it is resolved and go: many connections, and little else.

Without gRPC in the client: with a channel for each visit it needs as much processor time as the service, and on the
same machine that is what would be measured. All visits begin with the same bytes of HTTP/2, made once.
"""

import asyncio
import struct

from energyfleet.v1.ingestion_service_pb2 import ExchangeTelemetryRequest, ExchangeTelemetryResponse
from h2.config import H2Configuration
from h2.connection import H2Connection
from hyperframe.frame import DataFrame, Frame, HeadersFrame

from benchmarks.client import BenchmarkError
from benchmarks.load import Outcome, meter_request
from shared.timestamps import system_clock

VISIT_TIMEOUT_S = 60.0

_DEVICES = 1_000

_STREAM_ID = 1

_PREFIX = struct.Struct(">?I")
"""Of a message in gRPC over HTTP/2: whether it is compressed, and its length."""


def visit(address: str, name: str, per_s: float, seconds: float) -> Outcome:
    """So many visits a second over ExchangeTelemetry, each with a connection of its own; a latency is of a whole visit.

    BenchmarkError when a visit takes longer than VISIT_TIMEOUT_S or ends without an answer.
    """
    return asyncio.run(_visit(address, name, per_s, seconds))


async def _visit(address: str, name: str, per_s: float, seconds: float) -> Outcome:
    loop, outcome = asyncio.get_running_loop(), Outcome()
    opening, begin = _opening(address), loop.time()

    async def one(number: int, due: float) -> None:
        request = meter_request(f"{name}-{number % _DEVICES}", system_clock())
        request.sequence = 1
        async with asyncio.timeout(VISIT_TIMEOUT_S):
            answer = await _exchange(address, opening, request)
        outcome.latencies_s.append(loop.time() - due)
        outcome.sent += 1
        outcome.streams += 1
        outcome.stored += answer.summary.stored
        outcome.duplicate += answer.summary.duplicate

    async with asyncio.TaskGroup() as group:
        for number in range(round(per_s * seconds)):
            due = begin + number / per_s
            await asyncio.sleep(due - loop.time())
            group.create_task(one(number, due))
    return outcome


def _opening(address: str) -> bytes:
    """What a connection begins with, up to the headers of the call."""
    connection = H2Connection(H2Configuration(client_side=True))
    connection.initiate_connection()
    headers = {
        ":method": "POST",
        ":scheme": "http",
        ":path": "/energyfleet.v1.IngestionService/ExchangeTelemetry",
        ":authority": address,
        "te": "trailers",
        "content-type": "application/grpc",
    }
    connection.send_headers(_STREAM_ID, headers.items())
    return connection.data_to_send()


async def _exchange(address: str, opening: bytes, request: ExchangeTelemetryRequest) -> ExchangeTelemetryResponse:
    """The one answer to the one request, on a connection that is opened for it."""
    host, _, port = address.rpartition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    try:
        message = request.SerializeToString()
        sent = DataFrame(_STREAM_ID, _PREFIX.pack(False, len(message)) + message, flags=["END_STREAM"])
        writer.write(opening + sent.serialize())
        body = bytearray()
        while True:
            frame, length = Frame.parse_frame_header(memoryview(await reader.readexactly(9)))
            frame.parse_body(memoryview(await reader.readexactly(length)))
            if isinstance(frame, DataFrame):
                body += frame.data
            if isinstance(frame, DataFrame | HeadersFrame) and "END_STREAM" in frame.flags:
                break
    except asyncio.IncompleteReadError:
        raise BenchmarkError("the service left in the middle of a visit") from None
    finally:
        writer.close()
    if len(body) < _PREFIX.size or _PREFIX.unpack_from(body)[1] != len(body) - _PREFIX.size:
        raise BenchmarkError("a visit ended without its one answer")
    return ExchangeTelemetryResponse.FromString(bytes(body[_PREFIX.size :]))
