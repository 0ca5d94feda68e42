"""`energyfleet fleet`, `meters`, `devices`, `sessions` and `plot` through real processes and real channels."""

import csv
import io
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from fleetcli.client import services
from fleetcli.client.messages import fleet_request
from fleetcli.client.services import AnalyticsClient
from tests.acceptance import test_cli_up
from tests.acceptance.forked import energyfleet
from tests.acceptance.test_cli_up import an_environment, up

pytestmark = pytest.mark.one_server

SEED = "21"


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """Services with a simulated fleet of six chargers; before that, an empty fleet."""
    directory = tmp_path_factory.mktemp("up")
    with up(directory) as running:
        environment = an_environment(
            directory, INGESTION_ADDRESS=running.address("ingestion"), ANALYTICS_ADDRESS=running.address("analytics")
        )
        empty = energyfleet("fleet", environment=environment)
        assert empty.returncode == 0, empty.stderr
        assert "UTC: no vehicle was heard of.\n0 of 0 vehicles shown; verdicts: none.\n" in empty.stdout
        assert energyfleet("fleet", "--csv", environment=environment).stdout.count("\n") == 1
        assert "UTC: no meter was heard of.\n0 of 0 meters" in energyfleet("meters", environment=environment).stdout
        assert energyfleet("devices", environment=environment).stdout.startswith("0 of 0 devices shown; ")
        sent = energyfleet("simulate", "--chargers", "6", "--hours", "5", "--seed", SEED, environment=environment)
        assert sent.returncode == 0, sent.stderr
        yield environment


def as_json(environment: dict[str, str], *arguments: str) -> dict[str, Any]:
    asked = energyfleet("fleet", *arguments, "--json", environment=environment)
    assert asked.returncode == 0, asked.stderr
    answer: dict[str, Any] = json.loads(asked.stdout)
    return answer


def compared(vehicle: dict[str, Any], name: str, absent: float) -> float:
    return float(vehicle.get("comparison", {}).get(name, absent))


def test_the_worst_come_first_with_a_bar_for_each_of_24_hours(environment: dict[str, str]) -> None:
    whole = as_json(environment)
    ids = [each["vehicleId"] for each in whole["vehicles"]]
    ratios = [compared(each, "efficiencyRatio", 9.0) for each in whole["vehicles"]]
    assert (whole["matched"], len(ids), ratios) == ("6", 6, sorted(ratios))
    assert "nextPageToken" not in whole

    table = energyfleet("fleet", "--rows", "4", environment=environment)
    assert "\x1b" not in table.stdout + table.stderr
    rows = [line.split("│") for line in table.stdout.splitlines() if line.startswith("│")]
    assert [row[1].strip() for row in rows] == ids[:4]
    assert [row[-4].strip() for row in rows] == [f"{each:.4f}" for each in ratios[:4]]
    assert all(re.fullmatch(r"[·▁▂▃▄▅▆▇█]{24}", row[-2].strip()) for row in rows)
    assert all("·" * 18 in row[-2] for row in rows), "the fleet is five hours old"
    assert "4 of 6 vehicles shown; verdicts: " in table.stdout
    narrow = energyfleet("fleet", environment=environment | {"COLUMNS": "60"}).stdout
    assert all(each in narrow for each in ids)


def test_order_verdicts_and_vehicles_can_be_chosen(environment: dict[str, str]) -> None:
    lost = [compared(each, "kwhLost", -9e9) for each in as_json(environment, "--order", "lost")["vehicles"]]
    assert lost == sorted(lost, reverse=True)
    low = as_json(environment, "--verdict", "low_efficiency", "--verdict", "OK")
    assert {each["verdict"] for each in low["vehicles"]} <= {"VERDICT_LOW_EFFICIENCY", "VERDICT_OK"}
    assert 0 < len(low["vehicles"]) == int(low["matched"]) < 6
    one = as_json(environment, "--vehicle", f"ev-{SEED}-00002")
    assert [each["vehicleId"] for each in one["vehicles"]] == [f"ev-{SEED}-00002"]
    before = as_json(environment, "--hours", "2", "--ending", "2025-01-01T00:30:00Z")
    assert before["window"] == {"start": "2024-12-31T22:00:00Z", "end": "2025-01-01T01:00:00Z"}
    assert {each["verdict"] for each in before["vehicles"]} == {"VERDICT_NO_METER"}


def test_csv_has_what_json_has_and_nothing_where_a_value_is_absent(environment: dict[str, str]) -> None:
    vehicles = as_json(environment)["vehicles"]
    rows = list(csv.DictReader(io.StringIO(energyfleet("fleet", "--csv", environment=environment).stdout)))
    assert [row["vehicle_id"] for row in rows] == [each["vehicleId"] for each in vehicles]
    for row, each in zip(rows, vehicles, strict=True):
        assert row["efficiency_ratio"] == str(each.get("efficiencyRatio", ""))
        assert row["compared_efficiency_ratio"] == str(each.get("comparison", {}).get("efficiencyRatio", ""))
        assert row["findings"].split() == [it["kind"].removeprefix("FINDING_KIND_") for it in each["findings"]]
        assert row["vehicle_readings"] == each["vehicleReadings"]
        assert f"VERDICT_{row['verdict']}" == each["verdict"]


