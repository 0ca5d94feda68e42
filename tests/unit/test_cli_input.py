"""Wrong input to the command line: one clear line or a usage error, the exit code, and never a traceback."""

import fcntl
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from fleetcli.__main__ import FUNCTIONS, main
from fleetcli.commands import stack
from shared.db.embedded import LOCK_FILE

NOBODY = "127.0.0.1:1"
"""A port that needs root to listen on and that nobody does."""

USAGE = 2
FAILED = 1


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> None:
    for variable in (
        "DATABASE_URL",
        "DATA_DIR",
        "INGESTION_ADDRESS",
        "ANALYTICS_ADDRESS",
        "WRITERS",
        "LOG_LEVEL",
        "AUTHORITY",
    ):
        monkeypatch.delenv(f"ENERGYFLEET_{variable}", raising=False)
    monkeypatch.chdir(tmp_path_factory.mktemp("cwd"))


def refused(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[object, str]:
    """The exit code and what standard error says of a command line that must not succeed."""
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    said = capsys.readouterr()
    assert said.out == ""
    assert "Traceback" not in said.err
    return ended.value.code, " ".join(said.err.split())


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("performance", "ev-1", "--analytics", "somewhere"), "'somewhere' is not HOST:PORT"),
        (("performance", "ev-1", "--analytics", "host:0"), "'host:0' is not HOST:PORT"),
        (("performance", "ev-1", "--analytics", "host:65536"), "'host:65536' is not HOST:PORT"),
        (("performance", "ev-1", "--ending", "yesterday"), "--ending: 'yesterday' is neither `now` nor a time such as"),
        (("performance", "ev-1", "--ending", "2026-02-09T10:00:00"), "is neither `now` nor a time such as"),
        (("performance", "ev-1", "--hours", "0"), "--hours"),
        (("performance",), "VEHICLE"),
        (("map", "ev-1"), "METER"),
        (("map", "ev-1", "m-1", "--from", "noon"), "--from: 'noon' is neither `now` nor a time such as"),
        (("unmap", "ev-1", "--until", "noon"), "--until: 'noon' is neither `now` nor a time such as"),
        (("correct", "noon", "--meter", "m", "--void", "--note", "n"), "TIME: 'noon' is neither `now` nor a time"),
        (("correct", "now", "--void", "--note", "n"), "--meter: say whose reading it is"),
        (("correct", "now", "--meter", "m", "--note", "n"), "--kwh: say what counts"),
        (("correct", "now", "--meter", "m", "--note", "n", "--void", "--kwh", "1"), "--kwh: say what counts"),
        (("correct", "now", "--meter", "m", "--void"), "--note"),
        (("corrections", "--meter", "m", "--vehicle", "v"), "either --meter or --vehicle"),
        (("simulate", "--chargers", "0"), "--chargers"),
        (("simulate", "--hours", "99999"), "--hours"),
        (("simulate", "--worn", "1.1"), "--worn"),
        (("simulate", "--every", "0"), "--every"),
        (("simulate", "--ending", "soon"), "--ending: 'soon' is neither"),
        (("replay", "-", "--map", "ev-1"), "--map: 'ev-1' is not VEHICLE=METER"),
        (("replay", "-", "--map", "ev-1 =m-1"), "--map: 'ev-1 =m-1' is not VEHICLE=METER"),
        (("replay", "-", "--map", "ev=1=m-1"), "--map: 'ev=1=m-1' is not clear: several = could divide it"),
        (("replay", "-", "--format", "xml"), "'xml'"),
        (("replay", "-", "--delimiter", "/"), "--delimiter: '/' is not one of , ; | tab"),
        (("replay", "-", "--decimal", "'"), "is neither . nor ,"),
        (("replay", "-", "--unit", "MWh"), "'MWh'"),
        (("replay", "-", "--time-zone", "Europe"), "--time-zone: 'Europe' is no IANA time zone"),
        (("replay", "-", "--time-zone", "../etc/passwd"), "is no IANA time zone"),
        (("replay", "-", "--columns", "speed=3"), "'speed=3' is not NAME=COLUMN with a name out of meterId,"),
        (("replay", "-", "--columns", "soc="), "'soc=' is not NAME=COLUMN"),
        (("replay", "-", "--columns", "soc=1,soc=2"), "--columns: soc is said twice"),
        (("replay", "-", "--meter", ""), "--meter: '' is no id: 1 to 64 characters"),
        (("replay", "-", "--meter", "m-1", "--vehicle", "ev-1"), "a file that names no device is of one"),
        (("health", "nowhere"), "'nowhere' is not HOST:PORT"),
        (("certs", "server"), "NAME..."),
        (("certs", "server", "fleet:50051"), "NAME: 'fleet:50051' is neither a DNS name nor an address: expected"),
        (("certs", "server", "fleet", "--name", "../x"), "--name: '../x' is no name of a file: expected"),
        (("certs", "server", "fleet", "--days", "398"), "--days"),
        (("certs", "device"), "--meter: nothing is named: expected"),
        (
            ("certs", "device", "--meter", "ü", "--role", "root"),
            "--role: 'root' is no role: expected reader, operator,",
        ),
        (("certs", "device", "--csv", "x.csv", "--role", "reader"), "--csv: names come from the file alone: expected"),
        (("certs", "device", "--vehicle", "v", "--days", "0"), "--days"),
        (("secrets", "fleet", "a b"), "NAME: 'a b' is neither a DNS name nor an address: expected"),
        (("fleet", "--json", "--csv"), "either --json or --csv"),
        (("fleet", "--exact", "--days-of", "UTC"), "either --exact or --days-of"),
        (("fleet", "--verdict", "BAD"), "BAD"),
        (("fleet", "--rows", "0"), "greater than or equal to 1"),
        (("fleet", "--ending", "soon"), "'soon' is neither"),
        (("meters", "--json", "--csv"), "either --json or --csv"),
        (("meters", "--verdict", "NO_METER"), "NO_METER"),
        (("devices", "--json", "--csv"), "either --json or --csv"),
        (("devices", "--order", "age"), "age"),
        (("sessions",), "one of VEHICLE and --meter"),
        (("sessions", "nobody", "--meter", "it"), "one of VEHICLE and --meter"),
        (("plot", "ev-1", "--out", "it.png", "--session", "last", "--hours", "3"), "of its own"),
        (("plot", "ev-1", "--out", "it.doc"), "does not end in .png"),
        (("verify", "--hours", "2", "--from", "2026-02-09T00:00:00Z"), "either --from or --hours"),
        (("verify", "--from", "2026-02-09T00:00:00Z", "--until", "2026-02-09T00:00:00Z"), "ends before it begins"),
        (("verify", "--from", "yesterday"), "'yesterday' is neither"),
        (("no-such-command",), "No such command 'no-such-command'"),
    ],
)
def test_a_wrong_command_line_is_a_usage_error_that_names_what_is_wrong(
    arguments: Sequence[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    code, line = refused(capsys, *arguments)
    assert code == USAGE
    assert said in line


@pytest.mark.parametrize(
    "arguments",
    [
        ("performance", "ev-1", "--analytics", NOBODY),
        ("status", "ev-1", "--analytics", NOBODY),
        ("map", "ev-1", "m-1", "--ingestion", NOBODY),
        ("unmap", "ev-1", "--ingestion", NOBODY),
        ("mappings", "--changes", "--ingestion", NOBODY),
        ("correct", "now", "--meter", "m", "--void", "--note", "n", "--ingestion", NOBODY),
        ("corrections", "--ingestion", NOBODY),
        ("health", NOBODY),
    ],
)
def test_a_service_that_is_not_there_is_named_with_what_starts_it(
    arguments: Sequence[str], capsys: pytest.CaptureFixture[str]
) -> None:
    code, line = refused(capsys, *arguments)
    assert code == FAILED
    assert line.startswith(f"no answer from {NOBODY}")
    assert "`energyfleet up`" in line


def test_files_that_are_not_there_or_of_another_kind_are_named(
    tmp_path: object, capsys: pytest.CaptureFixture[str]
) -> None:
    assert refused(capsys, "replay", "nowhere.csv") == (FAILED, "nowhere.csv: No such file or directory")
    assert refused(capsys, "replay", str(tmp_path)) == (FAILED, f"{tmp_path}: Is a directory")
    assert refused(capsys, "health", NOBODY, "--ca", "none.pem") == (FAILED, "--ca none.pem: No such file or directory")
    assert refused(capsys, "health", NOBODY, "--ca", __file__) == (
        FAILED,
        f"--ca {__file__}: not a certificate in PEM form",
    )
    assert refused(capsys, "certs", "show", "none.crt") == (FAILED, "none.crt: No such file or directory")
    assert refused(capsys, "certs", "revoke", __file__)[1].startswith(f"{__file__}: not a certificate: expected PEM")
    code, line = refused(capsys, "certs", "device", "--meter", "m-1")
    assert (code, line.partition(",")[0]) == (FAILED, "deploy/secrets/ca.crt is not there: expected an authority")


def test_a_wrong_configuration_is_told_before_anything_starts(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    code, line = refused(capsys, "up", "--ingestion", "0.0.0.0:50051")
    assert code == FAILED
    assert line.startswith("ENERGYFLEET_INGESTION_ADDRESS: '0.0.0.0:50051' is reachable from other machines")
    monkeypatch.delenv("ENERGYFLEET_INGESTION_ADDRESS")
    monkeypatch.setenv("ENERGYFLEET_POOL_SIZE", "many")
    code, line = refused(capsys, "up")
    assert code == FAILED
    assert line.startswith("ENERGYFLEET_POOL_SIZE: ")


def test_a_database_that_is_not_there_is_said_in_one_line(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ENERGYFLEET_DATABASE_URL", "postgresql://somebody:secret@127.0.0.1:1/fleet")
    code, line = refused(capsys, "migrate")
    assert code == FAILED
    assert line.startswith("ENERGYFLEET_DATABASE_URL: connection failed")
    assert "secret" not in line
    for url in ("mysql://somewhere", "host=127.0.0.1 port=1 dbname=fleet"):
        monkeypatch.setenv("ENERGYFLEET_DATABASE_URL", url)
        assert refused(capsys, "migrate")[1].startswith("ENERGYFLEET_DATABASE_URL: not a URL of the form")


def test_roles_are_made_on_a_server_of_ones_own_with_passwords_that_can_be_read(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert refused(capsys, "migrate", "--own-server")[0] == USAGE
    code, line = refused(capsys, "migrate", "--roles")
    assert (code, line) == (FAILED, "ENERGYFLEET_DATABASE_URL is not set: --roles is for a server of your own")
    monkeypatch.setenv("ENERGYFLEET_DATABASE_URL", "postgresql://somebody@127.0.0.1:1/fleet")
    file = tmp_path / "owner_password"
    for password in (b"\n", b"two\nlines\n", b"\xff\n"):
        file.write_bytes(password)
        code, line = refused(capsys, "migrate", "--roles", "--passwords", str(tmp_path))
        assert code == FAILED
        assert line.startswith(f"{file}: ")
    assert refused(capsys, "migrate", "--roles", "--passwords", str(file))[0] == USAGE


@pytest.mark.parametrize("command", ["up", "verify", "maintain", "migrate"])
def test_a_data_directory_that_stays_in_use_or_is_none_is_said_in_one_line(
    command: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stack, "IN_USE_TIMEOUT_S", 0.1)
    monkeypatch.setenv("ENERGYFLEET_DATA_DIR", str(tmp_path))
    with (tmp_path / LOCK_FILE).open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        code, line = refused(capsys, command)
    assert code == FAILED
    assert line == f"{tmp_path} is in use by another energyfleet; stop it, or set ENERGYFLEET_DATA_DIR"
    monkeypatch.setenv("ENERGYFLEET_DATA_DIR", __file__)
    assert refused(capsys, command) == (FAILED, f"ENERGYFLEET_DATA_DIR: {__file__}: File exists")


@pytest.mark.parametrize(("value", "level"), [("", "WARNING"), ("INFO", "INFO")])
def test_up_logs_from_warnings_up_unless_a_level_is_set(
    value: str, level: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ENERGYFLEET_LOG_LEVEL", value)
    monkeypatch.setenv("ENERGYFLEET_WRITERS", "0")
    assert refused(capsys, "up")[1].startswith("ENERGYFLEET_WRITERS: ")
    assert os.environ["ENERGYFLEET_LOG_LEVEL"] == level


def test_help_lists_every_command_and_what_it_does(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["--help"])
    assert ended.value.code == 0
    listed = [line.split(maxsplit=1) for line in capsys.readouterr().out.partition("Commands:")[2].splitlines()]
    assert [words[0] for words in listed if len(words) == 2 and words[0] in FUNCTIONS] == list(FUNCTIONS)


def test_what_only_calls_a_service_starts_without_the_modules_of_the_database() -> None:
    """They take four times as long to import as all others."""
    calling = [
        "simulate",
        "replay",
        "performance",
        "fleet",
        "sessions",
        "plot",
        "status",
        "health",
        "map",
        "unmap",
        "mappings",
        "correct",
    ]
    script = f"""if True:
        import sys
        from fleetcli.__main__ import main
        for command in {calling}:
            try:
                main([command, "--help"])
            except SystemExit as ended:
                assert ended.code == 0
        sys.stderr.write(str([name for name in ("alembic", "grpc", "psycopg", "sqlalchemy") if name in sys.modules]))
    """
    ran = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert ran.stderr == "['grpc']"
