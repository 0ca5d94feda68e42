"""`energyfleet certs` as an operator uses it; what Ctrl-C ends is a process of its own."""

import json
import re
import signal
import subprocess
from pathlib import Path

import pytest

from fleetcli.__main__ import main
from tests.acceptance.test_cli_up import COMMAND, STOP_TIMEOUT_S, an_environment, wait_until
from tests.handshakes import shake_hands


@pytest.mark.one_server
def test_a_fleet_gets_its_certificates_through_ctrl_c_and_one_of_them_is_denied(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    authority, table = tmp_path / "authority", tmp_path / "ids.csv"
    clients = authority / "clients"
    monkeypatch.setenv("ENERGYFLEET_AUTHORITY", str(authority))
    monkeypatch.delenv("ENERGYFLEET_TLS_DENY_FILE", raising=False)

    def certs(*arguments: str) -> str:
        with pytest.raises(SystemExit) as ended:
            main(["certs", *arguments])
        said = capsys.readouterr()
        assert ended.value.code == 0, said.err
        return said.out

    certs("ca", str(authority))
    certs("server", "fleet.example.com")
    lines = [f"meter-{number},ev-{number}\n" for number in range(10_000)]
    table.write_text("".join(["meter_id,vehicle_id\n", *lines]))
    process = subprocess.Popen(
        [*COMMAND, "certs", "device", "--csv", str(table)],
        env=an_environment(tmp_path, AUTHORITY=str(authority)),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        wait_until((clients / "meter-2.crt").exists, "the third certificate")
        process.send_signal(signal.SIGINT)
        said, noted = process.communicate(timeout=STOP_TIMEOUT_S)
    finally:
        process.kill()
        process.wait()
    made = len(list(clients.glob("*.crt")))
    assert (process.returncode, said) == (
        130,
        f"made {made:,} certificates and keys in {clients}; 0 were there already\n",
    )
    assert f"{10_000 - made:,} are missing. The same command makes them." in noted
    names = {f"meter-{number}.{ending}" for number in range(made) for ending in ("crt", "key")}
    assert {file.name for file in clients.iterdir()} == names

    table.write_text("".join(["meter_id,vehicle_id\n", *lines[: made + 3]]))
    assert certs("device", "--csv", str(table)) == (
        f"made 3 certificates and keys in {clients}; {made:,} were there already\n"
    )
    charger = clients / f"meter-{made + 2}.crt"
    shake_hands(authority / "ca.crt", authority / "tls" / "server.crt", "fleet.example.com", client=charger)

    certs("revoke", str(charger))
    [shown] = json.loads(certs("show", "--json", str(charger)))
    assert shown["names"] == [f"meter meter-{made + 2}", f"vehicle ev-{made + 2}"]
    assert shown["allows"] == [f"send readings of meter meter-{made + 2}, vehicle ev-{made + 2}"]
    assert (shown["state"], shown["denied"]) == ("valid", True)
    assert shown["serial"] in (authority / "tls" / "denied").read_text()
    assert re.search("denied +│ yes", certs("show", str(charger)))
