"""How answers about performance look, in a wide and in a narrow terminal."""

import csv
from math import inf
from typing import Any

import pytest
from energyfleet.v1 import analytics_service_pb2 as wire

from fleetcli.commands.ask import _show_performance
from fleetcli.commands.console import out
from fleetcli.commands.fleet import _print_csv, _show
from shared.timestamps import US_PER_HOUR, proto_from_us

HOURS_US = [number * US_PER_HOUR for number in range(30)]


def a_window(start: int, end: int) -> wire.TimeWindow:
    return wire.TimeWindow(start=proto_from_us(HOURS_US[start]), end=proto_from_us(HOURS_US[end]))


def a_comparison(**changes: Any) -> wire.Comparison:
    values: dict[str, Any] = {
        "kwh_delivered_dc": 13.32,
        "kwh_consumed_ac": 14.8,
        "efficiency_ratio": 0.9,
        "kwh_lost": 1.48,
        "mean_power_kw": 7.4,
        "low_efficiency_below": 0.85,
        "efficiency_ratio_at_least": 0.9,
        "efficiency_ratio_at_most": 0.9,
    }
    return wire.Comparison(**(values | changes))


FINDINGS = [
    wire.Finding(kind=wire.FINDING_KIND_STANDBY, kwh=0.66, text="0.660 kWh were drawn at standby."),
    wire.Finding(
        kind=wire.FINDING_KIND_VEHICLE_SILENT, since=proto_from_us(HOURS_US[20]), text="It fell [silent].", kwh=1
    ),
]


def an_answer(comparison: wire.Comparison | None, **changes: Any) -> wire.GetVehiclePerformanceResponse:
    return wire.GetVehiclePerformanceResponse(
        vehicle_id="ev-1",
        window=a_window(0, 24),
        kwh_delivered_dc=20.0,
        kwh_consumed_ac=15.46,
        efficiency_ratio=1.2937,
        coverage=0.981,
        verdict=wire.VERDICT_OK,
        comparison=comparison,
        findings=FINDINGS,
        **changes,
    )


def a_row(vehicle_id: str, comparison: wire.Comparison | None) -> wire.VehiclePerformance:
    return wire.VehiclePerformance(
        vehicle_id=vehicle_id,
        kwh_delivered_dc=20.0,
        kwh_consumed_ac=15.46,
        efficiency_ratio=1.2937,
        kwh_lost=-4.54,
        coverage=0.981,
        verdict=wire.VERDICT_OK,
        comparison=comparison,
        kwh_consumed_ac_idle=0.66,
        findings=FINDINGS,
    )


def shown(answer: wire.GetVehiclePerformanceResponse) -> list[tuple[str, str]]:
    """The names and the values of a table; what goes on in the next line has no name."""
    with out.capture() as captured:
        _show_performance(answer)
    rows = (line.split("│") for line in captured.get().splitlines() if line.startswith("│"))
    return [(name.strip(), value.strip()) for _, name, value, *_ in rows]


def test_what_the_verdict_goes_by_is_told_from_the_totals() -> None:
    answer = an_answer(a_comparison(), kwh_consumed_ac_idle=0.66, kwh_delivered_dc_unmapped=6.68)
    answer.comparison.spans.extend([a_window(18, 20), a_window(22, 23)])
    rows = shown(answer)
    assert [row for row in rows if row[0] not in ("window", "because", "battery, on average", "readings")] == [
        ("verdict", "OK"),
        ("compared", "13.3200 kWh delivered of 14.8000 kWh drawn"),
        ("efficiency", "0.9000"),
        ("limit", "0.85 at 7.4 kW on average"),
        ("lost", "1.4800 kWh"),
        ("share compared", "98%"),
        ("stretches", "1970-01-01 18:00:00 UTC to 1970-01-01 20:00:00 UTC"),
        ("", "1970-01-01 22:00:00 UTC to 1970-01-01 23:00:00 UTC"),
        ("finding", "STANDBY: 0.660 kWh were drawn at standby."),
        ("finding", "VEHICLE_SILENT: It fell [silent]. Since 1970-01-01 20:00:00 UTC."),
        ("delivered (DC), in all", "20.0000 kWh"),
        ("while unmapped (DC)", "6.6800 kWh"),
        ("drawn (AC), in all", "15.4600 kWh"),
        ("at standby (AC)", "0.6600 kWh"),
        ("DC / AC, in all", "1.2937"),
    ]


def test_of_many_stretches_the_last_are_shown() -> None:
    answer = an_answer(a_comparison())
    answer.comparison.spans.extend(a_window(2 * number, 2 * number + 1) for number in range(7))
    rows = shown(answer)
    at = rows.index(("stretches", "2 earlier"))
    assert [value[11:16] for name, value in rows[at + 1 :] if name == ""] == [
        "04:00",
        "06:00",
        "08:00",
        "10:00",
        "12:00",
    ]


