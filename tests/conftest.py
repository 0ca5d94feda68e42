"""PostgreSQL servers for the suite: the embedded 18, and a 15 where its programs are on the machine."""

import itertools
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from stat import S_ISDIR

import psutil
import psycopg
import pytest
import uvloop
from hypothesis import settings
from psycopg import sql
from xdist.remote import Producer
from xdist.scheduler import LoadScopeScheduling

from shared.db.embedded import EmbeddedServer
from shared.db.migrate import migrate

POSTGRES_15_BIN_DIR = Path("/usr/lib/postgresql/15/bin")

OLDEST = "postgres-15"
"""In the name of each test that runs on it."""

settings.register_profile("fleet", deadline=None)  # a busy machine is no defect; pytest-timeout ends what hangs
settings.load_profile("fleet")

TEST_SETTINGS = {"shared_buffers": "64MB", "max_connections": "80"}

UNIT = Path(__file__).parent / "unit"

MARKER = ".energyfleet-tests"
"""The file that says of a folder that the suite has made it."""

MEMORY = Path("/dev/shm")
MEMORY_MIN_BYTES = 6 * 1024**3
"""Several times what a run takes of it."""

_FOLDER = pytest.StashKey[Path]()

_COPY = "CREATE DATABASE {} TEMPLATE template STRATEGY file_copy"
"""In memory a seventh of what it takes to write each page to the log, too."""

_database_numbers = itertools.count()


@pytest.hookimpl(tryfirst=True)
def pytest_configure(config: pytest.Config) -> None:
    """All temporary files, and so the servers' too, lie in memory where that has room: no commit waits for a disk.

    The folder's name is short because a socket's path may have no more than 107 bytes. What a run that failed has left
    is removed by the next one; `--basetemp` names another place.
    """
    if config.option.basetemp is not None:  # asked for, or given to one of several processes
        return
    parents = [parent for parent in (MEMORY, Path(tempfile.gettempdir())) if parent.is_dir()]
    for parent in parents:
        remove_left(parent)
    folder = (MEMORY if _has_room(MEMORY) else parents[-1]) / f"ef-{os.getpid()}"
    folder.mkdir(mode=0o700)
    (folder / MARKER).touch()
    config.stash[_FOLDER] = folder
    config.option.basetemp = folder / "t"  # pytest empties it first


def remove_left(parent: Path) -> None:
    """Removes the folders of runs that have ended, and nothing that is not certainly one of them."""
    for left in parent.iterdir():
        named = re.fullmatch(r"ef-([0-9]+)", left.name)
        if named and _has_ended(int(named[1])) and _is_ours(left):
            shutil.rmtree(left, ignore_errors=True)


def _has_ended(pid: int) -> bool:
    return pid == os.getpid() or not psutil.pid_exists(pid)  # what has our id was before us


def _is_ours(left: Path) -> bool:
    try:
        found = left.lstat()
        return S_ISDIR(found.st_mode) and found.st_uid == os.geteuid() and (left / MARKER).is_file()
    except OSError:
        return False


def _has_room(memory: Path) -> bool:
    """Whether there is such a file system, and memory for it."""
    return memory.is_dir() and min(shutil.disk_usage(memory).free, psutil.virtual_memory().available) > MEMORY_MIN_BYTES


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    left_out = [each for each in items if OLDEST in each.nodeid and each.get_closest_marker("one_server")]
    config.hook.pytest_deselected(items=left_out)
    dear = {each.path for each in items if each.get_closest_marker("timeout")}
    items[:] = [each for each in items if each not in left_out]
    items.sort(key=lambda each: (OLDEST not in each.nodeid, each.path not in dear, UNIT in each.path.parents))


def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    if exitstatus == pytest.ExitCode.OK and _FOLDER in session.config.stash:
        shutil.rmtree(session.config.stash[_FOLDER], ignore_errors=True)


def pytest_report_header(config: pytest.Config) -> str:
    fifteen = POSTGRES_15_BIN_DIR if POSTGRES_15_BIN_DIR.exists() else "absent, its runs are skipped"
    return f"PostgreSQL: embedded 18; 15: {fifteen}; data below {config.option.basetemp}"


class ByModule(LoadScopeScheduling):
    """With `pytest -n 2` a process that is free takes the next module, and what a module shares is made but once.

    All that needs PostgreSQL 15 goes to one process, first: a process runs one server at a time.
    """

    def _split_scope(self, nodeid: str) -> str:
        return OLDEST if OLDEST in nodeid else nodeid.partition("::")[0]


def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> ByModule:
    config.option.loadscopereorder = False  # by the number of tests; they are in order already
    return ByModule(config, log)


@pytest.fixture(autouse=True)
def _environment_of_its_own() -> Iterator[None]:
    """No test sees the developer's settings, or those that a command set in another test."""
    before = dict(os.environ)
    for name in before:
        if name.startswith("ENERGYFLEET_"):
            del os.environ[name]
    yield
    os.environ.clear()
    os.environ.update(before)


def pytest_asyncio_loop_factories() -> Mapping[str, Callable[[], uvloop.Loop]]:
    """Tests run on the loop that the services run on."""
    return {"uvloop": uvloop.new_event_loop}


@pytest.fixture(scope="session", params=["postgres-18", "postgres-15"])
def postgres(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedServer]:
    """A running server with a migrated database named `template`, shared by the session."""
    bin_dir = None
    if request.param == "postgres-15":
        if not POSTGRES_15_BIN_DIR.exists():
            pytest.skip(f"no PostgreSQL 15 in {POSTGRES_15_BIN_DIR}")
        bin_dir = POSTGRES_15_BIN_DIR
    data_dir = tmp_path_factory.mktemp(request.param)
    with EmbeddedServer(data_dir, bin_dir=bin_dir, settings=TEST_SETTINGS) as server:
        server.ensure_database("template")
        migrate(server.url("template"))
        yield server
    shutil.rmtree(data_dir)


@contextmanager
def new_database(postgres: EmbeddedServer) -> Iterator[str]:
    """The name of a migrated, empty database, which is dropped at the end."""
    name = f"test_{next(_database_numbers)}"
    with psycopg.connect(postgres.url(), autocommit=True) as connection:
        connection.execute(sql.SQL(_COPY).format(sql.Identifier(name)))
        yield name
        connection.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(name)))


@pytest.fixture
def database(postgres: EmbeddedServer) -> Iterator[str]:
    """The name of a migrated, empty database of this test's own."""
    with new_database(postgres) as name:
        yield name


@pytest.fixture
def database_url(postgres: EmbeddedServer, database: str) -> str:
    """The URL of this test's database, for its owner."""
    return postgres.url(database)