def test_windows_are_of_hours_exact_or_of_days(environment: dict[str, str]) -> None:
    def window_of(*options: str) -> tuple[str, str]:
        window = as_json(environment, "--hours", "30", "--ending", "2026-02-09T10:20:30Z", *options)["window"]
        return window["start"], window["end"]

    assert window_of() == ("2026-02-08T04:00:00Z", "2026-02-09T11:00:00Z")
    assert window_of("--exact") == ("2026-02-08T04:20:30Z", "2026-02-09T10:20:30Z")
    assert window_of("--days-of", "Asia/Kolkata") == ("2026-02-07T18:30:00Z", "2026-02-09T18:30:00Z")


async def test_pages_are_put_together(environment: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    question = fleet_request(None, ("HOUR", ""), (), (), "RATIO")
    async with AnalyticsClient(environment["ENERGYFLEET_ANALYTICS_ADDRESS"]) as asking:
        whole = await asking.fleet(question)
        monkeypatch.setattr(services, "PAGE_MAX_ROWS", 2)
        pages = await asking.fleet(question)
        five = await asking.fleet(question, 5)
    assert list(pages.vehicles) == list(whole.vehicles)
    assert (pages.matched, pages.totals, pages.window) == (whole.matched, whole.totals, whole.window)
    assert not pages.next_page_token
    assert list(five.vehicles) == list(whole.vehicles)[:5]
    assert five.totals == whole.totals


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (("fleet", "--days-of", "Mars"), "INVALID_ARGUMENT: time_zone"),
        (("fleet", "--vehicle", "nobody"), "unknown: nobody"),
        (("fleet", "--vehicle", "nobody "), "INVALID_ARGUMENT: vehicle_ids"),
        (("meters", "--meter", "nobody"), "unknown: nobody"),
        (("sessions", "nobody"), "NOT_FOUND: vehicle nobody is unknown"),
        (("sessions", "--meter", "nobody"), "NOT_FOUND: meter nobody is unknown"),
        (("plot", f"ev-{SEED}-00001", "--out", "it.png", "--session", "2025-01-01T00:00:00Z"), "in no session at"),
        (("plot", "nobody", "--out", "it.png"), "NOT_FOUND: vehicle nobody is unknown"),
        (("plot", f"ev-{SEED}-00001", "--out", "no/where.png"), "--out no/where.png: No such file or directory"),
        (("plot", f"ev-{SEED}-00001", "--out", "it.png", "--time-zone", "Mars"), "INVALID_ARGUMENT: time_zone"),
    ],
)
def test_what_cannot_be_answered_is_told(
    arguments: tuple[str, ...], complaint: str, environment: dict[str, str]
) -> None:
    asked = energyfleet(*arguments, environment=environment)
    assert asked.returncode == 1
    assert complaint in " ".join(asked.stderr.split())
    assert "Traceback" not in asked.stderr


@pytest.mark.parametrize(
    ("name", "magic", "options"),
    [
        ("hours.png", b"\x89PNG", ()),
        ("days.svg", b"<?xml", ("--by", "day", "--time-zone", "Europe/Berlin")),
        ("old.pdf", b"%PDF", ("--hours", "3", "--ending", "2025-01-01T00:00:00Z")),
        ("session.png", b"\x89PNG", ("--session", "last")),
    ],
)
def test_a_vehicle_is_drawn(
    name: str, magic: bytes, options: tuple[str, ...], environment: dict[str, str], tmp_path: Path
) -> None:
    to = tmp_path / name
    drawn = energyfleet("plot", f"ev-{SEED}-00001", "--out", str(to), *options, environment=environment)
    assert drawn.returncode == 0, drawn.stderr
    assert to.read_bytes().startswith(magic)
    assert re.search(rf"{to} shows (a session of )?ev-{SEED}-00001", drawn.stdout)


def test_sessions_are_listed_with_what_lies_outside_them(environment: dict[str, str]) -> None:
    for device in ((f"ev-{SEED}-00001",), ("--meter", f"meter-{SEED}-00001")):
        asked = energyfleet("sessions", *device, "--json", environment=environment)
        assert asked.returncode == 0, asked.stderr
        answer = json.loads(asked.stdout)
        assert len(answer["sessions"]) == int(answer["matched"]) > 0
        assert "nextPageToken" not in answer
        table = energyfleet("sessions", *device, environment=environment).stdout
        rows = [line.split("│") for line in table.splitlines() if line.startswith("│")]
        begins = [each["window"]["start"][:16].replace("T", " ") for each in answer["sessions"]]
        assert [row[1].strip().lstrip("<") for row in rows] == begins
        assert f"{len(rows):,} sessions: " in table
    old = energyfleet("sessions", f"ev-{SEED}-00001", "--ending", "2025-01-01T00:00:00Z", environment=environment)
    assert "UTC: no session.\n0 sessions: 0.000 kWh delivered (DC), 0.000 kWh drawn (AC).\n" in old.stdout


