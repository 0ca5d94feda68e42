"""The files of a deployment, run and held against what the services ask for."""

import os
import re
import shutil
import ssl
import subprocess
import tomllib
from collections.abc import Mapping
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path

import pytest

from fleetcli.__main__ import main
from shared.certificates import identity_of
from shared.config import AnalyticsSettings, IngestionSettings, ServingSettings
from shared.db.migrate import MIGRATIONS
from shared.db.roles import GROUPS, LOGINS, OWNER
from shared.identity import Grants, Role, cn_templates
from tests.handshakes import shake_hands

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
FOR_SERVICES = {"server.crt", "server.key", "ca.crt", "denied", "health.crt", "health.key"}
"""What `energyfleet secrets` makes in deploy/secrets/tls."""
COMPOSE = (ROOT / "compose.yaml").read_text()


def run(*command: str | Path, secrets: Path, **environment: str) -> str:
    """What a command prints with an environment of its own, in which the secrets are elsewhere."""
    finished = subprocess.run(
        command, capture_output=True, text=True, check=True, timeout=60,
        env={"PATH": os.environ["PATH"], "ENERGYFLEET_SECRETS_DIR": str(secrets), **environment},
    )  # fmt: skip
    return finished.stdout


def contents(directory: Path) -> Mapping[str, bytes]:
    return {file.name: file.read_bytes() for file in directory.iterdir() if file.is_file()}


def made(*words: str) -> list[str]:
    """The files that `energyfleet secrets` says that it makes."""
    with redirect_stdout(StringIO()) as said, pytest.raises(SystemExit) as ended:
        main(["secrets", *words])
    assert ended.value.code == 0
    return [line.removeprefix("made ") for line in said.getvalue().splitlines()]


