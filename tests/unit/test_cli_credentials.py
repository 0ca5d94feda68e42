"""--ca, --cert, --key and --token: what is wrong is told before any connection, and nothing of them is shown."""

import os
from base64 import urlsafe_b64encode
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import typer
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    PrivateFormat,
    load_pem_private_key,
)

from fleetcli.__main__ import FUNCTIONS, app, main
from fleetcli.client.credentials import Credentials
from fleetcli.client.errors import BadCredentials
from tests.authority import Authority, Issued

NOBODY = "127.0.0.1:1"
METER = "urn:energyfleet:meter:m-1"
CLAIMS = b'{"sub": "billing", "exp": 1800000000}'
JWT = f"e30.{urlsafe_b64encode(CLAIMS).decode().rstrip('=')}.c2ln"


class Made(NamedTuple):
    authority: Authority
    meter: Issued
    files: Mapping[str, str]
    """By what stands in braces in a test's command line."""


def locked(key: bytes) -> bytes:
    """The key with a password."""
    secrecy = BestAvailableEncryption(b"secret")
    return load_pem_private_key(key, None).private_bytes(Encoding.PEM, PrivateFormat.PKCS8, secrecy)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    folder = tmp_path_factory.mktemp("certificates")
    authority = Authority("Fleet CA")
    meter = authority.client(METER, "urn:elsewhere:x", common_name="charger 1")
    cert, key = meter.write(folder, "meter")
    other_cert, other_key = authority.client().write(folder, "other")
    (folder / "locked.key").write_bytes(locked(meter.key))
    (folder / "ca").write_bytes(authority.pem)
    (folder / "blanks").write_text("two words")
    (folder / "token").write_text(f"{JWT}\n")
    return Made(authority, meter, {
        "ca": str(folder / "ca"), "cert": cert, "key": key, "other": other_cert, "other_key": other_key,
        "locked": str(folder / "locked.key"), "blanks": str(folder / "blanks"), "token": str(folder / "token"),
        "none": str(folder / "none"), "folder": str(folder),
    })  # fmt: skip


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("CA", "CERT", "KEY", "TOKEN"):
        monkeypatch.delenv(f"ENERGYFLEET_{name}", raising=False)


@pytest.mark.parametrize(
    ("options", "code", "said"),
    [
        ("--ca {ca} --cert {cert}", 2, "--key: --cert and --key go together"),
        ("--ca {ca} --key {key}", 2, "--cert: --cert and --key go together"),
        (
            "--cert {cert} --key {key}",
            2,
            "--ca: a certificate is shown over TLS alone: say with --ca whose certificate",
        ),
        ("--token @{token}", 2, "--ca: a token is sent over TLS alone"),
        ("--ca {ca} --cert {cert} --key {key} --token x", 2, "--token: either --token or --cert and --key, not both"),
        ("--ca {none}", 1, "--ca {none}: No such file or directory"),
        ("--ca {folder}", 1, "--ca {folder}: Is a directory"),
        ("--ca {key}", 1, "--ca {key}: not a certificate in PEM form"),
        ("--ca {ca} --cert {key} --key {key}", 1, "--cert {key}: not a certificate in PEM form"),
        ("--ca {ca} --cert {cert} --key {cert}", 1, "--key {cert}: the key is not a private key in PEM form"),
        ("--ca {ca} --cert {cert} --key {locked}", 1, "--key {locked}: the key is encrypted; expected one without"),
        (
            "--ca {ca} --cert {cert} --key {other_key}",
            1,
            "{other_key}: the key does not belong to the certificate ({cert})",
        ),
        ("--ca {ca} --token @{none}", 1, "--token {none}: No such file or directory"),
        ("--ca {ca} --token @{blanks}", 1, "--token {blanks}: expected a bearer token"),
        ("--ca {ca} --token @/dev/zero", 1, "--token /dev/zero: larger than 4,194,304 bytes"),
    ],
)
def test_what_cannot_be_used_is_told_before_any_connection(
    options: str, code: int, said: str, made: Made, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["health", NOBODY, *options.format_map(made.files).split()])
    line = " ".join(capsys.readouterr().err.split())
    assert said.format_map(made.files) in line
    assert ended.value.code == code
    assert "no answer" not in line


def test_a_token_that_is_none_is_not_repeated(made: Made, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["health", NOBODY, "--ca", made.files["ca"], "--token", "hunter2 hunter2"])
    line = capsys.readouterr().err
    assert "expected a bearer token" in line
    assert "hunter2" not in line


def test_variables_are_as_good_as_options(
    made: Made, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, file in (("CA", "ca"), ("CERT", "cert"), ("KEY", "other_key")):
        monkeypatch.setenv(f"ENERGYFLEET_{name}", made.files[file])
    with pytest.raises(SystemExit):
        main(["health", NOBODY])
    assert "the key does not belong to the certificate" in " ".join(capsys.readouterr().err.split())


def test_every_command_that_calls_a_service_takes_all_of_them() -> None:
    group: Any = typer.main.get_command(app)
    calling = []
    for name in FUNCTIONS:
        options = {each.name for each in group.get_command(None, name).params}
        if name == "health" or ({"ingestion", "analytics"} & options and name != "up"):
            assert {"ca", "cert", "key", "token"} <= options, name
            calling.append(name)
        else:
            assert not {"ca", "cert", "key", "token"} & options, name
    assert len(calling) >= 14


def test_nothing_secret_is_in_a_repr_and_a_name_is_in_the_identity(made: Made) -> None:
    files = made.files
    shown = Credentials.read(files["ca"], files["cert"], files["key"])
    assert repr(shown) == f"Credentials(files={ {each: files[each] for each in ('ca', 'cert', 'key')} })"
    assert shown.identity.startswith(f"the certificate of {METER} (serial ")
    assert ", issued by CN=Fleet CA, valid until 20" in shown.identity
    token = Credentials.read(files["ca"], token=JWT)
    assert token == Credentials.read(files["ca"], token=f"@{files['token']}")
    assert JWT not in repr(token)
    assert token.identity == "the token of billing (valid until 2027-01-15T08:00:00Z)"
    assert Credentials.read(files["ca"], token="opaque").identity == "the token"
    assert Credentials().identity == "a client without a certificate and a token"


def test_files_are_read_again_and_used_once_they_go_together(made: Made, tmp_path: Path) -> None:
    ca, (cert, key) = made.files["ca"], made.meter.write(tmp_path, "meter")
    first = Credentials.read(ca, cert, key)
    assert first.renewed() is None
    renewed = made.authority.client(METER)
    Path(cert).write_bytes(renewed.certificate)
    with pytest.raises(BadCredentials, match=f"--key {key}: the key does not belong to the certificate"):
        first.renewed()
    Path(key).write_bytes(renewed.key)
    second = first.renewed()
    assert second is not None
    assert (second.certificate, second.key, second.ca) == (renewed.certificate, renewed.key, made.authority.pem)
    assert second.renewed() is None
    Path(cert).unlink()
    with pytest.raises(BadCredentials, match="No such file"):
        second.renewed()


def test_what_comes_through_a_pipe_is_read_once(made: Made) -> None:
    reading, writing = os.pipe()
    os.write(writing, JWT.encode())
    os.close(writing)
    try:
        credentials = Credentials.read(made.files["ca"], token=f"@/dev/fd/{reading}")
        assert credentials.token == JWT
        assert credentials.renewed() is None
    finally:
        os.close(reading)
