"""The files of a deployment, run and held against what the services ask for."""

import os
import re
import shutil
import ssl
import subprocess
import tomllib
from collections.abc import Mapping
from pathlib import Path

import pytest

from shared.config import AnalyticsSettings, IngestionSettings, ServingSettings
from shared.db.migrate import MIGRATIONS
from shared.db.roles import GROUPS, LOGINS, OWNER

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
COMPOSE = (ROOT / "compose.yaml").read_text()

needs_openssl = pytest.mark.skipif(shutil.which("openssl") is None, reason="no openssl on this machine")


def run(*command: str | Path, secrets: Path, **environment: str) -> str:
    """What a command prints with an environment of its own, in which the secrets are elsewhere."""
    finished = subprocess.run(
        command, capture_output=True, text=True, check=True, timeout=60,
        env={"PATH": os.environ["PATH"], "ENERGYFLEET_SECRETS_DIR": str(secrets), **environment},
    )  # fmt: skip
    return finished.stdout


def contents(directory: Path) -> Mapping[str, bytes]:
    return {file.name: file.read_bytes() for file in directory.iterdir()}


@pytest.fixture(scope="module")
def secrets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory of secrets as `deploy/make-secrets` makes them."""
    directory = tmp_path_factory.mktemp("made") / "secrets"
    run(DEPLOY / "make-secrets", "fleet.example.com", "192.0.2.7", secrets=directory)
    return directory


@needs_openssl
def test_make_secrets_makes_every_file_that_compose_mounts(secrets: Path) -> None:
    mounted = set(re.findall(r"file: \./deploy/secrets/(\S+)", COMPOSE))
    assert mounted
    assert mounted <= contents(secrets).keys()


@needs_openssl
def test_make_secrets_never_overwrites(secrets: Path) -> None:
    before = contents(secrets)
    assert run(DEPLOY / "make-secrets", "other.example.com", secrets=secrets) == ""
    assert contents(secrets) == before


@needs_openssl
def test_make_secrets_makes_only_what_is_missing(secrets: Path, tmp_path: Path) -> None:
    partial = tmp_path / "secrets"
    shutil.copytree(secrets, partial)
    (partial / "owner_password").unlink()
    assert run(DEPLOY / "make-secrets", secrets=partial) == f"made {partial}/owner_password\n"
    assert contents(partial).keys() == contents(secrets).keys()


@needs_openssl
def test_every_password_is_another_one_and_long(secrets: Path) -> None:
    passwords = [file.read_text().strip() for file in secrets.glob("*_password")]
    assert len(set(passwords)) == len(passwords) == 5
    assert all(re.fullmatch(r"[0-9a-f]{48}", password) for password in passwords)


@needs_openssl
def test_nobody_else_on_the_host_can_read_the_secrets(secrets: Path) -> None:
    assert secrets.stat().st_mode & 0o077 == 0
    assert (secrets / "ca.key").stat().st_mode & 0o077 == 0


@needs_openssl
@pytest.mark.parametrize("name", ["localhost", "ingestion", "analytics", "127.0.0.1", "fleet.example.com", "192.0.2.7"])
def test_clients_that_trust_the_authority_accept_the_certificate_under_every_name(secrets: Path, name: str) -> None:
    client_context = ssl.create_default_context(cafile=secrets / "ca.crt")
    server_context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server_context.load_cert_chain(secrets / "server.crt", secrets / "server.key")
    _shake_hands(client_context, server_context, name)
    with pytest.raises(ssl.SSLCertVerificationError):
        _shake_hands(client_context, server_context, "elsewhere.example.com")


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


@pytest.mark.parametrize("script", ["deploy/make-secrets", "deploy/entrypoint", ".ci/run"])
def test_scripts_can_be_run(script: str) -> None:
    assert os.access(ROOT / script, os.X_OK)


def _shake_hands(client_context: ssl.SSLContext, server_context: ssl.SSLContext, name: str) -> None:
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = client_context.wrap_bio(to_client, to_server, server_hostname=name)
    server = server_context.wrap_bio(to_server, to_client, server_side=True)
    unfinished = [client, server]
    while unfinished:
        for side in list(unfinished):
            try:
                side.do_handshake()
                unfinished.remove(side)
            except ssl.SSLWantReadError:
                continue