@pytest.fixture(scope="module")
def secrets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory of secrets as `energyfleet secrets` makes them."""
    directory = tmp_path_factory.mktemp("made") / "secrets"
    assert len(made(str(directory), "fleet.example.com", "192.0.2.7")) == 11
    return directory


def test_secrets_makes_every_file_that_compose_mounts(secrets: Path) -> None:
    mounted = set(re.findall(r"file: \./deploy/secrets/(\S+)", COMPOSE))
    assert mounted
    assert mounted <= contents(secrets).keys()
    assert contents(secrets / "tls").keys() == FOR_SERVICES


def test_secrets_never_overwrites_and_says_which_names_are_missing(
    secrets: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = contents(secrets), contents(secrets / "tls")
    assert made(str(secrets), "other.example.com") == []
    assert (contents(secrets), contents(secrets / "tls")) == before
    assert "not for other.example.com: remove it, and run this again" in capsys.readouterr().err


def test_secrets_makes_only_what_is_missing_and_needs_the_authoritys_key_only_to_sign(
    secrets: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    partial = tmp_path / "secrets"
    shutil.copytree(secrets, partial)
    (partial / "owner_password").unlink()
    key = (partial / "ca.key").rename(tmp_path / "elsewhere")
    assert made(str(partial)) == [f"{partial}/owner_password"]
    (partial / "tls" / "server.crt").unlink()
    with pytest.raises(SystemExit):
        main(["secrets", str(partial)])
    assert f"{partial}/ca.key is not there: expected an authority" in capsys.readouterr().err
    key.rename(partial / "ca.key")
    assert made(str(partial)) == [f"{partial}/tls/server.crt"]
    shake_hands(partial / "ca.crt", partial / "tls" / "server.crt", "localhost")


def test_secrets_makes_no_second_authority_beside_what_the_first_has_signed(
    secrets: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    partial = tmp_path / "secrets"
    shutil.copytree(secrets, partial)
    (partial / "ca.crt").unlink()
    with pytest.raises(SystemExit):
        main(["secrets", str(partial)])
    assert f"{partial}/ca.crt is not there: expected the authority" in capsys.readouterr().err
    assert not (partial / "ca.crt").exists()


def test_without_a_slash_every_word_is_a_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert "deploy/secrets/tls/server.crt" in made("fleet.example.com")
    directory = tmp_path / "deploy" / "secrets"
    shake_hands(directory / "ca.crt", directory / "tls" / "server.crt", "fleet.example.com")


def test_every_password_is_another_one_and_long(secrets: Path) -> None:
    passwords = [file.read_text().strip() for file in secrets.glob("*_password")]
    assert len(set(passwords)) == len(passwords) == 5
    assert all(re.fullmatch(r"[0-9a-f]{48}", password) for password in passwords)


def test_nobody_else_on_the_host_can_read_the_secrets_and_containers_can_read_theirs(
    secrets: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert secrets.stat().st_mode & 0o777 == 0o700
    assert {file.name for file in secrets.iterdir() if not file.stat().st_mode & 0o004} == {"ca.key", "operator.key"}
    assert (secrets / "tls").stat().st_mode & 0o005 == 0o005
    assert all(file.stat().st_mode & 0o004 for file in (secrets / "tls").iterdir())
    tmp_path.chmod(0o755)
    with pytest.raises(SystemExit):
        main(["secrets", str(tmp_path)])
    assert "others may enter it: expected" in capsys.readouterr().err


def test_the_operators_certificate_is_known_and_reads_and_operates_and_that_of_health_is_known(secrets: Path) -> None:
    for name in ("operator.crt", "tls/health.crt"):
        shake_hands(secrets / "ca.crt", secrets / "tls" / "server.crt", "ingestion", client=secrets / name)
    assert identity_of((secrets / "operator.crt").read_bytes()).grants == Grants(
        frozenset({Role.READER, Role.OPERATOR})
    )
    assert identity_of((secrets / "tls" / "health.crt").read_bytes(), cn_templates("vehicle:{cn}")).grants == Grants()


@pytest.mark.parametrize("name", ["localhost", "ingestion", "analytics", "127.0.0.1", "fleet.example.com", "192.0.2.7"])
def test_clients_that_trust_the_authority_accept_the_certificate_under_every_name(secrets: Path, name: str) -> None:
    shake_hands(secrets / "ca.crt", secrets / "tls" / "server.crt", name)
    with pytest.raises(ssl.SSLCertVerificationError):
        shake_hands(secrets / "ca.crt", secrets / "tls" / "server.crt", "elsewhere.example.com")


def test_the_entrypoint_gives_libpq_a_password_file_that_only_its_owner_can_read(tmp_path: Path) -> None:
    (tmp_path / "database_password").write_text("s3cret\n")
    show = 'stat -c %a "$PGPASSFILE"; cat "$PGPASSFILE"; echo "$1"'
    shown = run(DEPLOY / "entrypoint", "sh", "-c", show, "-", "a b", secrets=tmp_path, TMPDIR=str(tmp_path))
    assert shown == "600\n*:*:*:*:s3cret\na b\n"


def test_the_entrypoint_without_a_secret_only_becomes_the_command(tmp_path: Path) -> None:
    command = ("sh", "-c", 'echo "${PGPASSFILE-none}"')
    assert run(DEPLOY / "entrypoint", *command, secrets=tmp_path, TMPDIR=str(tmp_path)) == "none\n"
    assert list(tmp_path.iterdir()) == []


def test_compose_sets_only_variables_that_the_services_read() -> None:
    known = {
        f"ENERGYFLEET_{name.upper()}" for kind in (IngestionSettings, AnalyticsSettings) for name in kind.model_fields
    }
    used = set(re.findall(r"^\s+(ENERGYFLEET_\w+):", COMPOSE, re.MULTILINE))
    assert used
    assert used <= known


@pytest.mark.parametrize(("kind", "service"), [(IngestionSettings, "ingestion"), (AnalyticsSettings, "analytics")])
def test_the_services_accept_what_compose_sets(
    kind: type[ServingSettings], service: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    section = COMPOSE.partition(f"\n  {service}:\n")[2].partition("\n\n")[0]
    variables = re.findall(r"^\s+(ENERGYFLEET_\w+): (\S+)", section, re.MULTILINE)
    for name, value in variables:
        monkeypatch.setenv(name, value)
    settings = kind()
    assert settings.require_database_url() == settings.in_schema(f"postgresql://{service}_svc@postgres/energyfleet")
    assert getattr(settings, f"{service}_address").startswith("0.0.0.0:")


def test_the_migration_makes_every_login_and_has_a_password_for_each() -> None:
    section = COMPOSE.partition("\n  migrate:\n")[2].partition("\n\n")[0]
    assert "command: [energyfleet, migrate, --roles, --own-server]" in section
    assert all(f"      - {login.password_file}\n" in section for login in LOGINS)
    assert set(re.findall(r"postgresql://(\w+)@", COMPOSE)) == {"postgres", *(login.name for login in LOGINS)} - {OWNER}


def test_the_migrations_grant_to_the_groups_that_logins_are_in() -> None:
    migrations = "".join(file.read_text() for file in (MIGRATIONS / "versions").glob("*.py"))
    assert set(re.findall(r"\benergyfleet_\w+", migrations)) == {*GROUPS} - {OWNER}


def test_no_password_stands_in_a_file() -> None:
    for file in (ROOT / "compose.yaml", *(file for file in DEPLOY.iterdir() if file.is_file())):
        assert not re.search(r"PASSWORD(:|=)\s*\S", file.read_text()), file
        assert not re.search(r"://[^\s/@:]+:[^\s/@]+@", file.read_text()), file


def test_the_build_sees_everything_that_it_copies() -> None:
    dockerfile = (DEPLOY / "Dockerfile").read_text()
    copied = {
        word
        for line in re.findall(r"^COPY (?!--from)(.+)$", dockerfile, re.MULTILINE)
        for word in line.split()[:-1]
        if not word.startswith("--")
    }
    admitted = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    assert copied == admitted
    assert all((ROOT / each).exists() for each in copied)
    packages = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["hatch"]["build"]["targets"]["wheel"]
    assert {each.split("/")[0] for each in packages["packages"]} <= copied


@pytest.mark.parametrize("script", ["deploy/entrypoint", ".ci/run"])
def test_scripts_can_be_run(script: str) -> None:
    assert os.access(ROOT / script, os.X_OK)
