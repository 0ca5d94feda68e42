"""What `energyfleet certs` does with several files at once, and with files that are there."""

from collections.abc import Callable
from pathlib import Path

import pytest

from fleetcli.__main__ import main

Certs = Callable[..., tuple[object, str, str]]


@pytest.fixture
def certs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Certs:
    """Runs a command beside an authority in `pki`: its exit code and what it says on both outputs."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ENERGYFLEET_AUTHORITY", "pki")
    monkeypatch.delenv("ENERGYFLEET_TLS_DENY_FILE", raising=False)

    def run(*arguments: str) -> tuple[object, str, str]:
        with pytest.raises(SystemExit) as ended:
            main(["certs", *arguments])
        said = capsys.readouterr()
        return ended.value.code, said.out, said.err

    run("ca", "pki")
    return run


def test_a_renewal_goes_on_after_what_cannot_be_renewed(certs: Certs) -> None:
    for meter in ("m-1", "m-2"):
        certs("device", "--meter", meter)
    certs("revoke", "pki/clients/m-1.crt")
    before = Path("pki/clients/m-1.crt").read_bytes(), Path("pki/clients/m-2.crt").read_bytes()
    code, out, err = certs("renew", "pki/clients/m-1.crt", "pki/ca.crt", "pki/clients/m-2.crt")
    assert code == 1
    assert out.startswith("renewed pki/clients/m-2.crt and pki/clients/m-2.key, valid until ")
    assert [line.partition(": ")[0] for line in err.splitlines()] == ["pki/clients/m-1.crt", "pki/ca.crt"]
    assert "is denied: expected a new one" in err
    after = Path("pki/clients/m-1.crt").read_bytes(), Path("pki/clients/m-2.crt").read_bytes()
    assert [a == b for a, b in zip(before, after, strict=True)] == [True, False]


def test_only_clients_are_denied_and_those_of_others_with_a_warning(certs: Certs) -> None:
    certs("server", "localhost")
    certs("ca", "other")
    certs("device", "--authority", "other", "--meter", "m-1")
    for file in ("pki/tls/server.crt", "pki/ca.crt"):
        code, _, err = certs("revoke", "other/clients/m-1.crt", file)
        assert code == 1
        assert f"{file}: not a client's: expected" in err
    assert "m-1" not in Path("pki/tls/denied").read_text()
    code, out, err = certs("revoke", "other/clients/m-1.crt")
    assert (code, "not of the authority in pki" in err) == (0, True)
    assert "denied urn:energyfleet:meter:m-1 (serial " in out
    assert "was denied already: urn:energyfleet:meter:m-1" in certs("revoke", "other/clients/m-1.crt")[1]


def test_nothing_is_made_while_a_line_of_a_table_or_a_file_that_is_there_is_wrong(certs: Certs) -> None:
    table = Path("ids.csv")
    table.write_text("meter_id\nm-1\nm 2 \nm-3\n")
    code, out, err = certs("device", "--csv", "ids.csv")
    assert (code, out, err.partition(": '")[0]) == (1, "", "ids.csv, line 3: meter_id")
    assert not Path("pki/clients").exists()
    certs("device", "--vehicle", "other", "--name", "m-3")
    table.write_text("meter_id\nm-1\nm-3\n")
    code, out, err = certs("device", "--csv", "ids.csv")
    assert (code, out, err) == (
        1,
        "",
        "pki/clients/m-3.crt: is there, and names something else: expected --force, or another name or --out\n",
    )
    assert {file.name for file in Path("pki/clients").iterdir()} == {"m-3.crt", "m-3.key"}
    assert certs("device", "--csv", "ids.csv", "--force")[1].startswith("made 2 certificates and keys")
    assert "meter m-3" in certs("show", "pki/clients/m-3.crt")[1]
