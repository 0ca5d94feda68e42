"""The commands that talk to running services, through real processes and real channels."""

import csv
import json
import re
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from itertools import product
from pathlib import Path
from typing import Any

import pytest

from tests.acceptance.forked import energyfleet
from tests.acceptance.test_cli_up import an_environment, up

DATA = Path(__file__).parents[1] / "data"


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """An environment in which the commands find services that run."""
    directory = tmp_path_factory.mktemp("up")
    with up(directory) as running:
        yield an_environment(
            directory, INGESTION_ADDRESS=running.address("ingestion"), ANALYTICS_ADDRESS=running.address("analytics")
        )


def performance(environment: dict[str, str], *arguments: str) -> dict[str, Any]:
    asked = energyfleet("performance", *arguments, "--json", environment=environment)
    assert asked.returncode == 0, asked.stderr
    answer: dict[str, Any] = json.loads(asked.stdout)
    return answer


def test_a_recorded_charge_is_replayed_and_its_efficiency_is_right(environment: dict[str, str]) -> None:
    file = str(DATA / "fast-charge-1min.csv")
    pair = "test-ev-01=test-charger-01"
    sent = energyfleet("replay", file, "--ending", "now", "--map", pair, environment=environment)
    assert sent.returncode == 0, sent.stderr
    assert "20 readings sent" in sent.stdout
    assert "20 stored, 0 duplicate, 0 conflicting, 0 rejected; 0 bad lines" in sent.stdout
    answer = performance(environment, "test-ev-01")
    assert answer["kwhDeliveredDc"] == pytest.approx(2.86, rel=1e-9)
    assert answer["kwhConsumedAc"] == pytest.approx(3.0, rel=1e-9)
    assert answer["verdict"] == "VERDICT_OK"
    table = energyfleet("performance", "test-ev-01", environment=environment).stdout
    assert "0.9533" in table
    assert "OK" in table


def test_what_flows_back_is_told_apart(environment: dict[str, str]) -> None:
    lines = "\n".join(
        json.dumps({kind: {f"{kind}Id": device, field: kwh, "timestamp": f"2024-03-05T{hour}:00:00Z"}})
        for kind, device, field, energies in (
            ("meter", "test-meter-08", "kwhConsumedAc", (20.0, -14.4)),
            ("vehicle", "test-ev-08", "kwhDeliveredDc", (18.4, -16.0)),
        )
        for hour, kwh in zip((14, 20), energies, strict=True)
    )
    pair = "test-ev-08=test-meter-08"
    sent = energyfleet("replay", "-", "--ending", "now", "--map", pair, environment=environment, stdin=lines)
    assert sent.returncode == 0, sent.stderr
    table = energyfleet("performance", "test-ev-08", environment=environment).stdout
    assert re.findall(r"returned \((.C)\) *│ *([\d.]+) kWh", table) == [("DC", "16.0000"), ("AC", "14.4000")]
    assert "18.4000 kWh delivered of 20.0000 kWh drawn" in table
    listed = energyfleet("fleet", "--vehicle", "test-ev-08", environment=environment).stdout
    assert "AC back" in listed
    assert "16.0 kWh flowed back out of batteries, 14.4 kWh into the grid" in listed
    as_csv = energyfleet("fleet", "--vehicle", "test-ev-08", "--csv", environment=environment).stdout
    (row,) = csv.DictReader(as_csv.splitlines())
    assert (row["kwh_returned_dc"], row["kwh_returned_ac"]) == ("16.0", "14.4")
    assert float(row["compared_efficiency_ratio"]) == pytest.approx(0.92)
    one_way = energyfleet("performance", "test-ev-01", environment=environment).stdout
    assert "returned" not in one_way


