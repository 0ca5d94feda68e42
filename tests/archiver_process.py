"""An archiver as a process of its own, to be killed: forked from one that has imported what it stands on."""

import asyncio
import multiprocessing

from psycopg import AsyncConnection

_fork = multiprocessing.get_context("forkserver")
_fork.set_forkserver_preload(["shared.archive.archiving", "ingestion_svc.failpoints"])


def run_archiver(url: str, root: str, fail_points: str) -> int | None:
    """Archives what waits; the exit code, negative for the signal that killed it."""
    process = _fork.Process(target=_run, args=(url, root, fail_points))
    process.start()
    process.join(60)
    return process.exitcode


def _run(url: str, root: str, fail_points: str) -> None:
    asyncio.run(_archive(url, root, fail_points))


async def _archive(url: str, root: str, fail_points: str) -> None:
    from ingestion_svc.failpoints import fail_points_from
    from shared.archive.archive_url import archive_url
    from shared.archive.archiving import archive
    from shared.archive.day_store import DayStore
    from shared.db.engine import connection_parameters
    from shared.timestamps import system_clock

    pass_fail_point = fail_points_from({"ENERGYFLEET_FAIL_POINTS": fail_points})
    async with await AsyncConnection.connect(**connection_parameters(url, "test"), autocommit=True) as connection:
        store = DayStore(archive_url(root), 30)
        await archive(connection, store, system_clock(), 2, pass_fail_point=pass_fail_point)