@pytest.mark.parametrize(
    ("least", "most", "efficiency"),
    [(0.68666, 2.06, "0.9000; it may be 0.6867 to 2.0600"), (0.5, inf, "0.9000; it may be at least 0.5000")],
)
def test_an_open_ratio_is_shown_with_its_bounds(least: float, most: float, efficiency: str) -> None:
    answer = an_answer(a_comparison(efficiency_ratio_at_least=least, efficiency_ratio_at_most=most))
    assert ("efficiency", efficiency) in shown(answer)


def test_where_nothing_is_compared_it_is_said() -> None:
    rows = dict(shown(an_answer(None)))
    assert rows["compared"] == "nothing"
    assert not {"efficiency", "limit", "lost", "while unmapped (DC)", "at standby (AC)"} & rows.keys()


def test_what_is_normal_for_the_vehicle_is_shown_beside_its_ratio() -> None:
    answer = an_answer(a_comparison(), baseline_ratio=0.94, ratio_change=-0.04)
    assert ("normal for it", "0.9400 on the 28 days before; -0.0400") in shown(answer)
    answer = an_answer(None, baseline_ratio=0.94)
    assert ("normal for it", "0.9400 on the 28 days before") in shown(answer)
    answer = an_answer(None, thresholds=wire.PerformanceThresholds(baseline_min_kwh=20, ratio_drop_min=0.03))
    assert ("normal for it", "unknown: less than 20 kWh in charges of the 28 days before") in shown(answer)


def test_a_finding_of_a_newer_service_is_shown_by_its_number() -> None:
    answer = an_answer(None)
    answer.findings.add(kind=99, text="Something new.")
    assert ("finding", "99: Something new.") in shown(answer)


def a_fleet() -> wire.ListVehiclePerformanceResponse:
    totals = wire.FleetTotals(vehicles=2, kwh_consumed_ac_idle=0.66, kwh_delivered_dc_unmapped=25.0)
    rows = [a_row("ev-1", a_comparison()), a_row("ev-2", None)]
    rows[0].baseline_ratio, rows[0].ratio_change = 0.94, -0.04
    return wire.ListVehiclePerformanceResponse(window=a_window(0, 24), vehicles=rows, matched=2, totals=totals)


@pytest.mark.parametrize(
    ("width", "names"),
    [
        (120, ["vehicle", "DC kWh", "AC kWh", "compared", "lost kWh", "ratio", "change", "verdict", "by the hour"]),
        (68, ["vehicle", "lost kWh", "ratio", "change", "verdict", "by the hour"]),
        (34, ["vehicle", "ratio", "verdict"]),
    ],
)
def test_ratio_and_loss_of_the_fleets_table_are_those_of_the_comparison(
    width: int, names: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(out, "width", width)
    with out.capture() as captured:
        _show(a_fleet(), [wire.GetPerformanceSeriesResponse()] * 2)
    printed = captured.get()
    lines = printed.splitlines()
    head = next(line for line in lines if "vehicle" in line)
    assert [name.strip() for name in head.strip("┃ ").split("┃")] == names
    rows = [[cell.strip() for cell in line.split("│")[1:-1]] for line in lines if line.startswith("│")]
    values = {"vehicle": "ev-1", "DC kWh": "20.000", "AC kWh": "15.460", "compared": "98%", "lost kWh": "1.480"}
    values |= {"ratio": "0.9000", "change": "-0.0400", "verdict": "OK", "by the hour": ""}
    assert rows[0] == [values[name] for name in names]
    assert [cell for name, cell in zip(names, rows[1], strict=True) if name in ("lost kWh", "ratio")] == (
        ["-"] * len({"lost kWh", "ratio"} & set(names))
    )
    said = " ".join(printed.split())
    assert "Meters drew 0.7 kWh at standby. 25.0 kWh were charged while no meter was mapped." in said


def test_csv_has_the_comparison_and_the_kinds_of_findings(capsys: pytest.CaptureFixture[str]) -> None:
    _print_csv(a_fleet())
    one, other = csv.DictReader(capsys.readouterr().out.splitlines())
    assert (one["compared_kwh_delivered_dc"], one["kwh_delivered_dc"]) == ("13.32", "20.0")
    assert (one["compared_efficiency_ratio"], one["efficiency_ratio"]) == ("0.9", "1.2937")
    assert (one["compared_mean_power_kw"], one["compared_low_efficiency_below"]) == ("7.4", "0.85")
    assert (one["kwh_consumed_ac_idle"], one["kwh_delivered_dc_unmapped"]) == ("0.66", "")
    assert one["findings"] == "STANDBY VEHICLE_SILENT"
    assert {name: value for name, value in other.items() if name.startswith("compared_")} == {
        f"compared_{field.name}": "" for field in wire.Comparison.DESCRIPTOR.fields if field.name != "spans"
    }