def test_without_a_ratio_a_verdict_is_shown_all_the_same(environment: dict[str, str]) -> None:
    lines = "\n".join(
        json.dumps({kind: {f"{kind}Id": device, field: kwh, "timestamp": f"2024-03-05T{hour}:{minute}:00Z"}})
        for kind, device, field, kwh in (
            ("meter", "test-frozen-09", "kwhConsumedAc", 0.0),
            ("vehicle", "test-ev-09", "kwhDeliveredDc", 1.665),
        )
        for hour, minute in product((18, 19, 20), (15, 30, 45, 59))
    )
    pair = "test-ev-09=test-frozen-09"
    sent = energyfleet("replay", "-", "--ending", "now", "--map", pair, environment=environment, stdin=lines)
    assert sent.returncode == 0, sent.stderr
    table = energyfleet("performance", "test-ev-09", environment=environment).stdout
    assert "19.980 kWh were delivered while the meters drew nothing" in " ".join(table.replace("│", " ").split())
    assert re.search(r"compared *│ *nothing ", table)
    assert re.search(r"finding *│ *NOTHING_DRAWN: ", table)
    listed = energyfleet("fleet", "--verdict", "implausible", environment=environment).stdout
    assert re.search(r"test-ev-09 *│ *19\.980 *│ *0\.000 *│ *0% *│ *- *│ *- *│ *IMPLAUSIBLE ", listed)
    as_csv = energyfleet("fleet", "--vehicle", "test-ev-09", "--csv", environment=environment).stdout
    (row,) = csv.DictReader(as_csv.splitlines())
    assert (row["verdict"], row["compared_efficiency_ratio"], row["findings"]) == ("IMPLAUSIBLE", "", "NOTHING_DRAWN")
    assert [float(row[name]) for name in ("kwh_lost", "kwh_delivered_dc")] == pytest.approx([-19.98, 19.98])
    assert row["kwh_consumed_ac"] == "0.0"


def test_a_meter_alone_has_energy_and_no_efficiency(environment: dict[str, str]) -> None:
    file = str(DATA / "charge-point-15min.csv")
    pair = "test-ev-03=test-charge-point-01"
    sent = energyfleet("replay", file, "--ending", "now", "--map", pair, environment=environment)
    assert sent.returncode == 0, sent.stderr
    answer = performance(environment, "test-ev-03")
    assert answer["kwhConsumedAc"] == pytest.approx(4.32, rel=1e-9)
    assert "efficiencyRatio" not in answer
    assert answer["verdict"] == "VERDICT_INSUFFICIENT_DATA"


def test_lines_that_are_bad_or_rejected_are_told_by_number_and_the_others_stored(environment: dict[str, str]) -> None:
    ending = datetime.now(UTC).isoformat()
    lines = (DATA / "mixed.ndjson").read_text()
    sent = energyfleet("replay", "-", "--ending", ending, environment=environment, stdin=lines)
    assert sent.returncode == 1
    assert "4 readings sent" in sent.stdout
    assert "3 stored, 0 duplicate, 0 conflicting, 1 rejected; 1 bad lines" in sent.stdout
    bad, rejected, total = sent.stderr.splitlines()
    assert bad.startswith("standard input:4: ")
    assert rejected.startswith("standard input:5: meter.kwh_consumed_ac OUT_OF_RANGE: -1001.0 is not within")
    assert total == "2 of 5 lines were not taken"
    again = energyfleet("replay", "-", "--ending", ending, environment=environment, stdin=lines)
    assert "0 stored, 3 duplicate" in again.stdout
    other = energyfleet(
        "replay", "-", "--ending", ending, environment=environment, stdin=lines.replace('Ac": 0.0', 'Ac": 0.25')
    )
    assert other.returncode == 1
    assert "2 duplicate, 1 conflicting" in other.stdout
    assert "standard input:6: test-meter-02 has other values stored" in other.stderr


def test_files_as_people_have_them_give_the_efficiency_that_they_measured(environment: dict[str, str]) -> None:
    """Four quarter hours of 1,850 Wh in local time against 1.665 kWh each: 0.9."""
    spreadsheet = "Zeit;Energie [Wh];Phase\n" + "".join(f"05.03.2024 18:{at};1850,0;L1\n" for at in (15, 30, 45, 59))
    array = [
        {"vehicleId": "test-ev-07", "kwhDeliveredDc": 1.665, "timestamp": f"2024-03-05T17:{at}:00Z"}
        for at in (15, 30, 45, 59)
    ]
    ending = ("--ending", datetime.now(UTC).isoformat())
    of_spreadsheet = (
        "--columns",
        "timestamp=Zeit,energy=2",
        "--time-zone",
        "Europe/Berlin",
        "--meter",
        "test-meter-09",
    )
    for stdin, said in ((spreadsheet, (*of_spreadsheet, "--map", "test-ev-07=test-meter-09")), (json.dumps(array), ())):
        sent = energyfleet("replay", "-", *ending, *said, environment=environment, stdin=stdin)
        assert sent.returncode == 0, sent.stderr
        assert "4 stored, 0 duplicate, 0 conflicting, 0 rejected; 0 bad lines" in sent.stdout
    answer = performance(environment, "test-ev-07")
    assert answer["kwhConsumedAc"] == pytest.approx(7.4, rel=1e-9)
    assert answer["efficiencyRatio"] == pytest.approx(0.9, rel=1e-9)


