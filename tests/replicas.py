"""A primary as in production and a streaming replica of it, both of a test's own."""

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg

from shared.db import embedded
from shared.db.embedded import EmbeddedServer
from shared.db.roles import LOGINS, make_roles

DATABASE = "energyfleet"


@contextmanager
def deployed_server(data_dir: Path, bin_dir: Path | None) -> Iterator[EmbeddedServer]:
    """A server with the roles of `compose.yaml` and an empty database that belongs to `energyfleet_owner`."""
    with EmbeddedServer(data_dir / "primary", bin_dir=bin_dir, settings={"shared_buffers": "32MB"}) as server:
        server.ensure_database(DATABASE)
        make_roles(server.url(DATABASE), {login.name: "s3cret" for login in LOGINS}, own_server=True)
        yield server


@contextmanager
def replica_of(primary: EmbeddedServer, data_dir: Path, **settings: str) -> Iterator[EmbeddedServer]:
    """A hot standby of a primary, streaming from it."""
    data_dir.mkdir()
    standby = EmbeddedServer(data_dir, bin_dir=primary.bin_dir, settings={"shared_buffers": "32MB", **settings})
    subprocess.run(
        [
            *embedded._unprivileged_prefix(), primary.bin_dir / "pg_basebackup", "--dbname", primary.url(),
            "--pgdata", data_dir / "pgdata", "--write-recovery-conf", "--wal-method=stream", "--checkpoint=fast",
            "--no-sync",
        ],
        check=True, timeout=60, cwd=data_dir,
    )  # fmt: skip
    with standby:
        yield standby


def as_login(url: str, role: str) -> str:
    """The URL for somebody who logs in as that role, instead of a superuser who became it."""
    parameters = psycopg.conninfo.conninfo_to_dict(url)
    return f"postgresql://{role}@/{parameters['dbname']}?host={parameters['host']}"