def test_without_matplotlib_the_command_says_what_to_install(environment: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / "matplotlib.py").write_text("raise ImportError")
    without = environment | {"PYTHONPATH": str(tmp_path)}
    drawn = test_cli_up.energyfleet("plot", f"ev-{SEED}-00001", "--out", str(tmp_path / "it.png"), environment=without)
    assert (drawn.returncode, drawn.stdout) == (1, "")
    assert drawn.stderr == "`energyfleet plot` needs matplotlib: pip install 'energy-fleet[plot]'\n"
    assert test_cli_up.energyfleet("fleet", environment=without).returncode == 0


def listed_as_json(environment: dict[str, str], *arguments: str) -> dict[str, Any]:
    asked = energyfleet(*arguments, "--json", environment=environment)
    assert asked.returncode == 0, asked.stderr
    answer: dict[str, Any] = json.loads(asked.stdout)
    assert "nextPageToken" not in answer
    return answer


def test_meters_are_listed_as_a_table_as_json_and_as_csv(environment: dict[str, str]) -> None:
    whole = listed_as_json(environment, "meters")
    ids = [each["meterId"] for each in whole["meters"]]
    ratios = [compared(each, "efficiencyRatio", 9.0) for each in whole["meters"]]
    assert (int(whole["matched"]), ratios) == (len(ids), sorted(ratios))
    assert len(ids) >= 6
    table = energyfleet("meters", "--rows", "4", environment=environment)
    rows = [line.split("│") for line in table.stdout.splitlines() if line.startswith("│")]
    assert [row[1].strip() for row in rows] == ids[:4]
    assert f"4 of {len(ids)} meters shown; verdicts: " in table.stdout
    csv_rows = list(csv.DictReader(io.StringIO(energyfleet("meters", "--csv", environment=environment).stdout)))
    assert [row["meter_id"] for row in csv_rows] == ids
    for row, each in zip(csv_rows, whole["meters"], strict=True):
        assert row["kwh_consumed_ac"] == str(each.get("kwhConsumedAc", ""))
        assert row["kwh_consumed_ac_unmapped"] == str(each.get("kwhConsumedAcUnmapped", ""))
        assert row["compared_efficiency_ratio"] == str(each.get("comparison", {}).get("efficiencyRatio", ""))
        assert (row["meter_readings"], row["vehicle_count"]) == (each["meterReadings"], each["vehicleCount"])
        assert json.loads(row["vehicle_ids"]) == each["vehicleIds"]
        assert f"VERDICT_{row['verdict']}" == each["verdict"]
    one = listed_as_json(environment, "meters", "--meter", ids[2], "--order", "lost", "--hours", "3")
    assert [each["meterId"] for each in one["meters"]] == ids[2:3]
    low = listed_as_json(environment, "meters", "--verdict", "low_efficiency")
    assert {each["verdict"] for each in low["meters"]} <= {"VERDICT_LOW_EFFICIENCY"}


def test_devices_are_listed_as_a_table_as_json_and_as_csv(environment: dict[str, str]) -> None:
    whole = listed_as_json(environment, "devices")
    ids = [each.get("vehicleId") or each["meterId"] for each in whole["devices"]]
    newest = [each["newestReading"] for each in whole["devices"] if "newestReading" in each]
    assert (int(whole["matched"]), newest) == (len(ids), sorted(newest))
    assert len(ids) >= 12
    assert energyfleet("devices", environment=environment | {"COLUMNS": "40"}).returncode == 0
    table = energyfleet("devices", "--rows", "3", environment=environment).stdout
    rows = [line.split("│") for line in table.splitlines() if line.startswith("│")]
    assert [row[1].split()[-1] for row in rows] == ids[:3]
    assert f"3 of {len(ids)} devices shown; vehicles and meters: " in table
    csv_rows = list(csv.DictReader(io.StringIO(energyfleet("devices", "--csv", environment=environment).stdout)))
    assert [row["id"] for row in csv_rows] == ids
    for row, each in zip(csv_rows, whole["devices"], strict=True):
        assert row["kind"] == ("vehicle" if "vehicleId" in each else "meter")
        assert row["newest_reading"] == each.get("newestReading", "")
        assert row["rejected_readings"] == each["rejectedReadings"]
        assert [f"DEVICE_STATE_{state}" for state in row["states"].split()] == each["states"]
    assert all("meterId" in each for each in listed_as_json(environment, "devices", "--meters")["devices"])
    assert all("vehicleId" in each for each in listed_as_json(environment, "devices", "--vehicles")["devices"])
    for option, states in (
        ("--stale", {"STALE", "NO_READING"}),
        ("--clock", {"CLOCK_OFF"}),
        ("--refused", {"REFUSED"}),
        ("--doubted", {"DOUBTED"}),
    ):
        chosen = listed_as_json(environment, "devices", option)["devices"]
        wanted = {f"DEVICE_STATE_{state}" for state in states}
        assert len(chosen) == sum(bool(wanted & {*each["states"]}) for each in whole["devices"])
        assert all(wanted & {*each["states"]} for each in chosen)