def test_the_differences_of_a_tables_registers_count_and_status_shows_the_newest(environment: dict[str, str]) -> None:
    """The meter's register rises by 2.0, 1.5 and 1.5 kWh, whatever the order of rows; its vehicle takes 4.5 kWh."""
    table = (
        "Time;EVSE;VIN;Meter reading [Wh];kWh\n"
        "2024-03-05 17:30Z;test-evse-20;;4018931,0;\n"
        "2024-03-05 18:00Z;test-evse-20;;4021931,0;\n"
        "2024-03-05 17:15Z;test-evse-20;;4016931,0;\n"
        "2024-03-05 17:45Z;test-evse-20;;4020431,0;\n"
        "2024-03-05 18:00Z;;test-ev-20;;4,5\n"
        "2024-03-05 18:00Z;test-evse-21;;4021931,0;1,5\n"
    )
    pair = "test-ev-20=test-evse-20"
    sent = energyfleet("replay", "-", "--ending", "now", "--map", pair, environment=environment, stdin=table)
    assert sent.returncode == 1
    assert "5 stored, 0 duplicate, 0 conflicting, 1 rejected; 0 bad lines" in sent.stdout
    why = "standard input:7: meter.kwh_consumed_ac MALFORMED: set either this or register_kwh, not both"
    assert why in sent.stderr.splitlines()
    answer = performance(environment, "test-ev-20")
    assert answer["kwhConsumedAc"] == pytest.approx(5.0, rel=1e-9)
    assert answer["efficiencyRatio"] == pytest.approx(0.9, rel=1e-9)
    of_meter, of_vehicle = (
        energyfleet("status", device, environment=environment).stdout for device in ("test-evse-20", "test-ev-20")
    )
    assert re.findall(r"register *│ *(.*?) *│", of_meter) == ["4,021.9310 kWh"]
    assert "4.5000 kWh" in of_vehicle
    assert "register" not in of_vehicle


def test_the_newest_reading_of_a_moved_recording_is_at_the_asked_instant(environment: dict[str, str]) -> None:
    reading = (
        '{"vehicle": {"vehicleId": "test-ev-04", "kwhDeliveredDc": 1, "timestamp": "2024-03-05T10:00:00.000001Z"}}'
    )
    ending = f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%S}.123457+00:00"
    sent = energyfleet("replay", "-", "--ending", ending, environment=environment, stdin=reading)
    assert sent.returncode == 0, sent.stderr
    asked = energyfleet("status", "test-ev-04", "--json", environment=environment)
    assert json.loads(asked.stdout)["vehicle"]["reading"]["timestamp"] == ending.replace("+00:00", "Z")


