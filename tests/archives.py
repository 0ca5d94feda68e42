"""Closed days to archive, an S3 server to archive them to, and networks that fail in between."""

import asyncio
import re
import subprocess
import sys
import urllib.request
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import psycopg
import pyarrow.parquet as pq
from psycopg import AsyncConnection

from shared import child
from shared.db.device_kind import DeviceKind
from shared.db.hour_changes import MARK_HOURS
from shared.timestamps import US_PER_DAY, US_PER_HOUR, datetime_from_us, system_clock

BUCKET = "fleet"
CREDENTIALS = {"AWS_ACCESS_KEY_ID": "any", "AWS_SECRET_ACCESS_KEY": "any"}

TODAY = datetime_from_us(system_clock()).date()

Row = tuple[float | str | None, ...]
"""Measurements, `sent_kwh` and `counting`."""


def days_ago(days: int) -> date:
    return TODAY - timedelta(days=days)


def us_of(day: date) -> int:
    return (day - date(1970, 1, 1)).days * US_PER_DAY


def a_row(kind: DeviceKind, kwh: float = 0.25) -> Row:
    return (kwh, *(None for _ in kind.measurements[1:]), None, None)


async def store(
    connection: AsyncConnection[Any],
    kind: DeviceKind,
    day: date,
    rows: Mapping[tuple[str, int], Row],
    may_be_new: bool = True,
) -> None:
    """Stores readings of a day, by device and microseconds from its beginning, in a transaction with their marks."""
    if may_be_new:
        await connection.execute("SELECT ensure_history_partition(%s, %s)", (kind.history, day))
    name = kind.name
    columns = (*kind.measurements, "sent_kwh", "counting")
    hours = {(us_of(day) + at - 1) // US_PER_HOUR * US_PER_HOUR for _, at in rows}
    async with connection.transaction(), connection.cursor() as cursor:
        await connection.execute("SET LOCAL energyfleet.unsealed_until = '9999-12-31'")
        await cursor.execute(
            f"INSERT INTO {name}s ({name}_id) SELECT unnest(%s::text[]) ON CONFLICT DO NOTHING",
            (sorted({device_id for device_id, _ in rows}),),
        )
        await cursor.executemany(
            f"INSERT INTO {kind.history} ({name}_key, ts, {', '.join(columns)})"
            f" SELECT {name}_key, %s, {', '.join(['%s'] * len(columns))} FROM {name}s WHERE {name}_id = %s",
            [(datetime_from_us(us_of(day) + at), *values, device_id) for (device_id, at), values in rows.items()],
        )
        await cursor.execute(kind.render(MARK_HOURS), {"hours": [datetime_from_us(hour) for hour in sorted(hours)]})


def bits(rows: Sequence[Any]) -> list[Any]:
    """Rows in which doubles are told apart by their bits."""
    return [tuple(each.hex() if isinstance(each, float) else each for each in row) for row in rows]


def in_database(url: str, kind: DeviceKind, day: date) -> list[Any]:
    """A day's readings in the order of ids and times."""
    query = (
        "SELECT {device}_id, ts, {measurements}, sent_kwh, counting FROM {device}_readings JOIN {device}s"
        " USING ({device}_key) WHERE day = %s ORDER BY {device}_id, ts"
    )
    with psycopg.connect(url, options="-c timezone=UTC") as connection:
        return bits(connection.execute(kind.render(query), (day,), binary=True).fetchall())


def in_archive(root: Path, kind: DeviceKind, day: date) -> list[Any]:
    """What a reader of all files of a day finds there, in their order."""
    files = sorted(root.glob(f"kind={kind.name}/day={day}/*.parquet"))
    return bits([tuple(row.values()) for file in files for row in pq.ParquetFile(file).read().to_pylist()])


@contextmanager
def s3_server() -> Iterator[int]:
    """A running S3 server with an empty bucket; its port on 127.0.0.1."""
    command = [*child.command_prefix(), sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", "0"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True) as server:
        try:
            assert server.stderr is not None
            port = next(int(found[1]) for line in server.stderr if (found := re.search(r"127\.0\.0\.1:(\d+)", line)))
            put = urllib.request.Request(f"http://127.0.0.1:{port}/{BUCKET}", method="PUT")
            with urllib.request.urlopen(put, timeout=30):
                pass
            yield port
        finally:
            server.kill()


@asynccontextmanager
async def bad_network(port: int, bytes_through: int | None) -> AsyncIterator[int]:
    """A port whose connections pass on so many bytes of what the server answers, and are then cut; None: they are
    accepted, and never answered."""
    tasks: set[asyncio.Task[None]] = set()

    async def connect(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        tasks.add(task)
        task.add_done_callback(tasks.discard)
        writers = [writer]
        try:
            if bytes_through is None:
                await asyncio.Event().wait()
            up, to_server = await asyncio.open_connection("127.0.0.1", port)
            writers.append(to_server)
            asked = asyncio.create_task(pass_on(reader, to_server, None))
            tasks.add(asked)
            asked.add_done_callback(tasks.discard)
            await pass_on(up, writer, bytes_through)
            asked.cancel()
        finally:
            for each in writers:
                each.transport.abort()

    async def pass_on(source: asyncio.StreamReader, sink: asyncio.StreamWriter, left: int | None) -> None:
        with suppress(OSError):
            while chunk := await source.read(65_536):
                sink.write(chunk if left is None else chunk[:left])
                await sink.drain()
                if left is not None and (left := left - len(chunk)) <= 0:
                    return

    network = await asyncio.start_server(connect, "127.0.0.1", 0)
    try:
        yield network.sockets[0].getsockname()[1]
    finally:
        network.close()
        for task in list(tasks):
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def s3_url(port: int, path: str) -> str:
    return f"s3://{BUCKET}/{path}?endpoint_override=127.0.0.1:{port}&scheme=http"