def test_mappings_are_made_and_taken_back(environment: dict[str, str]) -> None:
    hours_ago = [f"{datetime.now(UTC) - timedelta(hours=hours):%Y-%m-%dT%H:%M:%SZ}" for hours in range(4)]

    def said(*arguments: str) -> list[str]:
        done = energyfleet(*arguments, environment=environment)
        assert done.returncode == 0, done.stderr
        return done.stdout.splitlines()

    first = f"test-ev-06 is fed by test-meter-06 from {hours_ago[3]}"
    assert said("map", "test-ev-06", "test-meter-06", "--from", hours_ago[3], "--note", "[1] new") == [f"{first} on"]
    second = f"test-ev-06 is fed by test-meter-07 from {hours_ago[2]} on"
    moved = said("map", "test-ev-06", "test-meter-07", "--from", hours_ago[2])
    assert moved == [f"closed: {first} until {hours_ago[2]}", second]
    assert said("unmap", "test-ev-06", "--from", hours_ago[3], "--until", hours_ago[1]) == [
        f"no longer: {first} until {hours_ago[2]}",
        f"no longer: {second.removesuffix(' on')} until {hours_ago[1]}",
    ]
    refused = energyfleet("unmap", "test-ev-06", "--from", hours_ago[3], environment=environment)
    assert refused.returncode == 1
    assert f"FAILED_PRECONDITION: test-ev-06 without a meter from {hours_ago[3]} on" in refused.stderr
    assert f"test-ev-06 is fed by test-meter-07 from {hours_ago[1]} on" in refused.stderr

    def undated(*arguments: str) -> list[str]:
        """Without the times of the records."""
        return [re.sub(r"; (registered |ended )?\S+Z by ", r"; \1by ", line) for line in said("mappings", *arguments)]

    assert undated("--vehicle", "test-ev-06") == [
        f"test-ev-06 is fed by test-meter-07 from {hours_ago[1]} on; registered by anonymous"
    ]
    assert undated("--vehicle", "test-ev-06", "--changes") == [
        f"test-ev-06 is fed by test-meter-07 from {hours_ago[1]} on, before from {hours_ago[2]} on; by anonymous",
        f"no longer: {first} until {hours_ago[2]}; by anonymous",
        f"{second}; by anonymous",
        f"{first} until {hours_ago[2]}, before from {hours_ago[3]} on; by anonymous",
        f"{first} on; by anonymous: [1] new",
    ]
    only = energyfleet("mappings", "--meter", "test-meter-06", "--changes", "--rows", "1", environment=environment)
    assert only.stdout.startswith(f"no longer: {first} until {hours_ago[2]}; ")
    assert only.stderr == "There are more than these 1: see --rows.\n"
    (change, *_) = json.loads("\n".join(said("mappings", "--meter", "test-meter-06", "--changes", "--json")))["changes"]
    assert (change["before"]["meterId"], change["record"]["identity"]) == ("test-meter-06", "anonymous")
    listed = json.loads("\n".join(said("mappings", "--vehicle", "test-ev-06", "--json")))["mappings"]
    assert [each["registered"]["identity"] for each in listed] == ["anonymous"]
    assert said("mappings", "--vehicle", "test-ev-00") == ["No mappings."]


def test_a_reading_is_corrected_and_the_correction_is_listed(environment: dict[str, str]) -> None:
    def said(*arguments: str) -> str:
        done = energyfleet(*arguments, environment=environment)
        assert done.returncode == 0, done.stderr
        return done.stdout

    time = f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}"
    reading = f'{{"meter": {{"meterId": "test-meter-08", "kwhConsumedAc": 100.05, "timestamp": "{time}"}}}}'
    energyfleet("replay", "-", environment=environment, stdin=reading)
    assert said("corrections", "--meter", "test-meter-08") == "No corrections.\n"
    command = ("correct", time, "--meter", "test-meter-08", "--note", "ticket [12]", "--author", "Ada")
    assert said(*command, "--as-sent") == "What was sent counts, as before.\n"
    corrected = said(*command, "--kwh", "1.85")
    assert corrected.startswith(f"test-meter-08 {time}: counts as 1.85 kWh since ")
    assert corrected.endswith(" (before: 100.05 kWh, uncorrected: 100.05 kWh); Ada (anonymous): ticket [12]\n")
    void = said(*command, "--void")
    assert void.startswith(f"test-meter-08 {time}: is void since ")
    assert void.endswith(" (before: 1.85 kWh, uncorrected: 100.05 kWh); Ada (anonymous): ticket [12]\n")
    assert said("corrections", "--meter", "test-meter-08") == void + corrected
    listed = json.loads(said("corrections", "--meter", "test-meter-08", "--json"))["corrections"]
    assert [(each["author"], each["identity"], each["kwh"]) for each in listed] == [
        ("Ada", "anonymous", 0.0),
        ("Ada", "anonymous", 1.85),
    ]
    nothing = energyfleet(
        "correct", "now", "--meter", "test-meter-08", "--void", "--note", "n", environment=environment
    )
    assert nothing.returncode == 1
    assert "NOT_FOUND: meter test-meter-08 has no stored reading of " in nothing.stderr


def test_meters_that_joined_are_shown_and_taken_back_one_by_one(environment: dict[str, str]) -> None:
    hours_ago = [f"{datetime.now(UTC) - timedelta(hours=hours):%Y-%m-%dT%H:%M:%SZ}" for hours in range(3)]

    def said(*arguments: str) -> list[str]:
        done = energyfleet(*arguments, environment=environment)
        assert done.returncode == 0, done.stderr
        return done.stdout.splitlines()

    fed = [f"test-ev-18 is fed by test-meter-{meter} from {hours_ago[2]}" for meter in ("18", "19")]
    assert said("map", "test-ev-18", "test-meter-18", "--from", hours_ago[2]) == [f"{fed[0]} on"]
    assert said("map", "test-ev-18", "test-meter-19", "--from", hours_ago[2], "--join") == [f"{fed[1]} on"]
    table = "\n".join(said("performance", "test-ev-18"))
    assert "fed by 2 mappings" in table
    assert "test-meter-18: -, 0 readings, " in table
    assert "test-meter-19: -, 0 readings, " in table
    assert said("unmap", "test-ev-18", "--from", hours_ago[1], "--meter", "test-meter-19") == [
        f"no longer: test-ev-18 is fed by test-meter-19 from {hours_ago[1]} on"
    ]
    assert said("unmap", "test-ev-18", "--from", hours_ago[1], "--meter", "test-meter-19") == [
        "test-ev-18 was not fed by test-meter-19 then; nothing has changed."
    ]
    assert said("map", "test-ev-18", "test-meter-18", "--from", hours_ago[1]) == [f"{fed[0]} on"]


def test_a_recording_of_the_past_cannot_be_mapped_where_it_is(environment: dict[str, str]) -> None:
    sent = energyfleet(
        "replay", str(DATA / "charge-point-15min.csv"), "--map", "test-ev-05=test-charger-05", environment=environment
    )
    assert (sent.returncode, sent.stdout) == (1, "")
    assert "INVALID_ARGUMENT: effective_from: " in sent.stderr


def test_a_simulated_fleet_is_stored_and_asked_about(environment: dict[str, str]) -> None:
    sent = energyfleet("simulate", "--chargers", "5", "--hours", "3", "--seed", "11", environment=environment)
    assert sent.returncode == 0, sent.stderr
    assert "seed 11" in sent.stdout
    assert "0 conflicting, 0 rejected" in sent.stdout
    assert "Broken on purpose: 1 worn, 1 with a silent meter, 1 moved to another meter" in sent.stdout
    (worn,) = [line.split()[2] for line in sent.stderr.splitlines() if "# worn" in line]
    assert performance(environment, worn, "--hours", "3")["verdict"] == "VERDICT_LOW_EFFICIENCY"
    table = energyfleet("performance", worn, environment=environment).stdout
    assert "LOW_EFFICIENCY" in table
    assert "inspect" in table
    later = performance(environment, worn, "--hours", "1", "--ending", "2025-01-01T00:00:00Z")
    assert later["window"] == {"start": "2024-12-31T23:00:00Z", "end": "2025-01-01T00:00:00Z"}
    assert later["verdict"] == "VERDICT_NO_METER"


def test_the_same_simulation_again_is_counted_once(environment: dict[str, str]) -> None:
    ending = datetime.now(UTC).isoformat()
    same = ("simulate", "--chargers", "2", "--hours", "1", "--seed", "12", "--moved", "0", "--ending", ending)
    first, second = (energyfleet(*same, environment=environment) for _ in range(2))
    assert (first.returncode, second.returncode) == (0, 0), second.stderr
    assert ": 0 stored" in second.stdout


def test_unknown_and_malformed_devices_are_one_line_and_exit_code_1(environment: dict[str, str]) -> None:
    unknown = energyfleet("performance", "nobody", environment=environment)
    assert unknown.returncode == 1
    assert "NOT_FOUND: vehicle nobody is unknown" in unknown.stderr
    assert unknown.stderr.count("\n") == 1
    assert "neither a vehicle nor a meter" in energyfleet("status", "nobody", environment=environment).stderr
    malformed = energyfleet("status", "nobody ", environment=environment)
    assert malformed.returncode == 1
    assert "INVALID_ARGUMENT: vehicle_id: " in malformed.stderr


def test_health_tells_of_servers_and_services(environment: dict[str, str]) -> None:
    address = environment["ENERGYFLEET_ANALYTICS_ADDRESS"]
    for service in ("", "energyfleet.v1.AnalyticsService"):
        assert energyfleet("health", address, "--service", service, environment=environment).returncode == 0
    unknown = energyfleet("health", address, "--service", "another", environment=environment)
    assert (unknown.returncode, "NOT_FOUND" in unknown.stderr) == (1, True)
